//! t uniform on the span. \[Song21, eq. 7\]

use super::Level;
use langevin_dynamics::Process;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Uniform in time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uniform {}

impl Named for Uniform {
    const NAME: &'static str = "uniform";
    const ABOUT: &'static str = "t uniform on the process's span [Song21]";
}

impl Level for Uniform {
    fn time(&self, process: &dyn Process, u: f64) -> f64 {
        let (low, high) = process.span();
        low + (high - low) * u
    }
}
