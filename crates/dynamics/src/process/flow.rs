//! Flow matching: x_t = (1 - t) x_0 + t eps, a straight line from data to noise. \[Lipman23\], \[Liu23\]

use super::{Marginal, Process, at_most, rising};
use candle_core::Result;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// alpha = 1 - t, sigma = t. Time grows with noise, against the custom of flow papers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flow {
    /// Least noisy time that is trained and sampled.
    pub t_min: f64,
    /// Time of the prior: at 1 nothing of the data is left.
    pub t_max: f64,
}

impl Default for Flow {
    fn default() -> Self {
        Self { t_min: 1e-3, t_max: 1. }
    }
}

impl Named for Flow {
    const NAME: &'static str = "flow";
    const ABOUT: &'static str =
        "the straight line (1 - t) x_0 + t eps of flow matching and rectified flow; goes to pure noise [Lipman23]";
}

impl Process for Flow {
    fn marginal(&self, t: f64) -> Marginal {
        if t <= 0. {
            return Marginal::CLEAN;
        }
        Marginal { alpha: 1. - t, sigma: t, dalpha: -1., dsigma: 1. }
    }

    fn span(&self) -> (f64, f64) {
        (self.t_min, self.t_max)
    }

    fn t_at(&self, log_snr: f64) -> f64 {
        (1. / (1. + (0.5 * log_snr).exp())).clamp(self.t_min, self.t_max)
    }

    fn check(&self) -> Result<()> {
        rising(&[("t_min", self.t_min), ("t_max", self.t_max)])?;
        at_most("t_max", self.t_max, 1.)
    }
}
