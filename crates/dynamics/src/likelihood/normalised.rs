//! log Z(t) at every t of an energy whose constant is free there, by annealing; and the energy with it: E + log Z is
//! -log p_t, and a part that mixtures can weigh. \[DelMoral06\]
//!
//! Independent populations of particles each go down the noise levels once, and tell log Z at all of them. Between levels log Z
//! is the cubic in log SNR through the four nearest, and the derivative that dE/dt gains is that of the cubic.

use super::{Annealing, LogZ};
use crate::process::Within;
use crate::sum::Sum;
use crate::{Denoiser, NoisyEnergy, Process};
use candle_core::{DType, Device, Result, bail};
use langevin_ops::noise::Noise;
use serde::Serialize;

/// log Z at one noise level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ConstantAt {
    /// ln(alpha^2 / sigma^2) there.
    pub log_snr: f64,
    /// log Z, with its standard error.
    pub log_z: LogZ,
}

/// log Z(t): at some levels, and between them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Constants {
    levels: Vec<ConstantAt>, // log SNR rises; one level is all levels
}

impl Constants {
    /// Of the same log Z at every t: that of a normalised energy, `-Normaliser::value`.
    pub fn same(log_z: LogZ) -> Self {
        Self { levels: vec![ConstantAt { log_snr: 0., log_z }] }
    }

    /// From log Z at four or more levels, the most noisy first.
    ///
    /// Errors if they are fewer, if log SNR does not rise, or if a number is not finite.
    pub fn at_levels(levels: Vec<ConstantAt>) -> Result<Self> {
        if levels.len() < 4 {
            bail!("log Z: {} noise levels; give at least 4, or one constant for all", levels.len());
        }
        if let Some(bad) = levels.iter().find(|l| !(l.log_snr.is_finite() && l.log_z.value.is_finite())) {
            bail!("log Z: it is {} at log SNR {}; both must be finite", bad.log_z.value, bad.log_snr);
        }
        match levels.windows(2).find(|pair| pair[0].log_snr >= pair[1].log_snr) {
            Some(pair) => bail!("log Z: log SNR goes from {} to {}; it must rise", pair[0].log_snr, pair[1].log_snr),
            None => Ok(Self { levels }),
        }
    }

    /// Of the energy `m`, for samples of the shape `[N, ...]`, by one population of N particles for each of `noises`, whose N
    /// streams are its noise. `watch` is told after each level of each.
    pub fn estimate(
        m: &dyn NoisyEnergy,
        annealing: &Annealing,
        to: (&[usize], DType, &Device),
        noises: impl IntoIterator<Item = Noise>,
        watch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Self> {
        let t = m.process().span().0;
        let (times, mut runs) = (annealing.times(m, t)?, vec![]);
        for mut noise in noises {
            let rungs = annealing.run(m, t, to, &mut noise, watch)?.rungs;
            runs.push(rungs.iter().map(|rung| rung.log_z).collect::<Vec<_>>());
        }
        let of = |(i, &t): (usize, &f64)| ConstantAt {
            log_snr: m.process().log_snr(t),
            log_z: LogZ::of(&runs.iter().filter_map(|run| run.get(i)).copied().collect::<Vec<_>>()),
        };
        Self::at_levels(times.iter().enumerate().map(of).collect())
    }

    /// The levels, the most noisy first: one alone where log Z is the same at all.
    pub fn levels(&self) -> &[ConstantAt] {
        &self.levels
    }

    /// log Z at the least noisy level.
    pub fn least_noisy(&self) -> LogZ {
        self.levels.last().map_or(LogZ { value: 0., error: 0., spread: 0., runs: 0 }, |level| level.log_z)
    }

    /// log Z and its derivative in log SNR.
    pub fn at(&self, log_snr: f64) -> (f64, f64) {
        if self.levels.len() < 4 {
            return (self.least_noisy().value, 0.);
        }
        let above = self.levels.partition_point(|level| level.log_snr <= log_snr);
        let first = above.saturating_sub(2).min(self.levels.len() - 4);
        cubic(&self.levels[first..first + 4], log_snr)
    }

    /// log Z and its derivative in the time of `process`, which spans the levels at which it is known.
    fn at_time(&self, process: &Within, t: f64) -> Result<(f64, f64)> {
        let (least, most) = self.range();
        let m = process.marginal(t);
        if !(m.log_snr() >= least - 1e-6 && m.log_snr() <= most + 1e-6) {
            let (low, high) = process.span();
            bail!("normalised: log Z is told from t = {low} to {high}, and t = {t} is outside; keep to these times");
        }
        let (value, slope) = self.at(m.log_snr());
        let rate = if slope == 0. { 0. } else { 2. * (m.dalpha / m.alpha - m.dsigma / m.sigma) };
        Ok((value, slope * rate))
    }

    /// The log SNRs between which it is known.
    fn range(&self) -> (f64, f64) {
        match self.levels.as_slice() {
            [first, .., last] => (first.log_snr, last.log_snr),
            _ => (f64::NEG_INFINITY, f64::INFINITY),
        }
    }
}

/// The polynomial through `levels`, and its derivative: the sum of log Z_i prod_(j != i) (l - l_j) / (l_i - l_j).
fn cubic(levels: &[ConstantAt], at: f64) -> (f64, f64) {
    let (mut value, mut slope) = (0., 0.);
    for (i, level) in levels.iter().enumerate() {
        let (mut term, mut rise) = (level.log_z.value, 0.);
        for (_, other) in levels.iter().enumerate().filter(|(j, _)| *j != i) {
            let width = level.log_snr - other.log_snr;
            let part = (at - other.log_snr) / width;
            (term, rise) = (term * part, rise * part + term / width);
        }
        (value, slope) = (value + term, slope + rise);
    }
    (value, slope)
}

impl<'a> Sum<'a> {
    /// `model` with the energy E + log Z(t): the same score, and -log p_t at the noise levels at which log Z is known.
    ///
    /// Errors if the model has no energy, or if log Z is known at none of its noise levels.
    pub fn normalised(model: &'a dyn Denoiser, constants: Constants) -> Result<Self> {
        let (least, most) = constants.range();
        if model.noisy_energy().is_none() {
            bail!("normalised: this model has a score but no energy");
        }
        let Some(process) = Within::all(model.process()).between(least, most) else {
            bail!("normalised: log Z is told at log SNR {least} to {most}, and {:?} is not there", model.process());
        };
        let all = Self::new([model], model.process(), vec![Box::new(|_| 1.)])?;
        let constant = move |t| constants.at_time(&process, t);
        Ok(Self { process, constant: Some(Box::new(constant)), normalised: true, ..all })
    }
}
