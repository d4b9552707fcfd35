//! Samples: what is asked for, what draws them, and what comes of it.
//!
//! Sample n depends on its seed alone: its noise is stream n, and every step is taken sample by sample; but for samplers
//! of populations, where it depends on the others of its batch.

mod background;
mod draw;
mod files;
mod guide;
mod plan;
pub mod walked;

pub use background::fitting;
pub use draw::{Batch, Drawn, Job, One, Start, image, listed, scale};
pub use files::{Files, Outputs};
pub use guide::{Guide, Guiding, by_seed, cond, denoising, interval, told};
pub use plan::SamplingPlan;
pub use walked::Walked;

use crate::config::NoiseSource;
use crate::error::{Usage, usage};
use crate::open::{self, Opened};
use crate::output::{self, Grid, View};
use crate::watch;
use ::image::RgbImage;
use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use langevin_data::{Columns, Kind};
use langevin_dynamics::Cond;
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::sampler::AnySampler;
use langevin_models::{Head, Model};
use std::path::{Path, PathBuf};

/// Samples at a time, and all of them, if nothing else is asked.
pub const BATCH: usize = 64;

/// What samples are, for those who write them.
pub struct What {
    /// Images, points or rows of a table.
    pub kind: Kind,
    /// Of one sample.
    pub shape: Vec<usize>,
    /// Of a table.
    pub columns: Option<Columns>,
    /// The class that each is told, if any.
    pub labels: Option<Vec<i64>>,
}

/// What of a drawing is kept beside the samples.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep {
    /// So many frames of the way to them at most.
    pub frames: Option<usize>,
    /// What MCMC did, chain by chain.
    pub traced: bool,
}

/// Something to draw samples from, with all that was asked: one model, or several that are composed.
pub trait Source {
    /// What the samples are.
    fn what(&self) -> Result<What>;

    /// The seeds of the samples, in order.
    fn seeds(&self) -> &[u64];

    /// Whether the seeds are those of the samples: not of samples between two seeds.
    fn by_seed(&self) -> bool {
        true
    }

    /// Errors if there is no MCMC to report of.
    fn reports(&self) -> Result<()>;

    /// Does what takes long before the first sample, if there is something.
    fn ready(&mut self) -> Result<()> {
        Ok(())
    }

    /// Draws the samples batch by batch, each given to `take`.
    fn draw(&self, keep: Keep, take: &mut dyn FnMut(Batch) -> Result<()>) -> Result<Drawn>;

    /// What a file should keep of the first `done` samples: keyword and text.
    fn notes(&self, done: usize) -> Result<Vec<(&'static str, String)>>;

    /// Points `x` `[N, 2]` over the energy that they were drawn from, at a time of the way; none: as clean data.
    fn picture(&self, t: Option<f64>, x: &Tensor, view: View) -> Result<RgbImage>;

    /// What to do about samples that are not finite.
    fn advice(&self) -> String;

    /// Errors, with what was lost, unless all samples of `drawn` are there; whether those that are have been `written`.
    fn whole(&self, drawn: Drawn, written: bool) -> Result<()> {
        drawn.whole(self.by_seed().then_some(self.seeds()), written, &self.advice())
    }

    /// All samples at once.
    fn samples(&mut self) -> Result<Samples> {
        let mut parts = vec![];
        let (drawn, notes) = watch::noted(|| -> Result<Drawn> {
            self.ready()?;
            let drawn = self.draw(Keep::default(), &mut |batch| {
                parts.push(batch.x);
                Ok(())
            })?;
            drawn.report.iter().for_each(walked::warn);
            Ok(drawn)
        });
        let mut drawn = drawn?;
        let report = drawn.report.take();
        self.whole(drawn, false)?;
        Ok(Samples { x: Tensor::cat(&parts, 0)?, labels: self.what()?.labels, report, notes })
    }
}

/// Samples that were drawn.
#[derive(Debug)]
pub struct Samples {
    /// `[N, ...]` on the CPU: images in [-1, 1], rows of a table as the model learnt them, which
    /// [`Opened::columns`] bring to their units.
    pub x: Tensor,
    /// The class that each was told.
    pub labels: Option<Vec<i64>>,
    /// What MCMC did, if there was any.
    pub report: Option<Walked>,
    /// What should be known of them.
    pub notes: Vec<String>,
}

impl Samples {
    /// Writes images `[N, C, H, W]` as one picture, a grid.
    ///
    /// Errors if they are no images, or the file cannot be written; one that was there is then untouched.
    pub fn save_png(&self, path: impl AsRef<Path>) -> Result<()> {
        output::save_png(path.as_ref(), &output::grid(&self.x, None)?, &[])
    }
}

/// Samples of a model, as they are asked for. [`Sampling::draw`] draws them.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// let model = langevin::open("exact:8-gaussians")?;
/// let samples = model.sample().seeds(0..32).set("sampler.steps=20").draw()?;
/// assert_eq!(samples.x.dims(), [32, 2]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Sampling<'a> {
    opened: &'a Opened,
    scheduler: Option<String>,
    changes: Vec<String>,
    seeds: Vec<u64>,
    guiding: Guiding,
    from: From,
    batch: Option<usize>,
}

