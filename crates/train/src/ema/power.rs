//! The power profile: weight t^gamma on the weights of step t, from beta_k = (1 - 1/k)^(gamma+1).
//! Its width relative to the run is sigma_rel = sqrt(gamma+1) / ((gamma+2) sqrt(gamma+3)). \[Karras24, sec. 3.1\]

use super::Profile;
use candle_core::{Result, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Averages whose memory is a share of the run so far; from snapshots of two, any other can be had afterwards.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Power {
    /// sigma_rel of each track: the standard deviation of its profile as a share of the run.
    pub sigma_rel: Vec<f64>,
}

impl Default for Power {
    fn default() -> Self {
        Self { sigma_rel: vec![0.05, 0.10] }
    }
}

impl Named for Power {
    const NAME: &'static str = "power";
    const ABOUT: &'static str = "power-function averages of EDM2; any length can be rebuilt from snapshots [Karras24]";
}

/// gamma of a profile of relative width `sigma_rel`, which must be above 0 and at most 0.28 (gamma = 0.07).
pub fn exponent(sigma_rel: f64) -> Result<f64> {
    if !(1e-4..=0.28).contains(&sigma_rel) {
        bail!("an EMA of sigma_rel = {sigma_rel} cannot be had; give one between 0.0001 and 0.28");
    }
    let width = |gamma: f64| (gamma + 1.).sqrt() / ((gamma + 2.) * (gamma + 3.).sqrt());
    let (mut low, mut high) = (0., 1e5); // the width falls from 0.289 to 1e-5
    for _ in 0..200 {
        let mid: f64 = 0.5 * (low + high);
        if width(mid) > sigma_rel { low = mid } else { high = mid }
    }
    Ok(0.5 * (low + high))
}

impl Profile for Power {
    fn beta(&self, track: usize, k: u64) -> f64 {
        let gamma = self.sigma_rel.get(track).and_then(|&s| exponent(s).ok()).unwrap_or(0.);
        (1. - 1. / k.max(1) as f64).powf(gamma + 1.)
    }

    fn tracks(&self) -> Vec<Option<f64>> {
        self.sigma_rel.iter().copied().map(Some).collect()
    }

    fn check(&self) -> Result<()> {
        if self.sigma_rel.is_empty() {
            bail!("ema.sigma_rel is empty; give at least one width, such as [0.05, 0.1]");
        }
        for (i, &s) in self.sigma_rel.iter().enumerate() {
            exponent(s)?;
            if self.sigma_rel[..i].contains(&s) {
                bail!("ema.sigma_rel holds {s} twice; give different widths");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_those_of_the_paper() {
        // gamma = 6.94 for 0.10 and 16.97 for 0.05 [Karras24, sec. 3.1]
        assert!((exponent(0.10).unwrap() - 6.94).abs() < 5e-3);
        assert!((exponent(0.05).unwrap() - 16.97).abs() < 5e-3);
        assert!(exponent(0.3).is_err() && exponent(0.).is_err() && exponent(f64::NAN).is_err());
    }

    #[test]
    fn width_is_that_of_the_weights() {
        let (power, n) = (Power { sigma_rel: vec![0.13] }, 20_000u64);
        let mut left = 1.;
        let (mut mean, mut square) = (0., 0.);
        for k in (1..=n).rev() {
            let beta = power.beta(0, k);
            let (p, t) = (left * (1. - beta), k as f64 / n as f64);
            (mean, square, left) = (mean + p * t, square + p * t * t, left * beta);
        }
        assert!(((square - mean * mean).sqrt() - 0.13).abs() < 1e-4);
    }
}
