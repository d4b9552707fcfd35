//! T evenly spaced times with equal chance: the entries 1, ..., T of a table. \[Ho20, Alg. 1\]

use super::Level;
use candle_core::{Result, bail};
use langevin_dynamics::Process;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// A finite set of times.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Discrete {
    /// Their number, for a process that has no entries of its own.
    pub steps: usize,
}

impl Default for Discrete {
    fn default() -> Self {
        Self { steps: 1000 }
    }
}

impl Named for Discrete {
    const NAME: &'static str = "discrete";
    const ABOUT: &'static str =
        "the entries of a table with equal chance; elsewhere `steps` evenly spaced times [Ho20]";
}

impl Level for Discrete {
    fn time(&self, process: &dyn Process, u: f64) -> f64 {
        let (low, high) = process.span();
        let steps = process.discrete().unwrap_or(self.steps);
        let k = ((u * steps as f64) as usize).min(steps - 1);
        match process.discrete() {
            Some(_) => (k + 1) as f64,
            None => low + (high - low) * k as f64 / (steps.max(2) - 1) as f64,
        }
    }

    fn check(&self) -> Result<()> {
        if !(1..=1_000_000).contains(&self.steps) {
            bail!("steps is {}; it must be from 1 to 1000000", self.steps);
        }
        Ok(())
    }
}
