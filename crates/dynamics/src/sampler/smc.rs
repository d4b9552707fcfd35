//! Sequential Monte Carlo down the noise levels: particles take the reverse step k(x_s | x_t), are weighed against the
//! noising step q, log w += E(x_t, t) - E(x_s, s) + log q(x_t | x_s) - log k(x_s | x_t), are drawn again in proportion to
//! their weights where these are uneven, and are moved by a kernel. \[DelMoral06; Thornton25\]
//!
//! Any densities may follow each other so, compositions too. With P times the precision of pure noise at the prior end, the
//! noise of q has variance beta / P, which leaves weights even there; the variance of k is that of the Gaussian reverse
//! step and of what x_t hides of x_0, by the mean square of the score.

use super::report::{AtLevel, Report};
use super::transfer::{Ends, lands};
use super::{Sampler, above_zero};
use crate::Denoiser;
use crate::likelihood::{log_sum_exp, systematic};
use crate::mcmc::{AnyKernel, Level, Mala, Score, View};
use candle_core::{DType, Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::{combine, dot_per_sample};
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

/// Where the particles are, and the logarithms of their weights.
#[derive(Clone, Debug)]
struct Particles {
    at: View,
    log_w: Vec<f64>,
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
        let share = next.effective(s)? / next.log_w.len() as f64;
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

    fn report(&self) -> Option<&Report> {
        Some(&self.report)
    }
}

impl Smc {
    /// After the steps of the kernel at `t`, which leave weights as they are.
    fn moved(&mut self, m: &dyn Denoiser, now: Particles, t: f64, z: &mut Noise) -> Result<Particles> {
        let level = (&Level { model: m, t: &[t] }, AtLevel::new(m.process(), &[t]));
        let at = self.report.steps_at(level, self.kernel.get_mut(), now.at, self.steps_per_level, z)?;
        Ok(Particles { at, log_w: now.log_w })
    }
}

impl Particles {
    /// `x` as draws of pure noise, weighed as particles of the model at `t`.
    fn from_prior(m: &dyn Denoiser, x: &Tensor, t: f64) -> Result<Self> {
        let at = Level { model: m, t: &[t] }.look(x)?;
        let variance = m.process().marginal(t).sigma.powi(2) / m.prior_precision();
        let prior = dot_per_sample(x, x)?.into_iter().map(|square| 0.5 * square / variance);
        let log_w = energy(&at)?.iter().zip(prior).map(|(energy, prior)| prior - energy).collect();
        Ok(Self { at, log_w })
    }

    /// The particles at `s`, with what the step from `t` adds to their weights.
    fn step(self, m: &dyn Denoiser, t: f64, s: f64, z: &mut Noise) -> Result<Self> {
        let Self { at, mut log_w } = self;
        let ends = Ends { t: m.process().marginal(t), s: m.process().marginal(s) };
        let precision = m.prior_precision();
        let (ratio, beta, noise) = (ends.ratio(), ends.variance() / precision, ends.t.sigma.powi(2) / precision);
        let d = (at.x.elem_count() / log_w.len().max(1)) as f64;
        let (mean, hidden) = if ends.starts_from_noise() {
            (at.x.affine(ratio * ends.keep().powi(2), 0.)?, 0.) // the score tells nothing of x0 here
        } else {
            let square = at.score.to_dtype(DType::F64)?.sqr()?.mean_all()?.to_scalar::<f64>()?;
            let hidden = (noise / ends.t.alpha.powi(2) * (1. - noise * square)).max(0.);
            (combine(&[1. / ratio], &at.x, &[beta / ratio], &at.score)?, hidden)
        };
        let variance = beta * ends.keep().powi(2) + (ends.s.alpha * beta / noise).powi(2) * hidden;
        let eps = z.normal_like(&at.x)?;
        let next = Level { model: m, t: &[s] }.look(&(mean + eps.affine(variance.sqrt(), 0.)?)?)?;
        let back = (&at.x - next.x.affine(ratio, 0.)?)?;
        let (there, back) = (dot_per_sample(&eps, &eps)?, dot_per_sample(&back, &back)?);
        let (before, after) = (energy(&at)?, energy(&next)?);
        for (n, log_w) in log_w.iter_mut().enumerate() {
            // log q - log k, each without its D/2 ln(2 pi)
            let kernels = 0.5 * (there[n] - back[n] / beta + d * (variance / beta).ln());
            *log_w += before[n] - after[n] + kernels;
            if log_w.is_nan() {
                *log_w = f64::NEG_INFINITY; // what is lost weighs nothing
            }
        }
        Ok(Self { at: next, log_w })
    }

    /// The effective number of particles, (sum w)^2 / sum w^2.
    fn effective(&self, t: f64) -> Result<f64> {
        let squares: Vec<f64> = self.log_w.iter().map(|w| 2. * w).collect();
        let effective = (2. * log_sum_exp(&self.log_w) - log_sum_exp(&squares)).exp();
        if !effective.is_finite() {
            bail!("smc: at t = {t} the energies of all particles are not finite; take more steps, sampler.steps");
        }
        Ok(effective)
    }

    /// As many particles, drawn in proportion to their weights, all of one weight: systematic resampling.
    fn drawn_again(self, z: &mut Noise) -> Result<Self> {
        let n = self.log_w.len();
        let u = z.uniform(n)?.first().copied().unwrap_or(0.);
        let rows = systematic(&self.log_w, log_sum_exp(&self.log_w), u);
        let index = Tensor::new(rows.as_slice(), self.at.x.device())?;
        let pick = |x: &Tensor| x.index_select(&index, 0);
        let energy = energy(&self.at)?;
        let energy = rows.iter().filter_map(|&row| energy.get(row as usize)).copied().collect();
        let at = View { x: pick(&self.at.x)?, score: pick(&self.at.score)?, energy: Some(energy) };
        Ok(Self { at, log_w: vec![0.; n] })
    }
}

fn energy(at: &View) -> Result<&[f64]> {
    match &at.energy {
        Some(energy) => Ok(energy),
        None => bail!("smc: this model has a score but no energy"),
    }
}

/// The one time of all samples.
fn one(t: &[f64]) -> Result<f64> {
    match t.split_first() {
        Some((first, rest)) if rest.iter().all(|t| t == first) => Ok(*first),
        _ => bail!("smc: samples at different times are no population; give one time"),
    }
}
