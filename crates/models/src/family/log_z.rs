//! log Z of a density by annealed importance sampling, and the mean of ln p over data. \[Neal01; Salakhutdinov08\]

use super::DensityModel;
use candle_core::{DType, Result, Tensor, bail};
use langevin_dynamics::Density;
use langevin_dynamics::likelihood::{Annealing, LogZ};
use langevin_dynamics::mcmc::{AnyKernel, Gibbs, Mala};
use langevin_ops::noise::Noise;
use langevin_ops::stats::{log_sum_exp, mean_and_error};
use serde::{Deserialize, Serialize};

/// Annealed importance sampling: particles go along the ladder of the density, each a run of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ais {
    /// Densities from the first, which is normalised, to the one that is asked for, in even steps.
    pub rungs: usize,
    /// Particles.
    pub particles: usize,
    /// What moves them at each rung.
    pub kernel: AnyKernel,
    /// Its steps at each.
    pub steps_per_rung: usize,
}

impl Default for Ais {
    fn default() -> Self {
        Self { rungs: 1000, particles: 100, kernel: Gibbs {}.into(), steps_per_rung: 1 }
    }
}

/// Particles that go together: the numbers of one do not depend on the others.
const AT_ONCE: usize = 100;

impl Ais {
    /// Errors, naming the option, if one is out of its range.
    pub fn check(&self) -> Result<()> {
        if self.rungs < 2 || self.rungs > 10_000_000 {
            bail!("rungs is {}; give 2 to 10000000", self.rungs);
        }
        if self.particles < 2 || self.particles > 1 << 24 {
            bail!("particles is {}; give at least 2, whose spread tells the error, and at most 2^24", self.particles);
        }
        if self.steps_per_rung == 0 || self.steps_per_rung > 1_000_000 {
            bail!("steps-per-rung is {}; give 1 to 1000000", self.steps_per_rung);
        }
        self.kernel.get().check()
    }

    /// The same with MALA in place of Gibbs sampling where `model` has no blocks that could be drawn given the rest.
    pub fn suited(self, model: &DensityModel) -> Self {
        match self.kernel {
            AnyKernel::Gibbs(_) if model.as_conditionals().is_none() => Self { kernel: Mala::default().into(), ..self },
            _ => self,
        }
    }

    /// The estimate of log Z of `model`, in f64: that of Z has no bias, so that few rungs give rather too small a value, and too large
    /// a likelihood. The first rung is fitted to the `means` of the data as [`States::rows`](super::States::rows), which makes the way
    /// shorter. `watch` is told after each rung how many are done, of how many in all.
    ///
    /// Errors if the family knows no ladder.
    pub fn log_z(
        &self,
        model: &DensityModel,
        means: Option<&[f64]>,
        seed: u64,
        watch: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<LogZ> {
        self.check()?;
        let (ladder, kernel) = (model.ladder(means, self.rungs)?, self.kernel.clone());
        let way = Annealing { resample: 0., kernel, steps_per_level: self.steps_per_rung, ..Annealing::default() };
        // a batch of one particle would not do
        let batches = (self.particles / AT_ONCE).max(1);
        let (mut log_z, mut done, all) = (vec![], 0, batches * (self.rungs - 1));
        for batch in 0..batches {
            let n = (batch + 1) * self.particles / batches - batch * self.particles / batches;
            let shape = [&[n], model.spec.state_shape().as_slice()].concat();
            let (to, mut z) = ((shape.as_slice(), DType::F64, model.device()), Noise::of_step(seed, batch as u64, n));
            let found = way.along(ladder.as_ref(), to, &mut z, &mut || {
                done += 1;
                watch(done, all)
            })?;
            // weights are up to a constant, which log Z tells
            let mean = log_sum_exp(&found.log_w) - (n as f64).ln();
            log_z.extend(found.log_w.iter().map(|log_w| found.log_z + log_w - mean));
        }
        Ok(LogZ::of(&log_z))
    }
}

impl DensityModel {
    /// ln p of data `x` `[B, ...]`, in f64, given log Z; with latent units that are too many to be summed over, a bound from below.
    ///
    /// Errors if the density has no energy.
    pub fn log_p(&self, x: &Tensor, log_z: f64) -> Result<Vec<f64>> {
        let found = self.to_dtype(DType::F64)?.log_sum(&x.to_dtype(DType::F64)?)?;
        Ok(found.log_sum.iter().map(|log_sum| log_sum - log_z).collect())
    }

    /// The mean of [`DensityModel::log_p`] over `states` `[B, ...]`, and its standard error: of the mean over states as a sample of all, and of log Z.
    pub fn mean_log_p(&self, states: &Tensor, log_z: &LogZ) -> Result<[f64; 2]> {
        let (mean, error) = mean_and_error(&self.log_p(states, log_z.value)?);
        Ok([mean, error.hypot(log_z.error)])
    }
}
