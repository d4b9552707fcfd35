//! `langevin sample`: pictures, arrays and tables drawn from a model.
//!
//! Sample n depends on its seed alone: its noise is stream n, and every step is taken sample by sample; but for samplers
//! of populations, where it depends on the others of its batch.

use crate::args::Sample;
use crate::draw::{self, Job, Start};
use crate::guide::by_seed;
use crate::levels;
use crate::open;
use crate::output::{self, Files, Grid, View};
use crate::run::{NoiseSource, usage};
use crate::stop;
use crate::way::Way;
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use langevin_data::{Columns, Kind};
use langevin_dynamics::Cond;
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::sampler::{AnySampler, Report};
use langevin_models::{Head, Model};
use std::path::{Path, PathBuf};

/// Samples at a time without --batch.
const BATCH: usize = 64;
/// Samples without -n or --seeds.
const NUMBER: usize = 64;
/// Pictures of a path from one seed to another without -n.
const BETWEEN: usize = 10;
/// More samples are a slip of the finger.
const MOST: u64 = 10_000_000;

/// Carries out `langevin sample`.
pub fn run(args: &Sample) -> Result<()> {
    let device = args.machine.open()?;
    let seeds = seeds(args)?;
    if args.batch == Some(0) {
        return usage("--batch 0: give at least 1");
    }
    let levels = args.report.iter().flatten();
    let kinds: [(_, &[&str]); 3] = [(&args.out, &["png", "csv"]), (&args.npz, &["npz"]), (&args.gif, &["gif"])];
    for (path, kinds) in kinds {
        path.iter().try_for_each(|path| output::writable_as(path, kinds))?;
    }
    for path in levels {
        output::writable(path)?;
    }
    if let Some(text) = &args.compose {
        return crate::compose::run(args, text, &device);
    }
    let Some(name) = &args.model else { return usage("give a MODEL; see langevin sample --help") };
    let opened = open::open_as(name, args.scheduler.as_deref(), DType::F32, &device)?;
    suits(args, opened.kind())?;
    let (drawing, way) = Way::of(&opened, args.scheduler.as_deref(), &args.changes)?;
    let start = Start::of(args, &opened, &seeds)?;
    if let (Some(_), Some(n), None) = (&args.interpolate, opened.model.spec.classes, &args.guiding.class) {
        let none = if opened.model.spec.null_class { ", or none" } else { "" };
        return usage(format!(
            "--interpolate: the samples between two seeds are of one class; give --class 0 to {}{none}",
            n - 1
        ));
    }
    let labels = args.guiding.labels(&opened, &seeds)?;
    let guide = args.guiding.open(&opened, &device)?;
    reports(args, &way.sampler)?;
    let consistency = matches!(opened.model.spec.predict, AnyParametrisation::Consistency(_));
    if consistency && !way.sampler.get().needs().consistency {
        return usage(format!(
            "sampler.name = {}: it goes by E[x_0 | x_t], and this is a consistency model, which tells the end of a path; \
             give sampler.name=consistency",
            way.sampler.name()
        ));
    }
    if way.sampler.get().needs().prior && !matches!(start, Start::Noise) {
        let option = if args.from.is_some() { "--from" } else { "--interpolate" };
        return usage(format!(
            "{option}: {} takes where it starts for draws of pure noise; use another sampler.name{}",
            way.sampler.name(),
            if way.sampler.name() == "pc" { ", or sampler.replicas=1" } else { "" }
        ));
    }
    start.suits(&way.sampler)?;
    let batch = batch(args, &way.sampler, opened.kind(), seeds.len());
    let (model, noise) = (&opened.model, drawing.noise);
    let job = Job { model, guide, noise, way: start.cut(way)?, start, batch };
    let how = job.way.whose.clone().map_or_else(|| toml::to_string(&drawing), Ok)?;
    let numbers = labels.as_ref().map(|labels| labels.iter().map(|&label| label.into()).collect());
    let what = (opened.kind(), model.spec.shape.as_slice(), opened.columns()?);
    let mut files = Files::create(args, what, seeds.len(), numbers)?;
    let _hold = stop::hold();
    let keep = (files.frames(), args.report.is_some());
    let mut drawn = job.draw(&seeds, labels.as_deref(), keep, &mut |batch| files.add(batch, &seeds));
    let typed = args.interpolate.as_ref().or(args.seeds.as_ref()).filter(|_| drawn.done == seeds.len()).cloned();
    let of = typed.unwrap_or_else(|| draw::listed(&seeds[..drawn.done]));
    let notes = [("langevin.model", opened.what.clone()), ("langevin.seeds", of), ("langevin.sampler", how)];
    files.finish(&|t, x, view| points(model, t, x, view, labels.as_deref()), &notes)?;
    mcmc(args, drawn.report.take().as_ref())?;
    let own = args.interpolate.is_none().then_some(seeds.as_slice());
    drawn.whole(own, true, &job.advice())
}

