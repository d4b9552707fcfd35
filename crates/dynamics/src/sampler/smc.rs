//! Sequential Monte Carlo down the noise levels: particles take a reverse step, are weighed against the noising step, are
//! drawn again in proportion to their weights where these are uneven, and are moved by a kernel. \[DelMoral06; Thornton25\]
//!
//! Any densities may follow each other so, compositions too. The step and its weights are those of [`Particles`].

use super::parts::report::{AtLevel, Report};
use super::{Needs, Sampler, Step, Stepper, above_zero};
use crate::Denoiser;
use crate::ladder::{Ladder, NoiseLevels, Particles, visit};
use crate::mcmc::{AnyKernel, Chains, Mala, StepSizes};
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
}

impl Default for Smc {
    fn default() -> Self {
        Self { resample: 0.5, kernel: Mala::default().into(), steps_per_level: 2 }
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
        self.kernel.check_by_score()?;
        if !self.kernel.get().exact() {
            bail!(
                "smc: the kernel {} has no test of acceptance, so it leaves no level as it is and the weights would not be \
                 those of what it draws; use mala or hmc",
                self.kernel.name()
            );
        }
        Ok(())
    }

    fn start(&self, _times: &[f64]) -> Box<dyn Stepper + '_> {
        Box::new(SmcRun { options: self, sizes: StepSizes::default(), particles: None, report: Report::default() })
    }

    fn needs(&self) -> Needs {
        Needs { energy: true, population: true, prior: true, ..Needs::default() }
    }

    fn reports(&self) -> bool {
        true
    }
}

struct SmcRun<'a> {
    options: &'a Smc,
    sizes: StepSizes,
    particles: Option<Particles>,
    report: Report,
}

impl Stepper for SmcRun<'_> {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor> {
        if m.noisy_energy().is_none() {
            bail!("smc: this model has a score but no energy to weigh particles by; use sampler.name=annealed-mcmc");
        }
        let levels = NoiseLevels::new(m, [step.t, step.s]);
        let now = match self.particles.take() {
            Some(now) => now,
            None => self.moved(m, Particles::start(&levels, x)?, step.t, z)?,
        };
        if step.is_final() {
            let last = self.moved(m, now.resampled(z)?, step.t, z)?;
            self.report.levels.pop(); // this level was told of when it was reached
            return m.x0(&last.at.x, step.t);
        }
        let (next, share) = now.advance(&levels, 0, self.options.resample, z)?;
        let next = self.moved(m, next, step.s, z)?;
        if let Some(level) = self.report.levels.last_mut() {
            level.visit.particles = Some(share);
        }
        let x = next.at.x.clone();
        self.particles = Some(next);
        Ok(x)
    }

    fn report(&self) -> Option<&Report> {
        Some(&self.report)
    }
}

impl SmcRun<'_> {
    /// After the steps of the kernel at `t`, which leave weights as they are.
    fn moved(&mut self, m: &dyn Denoiser, mut now: Particles, t: &[f64], z: &mut Noise) -> Result<Particles> {
        let (levels, kernel) = (NoiseLevels::new(m, [t]), self.options.kernel.get());
        let mut chains = Chains { at: now.at, length: levels.length(0), sizes: std::mem::take(&mut self.sizes) };
        let visit = visit(levels.density(0).as_ref(), kernel, &mut chains, self.options.steps_per_level, z)?;
        self.report.levels.push(AtLevel::new(m.process(), t, visit));
        (now.at, self.sizes) = (chains.at, chains.sizes);
        Ok(now)
    }
}
