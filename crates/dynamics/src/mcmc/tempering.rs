//! Replica exchange: chains at neighbouring densities swap places with probability
//! min(1, exp(E_i(x_i) - E_i(x_j) + E_j(x_j) - E_j(x_i))). \[Swendsen & Wang 1986; Geyer 1991\]
//!
//! Each density is compared with itself, so constants cancel: rungs need no normaliser, and a score will do. Pairs are
//! even and odd in turn, which carries chains along the ladder faster than pairs drawn at random. \[Syed et al. 2019\]

use super::metropolis::REFUSED;
use super::{AnyKernel, Proposal, Score, Stats, View};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;

/// How far apart both quadratures of a swap may be for a score alone: a path from mode to mode can be too long for them. It is
/// symmetric in both places, so that no swap at all where it is greater leaves the densities as they are too.
const UNSURE: f64 = 0.1;

/// The swap of chains at two densities, seen by each: chain n of the one with chain n of the other. Both sums of their
/// energies are those of `a` and `b`, so that the swap is one proposal of the pair. Those stay
/// whose line integral of the score is not known well enough.
pub fn swap(a: &dyn Score, b: &dyn Score, at_a: &View, at_b: &View, z: &mut Noise) -> Result<(View, View, Stats)> {
    let (to_a, to_b) = (a.look(&at_b.x)?, b.look(&at_a.x)?);
    let (rise_a, rise_b) = (a.delta_energy(at_a, &to_a)?, b.delta_energy(at_b, &to_b)?);
    let error: Vec<f64> = rise_a.error.iter().zip(&rise_b.error).map(|(a, b)| a + b).collect();
    let ratios = rise_a.value.iter().zip(&rise_b.value).map(|(a, b)| -a - b);
    let by_path = at_a.energy.is_none() || at_b.energy.is_none();
    let unsure = |error: f64, ratio: f64| by_path && error > UNSURE && ratio > REFUSED;
    let sure = ratios.zip(&error).map(|(ratio, &error)| if unsure(error, ratio) { REFUSED } else { ratio });
    let log_ratio: Vec<f64> = sure.collect();
    let u = z.uniform(log_ratio.len())?;
    let other = Proposal { to: to_b, log_ratio: log_ratio.clone(), error: vec![0.; log_ratio.len()] };
    let own = Proposal { to: to_a, log_ratio, error }.settle(at_a, &u)?;
    Ok((own.at, other.settle(at_b, &u)?.at, own.stats))
}

/// Chains at one density of a ladder, and what moves them there.
#[derive(Clone, Debug)]
pub struct Rung {
    /// The chains.
    pub at: View,
    /// Adapts to this rung by itself.
    pub kernel: AnyKernel,
    /// Its unit of length, one for all chains or one a chain.
    pub length: Vec<f64>,
}

impl Rung {
    /// Chains that start at `x` `[B, ...]`, in the density `m`.
    pub fn new(m: &dyn Score, x: &Tensor, kernel: &AnyKernel, length: &[f64]) -> Result<Self> {
        kernel.get().check()?;
        Ok(Self { at: m.look(x)?, kernel: kernel.clone(), length: length.to_vec() })
    }
}

/// What happened at a rung in one sweep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Swept {
    /// What the kernel did.
    pub moved: Stats,
    /// What became of the swaps with the rung before, where it was their turn.
    pub swapped: Option<Stats>,
}

/// A step of every rung by its kernel, then swaps of every second pair of neighbours. `densities` are those of the rungs, from
/// the one that chains move about in most freely to the one that is wanted, the last. The last pair is the 0th, the one before
/// the 1st, and so on: those swap whose number is as `turn` modulo 2, so that `turn` grows by 1 from sweep to sweep.
pub fn sweep(rungs: &mut [Rung], densities: &[&dyn Score], turn: usize, z: &mut Noise) -> Result<Vec<Swept>> {
    if rungs.len() != densities.len() {
        bail!("tempering: {} rungs at {} densities; give one each", rungs.len(), densities.len());
    }
    if let Some(pair) = rungs.windows(2).find(|pair| pair[0].at.x.dims() != pair[1].at.x.dims()) {
        let [a, b] = [&pair[0], &pair[1]].map(|rung| rung.at.x.dims());
        bail!("tempering: chains of shape {a:?} and {b:?}; all rungs need the same");
    }
    let mut swept = vec![];
    for (rung, density) in rungs.iter_mut().zip(densities) {
        let (at, moved) = rung.kernel.get_mut().advance(*density, &rung.at, &rung.length, z)?;
        rung.at = at;
        swept.push(Swept { moved, swapped: None });
    }
    let last = rungs.len().saturating_sub(1);
    for cold in (1..=last).filter(|cold| (last - cold) % 2 == turn % 2) {
        let (a, b) = (&rungs[cold - 1].at, &rungs[cold].at);
        let (to_hot, to_cold, stats) = swap(densities[cold - 1], densities[cold], a, b, z)?;
        (rungs[cold - 1].at, rungs[cold].at) = (to_hot, to_cold);
        swept[cold].swapped = Some(stats);
    }
    Ok(swept)
}
