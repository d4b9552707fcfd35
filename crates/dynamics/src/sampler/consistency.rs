//! Consistency sampling: x0 = f(x, t), then noise again, x_s = alpha_s x0 + sqrt(sigma_s^2 - sigma_min^2) z.
//! \[Song23, Alg. 1\]; sigma_min is what noise the end of the span leaves, as it is at alpha_s.
//!
//! It wants a consistency function: the mean of x0, which a denoiser gives, shrinks the data at every step. The laws of
//! samplers are tested with the exact consistency function, and it has no order: with that, any steps are as good.

use super::parts::transfer::{Interval, of, sum};
use super::{Needs, Sampler, Step, Stepper, not_negative};
use crate::Denoiser;
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// One evaluation a step, one noise a step but the last.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsistencySampler {
    /// Standard deviation of the noise that is added, 1 as it should be.
    pub s_noise: f64,
}

impl Default for ConsistencySampler {
    fn default() -> Self {
        Self { s_noise: 1. }
    }
}

impl Named for ConsistencySampler {
    const NAME: &'static str = "consistency";
    const ABOUT: &'static str =
        "one to a few jumps to the data with a consistency model, with fresh noise between [Song23]";
}

impl Sampler for ConsistencySampler {
    fn check(&self) -> Result<()> {
        not_negative("s_noise", self.s_noise)
    }

    fn start(&self, _times: &[f64]) -> Box<dyn Stepper + '_> {
        Box::new(self)
    }

    fn needs(&self) -> Needs {
        Needs { consistency: true, ..Needs::default() }
    }
}

impl Stepper for &ConsistencySampler {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor> {
        let x0 = m.x0(x, step.t)?;
        if step.is_final() {
            return Ok(x0);
        }
        let low = m.process().marginal(m.process().span().0);
        let left = |e: &Interval| (e.s.sigma.powi(2) - (e.s.alpha * low.sigma / low.alpha).powi(2)).max(0.).sqrt();
        let ends = step.intervals(m.process())?;
        let noise = z.normal_like(x)?;
        sum(&[(of(&ends, |e| e.s.alpha), &x0), (of(&ends, |e| self.s_noise * left(e)), &noise)])
    }
}
