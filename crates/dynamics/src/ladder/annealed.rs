//! Annealed MCMC: at each rung of a ladder some steps of a kernel, and nothing between the rungs but the scale of the
//! states. \[Du23, Alg. 1; Song19, Alg. 1\]

use super::{Ladder, Visit};
use crate::density::{Density, Evaluated};
use crate::mcmc::{Chains, Kernel, StepSizes};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;

/// `steps` steps of `kernel` from where the `chains` of the density `m` are: what happened.
pub fn visit(m: &dyn Density, kernel: &dyn Kernel, chains: &mut Chains, steps: usize, z: &mut Noise) -> Result<Visit> {
    let mut visit = Visit::default();
    for _ in 0..steps {
        visit.stats += kernel.step(m, chains, z)?;
        visit.trace.record(&chains.at)?;
    }
    Ok(visit)
}

/// Chains on their way along a ladder.
pub struct Annealed<'a> {
    kernel: &'a dyn Kernel,
    adapt: usize,
    steps: usize,
    sizes: StepSizes,
}

impl<'a> Annealed<'a> {
    /// `steps` steps of `kernel` at each rung, and before them `adapt` in which each chain finds its step size there, which are
    /// not told of: the unit of length of a rung may be no measure of its density.
    pub fn new(kernel: &'a dyn Kernel, adapt: usize, steps: usize) -> Self {
        Self { kernel, adapt, steps, sizes: StepSizes::default() }
    }

    /// The chains `x` `[B, ...]` after the steps at a rung.
    pub fn rung(&mut self, ladder: &dyn Ladder, rung: usize, x: &Tensor, z: &mut Noise) -> Result<(Evaluated, Visit)> {
        self.kernel.check()?;
        if rung >= ladder.rungs() {
            bail!("annealed chains: rung {rung} of a ladder of {}; there is none", ladder.rungs());
        }
        let density = ladder.density(rung);
        density.check(self.kernel.needs())?;
        let sizes = std::mem::take(&mut self.sizes);
        let mut chains = Chains { at: density.evaluate(x)?, length: ladder.length(rung), sizes };
        chains.adapt(density.as_ref(), self.kernel, self.adapt, z)?;
        let visit = visit(density.as_ref(), self.kernel, &mut chains, self.steps, z)?;
        self.sizes = chains.sizes;
        Ok((chains.at, visit))
    }

    /// From `x` `[B, ...]` at the first rung through all of them: states of the last, and what happened at each.
    pub fn run(&mut self, ladder: &dyn Ladder, x: &Tensor, z: &mut Noise) -> Result<(Tensor, Vec<Visit>)> {
        let (mut x, mut visits) = (x.clone(), vec![]);
        for rung in 0..ladder.rungs() {
            let (at, visit) = self.rung(ladder, rung, &x, z)?;
            visits.push(visit);
            x = if rung + 1 < ladder.rungs() { ladder.carry(rung, &at.x)? } else { at.x };
        }
        Ok((x, visits))
    }
}
