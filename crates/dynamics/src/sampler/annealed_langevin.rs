//! Annealed Langevin dynamics: at each noise level some Langevin steps x + eps score + sqrt(2 eps) z with
//! eps = step sigma^2 / 2, and nothing between the levels but the scale of the data; at the end the denoised x0.
//! \[Song19, "NCSN", 1907.05600, Alg. 1; the last step by Jolicoeur-Martineau et al., 2009.05475\]

use super::parts::transfer::carried;
use super::{Sampler, Step, Stepper, above_zero};
use crate::Denoiser;
use crate::denoiser::each;
use crate::mcmc::langevin;
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// `steps_per_level` evaluations a level.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnnealedLangevin {
    /// Langevin steps at each time of the grid.
    pub steps_per_level: usize,
    /// alpha_i / sigma_i^2 of the paper: the step size as a part of the noise's variance (below 4 to be stable).
    pub step: f64,
}

impl Default for AnnealedLangevin {
    fn default() -> Self {
        Self { steps_per_level: 10, step: 0.15 }
    }
}

impl Named for AnnealedLangevin {
    const NAME: &'static str = "annealed-langevin";
    const ABOUT: &'static str = "Langevin dynamics at every noise level in turn, nothing else [Song19, Alg. 1]";
}

impl Sampler for AnnealedLangevin {
    fn check(&self) -> Result<()> {
        above_zero("steps_per_level", self.steps_per_level as f64)?;
        above_zero("step", self.step)?;
        if self.step >= 4. {
            bail!("step is {}; it must be below 4, where Langevin dynamics stops being stable", self.step);
        }
        Ok(())
    }

    fn start(&self, _times: &[f64]) -> Box<dyn Stepper + '_> {
        Box::new(self)
    }

    fn mcmc(&self) -> bool {
        true
    }
}

impl Stepper for &AnnealedLangevin {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor> {
        let eps = each(m.process(), step.t, |m| 0.5 * self.step * m.sigma.powi(2));
        let mut x = x.clone();
        for _ in 0..self.steps_per_level {
            x = langevin(&x, &m.score(&x, step.t)?, &eps, &z.normal_like(&x)?)?;
        }
        if step.is_final() {
            return m.x0(&x, step.t);
        }
        carried(&step.intervals(m.process())?, &x)
    }
}
