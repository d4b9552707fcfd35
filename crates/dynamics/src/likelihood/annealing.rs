//! log Z = ln of the sum or integral of exp(-E) at the end of a ladder: particles go along it from draws of a normalised density,
//! and their weights add up. Along the noise levels it is log Z(t) of an energy whose constant is free at each t.
//! \[Neal01; DelMoral06; Doucet22\]
//!
//! The step from rung to rung and its weights are those of [`Particles`]. At each rung a kernel may move the particles: one
//! that leaves the density there as it is changes no weight, and no mean of weights. \[DelMoral06\]

use crate::NoisyEnergy;
use crate::density::Capability;
use crate::ladder::{Ladder, NoiseLevels, Particles};
use crate::mcmc::{AnyKernel, Chains, Mala, Stats, StepSizes};
use crate::sampler::PURE;
use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::stats::mean_and_error;
use serde::Serialize;

/// How a ladder is gone along.
#[derive(Clone, Debug)]
pub struct Annealing {
    /// Steps from the prior to t, even in log SNR, where the ladder is that of noise levels. In few of them particles between far modes, which have more ways to go
    /// than others, get rare large weights: estimates are then mostly too small, and their errors too.
    pub levels: usize,
    /// Particles are drawn again in proportion to their weights where their effective number falls below this part of
    /// them (sequential Monte Carlo); 0 never does (annealed importance sampling).
    pub resample: f64,
    /// What moves the particles at each level, and leaves it as it is. Its unit of length is that of the rung at first, sigma for
    /// noise levels, and grows or shrinks from level to level, for all particles alike, as proposals are accepted.
    pub kernel: AnyKernel,
    /// Its steps at each level.
    pub steps_per_level: usize,
}

impl Default for Annealing {
    fn default() -> Self {
        Self { levels: 200, resample: 0.5, kernel: Mala::default().into(), steps_per_level: 0 }
    }
}

/// The particles at one rung.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RungReport {
    /// The estimate of log Z there.
    pub log_z: f64,
    /// Effective number of particles, as a part of all, before any are drawn again.
    pub ess: f64,
    /// Whether they were.
    pub resampled: bool,
    /// The part of the kernel's proposals that was accepted; NaN if there were none.
    pub acceptance: f64,
}

/// One population at the end of a ladder.
#[derive(Clone, Debug)]
pub struct Population {
    /// The estimate of log Z. That of Z has no bias if `steps_per_level` is 0. If not, the length of the kernel's steps
    /// follows what the same particles accepted at the levels before, and so depends on the weights: the bias that this
    /// leaves goes to 0 as particles grow many. \[Beskos et al. 2016, 1306.6462\]
    pub log_z: f64,
    /// The particles, `[N, ...]`.
    pub x: Tensor,
    /// Their log weights, `[N]`, up to a constant.
    pub log_w: Vec<f64>,
    /// From the first rung to the last, both among them.
    pub rungs: Vec<RungReport>,
}

/// log Z from several independent populations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LogZ {
    /// ln of the mean of their Z.
    pub value: f64,
    /// Its standard error, from their spread; NaN of one population. Of N it is known to a part 1/sqrt(2 (N - 1)) of itself.
    pub error: f64,
    /// The standard deviation of their log Z; NaN of one population. Above about 1 a few populations carry the mean: `error`
    /// is then too small, and `value` mostly too.
    pub spread: f64,
    /// Populations.
    pub runs: usize,
}

impl LogZ {
    /// Of the estimates of log Z of independent populations.
    pub fn of(log_z: &[f64]) -> Self {
        let top = log_z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mean, error) = mean_and_error(&log_z.iter().map(|l| (l - top).exp()).collect::<Vec<_>>());
        let spread = mean_and_error(log_z).1 * (log_z.len() as f64).sqrt();
        Self { value: top + mean.ln(), error: error / mean, spread, runs: log_z.len() }
    }
}

/// The part of proposals accepted that step sizes aim at: good in few dimensions and in many.
const ACCEPTANCE: f64 = 0.7;

impl Annealing {
    /// Errors, naming the option, if one is out of its range.
    pub fn check(&self) -> Result<()> {
        if self.levels < 2 || self.levels > 1_000_000 {
            bail!("levels is {}; give 2 to 1000000", self.levels);
        }
        self.check_moves()
    }

    /// The same of what any ladder takes.
    fn check_moves(&self) -> Result<()> {
        if !(0. ..=1.).contains(&self.resample) {
            bail!("resample is {}; it must be from 0 to 1, 0.5 is usual", self.resample);
        }
        let kernel = self.kernel.get();
        if self.steps_per_level > 0 && !kernel.exact() {
            bail!(
                "kernel {} has no test of acceptance and changes the density of a level, so that weights would be wrong; use \
                 mala or hmc",
                self.kernel.name()
            );
        }
        kernel.check()
    }

