//! A decay that grows: beta_k = min(decay, 1 - (1 + (k-1)/inv_gamma)^-power), 0 at the first update.
//! As diffusers and k-diffusion have it.

use super::Profile;
use crate::optim::fraction;
use candle_core::{Result, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// An exponential average that is short while the weights move fast.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WarmUp {
    /// Highest beta.
    pub decay: f64,
    /// Steps after which beta leaves 0.
    pub inv_gamma: f64,
    /// 2/3 reaches 0.999 at 31,600 steps, 3/4 at 10,000, 1 at 1,000 (with `inv_gamma` 1).
    pub power: f64,
}

impl Default for WarmUp {
    fn default() -> Self {
        Self { decay: 0.9999, inv_gamma: 1., power: 2. / 3. }
    }
}

impl Named for WarmUp {
    const NAME: &'static str = "warm-up";
    const ABOUT: &'static str = "exponential average whose memory grows with the run";
}

impl Profile for WarmUp {
    fn beta(&self, _track: usize, k: u64) -> f64 {
        let before = k.saturating_sub(1) as f64;
        (1. - (1. + before / self.inv_gamma).powf(-self.power)).min(self.decay)
    }

    fn check(&self) -> Result<()> {
        fraction("ema.decay", self.decay)?;
        for (what, value) in [("ema.inv_gamma", self.inv_gamma), ("ema.power", self.power)] {
            if !(value > 0. && value.is_finite()) {
                bail!("{what} is {value}; it must be a finite number above 0");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_as_stated() {
        let at = |power, k| WarmUp { power, decay: 1. - 1e-9, inv_gamma: 1. }.beta(0, k);
        assert_eq!(at(1., 1), 0.);
        assert!((at(1., 1000) - 0.999).abs() < 1e-12);
        assert!((at(0.75, 10_000) - 0.999).abs() < 1e-12);
        assert!((WarmUp::default().beta(0, 31_623) - 0.999).abs() < 1e-6);
        assert_eq!(WarmUp::default().beta(0, 1 << 40), 0.9999);
    }
}
