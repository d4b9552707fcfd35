//! Cosine: alpha = cos(a) / cos(b), a = (t + s) / (1 + s) pi/2, b = a at t = 0; sigma^2 = 1 - alpha^2.
//! \[Nichol21, eq. 17\], in continuous time.

use super::{Marginal, Process, at_most, rising};
use candle_core::Result;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;

/// Variance preserving, with log SNR nearly linear in the middle; alpha = 0 at t = 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cosine {
    /// Offset that keeps the noise near t = 0 from being too small.
    pub s: f64,
    /// Least noisy time that is trained and sampled.
    pub t_min: f64,
    /// Time of the prior: at 1 nothing of the data is left; less (0.995) for eps and score.
    pub t_max: f64,
}

impl Default for Cosine {
    fn default() -> Self {
        Self { s: 0.008, t_min: 1e-3, t_max: 1. }
    }
}

impl Named for Cosine {
    const NAME: &'static str = "cosine";
    const ABOUT: &'static str =
        "variance preserving with alpha a quarter of a cosine; goes to pure noise unless t_max < 1 [Nichol21]";
}

impl Process for Cosine {
    fn marginal(&self, t: f64) -> Marginal {
        if t <= 0. {
            return Marginal::CLEAN;
        }
        let rate = FRAC_PI_2 / (1. + self.s);
        let (a, b) = (rate * (t + self.s), rate * self.s);
        // cos(pi/2) is not quite 0 in floating point
        let alpha = if t >= 1. { 0. } else { a.cos() / b.cos() };
        let sigma = ((rate * t).sin() * (a + b).sin()).sqrt() / b.cos(); // cos^2 b - cos^2 a = sin(a - b) sin(a + b)
        let dalpha = -rate * a.sin() / b.cos();
        Marginal { alpha, sigma, dalpha, dsigma: -alpha * dalpha / sigma }
    }

    fn span(&self) -> (f64, f64) {
        (self.t_min, self.t_max)
    }

    fn check(&self) -> Result<()> {
        if self.s != 0. {
            rising(&[("s", self.s)])?;
        }
        at_most("s", self.s, 1.)?;
        rising(&[("t_min", self.t_min), ("t_max", self.t_max)])?;
        at_most("t_max", self.t_max, 1.)
    }
}
