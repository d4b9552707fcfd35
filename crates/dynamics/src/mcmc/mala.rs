//! Metropolis-adjusted Langevin: y = x + h s(x) + sqrt(2h) xi, then the test of acceptance. \[Roberts & Tweedie 1996\]
//!
//! With v = sqrt(h/2) (s(x) + s(y)) the two proposal densities differ by ln q(x|y) - ln q(y|x) = -xi . v - |v|^2 / 2.

use super::step_size::check;
use super::{Chains, Difference, Kernel, Proposal, Stats, difference, langevin};
use crate::density::{Density, Evaluated};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::{dot_per_sample, scale};
use serde::{Deserialize, Serialize};

/// One score a step, and five more where the energy is not known.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mala {
    /// The step size h, in units of the squared length of the density.
    pub step: f64,
    /// Steps over which each chain adapts its step size, after which it stays; 0 for none. Until then what is drawn is off.
    pub adapt: usize,
    /// The rate of acceptance that adaptation aims at: 0.574 is best in many dimensions.
    pub target: f64,
}

impl Default for Mala {
    fn default() -> Self {
        Self { step: 0.1, adapt: 0, target: 0.574 }
    }
}

impl Named for Mala {
    const NAME: &'static str = "mala";
    const ABOUT: &'static str = "Langevin dynamics with a test of acceptance [Roberts & Tweedie 1996]";
}

/// The proposal from `at` with step sizes `h` (one for all chains or one a chain) and normal numbers `xi`.
pub fn propose(m: &dyn Density, at: &Evaluated, h: &[f64], xi: &Tensor) -> Result<Proposal> {
    let to = m.evaluate(&langevin(&at.x, at.score()?, h, xi)?)?;
    let Difference { value, error } = difference(m, at, &to)?;
    let v = scale(&(at.score()? + to.score()?)?, &h.iter().map(|h| (0.5 * h).sqrt()).collect::<Vec<_>>())?;
    let (along, square) = (dot_per_sample(xi, &v)?, dot_per_sample(&v, &v)?);
    let log_ratio =
        value.iter().zip(along.iter().zip(&square)).map(|(rise, (along, square))| -rise - along - 0.5 * square);
    Ok(Proposal { to, log_ratio: log_ratio.collect(), error })
}

impl Kernel for Mala {
    fn check(&self) -> Result<()> {
        check("mala", self.step, self.target)
    }

    fn exact(&self) -> bool {
        true
    }

    fn adapts(&self) -> bool {
        true
    }

    /// The step itself, which is reversible: only while it adapts its size is it not.
    fn step_back(&self, m: &dyn Density, chains: &mut Chains, z: &mut Noise) -> Result<Stats> {
        if self.adapt > 0 {
            bail!("mala: adapt is {}, and steps whose size adapts have no reversal; give adapt = 0", self.adapt);
        }
        self.step(m, chains, z)
    }

    fn step(&self, m: &dyn Density, chains: &mut Chains, z: &mut Noise) -> Result<Stats> {
        let batch = chains.at.x.dim(0)?;
        let squares: Vec<f64> = chains.length.iter().map(|length| length * length).collect();
        let h = chains.sizes.times("mala", &squares, batch, self.step)?;
        let proposal = propose(m, &chains.at, &h, &z.normal_like(&chains.at.x)?)?;
        let settled = proposal.accept_reject(&chains.at, &z.uniform(batch)?)?;
        chains.sizes.adapt(&settled.probability, self.target, self.adapt);
        chains.at = settled.at;
        Ok(settled.stats)
    }
}
