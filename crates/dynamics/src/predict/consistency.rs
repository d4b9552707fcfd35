//! A consistency function: f(x, t) = c_skip x + c_out F with f(x, t_min) = x. \[Song23, eq. 5 and App. C\]
//!
//! In y = x/alpha and s = sigma/alpha: c_skip = d^2 / ((s - s_min)^2 + d^2), c_out = (s - s_min) d / sqrt(s^2 + d^2), with d
//! the standard deviation of the data; the network is told 250 ln s. It leads to the end of the trajectory of the ODE, not
//! to the mean of x0, and so is no denoiser: it wants the sampler `consistency`.

use super::Parametrisation;
use crate::Marginal;
use candle_core::{Result, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// F as consistency models predict it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Consistency {
    /// sigma/alpha at which the function leaves x as it is.
    pub sigma_min: f64,
}

impl Default for Consistency {
    fn default() -> Self {
        Self { sigma_min: 0.002 }
    }
}

impl Named for Consistency {
    const NAME: &'static str = "consistency";
    const ABOUT: &'static str = "the end of the ODE's trajectory, for the sampler consistency [Song23]";
}

impl Parametrisation for Consistency {
    fn skip_out(&self, m: &Marginal, sigma_data: f64) -> (f64, f64) {
        let (s, d2) = (m.sigma / m.alpha, sigma_data * sigma_data);
        let from = s - self.sigma_min;
        (d2 / (from * from + d2) / m.alpha, from * sigma_data / s.hypot(sigma_data))
    }

    fn unskipped(&self, m: &Marginal, sigma_data: f64) -> f64 {
        let from = m.sigma / m.alpha - self.sigma_min;
        from * from / (from * from + sigma_data * sigma_data)
    }

    fn c_noise(&self, m: &Marginal, _: f64) -> f64 {
        250. * (m.sigma / m.alpha.max(1e-8)).ln()
    }

    fn reaches_pure_noise(&self) -> bool {
        false
    }

    fn check(&self) -> Result<()> {
        if !(self.sigma_min.is_finite() && self.sigma_min >= 0.) {
            bail!("sigma_min is {}; it must be a number of at least 0, 0.002 is usual", self.sigma_min);
        }
        Ok(())
    }
}
