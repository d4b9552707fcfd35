//! What is learnt. An objective is options; started, it is a run, which makes the gradients and keeps what it must remember.
//!
//! Trainer and state know nothing else of it: a new one is a new file, in this workspace or in any other.

mod conditional_nce;
mod contrastive_divergence;
mod denoising;
mod denoising_score_matching;
mod distillation;
mod dual;
mod energy_discrepancy;
mod info_nce;
mod levels;
mod nce;
mod noise_density;
mod real;
mod score_matching;
mod walkers;

pub use conditional_nce::ConditionalNce;
pub use contrastive_divergence::{ContrastiveDivergence, EnergyGradient};
pub use denoising::Denoising;
pub use denoising_score_matching::DenoisingScoreMatching;
pub use distillation::{Distillation, Teacher};
pub use dual::Dual;
pub use energy_discrepancy::EnergyDiscrepancy;
pub use info_nce::InfoNce;
pub use levels::Noisy;
pub use nce::Nce;
pub use noise_density::NoiseDensity;
pub use real::Losses;
pub use score_matching::{Divergence, ScoreMatching};

use crate::options::{SecondOrder, TrainOptions};
use crate::series::Series;
use crate::trainable::Trainable;
use candle_core::{Error, Result, Tensor, Var};
use langevin_data::Batch;
use langevin_models::{DensityModel, DensitySpec, Model, ModelSpec};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::{scale, to_host};
use langevin_ops::{grad, registry, tape};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// What is learnt of models `M`: the options of a loss.
pub trait Objective<M: Trainable>: Send + Sync + std::fmt::Debug {
    /// Its name and options: what must be the same for a run to go on. [`describe`] makes it of a struct with serde.
    fn description(&self) -> Result<Value>;

    /// Errors, naming the options, if it makes no sense for a model of `spec` that is trained so.
    fn check(&self, _spec: &M::Spec, _options: &TrainOptions) -> Result<()> {
        Ok(())
    }

    /// A run of it at step 0.
    fn start(&self, model: &M) -> Result<Box<dyn Training<M>>>;
}

/// An objective under way, with all that it remembers from batch to batch.
pub trait Training<M: Trainable>: Send + Sync {
    /// What a batch adds to the step.
    fn part(&mut self, model: &M, batch: &Batch, at: &Context) -> Result<Part>;

    /// Parameters of its own, by name, which the optimiser moves with those of the model: gradients have theirs last. They are not
    /// averaged, and [`Training::state`] has them too.
    fn vars(&self) -> Vec<(String, Var)> {
        vec![]
    }

    /// Where the `i`-th sample of the step under way was asked for, such as its noise level: for errors.
    fn place(&self, _model: &M, _i: usize) -> Option<String> {
        None
    }

    /// The step under way has moved the model. One that has failed has not; the next begins with its first part.
    fn updated(&mut self) {}

    /// All that must be saved for the run to go on, by name.
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(vec![])
    }

    /// Takes [`Training::state`] back; the tensors are on the CPU.
    fn restore(&mut self, _model: &M, _state: &BTreeMap<String, Tensor>) -> Result<()> {
        Ok(())
    }

    /// What it can tell of the model on `batch`, beside the losses of training.
    fn measure(&self, _model: &M, _batch: &Batch, _options: &TrainOptions) -> Result<Vec<Series>> {
        Ok(vec![])
    }
}

/// What a batch adds to a step.
#[derive(Debug)]
pub struct Part {
    /// The loss of each sample, as it counts in the step's mean.
    pub losses: Vec<f64>,
    /// The gradient, in the order of the parameters, those of the model before those of the loss: those of the parts of a step add up to that of its mean loss.
    pub grads: Vec<Tensor>,
    /// What else is to be told: means over the batch.
    pub series: Vec<Series>,
}

/// Where in a run a batch is. All that is random in it is a function of the run's seed and the batch's number.
pub struct Context<'a> {
    /// The numbers of the run.
    pub options: &'a TrainOptions,
    /// Steps made before this one.
    pub step: u64,
    /// Number of the batch in its step, below `train.accumulate`.
    pub part: usize,
    /// Samples of the whole step, over which the loss is a mean.
    pub total: usize,
    vars: &'a [Var],
}

/// Keeps the streams of dropout apart from those of the noise ("dropout" in ASCII).
const DROPOUT: u64 = 0x0064_726f_706f_7574;

impl<'a> Context<'a> {
    /// Of part `part` of the step after `step`, in which `total` samples train `vars`.
    pub fn new(options: &'a TrainOptions, step: u64, part: usize, total: usize, vars: &'a [Var]) -> Self {
        Self { options, step, part, total, vars }
    }

    /// Number of the batch in the run.
    pub fn batch(&self) -> u64 {
        self.step * self.options.accumulate as u64 + self.part as u64
    }

    /// The noise of the batch, a stream for each of `samples`.
    pub fn noise(&self, samples: usize) -> Noise {
        self.noise_of(0, samples)
    }

