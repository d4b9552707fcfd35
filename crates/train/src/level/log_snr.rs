//! ln(sigma / alpha) uniform between the ends of the span. \[Kingma21\]

use super::{Level, log_ratio};
use langevin_dynamics::Process;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Uniform in log SNR; where the span reaches alpha = 0, up to sigma / alpha = 1e4.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSnr {}

impl Named for LogSnr {
    const NAME: &'static str = "log-snr";
    const ABOUT: &'static str = "log SNR uniform between the ends of the span [Kingma21]";
}

impl Level for LogSnr {
    fn time(&self, process: &dyn Process, u: f64) -> f64 {
        let (low, high) = process.span();
        let (from, to) = (log_ratio(process, low), log_ratio(process, high));
        process.t_at(-2. * (from + (to - from) * u)).clamp(low, high)
    }
}
