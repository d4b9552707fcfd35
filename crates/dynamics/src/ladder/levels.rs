//! The densities of noisy data, level by level: p_t of a denoiser, as a ladder from pure noise down.

use super::Ladder;
use crate::denoiser::{Denoiser, each};
use crate::density::{Density, Energy, Evaluated, Score};
use crate::noisy::NoisyEnergy;
use crate::sampler::{Interval, Step, carried, prior};
use candle_core::{DType, Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{combine, dot_per_sample, scale};
use langevin_ops::stats::{log_gaussian, mean_and_error};

/// A denoiser's density at one noise level: an energy where the model has one, else a score.
pub struct NoiseLevel<'a> {
    /// The model.
    pub model: &'a dyn Denoiser,
    /// The time, one for all samples or one a sample.
    pub t: &'a [f64],
}

impl NoiseLevel<'_> {
    fn noisy_energy(&self) -> Result<&dyn NoisyEnergy> {
        self.model.noisy_energy().map_or_else(|| bail!("this model has a score but no energy"), Ok)
    }
}

impl Energy for NoiseLevel<'_> {
    fn energy(&self, x: &Tensor) -> Result<Tensor> {
        self.noisy_energy()?.energy_at(x, self.t)
    }
}

impl Score for NoiseLevel<'_> {
    fn score(&self, x: &Tensor) -> Result<Tensor> {
        self.model.score(x, self.t)
    }
}

impl Density for NoiseLevel<'_> {
    fn as_energy(&self) -> Option<&dyn Energy> {
        self.model.noisy_energy().map(|_| self as &dyn Energy)
    }

    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }

    fn evaluate(&self, x: &Tensor) -> Result<Evaluated> {
        let x = x.detach();
        match self.model.noisy_energy() {
            Some(energy) => {
                let found = energy.energy_grad(&x, self.t)?;
                Evaluated::of_gradient(x, found)
            }
            None => Ok(Evaluated { score: Some(self.score(&x)?.detach()), x, energy: None }),
        }
    }
}

/// That density as one of y = x/alpha, where neighbouring levels overlap.
pub struct Rescaled<'a> {
    level: NoiseLevel<'a>,
    /// What a sample is scaled by there, one for all samples or one a sample.
    alpha: Vec<f64>,
}

impl<'a> Rescaled<'a> {
    /// At the times `t`, one for all samples or one a sample.
    pub fn new(model: &'a dyn Denoiser, t: &'a [f64]) -> Self {
        Self { level: NoiseLevel { model, t }, alpha: each(model.process(), t, |m| m.alpha) }
    }

    /// Its unit of length, sigma/alpha.
    pub fn length(&self) -> Vec<f64> {
        each(self.level.model.process(), self.level.t, |m| m.sigma / m.alpha)
    }

    /// y of `x`.
    pub fn y(&self, x: &Tensor) -> Result<Tensor> {
        scale(x, &self.alpha.iter().map(|alpha| 1. / alpha).collect::<Vec<_>>())
    }

    /// x of `y`.
    pub fn x(&self, y: &Tensor) -> Result<Tensor> {
        scale(y, &self.alpha)
    }
}

impl Energy for Rescaled<'_> {
    fn energy(&self, y: &Tensor) -> Result<Tensor> {
        self.level.energy(&self.x(y)?)
    }
}

impl Score for Rescaled<'_> {
    fn score(&self, y: &Tensor) -> Result<Tensor> {
        scale(&self.level.score(&self.x(y)?)?, &self.alpha)
    }
}

impl Density for Rescaled<'_> {
    fn as_energy(&self) -> Option<&dyn Energy> {
        self.level.as_energy().map(|_| self as &dyn Energy)
    }

    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }

    fn evaluate(&self, y: &Tensor) -> Result<Evaluated> {
        let Evaluated { score, energy, .. } = self.level.evaluate(&self.x(y)?)?;
        let score = score.map(|score| scale(&score, &self.alpha)).transpose()?;
        Ok(Evaluated { x: y.detach(), score, energy })
    }
}

/// Noise levels in order, the most noisy first, each at times of its own: one for all samples, or one a sample.
///
/// Draws begin at N(0, sigma^2 / P), with P the [`Denoiser::prior_precision`], or that of the ladder which this is a part of. The proposal k is the reverse Gaussian step, the way
/// back q the noising one, whose noise has variance beta / P, which leaves weights even at the prior end. The mean of k is
/// that of q(x_s | x_t, x0); its variance is that of q(x_s | x_t, x0) and (alpha_s beta / sigma_t^2)^2 C, with
/// C = sigma^2/alpha^2 (1 - sigma^2 E|score|^2 / D) the variance of x_0 given x_t on the mean over components
/// \[Bao22, eq. 7\]. With both exact for Gaussian data, only what is not Gaussian makes weights uneven.
pub struct NoiseLevels<'a> {
    model: &'a dyn Denoiser,
    times: Vec<&'a [f64]>,
}

impl<'a> NoiseLevels<'a> {
    /// The density of `model` at each of `times`.
    pub fn new(model: &'a dyn Denoiser, times: impl IntoIterator<Item = &'a [f64]>) -> Self {
        Self { model, times: times.into_iter().collect() }
    }

    /// The one time of all samples at a rung.
    fn time(&self, rung: usize) -> Result<f64> {
        match self.times[rung].split_first() {
            Some((first, rest)) if rest.iter().all(|t| t == first) => Ok(*first),
            _ => bail!("samples at different times are no population; give one time"),
        }
    }
}

