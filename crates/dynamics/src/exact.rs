//! A Gaussian mixture under any process: p_t, its score and E[x_0 | x_t] in closed form, the oracle of the tests.
//!
//! p_0 = sum_k w_k N(mu_k, S_k) gives p_t = sum_k w_k N(alpha mu_k, alpha^2 S_k + sigma^2 I). Each S_k is kept by its
//! eigenvalues and axes, so that any noise level costs one rotation a point.

use crate::denoiser::Frame;
use crate::noisy::{Jet, NoisyEnergy};
use crate::{Denoiser, Marginal, Process};
use candle_core::{Device, Result, Tensor, bail};
use langevin_ops::linalg::{Eigen, eigen, largest};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{PerSample, to_host};
use rayon::prelude::*;
use std::f64::consts::PI;

/// sum_k w_k N(mu_k, S_k) in D dimensions, in `f64`.
#[derive(Clone, Debug)]
pub struct Mixture {
    weights: Vec<f64>,
    parts: Vec<Part>,
}

/// N(mean, S) with S = sum_i variances_i axes_i axes_i^T.
#[derive(Clone, Debug)]
struct Part {
    mean: Vec<f64>,
    variances: Vec<f64>,
    axes: Option<Vec<f64>>, // [D, D], one axis a row; None: the coordinate axes
}

/// What is known of one point x of p_t.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// log p_t(x).
    pub log_p: f64,
    /// grad log p_t(x), `[D]`.
    pub score: Vec<f64>,
    /// sum_i d^2 log p_t(x) / dx_i^2.
    pub laplacian: f64,
    /// E[x_0 | x_t = x], `[D]`; the prior mean where alpha = 0.
    pub x0: Vec<f64>,
    /// Probability that x came from each component, `[K]`.
    pub responsibilities: Vec<f64>,
}

impl Mixture {
    /// Round components: `means` `[K][D]`, one variance (not standard deviation) each. Weights are normalised.
    pub fn isotropic(weights: &[f64], means: &[Vec<f64>], variances: &[f64]) -> Result<Self> {
        if let Some(bad) = variances.iter().find(|v| !v.is_finite() || **v < 0.) {
            bail!("mixture: a variance is {bad}; it must be finite and not negative");
        }
        check(weights, means, variances.len())?;
        let part =
            |(mean, &v): (&Vec<f64>, &f64)| Part { mean: mean.clone(), variances: vec![v; mean.len()], axes: None };
        Ok(Self { weights: normalised(weights), parts: means.iter().zip(variances).map(part).collect() })
    }

    /// Components with full covariances, each `[D * D]` in row-major order. Weights are normalised.
    pub fn full(weights: &[f64], means: &[Vec<f64>], covariances: &[Vec<f64>]) -> Result<Self> {
        check(weights, means, covariances.len())?;
        let parts = means.iter().zip(covariances).map(|(mean, covariance)| {
            let (variances, axes) = principal(covariance, mean.len())?;
            Ok(Part { mean: mean.clone(), variances, axes: Some(axes) })
        });
        Ok(Self { weights: normalised(weights), parts: parts.collect::<Result<_>>()? })
    }

    /// Number of components, K.
    pub fn components(&self) -> usize {
        self.parts.len()
    }

    /// Dimension of a point, D.
    pub fn dim(&self) -> usize {
        self.parts[0].mean.len()
    }

    /// Weights of the components, summing to 1.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Mean of component `k`, `[D]`.
    pub fn mean_of(&self, k: usize) -> &[f64] {
        &self.parts[k].mean
    }

    /// Covariance of component `k`, `[D * D]` in row-major order.
    pub fn covariance_of(&self, k: usize) -> Vec<f64> {
        let part = &self.parts[k];
        let d = self.dim();
        let axis = |i: usize, j: usize| part.axes.as_ref().map_or(f64::from(u8::from(i == j)), |axes| axes[i * d + j]);
        let entry = |r: usize, c: usize| (0..d).map(|i| part.variances[i] * axis(i, r) * axis(i, c)).sum();
        (0..d * d).map(|rc| entry(rc / d, rc % d)).collect()
    }

