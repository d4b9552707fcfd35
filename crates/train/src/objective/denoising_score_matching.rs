//! Denoising score matching at one level: E |s(x + sigma z) + z / sigma|^2 / 2, z normal, with the score s = -grad E. \[Vincent11\]
//!
//! What it learns is the density of the noisy data, p * N(0, sigma^2 I).

use super::real::{self, Losses};
use super::{Objective, Training, describe};
use crate::options::TrainOptions;
use crate::trainable::Trainable;
use candle_core::{Result, Tensor};
use langevin_dynamics::{Density, Differentiable};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::sum_per_sample;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Denoising score matching of an energy over real numbers, at one level of noise.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DenoisingScoreMatching {
    /// Standard deviation of the noise, in the units of the data.
    pub sigma: f64,
}

impl Default for DenoisingScoreMatching {
    fn default() -> Self {
        Self { sigma: 0.1 }
    }
}

impl Named for DenoisingScoreMatching {
    const NAME: &'static str = "denoising-score-matching";
    const ABOUT: &'static str = "the score at noisy data against that of the noise, one level of it [Vincent11]";
}

impl Losses for DenoisingScoreMatching {
    fn losses(&self, energy: &dyn Differentiable, x: &Tensor, z: &mut Noise) -> Result<Tensor> {
        let noise = z.normal_like(x)?;
        let gradient = energy.energy_grad(&(x.detach() + (&noise * self.sigma)?)?)?.1;
        sum_per_sample(&(gradient - (noise / self.sigma)?)?.sqr()?)? * 0.5
    }
}

impl<M: Trainable + Density> Objective<M> for DenoisingScoreMatching {
    fn description(&self) -> Result<Value> {
        describe(self)
    }

    fn check(&self, _: &M::Spec, _: &TrainOptions) -> Result<()> {
        real::positive("sigma", self.sigma)
    }

    fn start(&self, model: &M) -> Result<Box<dyn Training<M>>> {
        real::start(self, model)
    }
}
