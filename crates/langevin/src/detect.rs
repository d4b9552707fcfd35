//! Which of some samples do not belong to the data of a model, and where in them that shows.

use crate::config::idle;
use crate::error::{Usage, usage};
use crate::open::{AnyOpened, Opened};
use crate::output;
use crate::sample::cond;
use crate::scoring::{self, Chosen, FITTED, Scored, Scorer, Scoring, USUAL, streams};
use crate::watch::Progress;
use ::image::{Rgb, RgbImage};
use anyhow::Result;
use candle_core::Tensor;
use langevin_data::{Dataset, Kind};
use langevin_eval::HeldOut;
use langevin_eval::maps::{Maps, maps};
use langevin_eval::score::time;
use langevin_ops::shape::to_host;
use std::path::Path;

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

/// What to look for, as it is asked.
#[derive(Clone, Debug, Default)]
pub struct Detect {
    /// What to look at: a folder of images, or other data.
    pub data: String,
    /// Changes of the scores, SCORE.KEY=value.
    pub changes: Vec<String>,
    /// Data that belong and that the scores are not fitted to; none: the test part of what they are fitted to, or more of it.
    pub held_out: Option<String>,
    /// Samples of them; none: 1000, or what is there.
    pub held_out_samples: Option<usize>,
    /// The chance at which a sample that belongs may be flagged; none: 0.01, or what few held-out samples allow.
    pub alpha: Option<f64>,
    /// Which scores, and what they are fitted to.
    pub scoring: Scoring,
}

/// What was found.
pub struct Detection<'a> {
    /// What each sample is called.
    pub names: Vec<String>,
    /// The scores.
    pub scores: Vec<&'static str>,
    /// By score, that of each sample.
    pub values: Vec<Vec<f64>>,
    /// By score, the p-value of each sample.
    pub p_values: Vec<Vec<f64>>,
    /// Whether each is flagged.
    pub flags: Vec<bool>,
    /// What was done, and how many were flagged, in words.
    pub settings: String,
    data: Box<dyn Dataset>,
    held: Held,
    images: Option<Images<'a>>,
}

impl Detect {
    /// Errors if there can be no maps of what a model finds.
    pub fn maps(opened: &AnyOpened) -> Result<()> {
        let AnyOpened::Denoising(opened) = opened else {
            return usage(Usage::of("maps", "they take a score, and a density of a family has none; leave it out"));
        };
        if opened.kind() != Kind::Image {
            return usage(Usage::of("maps", "this model is not one of images"));
        }
        let process = opened.model.spec.process.get();
        match LEVELS.into_iter().chain([STEEP]).try_for_each(|level| time(process, level).map(|_| ())) {
            Ok(()) => Ok(()),
            Err(why) => usage(Usage::of("maps", why)),
        }
    }

