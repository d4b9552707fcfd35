//! One training run: a model, an objective, an optimiser, averages, and the step that moves them.
//!
//! Everything random in step n is a function of (seed, n), so nothing of the noise has to be saved.

use crate::ema::{AnyEma, Ema};
use crate::inplace;
use crate::objective::{Context, Objective, Training};
use crate::optim::{AnyOptimiser, Optim};
use crate::options::TrainOptions;
use crate::series::Series;
use crate::state::LOSS;
use crate::trainable::{Rebuild, Trainable};
use candle_core::{Result, Tensor, Var, bail};
use langevin_data::Batch;
use langevin_models::Model;

/// What a step has to tell.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Steps made, with this one.
    pub step: u64,
    /// Mean loss of the step's samples.
    pub loss: f64,
    /// What the objective tells beside it.
    pub series: Vec<Series>,
    /// Norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
}

/// A training run in memory.
pub struct Trainer<M: Trainable = Model> {
    pub(crate) model: M,
    pub(crate) objective: Box<dyn Objective<M>>,
    pub(crate) optimiser: AnyOptimiser,
    pub(crate) profile: AnyEma,
    pub(crate) options: TrainOptions,
    pub(crate) optim: Optim,
    pub(crate) ema: Ema,
    pub(crate) step: u64,
    /// What is learnt now: at first another objective, if there is one, and then `objective`.
    pub(crate) training: Box<dyn Training<M>>,
    pub(crate) first: bool,
    vars: Vec<Var>,
}

/// What the optimiser moves: the parameters of the model, and those of what is learnt.
fn moved_by<M: Trainable>(model: &M, training: &dyn Training<M>) -> Vec<(String, Var)> {
    let own = training.vars().into_iter().map(|(name, var)| (format!("{LOSS}{name}"), var));
    model.vars().iter().cloned().chain(own).collect()
}

fn alone(vars: Vec<(String, Var)>) -> Vec<Var> {
    vars.into_iter().map(|(_, var)| var).collect()
}

impl<M: Trainable> Trainer<M> {
    /// A run at step 0. Errors, naming the key, if an option makes no sense.
    pub fn new(
        model: M,
        objective: impl Objective<M> + 'static,
        optimiser: AnyOptimiser,
        ema: AnyEma,
        options: TrainOptions,
    ) -> Result<Self> {
        options.check()?;
        objective.check(model.spec(), &options)?;
        let averages = Ema::new(ema.clone(), model.vars())?;
        let training = objective.start(&model)?;
        let moved = moved_by(&model, training.as_ref());
        let optim = Optim::new(optimiser.clone(), &moved)?;
        Ok(Self {
            model,
            objective: Box::new(objective),
            optimiser,
            profile: ema,
            options,
            optim,
            ema: averages,
            step: 0,
            training,
            first: false,
            vars: alone(moved),
        })
    }

    /// The first `train.distil` steps learn `first`; then the optimiser, the learning rate and the objective begin anew.
    ///
    /// Comes before [`Trainer::resume`], which takes back what either has remembered. Errors, naming the option, if it makes no
    /// sense for the model.
    pub fn begin_with(&mut self, first: impl Objective<M>) -> Result<()> {
        if self.step > 0 {
            bail!("the run is at step {} already; say what it begins with before it is resumed", self.step);
        }
        if self.options.distil() == 0 {
            bail!("train.distil is 0, so that there are no steps to begin with; give their number");
        }
        first.check(self.model.spec(), &self.options)?;
        self.start(first.start(&self.model)?)?;
        self.first = true;
        Ok(())
    }

    /// Goes over from the first objective to the one that the run is for.
    pub(crate) fn begin_anew(&mut self) -> Result<()> {
        self.start(self.objective.start(&self.model)?)?;
        self.first = false;
        Ok(())
    }

    /// Begins with `training`, with an optimiser that has forgotten.
    fn start(&mut self, training: Box<dyn Training<M>>) -> Result<()> {
        let moved = moved_by(&self.model, training.as_ref());
        self.optim = Optim::new(self.optimiser.clone(), &moved)?;
        (self.training, self.vars) = (training, alone(moved));
        Ok(())
    }

    /// Steps made.
    pub fn step_number(&self) -> u64 {
        self.step
    }

    /// How many updates the optimiser has made when the run is at `step`: it begins anew after the distillation.
    pub(crate) fn updates(&self, step: u64) -> u64 {
        if step > self.options.distil() { step - self.options.distil() } else { step }
    }

