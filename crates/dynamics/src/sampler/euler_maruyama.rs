//! Euler-Maruyama on the reverse SDE dx = [f x - g^2 score] dt + g dw, in the process's own time. \[Song21, eq. 6\]
//!
//! f = alpha'/alpha is infinite at alpha = 0; the step from there is the exact one, alpha_s x0 + sigma_s z.

use super::parts::transfer::{Interval, of, sum};
use super::{Sampler, Step, Stepper};
use crate::{Denoiser, Marginal};
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::PerSample;
use serde::{Deserialize, Serialize};

/// One evaluation a step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EulerMaruyama {}

impl Named for EulerMaruyama {
    const NAME: &'static str = "euler-maruyama";
    const ABOUT: &'static str = "reverse SDE by Euler-Maruyama, in the time of the process [Song21]";
}

impl Sampler for EulerMaruyama {
    fn start(&self, _times: &[f64]) -> Box<dyn Stepper + '_> {
        Box::new(self)
    }
}

impl Stepper for &EulerMaruyama {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor> {
        let x0 = m.x0(x, step.t)?;
        if step.is_final() {
            return Ok(x0);
        }
        let ends = step.intervals(m.process())?;
        let weights: Vec<_> = ends.iter().enumerate().map(|(i, e)| weights(e, step.t.at(i) - step.s.at(i))).collect();
        let column = |i: usize| of(&weights, |w| w[i]);
        sum(&[(column(0), x), (column(1), &x0), (column(2), &z.normal_like(x)?)])
    }
}

/// The numbers of x, x0 and z in a step of length `dt` towards the data; score = (alpha x0 - x) / sigma^2.
fn weights(e: &Interval, dt: f64) -> [f64; 3] {
    let Marginal { alpha, sigma, .. } = e.t;
    if e.s.sigma == 0. {
        return [0., 1., 0.];
    }
    if alpha < 1e-12 * sigma {
        return [0., e.s.alpha, e.s.sigma];
    }
    let g2 = e.t.diffusion2();
    [1. - (e.t.drift() + g2 / sigma.powi(2)) * dt, g2 * alpha / sigma.powi(2) * dt, (g2 * dt).max(0.).sqrt()]
}
