//! One training run: model, loss, optimiser, averages, and the step that moves them.
//!
//! Everything random in step n is a function of (seed, n), so nothing of the noise has to be saved.

use crate::ema::{AnyEma, Ema};
use crate::inplace;
use crate::level::{AnyLevel, Draw, log_ratio};
use crate::loss::{Denoising, Noisy, Teacher};
use crate::optim::{AnyOptimiser, Optim};
use crate::options::{SecondOrder, TrainOptions};
use crate::walkers::Walkers;
use candle_core::{Result, Tensor, Var, bail};
use langevin_data::Batch;
use langevin_dynamics::Cond;
use langevin_models::{Model, ModelSpec};
use langevin_ops::grad;
use langevin_ops::noise::Noise;
use langevin_ops::shape::{scale, to_host};
use langevin_ops::tape;
use std::collections::BTreeMap;

/// What a step has to tell.
#[derive(Clone, Debug)]
pub struct Report {
    /// Steps made, with this one.
    pub step: u64,
    /// Mean loss of the step's samples, importance factors included; without that of walkers.
    pub loss: f64,
    /// Mean loss of the walkers, where there are any.
    pub walkers: Option<f64>,
    /// Mean loss by noise level: (ln(sigma/alpha) at the bin's centre, mean loss, samples).
    pub by_level: Vec<(f64, f64, usize)>,
    /// Norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
}

/// Keeps the streams of dropout apart from those of the noise ("dropout" in ASCII).
const DROPOUT: u64 = 0x0064_726f_706f_7574;

/// Keeps the noise of walkers apart from that of the data ("walkers" in ASCII).
const WALKS: u64 = 0x0077_616c_6b65_7273;

/// Keeps the noise of measured errors apart from that of training ("errors" in ASCII).
const ERRORS: u64 = 0x6572_726f_7273;

/// Of one batch: levels, losses without importance factors, the mean loss of walkers, and the gradient of its part in the
/// mean over a step.
struct Part {
    draws: Vec<Draw>,
    losses: Vec<f64>,
    walkers: Option<f64>,
    grads: Vec<Tensor>,
}

/// A training run in memory.
pub struct Trainer {
    pub(crate) model: Model,
    pub(crate) loss: Denoising,
    pub(crate) optimiser: AnyOptimiser,
    pub(crate) profile: AnyEma,
    pub(crate) options: TrainOptions,
    pub(crate) optim: Optim,
    pub(crate) ema: Ema,
    pub(crate) step: u64,
    pub(crate) walkers: Walkers,
    teacher: Option<Teacher>,
    level: AnyLevel, // as it was before it learnt anything
    vars: Vec<Var>,
}

impl Trainer {
    /// A run at step 0. Errors, naming the key, if an option makes no sense.
    pub fn new(
        model: Model,
        loss: Denoising,
        optimiser: AnyOptimiser,
        ema: AnyEma,
        options: TrainOptions,
    ) -> Result<Self> {
        options.check()?;
        Self::agree(&model.spec, &loss, &options)?;
        if options.label_dropout > 0. && model.spec.null_label().is_none() {
            bail!(
                "train.label_dropout is {}, but the model has no null class to put in the place of a class; give its \
                 ModelSpec null_class = true",
                options.label_dropout
            );
        }
        let vars = model.vars().iter().map(|(_, var)| var.clone()).collect();
        let optim = Optim::new(optimiser.clone(), model.vars())?;
        let averages = Ema::new(ema.clone(), model.vars())?;
        let level = loss.level.clone();
        Ok(Self {
            model,
            loss,
            optimiser,
            profile: ema,
            options,
            optim,
            ema: averages,
            step: 0,
            walkers: Walkers::default(),
            teacher: None,
            level,
            vars,
        })
    }

    /// Errors, naming the options, if `loss` does not go with a model of `spec` or with how gradients are taken.
    pub fn agree(spec: &ModelSpec, loss: &Denoising, options: &TrainOptions) -> Result<()> {
        loss.check(spec)?;
        if loss.time > 0. && options.second_order == SecondOrder::FiniteDifference {
            bail!("loss.time needs train.second_order = \"exact\"");
        }
        Ok(())
    }

    /// Steps made.
    pub fn step_number(&self) -> u64 {
        self.step
    }

    /// Whose output the first `train.distil` steps learn.
    pub fn learn_from(&mut self, teacher: Teacher) {
        self.teacher = Some(teacher);
    }

    /// The teacher, as long as steps are left that learn from it.
    pub fn teacher(&self) -> Option<&Teacher> {
        self.teacher.as_ref().filter(|_| self.step <= self.options.distil())
    }

    /// How many updates the optimiser has made when the run is at `step`: it begins anew after the distillation.
    pub(crate) fn updates(&self, step: u64) -> u64 {
        if step > self.options.distil() { step - self.options.distil() } else { step }
    }