/// Where samples are asked to start.
#[derive(Clone)]
enum From {
    Noise,
    Image { path: PathBuf, strength: f64, encode: bool, invert: bool },
    Between(String),
}

impl Opened {
    /// Samples of this model: 64, with the seeds 0 to 63, as its run draws them, unless something else is asked.
    pub fn sample(&self) -> Sampling<'_> {
        Sampling {
            opened: self,
            scheduler: None,
            changes: vec![],
            seeds: (0..BATCH as u64).collect(),
            guiding: Guiding::default(),
            from: From::Noise,
            batch: None,
        }
    }
}

impl Sampling<'_> {
    /// One sample for each of these seeds.
    pub fn seeds(self, seeds: impl IntoIterator<Item = u64>) -> Self {
        Self { seeds: seeds.into_iter().collect(), ..self }
    }

    /// By this sampler, as `langevin list samplers` names it.
    pub fn sampler(self, name: &str) -> Self {
        self.set(&format!("sampler.name={name}"))
    }

    /// With this change of the sampler, `sampler.KEY=value`, or `noise=torch`.
    pub fn set(mut self, change: &str) -> Self {
        self.changes.push(change.into());
        self
    }

    /// With all of these.
    pub fn changes(mut self, changes: &[String]) -> Self {
        self.changes.extend_from_slice(changes);
        self
    }

    /// By a scheduler of diffusers, a class or a file, for a model that came from there.
    pub fn scheduler(self, chosen: Option<&str>) -> Self {
        Self { scheduler: chosen.map(str::to_string), ..self }
    }

    /// All of this class, a name, a number or `none`.
    pub fn class(mut self, class: &str) -> Self {
        self.guiding.class = Some(class.into());
        self
    }

    /// Guided with this weight, away from what the model draws without a class; 1 is no guidance.
    pub fn guidance(mut self, weight: f64) -> Self {
        self.guiding.guidance = Some(weight);
        self
    }

    /// Guided away from this model in its place.
    pub fn guide(mut self, model: &str) -> Self {
        self.guiding.guide = Some(model.into());
        self
    }

    /// With this class and this guidance.
    pub fn guiding(self, guiding: Guiding) -> Self {
        Self { guiding, ..self }
    }

    /// From an image file with noise added, `strength` of the way to noise, above 0, at most 1; or carried there by the ODE if
    /// `encode`. Its brightness is turned over if `invert`.
    pub fn from_image(self, path: impl AsRef<Path>, strength: f64, (encode, invert): (bool, bool)) -> Self {
        Self { from: From::Image { path: path.as_ref().into(), strength, encode, invert }, ..self }
    }

    /// From the noises between those of two seeds, `A,B`.
    pub fn between(self, seeds: &str) -> Self {
        Self { from: From::Between(seeds.into()), ..self }
    }

    /// So many at a time.
    pub fn batch(self, batch: impl Into<Option<usize>>) -> Self {
        Self { batch: batch.into(), ..self }
    }

    /// Draws them. Errors, naming the option, if what is asked makes no sense, and if a sample is not finite.
    pub fn draw(&self) -> Result<Samples> {
        let (job, mut notes) = watch::noted(|| self.prepared());
        let mut samples = job?.samples()?;
        notes.append(&mut samples.notes);
        Ok(Samples { notes, ..samples })
    }

    /// What draws them, all that is asked checked.
    pub fn prepared(&self) -> Result<Prepared<'_>> {
        let (opened, seeds) = (self.opened, &self.seeds);
        let model = &opened.model;
        if seeds.is_empty() {
            return usage(Usage::of("seeds", "there are none, and so no samples; give one a sample"));
        }
        if self.batch == Some(0) {
            return usage(Usage::of("batch", "give at least 1").value(0));
        }
        let (drawing, way) = SamplingPlan::of(opened, self.scheduler.as_deref(), &self.changes)?;
        let start = match &self.from {
            From::Noise => Start::Noise,
            From::Image { path, strength, encode, invert } => {
                Start::image(opened, path, *strength, (*encode, *invert))?
            }
            From::Between(text) => Start::between(text, seeds.len())?,
        };
        if let (Start::Between { .. }, Some(n), None) = (&start, model.spec.classes, &self.guiding.class) {
            let none = if model.spec.null_class { ", or none" } else { "" };
            let why = format!("the samples between two seeds are of one class; give --class 0 to {}{none}", n - 1);
            return usage(Usage::of("interpolate", why));
        }
        let labels = self.guiding.labels(opened, seeds)?;
        let guide = self.guiding.open(opened, model.device())?;
        fits(model, &way.sampler, &start)?;
        let batch = batch(self.batch, &way.sampler, opened.kind(), seeds.len());
        let how = way.whose.clone().map_or_else(|| toml::to_string(&drawing), Ok)?;
        let between = if let From::Between(text) = &self.from { Some(text.clone()) } else { None };
        let (noise, way, seeds) = (drawing.noise, start.cut(way)?, seeds.clone());
        Ok(Prepared { opened, how, between, job: Job { model, guide, noise, way, start, batch, seeds, labels } })
    }
}

