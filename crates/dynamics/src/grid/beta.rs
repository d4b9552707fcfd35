//! sigma_i = sigma_min + (sigma_max - sigma_min) q(1 - i/(n-1)), q the quantiles of Beta(a, b). [2407.12173]

use super::{Grid, at_log_snrs, noise_ratios, part};
use crate::Process;
use candle_core::{Result, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};
use statrs::function::beta::{checked_beta_reg, inv_beta_reg, ln_beta};

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
    pub fn levels(&self, high: f64, low: f64, steps: usize) -> Vec<f64> {
        (0..steps).map(|i| low + (high - low) * self.quantile(1. - part(i, steps))).collect()
    }

    fn quantile(&self, p: f64) -> f64 {
        if p <= 0. || p >= 1. {
            return p;
        }
        let (a, b) = (self.a, self.b);
        let density = |q: f64| ((a - 1.) * q.ln() + (b - 1.) * (-q).ln_1p() - ln_beta(a, b)).exp();
        // the inverse has six digits: Newton's steps give the rest
        (0..3).fold(inv_beta_reg(a, b, p), |q, _| match checked_beta_reg(a, b, q) {
            Ok(reached) if q > 0. && q < 1. => (q - (reached - p) / density(q)).clamp(0., 1.),
            _ => q,
        })
    }
}

impl Grid for Beta {
    fn spaced(&self, process: &dyn Process, steps: usize) -> Vec<f64> {
        let (low, high) = noise_ratios(process);
        at_log_snrs(process, self.levels(high, low, steps).into_iter().map(|level| -2. * level.ln()))
    }

    fn check(&self) -> Result<()> {
        for (name, value) in [("a", self.a), ("b", self.b)] {
            if !(0.1..=10.).contains(&value) {
                bail!("{name} is {value}; it must be from 0.1 to 10, 0.6 is usual");
            }
        }
        Ok(())
    }
}
