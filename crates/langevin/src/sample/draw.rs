//! Samples of a model: where they start, the way they go, and the batches.

use super::{Guide, Keep, SamplingPlan, Walked, denoising, fitting};
use crate::config::NoiseSource;
use crate::error::{Stopped, Usage, usage};
use crate::open::{self, Opened};
use crate::watch::{self, Progress, go_on};
use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use langevin_data::Kind;
use langevin_dynamics::sampler::{AnySampler, At, Report, edit, follow};
use langevin_models::Model;
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use std::ops::Range;
use std::path::Path;

/// So many samples, none of which is finite, are enough to stop at.
const HOPELESS: usize = 64;
/// Seeds that a message names at most.
const NAMED: usize = 12;

/// Where samples start.
pub enum Start {
    /// Noise at the end of the span.
    Noise,
    /// An image with noise, or carried there by the ODE.
    Image {
        /// `[1, C, H, W]` in [-1, 1].
        x0: Tensor,
        /// How much of the way to noise it is sent.
        strength: f64,
        /// By the ODE.
        encode: bool,
    },
    /// The noises between those of two seeds, one a sample.
    Between {
        /// The ends.
        seeds: [u64; 2],
    },
}

impl Start {
    /// The image in the file at `path`, `strength` of the way to noise, above 0, at most 1; carried there by the ODE if `encode`,
    /// its brightness turned over if `invert`.
    pub fn image(opened: &Opened, path: &Path, strength: f64, (encode, invert): (bool, bool)) -> Result<Self> {
        let model = &opened.model;
        if open::kind(model) != Kind::Image {
            return usage(Usage::of("from", "this model is not one of images"));
        }
        if !(strength > 0. && strength <= 1.) {
            return usage(Usage::of("strength", "give a number above 0, at most 1").value(strength));
        }
        let x0 = image(path, &model.spec.shape)?;
        let x0 = fitting(opened.learnt(), ("from", path), x0, invert)?.to_device(model.device())?;
        Ok(Self::Image { x0, strength, encode })
    }

    /// The noises between those of two seeds, `text` being A,B, for `n` samples.
    pub fn between(text: &str, n: usize) -> Result<Self> {
        let ends: Vec<_> = text.split(',').map(|part| part.trim().parse::<u64>()).collect();
        let [Ok(a), Ok(b)] = ends[..] else {
            return usage(Usage::of("interpolate", "give two seeds, such as 3,8").value(text));
        };
        if n < 2 {
            return usage(Usage::of("interpolate", "give -n 2 or more"));
        }
        Ok(Self::Between { seeds: [a, b] })
    }

    /// Errors if a sampler does not lead from here.
    pub fn suits(&self, sampler: &AnySampler) -> Result<()> {
        match self {
            Self::Between { .. } if sampler.get().order().is_none() => usage(Usage::of(
                "interpolate",
                format!("`{}` draws noise on the way; use an ODE sampler such as sampler.name=heun", sampler.name()),
            )),
            _ => Ok(()),
        }
    }

    /// The part of the way that is left from here.
    pub fn cut(&self, way: SamplingPlan) -> Result<SamplingPlan> {
        let Self::Image { strength, .. } = self else { return Ok(way) };
        let left = edit::cut(&way.times(), *strength)?.len();
        if left < 2 {
            let why = format!("of {} steps that is none; give more of either", way.steps.len());
            return usage(Usage::of("strength", why).value(strength));
        }
        let steps = way.steps[way.steps.len() + 1 - left..].to_vec();
        Ok(SamplingPlan { steps, ..way })
    }
}

/// An image file as `[1, C, H, W]` in [-1, 1], read as the images of a folder are; what the user should know of it is told.
pub fn image(path: &Path, shape: &[usize]) -> Result<Tensor> {
    let picture = langevin_data::picture(path, shape)?;
    picture.notes.iter().for_each(|note| crate::note!("{note}"));
    Ok(picture.x)
}

/// Samples of a model, and all that decides them.
pub struct Job<'a> {
    /// What they are drawn from.
    pub model: &'a Model,
    /// What guides it.
    pub guide: Option<Guide>,
    /// Where random numbers come from.
    pub noise: NoiseSource,
    /// The way from noise to data.
    pub way: SamplingPlan,
    /// Where they start.
    pub start: Start,
    /// Samples at a time.
    pub batch: usize,
    /// One a sample.
    pub seeds: Vec<u64>,
    /// The class that each is told.
    pub labels: Option<Vec<u32>>,
}

/// The finite samples of a batch.
pub struct Batch {
    /// Where they are among all that are drawn.
    pub places: Vec<usize>,
    /// `[N, ...]` in [-1, 1] on the CPU.
    pub x: Tensor,
    /// The way to them, brought to the scale of the data: (time, x_t `[N, ...]`).
    pub path: Vec<(f64, Tensor)>,
}

