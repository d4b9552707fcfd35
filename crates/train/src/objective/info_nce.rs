//! Ranking noise-contrastive estimation (InfoNCE): which of a sample and k of the noise q is the data? E -ln of the share of the
//! data's w among all k + 1, with w = exp(-E) / q. \[Ma18; Oord18\]
//!
//! log Z is in every w alike, and so in none of the shares.

use super::noise_density::Fitted;
use super::real::{self, log_sum_exp};
use super::{Context, NoiseDensity, Objective, Part, Training, describe};
use crate::options::TrainOptions;
use crate::trainable::Trainable;
use candle_core::{Result, Tensor};
use langevin_data::Batch;
use langevin_dynamics::{Density, Differentiable};
use langevin_ops::act::softplus;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Ranking noise-contrastive estimation of an energy over real numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InfoNce {
    /// Samples of the noise for each of the data.
    pub ratio: usize,
    /// The noise; absent: independent normal numbers with the moments of the first batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<NoiseDensity>,
}

impl Default for InfoNce {
    fn default() -> Self {
        Self { ratio: 16, noise: None }
    }
}

impl Named for InfoNce {
    const NAME: &'static str = "info-nce";
    const ABOUT: &'static str = "which of a sample and several of the noise is the data? Without log Z [Ma18; Oord18]";
}

impl InfoNce {
    /// The loss of each of the states `x` `[B, ...]` among `noise` `[k B, ...]` of the density `q`: `[B]`, of which sample i has the
    /// noise of the rows i, B + i and so on.
    pub fn losses(energy: &dyn Differentiable, x: &Tensor, (noise, q): (&Tensor, &NoiseDensity)) -> Result<Tensor> {
        let (n, k) = (x.dim(0)?, noise.dim(0)? / x.dim(0)?.max(1));
        let all = Tensor::cat(&[x, noise], 0)?;
        let log_w = (energy.energy(&all)?.neg()? - q.log_density(&all)?.detach())?;
        let (data, others) = (log_w.narrow(0, 0, n)?.unsqueeze(0)?, log_w.narrow(0, n, k * n)?.reshape((k, n))?);
        softplus(&log_sum_exp(&others.broadcast_sub(&data)?)?)
    }
}

impl<M: Trainable + Density> Objective<M> for InfoNce {
    fn description(&self) -> Result<Value> {
        describe(self)
    }

    fn check(&self, _: &M::Spec, _: &TrainOptions) -> Result<()> {
        real::count("ratio", self.ratio)?;
        self.noise.as_ref().map_or(Ok(()), NoiseDensity::check)
    }

    fn start(&self, model: &M) -> Result<Box<dyn Training<M>>> {
        real::energy(model, Self::NAME)?;
        Ok(Box::new(Run { ratio: self.ratio, noise: Fitted::new(self.noise.as_ref()) }))
    }
}

/// The loss under way.
struct Run {
    ratio: usize,
    noise: Fitted,
}

impl<M: Trainable + Density> Training<M> for Run {
    fn part(&mut self, model: &M, batch: &Batch, at: &Context) -> Result<Part> {
        let (energy, x) = (real::energy(model, InfoNce::NAME)?, &batch.x);
        let q = self.noise.of(x)?;
        let noise = q.draw(x, self.ratio, &mut at.noise(x.dim(0)?))?;
        at.mean(|| InfoNce::losses(energy, x, (&noise, &q)))
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.noise.state()
    }

    fn restore(&mut self, _: &M, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.noise.restore(state)
    }
}
