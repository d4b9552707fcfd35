//! Scores of what does not belong: detectors fitted to training data under a model, then asked about other data.

use crate::open::Opened;
use crate::progress::Progress;
use crate::run::{apply, read, usage};
use anyhow::{Result, bail};
use candle_core::Tensor;
use clap::Args;
use langevin_data::{Dataset, Options, spread};
use langevin_dynamics::{Cond, Denoiser};
use langevin_eval::{AnyDetector, Rule};
use langevin_models::Model;
use langevin_ops::noise::Noise;
use toml::{Table, Value};

/// Of the choice of samples.
const FITTED: u64 = 1;

/// Which scores, and what they are fitted to
#[derive(Args, Clone, Debug)]
pub struct Scoring {
    /// Scores to use (see `langevin list scores`) [default: all that the model can give, but for likelihood, which is slow]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub scores: Vec<String>,
    /// Noise levels sigma/alpha of every score, in units of the data, such as 0.2,1 [default: each score's own]
    #[arg(long, value_name = "LEVELS", value_delimiter = ',')]
    pub levels: Vec<f64>,
    /// Data that the scores are fitted to [default: what the run was trained on]
    #[arg(long, value_name = "SPEC")]
    pub fit: Option<String>,
    /// Samples that the scores are fitted to
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub fit_samples: usize,
    /// Samples at a time
    #[arg(long, default_value_t = 100)]
    pub batch: usize,
}

impl Scoring {
    /// What is asked for: mistakes are found before anything is read.
    pub fn plan(&self, opened: &Opened, changes: &[String]) -> Result<Plan> {
        if self.batch == 0 || self.fit_samples < 2 {
            return usage("--batch 0 or --fit-samples below 2: give at least 1 and 2");
        }
        let spec = match (&self.fit, &opened.run) {
            (Some(spec), _) => spec.clone(),
            (None, Some(run)) => run.data.spec.clone(),
            (None, None) => return usage("the model does not say what it was trained on; name it with --fit SPEC"),
        };
        let denoiser = opened.model.denoiser(cond(&opened.model, 1)?)?;
        Ok(Plan { detectors: self.detectors(denoiser.noisy_energy().is_some(), changes)?, spec })
    }

    /// The detectors that are asked for, with their options changed by `changes` (NAME.KEY=value).
    fn detectors(&self, has_energy: bool, changes: &[String]) -> Result<Vec<AnyDetector>> {
        let quick = AnyDetector::defaults().into_iter().filter(|detector| !detector.get().slow());
        let all: Vec<String> = quick.map(|detector| detector.name().to_string()).collect();
        let names = if self.scores.is_empty() { &all } else { &self.scores };
        if let Some(change) = changes.iter().find(|c| !names.iter().any(|name| c.starts_with(&format!("{name}.")))) {
            let example = names.first().map_or("energy", String::as_str);
            return usage(format!(
                "`{change}`: changes are of the scores that are used, such as {example}.levels=[0.5]"
            ));
        }
        let mut chosen = vec![];
        for name in names {
            let mut detector = match AnyDetector::named(name) {
                Ok(detector) => detector,
                Err(why) => return usage(format!("--scores: {why}")),
            };
            if !self.levels.is_empty() {
                detector.get_mut().levels().clone_from(&self.levels);
            }
            let mut table = Table::from_iter([(name.clone(), Value::Table(Table::try_from(&detector)?))]);
            for change in changes.iter().filter(|change| change.starts_with(&format!("{name}."))) {
                apply(&mut table, change)?;
            }
            let Some(Value::Table(options)) = table.remove(name) else { bail!("{name} has no options") };
            let detector: AnyDetector = read(options)?;
            match (detector.get().needs_energy() && !has_energy, self.scores.is_empty()) {
                (false, _) => chosen.push(detector),
                (true, true) => crate::talk!("{name} is left out: this model has a score but no energy"),
                (true, false) => {
                    return usage(format!(
                        "--scores {name}: this model has a score but no energy, as its output is not the gradient of a \
                         scalar; use score-norms or reconstruction"
                    ));
                }
            }
        }
        Ok(chosen)
    }
}

/// Detectors, and the data that they are fitted to.
pub struct Plan {
    detectors: Vec<AnyDetector>,
    spec: String,
}

/// A data set in the shape that `model` takes, its notes told; `what` is the option that names it.
pub fn open(opened: &Opened, spec: &str, what: &str) -> Result<Box<dyn Dataset>> {
    let options = Options { size: None, shape: Some(opened.model.spec.shape.clone()), scaling: opened.scaling()? };
    let data = match langevin_data::open(spec, &options) {
        Ok(data) => data,
        Err(e) => return usage(format!("{what} {spec}: {e}")),
    };
    for note in data.notes() {
        crate::talk!("{spec}: {note}");
    }
    Ok(data)
}