/// A [`Sampling`] that makes sense.
pub struct Prepared<'a> {
    opened: &'a Opened,
    /// What draws them.
    pub job: Job<'a>,
    /// How they are drawn, in words.
    how: String,
    /// The two seeds, if samples lie between those.
    between: Option<String>,
}

impl Source for Prepared<'_> {
    fn what(&self) -> Result<What> {
        let (kind, shape) = (self.opened.kind(), self.job.model.spec.shape.clone());
        let labels = self.job.labels.as_ref().map(|labels| labels.iter().map(|&label| label.into()).collect());
        Ok(What { kind, shape, columns: self.opened.columns()?, labels })
    }

    fn seeds(&self) -> &[u64] {
        &self.job.seeds
    }

    fn by_seed(&self) -> bool {
        self.between.is_none()
    }

    fn reports(&self) -> Result<()> {
        reports(&self.job.way.sampler)
    }

    fn draw(&self, keep: Keep, take: &mut dyn FnMut(Batch) -> Result<()>) -> Result<Drawn> {
        Ok(self.job.draw(keep, take))
    }

    fn notes(&self, done: usize) -> Result<Vec<(&'static str, String)>> {
        let all = self.between.clone().filter(|_| done == self.seeds().len());
        let seeds = all.unwrap_or_else(|| listed(&self.seeds()[..done]));
        let (model, how) = (self.opened.what.clone(), self.how.clone());
        Ok(vec![("langevin.model", model), ("langevin.seeds", seeds), ("langevin.sampler", how)])
    }

    fn picture(&self, t: Option<f64>, x: &Tensor, view: View) -> Result<RgbImage> {
        points(self.job.model, t, x, view, self.job.labels.as_deref())
    }

    fn advice(&self) -> String {
        self.job.advice()
    }
}