    /// Mean `[D]` and covariance `[D * D]` of the whole mixture.
    pub fn moments(&self) -> (Vec<f64>, Vec<f64>) {
        let d = self.dim();
        let mut mean = vec![0.; d];
        for (w, part) in self.weights.iter().zip(&self.parts) {
            mean.iter_mut().zip(&part.mean).for_each(|(m, p)| *m += w * p);
        }
        let mut covariance = vec![0.; d * d];
        for (k, w) in self.weights.iter().enumerate() {
            let (own, mu) = (self.covariance_of(k), self.mean_of(k));
            for (rc, c) in covariance.iter_mut().enumerate() {
                *c += w * (own[rc] + (mu[rc / d] - mean[rc / d]) * (mu[rc % d] - mean[rc % d]));
            }
        }
        (mean, covariance)
    }

    /// `n` exact draws of p_0, `[n, D]` f64 on the CPU; `noise` has `n` streams.
    pub fn sample(&self, n: usize, noise: &mut Noise) -> Result<Tensor> {
        let d = self.dim();
        let u = noise.uniform(n)?;
        let z = to_host(&noise.normal((n, d), candle_core::DType::F64, &Device::Cpu)?)?;
        let rows = u.iter().zip(z.chunks(d)).flat_map(|(&u, z)| {
            let mut below = 0.;
            let drawn = self.weights.iter().position(|w| {
                below += w;
                u < below
            });
            self.parts[drawn.unwrap_or(self.parts.len() - 1)].place(z)
        });
        Tensor::from_iter(rows, &Device::Cpu)?.reshape((n, d))
    }

    /// Everything about the point `x` `[D]` of p_t where the process has marginal `m`.
    pub fn at(&self, m: &Marginal, x: &[f64]) -> Point {
        let d = self.dim();
        let (alpha, noise) = (m.alpha, m.sigma * m.sigma);
        let ys: Vec<Vec<f64>> = self.parts.iter().map(|part| part.coordinates(alpha, x)).collect();
        let variance = |v: f64| alpha * alpha * v + noise; // of p_t along an axis
        let log_joint = |((w, part), y): ((&f64, &Part), &Vec<f64>)| {
            let terms = y.iter().zip(&part.variances).map(|(y, &v)| y * y / variance(v) + (2. * PI * variance(v)).ln());
            w.ln() - 0.5 * terms.sum::<f64>()
        };
        let logs: Vec<f64> = self.weights.iter().zip(&self.parts).zip(&ys).map(log_joint).collect();
        let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_p = top + logs.iter().map(|l| (l - top).exp()).sum::<f64>().ln();
        let responsibilities: Vec<f64> = logs.iter().map(|l| (l - log_p).exp()).collect();

        let (mut score, mut x0, mut laplacian) = (vec![0.; d], vec![0.; d], 0.);
        for ((r, part), y) in responsibilities.iter().zip(&self.parts).zip(&ys) {
            let of = |f: &dyn Fn(f64) -> f64| y.iter().zip(&part.variances).map(|(y, &v)| y * f(v)).collect::<Vec<_>>();
            let gradient = part.rotate(&of(&|v| -1. / variance(v)));
            let shift = part.rotate(&of(&|v| alpha * v / variance(v)));
            let curvature: f64 = part.variances.iter().map(|&v| -1. / variance(v)).sum();
            laplacian += r * (curvature + gradient.iter().map(|g| g * g).sum::<f64>());
            for i in 0..d {
                score[i] += r * gradient[i];
                x0[i] += r * (part.mean[i] + shift[i]);
            }
        }
        laplacian -= score.iter().map(|s| s * s).sum::<f64>();
        Point { log_p, score, laplacian, x0, responsibilities }
    }

    /// [`Mixture::at`], and v^T dE[x_0 | x_t]/dx for `v` `[D]`: with r_k the responsibilities, x0_k and g_k the posterior
    /// mean and score of component k and s the score, sum_k r_k (v^T dx0_k/dx + (v . x0_k) (g_k - s)).
    pub fn x0_vjp(&self, m: &Marginal, x: &[f64], v: &[f64]) -> (Point, Vec<f64>) {
        let (alpha, noise) = (m.alpha, m.sigma * m.sigma);
        let point = self.at(m, x);
        let mut vjp = vec![0.; self.dim()];
        for (r, part) in point.responsibilities.iter().zip(&self.parts) {
            let (y, w) = (part.coordinates(alpha, x), part.along(v));
            let of = |y: &[f64], f: &dyn Fn(f64) -> f64| {
                part.rotate(&y.iter().zip(&part.variances).map(|(y, &v)| y * f(v)).collect::<Vec<_>>())
            };
            let gain = |v: f64| alpha * v / (alpha * alpha * v + noise);
            let (own, shift) = (of(&w, &gain), of(&y, &gain));
            let score = of(&y, &|v| -1. / (alpha * alpha * v + noise));
            let x0: f64 = part.mean.iter().zip(&shift).zip(v).map(|((mean, shift), v)| (mean + shift) * v).sum();
            for (i, vjp) in vjp.iter_mut().enumerate() {
                *vjp += r * (own[i] + x0 * (score[i] - point.score[i]));
            }
        }
        (point, vjp)
    }

