//! What all losses over noise levels share: data with noise, levels that learn from their losses, classes that are hidden.

use super::{Context, Part};
use crate::level::{self, AnyLevel, Draw, log_ratio};
use crate::options::TrainOptions;
use crate::series::{Point, Series};
use candle_core::{Device, Result, Tensor, bail};
use langevin_data::Batch;
use langevin_dynamics::{Denoiser, Preconditioned, Process};
use langevin_models::{Model, ModelSpec};
use langevin_ops::Conditions;
use langevin_ops::noise::Noise;
use langevin_ops::shape::combine;
use std::collections::BTreeMap;

/// Data with noise, each sample at a level of its own.
pub struct Noisy {
    /// The clean data x_0, `[B, ...]`.
    pub x0: Tensor,
    /// The noise.
    pub eps: Tensor,
    /// x_t = alpha x_0 + sigma eps.
    pub x: Tensor,
    /// The time of each sample.
    pub t: Vec<f64>,
}

impl Noisy {
    /// `x0` `[B, ...]` at the times `t`, one a sample, with noise from `z`.
    pub fn new(process: &dyn Process, x0: &Tensor, t: Vec<f64>, z: &mut Noise) -> Result<Self> {
        if t.len() != x0.dim(0)? {
            bail!("noisy data: {} levels for a batch of {}", t.len(), x0.dim(0)?);
        }
        let (alpha, sigma): (Vec<_>, Vec<_>) =
            t.iter().map(|&t| process.marginal(t)).map(|m| (m.alpha, m.sigma)).unzip();
        let eps = z.normal_like(x0)?;
        let x = combine(&alpha, x0, &sigma, &eps)?;
        Ok(Self { x0: x0.clone(), eps, x, t })
    }

    /// (x_0 - c_skip x_t) / c_out, what the network of `model` would give if it knew x_0.
    pub fn target(&self, model: &Preconditioned) -> Result<Tensor> {
        // in x_0 and eps, so that what cancels does so here, in f64
        let parts = self.t.iter().map(|&t| {
            let (m, c) = (model.process().marginal(t), model.coefficients(t));
            ((1. - c.c_skip * m.alpha) / c.c_out, -c.c_skip * m.sigma / c.c_out)
        });
        let (of_x0, of_eps): (Vec<_>, Vec<_>) = parts.unzip();
        combine(&of_x0, &self.x0, &of_eps, &self.eps)
    }
}

/// A batch as a loss over noise levels takes it.
pub(super) struct Drawn {
    pub noisy: Noisy,
    pub draws: Vec<Draw>,
    /// What is known of the samples, with their class for a model of classes.
    pub conditions: Conditions,
    /// What the model is told: the same, with the null class in the place of those that label dropout hides.
    pub told: Conditions,
}

impl Drawn {
    /// What the loss of each sample is multiplied with, in a mean over the step.
    pub fn factors(&self, at: &Context) -> Vec<f64> {
        self.draws.iter().map(|d| d.factor / at.total as f64).collect()
    }
}

/// The noise levels of a run, with what they have learnt.
#[derive(Debug)]
pub(super) struct Levels {
    level: AnyLevel,
    /// Of the step under way: its levels, and their losses without importance factors.
    draws: Vec<Draw>,
    losses: Vec<f64>,
}

/// Where the level's losses are saved.
const LEVEL: &str = "level";

impl Levels {
    /// As `level` has them, before anything is learnt.
    pub fn new(level: &AnyLevel) -> Self {
        Self { level: level.clone(), draws: vec![], losses: vec![] }
    }