    /// Scores the samples, and those that are held out.
    pub fn run<'a>(&self, opened: &'a AnyOpened) -> Result<Detection<'a>> {
        self.held_out.iter().try_for_each(|spec| idle::ambiguous("held-out", spec))?;
        idle::ambiguous("DATA", &self.data)?;
        let model = opened.scored();
        let mut plan = model.plan(&self.scoring, &self.changes)?;
        let label = plan.label;
        let data = model.data(&self.data, "DATA")?;
        let held = Held::of(self, model, &plan)?;
        let (alpha, most) = self.level(held.kept.len(), &mut plan)?; // before the long work
        let idx: Vec<usize> = (0..data.len()).collect();
        let (Held { fit, used, kept, .. }, others) = (&held, held.others());
        let mut progress = Progress::new(plan.evaluations(model, used.len() + kept.len() + idx.len()), "evaluations");
        let mut scorer = Scorer::new(model, &self.scoring, plan, (fit.as_ref(), used))?;
        let (mut values, mut p_values) = (vec![], vec![]);
        while scorer.fit_next(&mut progress)?.is_some() {
            let held_out = HeldOut::new(scorer.scores(others, kept, &mut progress)?)?;
            let found = scorer.scores(data.as_ref(), &idx, &mut progress)?;
            p_values.push(found.iter().map(|&s| held_out.p_value(s)).collect::<Vec<f64>>());
            values.push(found);
        }
        progress.done();
        let names: Vec<String> = match data.files() {
            Some(files) => files.to_vec(),
            None => idx.iter().map(usize::to_string).collect(),
        };
        let flags: Vec<bool> = idx.iter().map(|&i| p_values.iter().any(|p| p[i] <= most * (1. + ROUNDING))).collect();
        let settings = format!(
            "{}\n{} of {} flagged at alpha = {alpha}: a p-value of at most {most:.2e} among {} held-out samples",
            scorer.settings(),
            flags.iter().filter(|flag| **flag).count(),
            names.len(),
            kept.len()
        );
        let scores = scorer.names();
        drop(scorer);
        let batch = self.scoring.batch;
        let images = match opened {
            AnyOpened::Denoising(opened) => Some(Images { opened, label, batch }),
            AnyOpened::Density(_) => None,
        };
        Ok(Detection { names, scores, values, p_values, flags, settings, data, held, images })
    }
}

impl Detection<'_> {
    /// The table: a row a sample, under a head.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let mut head = vec!["sample".to_string()];
        head.extend(self.scores.iter().flat_map(|name| [name.to_string(), format!("{name} p")]));
        head.push("flag".into());
        let row = |(i, name): (usize, &String)| {
            let both = self.values.iter().zip(&self.p_values);
            let numbers = both.flat_map(|(v, p)| [format!("{:.5}", v[i]), format!("{:.5}", p[i])]);
            let flag = u8::from(self.flags[i]).to_string();
            std::iter::once(name.clone()).chain(numbers).chain([flag]).collect::<Vec<_>>()
        };
        std::iter::once(head).chain(self.names.iter().enumerate().map(row)).collect()
    }

    /// Writes the maps of each image into `folder`.
    pub fn write_maps(&self, folder: &Path) -> Result<()> {
        let Some(images) = &self.images else {
            return usage(Usage::of("maps", "they take a score, and a density of a family has none; leave it out"));
        };
        let kept = &self.held.kept;
        let few = &kept[..kept.len().min(BRIGHTNESS)];
        let mut progress = Progress::new((few.len() + self.names.len()) as u64, "maps");
        let bright = images.brightness(self.held.others(), few, &mut progress)?;
        images.write((self.data.as_ref(), &self.names), bright, folder, &mut progress)
    }
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
    /// The data that held-out samples are of.
    fn others(&self) -> &dyn Dataset {
        self.others.as_ref().unwrap_or(&self.fit).as_ref()
    }

    /// Held out are samples of --held-out, of the test part of --fit, or of --fit what is not fitted to.
    fn of(args: &Detect, model: &dyn Scored, plan: &Chosen) -> Result<Self> {
        let spec = args.held_out.clone().or_else(|| langevin_data::held_out(&plan.spec));
        let of = spec.as_ref().unwrap_or(&plan.spec);
        if let Some(has) = scoring::learnt(model, of, spec.is_some()) {
            crate::note!(
                "warning: the model {has} {of}, which the held-out samples are of, and finds them more usual than \
                 new ones: p-values are too small, and more than alpha of what belongs is flagged; give samples \
                 that it has not seen with --held-out SPEC"
            );
        }
        let members = |data: &dyn Dataset| model.members(plan.label, data);
        let fit = model.data(&plan.spec, "fit")?;
        let all = members(fit.as_ref())?;
        let held_out = args.held_out_samples.unwrap_or(USUAL);
        if let Some(spec) = spec {
            let used = scoring::choose(&all, args.scoring.fit_samples.unwrap_or(USUAL), FITTED);
            let others = model.data(&spec, "held-out")?;
            let kept = scoring::choose(&members(others.as_ref())?, held_out, HELD_OUT);
            fewer("fit-samples", args.scoring.fit_samples, used.len());
            fewer("held-out-samples", args.held_out_samples, kept.len());
            return Ok(Self { fit, used, others: Some(others), kept });
        }
        let fitted = match (args.scoring.fit_samples, args.held_out_samples) {
            (Some(fitted), _) => fitted,
            (None, Some(held_out)) => all.len().saturating_sub(held_out).min(USUAL),
            (None, None) => (all.len() / 2).min(USUAL),
        };
        if fitted < 2 || fitted >= all.len() {
            return usage(
                Usage::of(
                    "fit",
                    format!(
                        "of its {} samples {} would be fitted to and {} held out, of at least 2 and 1; change \
                         --fit-samples or --held-out-samples, or give --held-out",
                        all.len(),
                        fitted.min(all.len()),
                        all.len().saturating_sub(fitted)
                    ),
                )
                .value(&plan.spec),
            );
        }
        let used = scoring::choose(&all, fitted, FITTED);
        let rest: Vec<usize> = all.into_iter().filter(|i| used.binary_search(i).is_err()).collect();
        let kept = scoring::choose(&rest, held_out, HELD_OUT);
        fewer("held-out-samples", args.held_out_samples, kept.len());
        Ok(Self { fit, used, others: None, kept })
    }
}

