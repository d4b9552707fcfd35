//! Gibbs sampling: each block in turn is drawn anew given the rest. \[Geman & Geman 1984\]
//!
//! Every draw leaves the density exactly as it is, so nothing is refused and there is no step size. With blocks as large as
//! the model allows, such as all hidden units of an RBM, it is block Gibbs.

use super::{Chains, Kernel, Stats};
use crate::density::{Capability, Density};
use candle_core::{Result, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// All blocks once a step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gibbs {}

impl Named for Gibbs {
    const NAME: &'static str = "gibbs";
    const ABOUT: &'static str = "each block drawn given the rest, for states with conditionals [Geman & Geman 1984]";
}

impl Kernel for Gibbs {
    fn needs(&self) -> Capability {
        Capability::Conditionals
    }

    fn exact(&self) -> bool {
        true
    }

    fn step(&self, m: &dyn Density, chains: &mut Chains, z: &mut Noise) -> Result<Stats> {
        let Some(conditionals) = m.as_conditionals() else {
            bail!("gibbs: the density has no blocks that can be drawn given the rest; take mala, hmc or langevin");
        };
        let mut x = chains.at.x.clone();
        for block in 0..conditionals.blocks() {
            x = conditionals.draw(block, &x, None, z)?;
        }
        chains.at = m.evaluate(&x)?;
        let moved = chains.at.x.dim(0)? as u64;
        Ok(Stats { proposed: moved, accepted: moved, ..Stats::default() })
    }
}
