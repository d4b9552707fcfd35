//! log Z(t) = ln of the integral of exp(-E(., t)), for an energy whose constant is free at each t: particles go from the
//! prior down the noise levels, and their weights add up. \[Neal01; DelMoral06; Doucet22\]
//!
//! From t to s a particle moves by the reverse Gaussian step k(x_s | x_t), and is weighed against the noising step q:
//! log w += E(x_t, t) - E(x_s, s) + log q(x_t | x_s) - log k(x_s | x_t). The mean of k is that of q(x_s | x_t, x0); its
//! variance beta (sigma_s/sigma_t)^2 + (alpha_s beta / sigma_t^2)^2 C, with C = sigma^2/alpha^2 (1 - sigma^2 E|score|^2/D)
//! the variance of x_0 given x_t on the mean over components \[Bao22, eq. 7\]. With both exact for Gaussian data, only
//! what is not Gaussian makes weights uneven.

use super::{log_gaussian, log_sum_exp, mean_and_error};
use crate::NoisyEnergy;
use crate::sampler::Ends;
use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{combine, scale, sum_per_sample, to_host};
use serde::Serialize;

/// How the noise levels are gone down.
#[derive(Clone, Debug)]
pub struct Annealing {
    /// Steps from the prior to t, even in log SNR.
    pub levels: usize,
    /// Particles are drawn again in proportion to their weights where their effective number falls below this part of
    /// them (sequential Monte Carlo); 0 never does (annealed importance sampling).
    pub resample: f64,
}

impl Default for Annealing {
    fn default() -> Self {
        Self { levels: 200, resample: 0.5 }
    }
}

/// The particles at one level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LevelReport {
    /// The time.
    pub t: f64,
    /// The estimate of log Z there.
    pub log_z: f64,
    /// Effective number of particles, as a part of all, before any are drawn again.
    pub ess: f64,
    /// Whether they were.
    pub resampled: bool,
}

/// One population at the end of its way.
#[derive(Clone, Debug)]
pub struct Population {
    /// The estimate of log Z(t). The estimate of Z has no bias, but for that of a variance taken from the particles.
    pub log_z: f64,
    /// The particles at t, `[N, ...]`.
    pub x: Tensor,
    /// Their log weights, `[N]`, up to a constant.
    pub log_w: Vec<f64>,
    /// From the prior to t.
    pub levels: Vec<LevelReport>,
}

/// log Z from several independent populations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LogZ {
    /// ln of the mean of their Z.
    pub value: f64,
    /// Its standard error, from their spread; NaN of one population.
    pub error: f64,
    /// Populations.
    pub runs: usize,
}

impl LogZ {
    /// Of the estimates of log Z of independent populations.
    pub fn of(log_z: &[f64]) -> Self {
        let top = log_z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mean, error) = mean_and_error(&log_z.iter().map(|l| (l - top).exp()).collect::<Vec<_>>());
        Self { value: top + mean.ln(), error: error / mean, runs: log_z.len() }
    }
}

/// sigma/alpha from which nothing of the data is seen.
const PURE: f64 = 1000.;

impl Annealing {
    /// Errors, naming the option, if one is out of its range.
    pub fn check(&self) -> Result<()> {
        if self.levels < 2 || self.levels > 1_000_000 {
            bail!("levels is {}; give 2 to 1000000", self.levels);
        }
        if !(0. ..=1.).contains(&self.resample) {
            bail!("resample is {}; it must be from 0 to 1, 0.5 is usual", self.resample);
        }
        Ok(())
    }

    /// The times from the end of the span to `t`, `levels + 1` of them.
    fn times(&self, m: &dyn NoisyEnergy, t: f64) -> Result<Vec<f64>> {
        let process = m.process();
        let (low, high) = process.span();
        if !(t >= low * (1. - 1e-6) && t < high) {
            bail!("likelihood: time {t} lies outside the span of {process:?}, from {low} to below {high}");
        }
        let (from, to) = (process.log_snr(high).max(-2. * PURE.ln()), process.log_snr(t));
        let at = |i: usize| match i {
            0 => high,
            i if i == self.levels => t,
            i => process.t_at(from + (to - from) * i as f64 / self.levels as f64),
        };
        let times: Vec<f64> = (0..=self.levels).map(at).collect();
        match times.windows(2).find(|pair| pair[0].is_nan() || pair[0] <= pair[1]) {
            Some(_) => bail!("levels is {}, too many between t = {t} and {high}; take fewer", self.levels),
            None => Ok(times),
        }
    }

