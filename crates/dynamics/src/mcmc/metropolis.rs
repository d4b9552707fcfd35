//! The test of Metropolis and Hastings: y for x with probability min(1, p(y) q(x|y) / (p(x) q(y|x))). \[Hastings 1970\]

use super::Stats;
use crate::density::Evaluated;
use candle_core::{Result, bail};

/// An energy that rises by more than this over one proposal ran away.
const RUNAWAY: f64 = 1000.;
/// The log-ratio of what is refused for another reason: no uniform number but 0 is below its exponential.
pub(crate) const REFUSED: f64 = -RUNAWAY;

/// Where chains may go.
pub struct Proposal {
    /// There.
    pub to: Evaluated,
    /// ln of the ratio that is compared with a uniform number, `[B]`, not cut off at 0; NaN for a proposal that is lost.
    pub log_ratio: Vec<f64>,
    /// How far it may be off, `[B]`.
    pub error: Vec<f64>,
}

/// Where chains are after the test.
pub struct Settled {
    /// There.
    pub at: Evaluated,
    /// What was accepted.
    pub stats: Stats,
    /// min(1, ratio) of each chain; 0 for what was lost.
    pub probability: Vec<f64>,
}

impl Proposal {
    /// Each chain goes there, or stays `at` where it is, by its uniform number `u`, one a chain.
    pub fn accept_reject(self, at: &Evaluated, u: &[f64]) -> Result<Settled> {
        let Self { to, log_ratio, error } = self;
        if u.len() != log_ratio.len() {
            bail!("metropolis: {} uniform numbers for {} chains; give one a chain", u.len(), log_ratio.len());
        }
        let accepted: Vec<bool> = log_ratio.iter().zip(u).map(|(ratio, u)| u.ln() < *ratio).collect(); // never for NaN
        let count = |is: &dyn Fn(f64) -> bool| log_ratio.iter().filter(|ratio| is(**ratio)).count() as u64;
        let stats = Stats {
            proposed: log_ratio.len() as u64,
            accepted: accepted.iter().filter(|&&yes| yes).count() as u64,
            diverged: count(&|ratio| ratio < -RUNAWAY),
            nan: count(&f64::is_nan),
            error: error.iter().zip(&log_ratio).filter(|(_, ratio)| **ratio >= -RUNAWAY).map(|(error, _)| error).sum(),
        };
        let probability = log_ratio.iter().map(|ratio| if ratio.is_nan() { 0. } else { ratio.exp().min(1.) });
        Ok(Settled { at: to.where_else(&accepted, at)?, stats, probability: probability.collect() })
    }
}