/// Errors if `sampler` does not draw samples of `model`, or not from `start`.
fn fits(model: &Model, sampler: &AnySampler, start: &Start) -> Result<()> {
    let (needs, name) = (sampler.get().needs(), sampler.name());
    if matches!(model.spec.predict, AnyParametrisation::Consistency(_)) && !needs.consistency {
        let why = "it goes by E[x_0 | x_t], and this is a consistency model, which tells the end of a path; give \
                   sampler.name=consistency";
        return usage(Usage::of("sampler.name", why).value(name));
    }
    if needs.prior && !matches!(start, Start::Noise) {
        let option = if matches!(start, Start::Image { .. }) { "from" } else { "interpolate" };
        let other = if name == "pc" { ", or sampler.replicas=1" } else { "" };
        let why = format!("{name} takes where it starts for draws of pure noise; use another sampler.name{other}");
        return usage(Usage::of(option, why));
    }
    start.suits(sampler)
}

/// Samples at a time: all of them where points or rows are one population. Says where samples depend on their batch and
/// there are several.
pub fn batch(asked: Option<usize>, sampler: &AnySampler, kind: Kind, all: usize) -> usize {
    let population = sampler.get().needs().population;
    let batch = asked.unwrap_or(if population && kind != Kind::Image { all } else { BATCH });
    if population && batch < all {
        let what =
            if sampler.name() == "pc" { "share the sizes of their steps" } else { "are a population of their own" };
        crate::note!("each {batch} samples {what}; --batch {all} makes one of all");
    }
    batch
}

/// Errors if a report is asked of a sampler that has none.
pub fn reports(sampler: &AnySampler) -> Result<()> {
    if sampler.get().reports() {
        return Ok(());
    }
    let why = format!(
        "{} has no steps of MCMC; use sampler.name=annealed-mcmc, tempering or smc, or pc with sampler.corrector=mala",
        sampler.name()
    );
    usage(Usage::of("report", why))
}

/// Writes the usual picture of samples of a model to `path`, of as many as it has room for; a table goes to a CSV file beside
/// it. Says where it is.
pub fn picture(
    model: &Model,
    sampler: &crate::config::Sampler,
    seeds: &[u64],
    columns: Option<&Columns>,
    path: &Path,
) -> Result<PathBuf> {
    let seeds = match model.spec.shape[..] {
        [_, height, width] => &seeds[..Grid::at_most(seeds.len(), [width, height])],
        _ => seeds,
    };
    let labels = by_seed(model, seeds);
    let (way, noise) = (SamplingPlan::of_sampler(model, sampler)?, NoiseSource::default());
    let (start, seeds) = (Start::Noise, seeds.to_vec());
    let job = Job { model, guide: None, noise, way, start, batch: BATCH, seeds, labels: labels.clone() };
    let x = job.all()?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let path = match open::kind(model) {
        Kind::Table => path.with_extension("csv"),
        _ => path.to_path_buf(),
    };
    match open::kind(model) {
        Kind::Image => output::save_png(&path, &output::grid(&x, None)?, &[])?,
        Kind::Points => {
            output::save_png(&path, &points(model, None, &x, View::around(&x, output::SIDE)?, labels.as_deref())?, &[])?
        }
        Kind::Table => output::save_samples(&path, columns, &x)?,
    }
    Ok(path)
}

/// Points `x` `[N, 2]` over the energy, as they are seen in `view`. At a time t they are x_t, brought to the scale of the
/// data.
fn points(model: &Model, t: Option<f64>, x: &Tensor, view: View, labels: Option<&[u32]>) -> Result<RgbImage> {
    let process = model.spec.process.get();
    let least = process.t_at(output::shown_log_snr(model.spec.sigma_data));
    let (t, scale) = t.filter(|&t| t > least).map_or((least, 1.), |t| (t, draw::scale(model, t)));
    let energy = |x: &Tensor| -> Result<Tensor> {
        let x = x.to_dtype(model.dtype())?.to_device(model.device())?.affine(1. / scale, 0.)?;
        let n = x.dim(0)?;
        let labels = match labels.and_then(|labels| labels.first()) {
            Some(&label) => Some(Tensor::full(label, n, model.device())?),
            None => None,
        };
        Ok(model.energy(&x, &[t], &Cond::class(labels))?.to_device(&Device::Cpu)?)
    };
    let energy: Option<&output::Energy> = if model.spec.head == Head::Energy { Some(&energy) } else { None };
    output::landscape(energy, x, view)
}
