//! Conditional noise-contrastive estimation: which of x and y = x + sigma z is the data? 2 E ln(1 + exp(E(x) - E(y))).
//! \[Ceylan18\]
//!
//! Noise that moves the data goes either way with the same density, so that neither it nor log Z is in the loss.

use super::real::{self, Losses, copies, several};
use super::{Objective, Training, describe};
use crate::options::TrainOptions;
use crate::trainable::Trainable;
use candle_core::{Result, Tensor};
use langevin_dynamics::{Density, Differentiable};
use langevin_ops::act::softplus;
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Conditional noise-contrastive estimation of an energy over real numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConditionalNce {
    /// Standard deviation of the noise, in the units of the data.
    pub sigma: f64,
    /// Noisy samples of each.
    pub ratio: usize,
}

impl Default for ConditionalNce {
    fn default() -> Self {
        Self { sigma: 0.5, ratio: 1 }
    }
}

impl Named for ConditionalNce {
    const NAME: &'static str = "conditional-nce";
    const ABOUT: &'static str = "which is the data, a sample or it with noise? Without log Z [Ceylan18]";
}

impl Losses for ConditionalNce {
    fn losses(&self, energy: &dyn Differentiable, x: &Tensor, z: &mut Noise) -> Result<Tensor> {
        let noise = several(x, self.ratio, |like| z.normal_like(like))?;
        let moved = (copies(x, self.ratio)? + (noise * self.sigma)?)?;
        softplus(&rise(energy, x, &moved)?)?.mean(0)? * 2.
    }
}

/// E(x) - E(y) for the k states `y` `[k B, ...]` of each of `x` `[B, ...]`: `[k, B]`.
pub(super) fn rise(energy: &dyn Differentiable, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (n, k) = (x.dim(0)?, y.dim(0)? / x.dim(0)?.max(1));
    let energies = energy.energy(&Tensor::cat(&[x, y], 0)?)?;
    energies.narrow(0, 0, n)?.unsqueeze(0)?.broadcast_sub(&energies.narrow(0, n, k * n)?.reshape((k, n))?)
}

impl<M: Trainable + Density> Objective<M> for ConditionalNce {
    fn description(&self) -> Result<Value> {
        describe(self)
    }

    fn check(&self, _: &M::Spec, _: &TrainOptions) -> Result<()> {
        real::positive("sigma", self.sigma)?;
        real::count("ratio", self.ratio)
    }

    fn start(&self, model: &M) -> Result<Box<dyn Training<M>>> {
        real::start(self, model)
    }
}
