//! Sub-VP: the mean of VP with less noise, alpha = exp(-B/2), sigma = 1 - exp(-B), B the integral of beta.
//! \[Song21, eq. 29 and 34\]: f = -beta/2, g^2 = beta (1 - exp(-2B)).

use super::vp::{check_beta, linear_beta};
use super::{Marginal, Process, rising};
use candle_core::Result;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// The SDE of best likelihood in \[Song21\].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubVp {
    /// beta at t = 0.
    pub beta_min: f64,
    /// beta at t = 1.
    pub beta_max: f64,
    /// Least noisy time that is trained and sampled.
    pub t_min: f64,
}

impl Default for SubVp {
    fn default() -> Self {
        Self { beta_min: 0.1, beta_max: 20., t_min: 1e-3 }
    }
}

impl Named for SubVp {
    const NAME: &'static str = "subvp";
    const ABOUT: &'static str = "sub-VP SDE: the mean of vp with less noise on the way, made for likelihood [Song21]";
}

impl Process for SubVp {
    fn marginal(&self, t: f64) -> Marginal {
        if t <= 0. {
            return Marginal::CLEAN;
        }
        let (beta, integral) = linear_beta(self.beta_min, self.beta_max, t);
        let alpha = (-0.5 * integral).exp();
        Marginal { alpha, sigma: -(-integral).exp_m1(), dalpha: -0.5 * beta * alpha, dsigma: beta * (-integral).exp() }
    }

    fn span(&self) -> (f64, f64) {
        (self.t_min, 1.)
    }

    fn check(&self) -> Result<()> {
        check_beta(self.beta_min, self.beta_max)?;
        rising(&[("t_min", self.t_min), ("the end of the span", 1.)])
    }
}
