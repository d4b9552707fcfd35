//! EDM: x_t = x_0 + t eps, time is the standard deviation of the noise. \[Karras22, table 1\]

use super::{Marginal, Process, rising};
use candle_core::Result;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Variance exploding with sigma(t) = t.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edm {
    /// Least noise that is trained and sampled.
    pub sigma_min: f64,
    /// Noise of the prior.
    pub sigma_max: f64,
}

impl Default for Edm {
    fn default() -> Self {
        Self { sigma_min: 0.002, sigma_max: 80. }
    }
}

impl Named for Edm {
    const NAME: &'static str = "edm";
    const ABOUT: &'static str = "x_t = x_0 + t eps, the process of EDM [Karras22]";
}

impl Process for Edm {
    fn marginal(&self, t: f64) -> Marginal {
        if t <= 0. {
            return Marginal::CLEAN;
        }
        Marginal { alpha: 1., sigma: t, dalpha: 0., dsigma: 1. }
    }

    fn span(&self) -> (f64, f64) {
        (self.sigma_min, self.sigma_max)
    }

    fn clock(&self, t: f64) -> f64 {
        t.ln() / 4.
    }

    fn check(&self) -> Result<()> {
        rising(&[("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)])
    }

    fn t_at(&self, log_snr: f64) -> f64 {
        (-0.5 * log_snr).exp().clamp(self.sigma_min, self.sigma_max)
    }
}
