//! MCMC on the posterior energy E(x, t) + |alpha y - A x|^2 / (2 v), annealed down the noise levels: between two levels the
//! step of DDIM, at each some steps of a kernel. [Jalal21, with the levels of Song19]
//!
//! Right up to the error of the kernel, for what the chains can still cross at low noise; how much of the mass each of several
//! far modes gets is decided where they part.

use super::{Measured, Method, Posterior};
use crate::Denoiser;
use crate::density::Density;
use crate::ladder::NoiseLevel;
use crate::mcmc::{AnyKernel, Chains, Hmc, StepSizes};
use crate::sampler::{Ddim, Step, Stepper};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// A kernel at every level of the posterior.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mcmc {
    /// Its unit of length is the smallest deviation that the posterior can have at a level. Steps of that length lag behind
    /// where the posterior is wider, and keep the law of a noisier level: by a third of a deviation for ten of plain
    /// Langevin dynamics at each of 40 levels. Trajectories whose steps adapt to what is accepted do not.
    pub kernel: AnyKernel,
    /// Steps of the kernel at each noise level. Of the default each is 5 evaluations of an energy, and 10 of a model that has
    /// a score alone.
    pub steps_per_level: usize,
}

impl Default for Mcmc {
    fn default() -> Self {
        Self { kernel: Hmc { adapt: 60, ..Hmc::default() }.into(), steps_per_level: 2 }
    }
}

impl Named for Mcmc {
    const NAME: &'static str = "mcmc";
    const ABOUT: &'static str = "a kernel on the posterior energy, annealed down the noise levels [Jalal21]";
}

impl Method for Mcmc {
    fn check(&self) -> Result<()> {
        if self.steps_per_level == 0 {
            bail!("mcmc: steps_per_level is 0; it must be at least 1");
        }
        self.kernel.check_by_score()
    }

    fn start<'a>(&'a self, measured: &'a Measured, _times: &[f64]) -> Result<Box<dyn Stepper + 'a>> {
        Ok(Box::new(Annealed { method: self, measured, sizes: StepSizes::default() }))
    }
}

/// The chains of one run.
struct Annealed<'a> {
    method: &'a Mcmc,
    measured: &'a Measured,
    sizes: StepSizes,
}

impl Stepper for Annealed<'_> {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor> {
        let posterior = Posterior::new(m, self.measured);
        let level = posterior.marginal(step.t)?;
        // no direction is narrower than the noise of the level, and of what was measured
        let precision = level.sigma.powi(-2) + self.measured.operator().norm2() / posterior.variance(&level);
        let density = NoiseLevel { model: &posterior, t: step.t };
        let (sizes, length) = (std::mem::take(&mut self.sizes), vec![precision.powf(-0.5)]);
        let mut chains = Chains { at: density.evaluate(x)?, length, sizes };
        for _ in 0..self.method.steps_per_level {
            self.method.kernel.get().step(&density, &mut chains, z)?;
        }
        let x = chains.at.x;
        self.sizes = chains.sizes;
        match step.is_final() {
            true => x.affine(1. / level.alpha, 0.), // with the noise of the last level, which is none to see
            false => (&Ddim::default()).step(m, &x, step, z),
        }
    }
}
