//! Which class a model is told, and what guides it: its own null class, or a second model.

use crate::classes;
use crate::error::{Usage, usage};
use crate::open::{self, Opened};
use crate::sample::plan::SamplingPlan;
use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use langevin_data::{list, places};
use langevin_dynamics::process::{self, Within};
use langevin_dynamics::{Clamped, Cond, Denoiser, Guidance, Process, Sum};
use langevin_models::{Model, ModelSpec};

/// What class the samples are of, and what guides them.
#[derive(Clone, Debug, Default)]
pub struct Guiding {
    /// Class of every sample, by its name or number, for a class-conditional model; `none` for one trained with
    /// train.label_dropout. A class that is called 3 comes before the number 3.
    pub class: Option<String>,
    /// Weight of guidance: 1 is none, more goes further away from the guide, which is the model without a class.
    pub guidance: Option<f64>,
    /// Guidance only at noise levels sigma/alpha between these.
    pub interval: Option<(f64, f64)>,
    /// Another model as the guide: a smaller one, or a snapshot RUN@STEP (autoguidance); one of another process guides at
    /// the noise levels that both know.
    pub guide: Option<String>,
}

impl Guiding {
    /// The label of each sample: of the class asked for, or for seed n of class n modulo their number.
    pub fn labels(&self, opened: &Opened, seeds: &[u64]) -> Result<Option<Vec<u32>>> {
        match &self.class {
            Some(class) => Ok(Some(vec![classes::number(opened, class)?; seeds.len()])),
            None => Ok(by_seed(&opened.model, seeds)),
        }
    }

    /// What guides `model`, if anything does.
    pub fn open(&self, opened: &Opened, device: &Device) -> Result<Option<Guide>> {
        let model = &opened.model;
        let Some(scale) = self.guidance else { return Ok(None) };
        let guidance = Guidance { scale, interval: self.interval };
        if let Err(why) = guidance.check() {
            return usage(why.to_string());
        }
        let other = match &self.guide {
            Some(name) => {
                let other = open::open(name, device)?;
                match alike(opened, &other, self.class.as_deref()) {
                    Ok(classes) => Some((other.model, classes)),
                    Err(why) => return usage(Usage::of("guide", why).value(name)),
                }
            }
            None => {
                if model.spec.null_class && self.class.as_deref() == Some("none") {
                    return usage(Usage::of(
                        "guidance",
                        "with --class none the model is its own guide; give a class, or --guide MODEL",
                    ));
                }
                if !model.spec.null_class {
                    return usage(Usage::of(
                        "guidance",
                        "this model does not know the data without a class; train with \
                         model.conditional=true train.label_dropout=0.1, or give a second model with --guide MODEL",
                    ));
                }
                None
            }
        };
        let guidance = match &other {
            Some((other, _)) => shared(guidance, &model.spec, &other.spec)?,
            None => guidance,
        };
        let guide = Guide { other: other.map(|(other, classes)| (Box::new(other), classes)), guidance };
        let (a, b) = (model.denoiser(Cond::default())?, guide.model(model).denoiser(Cond::default())?);
        match Sum::guided(&a, &b, guide.guidance.clone()).map(|_| ()) {
            Ok(()) => Ok(Some(guide)),
            Err(why) => usage(Usage::of("guide", why)),
        }
    }
}

/// The label of each sample without --class: for seed n of class n modulo their number; none for a model without classes.
pub fn by_seed(model: &Model, seeds: &[u64]) -> Option<Vec<u32>> {
    model.spec.classes.map(|n| seeds.iter().map(|seed| (seed % n as u64) as u32).collect())
}

/// What a model is told of samples of which nothing is known: the class of --class, or else its null class.
pub fn told(opened: &Opened, class: Option<&str>) -> Result<Option<u32>> {
    let spec = &opened.model.spec;
    match (spec.classes, class, spec.null_label()) {
        (_, Some(class), _) => Ok(Some(classes::number(opened, class)?)),
        (None, None, _) => Ok(None),
        (Some(_), None, Some(null)) => Ok(Some(null)),
        (Some(_), None, None) => usage(format!(
            "this model must be told a class: give --class {}; one trained with train.label_dropout=0.1 need not",
            classes::known(opened)
        )),
    }
}

/// What `model` is told beside x and the time: no labels, one for all samples of any batch, or one each.
pub fn cond(model: &Model, labels: &[u32]) -> Result<Cond> {
    let labels = (!labels.is_empty()).then(|| Tensor::new(labels, model.device())).transpose()?;
    Ok(Cond::class(labels))
}

/// The two ends in LOW,HIGH.
pub fn interval(text: &str) -> Result<(f64, f64)> {
    let ends: Vec<_> = text.split(',').map(|end| end.trim().parse::<f64>()).collect();
    match ends[..] {
        [Ok(low), Ok(high)] => Ok((low, high)),
        _ => usage(Usage::of("guidance-interval", "give two noise levels sigma/alpha, such as 0.2,5").value(text)),
    }
}