/// Detectors that are fitted.
pub struct Scorer<'a> {
    opened: &'a Opened,
    fitted: Vec<(AnyDetector, Rule)>,
    batch: usize,
}

impl<'a> Scorer<'a> {
    /// Fits what is planned. Returns the data that were fitted to and the indices of the samples that were used, too.
    pub fn fit(opened: &'a Opened, args: &Scoring, plan: Plan) -> Result<(Self, Box<dyn Dataset>, Vec<usize>)> {
        let Plan { detectors, spec } = plan;
        let data = open(opened, &spec, "--fit")?;
        let idx = spread(data.len(), args.fit_samples, FITTED);
        let mut scorer = Self { opened, fitted: vec![], batch: args.batch };
        let mut progress =
            Progress::new((detectors.len() * idx.len().div_ceil(args.batch)) as u64, "batches to fit to");
        for detector in detectors {
            let rows = scorer.features(&detector, data.as_ref(), &idx, &mut progress)?;
            let rule = detector.get().fit(&rows).map_err(|e| e.context(detector.name().to_string()))?;
            scorer.fitted.push((detector, rule));
        }
        progress.done();
        Ok((scorer, data, idx))
    }

    /// The names of the scores, in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.fitted.iter().map(|(detector, _)| detector.name()).collect()
    }

    /// The noise levels of each score, for people.
    pub fn levels(&self) -> Vec<String> {
        let of = |(detector, _): &(AnyDetector, Rule)| {
            let levels = detector.clone().get_mut().levels().iter().map(f64::to_string).collect::<Vec<_>>();
            levels.join(", ")
        };
        self.fitted.iter().map(of).collect()
    }

    /// Steps of progress that the scores of `n` samples take.
    pub fn steps(&self, n: usize) -> u64 {
        (self.fitted.len() * n.div_ceil(self.batch)) as u64
    }

    /// Every score of the samples `idx` of `data`: `[scores][samples]`. The noise of a sample belongs to its index. Where
    /// the model is not finite a sample is as far out as can be.
    pub fn scores(&self, data: &dyn Dataset, idx: &[usize], progress: &mut Progress) -> Result<Vec<Vec<f64>>> {
        let of = |(detector, rule): &(AnyDetector, Rule)| -> Result<Vec<f64>> {
            let rows = self.features(detector, data, idx, progress)?;
            Ok(rows.iter().map(|row| rule(row)).map(|s| if s.is_nan() { f64::INFINITY } else { s }).collect())
        };
        self.fitted.iter().map(of).collect()
    }

    fn features(
        &self,
        detector: &AnyDetector,
        data: &dyn Dataset,
        idx: &[usize],
        progress: &mut Progress,
    ) -> Result<Vec<Vec<f64>>> {
        let mut rows = Vec::with_capacity(idx.len());
        for some in idx.chunks(self.batch) {
            let denoiser = self.opened.model.denoiser(cond(&self.opened.model, some.len())?)?;
            let x = samples(self.opened, data, some)?;
            rows.extend(detector.get().features(&denoiser, &x, &mut streams(some))?);
            progress.step();
        }
        Ok(rows)
    }
}

/// The samples `idx` of `data` as the model takes them, `[B, ...]`.
pub fn samples(opened: &Opened, data: &dyn Dataset, idx: &[usize]) -> Result<Tensor> {
    let model = &opened.model;
    let x = data.get(idx)?.x;
    Ok(model.spec.ranged(&x.to_dtype(model.dtype())?.to_device(model.device())?)?)
}

/// What `model` is told of `n` samples of which nobody knows whether they belong: nothing, or its null class.
pub fn cond(model: &Model, n: usize) -> Result<Cond> {
    let labels = match (model.spec.classes, model.spec.null_label()) {
        (None, _) => None,
        (Some(_), Some(null)) => Some(Tensor::full(null, n, model.device())?),
        (Some(_), None) => {
            return usage(
                "this model must be told a class, and samples that may not belong have none; give one without classes, or \
                 one trained with train.label_dropout",
            );
        }
    };
    Ok(Cond { labels, dropout: None })
}

/// The noise of the samples with these indices.
pub fn streams(idx: &[usize]) -> Noise {
    Noise::seeds(&idx.iter().map(|&i| i as u64).collect::<Vec<_>>())
}