    /// The mixture as a model of the data that `process` noises.
    pub fn under<'a>(&'a self, process: &'a dyn Process) -> Exact<'a> {
        Exact { mixture: self, process }
    }
}

impl Part {
    /// mean + S^(1/2) z.
    fn place(&self, z: &[f64]) -> Vec<f64> {
        let scaled: Vec<f64> = z.iter().zip(&self.variances).map(|(z, v)| z * v.sqrt()).collect();
        self.rotate(&scaled).iter().zip(&self.mean).map(|(x, m)| x + m).collect()
    }

    /// x - alpha mean, along the axes.
    fn coordinates(&self, alpha: f64, x: &[f64]) -> Vec<f64> {
        self.along(&x.iter().zip(&self.mean).map(|(x, m)| x - alpha * m).collect::<Vec<_>>())
    }

    /// `v` along the axes.
    fn along(&self, v: &[f64]) -> Vec<f64> {
        match &self.axes {
            None => v.to_vec(),
            Some(axes) => axes.chunks(v.len()).map(|a| a.iter().zip(v).map(|(a, v)| a * v).sum()).collect(),
        }
    }

    /// From coordinates along the axes back to the space of x.
    fn rotate(&self, y: &[f64]) -> Vec<f64> {
        let Some(axes) = &self.axes else { return y.to_vec() };
        let mut x = vec![0.; y.len()];
        for (y, axis) in y.iter().zip(axes.chunks(y.len())) {
            x.iter_mut().zip(axis).for_each(|(x, a)| *x += y * a);
        }
        x
    }
}

/// A [`Mixture`] under a process: an exact [`Denoiser`] with an energy. Tensors are `[B, ...]` with D numbers a sample.
#[derive(Clone, Copy, Debug)]
pub struct Exact<'a> {
    mixture: &'a Mixture,
    process: &'a dyn Process,
}

impl Exact<'_> {
    /// The mixture.
    pub fn mixture(&self) -> &Mixture {
        self.mixture
    }

    /// Everything about each sample of `x`; times are one for all or one a sample.
    pub fn points(&self, x: &Tensor, t: &[f64]) -> Result<Vec<Point>> {
        self.each(x, t, |_, m, x| self.mixture.at(m, x))
    }

    /// `f` of the index, the marginal and the numbers of each sample.
    fn each<R: Send>(&self, x: &Tensor, t: &[f64], f: impl Fn(usize, &Marginal, &[f64]) -> R + Sync) -> Result<Vec<R>> {
        let (batch, d) = (x.dim(0)?, self.mixture.dim());
        if x.elem_count() != batch * d {
            bail!("mixture: samples of shape {:?}, but it has {d} dimensions", &x.dims()[1..]);
        }
        t.check(batch, "times of the mixture")?;
        let marginals: Vec<Marginal> = t.iter().map(|&t| self.process.marginal(t)).collect();
        let at = |(i, x): (usize, &[f64])| f(i, &marginals.at(i), x);
        Ok(to_host(x)?.par_chunks(d).with_min_len(64).enumerate().map(at).collect())
    }

    /// log p_t(x), normalised, `[B]`.
    pub fn log_p(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        let log_p = self.points(x, t)?.into_iter().map(|p| p.log_p);
        Tensor::from_iter(log_p, x.device())?.to_dtype(x.dtype())
    }

    /// E(x, t) = -log p_t(x), `[B]`: an energy whose normaliser is 1 at every t.
    pub fn energy(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.log_p(x, t)?.neg()
    }
}

