//! Sequential Monte Carlo down the noise levels: particles take a reverse step, are weighed against the noising step, are
//! drawn again in proportion to their weights where these are uneven, and are moved by a kernel. \[DelMoral06; Thornton25\]
//!
//! Any densities may follow each other so, compositions too. The step and its weights are those of `particles.rs`.

use super::report::{AtLevel, Report};
use super::transfer::lands;
use super::{Sampler, above_zero};
use crate::Denoiser;
use crate::mcmc::{AnyKernel, Level, Mala};
use crate::particles::Particles;
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// One evaluation of energy and score a step, and those of the kernel. The samples of a run are one population.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Smc {
    /// Particles are drawn again where their effective number falls below this part of them.
    pub resample: f64,
    /// What moves the particles at each level; its unit of length is sigma.
    pub kernel: AnyKernel,
    /// Its steps at each level.
    pub steps_per_level: usize,
    /// What happened in the last run.
    #[serde(skip)]
    pub report: Report,
    #[serde(skip)]
    particles: Option<Particles>,
}

impl Default for Smc {
    fn default() -> Self {
        let (kernel, report) = (Mala::default().into(), Report::default());
        Self { resample: 0.5, kernel, steps_per_level: 2, report, particles: None }
    }
}

impl Named for Smc {
    const NAME: &'static str = "smc";
    const ABOUT: &'static str =
        "weighed particles, drawn again where weights are uneven; for energies [DelMoral06; Thornton25]";
}

impl Sampler for Smc {
    fn check(&self) -> Result<()> {
        if !(0. ..=1.).contains(&self.resample) {
            bail!("resample is {}; it must be from 0 to 1, 0.5 is usual", self.resample);
        }
        above_zero("steps_per_level", self.steps_per_level as f64)?;
        if !self.kernel.get().corrected() {
            bail!(
                "smc: the kernel {} has no test of acceptance, so it leaves no level as it is and the weights would not be \
                 those of what it draws; use mala or hmc",
                self.kernel.name()
            );
        }
        self.kernel.get().check()
    }

    fn begin(&mut self, _times: &[f64]) {
        self.kernel.get_mut().begin();
        (self.report, self.particles) = (Report::default(), None);
    }

    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, t: &[f64], s: &[f64], z: &mut Noise) -> Result<Tensor> {
        let (t, s) = (one(t)?, one(s)?);
        if m.noisy_energy().is_none() {
            bail!("smc: this model has a score but no energy to weigh particles by; use sampler.name=annealed-mcmc");
        }
        let now = match self.particles.take() {
            Some(now) => now,
            None => self.moved(m, Particles::from_prior(m, x, t)?, t, z)?,
        };
        if lands(&[s]) {
            let last = self.moved(m, now.drawn_again(z)?, t, z)?;
            self.report.levels.pop(); // this level was told of when it was reached
            return m.x0(&last.at.x, &[t]);
        }
        let mut next = now.step(m, t, s, z)?;
        let share = next.effective(s)?;
        if share < self.resample {
            next = next.drawn_again(z)?;
        }
        let next = self.moved(m, next, s, z)?;
        if let Some(level) = self.report.levels.last_mut() {
            level.particles = Some(share);
        }
        let x = next.at.x.clone();
        self.particles = Some(next);
        Ok(x)
    }

    fn wants_energy(&self) -> bool {
        true
    }

    fn population(&self) -> bool {
        true
    }

    fn wants_prior(&self) -> bool {
        true
    }

    fn report(&self) -> Option<&Report> {
        Some(&self.report)
    }
}

impl Smc {
    /// After the steps of the kernel at `t`, which leave weights as they are.
    fn moved(&mut self, m: &dyn Denoiser, mut now: Particles, t: f64, z: &mut Noise) -> Result<Particles> {
        let level = (&Level { model: m, t: &[t] }, AtLevel::new(m.process(), &[t]));
        now.at = self.report.steps_at(level, self.kernel.get_mut(), now.at, self.steps_per_level, z)?;
        Ok(now)
    }
}

/// The one time of all samples.
fn one(t: &[f64]) -> Result<f64> {
    match t.split_first() {
        Some((first, rest)) if rest.iter().all(|t| t == first) => Ok(*first),
        _ => bail!("smc: samples at different times are no population; give one time"),
    }
}