impl Batch {
    /// The finite ones of the samples `first` and on, and the places of the others.
    fn of(first: usize, x: Tensor, path: Vec<(f64, Tensor)>) -> Result<(Self, Vec<usize>)> {
        let n = x.dim(0)?;
        let numbers = to_host(&x)?;
        let each = numbers.len() / n.max(1);
        let finite = |i: &usize| numbers[i * each..(i + 1) * each].iter().all(|v| v.is_finite());
        let (good, bad): (Vec<usize>, Vec<usize>) = (0..n).partition(finite);
        let places = |of: Vec<usize>| of.into_iter().map(|i| first + i).collect::<Vec<_>>();
        if bad.is_empty() {
            return Ok((Self { places: places(good), x, path }, vec![]));
        }
        let idx = Tensor::from_iter(good.iter().map(|&i| i as u32), &Device::Cpu)?;
        let some = |x: &Tensor| x.index_select(&idx, 0);
        let path = path.iter().map(|(t, x)| Ok((*t, some(x)?))).collect::<Result<_>>()?;
        Ok((Self { places: places(good), x: some(&x)?, path }, places(bad)))
    }
}

/// A batch as it is drawn.
pub struct One {
    /// `[N, ...]` in [-1, 1] on the CPU.
    pub x: Tensor,
    /// As in a [`Batch`].
    pub path: Vec<(f64, Tensor)>,
    /// What MCMC did, if there was any.
    pub report: Option<Walked>,
}

impl One {
    /// Samples of which there is nothing else to say.
    pub fn of(x: Tensor) -> Self {
        Self { x, path: vec![], report: None }
    }
}

/// How far a drawing came.
#[derive(Default)]
pub struct Drawn {
    /// Samples that were asked for.
    all: usize,
    /// Those that were drawn: the first of them.
    pub done: usize,
    /// The places of those that are not finite.
    lost: Vec<usize>,
    /// What MCMC did, if there was any.
    pub report: Option<Walked>,
    /// Why it ended before all were drawn.
    end: Option<anyhow::Error>,
}

impl Drawn {
    /// Draws `all` samples, `batch` at a time: `one` draws those at some places, and `take` is given what is finite of them.
    /// What MCMC did is told chain by chain if `traced`.
    pub fn by(
        all: usize,
        (batch, traced): (usize, bool),
        mut one: impl FnMut(Range<usize>) -> Result<One>,
        take: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Self {
        let mut drawn = Self { all, ..Self::default() };
        while drawn.done < all && !drawn.hopeless() {
            let places = drawn.done..(drawn.done + batch).min(all);
            if let Err(e) = one(places.clone()).and_then(|found| drawn.add(places, found, traced, take)) {
                drawn.end = Some(e);
                break;
            }
        }
        drawn
    }

    fn add(
        &mut self,
        places: Range<usize>,
        One { x, path, report }: One,
        traced: bool,
        take: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        let (good, bad) = Batch::of(places.start, x, path)?;
        if !good.places.is_empty() {
            take(good)?;
        }
        self.lost.extend(bad);
        self.done = places.end;
        let Some(mut report) = report else { return Ok(()) };
        if !traced {
            report.visits().for_each(|visit| drop(std::mem::take(&mut visit.trace)));
        }
        match &mut self.report {
            Some(own) => own.append(report),
            none => *none = Some(report),
        }
        Ok(())
    }

    /// Whether there is nothing to hope for from the rest.
    fn hopeless(&self) -> bool {
        self.done >= HOPELESS && self.lost.len() == self.done
    }

    /// An error that says what was drawn, and whether it is `written`, if not all samples are there; `seeds` are theirs, and
    /// `advice` is for those that are not finite.
    pub fn whole(self, seeds: Option<&[u64]>, written: bool, advice: &str) -> Result<()> {
        let Self { all, done, lost, end, .. } = self;
        let good = done - lost.len();
        let kept = if written && good > 0 { format!("; {good} are written") } else { String::new() };
        let of = seeds.map(|seeds| lost.iter().map(|&place| seeds[place]).collect::<Vec<_>>());
        let of = of.map_or(String::new(), |lost| format!(", those of the seeds {}", listed(&lost)));
        let lacks = format!("{} of {done} samples are not finite{of}", lost.len());
        let also = if lost.is_empty() { String::new() } else { format!("; {lacks}") };
        match end {
            Some(_) if watch::stops() => {
                let left =
                    seeds.map_or(String::new(), |seeds| format!("; left are the seeds {}", listed(&seeds[done..])));
                Err(Stopped(format!("stopped after {done} of {all} samples{kept}{also}{left}")).into())
            }
            Some(e) if done == 0 => Err(e),
            Some(e) => Err(e.context(format!("ended after {done} of {all} samples{kept}{also}"))),
            None if lost.is_empty() && watch::stops() => {
                Err(Stopped(format!("stopped when all {all} samples were drawn{kept}")).into())
            }
            None if lost.is_empty() => Ok(()),
            None => bail!("{lacks}{kept}; {advice}"),
        }
    }
}

/// What x_t is multiplied with to have the scale of the data.
pub fn scale(model: &Model, t: f64) -> f64 {
    let (m, s) = (model.spec.process.get().marginal(t), model.spec.sigma_data);
    s / (m.alpha * s).hypot(m.sigma)
}

/// Seeds as `--seeds` takes them, the first of many.
pub fn listed(seeds: &[u64]) -> String {
    let ranges: Vec<&[u64]> = seeds.chunk_by(|a, b| a.checked_add(1) == Some(*b)).collect();
    let one = |range: &&[u64]| match range {
        [first, .., last] => format!("{first}-{last}"),
        _ => range.iter().map(u64::to_string).collect(),
    };
    let some: Vec<String> = ranges.iter().take(NAMED).map(one).collect();
    let more: usize = ranges.iter().skip(NAMED).map(|range| range.len()).sum();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    some.join(",") + &more
}

impl Job<'_> {
    /// Draws the samples batch by batch, each given to `take`.
    pub fn draw(&self, keep: Keep, take: &mut dyn FnMut(Batch) -> Result<()>) -> Drawn {
        let seeds = &self.seeds;
        let batches = seeds.len().div_ceil(self.batch);
        let mut progress = Progress::new((batches * self.way.steps.len()) as u64, "steps");
        let spec = &self.model.spec;
        let one = |places: Range<usize>| {
            let mut path = vec![];
            let (x, report) = self.one(places, |at| {
                progress.step();
                let every = keep.frames.map(|most| at.steps.div_ceil(most.max(1)).max(1));
                if every.is_some_and(|every| at.step == at.steps || at.step % every == 0) {
                    path.push((at.t, self.scaled(at.t, at.x)?));
                }
                go_on()
            })?;
            let report = report.map(Walked::Levels);
            Ok(One { x: spec.unranged(&x.to_device(&Device::Cpu)?)?, path, report })
        };
        let drawn = Drawn::by(seeds.len(), (self.batch, keep.traced), one, take);
        progress.done();
        drawn
    }

