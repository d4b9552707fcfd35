//! A process on a part of its span: the noise levels that a model knows, or that several know.

use super::{Marginal, Process};
use candle_core::{Result, bail};

/// The same noise at the same times, from another least time to another end. It is no process of its own that
/// configurations could name: models that are made of models have it.
#[derive(Clone, Copy, Debug)]
pub struct Within<'a> {
    process: &'a dyn Process,
    span: (f64, f64),
}

/// Log SNRs that differ by less are one.
const ROUNDING: f64 = 1e-9;

impl<'a> Within<'a> {
    /// All of `process`.
    pub fn all(process: &'a dyn Process) -> Self {
        Self { process, span: process.span() }
    }

    /// What of it `other` has too, by sigma/alpha.
    ///
    /// Errors if that is nothing.
    pub fn and(self, other: &dyn Process) -> Result<Self> {
        let (low, high) = other.span();
        match self.between(other.log_snr(high), other.log_snr(low)) {
            Some(common) => Ok(common),
            None => {
                let (own, theirs) = (self.levels(), Within::all(other).levels());
                bail!(
                    "{:?} has the noise levels sigma/alpha from {:.3} to {:.3}, {other:?} from {:.3} to {:.3}: they have \
                     none in common",
                    self.process,
                    own.0,
                    own.1,
                    theirs.0,
                    theirs.1
                )
            }
        }
    }

    /// The part whose log SNR lies between `least` and `most`; `None` if there is none.
    pub fn between(self, least: f64, most: f64) -> Option<Self> {
        let (low, high) = self.span;
        let low = if self.log_snr(low) > most + ROUNDING { self.process.t_at(most) } else { low };
        let high = if self.log_snr(high) < least - ROUNDING { self.process.t_at(least) } else { high };
        let met = self.log_snr(low) <= most + ROUNDING && self.log_snr(high) >= least - ROUNDING;
        (met && low < high).then_some(Self { span: (low, high), ..self })
    }

    /// sigma/alpha at both ends of the span: the second is infinite for a process that goes to pure noise.
    pub fn levels(&self) -> (f64, f64) {
        let ratio = |t: f64| (-0.5 * self.log_snr(t)).exp();
        (ratio(self.span.0), ratio(self.span.1))
    }
}

impl Process for Within<'_> {
    fn marginal(&self, t: f64) -> Marginal {
        self.process.marginal(t)
    }

    fn span(&self) -> (f64, f64) {
        self.span
    }

    fn clock(&self, t: f64) -> f64 {
        self.process.clock(t)
    }

    /// As of a continuous process where it is a part: the entries of a table would lead out of it.
    fn discrete(&self) -> Option<usize> {
        self.process.discrete().filter(|_| self.span == self.process.span())
    }

    fn t_at(&self, log_snr: f64) -> f64 {
        self.process.t_at(log_snr).clamp(self.span.0, self.span.1)
    }
}