    /// The batch with noise from `z`, each sample at a level of its own.
    pub fn draw(&self, model: &Model, batch: &Batch, options: &TrainOptions, z: &mut Noise) -> Result<Drawn> {
        let (x0, conditions) = taken(model, batch)?;
        let process = model.spec.process.get();
        let draws = level::draws(self.level.get(), process, x0.dim(0)?, z)?;
        let noisy = Noisy::new(process, &x0, draws.iter().map(|d| d.t).collect(), z)?;
        let told = conditions.labels().map(|labels| hidden(labels, &model.spec, options, z)).transpose()?;
        let told = conditions.clone().with_class(told);
        Ok(Drawn { noisy, draws, conditions, told })
    }

    /// The part of a batch at the levels `draws` with these losses, without importance factors.
    pub fn part(
        &mut self,
        model: &Model,
        at: &Context,
        draws: Vec<Draw>,
        losses: Vec<f64>,
        grads: Vec<Tensor>,
    ) -> Part {
        if at.part == 0 {
            (self.draws, self.losses) = (vec![], vec![]); // of a step that failed
        }
        let process = model.spec.process.get();
        let points = draws.iter().zip(&losses);
        // + 0: a zero has no sign
        let points = points.map(|(d, &mean)| Point { at: log_ratio(process, d.t).round() + 0., mean, samples: 1 });
        let series = vec![Series::by("loss", "log_sigma", points)];
        let counted = draws.iter().zip(&losses).map(|(d, l)| d.factor * l).collect();
        self.draws.extend(draws);
        self.losses.extend(losses);
        Part { losses: counted, grads, series }
    }

    /// The noise level of the `i`-th sample of the step.
    pub fn place(&self, model: &Model, i: usize) -> Option<String> {
        let Draw { t, .. } = self.draws.get(i)?;
        let ratio = log_ratio(model.spec.process.get(), *t).exp();
        Some(format!("noise level sigma/alpha = {ratio:.4} (t = {t:.4})"))
    }

    /// Learns from the step under way.
    pub fn updated(&mut self) {
        self.level.get_mut().observe(&self.draws, &self.losses);
    }

    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let learnt = self.level.get().state();
        if learnt.is_empty() {
            return Ok(vec![]);
        }
        Ok(vec![(LEVEL.into(), Tensor::new(learnt, &Device::Cpu)?)])
    }

    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let learnt = state.get(LEVEL).map(|t| t.to_vec1::<f64>()).transpose()?;
        self.level.get_mut().restore(&learnt.unwrap_or_default())
    }
}

/// Data of a batch, and what is known of them, as `model` takes them: without classes if it has none.
pub(super) fn taken(model: &Model, batch: &Batch) -> Result<(Tensor, Conditions)> {
    let conditions = batch.conditions.to_device(model.device())?;
    let conditions = if model.spec.classes.is_some() { conditions } else { conditions.with_class(None) };
    Ok((model.spec.ranged(&batch.x.to_dtype(model.dtype())?.to_device(model.device())?)?, conditions))
}

/// `labels` `[B]` with the null class in the place of each that label dropout hides. A teacher is told all of them: the
/// mean of what it gives over the hidden classes is what a model without classes gives.
fn hidden(labels: &Tensor, spec: &ModelSpec, options: &TrainOptions, z: &mut Noise) -> Result<Tensor> {
    let probability = options.label_dropout;
    let Some(null) = spec.null_label().filter(|_| probability > 0.) else { return Ok(labels.clone()) };
    let drawn = z.uniform(labels.dim(0)?)?;
    let told: Vec<u32> = labels.to_vec1::<u32>()?;
    let told = told.into_iter().zip(drawn).map(|(label, u)| if u < probability { null } else { label });
    Tensor::from_iter(told, labels.device())
}

/// Errors if classes are to be hidden from a model without a null class.
pub(super) fn can_hide(spec: &ModelSpec, options: &TrainOptions) -> Result<()> {
    if options.label_dropout > 0. && !spec.null_class {
        bail!(
            "train.label_dropout is {}, but the model has no null class to put in the place of a class; give its \
             ModelSpec null_class = true",
            options.label_dropout
        );
    }
    Ok(())
}
