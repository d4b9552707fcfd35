//! What MCMC did at each noise level of a run: acceptance, effective sample size, R-hat.

use crate::denoiser::each;
use crate::mcmc::diagnostics::Trace;
use crate::mcmc::{Level, Score, ScoreKernel, Stats, Swept, View};
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
    /// The effective part of all particles before any are drawn again, for weighed ones.
    pub particles: Option<f64>,
    /// The course of the chains.
    pub trace: Trace,
}

impl AtLevel {
    /// Nothing yet, at time `t`.
    pub(super) fn new(process: &dyn Process, t: &[f64]) -> Self {
        let t = t.first().copied().unwrap_or(f64::NAN);
        let m = process.marginal(t);
        let (stats, trace) = (Stats::default(), Trace::default());
        Self { t, noise: m.sigma / m.alpha, stats, swaps: None, particles: None, trace }
    }

    /// What a sweep of replica exchange did here, which left the chains `at`.
    pub(super) fn add(&mut self, at: &View, swept: Swept) -> Result<()> {
        self.stats += swept.moved;
        if let Some(swaps) = swept.swapped {
            *self.swaps.get_or_insert_default() += swaps;
        }
        self.trace.record(at)
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
            // of two populations the worse
            own.particles = own.particles.zip(other.particles).map(|(own, other)| own.min(other));
            own.trace.append(other.trace);
        }
    }

    /// `steps` steps of `kernel` at the noise level `t`, whose sigma is the first unit of length; where they lead. Before
    /// them come `adapt` steps in which each chain finds its step size, and which are not told of: far below the width of
    /// the data sigma is no measure of it.
    pub(super) fn steps(
        &mut self,
        m: &dyn Denoiser,
        kernel: &mut dyn ScoreKernel,
        (x, t): (&Tensor, &[f64]),
        (adapt, steps): (usize, usize),
        z: &mut Noise,
    ) -> Result<Tensor> {
        let level = Level { model: m, t };
        let length = each(m.process(), t, |m| m.sigma);
        let at = adapted(&level, kernel, (level.look(x)?, &length), adapt, z)?;
        Ok(self.steps_at((&level, AtLevel::new(m.process(), t)), kernel, at, steps, z)?.x)
    }

    /// The same from where `at` saw the chains; what happens is added to `found`, which becomes the last level.
    pub(super) fn steps_at(
        &mut self,
        (level, mut found): (&Level, AtLevel),
        kernel: &mut dyn ScoreKernel,
        mut at: View,
        steps: usize,
        z: &mut Noise,
    ) -> Result<View> {
        let length = each(level.model.process(), level.t, |m| m.sigma);
        for _ in 0..steps {
            let (next, stats) = kernel.advance(level, &at, &length, z)?;
            at = next;
            found.stats += stats;
            found.trace.record(&at)?;
        }
        self.levels.push(found);
        Ok(at)
    }
}

/// Where `steps` steps lead in which each chain adapts its step size to the density `m`; none leave it as it is.
pub(super) fn adapted(
    m: &dyn Score,
    kernel: &mut dyn ScoreKernel,
    (mut at, length): (View, &[f64]),
    steps: usize,
    z: &mut Noise,
) -> Result<View> {
    if steps > 0 && kernel.corrected() {
        kernel.adapt_again(steps);
        for _ in 0..steps {
            at = kernel.advance(m, &at, length, z)?.0;
        }
    }
    Ok(at)
}
