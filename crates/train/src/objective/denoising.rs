//! Denoising score matching: E lambda(t) |x0-hat(x_t) - x_0|^2, x_t = alpha x_0 + sigma eps. [Vincent11; Karras22, eq. 8]
//!
//! Asked of the network's output, where it has unit size: lambda c_out^2 |F - (x_0 - c_skip x_t) / c_out|^2, a mean over
//! components. Its minimum is the exact denoiser, where it is the mean of lambda times the variance of x_0 given x_t.

use super::levels::{self, Drawn, Levels};
use super::{Context, Noisy, Objective, Part, Training, describe, dual};
use crate::level::{self, AnyLevel, Draw};
use crate::options::TrainOptions;
use crate::weight::AnyWeight;
use candle_core::{Result, Tensor};
use langevin_data::Batch;
use langevin_dynamics::{Cond, Denoiser, Preconditioned, Process};
use langevin_models::{Model, ModelSpec};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::{mean_per_sample, scale};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The loss of every parametrisation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Denoising {
    /// How much an error counts at each level.
    pub weight: AnyWeight,
    /// Which levels are drawn.
    pub level: AnyLevel,
}

impl Named for Denoising {
    const NAME: &'static str = "denoising";
    const ABOUT: &'static str = "the error of the denoised data, weighed by noise level [Vincent11; Ho20; Karras22]";
}

impl Denoising {
    /// The levels of a batch; each sample's loss is to be multiplied with its factor.
    pub fn draws(&self, process: &dyn Process, batch: usize, z: &mut Noise) -> Result<Vec<Draw>> {
        level::draws(self.level.get(), process, batch, z)
    }

    /// lambda |x0-hat - x_0|^2 of each sample at its level, averaged over components: `[B, ...] -> [B]`.
    ///
    /// Inside `grad::value_and_grad` it can be differentiated in the network's weights. `sigma_data` is that of the model.
    pub fn losses(
        &self,
        model: &Preconditioned,
        sigma_data: f64,
        x0: &Tensor,
        draws: &[Draw],
        z: &mut Noise,
    ) -> Result<Tensor> {
        let noisy = Noisy::new(model.process(), x0, draws.iter().map(|d| d.t).collect(), z)?;
        self.errors(model, sigma_data, &noisy, &noisy.target(model)?)
    }

    /// lambda c_out^2 |F - target|^2 of each sample, averaged over components: `[B]`. As [`Denoising::losses`] where
    /// `target`, the shape of x, is that of the data.
    pub fn errors(&self, model: &Preconditioned, sigma_data: f64, noisy: &Noisy, target: &Tensor) -> Result<Tensor> {
        let weight = |&t: &f64| {
            let (m, c) = (model.process().marginal(t), model.coefficients(t));
            self.weight.get().lambda(&m, sigma_data) * c.c_out * c.c_out
        };
        let weights: Vec<f64> = noisy.t.iter().map(weight).collect();
        let error = (model.output(&noisy.x, &noisy.t)? - target)?;
        scale(&mean_per_sample(&error.sqr()?)?, &weights) // [B]
    }
}

impl Objective<Model> for Denoising {
    fn description(&self) -> Result<Value> {
        describe(self)
    }

    fn check(&self, spec: &ModelSpec, options: &TrainOptions) -> Result<()> {
        self.weight.get().check()?;
        self.level.get().check()?;
        dual::normalises(0., spec)?;
        levels::can_hide(spec, options)
    }

    fn start(&self, _: &Model) -> Result<Box<dyn Training<Model>>> {
        Ok(Box::new(Run::new(self)))
    }
}

/// The loss under way.
pub(super) struct Run {
    loss: Denoising,
    levels: Levels,
}

impl Run {
    pub fn new(loss: &Denoising) -> Self {
        Self { loss: loss.clone(), levels: Levels::new(&loss.level) }
    }

    /// The part of a batch whose network is to give `target`.
    pub fn towards(
        &mut self,
        model: &Model,
        batch: &Batch,
        at: &Context,
        target: impl FnOnce(&Preconditioned, &Drawn) -> Result<Tensor>,
    ) -> Result<Part> {
        let drawn = self.levels.draw(model, batch, at.options, &mut at.noise(batch.x.dim(0)?))?;
        let denoiser = model.denoiser(Cond { conditions: drawn.told.clone(), dropout: Some(at.dropout()) })?;
        let target = target(&denoiser, &drawn)?;
        let losses = || self.loss.errors(&denoiser, model.spec.sigma_data, &drawn.noisy, &target);
        let (losses, grads) = at.weighed(&drawn.factors(at), losses)?;
        Ok(self.levels.part(model, at, drawn.draws, losses, grads))
    }
}

impl Training<Model> for Run {
    fn part(&mut self, model: &Model, batch: &Batch, at: &Context) -> Result<Part> {
        self.towards(model, batch, at, |denoiser, drawn| drawn.noisy.target(denoiser))
    }

    fn place(&self, model: &Model, i: usize) -> Option<String> {
        self.levels.place(model, i)
    }

    fn updated(&mut self) {
        self.levels.updated();
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.levels.state()
    }

    fn restore(&mut self, _: &Model, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.levels.restore(state)
    }
}
