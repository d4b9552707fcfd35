//! ln p of states by reverse annealing along the ladder of a density, beside [`Ais`]: rather too small, where that of [`Ais`] is
//! rather too large. \[Burda15\]

use super::{Ais, DensityModel};
use candle_core::{DType, Result, Tensor, bail};
use langevin_dynamics::ladder::{MOST_CHAINS, Reverse};
use serde::{Deserialize, Serialize};

/// How many chains go back from how many states.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raise {
    /// States that are taken of the data; 0 for none.
    pub reverse: usize,
    /// Chains from each.
    pub chains: usize,
}

impl Default for Raise {
    fn default() -> Self {
        Self { reverse: 100, chains: 5 }
    }
}

/// Chains that go together.
const AT_ONCE: usize = 100;

/// Keeps the noise of these chains apart from that of particles of the same seed ("reversed" in ASCII).
const BACK: u64 = 0x7265_7665_7273_6564;

impl Raise {
    /// Errors, naming the option, if one is out of its range.
    pub fn check(&self) -> Result<()> {
        if self.reverse == 1 {
            bail!("reverse is 1; give at least 2 states, whose spread tells the error, or 0 for no reverse annealing");
        }
        if self.chains == 0 || self.chains > MOST_CHAINS {
            bail!("chains is {}; give 1 to {MOST_CHAINS}", self.chains);
        }
        Ok(())
    }

    /// ln p of each of the `states` `[B, ...]` under annealing along the ladder of `model` that [`Ais::log_z`] has for the same
    /// `means`, in nats and f64: see [`Reverse`], whose `names` are the states' numbers, such as their places in the data. `watch` is
    /// told after each rung how many are done, of how many in all.
    ///
    /// Errors if the family knows no ladder, or if the kernel has no reversal.
    pub fn log_p(
        &self,
        (ais, means): (&Ais, Option<&[f64]>),
        model: &DensityModel,
        (states, names): (&Tensor, &[u64]),
        seed: u64,
        watch: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Vec<f64>> {
        ais.check()?;
        self.check()?;
        let ladder = model.ladder(means, ais.rungs)?;
        let (kernel, steps, chains) = (ais.kernel.get(), ais.steps_per_rung, self.chains);
        let way = Reverse { kernel, steps, chains, at_once: AT_ONCE, seed: seed ^ BACK };
        way.log_p(ladder.as_ref(), &states.to_dtype(DType::F64)?, names, watch)
    }
}