/// Samples at a time: all of them where points or rows are one population. Says where samples depend on their batch and
/// there are several.
pub fn batch(args: &Sample, sampler: &AnySampler, kind: Kind, all: usize) -> usize {
    let population = sampler.get().needs().population;
    let batch = args.batch.unwrap_or(if population && kind != Kind::Image { all } else { BATCH });
    if population && batch < all {
        let what =
            if sampler.name() == "pc" { "share the sizes of their steps" } else { "are a population of their own" };
        crate::talk!("each {batch} samples {what}; --batch {all} makes one of all");
    }
    batch
}

/// Errors if a report is asked of a sampler that has none.
pub fn reports(args: &Sample, sampler: &AnySampler) -> Result<()> {
    if args.report.is_some() && !sampler.get().reports() {
        return usage(format!(
            "--report: {} has no steps of MCMC; use sampler.name=annealed-mcmc, tempering or smc, or pc with \
             sampler.corrector=mala",
            sampler.name()
        ));
    }
    Ok(())
}

/// Errors if samples of this kind cannot be written as asked: before they are drawn, not after.
pub fn suits(args: &Sample, kind: Kind) -> Result<()> {
    let ends = |ending: &str| args.out.as_ref().is_some_and(|out| out.extension().is_some_and(|e| e == ending));
    match kind {
        Kind::Image if ends("csv") => usage("--out FILE.csv: images are not a table; give a .png, or --npz"),
        Kind::Table if ends("png") => {
            usage("--out FILE.png: rows of a table are no picture; give --out FILE.csv, or --npz")
        }
        Kind::Table if args.gif.is_some() => {
            usage("--gif: rows of a table are no picture; give --out FILE.csv, or --npz")
        }
        Kind::Points | Kind::Table if args.images.is_some() => {
            usage("--images: this model is not one of images; give --out, or --npz")
        }
        _ => Ok(()),
    }
}

/// Writes the usual picture of samples of a model to `path`, of as many as it has room for; a table goes to a CSV file beside it. Says where it is.
pub fn picture(
    model: &Model,
    sampler: &crate::run::Sampler,
    seeds: &[u64],
    columns: Option<&Columns>,
    path: &Path,
) -> Result<PathBuf> {
    let seeds = match model.spec.shape[..] {
        [_, height, width] => &seeds[..Grid::at_most(seeds.len(), [width, height])],
        _ => seeds,
    };
    let labels = by_seed(model, seeds);
    let way = Way::of_sampler(model, sampler)?;
    let job = Job { model, guide: None, noise: NoiseSource::default(), way, start: Start::Noise, batch: NUMBER };
    let x = job.all(seeds, labels.as_deref())?;
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

/// The seeds that are asked for, in order.
pub fn seeds(args: &Sample) -> Result<Vec<u64>> {
    let number = args.number.unwrap_or(if args.interpolate.is_some() { BETWEEN } else { NUMBER });
    if number == 0 || number as u64 > MOST {
        return usage(format!("-n {number}: give 1 to {MOST}"));
    }
    let Some(text) = &args.seeds else { return Ok((0..number as u64).collect()) };
    let wrong = |part: &str| usage(format!("--seeds {text}: `{part}` is neither a seed nor a range such as 0-63"));
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<u64>(), last.trim().parse::<u64>()) else {
            return wrong(part);
        };
        if last < first {
            return usage(format!("--seeds {text}: the range {part} goes backwards"));
        }
        if last - first >= MOST || all.len() as u64 + (last - first) >= MOST {
            return usage(format!("--seeds {text}: more than {MOST} samples"));
        }
        all.extend(first..=last);
    }
    Ok(all)
}

/// What MCMC did at each noise level, if it is asked for: the table, and JSON in a file. Where it failed is said anyway.
pub fn mcmc(args: &Sample, report: Option<&Report>) -> Result<()> {
    let Some(report) = report else { return Ok(()) };
    levels::warn(report);
    let Some(file) = &args.report else { return Ok(()) };
    if let Some(path) = file {
        output::save(path, serde_json::to_string_pretty(&levels::json(report))?.as_bytes())?;
        crate::say!("{}", path.display())?;
    }
    levels::show(report)
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
