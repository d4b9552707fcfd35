//! Replica exchange along the ladder of a density: chains at every rung, which swap places with their neighbours.
//! \[Swendsen & Wang 1986; Geyer 1991\]

use super::{ChainSampler, Drawn, Held, NOTED, Watch, adapts, begin, count};
use crate::family::DensityModel;
use candle_core::Result;
use langevin_dynamics::Ladder;
use langevin_dynamics::ladder::Exchange;
use langevin_dynamics::mcmc::{AnyKernel, Gibbs};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// A replica of each sample at every rung.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tempering {
    /// What moves the chains.
    pub kernel: AnyKernel,
    /// Rungs, from independent numbers to the density: so many that neighbours swap often.
    pub rungs: usize,
    /// Steps of the chains at every rung, each followed by swaps of every second pair.
    pub sweeps: usize,
    /// Steps in which the chains of a rung first find their step sizes, for a kernel with a test of acceptance.
    pub adapt: usize,
}

impl Default for Tempering {
    fn default() -> Self {
        Self { kernel: Gibbs {}.into(), rungs: 20, sweeps: 200, adapt: 0 }
    }
}

impl Named for Tempering {
    const NAME: &'static str = "tempering";
    const ABOUT: &'static str =
        "replica exchange from independent numbers to the density [Swendsen & Wang 1986; Geyer 1991]";
}

impl ChainSampler for Tempering {
    fn kernel(&self) -> &AnyKernel {
        &self.kernel
    }

    fn check(&self) -> Result<()> {
        count("rungs", self.rungs, 2..=100_000).and(count("sweeps", self.sweeps, 1..=100_000_000))?;
        adapts(&self.kernel, self.adapt)?;
        self.kernel.get().check()
    }

    fn draw(&self, model: &DensityModel, n: usize, held: Option<&Held>, z: &mut Noise, watch: Watch) -> Result<Drawn> {
        let ladder = model.ladder(None, self.rungs)?;
        let (mut x, conditioned) = begin(model, ladder.as_ref(), n, held, z)?;
        let ladder: &dyn Ladder = conditioned.as_ref().map_or(ladder.as_ref(), |given| given);
        let every = (self.rungs + self.sweeps).div_ceil(NOTED);
        let (mut exchange, all) =
            (Exchange::new(self.kernel.get(), self.adapt).noted_every(every), self.rungs + self.sweeps);
        for done in 0..all {
            if done < self.rungs {
                exchange.join(ladder, &x, self.rungs, z)?;
            }
            exchange.sweep(ladder, z)?;
            x = exchange.last()?.x.clone();
            watch(done + 1, all)?;
        }
        let visits = exchange.visits().iter().enumerate().map(|(rung, visit)| (ladder.name(rung), visit.clone()));
        Ok(Drawn { states: x, visits: visits.collect() })
    }
}
