//! `langevin look`: what an energy or a score is like, in numbers and pictures.

mod curl;
mod histogram;
mod landscape;
mod path;
mod spectrum;

use crate::args::Machine;
use crate::draw::{self, Job, Start};
use crate::open::{self, Opened};
use crate::run::{Drawing, usage};
use crate::scoring;
use crate::way::Way;
use anyhow::Result;
use candle_core::{DType, Tensor};
use clap::{Args, Parser, Subcommand};
use langevin_data::{Kind, spread};
use langevin_dynamics::{Denoiser, NoisyEnergy};
use langevin_eval::score::time;
use std::path::Path;

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
    Path(path::Path),
    Spectrum(spectrum::Spectrum),
    Histogram(histogram::Histogram),
    Landscape(landscape::Landscape),
}

/// Carries out `langevin look`.
pub fn run(args: &Look) -> Result<()> {
    match &args.what {
        What::Curl(args) => curl::run(args),
        What::Path(args) => path::run(args),
        What::Spectrum(args) => spectrum::run(args),
        What::Histogram(args) => histogram::run(args),
        What::Landscape(args) => landscape::run(args),
    }
}

/// What is looked at
#[derive(Args, Clone, Debug)]
pub struct Subject {
    /// The model
    pub model: String,
    /// Samples at a time
    #[arg(long, default_value_t = 64)]
    pub batch: usize,
    #[command(flatten)]
    pub machine: Machine,
}

impl Subject {
    /// The model, which must be one without classes.
    fn open(&self) -> Result<Opened> {
        let device = self.machine.open()?;
        if self.batch == 0 {
            return usage("--batch 0: give at least 1");
        }
        let opened = open::open(&self.model, &device)?;
        if opened.model.spec.classes.is_some() {
            return usage("this model is told a class, and its energy is one for each; give one without classes");
        }
        Ok(opened)
    }

    /// `n` samples of `spec`, or of what the run was trained on, `[n, ...]`.
    fn data(&self, opened: &Opened, spec: Option<&String>, n: usize) -> Result<Tensor> {
        let spec = match (spec, &opened.run) {
            (Some(spec), _) => spec,
            (None, Some(run)) => &run.data.spec,
            (None, None) => return usage("the model does not say what it was trained on; name data with --data SPEC"),
        };
        if n == 0 {
            return usage("-n 0: give at least 1");
        }
        let data = scoring::open(opened, spec, "--data")?;
        scoring::samples(opened, data.as_ref(), &spread(data.len(), n, SHOWN))
    }

    /// Samples of the model by its own sampler, as it takes them, `[N, ...]`.
    fn drawn(&self, opened: &Opened, seeds: &[u64], start: Start) -> Result<Tensor> {
        let drawing = Drawing::of(opened.run.as_ref(), &[])?;
        let way = match &opened.scheduler {
            Some(scheduler) => Way::of_scheduler(scheduler, &opened.model, &drawing, &[])?,
            None => Way::of_sampler(&opened.model, &drawing.sampler)?,
        };
        let job = Job { model: &opened.model, guide: None, noise: drawing.noise, way, start, batch: self.batch };
        let x = job.draw(seeds, None, false)?.x.to_device(opened.model.device())?;
        Ok(opened.model.spec.ranged(&x)?)
    }

    /// The sample that `name` means, a seed or an image file: `[1, ...]`.
    fn sample(&self, opened: &Opened, option: &str, name: &str) -> Result<Tensor> {
        if let Ok(seed) = name.parse::<u64>() {
            return self.drawn(opened, &[seed], Start::Noise);
        }
        if opened.kind() != Kind::Image {
            return usage(format!("{option} {name}: give a seed; this model is not one of images"));
        }
        if !Path::new(name).is_file() {
            return usage(format!("{option} {name}: neither a seed nor an image file"));
        }
        let x = draw::image(Path::new(name), &opened.model.spec.shape)?;
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
            "this model has a score but no energy, as its output is not the gradient of a scalar; look curl says how far it \
             is from one, and look path integrates it along a line",
        ),
    }
}

/// The energies of `x` `[N, ...]`, `batch` at a time.
fn energies(energy: &dyn NoisyEnergy, x: &Tensor, t: f64, batch: usize, mut watch: impl FnMut()) -> Result<Tensor> {
    let mut parts = vec![];
    for first in (0..x.dim(0)?).step_by(batch) {
        let some = x.narrow(0, first, batch.min(x.dim(0)? - first))?;
        parts.push(energy.energy_at(&some, &[t])?.detach().to_dtype(DType::F64)?);
        watch();
    }
    Ok(Tensor::cat(&parts, 0)?)
}
