//! Reverse diffusion: the reverse SDE in the very discretisation of the forward chain x_t = r x_s + G z,
//! x_s = (2 - r) x + G^2 score + G z, with r = alpha_t/alpha_s and G^2 = sigma_t^2 - r^2 sigma_s^2. \[Song21, eq. 46\]

use super::parts::transfer::{Interval, of, sum};
use super::{Sampler, Step, Stepper};
use crate::Denoiser;
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// One evaluation a step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReverseDiffusion {}

impl Named for ReverseDiffusion {
    const NAME: &'static str = "reverse-diffusion";
    const ABOUT: &'static str = "reverse SDE, discretised as the forward chain is [Song21, App. E]";
}

impl Sampler for ReverseDiffusion {
    fn start(&self, _times: &[f64]) -> Box<dyn Stepper + '_> {
        Box::new(self)
    }
}

impl Stepper for &ReverseDiffusion {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor> {
        let x0 = m.x0(x, step.t)?;
        if step.is_final() {
            return Ok(x0);
        }
        let ends = step.intervals(m.process())?;
        let weights = of(&ends, weights);
        let column = |i: usize| of(&weights, |w| w[i]);
        sum(&[(column(0), x), (column(1), &x0), (column(2), &z.normal_like(x)?)])
    }
}

/// The numbers of x, x0 and z; score = (alpha x0 - x) / sigma^2.
fn weights(e: &Interval) -> [f64; 3] {
    if e.s.sigma == 0. {
        return [0., 1., 0.];
    }
    let g2 = e.variance() / e.t.sigma.powi(2);
    [2. - e.ratio() - g2, g2 * e.t.alpha, e.variance().sqrt()]
}
