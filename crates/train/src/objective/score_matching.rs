//! Score matching: E [ div s + |s|^2 / 2 ] with the score s = -grad E, half the Fisher divergence between data and model but for
//! a constant. \[Hyvarinen05\] Its gradient needs neither log Z nor samples of the model.
//!
//! The divergence is exact, in D gradients of the score, or that along random directions v, E v^T (ds/dx) v; then the square is
//! that along them too, (v . s)^2 (sliced), or the whole (sliced with reduced variance). \[Song19b\]

use super::real::{self, Losses, copies, several};
use super::{Objective, Training, describe};
use crate::options::TrainOptions;
use crate::trainable::Trainable;
use candle_core::{Result, Tensor, bail};
use langevin_dynamics::{Density, Differentiable};
use langevin_ops::grad;
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::sum_per_sample;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How the divergence of the score is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Divergence {
    /// As it is: the sum of D second derivatives, one gradient each.
    #[default]
    Exact,
    /// Along random directions, as is the square of the score. \[Song19b\]
    Sliced,
    /// Along random directions, beside the whole square of the score. \[Song19b\]
    SlicedVarianceReduced,
}

/// Score matching of an energy over real numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreMatching {
    /// How the divergence of the score is taken: "exact", "sliced" or "sliced-variance-reduced".
    pub divergence: Divergence,
    /// Random directions a sample, of signs, where it is not exact.
    pub slices: usize,
}

impl Default for ScoreMatching {
    fn default() -> Self {
        Self { divergence: Divergence::Exact, slices: 1 }
    }
}

impl Named for ScoreMatching {
    const NAME: &'static str = "score-matching";
    const ABOUT: &'static str =
        "the divergence of the score and half its square, exact or along random directions [Hyvarinen05; Song19b]";
}

impl Losses for ScoreMatching {
    fn losses(&self, energy: &dyn Differentiable, x: &Tensor, z: &mut Noise) -> Result<Tensor> {
        let (n, d) = (x.dim(0)?, x.elem_count() / x.dim(0)?.max(1));
        let (k, along) = match self.divergence {
            Divergence::Exact => (d, several(x, d, |like| axes(like, d))?),
            _ => (self.slices, several(x, self.slices, |like| z.rademacher_like(like))?),
        };
        let mut score = None;
        let bent = grad::divergence(&copies(&x.detach(), k)?, &along, |x| {
            let found = energy.energy_grad(x)?.1.neg()?;
            score = Some(found.clone());
            Ok(found)
        })?;
        let Some(score) = score else { bail!("loss.name is {}: no score was computed", Self::NAME) };
        let bent = bent.reshape((k, n))?;
        let whole = || sum_per_sample(&score.narrow(0, 0, n)?.sqr()?);
        match self.divergence {
            Divergence::Exact => bent.sum(0)? + (whole()? * 0.5)?,
            Divergence::Sliced => {
                let part = sum_per_sample(&(&along * &score)?)?.sqr()?.reshape((k, n))?;
                (bent + (part * 0.5)?)?.mean(0)
            }
            Divergence::SlicedVarianceReduced => bent.mean(0)? + (whole()? * 0.5)?,
        }
    }
}

/// The D axes for each of the samples of `like` `[B, D, ...]`.
fn axes(like: &Tensor, d: usize) -> Result<Tensor> {
    let n = like.dim(0)?;
    Tensor::eye(d, like.dtype(), like.device())?.unsqueeze(0)?.repeat((n, 1, 1))?.reshape(like.shape())
}

impl<M: Trainable + Density> Objective<M> for ScoreMatching {
    fn description(&self) -> Result<Value> {
        describe(self)
    }

    fn check(&self, _: &M::Spec, _: &TrainOptions) -> Result<()> {
        real::count("slices", self.slices)
    }

    fn start(&self, model: &M) -> Result<Box<dyn Training<M>>> {
        real::start(self, model)
    }
}
