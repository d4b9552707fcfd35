//! sigma_i = sigma_min + (sigma_max - sigma_min) q(1 - i/(n-1)), q the quantiles of Beta(a, b). [2407.12173]

use super::{Grid, at_log_snrs, noise_ratios, part};
use crate::Process;
use candle_core::{Result, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};
use statrs::function::beta::inv_beta_reg;

/// Quantiles of a Beta distribution, in sigma / alpha: short steps at both ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Beta {
    /// The first parameter of the distribution: below 1, the steps shorten near the data.
    pub a: f64,
    /// The second: below 1, they shorten near the prior.
    pub b: f64,
}

impl Default for Beta {
    fn default() -> Self {
        Self { a: 0.6, b: 0.6 }
    }
}

impl Named for Beta {
    const NAME: &'static str = "beta";
    const ABOUT: &'static str = "sigma at quantiles of a Beta distribution, dense at both ends [2407.12173]";
}

impl Beta {
    /// `steps` falling levels from `high` to `low`.
    pub(crate) fn levels(&self, high: f64, low: f64, steps: usize) -> Vec<f64> {
        let quantile = |p: f64| if p <= 0. || p >= 1. { p } else { inv_beta_reg(self.a, self.b, p) };
        (0..steps).map(|i| low + (high - low) * quantile(1. - part(i, steps))).collect()
    }
}

impl Grid for Beta {
    fn spaced(&self, process: &dyn Process, steps: usize) -> Vec<f64> {
        let (low, high) = noise_ratios(process);
        at_log_snrs(process, self.levels(high, low, steps).into_iter().map(|level| -2. * level.ln()))
    }

    fn check(&self) -> Result<()> {
        for (name, value) in [("a", self.a), ("b", self.b)] {
            if !(0.05..=20.).contains(&value) {
                bail!("{name} is {value}; it must be from 0.05 to 20, 0.6 is usual");
            }
        }
        Ok(())
    }
}