/// Says where there are fewer samples than were asked for.
fn fewer(option: &str, typed: Option<usize>, found: usize) {
    if let Some(typed) = typed.filter(|&typed| typed > found) {
        crate::note!("--{option} {typed}: there are {found} such samples, and all are taken");
    }
}

impl Detect {
    /// Alpha, and what the least p-value of a sample may be for it to be flagged, by Bonferroni; `held_out` samples must allow
    /// it. Where it is not typed alpha grows with few of them, and where scores are not, `plan` keeps so many as that allows.
    fn level(&self, held_out: usize, plan: &mut Chosen) -> Result<(f64, f64)> {
        let (least, all) = (1. / (held_out + 1) as f64, plan.scores());
        if self.scoring.scores.is_empty() && self.changes.is_empty() {
            plan.keep(((self.alpha.unwrap_or(FEW) / least + ROUNDING) as usize).max(1));
        }
        let (scores, needed) = (plan.scores(), plan.scores() as f64 * least);
        let alpha = self.alpha.unwrap_or(((1e4 * needed - ROUNDING).ceil() / 1e4).max(ALPHA));
        if needed > alpha * (1. + ROUNDING) || needed >= 1. {
            let fewer = if scores > 1 { ", or use fewer --scores" } else { "" };
            return usage(
                Usage::of(
                    "alpha",
                    format!(
                        "{held_out} held-out samples give no p-value below {least:.2e}, and of {scores} scores one \
                         must be at most {:.2e}; raise --alpha to {:.4}, or --held-out-samples to {}{fewer}",
                        alpha / scores as f64,
                        (1e4 * needed).ceil() / 1e4,
                        (scores as f64 / alpha - 1. - ROUNDING).ceil()
                    ),
                )
                .value(alpha),
            );
        }
        if scores < all || (self.alpha.is_none() && alpha > ALPHA) {
            crate::note!(
                "{held_out} held-out samples allow {} at alpha = {alpha}; more of them (--held-out SPEC) allow more \
                 scores and a smaller alpha, and --alpha and --scores fix both",
                plan.names().join(", "),
            );
        }
        Ok((alpha, alpha / scores as f64))
    }
}

/// What makes maps.
struct Images<'a> {
    opened: &'a Opened,
    label: Option<u32>,
    batch: usize,
}

impl Images<'_> {
    fn maps(&self, data: &dyn Dataset, idx: &[usize]) -> Result<Maps> {
        let denoiser = self.opened.model.denoiser(cond(&self.opened.model, self.label.as_slice())?)?;
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
