//! ln(sigma / alpha) normal with mean P_mean and deviation P_std. \[Karras22, table 1\]

use super::{Level, normal_quantile};
use candle_core::{Result, bail};
use langevin_dynamics::Process;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// EDM's noise levels; those outside the span move to its ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogNormal {
    /// Mean of ln(sigma / alpha).
    pub p_mean: f64,
    /// Its standard deviation.
    pub p_std: f64,
}

impl Default for LogNormal {
    fn default() -> Self {
        Self { p_mean: -1.2, p_std: 1.2 }
    }
}

impl Named for LogNormal {
    const NAME: &'static str = "log-normal";
    const ABOUT: &'static str = "ln(sigma/alpha) normal, with p_mean and p_std [Karras22]";
}

impl Level for LogNormal {
    fn time(&self, process: &dyn Process, u: f64) -> f64 {
        let (low, high) = process.span();
        process.t_at(-2. * (self.p_mean + self.p_std * normal_quantile(u))).clamp(low, high)
    }

    fn check(&self) -> Result<()> {
        if !(self.p_mean.is_finite() && self.p_std.is_finite() && self.p_std >= 0.) {
            bail!("p_mean {} and p_std {} must be finite numbers, p_std 0 or above", self.p_mean, self.p_std);
        }
        Ok(())
    }
}