    /// Noise for another `purpose`, any number of one's own, apart from that of the batch itself and from those of other seeds.
    pub fn noise_for(&self, purpose: u64, samples: usize) -> Noise {
        self.noise_of(purpose.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15), samples)
    }

    /// The noise of the seed that differs in the bits of `key`.
    pub(crate) fn noise_of(&self, key: u64, samples: usize) -> Noise {
        Noise::of_step(self.options.seed ^ key, self.batch(), samples)
    }

    /// The key of the batch's dropout masks.
    pub fn dropout(&self) -> u64 {
        // an odd factor: no two (seed, n) of a run share a key, and none is the seed of the noise itself
        (self.options.seed ^ DROPOUT).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(self.batch())
    }

    /// The value of `loss`, one number, and its gradient in the parameters, taken as the options have it.
    ///
    /// For losses that are differentiated; one with a gradient in closed form need not come here.
    pub fn gradient(&self, loss: impl FnOnce() -> Result<Tensor>) -> Result<(Tensor, Vec<Tensor>)> {
        let differences = self.options.second_order == SecondOrder::FiniteDifference;
        let taken = || grad::differences(differences, || grad::value_and_grad(self.vars, loss));
        tape::recompute(self.options.recompute, taken)
    }

    /// The part of a batch with these `losses`, `[B]`.
    pub fn mean(&self, losses: impl FnOnce() -> Result<Tensor>) -> Result<Part> {
        let (losses, grads) = self.weighed(&[1. / self.total as f64], losses)?;
        Ok(Part { losses, grads, series: vec![] })
    }

    /// `losses` `[B]`, and the gradient of their sum with these factors, one or one a sample.
    pub(crate) fn weighed(
        &self,
        factors: &[f64],
        losses: impl FnOnce() -> Result<Tensor>,
    ) -> Result<(Vec<f64>, Vec<Tensor>)> {
        let mut each = None;
        let (_, grads) = self.gradient(|| {
            let losses = losses()?;
            each = Some(losses.detach());
            scale(&losses, factors)?.sum_all()
        })?;
        Ok((each.map(|t| to_host(&t)).transpose()?.unwrap_or_default(), grads))
    }
}

/// The name and the options of `objective`, as JSON.
pub fn describe<T: Named + Serialize>(objective: &T) -> Result<Value> {
    let mut all = serde_json::Map::from_iter([("name".to_string(), T::NAME.into())]);
    match serde_json::to_value(objective) {
        Ok(Value::Object(options)) => all.extend(options),
        Ok(Value::Null) => {} // a struct without options
        Ok(other) => {
            return Err(Error::Msg(format!("loss `{}`: options are a struct with names, not {other}", T::NAME)));
        }
        Err(e) => return Err(Error::Msg(format!("loss `{}` cannot be written as JSON: {e}", T::NAME))),
    }
    Ok(Value::Object(all))
}

registry! {
    /// Any objective for models of this workspace, as configurations name it.
    pub enum AnyObjective: Objective<Model> = "loss" { Denoising, Dual }
}

registry! {
    /// Any objective for densities that no process belongs to, as configurations name it.
    pub enum AnyDensityObjective: Objective<DensityModel> = "loss" {
        ContrastiveDivergence, ScoreMatching, DenoisingScoreMatching, Nce, ConditionalNce, InfoNce, EnergyDiscrepancy
    }
}

impl<M: Trainable, O: Objective<M> + ?Sized> Objective<M> for Box<O> {
    fn description(&self) -> Result<Value> {
        (**self).description()
    }

    fn check(&self, spec: &M::Spec, options: &TrainOptions) -> Result<()> {
        (**self).check(spec, options)
    }

    fn start(&self, model: &M) -> Result<Box<dyn Training<M>>> {
        (**self).start(model)
    }
}

impl Default for AnyObjective {
    fn default() -> Self {
        Self::Denoising(Denoising::default())
    }
}

impl Objective<Model> for AnyObjective {
    fn description(&self) -> Result<Value> {
        self.get().description()
    }

    fn check(&self, spec: &ModelSpec, options: &TrainOptions) -> Result<()> {
        self.get().check(spec, options)
    }

    fn start(&self, model: &Model) -> Result<Box<dyn Training<Model>>> {
        self.get().start(model)
    }
}

impl Default for AnyDensityObjective {
    fn default() -> Self {
        Self::ContrastiveDivergence(ContrastiveDivergence::default())
    }
}

impl Objective<DensityModel> for AnyDensityObjective {
    fn description(&self) -> Result<Value> {
        self.get().description()
    }

    fn check(&self, spec: &DensitySpec, options: &TrainOptions) -> Result<()> {
        self.get().check(spec, options)
    }

    fn start(&self, model: &DensityModel) -> Result<Box<dyn Training<DensityModel>>> {
        self.get().start(model)
    }
}
