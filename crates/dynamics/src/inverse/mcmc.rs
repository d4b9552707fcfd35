//! MCMC on the posterior energy E(x, t) + |alpha y - A x|^2 / (2 v), annealed down the noise levels: between two levels the
//! step of DDIM, at each some steps of a kernel. [Jalal21, with the levels of Song19]
//!
//! Right up to the error of the kernel, for what the chains can still cross at low noise; how much of the mass each of several
//! far modes gets is decided where they part.

use super::{Measured, Method, Posterior};
use crate::Denoiser;
use crate::mcmc::{AnyKernel, Langevin, Level, Score};
use crate::sampler::{At, Ddim, Sampler};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// A kernel at every level of the posterior.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mcmc {
    /// Its unit of length is the smallest deviation that the posterior can have at a level.
    pub kernel: AnyKernel,
    /// Steps of the kernel at each noise level. With too few the wide directions lag behind: they keep the law of a noisier
    /// level. HMC that adapts its step needs fewest.
    pub steps_per_level: usize,
}

impl Default for Mcmc {
    fn default() -> Self {
        Self { kernel: Langevin { step: 0.2 }.into(), steps_per_level: 10 }
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
        self.kernel.get().check()
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
        let (mut x, mut kernel) = (x.detach(), self.kernel.clone());
        kernel.get_mut().begin();
        for (i, pair) in times.windows(2).enumerate() {
            let (t, s) = ([pair[0]], [pair[1]]);
            let level = m.process().marginal(t[0]);
            // no direction is narrower than the noise of the level, and of what was measured
            let precision = level.sigma.powi(-2) + seen.operator().norm2() / posterior.variance(&level);
            let density = Level { model: &posterior, t: &t };
            let mut at = density.look(&x)?;
            for _ in 0..self.steps_per_level {
                at = kernel.get_mut().advance(&density, &at, &[precision.powf(-0.5)], z)?.0;
            }
            x = match s[0] > 0. {
                true => Ddim::default().step(m, &at.x, &t, &s, z)?.detach(),
                false => at.x.affine(1. / level.alpha, 0.)?, // with the noise of the last level, which is none to see
            };
            watch(At { step: i + 1, steps, t: s[0], x: &x })?;
        }
        Ok(x)
    }
}
