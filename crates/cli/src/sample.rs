//! `langevin sample`: pictures, arrays and tables drawn from a model.
//!
//! Sample n depends on its seed alone: its noise is stream n, and every step is taken sample by sample; but for samplers
//! of populations, where it depends on the others of its batch.

use crate::args::Sample;
use crate::draw::{Drawn, Job, Start};
use crate::guide::by_seed;
use crate::levels;
use crate::open::{self, Opened};
use crate::output;
use crate::run::{Drawing, NoiseSource, usage};
use crate::way::Way;
use anyhow::{Context, Result, bail};
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
    let drawing = Drawing::of(opened.run.as_ref(), &args.changes)?;
    let start = Start::of(args, &opened.model, &seeds)?;
    let labels = args.guiding.labels(&opened, &seeds)?;
    let guide = args.guiding.open(&opened, &device)?;
    let way = match &opened.scheduler {
        Some(scheduler) => Way::of_scheduler(scheduler, &opened.model, &drawing, &args.changes)?,
        None => Way::of_sampler(&opened.model, &drawing.sampler)?,
    };
    reports(args, &way.sampler)?;
    let consistency = matches!(opened.model.spec.predict, AnyParametrisation::Consistency(_));
    if consistency && !way.sampler.get().wants_consistency() {
        return usage(format!(
            "sampler.name = {}: it goes by E[x_0 | x_t], and this is a consistency model, which tells the end of a path; \
             give sampler.name=consistency",
            way.sampler.name()
        ));
    }
    if way.sampler.get().wants_prior() && !matches!(start, Start::Noise) {
        let option = if args.from.is_some() { "--from" } else { "--interpolate" };
        return usage(format!(
            "{option}: {} takes where it starts for draws of pure noise; use another sampler.name{}",
            way.sampler.name(),
            if way.sampler.name() == "pc" { ", or sampler.replicas=1" } else { "" }
        ));
    }
    let batch = batch(args, &way.sampler, opened.kind(), seeds.len());
    let (model, noise) = (&opened.model, drawing.noise);
    let job = Job { model, guide, noise, way: start.cut(way)?, start, batch };
    let drawn = job.draw(&seeds, labels.as_deref(), args.gif.is_some())?;
    let how = job.way.whose.clone().map_or_else(|| toml::to_string(&drawing), Ok)?;
    write(args, &opened, how, &seeds, labels.as_deref(), &drawn)
}

/// Samples at a time: all of them where points or rows are one population. Says where there are several populations.
pub fn batch(args: &Sample, sampler: &AnySampler, kind: Kind, all: usize) -> usize {
    let population = sampler.get().population();
    let batch = args.batch.unwrap_or(if population && kind != Kind::Image { all } else { BATCH });
    if population && batch < all {
        crate::talk!("each {batch} samples are a population of their own; --batch {all} makes one");
    }
    batch
}

