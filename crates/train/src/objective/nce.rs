//! Noise-contrastive estimation: data are told from noise of a known density q, k for each, by G(u) = ln p(u) - ln q(u) - ln k
//! with ln p = -E - log Z: E [ -ln sigmoid(G(x)) - sum over k of ln sigmoid(-G(u)) ]. \[Gutmann10; Gutmann12\]
//!
//! log Z is a parameter of the loss, which the optimiser moves as those of the model; the log tells it. It is least where exp(-E) / Z
//! is the density of the data, Z the integral.

use super::noise_density::Fitted;
use super::real;
use super::{Context, NoiseDensity, Objective, Part, Training, describe};
use crate::inplace;
use crate::options::TrainOptions;
use crate::series::Series;
use crate::state::moved;
use crate::trainable::Trainable;
use candle_core::{Result, Tensor, Var, bail};
use langevin_data::Batch;
use langevin_dynamics::{Density, Differentiable};
use langevin_ops::act::softplus;
use langevin_ops::registry::Named;
use langevin_ops::shape::to_host;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Noise-contrastive estimation of an energy over real numbers, with log Z.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nce {
    /// Samples of the noise for each of the data.
    pub ratio: usize,
    /// The noise; absent: independent normal numbers with the moments of the first batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<NoiseDensity>,
    /// log Z at first.
    pub log_z: f64,
}

impl Default for Nce {
    fn default() -> Self {
        Self { ratio: 1, noise: None, log_z: 0. }
    }
}

impl Named for Nce {
    const NAME: &'static str = "nce";
    const ABOUT: &'static str =
        "data told from noise of a known density, with log Z as a parameter [Gutmann10; Gutmann12]";
}

impl Nce {
    /// The loss of each of the states `x` `[B, ...]` told from `noise` `[k B, ...]` of the density `q`: `[B]`, of which sample i has
    /// the noise of the rows i, B + i and so on. `log_z` is `[1]`.
    pub fn losses(
        energy: &dyn Differentiable,
        log_z: &Tensor,
        x: &Tensor,
        (noise, q): (&Tensor, &NoiseDensity),
    ) -> Result<Tensor> {
        let (n, k) = (x.dim(0)?, noise.dim(0)? / x.dim(0)?.max(1));
        let all = Tensor::cat(&[x, noise], 0)?;
        let known = q.log_density(&all)?.affine(1., (k as f64).ln())?.detach();
        let g = (energy.energy(&all)?.neg()?.broadcast_sub(log_z)? - known)?;
        let of_noise = softplus(&g.narrow(0, n, k * n)?)?.reshape((k, n))?.sum(0)?;
        softplus(&g.narrow(0, 0, n)?.neg()?)? + of_noise
    }
}

impl<M: Trainable + Density> Objective<M> for Nce {
    fn description(&self) -> Result<Value> {
        describe(self)
    }

    fn check(&self, _: &M::Spec, _: &TrainOptions) -> Result<()> {
        real::count("ratio", self.ratio)?;
        if !self.log_z.is_finite() {
            bail!("loss.log_z is {}; it must be a finite number", self.log_z);
        }
        self.noise.as_ref().map_or(Ok(()), NoiseDensity::check)
    }

    fn start(&self, model: &M) -> Result<Box<dyn Training<M>>> {
        real::energy(model, Self::NAME)?;
        let log_z = Tensor::new(&[self.log_z], model.device())?.to_dtype(model.dtype())?;
        Ok(Box::new(Run {
            ratio: self.ratio,
            noise: Fitted::new(self.noise.as_ref()),
            log_z: Var::from_tensor(&log_z)?,
        }))
    }
}

/// What log Z is called in states and logs.
const LOG_Z: &str = "log_z";

/// The loss under way.
struct Run {
    ratio: usize,
    noise: Fitted,
    log_z: Var,
}

impl<M: Trainable + Density> Training<M> for Run {
    fn part(&mut self, model: &M, batch: &Batch, at: &Context) -> Result<Part> {
        let (energy, x) = (real::energy(model, Nce::NAME)?, &batch.x);
        let q = self.noise.of(x)?;
        let noise = q.draw(x, self.ratio, &mut at.noise(x.dim(0)?))?;
        let told = Series::mean(LOG_Z, to_host(&self.log_z.as_detached_tensor())?[0]);
        let part = at.mean(|| Nce::losses(energy, &self.log_z, x, (&noise, &q)))?;
        Ok(Part { series: vec![told], ..part })
    }

    fn vars(&self) -> Vec<(String, Var)> {
        vec![(LOG_Z.into(), self.log_z.clone())]
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok([vec![(LOG_Z.into(), self.log_z.as_detached_tensor())], self.noise.state()?].concat())
    }

    fn restore(&mut self, _: &M, state: &BTreeMap<String, Tensor>) -> Result<()> {
        match state.get(LOG_Z) {
            Some(t) if t.dims() == self.log_z.dims() => inplace::set(&self.log_z, &moved(t, &self.log_z)?)?,
            _ => bail!("does not hold the log_z of its loss"),
        }
        self.noise.restore(state)
    }
}
