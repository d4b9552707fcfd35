//! Gibbs sampling: each block in turn is drawn anew given the rest. \[Geman & Geman 1984\]
//!
//! Every draw leaves the density exactly as it is, so nothing is refused and there is no step size. With blocks as large as
//! the model allows, such as all hidden units of an RBM, it is block Gibbs.

use super::{Chains, Kernel, Stats};
use crate::density::{Capability, Conditionals, Density};
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
        let blocks = blocks(m)?;
        sweep(m, blocks, 0..blocks.blocks(), chains, z)
    }

    /// The blocks in reverse order: the draw of each is reversible, that of several in turn is not.
    fn step_back(&self, m: &dyn Density, chains: &mut Chains, z: &mut Noise) -> Result<Stats> {
        let blocks = blocks(m)?;
        sweep(m, blocks, (0..blocks.blocks()).rev(), chains, z)
    }
}

fn blocks(m: &dyn Density) -> Result<&dyn Conditionals> {
    match m.as_conditionals() {
        Some(blocks) => Ok(blocks),
        None => bail!("gibbs: the density has no blocks that can be drawn given the rest; take mala, hmc or langevin"),
    }
}

/// Each block once, in this `order`.
fn sweep(
    m: &dyn Density,
    blocks: &dyn Conditionals,
    order: impl Iterator<Item = usize>,
    chains: &mut Chains,
    z: &mut Noise,
) -> Result<Stats> {
    let mut x = chains.at.x.clone();
    for block in order {
        x = blocks.draw(block, &x, None, z)?;
    }
    chains.at = m.evaluate(&x)?;
    let moved = chains.at.x.dim(0)? as u64;
    Ok(Stats { proposed: moved, accepted: moved, ..Stats::default() })
}
