//! log SNR evenly spaced: the grid in which the solution of the ODE is smoothest. \[Lu22, section 5\]

use super::{Grid, at_log_snrs, line, noise_ratios};
use crate::Process;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Even in ln(alpha^2 / sigma^2).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSnr {}

impl Named for LogSnr {
    const NAME: &'static str = "log-snr";
    const ABOUT: &'static str =
        "log signal-to-noise ratio evenly spaced, as DPM-Solver has it [Lu22]; diffusers calls it exponential and lu";
}

impl LogSnr {
    /// `steps` falling levels from `high` to `low`, each the same part of the one before.
    pub fn levels(&self, high: f64, low: f64, steps: usize) -> Vec<f64> {
        line(high.ln(), low.ln(), steps).map(f64::exp).collect()
    }
}

impl Grid for LogSnr {
    fn spaced(&self, process: &dyn Process, steps: usize) -> Vec<f64> {
        let (low, high) = noise_ratios(process);
        at_log_snrs(process, line(-2. * high.ln(), -2. * low.ln(), steps))
    }
}
