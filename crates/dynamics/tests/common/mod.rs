//! What the tests of samplers share: the mixture, a model that refuses t = 0, and distances between sets of points.

use candle_core::{Result, Tensor, bail};
use langevin_dynamics::{Denoiser, Mixture, Process};
use std::fmt;

/// Three separate modes of different weight and shape.
pub fn mixture() -> Mixture {
    let means = [vec![-1.8, 0.2], vec![1.4, 1.5], vec![0.9, -1.6]];
    let covariances = [vec![0.12, 0.05, 0.05, 0.1], vec![0.08, 0., 0., 0.04], vec![0.05, -0.02, -0.02, 0.1]];
    Mixture::full(&[0.5, 0.3, 0.2], &means, &covariances).unwrap()
}

/// A model that errors where none may be asked: at sigma = 0, or about points that are not finite.
pub struct Guard<'a>(pub &'a dyn Denoiser);

impl Denoiser for Guard<'_> {
    fn process(&self) -> &dyn Process {
        self.0.process()
    }

    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        let (low, high) = self.process().span();
        if let Some(t) = t.iter().find(|t| !(low * (1. - 1e-9)..=high * (1. + 1e-9)).contains(*t)) {
            bail!("asked at t = {t}, outside of the span {low} to {high}");
        }
        if !x.flatten_all()?.sum(0)?.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?.is_finite() {
            bail!("asked about points that are not finite at t = {t:?}");
        }
        self.0.x0(x, t)
    }
}

/// How far the points of each mode are from what they should be, at worst.
pub struct Found {
    /// Of the part of all points.
    pub occupancy: f64,
    /// Of the mean, in units of the data.
    pub mean: f64,
    /// Of an entry of the covariance, relative to its trace.
    pub covariance: f64,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "occupancy {:.4} mean {:.4} covariance {:.4}", self.occupancy, self.mean, self.covariance)
    }
}

/// `x` `[n * 2]` against the modes of `mixture`, each point counted to its nearest mean.
pub fn compare(x: &[f64], mixture: &Mixture) -> Found {
    let k = mixture.components();
    let mut sets: Vec<Vec<&[f64]>> = vec![vec![]; k];
    for p in x.chunks(2) {
        let far = |k: &usize| mixture.mean_of(*k).iter().zip(p).map(|(m, p)| (m - p).powi(2)).sum::<f64>();
        sets[(0..k).min_by(|a, b| far(a).total_cmp(&far(b))).unwrap()].push(p);
    }
    let (mut found, n) = (Found { occupancy: 0., mean: 0., covariance: 0. }, x.len() as f64 / 2.);
    for (k, set) in sets.iter().enumerate() {
        let count = set.len() as f64;
        found.occupancy = found.occupancy.max((count / n - mixture.weights()[k]).abs());
        let mean: Vec<f64> = (0..2).map(|i| set.iter().map(|p| p[i]).sum::<f64>() / count).collect();
        let truth = mixture.covariance_of(k);
        for i in 0..2 {
            found.mean = found.mean.max((mean[i] - mixture.mean_of(k)[i]).abs());
            for j in 0..2 {
                let c = set.iter().map(|p| (p[i] - mean[i]) * (p[j] - mean[j])).sum::<f64>() / count;
                found.covariance = found.covariance.max((c - truth[2 * i + j]).abs() / (truth[0] + truth[3]));
            }
        }
    }
    found
}

/// The mean over 8 directions of 2 E|X - Y| - E|X - X'| - E|Y - Y'| of the projections of points `[n * 2]`. [Szekely]
pub fn energy_distance(x: &[f64], y: &[f64]) -> f64 {
    let project = |x: &[f64], a: f64| x.chunks(2).map(|p| p[0] * a.cos() + p[1] * a.sin()).collect::<Vec<_>>();
    let each = (0..8).map(|i| f64::from(i) * std::f64::consts::PI / 8.);
    // it is twice the integral of the squared difference of the two distribution functions
    each.map(|a| 2. * cramer(project(x, a), project(y, a))).sum::<f64>() / 8.
}

fn cramer(x: Vec<f64>, y: Vec<f64>) -> f64 {
    let (n, m) = (x.len() as f64, y.len() as f64);
    let mut all: Vec<(f64, f64)> =
        x.into_iter().map(|v| (v, 1. / n)).chain(y.into_iter().map(|v| (v, -1. / m))).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut difference, mut total) = (0., 0.);
    for pair in all.windows(2) {
        difference += pair[0].1;
        total += difference * difference * (pair[1].0 - pair[0].0);
    }
    total
}

/// Steps on the Karras grid by which a sampler must have drawn the mixture.
pub fn steps_for(name: &str) -> usize {
    match name {
        "rk45" => 2,
        "euler" | "ddim" | "ddpm" | "pndm" => 60,
        "euler-maruyama" | "reverse-diffusion" | "pc" => 100,
        "annealed-langevin" => 60,
        _ => 30,
    }
}