    /// The samples, `[N, ...]` in [-1, 1] on the CPU; an error unless all of them are finite.
    pub fn all(&self) -> Result<Tensor> {
        let mut parts = vec![];
        let drawn = self.draw(Keep::default(), &mut |batch| {
            parts.push(batch.x);
            Ok(())
        });
        drawn.whole(Some(&self.seeds), false, &self.advice())?;
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// x_t of the way as it is shown: in [-1, 1], brought to the scale of the data.
    fn scaled(&self, t: f64, x: &Tensor) -> candle_core::Result<Tensor> {
        self.model.spec.unranged(&x.to_device(&Device::Cpu)?)?.affine(scale(self.model, t), 0.)
    }

    /// What to do about samples that are not finite.
    pub fn advice(&self) -> String {
        format!(
            "the sampler {} with {} steps left the model's range; try more steps, or sampler.clip=true",
            self.way.sampler.name(),
            self.way.steps.len()
        )
    }

    /// One batch: the samples at these places.
    fn one(
        &self,
        places: Range<usize>,
        watch: impl FnMut(At) -> candle_core::Result<()>,
    ) -> Result<(Tensor, Option<Report>)> {
        let (model, all, first) = (self.model, self.seeds.len(), places.start);
        let (seeds, labels) = (&self.seeds[places.clone()], self.labels.as_ref().map(|labels| &labels[places]));
        let (way, models, told) = (&self.way, (model, self.guide.as_ref()), (labels, seeds.len()));
        let times = way.times();
        let mut noise = self.noise.of(seeds);
        let mut shape = vec![seeds.len()];
        shape.extend_from_slice(&model.spec.shape);
        let draw =
            |noise: &mut Noise| noise.normal(shape.as_slice(), model.dtype(), model.device())?.affine(way.start, 0.);
        let x = match &self.start {
            Start::Noise => draw(&mut noise)?,
            Start::Image { x0, encode, .. } => {
                let x0 = model.spec.ranged(x0)?.broadcast_as(shape.as_slice())?.contiguous()?;
                if *encode {
                    denoising(models, way, told, |m| Ok(edit::encode(m, &way.sampler, &times, &x0)?))?
                } else {
                    let eps = noise.normal_like(&x0)?;
                    edit::noised(model.spec.process.get(), &x0, &times[..1], &eps)?
                }
            }
            Start::Between { seeds: [a, b] } => {
                let end = |seed: u64| draw(&mut self.noise.of(&vec![seed; seeds.len()]));
                let (a, b) = (end(*a)?, end(*b)?);
                let between = |i: usize| {
                    let weight = (first + i) as f64 / (all - 1) as f64;
                    edit::slerp(&a.narrow(0, i, 1)?, &b.narrow(0, i, 1)?, weight)
                };
                Tensor::cat(&(0..seeds.len()).map(between).collect::<candle_core::Result<Vec<_>>>()?, 0)?
            }
        };
        let sampler = way.sampler.get();
        let drawn = denoising(models, way, told, |m| Ok(follow(m, sampler, &way.steps, &x, &mut noise, watch)?))?;
        Ok((drawn.x, drawn.report))
    }
}
