//! sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho. \[Karras22, eq. 5\]

use super::{Grid, at_log_snrs, line, noise_ratios};
use crate::Process;
use candle_core::{Result, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// The grid of EDM, in sigma / alpha.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Karras {
    /// How much the steps shorten near the data: 1 spaces sigma evenly.
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

impl Karras {
    /// `steps` falling levels from `high` to `low`.
    pub fn levels(&self, high: f64, low: f64, steps: usize) -> Vec<f64> {
        self.roots(high, low, steps).map(|r| r.powf(self.rho)).collect()
    }

    fn roots(&self, high: f64, low: f64, steps: usize) -> impl Iterator<Item = f64> {
        let root = |ratio: f64| ratio.powf(1. / self.rho);
        line(root(high), root(low), steps)
    }
}

impl Grid for Karras {
    fn spaced(&self, process: &dyn Process, steps: usize) -> Vec<f64> {
        let (low, high) = noise_ratios(process);
        at_log_snrs(process, self.roots(high, low, steps).map(|r| -2. * self.rho * r.ln()))
    }

    fn check(&self) -> Result<()> {
        if !(0.1..=1000.).contains(&self.rho) {
            bail!("rho is {}; it must be from 0.1 to 1000, 7 is usual", self.rho);
        }
        Ok(())
    }
}
