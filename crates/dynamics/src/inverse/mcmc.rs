//! MCMC on the posterior energy E(x, t) + |alpha y - A x|^2 / (2 v), annealed down the noise levels: between two levels the
//! step of DDIM, at each some steps of Langevin dynamics. [Jalal21, with the levels of Song19]
//!
//! Right up to the error of the steps: Langevin dynamics has the stiffest directions wider by half of `step`.

use super::{Measured, Method, Posterior};
use crate::Denoiser;
use crate::mcmc::{Chain, Kernel, Langevin, Level};
use crate::sampler::{At, Ddim, Sampler};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Langevin dynamics at every level of the posterior.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mcmc {
    /// MCMC steps at each noise level.
    pub steps_per_level: usize,
    /// The step size in units of the smallest variance that the posterior can have at the level; below 2 to be stable.
    pub step: f64,
}

impl Default for Mcmc {
    fn default() -> Self {
        Self { steps_per_level: 10, step: 0.2 }
    }
}

impl Named for Mcmc {
    const NAME: &'static str = "mcmc";
    const ABOUT: &'static str = "Langevin dynamics on the posterior energy, annealed down the noise levels [Jalal21]";
}

impl Method for Mcmc {
    fn check(&self) -> Result<()> {
        if self.steps_per_level == 0 {
            bail!("mcmc: steps_per_level is 0; it must be at least 1");
        }
        if !(self.step > 0. && self.step < 2.) {
            bail!(
                "mcmc: step is {}; it must be above 0 and below 2, where Langevin dynamics stops being stable",
                self.step
            );
        }
        Ok(())
    }

    fn draw(
        &self,
        m: &dyn Denoiser,
        seen: &Measured,
        times: &[f64],
        x: &Tensor,
        z: &mut Noise,
        watch: &mut dyn FnMut(At) -> Result<()>,
    ) -> Result<Tensor> {
        self.check()?;
        let (posterior, steps) = (Posterior::new(m, seen), times.len().saturating_sub(1));
        let mut chain = Chain { x: x.detach() };
        for (i, pair) in times.windows(2).enumerate() {
            let (t, s) = ([pair[0]], [pair[1]]);
            let level = m.process().marginal(t[0]);
            // no direction is narrower than the noise of the level, and of what was measured
            let precision = level.sigma.powi(-2) + seen.operator().norm2() / posterior.variance(&level);
            let mut kernel = Langevin { step: self.step / precision };
            kernel.run(&Level { model: &posterior, t: &t }, &mut chain, self.steps_per_level, z)?;
            chain.x = match s[0] > 0. {
                true => Ddim::default().step(m, &chain.x, &t, &s, z)?.detach(),
                false => chain.x.affine(1. / level.alpha, 0.)?, // with the noise of the last level, which is none to see
            };
            watch(At { step: i + 1, steps, t: s[0], x: &chain.x })?;
        }
        Ok(chain.x)
    }
}
