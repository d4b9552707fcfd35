//! Annealed MCMC along the ladder of a density: some steps at each rung in turn. What is drawn is near the density, the nearer the
//! more rungs and steps there are.

use super::{ChainSampler, Drawn, Held, NOTED, Watch, adapts, begin, count};
use crate::family::DensityModel;
use candle_core::Result;
use langevin_dynamics::Ladder;
use langevin_dynamics::ladder;
use langevin_dynamics::mcmc::{AnyKernel, Gibbs};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// One chain a sample.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Annealed {
    /// What moves the chains.
    pub kernel: AnyKernel,
    /// Rungs, from independent numbers to the density.
    pub rungs: usize,
    /// Steps at each.
    pub steps_per_rung: usize,
    /// Steps in which the chains first find their step sizes at each, for a kernel with a test of acceptance.
    pub adapt: usize,
}

impl Default for Annealed {
    fn default() -> Self {
        Self { kernel: Gibbs {}.into(), rungs: 1000, steps_per_rung: 1, adapt: 0 }
    }
}

impl Named for Annealed {
    const NAME: &'static str = "annealed-mcmc";
    const ABOUT: &'static str = "one chain a sample, from independent numbers to the density";
}

impl ChainSampler for Annealed {
    fn kernel(&self) -> &AnyKernel {
        &self.kernel
    }

    fn check(&self) -> Result<()> {
        count("rungs", self.rungs, 2..=10_000_000)?;
        count("steps_per_rung", self.steps_per_rung, 1..=100_000_000)?;
        adapts(&self.kernel, self.adapt)?;
        self.kernel.get().check()
    }

    fn draw(&self, model: &DensityModel, n: usize, held: Option<&Held>, z: &mut Noise, watch: Watch) -> Result<Drawn> {
        let ladder = model.ladder(None, self.rungs)?;
        let (mut x, conditioned) = begin(model, ladder.as_ref(), n, held, z)?;
        let ladder: &dyn Ladder = conditioned.as_ref().map_or(ladder.as_ref(), |given| given);
        let mut run = ladder::Annealed::new(self.kernel.get(), self.adapt, self.steps_per_rung);
        let (mut visits, every) = (vec![], self.rungs.div_ceil(NOTED));
        for rung in 0..self.rungs {
            let (at, visit) = run.rung(ladder, rung, &x, z)?;
            if rung.is_multiple_of(every) || rung + 1 == self.rungs {
                visits.push((ladder.name(rung), visit));
            }
            x = if rung + 1 < self.rungs { ladder.carry(rung, &at.x)? } else { at.x };
            watch(rung + 1, self.rungs)?;
        }
        Ok(Drawn { states: x, visits })
    }
}
