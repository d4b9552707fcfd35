//! Distillation: a model learns what another gives at noisy data, E lambda(t) |x0-hat(x_t) - x0-hat_teacher(x_t)|^2.
//! [Thornton25]
//!
//! The denoising loss with the teacher's estimate in the place of the data. An energy starts so from a score that is the
//! gradient of nothing: what it learns is the nearest field that is one.

use super::denoising::{self, Denoising};
use super::{AnyObjective, Context, Noisy, Objective, Part, Training, describe, levels};
use crate::level::log_ratio;
use crate::options::TrainOptions;
use crate::series::{Point, Series};
use candle_core::{Result, Tensor, bail};
use langevin_data::Batch;
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::{Cond, Denoiser, Preconditioned, Process};
use langevin_models::{Model, ModelSpec};
use langevin_ops::Conditions;
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::{combine, scale, to_host};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Levels at which the error of the score is measured.
const LEVELS: usize = 8;

/// A model whose output another learns.
pub struct Teacher(Model);

impl Teacher {
    /// `model` as the teacher of a model made of `student`.
    ///
    /// Errors if it does not know what the student is asked: other channels, classes or range of the data, noise levels
    /// beyond its own, or no score at all. Classes that the student has beyond the teacher's are its null class, if it has one.
    pub fn new(model: Model, student: &ModelSpec) -> Result<Self> {
        let teacher = &model.spec;
        if matches!(teacher.predict, AnyParametrisation::Consistency(_)) {
            bail!("is a consistency model: it gives ends of paths and no score that another model could start from");
        }
        if teacher.shape.first() != student.shape.first() || teacher.shape.len() != student.shape.len() {
            bail!("takes samples of shape {:?}, the data are {:?}", teacher.shape, student.shape);
        }
        if let Some(n) = teacher.classes.filter(|_| teacher.classes != student.classes) {
            match student.classes {
                Some(m) if m > n && teacher.null_class => {}
                Some(m) => {
                    bail!("knows {n} classes, the data have {m}; train.distil=0 starts without learning its output")
                }
                None => {
                    bail!("must be told one of {n} classes; train with model.conditional=true, on data with classes")
                }
            }
        }
        if teacher.from_zero != student.from_zero {
            bail!("has model.from_zero = {}, the run model.from_zero = {}", teacher.from_zero, student.from_zero);
        }
        let ends = |process: &dyn Process| {
            let (low, high) = process.span();
            [log_ratio(process, low), log_ratio(process, high)]
        };
        let (theirs, ours) = (ends(teacher.process.get()), ends(student.process.get()));
        if ours[0] < theirs[0] - 1e-6 || ours[1] > theirs[1] + 1e-6 {
            let [a, b, c, d] = [ours[0], ours[1], theirs[0], theirs[1]].map(f64::exp);
            bail!(
                "knows noise levels sigma/alpha from {c:.4} to {d:.4}, and process {} goes from {a:.4} to {b:.4}; leave \
                 `process` out to keep its own, or give one that stays inside",
                student.process.name()
            );
        }
        Ok(Self(model))
    }

    /// The teacher itself.
    pub fn model(&self) -> &Model {
        &self.0
    }

    /// What the network of `student` must give at `noisy` to estimate the clean data as the teacher does, the shape of x.
    ///
    /// The teacher is asked at its own time of the same SNR; where the two are alike it is the teacher's output as it is.
    pub fn target(&self, student: &Preconditioned, noisy: &Noisy, conditions: &Conditions) -> Result<Tensor> {
        let labels = conditions.labels().filter(|_| self.0.spec.classes.is_some());
        let labels = match (labels, self.0.spec.null_label()) {
            // classes of the student alone come after the teacher's, where its null class begins
            (Some(labels), Some(null)) => Some(labels.minimum(null)?),
            (labels, _) => labels.cloned(),
        };
        let teacher = self.0.denoiser(Cond { conditions: conditions.clone().with_class(labels), dropout: None })?;
        let (mut at, mut stretch, mut of_x, mut of_f) = (vec![], vec![], vec![], vec![]);
        for &t in &noisy.t {
            let m = student.process().marginal(t);
            let same = teacher.process().marginal(t) == m;
            let time = if same { t } else { teacher.process().t_at(m.log_snr()) };
            let ratio = teacher.process().marginal(time).sigma / m.sigma; // of the teacher's x_t to the student's
            let (theirs, ours) = (teacher.coefficients(time), student.coefficients(t));
            at.push(time);
            stretch.push(ratio);
            of_x.push((theirs.c_skip * ratio - ours.c_skip) / ours.c_out);
            of_f.push(theirs.c_out / ours.c_out);
        }
        let f = teacher.output(&scale(&noisy.x, &stretch)?, &at)?;
        combine(&of_x, &noisy.x, &of_f, &f)
    }