impl Ladder for NoiseLevels<'_> {
    fn rungs(&self) -> usize {
        self.times.len()
    }

    fn density(&self, rung: usize) -> Box<dyn Density + '_> {
        Box::new(NoiseLevel { model: self.model, t: self.times[rung] })
    }

    fn length(&self, rung: usize) -> Vec<f64> {
        each(self.model.process(), self.times[rung], |m| m.sigma)
    }

    fn name(&self, rung: usize) -> String {
        format!("t = {}", self.times[rung].first().copied().unwrap_or(f64::NAN))
    }

    /// x/alpha stays; where there is next to no signal, x/sigma does.
    fn carry(&self, rung: usize, x: &Tensor) -> Result<Tensor> {
        carried(&Step { t: self.times[rung], s: self.times[rung + 1] }.intervals(self.model.process())?, x)
    }

    fn precision(&self, _rung: usize) -> f64 {
        self.model.prior_precision()
    }

    fn propose(&self, rung: usize, at: &Evaluated, precision: f64, z: &mut Noise) -> Result<(Tensor, Vec<f64>)> {
        let process = self.model.process();
        let ends = Interval { t: process.marginal(self.time(rung)?), s: process.marginal(self.time(rung + 1)?) };
        if ends.s.log_snr() <= ends.t.log_snr() {
            bail!("noise levels: {} comes after {}, which is no less noisy", self.name(rung + 1), self.name(rung));
        }
        let (ratio, beta, noise) = (ends.ratio(), ends.variance() / precision, ends.t.sigma.powi(2) / precision);
        let d = numbers(&at.x)?;
        let (mean, hidden) = if ends.starts_from_noise() {
            (at.x.affine(ratio * ends.keep().powi(2), 0.)?, 0.) // the score tells next to nothing of x0 here
        } else {
            let hidden = (noise / ends.t.alpha.powi(2) * unexplained(at, noise)?).max(0.);
            (combine(&[1. / ratio], &at.x, &[beta / ratio], at.score()?)?, hidden)
        };
        let variance = beta * ends.keep().powi(2) + (ends.s.alpha * beta / noise).powi(2) * hidden;
        let eps = z.normal_like(&at.x)?;
        let next = (mean + eps.affine(variance.sqrt(), 0.)?)?.detach();
        let back = (&at.x - next.affine(ratio, 0.)?)?;
        let (there, back) = (dot_per_sample(&eps, &eps)?, dot_per_sample(&back, &back)?);
        // log q - log k, each without its D/2 ln(2 pi)
        let kernels =
            there.iter().zip(&back).map(|(there, back)| 0.5 * (there - back / beta + d * (variance / beta).ln()));
        Ok((next, kernels.collect()))
    }

    fn start(&self, like: &Tensor, precision: f64, z: &mut Noise) -> Result<Tensor> {
        prior(self.model.process(), self.time(0)?, like.dims(), like.dtype(), like.device(), z)? / precision.sqrt()
    }

    fn log_start(&self, x: &Tensor, precision: f64) -> Result<Vec<f64>> {
        log_gaussian(x, self.model.process().marginal(self.time(0)?).sigma / precision.sqrt())
    }
}

/// Numbers in a sample, D.
fn numbers(x: &Tensor) -> Result<f64> {
    Ok((x.elem_count() / x.dim(0)?.max(1)) as f64)
}

/// 1 - v E|score|^2 / D, with v = `noise`: the part of the noise that x does not tell.
///
/// At much noise |score|^2 scatters by far more than that. But E[(x - c) . score] = -D for every c (Stein), so what
/// |score|^2 shares with (x - c) . score is taken off, c being the mean of x + v score.
fn unexplained(at: &Evaluated, noise: f64) -> Result<f64> {
    let (x, score) = (at.x.to_dtype(DType::F64)?, at.score()?.to_dtype(DType::F64)?);
    let d = numbers(&x)?;
    let centre = combine(&[1.], &x, &[noise], &score)?.mean_keepdim(0)?;
    let along = dot_per_sample(&x.broadcast_sub(&centre)?, &score)?;
    let squares = dot_per_sample(&score, &score)?;
    let (square, stein) = (mean_and_error(&squares).0, mean_and_error(&along).0);
    let variance: f64 = along.iter().map(|along| (along - stein).powi(2)).sum();
    let shared: f64 = squares.iter().zip(&along).map(|(s, along)| (s - square) * (along - stein)).sum();
    let slope = if variance > 0. { shared / variance } else { 0. };
    Ok(1. - noise * (square - slope * (stein + d)) / d)
}

/// The same levels in y = x/alpha, the same states at every rung: what replica exchange swaps.
pub struct RescaledLevels<'a> {
    model: &'a dyn Denoiser,
    times: Vec<&'a [f64]>,
}

impl<'a> RescaledLevels<'a> {
    /// The density of `model` at each of `times`.
    pub fn new(model: &'a dyn Denoiser, times: impl IntoIterator<Item = &'a [f64]>) -> Self {
        Self { model, times: times.into_iter().collect() }
    }

    /// One of them.
    pub fn level(&self, rung: usize) -> Rescaled<'a> {
        Rescaled::new(self.model, self.times[rung])
    }
}

impl Ladder for RescaledLevels<'_> {
    fn rungs(&self) -> usize {
        self.times.len()
    }

    fn density(&self, rung: usize) -> Box<dyn Density + '_> {
        Box::new(self.level(rung))
    }

    fn length(&self, rung: usize) -> Vec<f64> {
        self.level(rung).length()
    }

    fn name(&self, rung: usize) -> String {
        format!("t = {}", self.times[rung].first().copied().unwrap_or(f64::NAN))
    }
}
