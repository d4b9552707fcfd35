//! DDIM: x_s = alpha_s x0 + sqrt(sigma_s^2 - v) eps + sqrt(v) z with v = eta^2 times the variance of q(x_s | x_t, x0).
//! [SongDDIM, eq. 12 and 16]

use super::parts::transfer::{Interval, of, sum};
use super::{Sampler, Step, Stepper, not_negative};
use crate::Denoiser;
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// One evaluation a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ddim {
    /// Fresh noise: 0 none (the ODE), 1 as much as DDPM.
    pub eta: f64,
    /// Whether eps is that of the clipped x0, where the model clips; diffusers' is that of the network itself.
    pub use_clipped_model_output: bool,
}

impl Default for Ddim {
    fn default() -> Self {
        Self { eta: 0., use_clipped_model_output: true }
    }
}

impl Named for Ddim {
    const NAME: &'static str = "ddim";
    const ABOUT: &'static str = "DDIM: from the ODE at eta = 0 to DDPM at eta = 1 [SongDDIM]";
}

impl Sampler for Ddim {
    fn check(&self) -> Result<()> {
        not_negative("eta", self.eta)?;
        if self.eta > 1. {
            bail!("eta is {}; it must be at most 1, which is DDPM", self.eta);
        }
        Ok(())
    }

    fn start(&self, _times: &[f64]) -> Box<dyn Stepper + '_> {
        Box::new(self)
    }

    fn order(&self) -> Option<u32> {
        (self.eta == 0.).then_some(1)
    }
}

impl Stepper for &Ddim {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor> {
        let (x0, unclipped) = m.x0_unclipped(x, step.t)?;
        if step.is_final() {
            return Ok(x0);
        }
        let ends = step.intervals(m.process())?;
        let v = |e: &Interval| self.eta.powi(2) * e.posterior();
        let of_eps = |e: &Interval| (e.s.sigma.powi(2) - v(e)).max(0.).sqrt();
        let of_x = of(&ends, |e| of_eps(e) / e.t.sigma);
        let in_eps = |e: &Interval| -of_eps(e) * e.t.alpha / e.t.sigma; // the factor of x0 in eps
        let mean = if self.use_clipped_model_output {
            sum(&[(of_x, x), (of(&ends, |e| e.s.alpha + in_eps(e)), &x0)])?
        } else {
            sum(&[(of_x, x), (of(&ends, |e| e.s.alpha), &x0), (of(&ends, in_eps), &unclipped)])?
        };
        if self.eta == 0. {
            return Ok(mean);
        }
        mean + sum(&[(of(&ends, |e| v(e).sqrt()), &z.normal_like(x)?)])
    }
}
