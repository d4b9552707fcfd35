//! `langevin detect`: which of some samples do not belong to the data of a model, and where in them that shows.

use crate::args::Machine;
use crate::guide;
use crate::idle;
use crate::open::{self, Opened};
use crate::output;
use crate::progress::Progress;
use crate::run::usage;
use crate::scoring::{self, FITTED, Plan, Scorer, Scoring, USUAL, streams};
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
/// Alpha, and what it is at most where held-out samples are few.
const ALPHA: f64 = 0.01;
const FEW: f64 = 0.05;
/// Of a quotient that should be whole.
const ROUNDING: f64 = 1e-9;
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
set with one; else more of it, and a line says so if the model has learnt them: then p-values are too small. Half of \
the data are then fitted to and half held out, up to 1000 each.

N held-out samples allow S scores at an alpha of S / (N + 1) and more. Without --alpha it is 0.01, or where they are few as \
much as they need, up to 0.05; without --scores so many of them are used as that allows. A line says what was chosen.

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
    /// Samples of them [default: 1000, or what is there]
    #[arg(long, value_name = "N")]
    pub held_out_samples: Option<usize>,
    /// The chance at which a sample that belongs may be flagged [default: 0.01, or what few held-out samples allow]
    #[arg(long, value_name = "P")]
    pub alpha: Option<f64>,
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
    if let Some(alpha) = args.alpha.filter(|alpha| !(*alpha > 0. && *alpha < 1.)) {
        return usage(format!("--alpha {alpha}: give a number between 0 and 1"));
    }
    if args.held_out_samples == Some(0) {
        return usage("--held-out-samples 0: give at least 1");
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
    args.held_out.iter().try_for_each(|spec| idle::ambiguous("--held-out", spec))?;
    idle::ambiguous("DATA", &args.data)?;
    let mut plan = args.scoring.plan(&opened, &args.changes)?;
    let label = plan.label;
    let data = scoring::open(&opened, &args.data, "DATA")?;
    let Held { fit, used, others, kept } = Held::of(args, &opened, &plan)?;
    let (alpha, most) = args.level(kept.len(), &mut plan)?; // before the long work
    let others = others.as_ref().unwrap_or(&fit);
    let idx: Vec<usize> = (0..data.len()).collect();
    let mut progress = Progress::new(plan.evaluations(used.len() + kept.len() + idx.len()), "evaluations");
    let mut scorer = Scorer::new(&opened, &args.scoring, plan, (fit.as_ref(), &used))?;
    let (mut scores, mut p_values) = (vec![], vec![]);
    while scorer.fit_next(&mut progress)?.is_some() {
        let held_out = HeldOut::new(scorer.scores(others.as_ref(), &kept, &mut progress)?)?;
        let found = scorer.scores(data.as_ref(), &idx, &mut progress)?;
        p_values.push(found.iter().map(|&s| held_out.p_value(s)).collect::<Vec<f64>>());
        scores.push(found);
    }
    progress.done();
    let names: Vec<String> = match data.files() {
        Some(files) => files.to_vec(),
        None => idx.iter().map(usize::to_string).collect(),
    };
    let flags: Vec<bool> = idx.iter().map(|&i| p_values.iter().any(|p| p[i] <= most * (1. + ROUNDING))).collect();
    write(args.out.as_deref(), &scorer.names(), &names, &scores, &p_values, &flags)?;
    let flagged = flags.iter().filter(|flag| **flag).count();
    crate::talk!("\n{}", scorer.settings());
    crate::talk!(
        "{flagged} of {} flagged at alpha = {alpha}: a p-value of at most {most:.2e} among {} held-out samples",
        names.len(),
        kept.len()
    );
    let Some(folder) = &args.maps else { return Ok(()) };
    let images = Images { opened: &opened, label, batch: args.scoring.batch };
    let few = &kept[..kept.len().min(BRIGHTNESS)];
    let mut progress = Progress::new((few.len() + names.len()) as u64, "maps");
    let bright = images.brightness(others.as_ref(), few, &mut progress)?;
    images.write((data.as_ref(), names.as_slice()), bright, folder, &mut progress)?;
    progress.done();
    crate::say!("{}", folder.display())
}

/// What is fitted to, and what is held out.
struct Held {
    fit: Box<dyn Dataset>,
    /// The places of the samples that are fitted to.
    used: Vec<usize>,
    /// Held-out data; `None` where they are more of `fit`.
    others: Option<Box<dyn Dataset>>,
    /// The places of the held-out samples.
    kept: Vec<usize>,
}