/// The guide's number of each label of the model, by the names of classes where both have them. Errors unless `guide` knows
/// what `model` is asked.
fn alike(opened: &Opened, other: &Opened, class: Option<&str>) -> Result<Vec<u32>> {
    let (model, guide) = (&opened.model.spec, &other.model.spec);
    if model.shape != guide.shape {
        bail!("it is of samples {:?}, the model of {:?}", guide.shape, model.shape);
    }
    if model.from_zero != guide.from_zero {
        bail!("its data have another range than the model's (model.from_zero)");
    }
    let (m, n) = match (model.classes, guide.classes) {
        (_, None) => return Ok(vec![]),
        (None, Some(_)) if guide.null_class => return Ok(vec![]),
        (None, Some(n)) => bail!("it must be told one of {n} classes, and the model has none"),
        (Some(m), Some(n)) => (m, n),
    };
    let mut numbers: Vec<u32> = match (opened.class_names(), other.class_names()) {
        (Some(own), Some(theirs)) => match places(theirs, own) {
            Ok(numbers) => numbers,
            Err(_) => bail!("its classes are {}, those of the model {}", list(theirs), list(own)),
        },
        _ if m == n => (0..n as u32).collect(),
        _ => bail!("it has {n} classes, the model {m}"),
    };
    if class == Some("none") && !guide.null_class {
        bail!("it must be told a class, and --class none is asked; train it with train.label_dropout=0.1")
    }
    numbers.extend(model.null_label().and(guide.null_label()));
    Ok(numbers)
}

/// The guidance at the noise levels that the guide knows too; says so if it is of another process.
fn shared(mut guidance: Guidance, model: &ModelSpec, guide: &ModelSpec) -> Result<Guidance> {
    let (own, theirs) = (model.process.get(), guide.process.get());
    let both = Within::all(own).and(theirs).map_err(|why| Usage::of("guide", why))?;
    if both.span() != own.span() {
        let ((low, high), (from, to)) = (both.levels(), guidance.interval.unwrap_or((0., f64::INFINITY)));
        guidance.interval = Some((low.max(from), high.min(to)));
        if guidance.check().is_err() {
            return usage(
                Usage::of(
                    "guidance-interval",
                    format!("the guide knows sigma/alpha from {low:.4} to {high:.4}; guide there"),
                )
                .value(format_args!("{from},{to}")),
            );
        }
    }
    if !process::alike(own, theirs) {
        let (own, theirs, (low, high)) = (model.process.name(), guide.process.name(), both.levels());
        crate::note!(
            "the guide denoises {theirs}, and is taken as of {own} by equal sigma/alpha, which both know from \
             {low:.4} to {high:.4}"
        );
    }
    Ok(guidance)
}

/// What a model is guided away from.
pub struct Guide {
    /// With its number of each label of the model. Without: the null class of the model itself.
    other: Option<(Box<Model>, Vec<u32>)>,
    guidance: Guidance,
}

impl Guide {
    fn model<'a>(&'a self, model: &'a Model) -> &'a Model {
        self.other.as_ref().map_or(model, |(other, _)| other)
    }

    /// What the guide is told where `model` is told `labels`, for `batch` samples: the same class if it is another model
    /// that has classes, else none.
    fn labels(&self, model: &Model, labels: Option<&[u32]>, batch: usize) -> Option<Vec<u32>> {
        let spec = &self.model(model).spec;
        let of = |(labels, (_, numbers)): (&[u32], &(Box<Model>, Vec<u32>))| {
            labels.iter().map(|&label| numbers.get(label as usize).copied()).collect::<Option<Vec<u32>>>()
        };
        labels.zip(self.other.as_ref()).and_then(of).or(spec.null_label().map(|null| vec![null; batch]))
    }
}

/// Gives `f` the denoiser of `model` for `batch` samples that are told `labels`: guided by `guide`, and clipped as `way` has it.
pub fn denoising<R>(
    (model, guide): (&Model, Option<&Guide>),
    way: &SamplingPlan,
    (labels, batch): (Option<&[u32]>, usize),
    f: impl FnOnce(&dyn Denoiser) -> Result<R>,
) -> Result<R> {
    let plain = model.denoiser(cond(model, labels.unwrap_or_default())?)?.with_timesteps(way.timesteps.clone());
    let guiding = match guide {
        Some(guide) => {
            let other = guide.model(model);
            let labels = guide.labels(model, labels, batch).unwrap_or_default();
            let denoiser = other.denoiser(cond(other, &labels)?)?;
            // what a scheduler tells in place of c_noise suits a network that is told the same kind of number at that time
            let alike = other.spec.predict.name() == model.spec.predict.name()
                && process::alike(other.spec.process.get(), model.spec.process.get());
            Some((denoiser.with_timesteps(if alike { way.timesteps.clone() } else { vec![] }), guide.guidance.clone()))
        }
        None => None,
    };
    let guided = match &guiding {
        Some((guide, guidance)) => Some(Sum::guided(&plain, guide, guidance.clone())?),
        None => None,
    };
    let m: &dyn Denoiser = guided.as_ref().map_or(&plain, |guided| guided);
    match &way.clip {
        Some(clip) => f(&Clamped::new(m, clip.clone())?),
        None => f(m),
    }
}
