//! `langevin look`: what an energy or a score is like, in numbers and pictures.

mod curl;
mod filters;
mod histogram;
mod landscape;
mod path;
mod spectrum;

use crate::machine::Machine;
use anyhow::Result;
use candle_core::{DType, Tensor};
use clap::{Args, Parser, Subcommand};
use langevin::config::idle;
use langevin::data::{Dataset, Kind};
use langevin::dynamics::{Denoiser, NoisyEnergy, Preconditioned};
use langevin::error::{Usage, usage};
use langevin::eval::score::time;
use langevin::open::{self, Opened};
use langevin::sample::{Job, SamplingPlan, Start, image};
use langevin::{sample as guide, scoring};
use std::path::Path;
use std::sync::Arc;

/// Of the choice of samples.
const SHOWN: u64 = 4;

/// Look at an energy or a score: its curl, paths, curvature, histogram and landscape
#[derive(Parser)]
pub struct Look {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Curl(curl::Curl),
    Filters(filters::Filters),
    Path(path::Path),
    Spectrum(spectrum::Spectrum),
    Histogram(histogram::Histogram),
    Landscape(landscape::Landscape),
}

/// Carries out `langevin look`.
pub fn run(args: &Look) -> Result<()> {
    match &args.what {
        What::Curl(args) => curl::run(args),
        What::Filters(args) => filters::run(args),
        What::Path(args) => path::run(args),
        What::Spectrum(args) => spectrum::run(args),
        What::Histogram(args) => histogram::run(args),
        What::Landscape(args) => landscape::run(args),
    }
}

/// What is looked at
#[derive(Args, Clone, Debug)]
pub struct Subject {
    /// A run folder, RUN@STEP, a weights file, a folder of diffusers, OWNER/NAME of the Hub, or exact:NAME
    pub model: String,
    /// Class that a class-conditional model is told, and of the samples, by its name or number; `none` for one trained with
    /// train.label_dropout [default: none; of histogram, that of each of the data]
    #[arg(long, value_name = "CLASS|none")]
    pub class: Option<String>,
    /// Samples at a time
    #[arg(long, default_value_t = 64)]
    pub batch: usize,
    #[command(flatten)]
    pub machine: Machine,
}

impl Subject {
    /// The model.
    fn open(&self) -> Result<Opened> {
        let device = self.machine.open()?;
        if self.batch == 0 {
            return usage(Usage::of("batch", "give at least 1").value("0"));
        }
        open::open(&self.model, &device)
    }

    /// What the model is told of all samples.
    fn label(&self, opened: &Opened) -> Result<Option<u32>> {
        guide::told(opened, self.class.as_deref())
    }

    /// `n` samples of `spec`, or of what the run was trained on, `[n, ...]`; of the class `label` where that is one.
    fn data(&self, opened: &Opened, spec: Option<&String>, n: usize, label: Option<u32>) -> Result<Tensor> {
        let (data, idx) = self.places(opened, spec, n, label)?;
        scoring::samples(opened, data.as_ref(), &idx)
    }

    /// The data set, and where those samples are in it.
    fn places(
        &self,
        opened: &Opened,
        spec: Option<&String>,
        n: usize,
        label: Option<u32>,
    ) -> Result<(Arc<dyn Dataset>, Vec<usize>)> {
        spec.into_iter().try_for_each(|spec| idle::ambiguous("data", spec))?;
        let Some(spec) = &spec.cloned().or_else(|| opened.learnt()) else {
            return usage("the model does not say what it was trained on; name data with --data SPEC");
        };
        if n == 0 {
            return usage("-n 0: give at least 1");
        }
        scoring::open_some(opened, spec, "data", |data| {
            let idx = scoring::choose(&scoring::members(opened, label, data.as_ref())?, n, SHOWN);
            data.get(&idx)?; // images are kept once they are decoded
            Ok(idx)
        })
    }

    /// Samples of the model by its own sampler, as it takes them, `[N, ...]`; told `labels`, one for all or one each.
    fn drawn(&self, opened: &Opened, seeds: &[u64], labels: &[u32], start: Start) -> Result<Tensor> {
        let (drawing, way) = SamplingPlan::of(opened, None, &[])?;
        start.suits(&way.sampler)?;
        let labels = match labels {
            [] => None,
            [label] => Some(vec![*label; seeds.len()]),
            labels => Some(labels.to_vec()),
        };
        let (model, noise, batch, seeds) = (&opened.model, drawing.noise, self.batch, seeds.to_vec());
        let x = Job { model, guide: None, noise, way, start, batch, seeds, labels }
            .all()?
            .to_device(opened.model.device())?;
        Ok(opened.model.spec.ranged(&x)?)
    }

    /// The sample that `name` means, a seed or an image file: `[1, ...]`.
    fn sample(&self, opened: &Opened, label: Option<u32>, option: &str, name: &str) -> Result<Tensor> {
        if let Ok(seed) = name.parse::<u64>() {
            return self.drawn(opened, &[seed], label.as_slice(), Start::Noise);
        }
        if opened.kind() != Kind::Image {
            return usage(format!("{option} {name}: give a seed; this model is not one of images"));
        }
        if !Path::new(name).is_file() {
            return usage(format!("{option} {name}: neither a seed nor an image file"));
        }
        let x = image(Path::new(name), &opened.model.spec.shape)?;
        Ok(opened.model.spec.ranged(&x.to_dtype(opened.model.dtype())?.to_device(opened.model.device())?)?)
    }
}

/// The time of a noise level that was typed.
fn at(m: &dyn Denoiser, option: &str, level: f64) -> Result<f64> {
    match time(m.process(), level) {
        Ok(t) => Ok(t),
        Err(e) => usage(format!("{option}: {e}")),
    }
}

/// The energy of a model, or why there is none to look at.
fn energy(m: &dyn Denoiser) -> Result<&dyn NoisyEnergy> {
    match m.noisy_energy() {
        Some(energy) => Ok(energy),
        None => usage(
            "this model has a score but no energy, as its output is not the gradient of a scalar; look curl says \
             how far it is from one, and look path integrates it along a line",
        ),
    }
}

/// The energies of `x` `[N, ...]`, `batch` at a time; told `labels`, one for all or one each.
fn energies(
    (opened, labels): (&Opened, &[u32]),
    x: &Tensor,
    t: f64,
    batch: usize,
    mut watch: impl FnMut(),
) -> Result<Tensor> {
    let mut parts = vec![];
    for first in (0..x.dim(0)?).step_by(batch) {
        let n = batch.min(x.dim(0)? - first);
        let denoiser = denoiser(opened, if labels.len() > 1 { &labels[first..first + n] } else { labels })?;
        parts.push(energy(&denoiser)?.energy_at(&x.narrow(0, first, n)?, &[t])?.detach().to_dtype(DType::F64)?);
        watch();
    }
    Ok(Tensor::cat(&parts, 0)?)
}

/// The model told `labels`: none, one for all samples of any batch, or one each.
fn denoiser<'a>(opened: &'a Opened, labels: &[u32]) -> Result<Preconditioned<'a>> {
    Ok(opened.model.denoiser(guide::cond(&opened.model, labels)?)?)
}
