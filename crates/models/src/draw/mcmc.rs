//! Chains of the density itself, from where it says that they begin.

use super::{ChainSampler, Drawn, Held, NOTED, Watch, adapts, count};
use crate::family::DensityModel;
use candle_core::Result;
use langevin_dynamics::Density;
use langevin_dynamics::density::{Blocks, Capability, Given};
use langevin_dynamics::ladder::Visit;
use langevin_dynamics::mcmc::{AnyKernel, Chains, Gibbs};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Steps of one kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mcmc {
    /// What moves the chains.
    pub kernel: AnyKernel,
    /// Its steps.
    pub steps: usize,
    /// Steps before them in which each chain finds its step size, for a kernel with a test of acceptance.
    pub adapt: usize,
}

impl Default for Mcmc {
    fn default() -> Self {
        Self { kernel: Gibbs {}.into(), steps: 1000, adapt: 0 }
    }
}

impl Named for Mcmc {
    const NAME: &'static str = "mcmc";
    const ABOUT: &'static str = "chains of the density itself, one a sample";
}

impl ChainSampler for Mcmc {
    fn kernel(&self) -> &AnyKernel {
        &self.kernel
    }

    fn check(&self) -> Result<()> {
        count("steps", self.steps, 1..=100_000_000)?;
        adapts(&self.kernel, self.adapt)?;
        self.kernel.get().check()
    }

    fn draw(&self, model: &DensityModel, n: usize, held: Option<&Held>, z: &mut Noise, watch: Watch) -> Result<Drawn> {
        let (kernel, mut x) = (self.kernel.get(), model.body().begin(n, z)?);
        let mut given = None;
        if let Some(held) = held {
            x = held.put(&x)?;
            given = Some(Given::new(Box::new(model as &dyn Density), held.mask_like(&x)?)?);
        }
        let density: &dyn Density = match &given {
            Some(given) => given,
            None => model,
        };
        density.check(kernel.needs())?;
        // energies are asked for where they are noted alone
        let blocks = density.as_conditionals().filter(|_| kernel.needs() == Capability::Conditionals).map(Blocks);
        let walked: &dyn Density = match &blocks {
            Some(blocks) => blocks,
            None => density,
        };
        let mut chains = Chains::new(walked, &x)?;
        chains.adapt(walked, kernel, self.adapt, z)?;
        let (mut visit, every) = (Visit::default(), self.steps.div_ceil(NOTED));
        for step in 1..=self.steps {
            visit.stats += kernel.step(walked, &mut chains, z)?;
            if step % every == 0 {
                visit.trace.record(&density.evaluate(&chains.at.x)?)?;
            }
            watch(step, self.steps)?;
        }
        Ok(Drawn { states: chains.at.x, visits: vec![("the density".into(), visit)] })
    }
}