    /// One population of particles `[N, ...]` from the prior N(0, sigma^2 I) down to `t`. The noise is that of the whole
    /// population: N streams. `watch` is told after each level.
    pub fn run(
        &self,
        m: &dyn NoisyEnergy,
        t: f64,
        (shape, dtype, device): (&[usize], DType, &Device),
        z: &mut Noise,
        watch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Population> {
        self.check()?;
        let n = shape.first().copied().unwrap_or(0);
        if n < 2 {
            bail!("likelihood: {n} particles; take at least 2");
        }
        let times = self.times(m, t)?;
        let std = m.process().marginal(times[0]).sigma;
        let x = z.normal(shape, dtype, device)?.affine(std, 0.)?;
        let prior = log_gaussian(&x, std)?;
        let mut particles = Particles::at(m, x, times[0])?;
        let mut log_w: Vec<f64> = particles.energy.iter().zip(prior).map(|(e, prior)| -e - prior).collect();
        let (mut log_z, mut levels) = (0., vec![]);
        for (i, pair) in times.windows(2).enumerate() {
            let (next, gain) = particles.step(m, pair[0], pair[1], z)?;
            particles = next;
            log_w.iter_mut().zip(gain).for_each(|(w, gain)| *w += gain);
            // a particle whose energy is no number weighs nothing
            log_w.iter_mut().filter(|w| w.is_nan()).for_each(|w| *w = f64::NEG_INFINITY);
            let total = log_sum_exp(&log_w);
            if !total.is_finite() {
                bail!(
                    "likelihood: at t = {} the energies of all {n} particles are not finite; take more levels",
                    pair[1]
                );
            }
            let square = log_sum_exp(&log_w.iter().map(|w| 2. * w).collect::<Vec<_>>());
            let ess = (2. * total - square).exp() / n as f64;
            let resampled = ess < self.resample && i + 2 < times.len();
            let here = log_z + total - (n as f64).ln();
            if resampled {
                log_z = here;
                let u = z.uniform(n)?[0];
                particles = particles.select(&systematic(&log_w, total, u))?;
                log_w = vec![0.; n];
            }
            levels.push(LevelReport { t: pair[1], log_z: here, ess, resampled });
            watch()?;
        }
        log_z += log_sum_exp(&log_w) - (n as f64).ln();
        Ok(Population { log_z, x: particles.x, log_w, levels })
    }
}

/// Indices in proportion to exp(log_w): particle i is taken for each of the points (u + k)/N in its part of the line.
pub(crate) fn systematic(log_w: &[f64], total: f64, u: f64) -> Vec<u32> {
    let n = log_w.len();
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

/// Where the particles are, and their energy there.
struct Particles {
    x: Tensor,
    energy: Vec<f64>,
    gradient: Tensor,
}

impl Particles {
    fn at(m: &dyn NoisyEnergy, x: Tensor, t: f64) -> Result<Self> {
        let (energy, gradient) = m.energy_grad(&x, &[t])?;
        Ok(Self { x, energy: to_host(&energy)?, gradient: gradient.detach() })
    }

    fn select(&self, rows: &[u32]) -> Result<Self> {
        let index = Tensor::new(rows, self.x.device())?;
        let energy = rows.iter().map(|&i| self.energy[i as usize]).collect();
        Ok(Self { x: self.x.index_select(&index, 0)?, energy, gradient: self.gradient.index_select(&index, 0)? })
    }

    /// The particles at `s`, and what the step adds to their log weights.
    fn step(&self, m: &dyn NoisyEnergy, t: f64, s: f64, z: &mut Noise) -> Result<(Self, Vec<f64>)> {
        let ends = Ends { t: m.process().marginal(t), s: m.process().marginal(s) };
        let (beta, ratio, noise) = (ends.variance(), ends.ratio(), ends.t.sigma.powi(2));
        let d = (self.x.elem_count() / self.energy.len().max(1)) as f64;
        let (mean, spread) = if ends.t.sigma > PURE * ends.t.alpha {
            // the score tells too little of x0 here, and its variance plays no part
            let (keep, gain) = (ratio * ends.keep().powi(2), ends.s.alpha * beta / noise);
            (combine(&[keep], &self.x, &[gain], &m.x0(&self.x, &[t])?)?, 0.)
        } else {
            let square = self.gradient.to_dtype(DType::F64)?.sqr()?.mean_all()?.to_scalar::<f64>()?;
            let hidden = (noise / ends.t.alpha.powi(2) * (1. - noise * square)).max(0.); // C
            let gain = ends.s.alpha * beta / noise;
            (combine(&[1. / ratio], &self.x, &[-beta / ratio], &self.gradient)?, gain * gain * hidden)
        };
        let variance = ends.posterior() + spread;
        let eps = z.normal_like(&self.x)?;
        let next = Self::at(m, (mean + eps.affine(variance.sqrt(), 0.)?)?.detach(), s)?;
        let squares = |x: &Tensor| to_host(&sum_per_sample(&x.to_dtype(DType::F64)?.sqr()?)?);
        let (there, back) = (squares(&eps)?, squares(&(&self.x - scale(&next.x, &[ratio])?)?)?);
        // log q - log k, each without its D/2 ln(2 pi)
        let kernels = |there: f64, back: f64| 0.5 * (there - back / beta + d * (variance / beta).ln());
        let gain = (0..there.len()).map(|i| self.energy[i] - next.energy[i] + kernels(there[i], back[i]));
        let gain = gain.collect();
        Ok((next, gain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_particle_is_taken_as_often_as_its_weight_says() {
        let w: [f64; 4] = [0.5, 0.25, 0., 0.25];
        let log_w: Vec<f64> = w.iter().map(|w| w.ln() + 3.).collect();
        for u in [0., 0.3, 0.999] {
            assert_eq!(systematic(&log_w, 3., u), [0, 0, 1, 3]);
        }
        // on the mean over u: 10 x 0.123 = 1.23
        let log_w: Vec<f64> = [0.123f64, 0.877].iter().map(|w| w.ln()).chain([f64::NEG_INFINITY; 8]).collect();
        let count = |u: f64| systematic(&log_w, 0., u).iter().filter(|&&i| i == 0).count();
        let mean = (0..1000).map(|k| count((f64::from(k) + 0.5) / 1000.)).sum::<usize>() as f64 / 1000.;
        assert!((mean - 1.23).abs() < 1e-9, "{mean}");
    }

    #[test]
    fn the_error_of_log_z_is_that_of_the_mean() {
        let LogZ { value, error, runs } = LogZ::of(&[1f64.ln() + 700., 3f64.ln() + 700.]);
        assert!((value - 2f64.ln() - 700.).abs() < 1e-12 && (error - 0.5).abs() < 1e-12 && runs == 2);
    }
}
