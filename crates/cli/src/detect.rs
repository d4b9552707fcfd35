//! `langevin detect`: which of some samples do not belong to the data of a model, and where in them that shows.

use crate::args::Machine;
use crate::guide;
use crate::open::{self, Opened};
use crate::output;
use crate::progress::Progress;
use crate::run::usage;
use crate::scoring::{self, Scorer, Scoring, streams};
use anyhow::{Context, Result};
use candle_core::Tensor;
use clap::Parser;
use image::{Rgb, RgbImage};
use langevin_data::{Dataset, Kind};
use langevin_eval::HeldOut;
use langevin_eval::maps::{Maps, maps};
use langevin_eval::score::time;
use langevin_ops::shape::to_host;
use std::path::{Path, PathBuf};

/// Of the choice of held-out samples.
const HELD_OUT: u64 = 3;
/// Noise level of the map of the gradient, and those of the map of the residual.
const STEEP: f64 = 0.2;
const LEVELS: [f64; 3] = [0.3, 0.6, 1.2];
/// Held-out images that say how bright a map of such data is.
const BRIGHTNESS: usize = 100;

/// Find what does not belong to the data of a model: a table of scores and p-values, and maps of where it shows
#[derive(Parser)]
#[command(after_long_help = "\
The scores are those of `langevin eval ood`, higher the less a sample belongs. The p-value of a score says how many of \
held-out data have one as high, (1 + their number) / (1 + all); a sample is flagged if its least p-value is at most \
alpha divided by the number of scores. Images of another size are scaled and cropped as in a folder to train on; files \
that cannot be read are told and left out.

Held-out data are, unless --held-out names them, the test part of what the scores are fitted to, where that is a data \
set with one; else more of it, and a line says so if the model has learnt them: then p-values are too small.

A map shows the image, the size of the gradient of the energy at each pixel, and what is lost there when noise is \
added and taken away again; bright is more than is usual for the data.

Examples:
  langevin detect runs/digits photos/                          print the table
  langevin detect runs/digits photos/ --out odd.csv --maps odd/ --held-out digits:test
  langevin detect runs/digits mnist:test=DIR --scores score-norms --alpha 0.001 \\
      --held-out-samples 5000")]
