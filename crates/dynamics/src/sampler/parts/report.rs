//! What MCMC did at each noise level of a run: acceptance, effective sample size, R-hat.

use crate::Process;
use crate::ladder::Visit;

/// What happened at one noise level.
#[derive(Clone, Debug)]
pub struct AtLevel {
    /// The time; the first of them where samples have their own.
    pub t: f64,
    /// The noise there, as a part of the signal: sigma/alpha.
    pub noise: f64,
    /// What the chains did there; swaps are with the next noisier level.
    pub visit: Visit,
}

impl AtLevel {
    /// `visit` at the times `t`.
    pub(in crate::sampler) fn new(process: &dyn Process, t: &[f64], visit: Visit) -> Self {
        let t = t.first().copied().unwrap_or(f64::NAN);
        let m = process.marginal(t);
        Self { t, noise: m.sigma / m.alpha, visit }
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
        self.levels.iter_mut().zip(other.levels).for_each(|(own, other)| own.visit.append(other.visit));
    }
}
