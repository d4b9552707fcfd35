//! Weighed particles that go down the noise levels, from draws of pure noise: what sequential Monte Carlo and annealed
//! importance sampling have in common. \[Neal01; DelMoral06; Doucet22; Thornton25\]
//!
//! From t to s a particle moves by the reverse Gaussian step k(x_s | x_t), and is weighed against the noising step q:
//! log w += E(x_t, t) - E(x_s, s) + log q(x_t | x_s) - log k(x_s | x_t). With P times the precision of pure noise at the
//! prior end, the noise of q has variance beta / P, which leaves weights even there. The mean of k is that of
//! q(x_s | x_t, x0); its variance is that of q(x_s | x_t, x0) and (alpha_s beta / sigma_t^2)^2 C, with
//! C = sigma^2/alpha^2 (1 - sigma^2 E|score|^2 / D) the variance of x_0 given x_t on the mean over components
//! \[Bao22, eq. 7\]. With both exact for Gaussian data, only what is not Gaussian makes weights uneven.
//!
//! A step is weighed by the k that was drawn from, so that sums of weights have no bias, however C was found and whatever
//! the densities are.

use crate::Denoiser;
use crate::likelihood::{log_gaussian, log_sum_exp, mean_and_error};
use crate::mcmc::{Level, Score, View};
use crate::sampler::Ends;
use candle_core::{DType, Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{combine, dot_per_sample};

/// Where the particles are, what they weigh, and what they weighed before they were drawn again.
#[derive(Clone, Debug)]
pub struct Particles {
    /// Where they are, `[N, ...]`.
    pub at: View,
    /// Their log weights since they were last drawn, `[N]`.
    pub log_w: Vec<f64>,
    /// The sum of ln of the mean weights at which particles were drawn again.
    gathered: f64,
}

impl Particles {
    /// `x` `[N, ...]` as draws of pure noise, weighed as particles of the model at `t`.
    pub fn from_prior(m: &dyn Denoiser, x: &Tensor, t: f64) -> Result<Self> {
        let at = Level { model: m, t: &[t] }.look(x)?;
        let prior = log_gaussian(x, m.process().marginal(t).sigma / m.prior_precision().sqrt())?;
        let log_w = energy(&at)?.iter().zip(prior).map(|(energy, prior)| -energy - prior).collect();
        Ok(Self { at, log_w, gathered: 0. })
    }

    /// Particles at `x` `[N, ...]` of the model at `t`, of the weights `log_w` `[N]`.
    pub fn at(m: &dyn Denoiser, x: &Tensor, t: f64, log_w: Vec<f64>) -> Result<Self> {
        if x.dim(0)? != log_w.len() {
            bail!("particles: {} weights for {} of them; give one each", log_w.len(), x.dim(0)?);
        }
        Ok(Self { at: Level { model: m, t: &[t] }.look(x)?, log_w, gathered: 0. })
    }

    /// The particles at `s`, with what the step from `t` adds to their weights.
    pub fn step(mut self, m: &dyn Denoiser, t: f64, s: f64, z: &mut Noise) -> Result<Self> {
        let ends = Ends { t: m.process().marginal(t), s: m.process().marginal(s) };
        let precision = m.prior_precision();
        let (ratio, beta, noise) = (ends.ratio(), ends.variance() / precision, ends.t.sigma.powi(2) / precision);
        let d = (self.at.x.elem_count() / self.log_w.len().max(1)) as f64;
        let (mean, hidden) = if ends.starts_from_noise() {
            (self.at.x.affine(ratio * ends.keep().powi(2), 0.)?, 0.) // the score tells next to nothing of x0 here
        } else {
            let hidden = (noise / ends.t.alpha.powi(2) * self.untold(noise)?).max(0.);
            (combine(&[1. / ratio], &self.at.x, &[beta / ratio], &self.at.score)?, hidden)
        };
        let variance = beta * ends.keep().powi(2) + (ends.s.alpha * beta / noise).powi(2) * hidden;
        let eps = z.normal_like(&self.at.x)?;
        let next = Level { model: m, t: &[s] }.look(&(mean + eps.affine(variance.sqrt(), 0.)?)?)?;
        let back = (&self.at.x - next.x.affine(ratio, 0.)?)?;
        let (there, back) = (dot_per_sample(&eps, &eps)?, dot_per_sample(&back, &back)?);
        let (before, after) = (energy(&self.at)?, energy(&next)?);
        for (n, log_w) in self.log_w.iter_mut().enumerate() {
            // log q - log k, each without its D/2 ln(2 pi)
            let kernels = 0.5 * (there[n] - back[n] / beta + d * (variance / beta).ln());
            *log_w += before[n] - after[n] + kernels;
            if log_w.is_nan() {
                *log_w = f64::NEG_INFINITY; // what is lost weighs nothing
            }
        }
        Ok(Self { at: next, ..self })
    }

    /// 1 - v E|score|^2 / D, with v = `noise`: the part of the noise that x does not tell.
    ///
    /// At much noise |score|^2 scatters by far more than that. But E[(x - c) . score] = -D for every c (Stein), so what
    /// |score|^2 shares with (x - c) . score is taken off, c being the mean of x + v score.
    fn untold(&self, noise: f64) -> Result<f64> {
        let (x, score) = (self.at.x.to_dtype(DType::F64)?, self.at.score.to_dtype(DType::F64)?);
        let d = (x.elem_count() / self.log_w.len().max(1)) as f64;
        let centre = combine(&[1.], &x, &[noise], &score)?.mean_keepdim(0)?;
        let along = dot_per_sample(&x.broadcast_sub(&centre)?, &score)?;
        let squares = dot_per_sample(&score, &score)?;
        let (square, stein) = (mean_and_error(&squares).0, mean_and_error(&along).0);
        let variance: f64 = along.iter().map(|along| (along - stein).powi(2)).sum();
        let shared: f64 = squares.iter().zip(&along).map(|(s, along)| (s - square) * (along - stein)).sum();
        let slope = if variance > 0. { shared / variance } else { 0. };
        Ok(1. - noise * (square - slope * (stein + d)) / d)
    }

    /// The estimate of log Z: ln of the mean weight of the particles as they were first drawn.
    pub fn log_z(&self) -> f64 {
        self.gathered + log_sum_exp(&self.log_w) - (self.log_w.len() as f64).ln()
    }

    /// The effective part of the particles, (sum w)^2 / (N sum w^2). Errors if none is left at `t`.
    pub fn effective(&self, t: f64) -> Result<f64> {
        let squares: Vec<f64> = self.log_w.iter().map(|w| 2. * w).collect();
        let effective = (2. * log_sum_exp(&self.log_w) - log_sum_exp(&squares)).exp() / self.log_w.len() as f64;
        if !effective.is_finite() {
            bail!("particles: at t = {t} the energies of all {} are not finite; take more levels", self.log_w.len());
        }
        Ok(effective)
    }

    /// As many particles, drawn in proportion to their weights, all of one weight: systematic resampling.
    pub fn drawn_again(self, z: &mut Noise) -> Result<Self> {
        let n = self.log_w.len();
        let u = z.uniform(n)?.first().copied().unwrap_or(0.);
        let rows = systematic(&self.log_w, u);
        let index = Tensor::new(rows.as_slice(), self.at.x.device())?;
        let pick = |x: &Tensor| x.index_select(&index, 0);
        let energy = energy(&self.at)?;
        let energy = rows.iter().filter_map(|&row| energy.get(row as usize)).copied().collect();
        let at = View { x: pick(&self.at.x)?, score: pick(&self.at.score)?, energy: Some(energy) };
        Ok(Self { at, gathered: self.log_z(), log_w: vec![0.; n] })
    }
}

fn energy(at: &View) -> Result<&[f64]> {
    match &at.energy {
        Some(energy) => Ok(energy),
        None => bail!("particles: this model has a score but no energy to weigh them by"),
    }
}

/// Indices in proportion to exp(log_w): particle i is taken for each of the points (u + k)/N in its part of the line.
fn systematic(log_w: &[f64], u: f64) -> Vec<u32> {
    let (n, total) = (log_w.len(), log_sum_exp(log_w));
    let (mut below, mut taken) = (0., Vec::with_capacity(n));
    for (i, w) in log_w.iter().enumerate() {
        below += (w - total).exp() * n as f64;
        while taken.len() < n && taken.len() as f64 + u < below {
            taken.push(i as u32);
        }
    }
    // rounding may leave the last point beyond the line
    let last = taken.last().copied().unwrap_or(0);
    taken.resize(n, last);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_particle_is_taken_as_often_as_its_weight_says() {
        let w: [f64; 4] = [0.5, 0.25, 0., 0.25];
        let log_w: Vec<f64> = w.iter().map(|w| w.ln() + 3.).collect();
        for u in [0., 0.3, 0.999] {
            assert_eq!(systematic(&log_w, u), [0, 0, 1, 3]);
        }
        // on the mean over u: 10 x 0.123 = 1.23
        let log_w: Vec<f64> = [0.123f64, 0.877].iter().map(|w| w.ln()).chain([f64::NEG_INFINITY; 8]).collect();
        let count = |u: f64| systematic(&log_w, u).iter().filter(|&&i| i == 0).count();
        let mean = (0..1000).map(|k| count((f64::from(k) + 0.5) / 1000.)).sum::<usize>() as f64 / 1000.;
        assert!((mean - 1.23).abs() < 1e-9, "{mean}");
    }
}