pub struct Detect {
    /// A run folder, RUN@STEP, a weights file, a folder of diffusers, OWNER/NAME of the Hub, or exact:NAME
    pub model: String,
    /// What to look at: a folder of images, or data as --data takes them
    pub data: String,
    /// Changes of the scores, such as reconstruction.draws=4
    #[arg(value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    /// Data that belong and that the scores are not fitted to [default: the test part of --fit, or more of it]
    #[arg(long, value_name = "SPEC")]
    pub held_out: Option<String>,
    /// Samples of them
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub held_out_samples: usize,
    /// The chance at which a sample that belongs may be flagged
    #[arg(long, default_value_t = 0.01)]
    pub alpha: f64,
    /// Write the table as CSV
    #[arg(long, value_name = "FILE.csv")]
    pub out: Option<PathBuf>,
    /// Write the maps of each image as DIR/NAME.png
    #[arg(long, value_name = "DIR")]
    pub maps: Option<PathBuf>,
    #[command(flatten)]
    pub scoring: Scoring,
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin detect`.
pub fn run(args: &Detect) -> Result<()> {
    let device = args.machine.open()?;
    if !(args.alpha > 0. && args.alpha < 1.) {
        return usage(format!("--alpha {}: give a number between 0 and 1", args.alpha));
    }
    args.out.iter().try_for_each(|path| output::writable(path))?;
    let opened = open::open(&args.model, &device)?;
    if let Some(folder) = &args.maps {
        if opened.kind() != Kind::Image {
            return usage("--maps: this model is not one of images");
        }
        let process = opened.model.spec.process.get();
        if let Err(why) = LEVELS.into_iter().chain([STEEP]).try_for_each(|level| time(process, level).map(|_| ())) {
            return usage(format!("--maps: {why}"));
        }
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let plan = args.scoring.plan(&opened, &args.changes)?;
    let data = scoring::open(&opened, &args.data, "DATA")?;
    let asked = (plan.spec.clone(), plan.label);
    least_p(args.alpha, args.held_out_samples, plan.scores())?; // before the long work
    let (scorer, fitted, used) = Scorer::fit(&opened, &args.scoring, plan)?;
    let (others, kept) = held_out(args, &opened, &asked, fitted, &used)?;
    let most = least_p(args.alpha, kept.len(), scorer.names().len())?;
    let idx: Vec<usize> = (0..data.len()).collect();
    let mut progress = Progress::new(scorer.steps(kept.len()) + scorer.steps(idx.len()), "batches");
    let held_out = scorer.scores(others.as_ref(), &kept, &mut progress)?;
    let held_out = held_out.into_iter().map(HeldOut::new).collect::<candle_core::Result<Vec<_>>>()?;
    let scores = scorer.scores(data.as_ref(), &idx, &mut progress)?;
    progress.done();
    let names: Vec<String> = match data.files() {
        Some(files) => files.to_vec(),
        None => idx.iter().map(usize::to_string).collect(),
    };
    let p_values: Vec<Vec<f64>> = scores
        .iter()
        .zip(&held_out)
        .map(|(scores, held_out)| scores.iter().map(|&s| held_out.p_value(s)).collect())
        .collect();
    let flags: Vec<bool> = idx.iter().map(|&i| p_values.iter().any(|p| p[i] <= most)).collect();
    write(args.out.as_deref(), &scorer.names(), &names, &scores, &p_values, &flags)?;
    let flagged = flags.iter().filter(|flag| **flag).count();
    crate::talk!("\n{}", scorer.settings(used.len()));
    crate::talk!(
        "{flagged} of {} flagged at alpha = {}: a p-value of at most {most:.2e} among {} held-out samples",
        names.len(),
        args.alpha,
        kept.len()
    );
    let Some(folder) = &args.maps else { return Ok(()) };
    let images = Images { opened: &opened, label: asked.1, batch: args.scoring.batch };
    let bright = images.brightness(others.as_ref(), &kept)?;
    images.write(data.as_ref(), &names, bright, folder)?;
    crate::say!("{}", folder.display())
}

/// What the least p-value of a sample may be for it to be flagged, by Bonferroni; `held_out` samples must allow it.
fn least_p(alpha: f64, held_out: usize, scores: usize) -> Result<f64> {
    let (most, least) = (alpha / scores as f64, 1. / (held_out + 1) as f64);
    if least > most {
        return usage(format!(
            "--alpha {alpha}: {held_out} held-out samples give no p-value below {least:.2e}, and {scores} scores need \
             {most:.2e}; raise --held-out-samples or --alpha, or use fewer --scores"
        ));
    }
    Ok(most)
}

/// Held-out data and the places of the samples: of --held-out, of the test part of --fit, or of --fit what was not fitted to.
fn held_out(
    args: &Detect,
    opened: &Opened,
    (fit, label): &(String, Option<u32>),
    fitted: Box<dyn Dataset>,
    used: &[usize],
) -> Result<(Box<dyn Dataset>, Vec<usize>)> {
    if args.held_out_samples == 0 {
        return usage("--held-out-samples 0: give at least 1");
    }
    let spec = args.held_out.clone().or_else(|| langevin_data::held_out(fit));
    let of = spec.as_ref().unwrap_or(fit);
    if let Some(has) = scoring::learnt(opened, of, spec.is_some()) {
        crate::talk!(
            "warning: the model {has} {of}, which the held-out samples are of, and finds them more usual than new ones: \
             p-values are too small, and more than alpha of what belongs is flagged; give samples that it has not seen \
             with --held-out SPEC"
        );
    }
    let members = |data: &dyn Dataset| scoring::members(opened, *label, data);
    if let Some(spec) = spec {
        let data = scoring::open(opened, &spec, "--held-out")?;
        let idx = scoring::choose(&members(data.as_ref())?, args.held_out_samples, HELD_OUT);
        return Ok((data, idx));
    }
    let rest: Vec<usize> = members(fitted.as_ref())?.into_iter().filter(|i| used.binary_search(i).is_err()).collect();
    if rest.is_empty() {
        return usage(format!(
            "all {} samples of --fit are fitted to, and none is held out; lower --fit-samples, or give --held-out",
            used.len()
        ));
    }
    let idx = scoring::choose(&rest, args.held_out_samples, HELD_OUT);
    Ok((fitted, idx))
}

/// The table: to a file, or to stdout.
fn write(
    out: Option<&Path>,
    scores: &[&str],
    names: &[String],
    values: &[Vec<f64>],
    p_values: &[Vec<f64>],
    flags: &[bool],
) -> Result<()> {
    let mut head = vec!["sample".to_string()];
    head.extend(scores.iter().flat_map(|name| [name.to_string(), format!("{name} p")]));
    head.push("flag".into());
    let row = |(i, name): (usize, &String)| {
        let numbers = values.iter().zip(p_values).flat_map(|(v, p)| [format!("{:.5}", v[i]), format!("{:.5}", p[i])]);
        let flag = u8::from(flags[i]).to_string();
        std::iter::once(name.clone()).chain(numbers).chain([flag]).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(names.iter().enumerate().map(row)).collect();
    let Some(path) = out else {
        return output::aligned(&rows).iter().try_for_each(|line| crate::say!("{line}"));
    };
    let mut table = csv::Writer::from_writer(vec![]);
    rows.iter().try_for_each(|row| table.write_record(row))?;
    output::save(path, &table.into_inner().context("writing the table")?)?;
    crate::say!("{}", path.display())
}

/// What makes maps.
struct Images<'a> {
    opened: &'a Opened,
    label: Option<u32>,
    batch: usize,
}

impl Images<'_> {
    fn maps(&self, data: &dyn Dataset, idx: &[usize]) -> Result<Maps> {
        let denoiser = self.opened.model.denoiser(guide::cond(&self.opened.model, self.label.as_slice())?)?;
        let x = scoring::samples(self.opened, data, idx)?;
        Ok(maps(&denoiser, &x, STEEP, &LEVELS, &mut streams(idx))?)
    }

    /// The largest number in a map of held-out data, the median over some of them: of both maps.
    fn brightness(&self, data: &dyn Dataset, idx: &[usize]) -> Result<[f64; 2]> {
        let mut tops = [vec![], vec![]];
        for some in idx[..idx.len().min(BRIGHTNESS)].chunks(self.batch) {
            let Maps { gradient, residual } = self.maps(data, some)?;
            for (tops, map) in tops.iter_mut().zip([gradient, residual]) {
                tops.extend(to_host(&map.flatten_from(1)?.max(1)?)?);
            }
        }
        Ok(tops.map(|mut tops| {
            tops.sort_by(f64::total_cmp);
            tops.get(tops.len() / 2).copied().unwrap_or(1.)
        }))
    }

    /// Each image beside its maps. A map is as bright as its largest number, but no brighter than that of usual data makes it.
    fn write(&self, data: &dyn Dataset, names: &[String], bright: [f64; 2], folder: &Path) -> Result<()> {
        let mut progress = Progress::new(names.len() as u64, "maps");
        let mut taken = std::collections::BTreeSet::new();
        let idx: Vec<usize> = (0..names.len()).collect();
        for some in idx.chunks(self.batch) {
            let Maps { gradient, residual } = self.maps(data, some)?;
            let images = output::pictures(&data.get(some)?.x)?;
            for ((place, &i), image) in some.iter().enumerate().zip(images) {
                let pictures =
                    [image, heat(&gradient.get(place)?, bright[0])?, heat(&residual.get(place)?, bright[1])?];
                let stem =
                    Path::new(&names[i]).file_stem().map_or(names[i].clone(), |s| s.to_string_lossy().into_owned());
                // files of one name in different folders
                let mut name = stem.clone();
                for again in 1.. {
                    if taken.insert(name.clone()) {
                        break;
                    }
                    name = format!("{stem}-{again}");
                }
                output::save_png(&folder.join(format!("{name}.png")), &output::beside(&pictures), &[])?;
                progress.step();
            }
        }
        progress.done();
        Ok(())
    }
}

/// A map `[H, W]` in colours, those of numbers from 0 to at least `bright`.
fn heat(map: &Tensor, bright: f64) -> Result<RgbImage> {
    let (h, w) = map.dims2()?;
    let numbers = to_host(map)?;
    let top = numbers.iter().copied().filter(|v| v.is_finite()).fold(bright, f64::max).max(1e-12);
    let colour = |v: f64| if v.is_finite() { output::viridis(v / top) } else { Rgb([255, 255, 255]) };
    Ok(RgbImage::from_fn(w as u32, h as u32, |x, y| colour(numbers[y as usize * w + x as usize])))
}