    /// The model as it is trained.
    pub fn model(&self) -> &Model {
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

    /// A second model, with the averaged weights.
    pub fn averaged_model(&self) -> Result<Model> {
        let model = Model::new(self.model.spec.clone(), 0, self.model.dtype(), self.model.device())?;
        for ((_, var), (_, t)) in model.vars().iter().zip(self.ema.weights(0)) {
            inplace::set(var, &t)?;
        }
        Ok(model)
    }

    /// Runs `f` on the model with the averaged weights in it, then puts the trained ones back, to the bit.
    pub fn with_averaged<R>(&self, f: impl FnOnce(&Model) -> Result<R>) -> Result<R> {
        self.ema.swap(self.model.vars(), 0)?;
        let result = f(&self.model);
        self.ema.swap(self.model.vars(), 0)?;
        result
    }

    /// One update from the mean gradient of `batches` (`accumulate` of them).
    ///
    /// Errors, naming the step and the noise level, if a loss or the gradient is not finite; weights are then as before.
    pub fn step(&mut self, batches: &[Batch]) -> Result<Report> {
        if batches.len() != self.options.accumulate {
            bail!("a step takes {} batches (train.accumulate), not {}", self.options.accumulate, batches.len());
        }
        let distil = self.options.distil();
        if self.step < distil && self.teacher.is_none() {
            bail!("step {}: the first {distil} steps learn from another model, and there is none", self.step + 1);
        }
        if self.step == distil && distil > 0 {
            self.optim = Optim::new(self.optimiser.clone(), self.model.vars())?;
            self.loss.level = self.level.clone();
            self.teacher = None;
        }
        let total: usize = batches.iter().map(|b| b.x.dim(0)).sum::<Result<usize>>()?;
        let mut grads: Vec<Tensor> = Vec::new();
        let (mut draws, mut losses, mut walkers) = (Vec::with_capacity(total), Vec::with_capacity(total), None);
        for (j, batch) in batches.iter().enumerate() {
            let part = self.part(batch, self.step * batches.len() as u64 + j as u64, total)?;
            grads = match grads.is_empty() {
                true => part.grads,
                false => grads.iter().zip(&part.grads).map(|(sum, g)| sum + g).collect::<Result<_>>()?,
            };
            draws.extend(part.draws);
            losses.extend(part.losses);
            let share = part.walkers.map(|loss| loss * batch.x.dims()[0] as f64 / total as f64);
            walkers = share.map(|share| share + walkers.unwrap_or(0.));
        }
        let grad_norm = inplace::sum_of_squares(&grads)?.sqrt();
        if !grad_norm.is_finite() {
            let worst = draws.iter().zip(&losses).max_by(|a, b| (a.0.factor * a.1).total_cmp(&(b.0.factor * b.1)));
            let at = worst.map(|(draw, _)| self.level(draw)).unwrap_or_default();
            bail!("step {}: the norm of the gradient is {grad_norm}; the largest loss was at {at}", self.step + 1);
        }
        let clip = self.options.clip;
        let shorten = if clip > 0. { (clip / (grad_norm + 1e-6)).min(1.) } else { 1. }; // as PyTorch has it
        let lr = self.options.lr_at(self.step);
        self.optim.step(&grads, lr, shorten)?;
        self.step += 1;
        self.ema.update(self.model.vars(), self.step)?;
        self.loss.level.get_mut().observe(&draws, &losses);
        let loss = draws.iter().zip(&losses).map(|(d, l)| d.factor * l).sum::<f64>() / total as f64;
        Ok(Report { step: self.step, loss, walkers, by_level: self.by_level(&draws, &losses), grad_norm, lr })
    }

    /// What a batch adds to the mean over `total` samples.
    fn part(&mut self, batch: &Batch, n: u64, total: usize) -> Result<Part> {
        let (x0, labels) = self.taken(batch)?;
        let (model, spec) = (&self.model, &self.model.spec);
        let mut z = Noise::of_step(self.options.seed, n, x0.dim(0)?);
        let draws = self.loss.draws(spec.process.get(), x0.dim(0)?, &mut z)?;
        // an odd factor: no two (seed, n) of a run share a key, and none is the seed of the noise itself
        let key = (self.options.seed ^ DROPOUT).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(n);
        let noisy = Noisy::new(spec.process.get(), &x0, draws.iter().map(|d| d.t).collect(), &mut z)?;
        let told = labels.as_ref().map(|labels| self.hidden(labels, &mut z)).transpose()?;
        let denoiser = model.denoiser(Cond { labels: told, dropout: Some(key) })?;
        let target = match self.teacher.as_ref().filter(|_| self.step < self.options.distil()) {
            Some(teacher) => Some(teacher.target(&denoiser, &noisy, labels.as_ref())?),
            None if self.loss.time > 0. => None,
            None => Some(noisy.target(&denoiser)?),
        };
        let signs = match target.is_none() && self.loss.fokker_planck > 0. {
            true => Some(z.rademacher_like(&noisy.x)?),
            false => None,
        };
        let walkers = match self.loss.walkers {
            number if number > 0 && target.is_none() => {
                let mut z = Noise::of_step(self.options.seed ^ WALKS, n, number);
                let at = self.walkers.advance(model, number, &x0, &mut z)?;
                let denoiser = model.denoiser(Cond { labels: at.labels.clone(), dropout: Some(key ^ WALKS) })?;
                Some((denoiser, z.rademacher_like(&at.x)?, at))
            }
            _ => None,
        };
        let factors: Vec<f64> = draws.iter().map(|d| d.factor / total as f64).collect();
        let (mut each, mut walked) = (None, None);
        let mut loss = || {
            let losses = match &target {
                Some(target) => self.loss.errors(&denoiser, spec.sigma_data, &noisy, target)?, // [B]
                None => self.loss.dual_errors(&denoiser, spec.sigma_data, &noisy, signs.as_ref())?,
            };
            each = Some(losses.detach());
            let loss = scale(&losses, &factors)?.sum_all()?;
            let Some((denoiser, signs, at)) = &walkers else { return Ok(loss) };
            let own = self.loss.flow_errors(denoiser, spec.sigma_data, &at.x, &[at.t], signs)?.mean_all()?;
            walked = Some(own.detach());
            loss + (own * (x0.dims()[0] as f64 / total as f64))?
        };
        let differences = self.options.second_order == SecondOrder::FiniteDifference;
        let taken = || grad::differences(differences, || grad::value_and_grad(&self.vars, &mut loss));
        let (_, grads) = tape::recompute(self.options.recompute, taken)?;
        let losses = each.map(|t| to_host(&t)).transpose()?.unwrap_or_default();
        if let Some((draw, loss)) = draws.iter().zip(&losses).find(|(_, loss)| !loss.is_finite()) {
            bail!("step {}: the loss is {loss} at {}", self.step + 1, self.level(draw));
        }
        let walkers = walked.map(|loss| to_host(&loss.reshape(1)?).map(|loss| loss[0])).transpose()?;
        Ok(Part { draws, losses, walkers, grads })
    }

    /// Data and classes of a batch as the model takes them.
    fn taken(&self, batch: &Batch) -> Result<(Tensor, Option<Tensor>)> {
        let (model, spec) = (&self.model, &self.model.spec);
        let labels = batch.labels.as_ref().filter(|_| spec.classes.is_some());
        let labels = labels.map(|l| l.to_device(model.device())).transpose()?;
        Ok((spec.ranged(&batch.x.to_dtype(model.dtype())?.to_device(model.device())?)?, labels))
    }

    /// `labels` `[B]` with the null class in the place of each that label dropout hides. A teacher is told all of them: the
    /// mean of what it gives over the hidden classes is what a model without classes gives.
    fn hidden(&self, labels: &Tensor, z: &mut Noise) -> Result<Tensor> {
        let probability = self.options.label_dropout;
        let Some(null) = self.model.spec.null_label().filter(|_| probability > 0.) else { return Ok(labels.clone()) };
        let drawn = z.uniform(labels.dim(0)?)?;
        let told: Vec<u32> = labels.to_vec1::<u32>()?;
        let told = told.into_iter().zip(drawn).map(|(label, u)| if u < probability { null } else { label });
        Tensor::from_iter(told, labels.device())
    }

    /// How far the model's score is from the teacher's on `batch`, as [`Teacher::score_errors`] has it; `None` without one.
    pub fn score_errors(&self, batch: &Batch) -> Result<Option<Vec<(f64, f64)>>> {
        let Some(teacher) = self.teacher() else { return Ok(None) };
        let (x0, labels) = self.taken(batch)?;
        let denoiser = self.model.denoiser(Cond { labels: labels.clone(), dropout: None })?;
        let mut z = Noise::of_step(self.options.seed ^ ERRORS, 0, x0.dim(0)?);
        teacher.score_errors(&denoiser, &x0, labels.as_ref(), &mut z).map(Some)
    }

    fn level(&self, draw: &Draw) -> String {
        let ratio = log_ratio(self.model.spec.process.get(), draw.t).exp();
        format!("noise level sigma/alpha = {ratio:.4} (t = {:.4})", draw.t)
    }

    fn by_level(&self, draws: &[Draw], losses: &[f64]) -> Vec<(f64, f64, usize)> {
        let mut bins: BTreeMap<i64, (f64, usize)> = BTreeMap::new();
        for (draw, loss) in draws.iter().zip(losses) {
            let bin = bins.entry(log_ratio(self.model.spec.process.get(), draw.t).round() as i64).or_default();
            *bin = (bin.0 + loss, bin.1 + 1);
        }
        bins.into_iter().map(|(bin, (sum, n))| (bin as f64, sum / n as f64, n)).collect()
    }
}
