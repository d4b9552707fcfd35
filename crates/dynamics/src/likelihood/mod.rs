//! log p_t(x), three ways: along the probability-flow ODE ([`Flow`]), by an energy that knows its normaliser
//! ([`Normaliser`]), and by annealed importance sampling along the noise levels ([`Annealing`]). Of the last, at all levels,
//! comes log Z(t) for an energy that does not know it ([`Constants`], [`Normalised`]).
//!
//! All three take the density at the prior end to be the Gaussian N(0, s^2 I) that samplers begin with, s = sigma there.
//! What they return is the density of x_t itself, in the units of x, with t mostly the least noisy time of the span; clean
//! data are put in as they are, without noise. Numbers are natural logarithms, in f64 on the host.

mod annealing;
mod flow;
mod normalised;
mod normaliser;

pub use annealing::{Annealing, LogZ, Population, RungReport};
pub use flow::{Divergence, FEW, Flow, FlowLikelihood, Probe};
pub use normalised::{ConstantAt, Constants, Normalised};
pub use normaliser::Normaliser;

use candle_core::{DType, Result, Tensor};
use langevin_ops::shape::{sum_per_sample, to_host};
use std::f64::consts::PI;

/// log N(x; 0, std^2 I) of each sample of `x` `[B, ...]`.
pub fn log_gaussian(x: &Tensor, std: f64) -> Result<Vec<f64>> {
    let d = (x.elem_count() / x.dim(0)?.max(1)) as f64;
    let squares = to_host(&sum_per_sample(&x.to_dtype(DType::F64)?.sqr()?)?)?;
    let of = |square: f64| -0.5 * (square / (std * std) + d * (2. * PI * std * std).ln());
    Ok(squares.into_iter().map(of).collect())
}

/// Mean and standard error of `v`; the error of fewer than two numbers is NaN.
pub fn mean_and_error(v: &[f64]) -> (f64, f64) {
    let n = v.len() as f64;
    let mean = v.iter().sum::<f64>() / n;
    let square: f64 = v.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (square / (n - 1.) / n).sqrt())
}

/// ln sum exp(v): minus infinity of nothing.
pub fn log_sum_exp(v: &[f64]) -> f64 {
    let top = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top.is_finite() { top + v.iter().map(|v| (v - top).exp()).sum::<f64>().ln() } else { top }
}
