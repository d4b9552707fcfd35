//! Variance preserving, linear beta: alpha = exp(-1/4 t^2 (b1 - b0) - 1/2 t b0), sigma^2 = 1 - alpha^2.
//! [Song21, eq. 29 and 33]

use super::{Marginal, Process};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// The SDE whose discretisation is DDPM.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vp {
    /// beta at t = 0.
    pub beta_min: f64,
    /// beta at t = 1.
    pub beta_max: f64,
    /// Least noisy time that is trained and sampled.
    pub t_min: f64,
}

impl Default for Vp {
    fn default() -> Self {
        Self { beta_min: 0.1, beta_max: 20., t_min: 1e-3 }
    }
}

impl Named for Vp {
    const NAME: &'static str = "vp";
    const ABOUT: &'static str = "variance preserving SDE with linear beta, the continuous DDPM [Song21]";
}

impl Process for Vp {
    fn marginal(&self, t: f64) -> Marginal {
        if t <= 0. {
            return Marginal::CLEAN;
        }
        let integral = 0.5 * t * t * (self.beta_max - self.beta_min) + t * self.beta_min; // of beta, from 0 to t
        let alpha = (-0.5 * integral).exp();
        let sigma = (-(-integral).exp_m1()).sqrt();
        let dalpha = -0.5 * (self.beta_min + t * (self.beta_max - self.beta_min)) * alpha;
        Marginal { alpha, sigma, dalpha, dsigma: -alpha * dalpha / sigma }
    }

    fn span(&self) -> (f64, f64) {
        (self.t_min, 1.)
    }
}
