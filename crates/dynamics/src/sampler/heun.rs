//! Heun, 2nd order, on the probability-flow ODE: x_s = x + (s-t)/2 (d_t + d_s), Euler to s = 0. [Karras22, Alg. 1]

use super::Sampler;
use crate::denoiser::each;
use crate::{Denoiser, Process};
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::combine;
use serde::{Deserialize, Serialize};

/// Two evaluations a step, one for the last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Heun {}

impl Named for Heun {
    const NAME: &'static str = "heun";
    const ABOUT: &'static str = "probability-flow ODE, 2nd order, two evaluations a step [Karras22, Alg. 1]";
}

impl Sampler for Heun {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, t: &[f64], s: &[f64], _: &mut Noise) -> Result<Tensor> {
        let d = m.eps(x, t)?;
        let euler = along(m.process(), x, &d, t, s)?;
        if s.iter().all(|&s| s <= 0.) || t.iter().any(|&t| m.process().marginal(t).alpha == 0.) {
            return Ok(euler);
        }
        let d = ((d + m.eps(&euler, s)?)? * 0.5)?;
        along(m.process(), x, &d, t, s)
    }
}

/// x moved from `t` to `s` along a constant eps, exact in the variables x/alpha, sigma/alpha:
/// x_s = alpha_s (x - sigma_t eps)/alpha_t + sigma_s eps, with the x0 of pure noise where alpha_t = 0.
pub(super) fn along(process: &dyn Process, x: &Tensor, eps: &Tensor, t: &[f64], s: &[f64]) -> Result<Tensor> {
    let ratio: Vec<f64> =
        each(process, s, |m| m.alpha).iter().zip(each(process, t, |m| m.alpha)).map(|(s, t)| s / t).collect();
    let of_eps: Vec<f64> = each(process, s, |m| m.sigma)
        .iter()
        .zip(each(process, t, |m| m.sigma))
        .zip(&ratio)
        .map(|((s, t), r)| s - r * t)
        .collect();
    combine(&ratio, x, &of_eps, eps)
}