    /// How far the score of `student` is from the teacher's, |s - s_teacher| / |s_teacher| over data `x0` `[B, ...]` with
    /// noise from `z`, at levels over the whole span of its process: (ln(sigma/alpha), error).
    pub fn score_errors(
        &self,
        student: &Preconditioned,
        x0: &Tensor,
        conditions: &Conditions,
        z: &mut Noise,
    ) -> Result<Vec<(f64, f64)>> {
        let process = student.process();
        let (low, high) = process.span();
        let (from, to) = (log_ratio(process, low), log_ratio(process, high));
        let mut errors = Vec::with_capacity(LEVELS);
        for i in 0..LEVELS {
            let level = from + (to - from) * i as f64 / (LEVELS - 1) as f64;
            let t = process.t_at(-2. * level);
            let t = if process.discrete().is_some() { t.round().clamp(low, high) } else { t };
            let noisy = Noisy::new(process, x0, vec![t; x0.dim(0)?], z)?;
            let theirs = self.target(student, &noisy, conditions)?;
            let ours = student.output(&noisy.x, &[t])?.detach();
            let (m, c) = (process.marginal(t), student.coefficients(t));
            // sigma^2 / alpha times the score is x0-hat - x_t / alpha
            let score = combine(&[c.c_out * m.alpha], &theirs, &[m.alpha * c.c_skip - 1.], &noisy.x)?;
            let off = (ours - theirs)?.affine(c.c_out * m.alpha, 0.)?;
            let norm = |x: &Tensor| Ok(to_host(x)?.iter().map(|v| v * v).sum::<f64>().sqrt());
            let error: Result<f64> = norm(&off).and_then(|off| Ok(off / norm(&score)?));
            errors.push((log_ratio(process, t), error?));
        }
        Ok(errors)
    }
}

impl std::fmt::Debug for Teacher {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_tuple("Teacher").field(&self.0.spec).finish()
    }
}

/// What the first steps of a run learn where it starts from another model: that model's output.
#[derive(Clone, Debug, Serialize)]
pub struct Distillation {
    /// Levels, and how much they count.
    #[serde(flatten)]
    loss: Denoising,
    #[serde(skip)]
    teacher: Arc<Teacher>,
}

impl Named for Distillation {
    const NAME: &'static str = "distillation";
    const ABOUT: &'static str = "the output of another model [Thornton25]";
}

impl Distillation {
    /// What `teacher` knows, at the levels and with the weights of the loss that follows.
    pub fn before(loss: &AnyObjective, teacher: Teacher) -> Self {
        let loss = match loss {
            AnyObjective::Denoising(loss) => loss.clone(),
            AnyObjective::Dual(loss) => Denoising { weight: loss.weight.clone(), level: loss.level.clone() },
            #[allow(unreachable_patterns)] // others say nothing of levels
            _ => Denoising::default(),
        };
        Self { loss, teacher: Arc::new(teacher) }
    }
}

impl Objective<Model> for Distillation {
    fn description(&self) -> Result<Value> {
        describe(self)
    }

    fn start(&self, _: &Model) -> Result<Box<dyn Training<Model>>> {
        Ok(Box::new(Run { inner: denoising::Run::new(&self.loss), teacher: self.teacher.clone() }))
    }
}

/// Keeps the noise of measured errors apart from that of training ("errors" in ASCII).
const ERRORS: u64 = 0x6572_726f_7273;

/// Distillation under way.
struct Run {
    inner: denoising::Run,
    teacher: Arc<Teacher>,
}

impl Training<Model> for Run {
    fn part(&mut self, model: &Model, batch: &Batch, at: &Context) -> Result<Part> {
        let Self { inner, teacher } = self;
        inner.towards(model, batch, at, |own, drawn| teacher.target(own, &drawn.noisy, &drawn.conditions))
    }

    fn place(&self, model: &Model, i: usize) -> Option<String> {
        self.inner.place(model, i)
    }

    fn updated(&mut self) {
        self.inner.updated();
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.inner.state()
    }

    fn restore(&mut self, model: &Model, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.inner.restore(model, state)
    }

    /// How far the score is from the teacher's, by noise level.
    fn measure(&self, model: &Model, batch: &Batch, options: &TrainOptions) -> Result<Vec<Series>> {
        let (x0, conditions) = levels::taken(model, batch)?;
        let samples = x0.dim(0)?;
        let denoiser = model.denoiser(Cond { conditions: conditions.clone(), dropout: None })?;
        let mut z = Noise::of_step(options.seed ^ ERRORS, 0, samples);
        let errors = self.teacher.score_errors(&denoiser, &x0, &conditions, &mut z)?;
        let points = errors.into_iter().map(|(at, mean)| Point { at, mean, samples });
        Ok(vec![Series::by("score_error", "log_sigma", points)])
    }
}
