//! The times that a sampler visits: from the prior down to clean data.

use crate::Process;
use langevin_ops::registry;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// A spacing of times.
pub trait Grid: Send + Sync + std::fmt::Debug {
    /// `steps + 1` falling times, from the end of the span (the prior) to 0 (clean data).
    fn times(&self, process: &dyn Process, steps: usize) -> Vec<f64>;
}

registry! {
    /// Any grid, as configurations name it.
    pub enum AnyGrid: Grid = "grid" { Karras }
}

/// sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, then 0. [Karras22, eq. 5]
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Karras {
    /// How much the steps shorten near the data.
    pub rho: f64,
}

impl Default for Karras {
    fn default() -> Self {
        Self { rho: 7. }
    }
}

impl Named for Karras {
    const NAME: &'static str = "karras";
    const ABOUT: &'static str =
        "sigma^(1/rho) evenly spaced [Karras22]; sigma is sigma/alpha for processes that scale the data";
}

impl Grid for Karras {
    fn times(&self, process: &dyn Process, steps: usize) -> Vec<f64> {
        let (low, high) = process.span();
        // sigma/alpha is infinite where alpha = 0: such a process starts its grid where it is 1e4, and goes there from its end
        let ratio = |t: f64| (-0.5 * process.log_snr(t)).exp().min(1e4);
        let root = |t: f64| ratio(t).powf(1. / self.rho);
        let (from, to) = (root(high), root(low));
        let mut times: Vec<f64> = (0..steps)
            .map(|i| from + (to - from) * i as f64 / (steps.max(2) - 1) as f64)
            .map(|r| process.t_at(-2. * self.rho * r.ln()))
            .collect();
        if let Some(first) = times.first_mut() {
            *first = high;
        }
        times.push(0.);
        times
    }
}