/// Computed on the host: autodiff does not see through it, and its own derivatives are exact.
impl NoisyEnergy for Exact<'_> {
    fn energy_at(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.energy(x, t)
    }

    fn energy_grad(&self, x: &Tensor, t: &[f64]) -> Result<(Tensor, Tensor)> {
        let points = self.points(x, t)?;
        let energy = column(&points, x, |_, p| -p.log_p)?;
        Ok((energy, rows(points, x, |p| p.score)?.neg()?))
    }

    /// dE/dt by the Fokker-Planck equation: d/dt log p = -f (D + x . s) + g^2/2 (laplacian + |s|^2), s the score.
    /// \[Song21, eq. 5\]
    fn jet(&self, x: &Tensor, t: &[f64]) -> Result<Jet> {
        let points = self.points(x, t)?;
        let (d, flat) = (self.mixture.dim(), to_host(x)?);
        let dt = |i: usize, p: &Point| {
            let m = self.process.marginal(t.at(i));
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let along = d as f64 + dot(&flat[i * d..][..d], &p.score);
            m.drift() * along - 0.5 * m.diffusion2() * (p.laplacian + dot(&p.score, &p.score))
        };
        let (energy, dt) = (column(&points, x, |_, p| -p.log_p)?, column(&points, x, dt)?);
        Ok(Jet { energy, gradient: rows(points, x, |p| p.score)?.neg()?, dt })
    }

    fn normalised(&self) -> bool {
        true
    }
}

/// One number of each point, `[B]` with the type and device of `x`.
fn column(points: &[Point], x: &Tensor, f: impl Fn(usize, &Point) -> f64) -> Result<Tensor> {
    Tensor::from_iter(points.iter().enumerate().map(|(i, p)| f(i, p)), x.device())?.to_dtype(x.dtype())
}

/// One row of each point, in the shape and dtype of `x`.
fn rows(points: Vec<Point>, x: &Tensor, row: impl Fn(Point) -> Vec<f64>) -> Result<Tensor> {
    let rows = points.into_iter().flat_map(row);
    Tensor::from_iter(rows, x.device())?.to_dtype(x.dtype())?.reshape(x.shape())
}

impl Denoiser for Exact<'_> {
    fn frame(&self) -> Frame<'_> {
        Frame::of(self.process)
    }

    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        rows(self.points(x, t)?, x, |p| p.x0)
    }

    fn score(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        rows(self.points(x, t)?, x, |p| p.score)
    }

    fn x0_vjp(&self, x: &Tensor, t: &[f64], v: &Tensor) -> Result<(Tensor, Tensor)> {
        if v.dims() != x.dims() {
            bail!("x0_vjp: v has shape {:?} and x {:?}; they must agree", v.dims(), x.dims());
        }
        let (d, v) = (self.mixture.dim(), to_host(v)?);
        let of = self.each(x, t, |i, m, x| self.mixture.x0_vjp(m, x, &v[i * d..][..d]))?;
        let (points, vjps): (Vec<_>, Vec<_>) = of.into_iter().unzip();
        let vjps = Tensor::from_iter(vjps.into_iter().flatten(), x.device())?.to_dtype(x.dtype())?;
        Ok((rows(points, x, |p| p.x0)?, vjps.reshape(x.shape())?))
    }

    fn noisy_energy(&self) -> Option<&dyn NoisyEnergy> {
        Some(self)
    }
}

fn check(weights: &[f64], means: &[Vec<f64>], covariances: usize) -> Result<()> {
    let k = weights.len();
    if k == 0 || means.len() != k || covariances != k {
        bail!(
            "mixture: {k} weights, {} means and {covariances} covariances; give one of each a component",
            means.len()
        );
    }
    let d = means[0].len();
    if d == 0 || means.iter().any(|m| m.len() != d || m.iter().any(|v| !v.is_finite())) {
        bail!("mixture: means must be finite and all of the same dimension, at least 1");
    }
    let sum: f64 = weights.iter().sum();
    if weights.iter().any(|w| w.is_nan() || *w < 0.) || !sum.is_finite() || sum <= 0. {
        bail!("mixture: weights {weights:?} must not be negative and must have a finite, positive sum");
    }
    Ok(())
}

fn normalised(weights: &[f64]) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// The variances of a covariance `[d * d]`, along the axes that are the rows of `[d * d]`.
fn principal(covariance: &[f64], d: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let Some(Eigen { values, vectors }) = eigen(covariance, d) else {
        bail!("mixture: a covariance is not a finite symmetric {d} x {d} matrix");
    };
    let least = -1e-9 * largest(covariance);
    if let Some(bad) = values.iter().find(|v| **v < least) {
        bail!("mixture: a covariance has the negative eigenvalue {bad}");
    }
    Ok((values.into_iter().map(|v| v.max(0.)).collect(), vectors))
}
