//! What MCMC did at each noise level of a run: acceptance, effective sample size, R-hat.

use crate::denoiser::each;
use crate::mcmc::diagnostics::Trace;
use crate::mcmc::{Level, Score, ScoreKernel, Stats};
use crate::{Denoiser, Process};
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;

/// What happened at one noise level.
#[derive(Clone, Debug)]
pub struct AtLevel {
    /// The time; the first of them where samples have their own.
    pub t: f64,
    /// The noise there, as a part of the signal: sigma/alpha.
    pub noise: f64,
    /// Of the kernel.
    pub stats: Stats,
    /// Of the exchanges with the next noisier level, for replica exchange.
    pub swaps: Option<Stats>,
    /// The course of the chains.
    pub trace: Trace,
}

impl AtLevel {
    /// Nothing yet, at time `t`.
    pub(super) fn new(process: &dyn Process, t: &[f64]) -> Self {
        let t = t.first().copied().unwrap_or(f64::NAN);
        let m = process.marginal(t);
        Self { t, noise: m.sigma / m.alpha, stats: Stats::default(), swaps: None, trace: Trace::default() }
    }
}

/// The levels of a run, in the order in which it came to them.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Each of them.
    pub levels: Vec<AtLevel>,
}

impl Report {
    /// The chains of another batch, which took the same way, beside these.
    pub fn append(&mut self, other: Self) {
        if self.levels.is_empty() {
            return *self = other;
        }
        for (own, other) in self.levels.iter_mut().zip(other.levels) {
            own.stats += other.stats;
            match (&mut own.swaps, other.swaps) {
                (Some(own), Some(other)) => *own += other,
                (own, other) => *own = own.or(other),
            }
            own.trace.append(other.trace);
        }
    }

    /// `steps` steps of `kernel` at the noise level `t`, whose sigma is the unit of length; where they lead.
    pub(super) fn steps(
        &mut self,
        m: &dyn Denoiser,
        kernel: &mut dyn ScoreKernel,
        (x, t): (&Tensor, &[f64]),
        steps: usize,
        z: &mut Noise,
    ) -> Result<Tensor> {
        let (level, length) = (Level { model: m, t }, each(m.process(), t, |m| m.sigma));
        let (mut at, mut found) = (level.look(x)?, AtLevel::new(m.process(), t));
        for _ in 0..steps {
            let (next, stats) = kernel.advance(&level, &at, &length, z)?;
            at = next;
            found.stats += stats;
            found.trace.record(&at)?;
        }
        self.levels.push(found);
        Ok(at.x)
    }
}
