//! The same beta at every step: a memory of 1 / (1 - beta) steps.

use super::Profile;
use crate::optim::fraction;
use candle_core::Result;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// An exponential average.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Constant {
    /// beta; 0 keeps the weights themselves.
    pub decay: f64,
}

impl Default for Constant {
    fn default() -> Self {
        Self { decay: 0.999 }
    }
}

impl Named for Constant {
    const NAME: &'static str = "constant";
    const ABOUT: &'static str = "exponential average with one decay";
}

impl Profile for Constant {
    fn beta(&self, _track: usize, _k: u64) -> f64 {
        self.decay
    }

    fn check(&self) -> Result<()> {
        fraction("ema.decay", self.decay)
    }
}
