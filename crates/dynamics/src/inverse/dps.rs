//! Diffusion posterior sampling: each ancestral step is followed by one down the gradient, in x_t, of the distance of what
//! x0-hat would have measured from y: x_s - scale (alpha^2 + sigma^2) grad |y - A x0-hat(x_t)|. [Chung23, Alg. 1]
//!
//! The gradient goes through the denoiser; alpha^2 + sigma^2 makes the step that of the paper, where it is 1, under any
//! process. It suits every operator, and is a biased draw from the posterior.

use super::{Measured, Method};
use crate::Denoiser;
use crate::denoiser::each;
use crate::sampler::{Ddpm, Step, Stepper};
use candle_core::{Result, Tensor, bail};
use langevin_ops::grad;
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::{scale, sum_per_sample};
use serde::{Deserialize, Serialize};

/// Ancestral steps, each with a step towards the measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dps {
    /// Length of a step towards the measurement, in units of the data: a norm over the whole sample.
    pub scale: f64,
}

impl Default for Dps {
    fn default() -> Self {
        Self { scale: 1. }
    }
}

impl Named for Dps {
    const NAME: &'static str = "dps";
    const ABOUT: &'static str = "steps down the gradient of |y - A x0-hat(x_t)| through the denoiser [Chung23]";
}

/// Keeps the square root away from 0, where it has no derivative.
const TINY: f64 = 1e-12;

impl Method for Dps {
    fn check(&self) -> Result<()> {
        if !(self.scale.is_finite() && self.scale > 0.) {
            bail!("dps: scale is {}; it must be a number above 0, 1 is usual for images", self.scale);
        }
        Ok(())
    }

    fn start<'a>(&'a self, measured: &'a Measured, _times: &[f64]) -> Result<Box<dyn Stepper + 'a>> {
        Ok(Box::new(Pulled { scale: self.scale, measured, ancestral: Ddpm::default() }))
    }
}

/// Ancestral sampling with a step towards what was measured after each.
struct Pulled<'a> {
    scale: f64,
    measured: &'a Measured,
    ancestral: Ddpm,
}

impl Stepper for Pulled<'_> {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor> {
        let mut x0 = None;
        let (_, gradient) = grad::gradient(x, |x| {
            let estimate = m.x0(x, step.t)?;
            x0 = Some(estimate.detach());
            sum_per_sample(&self.measured.residual(1., &estimate)?.sqr()?)?.affine(1., TINY)?.sqrt()
        })?;
        let Some(x0) = x0 else { bail!("dps: the denoiser gave no estimate") };
        let length = each(m.process(), step.t, |m| self.scale * (m.alpha * m.alpha + m.sigma * m.sigma));
        self.ancestral.step_by(m.process(), x, &x0, step, z)? - scale(&gradient, &length)?
    }
}