/// Errors if a report is asked of a sampler that has none.
pub fn reports(args: &Sample, sampler: &AnySampler) -> Result<()> {
    if args.report.is_some() && sampler.get().report().is_none() {
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

/// Writes the usual picture of samples of a model to `path`; a table goes to a CSV file beside it. Says where it is.
pub fn picture(
    model: &Model,
    sampler: &crate::run::Sampler,
    seeds: &[u64],
    columns: Option<&Columns>,
    path: &Path,
) -> Result<PathBuf> {
    let labels = by_seed(model, seeds);
    let way = Way::of_sampler(model, sampler)?;
    let job = Job { model, guide: None, noise: NoiseSource::default(), way, start: Start::Noise, batch: NUMBER };
    let drawn = job.draw(seeds, labels.as_deref(), false)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let path = match open::kind(model) {
        Kind::Table => path.with_extension("csv"),
        _ => path.to_path_buf(),
    };
    show(model, columns, &drawn.x, labels.as_deref(), &path, &[])?;
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

/// Writes everything that was asked for, and says so.
fn write(
    args: &Sample,
    opened: &Opened,
    how: String,
    seeds: &[u64],
    labels: Option<&[u32]>,
    drawn: &Drawn,
) -> Result<()> {
    let model = &opened.model;
    let notes = [
        ("langevin.model", opened.what.clone()),
        ("langevin.seeds", args.interpolate.clone().or(args.seeds.clone()).unwrap_or(format!("0-{}", seeds.len() - 1))),
        ("langevin.sampler", how),
    ];
    let asked = args.images.is_some() || args.npz.is_some() || args.gif.is_some();
    let out = match (&args.out, asked) {
        (Some(out), _) => Some(out.clone()),
        (None, true) => None,
        (None, false) if opened.kind() == Kind::Table => Some("samples.csv".into()),
        (None, false) => Some("samples.png".into()),
    };
    if let Some(path) = out {
        show(model, opened.columns()?.as_ref(), &drawn.x, labels, &path, &notes)?;
        crate::say!("{}", path.display())?;
    }
    if let Some(folder) = &args.images {
        each(&drawn.x, seeds, folder)?;
        crate::say!("{}", folder.display())?;
    }
    if let Some(path) = &args.npz {
        output::save(path, &arrays(opened.kind(), opened.columns()?.as_ref(), &drawn.x, labels)?)?;
        crate::say!("{}", path.display())?;
    }
    if let Some(path) = &args.gif {
        let frames = drawn.path.iter().map(|(t, x)| frame(model, *t, x, &drawn.x, labels));
        output::save_gif(path, &frames.collect::<Result<Vec<_>>>()?)?;
        crate::say!("{}", path.display())?;
    }
    mcmc(args, drawn.report.as_ref())
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

/// The samples as one file to look at: a grid of images, points over the energy, a table.
fn show(
    model: &Model,
    columns: Option<&Columns>,
    x: &Tensor,
    labels: Option<&[u32]>,
    path: &Path,
    notes: &[(&str, String)],
) -> Result<()> {
    let is_csv = path.extension().is_some_and(|e| e == "csv");
    match open::kind(model) {
        Kind::Image => output::save_png(path, &output::grid(x, None)?, notes),
        Kind::Points if !is_csv => output::save_png(path, &points(model, None, x, x, labels)?, notes),
        _ => output::save_samples(path, columns, x),
    }
}

/// Each image as FOLDER/SEED.png.
pub fn each(x: &Tensor, seeds: &[u64], folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    for (picture, seed) in output::pictures(x)?.iter().zip(seeds) {
        output::save_png(&folder.join(format!("{seed}.png")), picture, &[])?;
    }
    Ok(())
}

/// `arr_0` (u8 `[N, H, W, C]` for images; `[N, D]`, in the units of the columns of a table) and `arr_1`, the labels.
pub fn arrays(kind: Kind, columns: Option<&Columns>, x: &Tensor, labels: Option<&[u32]>) -> Result<Vec<u8>> {
    let samples = if kind == Kind::Image { output::to_u8(x)? } else { output::in_units(columns, x)? };
    let labels = labels.map(|l| Tensor::new(l.iter().map(|&l| i64::from(l)).collect::<Vec<_>>(), &Device::Cpu));
    match labels.transpose()? {
        Some(labels) => output::npz(&[("arr_0", &samples), ("arr_1", &labels)]),
        None => output::npz(&[("arr_0", &samples)]),
    }
}

/// One frame of the way: x_t brought to the scale of the data.
fn frame(model: &Model, t: f64, x: &Tensor, last: &Tensor, labels: Option<&[u32]>) -> Result<RgbImage> {
    let m = model.spec.process.get().marginal(t);
    let s = model.spec.sigma_data;
    let scale = s / (m.alpha * s).hypot(m.sigma);
    let x = x.affine(scale, 0.)?;
    match open::kind(model) {
        Kind::Image => output::grid(&x, None),
        Kind::Points => points(model, (t > 0.).then_some((t, scale)), &x, last, labels),
        Kind::Table => bail!("rows of a table have no animation"),
    }
}

/// Points `x` `[N, 2]` over the energy, seen in the frame that `around` needs. At `(t, scale)` they are x_t times scale.
fn points(
    model: &Model,
    at: Option<(f64, f64)>,
    x: &Tensor,
    around: &Tensor,
    labels: Option<&[u32]>,
) -> Result<RgbImage> {
    let process = model.spec.process.get();
    // the energy of clean data has walls as steep as the least noise: a little noise shows the landscape
    let soft = process.t_at(-2. * (0.15 * model.spec.sigma_data).ln());
    let (t, scale) = at.filter(|(t, _)| *t > soft).unwrap_or((soft, 1.));
    let energy = |x: &Tensor| -> Result<Tensor> {
        let x = x.to_dtype(model.dtype())?.to_device(model.device())?.affine(1. / scale, 0.)?;
        let n = x.dim(0)?;
        let labels = match labels.and_then(|labels| labels.first()) {
            Some(&label) => Some(Tensor::full(label, n, model.device())?),
            None => None,
        };
        Ok(model.energy(&x, &[t], &Cond { labels, dropout: None })?.to_device(&Device::Cpu)?)
    };
    let energy: Option<&output::Energy> = if model.spec.head == Head::Energy { Some(&energy) } else { None };
    output::landscape(energy, x, output::View::around(around)?)
}
