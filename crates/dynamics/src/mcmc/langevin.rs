//! Unadjusted Langevin dynamics: x + eps score + sqrt(2 eps) z. [Roberts & Tweedie 1996]
//!
//! Its stationary density is off by O(eps): a normal of variance v gets v / (1 - eps/(2v)).

use super::{Chains, Kernel, Stats};
use crate::density::Density;
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::{choose, combine, sum_per_sample, to_host};
use serde::{Deserialize, Serialize};

/// x + eps score + sqrt(2 eps) z, `eps` one for all samples or one a sample: every corrector's step too.
pub fn langevin(x: &Tensor, score: &Tensor, eps: &[f64], z: &Tensor) -> Result<Tensor> {
    let noise: Vec<f64> = eps.iter().map(|eps| (2. * eps).sqrt()).collect();
    x + combine(eps, score, &noise, z)?
}

/// Langevin dynamics without a test of acceptance: one score a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Langevin {
    /// The step size eps, in units of the squared length of the density.
    pub step: f64,
}

impl Default for Langevin {
    fn default() -> Self {
        Self { step: 0.075 }
    }
}

impl Named for Langevin {
    const NAME: &'static str = "langevin";
    const ABOUT: &'static str = "Langevin dynamics without a test of acceptance [Roberts & Tweedie 1996]";
}

impl Kernel for Langevin {
    fn check(&self) -> Result<()> {
        if !(self.step.is_finite() && self.step > 0.) {
            bail!("langevin: step is {}; it must be a number above 0", self.step);
        }
        Ok(())
    }

    fn exact(&self) -> bool {
        false
    }

    fn step(&self, m: &dyn Density, chains: &mut Chains, z: &mut Noise) -> Result<Stats> {
        let at = &chains.at;
        let eps: Vec<f64> = chains.length.iter().map(|length| self.step * length * length).collect();
        let proposal = langevin(&at.x, at.score()?, &eps, &z.normal_like(&at.x)?)?.detach();
        // 0 x is 0 where x is finite, and NaN elsewhere
        let finite: Vec<bool> =
            to_host(&sum_per_sample(&(&proposal * 0.)?)?)?.into_iter().map(|zero| zero == 0.).collect();
        let nan = finite.iter().filter(|&&finite| !finite).count() as u64;
        let x = if nan == 0 { proposal } else { choose(&finite, &proposal, &at.x)? };
        let proposed = finite.len() as u64;
        chains.at = m.evaluate(&x)?;
        Ok(Stats { proposed, accepted: proposed - nan, nan, ..Stats::default() })
    }
}