impl Held {
    /// Held out are samples of --held-out, of the test part of --fit, or of --fit what is not fitted to.
    fn of(args: &Detect, opened: &Opened, plan: &Plan) -> Result<Self> {
        let spec = args.held_out.clone().or_else(|| langevin_data::held_out(&plan.spec));
        let of = spec.as_ref().unwrap_or(&plan.spec);
        if let Some(has) = scoring::learnt(opened, of, spec.is_some()) {
            crate::talk!(
                "warning: the model {has} {of}, which the held-out samples are of, and finds them more usual than new ones: \
                 p-values are too small, and more than alpha of what belongs is flagged; give samples that it has not seen \
                 with --held-out SPEC"
            );
        }
        let members = |data: &dyn Dataset| scoring::members(opened, plan.label, data);
        let fit = scoring::open(opened, &plan.spec, "--fit")?;
        let all = members(fit.as_ref())?;
        let held_out = args.held_out_samples.unwrap_or(USUAL);
        if let Some(spec) = spec {
            let used = scoring::choose(&all, args.scoring.fit_samples.unwrap_or(USUAL), FITTED);
            let others = scoring::open(opened, &spec, "--held-out")?;
            let kept = scoring::choose(&members(others.as_ref())?, held_out, HELD_OUT);
            fewer("--fit-samples", args.scoring.fit_samples, used.len());
            fewer("--held-out-samples", args.held_out_samples, kept.len());
            return Ok(Self { fit, used, others: Some(others), kept });
        }
        let fitted = match (args.scoring.fit_samples, args.held_out_samples) {
            (Some(fitted), _) => fitted,
            (None, Some(held_out)) => all.len().saturating_sub(held_out).min(USUAL),
            (None, None) => (all.len() / 2).min(USUAL),
        };
        if fitted < 2 || fitted >= all.len() {
            return usage(format!(
                "--fit {}: of its {} samples {} would be fitted to and {} held out, of at least 2 and 1; change --fit-samples or \
                 --held-out-samples, or give --held-out",
                plan.spec,
                all.len(),
                fitted.min(all.len()),
                all.len().saturating_sub(fitted)
            ));
        }
        let used = scoring::choose(&all, fitted, FITTED);
        let rest: Vec<usize> = all.into_iter().filter(|i| used.binary_search(i).is_err()).collect();
        let kept = scoring::choose(&rest, held_out, HELD_OUT);
        fewer("--held-out-samples", args.held_out_samples, kept.len());
        Ok(Self { fit, used, others: None, kept })
    }
}

/// Says where there are fewer samples than were asked for.
fn fewer(option: &str, typed: Option<usize>, found: usize) {
    if let Some(typed) = typed.filter(|&typed| typed > found) {
        crate::talk!("{option} {typed}: there are {found} such samples, and all are taken");
    }
}

impl Detect {
    /// Alpha, and what the least p-value of a sample may be for it to be flagged, by Bonferroni; `held_out` samples must allow
    /// it. Where it is not typed alpha grows with few of them, and where scores are not, `plan` keeps so many as that allows.
    fn level(&self, held_out: usize, plan: &mut Plan) -> Result<(f64, f64)> {
        let (least, all) = (1. / (held_out + 1) as f64, plan.scores());
        if self.scoring.scores.is_empty() && self.changes.is_empty() {
            plan.keep(((self.alpha.unwrap_or(FEW) / least + ROUNDING) as usize).max(1));
        }
        let (scores, needed) = (plan.scores(), plan.scores() as f64 * least);
        let alpha = self.alpha.unwrap_or(((1e4 * needed - ROUNDING).ceil() / 1e4).max(ALPHA));
        if needed > alpha * (1. + ROUNDING) || needed >= 1. {
            let fewer = if scores > 1 { ", or use fewer --scores" } else { "" };
            return usage(format!(
                "--alpha {alpha}: {held_out} held-out samples give no p-value below {least:.2e}, and of {scores} scores one must \
                 be at most {:.2e}; raise --alpha to {:.4}, or --held-out-samples to {}{fewer}",
                alpha / scores as f64,
                (1e4 * needed).ceil() / 1e4,
                (scores as f64 / alpha - 1. - ROUNDING).ceil(),
            ));
        }
        if scores < all || (self.alpha.is_none() && alpha > ALPHA) {
            crate::talk!(
                "{held_out} held-out samples allow {} at alpha = {alpha}; more of them (--held-out SPEC) allow more scores and \
                 a smaller alpha, and --alpha and --scores fix both",
                plan.names().join(", "),
            );
        }
        Ok((alpha, alpha / scores as f64))
    }
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
    fn brightness(&self, data: &dyn Dataset, idx: &[usize], progress: &mut Progress) -> Result<[f64; 2]> {
        let mut tops = [vec![], vec![]];
        for some in idx.chunks(self.batch) {
            let Maps { gradient, residual } = self.maps(data, some)?;
            for (tops, map) in tops.iter_mut().zip([gradient, residual]) {
                tops.extend(to_host(&map.flatten_from(1)?.max(1)?)?);
            }
            progress.steps(some.len() as u64);
        }
        Ok(tops.map(|mut tops| {
            tops.sort_by(f64::total_cmp);
            tops.get(tops.len() / 2).copied().unwrap_or(1.)
        }))
    }

    /// Each image beside its maps. A map is as bright as its largest number, but no brighter than that of usual data makes it.
    fn write(
        &self,
        (data, names): (&dyn Dataset, &[String]),
        bright: [f64; 2],
        folder: &Path,
        progress: &mut Progress,
    ) -> Result<()> {
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
