//! Replica exchange: chains at neighbouring rungs swap places with probability
//! min(1, exp(E_i(x_i) - E_i(x_j) + E_j(x_j) - E_j(x_i))). \[Swendsen & Wang 1986; Geyer 1991\]
//!
//! Each density is compared with itself, so constants cancel: rungs need no normaliser, and a score will do. Pairs are
//! even and odd in turn, which carries chains along the ladder faster than pairs drawn at random. \[Syed et al. 2019\]
//! Rungs must be densities of the same states: a ladder whose [`Ladder::carry`] changes them has no swaps.

use super::{Ladder, Visit};
use crate::density::{Density, Evaluated};
use crate::mcmc::{Chains, Kernel, Proposal, REFUSED, Stats, StepSizes, difference};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;

/// How far apart both quadratures of a swap may be for a score alone: a path from mode to mode can be too long for them. It is
/// symmetric in both places, so that no swap at all where it is greater leaves the densities as they are too.
const UNSURE: f64 = 0.1;

/// The swap of chains at two densities, seen by each: chain n of the one with chain n of the other. Both sums of their
/// energies are those of `a` and `b`, so that the swap is one proposal of the pair. Those stay
/// whose line integral of the score is not known well enough.
pub fn swap(
    a: &dyn Density,
    b: &dyn Density,
    at_a: &Evaluated,
    at_b: &Evaluated,
    z: &mut Noise,
) -> Result<(Evaluated, Evaluated, Stats)> {
    let (to_a, to_b) = (a.evaluate(&at_b.x)?, b.evaluate(&at_a.x)?);
    let (rise_a, rise_b) = (difference(a, at_a, &to_a)?, difference(b, at_b, &to_b)?);
    let error: Vec<f64> = rise_a.error.iter().zip(&rise_b.error).map(|(a, b)| a + b).collect();
    let ratios = rise_a.value.iter().zip(&rise_b.value).map(|(a, b)| -a - b);
    let by_path = at_a.energy.is_none() || at_b.energy.is_none();
    let unsure = |error: f64, ratio: f64| by_path && error > UNSURE && ratio > REFUSED;
    let sure = ratios.zip(&error).map(|(ratio, &error)| if unsure(error, ratio) { REFUSED } else { ratio });
    let log_ratio: Vec<f64> = sure.collect();
    let u = z.uniform(log_ratio.len())?;
    let other = Proposal { to: to_b, log_ratio: log_ratio.clone(), error: vec![0.; log_ratio.len()] };
    let own = Proposal { to: to_a, log_ratio, error }.accept_reject(at_a, &u)?;
    Ok((own.at, other.accept_reject(at_b, &u)?.at, own.stats))
}

/// What happened at a rung in one sweep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Swept {
    /// What the kernel did.
    pub moved: Stats,
    /// What became of the swaps with the rung before, where it was their turn.
    pub swapped: Option<Stats>,
}

/// A step of `kernel` by the chains of every rung, then swaps of every second pair of neighbours. `chains` are those of the
/// rungs `first`, `first + 1`, ... of the ladder. Pairs are numbered from the last rung back, and pair k swaps when k and `turn`
/// have the same parity: pass `turn + 1` next time.
pub fn sweep(
    kernel: &dyn Kernel,
    ladder: &dyn Ladder,
    first: usize,
    chains: &mut [Chains],
    turn: usize,
    z: &mut Noise,
) -> Result<Vec<Swept>> {
    kernel.check()?;
    if first + chains.len() > ladder.rungs() {
        let last = first + chains.len();
        bail!("replica exchange: chains at the rungs {first} to {last} of a ladder of {}", ladder.rungs());
    }
    if let Some(pair) = chains.windows(2).find(|pair| pair[0].at.x.dims() != pair[1].at.x.dims()) {
        let [a, b] = [&pair[0], &pair[1]].map(|chains| chains.at.x.dims());
        bail!("replica exchange: chains of shape {a:?} and {b:?}; all rungs need the same");
    }
    let densities: Vec<Box<dyn Density>> = (0..chains.len()).map(|i| ladder.density(first + i)).collect();
    let mut swept = vec![];
    for (chains, density) in chains.iter_mut().zip(&densities) {
        density.check(kernel.needs())?;
        swept.push(Swept { moved: kernel.step(density.as_ref(), chains, z)?, swapped: None });
    }
    let last = chains.len().saturating_sub(1);
    for cold in (1..=last).filter(|cold| (last - cold) % 2 == turn % 2) {
        let (hot, own) = (densities[cold - 1].as_ref(), densities[cold].as_ref());
        let (to_hot, to_cold, stats) = swap(hot, own, &chains[cold - 1].at, &chains[cold].at, z)?;
        (chains[cold - 1].at, chains[cold].at) = (to_hot, to_cold);
        swept[cold].swapped = Some(stats);
    }
    Ok(swept)
}