    /// The times from the end of the span, or from where nothing of the data is seen, to `t`: `levels + 1` of them.
    pub fn times(&self, m: &dyn NoisyEnergy, t: f64) -> Result<Vec<f64>> {
        self.check()?;
        let process = m.process();
        let (low, high) = process.span();
        if !(t >= low * (1. - 1e-6) && t < high) {
            bail!("likelihood: time {t} lies outside the span of {process:?}, from {low} to below {high}");
        }
        let (from, to) = (process.log_snr(high).max(-2. * PURE.ln()), process.log_snr(t));
        let at = |i: usize| match i {
            0 if process.log_snr(high) >= from => high,
            i if i == self.levels => t,
            i => process.t_at(from + (to - from) * i as f64 / self.levels as f64),
        };
        let times: Vec<f64> = (0..=self.levels).map(at).collect();
        match times.windows(2).find(|pair| pair[0].is_nan() || pair[0] <= pair[1]) {
            Some(_) => bail!("levels is {}, too many between t = {t} and {high}; take fewer", self.levels),
            None => Ok(times),
        }
    }

    /// One population of particles `[N, ...]` from the prior N(0, sigma^2 I) down the noise levels to `t`; for a composition of
    /// models from that of its precision. The noise is that of the whole population: N streams. `watch` is told after each level.
    pub fn run(
        &self,
        m: &dyn NoisyEnergy,
        t: f64,
        to: (&[usize], DType, &Device),
        z: &mut Noise,
        watch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Population> {
        let times = self.times(m, t)?;
        self.along(&NoiseLevels::new(m, times.iter().map(std::slice::from_ref)), to, z, watch)
    }

    /// The same along any `ladder` that has a start, for states `[N, ...]` of a shape, type and device.
    pub fn along(
        &self,
        ladder: &dyn Ladder,
        (shape, dtype, device): (&[usize], DType, &Device),
        z: &mut Noise,
        watch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Population> {
        self.check_moves()?;
        let n = shape.first().copied().unwrap_or(0);
        if n < 2 {
            bail!("likelihood: {n} particles; take at least 2");
        }
        let kernel = self.kernel.get();
        for rung in 0..ladder.rungs() {
            let density = ladder.density(rung);
            density.check(Capability::Energy)?;
            if self.steps_per_level > 0 {
                density.check(kernel.needs())?;
            }
        }
        if ladder.rungs() == 0 {
            bail!("likelihood: the ladder has no rungs");
        }
        let x = ladder.start(&Tensor::zeros(shape, dtype, device)?, ladder.precision(0), z)?;
        let mut particles = Particles::start(ladder, &x)?;
        let (mut sizes, mut factor) = (StepSizes::default(), 1.);
        let (log_z, ess) = (particles.log_z(), particles.effective(&ladder.name(0))?);
        let mut rungs = vec![RungReport { log_z, ess, resampled: false, acceptance: f64::NAN }];
        for rung in 1..ladder.rungs() {
            // at the end weights are kept
            let resample = if rung + 1 < ladder.rungs() { self.resample } else { 0. };
            let ess;
            (particles, ess) = particles.advance(ladder, rung - 1, resample, z)?;
            let (log_z, resampled) = (particles.log_z(), ess < resample);
            let density = ladder.density(rung);
            let length = ladder.length(rung).into_iter().map(|length| factor * length).collect();
            let mut chains = Chains { at: particles.at, length, sizes };
            let mut stats = Stats::default();
            for _ in 0..self.steps_per_level {
                stats += kernel.step(density.as_ref(), &mut chains, z)?;
            }
            (particles.at, sizes) = (chains.at, chains.sizes);
            let acceptance = stats.acceptance();
            if acceptance.is_finite() && kernel.adapts() {
                factor *= (acceptance - ACCEPTANCE).exp();
            }
            rungs.push(RungReport { log_z, ess, resampled, acceptance });
            watch()?;
        }
        Ok(Population { log_z: particles.log_z(), x: particles.at.x, log_w: particles.log_w, rungs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_log_z_is_that_of_the_mean() {
        let LogZ { value, error, spread, runs } = LogZ::of(&[1f64.ln() + 700., 3f64.ln() + 700.]);
        assert!((value - 2f64.ln() - 700.).abs() < 1e-12 && (error - 0.5).abs() < 1e-12 && runs == 2);
        assert!((spread - 3f64.ln() / 2f64.sqrt()).abs() < 1e-12);
    }
}
