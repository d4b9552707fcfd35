//! Variance exploding: x_t = x_0 + sigma eps, sigma = sigma_min (sigma_max / sigma_min)^t. \[Song21, eq. 9 and 30\]
//!
//! g^2 = d sigma^2 / dt = 2 ln(sigma_max / sigma_min) sigma^2. As t goes to 0, sigma goes to sigma_min, not to 0;
//! t = 0 itself is clean data, as for every process.

use super::{Marginal, Process, rising};
use candle_core::Result;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// The SDE of score matching with Langevin dynamics (NCSN).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ve {
    /// Least noise.
    pub sigma_min: f64,
    /// Noise of the prior.
    pub sigma_max: f64,
    /// Least noisy time that is trained and sampled.
    pub t_min: f64,
}

impl Default for Ve {
    fn default() -> Self {
        Self { sigma_min: 0.01, sigma_max: 50., t_min: 1e-5 }
    }
}

impl Named for Ve {
    const NAME: &'static str = "ve";
    const ABOUT: &'static str = "variance exploding SDE with geometric sigma, the continuous NCSN [Song21]";
}

impl Process for Ve {
    fn marginal(&self, t: f64) -> Marginal {
        if t <= 0. {
            return Marginal::CLEAN;
        }
        let growth = (self.sigma_max / self.sigma_min).ln();
        let sigma = self.sigma_min * (t * growth).exp();
        Marginal { alpha: 1., sigma, dalpha: 0., dsigma: growth * sigma }
    }

    fn span(&self) -> (f64, f64) {
        (self.t_min, 1.)
    }

    fn check(&self) -> Result<()> {
        rising(&[("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)])?;
        rising(&[("t_min", self.t_min), ("the end of the span", 1.)])
    }
}
