//! Ancestral sampling, the exact posterior q(x_s | x_t, x0) with the model's x0:
//! x_s = r (sigma_s/sigma_t)^2 x + alpha_s (beta/sigma_t^2) x0 + sqrt(var) z, with r = alpha_t/alpha_s and
//! beta = sigma_t^2 - r^2 sigma_s^2 the variance of q(x_t | x_s). \[Ho20, eq. 6, 7 and section 3.2\]
//!
//! For a variance exploding process it is the "ancestral Euler" of k-diffusion.

use super::parts::transfer::{Interval, of, sum};
use super::{Sampler, Step, Stepper};
use crate::{Denoiser, Process};
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// The variance of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variance {
    /// beta (sigma_s/sigma_t)^2, that of the posterior: right for one data point.
    #[default]
    FixedSmall,
    /// beta, that of the forward step: right for data of unit variance.
    FixedLarge,
}

/// One evaluation a step, one noise a step but the last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ddpm {
    /// The variance of a step.
    pub variance: Variance,
    /// Whether a last step of fixed-large variance that begins above the first entry of a table is noisy too, as
    /// diffusers has it.
    pub noisy_end: bool,
}

impl Named for Ddpm {
    const NAME: &'static str = "ddpm";
    const ABOUT: &'static str = "ancestral sampling with the exact posterior q(x_s | x_t, x0) [Ho20]";
}

impl Sampler for Ddpm {
    fn start(&self, _times: &[f64]) -> Box<dyn Stepper + '_> {
        Box::new(self)
    }
}

impl Stepper for &Ddpm {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor> {
        self.step_by(m.process(), x, &m.x0(x, step.t)?, step, z)
    }
}

impl Ddpm {
    /// The step for the estimate `x0`.
    pub(crate) fn step_by(
        &self,
        process: &dyn Process,
        x: &Tensor,
        x0: &Tensor,
        step: Step,
        z: &mut Noise,
    ) -> Result<Tensor> {
        let noisy_end = self.noisy_end && self.variance == Variance::FixedLarge && step.t.iter().all(|&t| t > 1.);
        if step.is_final() && !noisy_end {
            return Ok(x0.clone());
        }
        let ends = step.intervals(process)?;
        let deviation = |e: &Interval| match self.variance {
            _ if e.s.sigma == 0. && !noisy_end => 0.,
            Variance::FixedSmall => e.posterior().sqrt(),
            Variance::FixedLarge => e.variance().sqrt(),
        };
        sum(&[
            (of(&ends, |e| e.ratio() * e.keep().powi(2)), x),
            (of(&ends, |e| e.s.alpha * e.variance() / e.t.sigma.powi(2)), x0),
            (of(&ends, deviation), &z.normal_like(x)?),
        ])
    }

    /// The other way, from `s` up to a noisier `t`: q(x_t | x_s) = N(r x_s, sigma_t^2 - r^2 sigma_s^2).
    pub(crate) fn back(&self, process: &dyn Process, x: &Tensor, s: f64, t: f64, z: &mut Noise) -> Result<Tensor> {
        let ends = Step { t: &[t], s: &[s] }.intervals(process)?;
        sum(&[(of(&ends, Interval::ratio), x), (of(&ends, |e| e.variance().sqrt()), &z.normal_like(x)?)])
    }
}
