//! Variance preserving, linear beta: alpha = exp(-1/4 t^2 (b1 - b0) - 1/2 t b0), sigma^2 = 1 - alpha^2.
//! \[Song21, eq. 29 and 33\]

use super::{Marginal, Process, rising};
use candle_core::{Result, bail};
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
        let (beta, integral) = linear_beta(self.beta_min, self.beta_max, t);
        let alpha = (-0.5 * integral).exp();
        let sigma = (-(-integral).exp_m1()).sqrt();
        let dalpha = -0.5 * beta * alpha;
        Marginal { alpha, sigma, dalpha, dsigma: -alpha * dalpha / sigma }
    }

    fn span(&self) -> (f64, f64) {
        (self.t_min, 1.)
    }

    fn t_at(&self, log_snr: f64) -> f64 {
        let integral = (-log_snr).exp().ln_1p().min(1e300); // of beta: -ln alpha^2
        let slope = self.beta_max - self.beta_min;
        let t = 2. * integral / (self.beta_min + (self.beta_min.powi(2) + 2. * slope * integral).sqrt());
        t.clamp(self.t_min, 1.)
    }

    fn check(&self) -> Result<()> {
        check_beta(self.beta_min, self.beta_max)?;
        rising(&[("t_min", self.t_min), ("the end of the span", 1.)])
    }
}

/// beta(t) = b0 + t (b1 - b0), and its integral from 0 to `t`.
pub(super) fn linear_beta(beta_min: f64, beta_max: f64, t: f64) -> (f64, f64) {
    let slope = beta_max - beta_min;
    (beta_min + t * slope, t * beta_min + 0.5 * t * t * slope)
}

pub(super) fn check_beta(beta_min: f64, beta_max: f64) -> Result<()> {
    if beta_min != 0. {
        rising(&[("beta_min", beta_min)])?;
    }
    rising(&[("beta_max", beta_max)])?;
    if beta_max < beta_min {
        bail!("beta_max = {beta_max} is below beta_min = {beta_min}; beta grows with time");
    }
    // past this, alpha at t = 1 is below the smallest number
    if beta_max + beta_min > 1000. {
        bail!("beta_min + beta_max is {}; above 1000 nothing of the data is left: 20 is usual", beta_min + beta_max);
    }
    Ok(())
}
