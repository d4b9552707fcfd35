//! A mixture given a measurement of it: a mixture again, each component by Kalman's update, a number of y at a time:
//! v = a S a^T + s^2, k = S a^T / v, mu + k (y - a mu), S - k a S, and the weight times N(y; a mu, v). \[Kalman 1960\]

use super::Measured;
use crate::Mixture;
use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_ops::shape::to_host;
use std::f64::consts::PI;

/// p(x_0 | y), exactly, for data of `mixture`. `seen` is one measurement, y `[1, ...]` of a sample of `shape`, of D
/// numbers in all, without the batch: `[D]`, or `[C, H, W]` for an operator on images.
pub fn posterior(mixture: &Mixture, seen: &Measured, shape: &[usize]) -> Result<Mixture> {
    let d = mixture.dim();
    if shape.iter().product::<usize>() != d || seen.y().dim(0)? != 1 {
        bail!("a mixture of {d} dimensions given y {:?} of samples {shape:?}; give one y", seen.y().dims());
    }
    let mut dims = vec![d];
    dims.extend_from_slice(shape);
    let columns = seen.operator().apply(&Tensor::eye(d, DType::F64, &Device::Cpu)?.reshape(dims)?)?; // [D, ...]
    let (columns, y) = (to_host(&columns)?, to_host(seen.y())?);
    let row = |i: usize| -> Vec<f64> { columns.iter().skip(i).step_by(y.len()).copied().collect() };
    let (mut logs, mut means, mut covariances) = (vec![], vec![], vec![]);
    for k in 0..mixture.components() {
        let (mut mean, mut s, mut log) =
            (mixture.mean_of(k).to_vec(), mixture.covariance_of(k), mixture.weights()[k].ln());
        for (i, y) in y.iter().enumerate() {
            let a = row(i);
            if a.iter().all(|a| *a == 0.) {
                continue; // hidden
            }
            let dot = |u: &[f64], v: &[f64]| u.iter().zip(v).map(|(u, v)| u * v).sum::<f64>();
            let sa: Vec<f64> = s.chunks(d).map(|row| dot(row, &a)).collect();
            let v = dot(&sa, &a) + seen.noise().powi(2);
            if v <= 0. {
                bail!("a measurement without noise of what does not vary has no posterior density; give some noise");
            }
            let off = y - dot(&a, &mean);
            log -= 0.5 * (off * off / v + (2. * PI * v).ln());
            mean.iter_mut().zip(&sa).for_each(|(m, sa)| *m += sa * off / v);
            s.iter_mut().enumerate().for_each(|(rc, s)| *s -= sa[rc / d] * sa[rc % d] / v);
        }
        logs.push(log);
        means.push(mean);
        covariances.push(s);
    }
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logs.iter().map(|log| (log - top).exp()).collect();
    Mixture::full(&weights, &means, &covariances)
}