    /// The model as it is trained.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// A copy of the averaged weights (of the first track), by name.
    pub fn averaged(&self) -> Result<Vec<(String, Tensor)>> {
        self.averaged_track(0)
    }

    /// A copy of the averaged weights of one track of [`Trainer::widths`].
    pub fn averaged_track(&self, track: usize) -> Result<Vec<(String, Tensor)>> {
        self.ema.weights(track).into_iter().map(|(name, t)| Ok((name, t.copy()?))).collect()
    }

    /// sigma_rel of each track of averages, where it has one.
    pub fn widths(&self) -> Vec<Option<f64>> {
        self.ema.widths()
    }

    /// Runs `f` on the model with the averaged weights in it, then puts the trained ones back, to the bit.
    pub fn with_averaged<R>(&self, f: impl FnOnce(&M) -> Result<R>) -> Result<R> {
        self.ema.swap(self.model.vars(), 0)?;
        let result = f(&self.model);
        self.ema.swap(self.model.vars(), 0)?;
        result
    }

    /// What the objective under way can tell of the model on `batch`, beside its losses.
    pub fn measure(&self, batch: &Batch) -> Result<Vec<Series>> {
        self.training.measure(&self.model, batch, &self.options)
    }

    /// One update from the mean gradient of `batches` (`accumulate` of them).
    ///
    /// Errors, naming the step and the place of the sample, such as its noise level, if a loss or the gradient is not finite;
    /// weights are then as before.
    pub fn step(&mut self, batches: &[Batch]) -> Result<StepReport> {
        if batches.len() != self.options.accumulate {
            bail!("a step takes {} batches (train.accumulate), not {}", self.options.accumulate, batches.len());
        }
        let distil = self.options.distil();
        if self.step < distil && !self.first {
            bail!("step {}: the first {distil} steps learn from another model, and there is none", self.step + 1);
        }
        if self.step == distil && distil > 0 {
            self.begin_anew()?;
        }
        let total: usize = batches.iter().map(|b| b.x.dim(0)).sum::<Result<usize>>()?;
        let mut grads: Vec<Tensor> = Vec::new();
        let (mut losses, mut series) = (Vec::with_capacity(total), vec![]);
        for (j, batch) in batches.iter().enumerate() {
            let at = Context::new(&self.options, self.step, j, total, &self.vars);
            let part = self.training.part(&self.model, batch, &at)?;
            if part.losses.len() != batch.x.dim(0)? {
                let (losses, samples) = (part.losses.len(), batch.x.dim(0)?);
                bail!(
                    "the loss gave {losses} numbers for {samples} samples; it is one number a sample, not their mean"
                );
            }
            grads = match grads.is_empty() {
                true => part.grads,
                false => grads.iter().zip(&part.grads).map(|(sum, g)| sum + g).collect::<Result<_>>()?,
            };
            let before = losses.len();
            losses.extend(part.losses);
            if let Some(i) = losses[before..].iter().position(|loss| !loss.is_finite()) {
                let i = before + i;
                bail!("step {}: the loss is {} at {}", self.step + 1, losses[i], self.place(i));
            }
            Series::add(&mut series, part.series, batch.x.dims()[0] as f64 / total as f64);
        }
        let grad_norm = inplace::sum_of_squares(&grads)?.sqrt();
        if !grad_norm.is_finite() {
            let worst = (0..losses.len()).max_by(|&a, &b| losses[a].total_cmp(&losses[b]));
            let at = worst.map(|i| self.place(i)).unwrap_or_default();
            bail!("step {}: the norm of the gradient is {grad_norm}; the largest loss was at {at}", self.step + 1);
        }
        let clip = self.options.clip;
        let shorten = if clip > 0. { (clip / (grad_norm + 1e-6)).min(1.) } else { 1. }; // as PyTorch has it
        let lr = self.options.lr_at(self.step);
        self.optim.step(&grads, lr, shorten)?;
        self.step += 1;
        self.ema.update(self.model.vars(), self.step)?;
        self.training.updated();
        let loss = losses.iter().sum::<f64>() / total as f64;
        let series = series.into_iter().map(Series::binned).collect();
        Ok(StepReport { step: self.step, loss, series, grad_norm, lr })
    }

    /// Where the `i`-th sample of the step under way is.
    fn place(&self, i: usize) -> String {
        self.training.place(&self.model, i).unwrap_or_else(|| format!("sample {i} of the step"))
    }
}

impl<M: Rebuild> Trainer<M> {
    /// A second model, with the averaged weights.
    pub fn averaged_model(&self) -> Result<M> {
        self.model.with(self.averaged()?)
    }
}