/// Chains at several rungs of a ladder at once.
pub struct Exchange<'a> {
    kernel: &'a dyn Kernel,
    adapt: usize,
    first: usize,
    chains: Vec<Chains>,
    visits: Vec<Visit>,
    sweeps: usize,
    every: usize,
}

impl<'a> Exchange<'a> {
    /// No chains yet. Those of a new rung first adapt their step sizes in `adapt` steps, from the sizes of the rung before; with
    /// 0 each begins with those of `kernel`.
    pub fn new(kernel: &'a dyn Kernel, adapt: usize) -> Self {
        Self { kernel, adapt, first: 0, chains: vec![], visits: vec![], sweeps: 0, every: 1 }
    }

    /// The course of the chains is noted every `n`th sweep.
    pub fn noted_every(self, n: usize) -> Self {
        Self { every: n.max(1), ..self }
    }

    /// The chains `x` `[B, ...]` as those of the next rung of the ladder, beside those of at most `most` - 1 rungs before it.
    pub fn join(&mut self, ladder: &dyn Ladder, x: &Tensor, most: usize, z: &mut Noise) -> Result<()> {
        let rung = self.visits.len();
        self.kernel.check()?;
        if rung >= ladder.rungs() || most == 0 {
            bail!(
                "replica exchange: rung {rung} of a ladder of {}, at most {most} kept; there is none",
                ladder.rungs()
            );
        }
        let density = ladder.density(rung);
        density.check(self.kernel.needs())?;
        let last = self.chains.last().filter(|_| self.adapt > 0);
        let sizes = last.map_or_else(StepSizes::default, |last| last.sizes.clone());
        let mut chains = Chains { at: density.evaluate(x)?, length: ladder.length(rung), sizes };
        chains.adapt(density.as_ref(), self.kernel, self.adapt, z)?;
        while self.chains.len() >= most {
            self.chains.remove(0);
            self.first += 1;
        }
        self.chains.push(chains);
        self.visits.push(Visit::default());
        Ok(())
    }

    /// A step of all chains, and swaps: each pair in every second sweep, a new one in the first of its own if there is one
    /// sweep a rung.
    pub fn sweep(&mut self, ladder: &dyn Ladder, z: &mut Noise) -> Result<()> {
        let turn = self.visits.len().saturating_sub(1) + self.sweeps;
        let swept = sweep(self.kernel, ladder, self.first, &mut self.chains, turn, z)?;
        self.sweeps += 1;
        for ((visit, chains), swept) in self.visits[self.first..].iter_mut().zip(&self.chains).zip(swept) {
            visit.add(Some(&chains.at).filter(|_| self.sweeps.is_multiple_of(self.every)), &swept)?;
        }
        Ok(())
    }

    /// The chains of the last rung so far.
    pub fn last(&self) -> Result<&Evaluated> {
        match self.chains.last() {
            Some(chains) => Ok(&chains.at),
            None => bail!("replica exchange: no chains have joined it"),
        }
    }

    /// What happened at each rung so far.
    pub fn visits(&self) -> &[Visit] {
        &self.visits
    }

    /// From `x` `[B, ...]` at the first rung: each rung joins in turn, then come `sweeps` sweeps of the last `most` rungs. States of
    /// the last rung, and what happened at each.
    pub fn run(
        mut self,
        ladder: &dyn Ladder,
        x: &Tensor,
        sweeps: usize,
        most: usize,
        z: &mut Noise,
    ) -> Result<(Tensor, Vec<Visit>)> {
        self.kernel.check()?;
        let mut x = x.clone();
        for _ in 0..ladder.rungs() {
            self.join(ladder, &x, most, z)?;
            for _ in 0..sweeps {
                self.sweep(ladder, z)?;
            }
            x = self.last()?.x.clone();
        }
        Ok((x, self.visits))
    }
}
