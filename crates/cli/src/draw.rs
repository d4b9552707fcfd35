//! Samples of a model: where they start, the way they go, and the batches.

use crate::args::Sample;
use crate::guide::{Guide, denoising};
use crate::open;
use crate::progress::Progress;
use crate::run::{NoiseSource, usage};
use crate::way::Way;
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use langevin_data::Kind;
use langevin_dynamics::sampler::{At, Report, edit, follow};
use langevin_models::Model;
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use std::path::Path;

/// At most so many frames of a path.
const FRAMES: usize = 60;

/// Where samples start.
pub enum Start {
    /// Noise at the end of the span.
    Noise,
    /// An image `[1, C, H, W]` with noise, or carried there by the ODE.
    Image { x0: Tensor, strength: f64, encode: bool },
    /// The noises between those of two seeds, one a sample.
    Between { seeds: [u64; 2] },
}

impl Start {
    /// As `args` say.
    pub fn of(args: &Sample, model: &Model, seeds: &[u64]) -> Result<Self> {
        if let Some(path) = &args.from {
            if open::kind(model) != Kind::Image {
                return usage("--from: this model is not one of images");
            }
            if !(args.strength > 0. && args.strength <= 1.) {
                return usage(format!("--strength {}: give a number above 0, at most 1", args.strength));
            }
            let x0 = image(path, &model.spec.shape)?.to_device(model.device())?;
            return Ok(Self::Image { x0, strength: args.strength, encode: args.encode });
        }
        let Some(text) = &args.interpolate else { return Ok(Self::Noise) };
        let ends: Vec<_> = text.split(',').map(|part| part.trim().parse::<u64>()).collect();
        let [Ok(a), Ok(b)] = ends[..] else {
            return usage(format!("--interpolate {text}: give two seeds, such as 3,8"));
        };
        if seeds.len() < 2 {
            return usage("--interpolate: give -n 2 or more");
        }
        Ok(Self::Between { seeds: [a, b] })
    }

    /// The part of the way that is left from here.
    pub fn cut(&self, way: Way) -> Result<Way> {
        let Self::Image { strength, .. } = self else { return Ok(way) };
        let left = edit::cut(&way.times(), *strength)?.len();
        if left < 2 {
            return usage(format!(
                "--strength {strength} of {} steps is no step; give more of either",
                way.steps.len()
            ));
        }
        let steps = way.steps[way.steps.len() + 1 - left..].to_vec();
        Ok(Way { steps, ..way })
    }
}

/// An image file as `[1, C, H, W]` in [-1, 1], resized and cropped in the middle.
pub fn image(path: &Path, shape: &[usize]) -> Result<Tensor> {
    let [c, h, w] = *shape else { bail!("a model of samples {shape:?} takes no image") };
    let file = image::ImageReader::open(path).and_then(image::ImageReader::with_guessed_format);
    let file = file.with_context(|| format!("cannot read {}", path.display()))?;
    let picture = file.decode().with_context(|| format!("{} is not an image that can be read", path.display()))?;
    let picture = picture.resize_to_fill(w as u32, h as u32, image::imageops::FilterType::Triangle);
    let bytes = match c {
        1 => picture.into_luma8().into_raw(),
        3 => picture.into_rgb8().into_raw(),
        4 => picture.into_rgba8().into_raw(),
        _ => bail!("a model of {c} channels takes no image file"),
    };
    let x = Tensor::from_vec(bytes, (1, h, w, c), &Device::Cpu)?.permute((0, 3, 1, 2))?;
    Ok(x.to_dtype(DType::F32)?.affine(1. / 127.5, -1.)?.contiguous()?)
}

/// What is drawn, and how.
pub struct Job<'a> {
    pub model: &'a Model,
    pub guide: Option<Guide>,
    pub noise: NoiseSource,
    pub way: Way,
    pub start: Start,
    pub batch: usize,
}

/// Samples `[N, ...]` on the CPU, the way to them: (time, x_t `[N, ...]`), and what MCMC did on it, if there was any.
pub struct Drawn {
    pub x: Tensor,
    pub path: Vec<(f64, Tensor)>,
    pub report: Option<Report>,
}

impl Job<'_> {
    /// Draws the samples of `seeds` batch by batch; keeps frames of the way if `path`.
    pub fn draw(&self, seeds: &[u64], labels: Option<&[u32]>, path: bool) -> Result<Drawn> {
        let (mut parts, mut frames): (Vec<Tensor>, Vec<(f64, Vec<Tensor>)>) = (vec![], vec![]);
        let batches = seeds.len().div_ceil(self.batch);
        let mut report: Option<Report> = None;
        let mut progress = Progress::new((batches * self.way.steps.len()) as u64, "steps");
        for (i, some) in seeds.chunks(self.batch).enumerate() {
            let first = i * self.batch;
            let labels = labels.map(|labels| &labels[first..first + some.len()]);
            let mut seen = 0;
            let keep =
                |t: f64, x: &Tensor, frames: &mut Vec<(f64, Vec<Tensor>)>, at: usize| -> candle_core::Result<()> {
                    let x = x.to_device(&Device::Cpu)?;
                    match frames.get_mut(at) {
                        Some((_, parts)) => parts.push(x),
                        None => frames.push((t, vec![x])),
                    }
                    Ok(())
                };
            let (x, own) = self.one(some, first, seeds.len(), labels, |at| {
                progress.step();
                let every = at.steps.div_ceil(FRAMES).max(1);
                if path && (at.step == at.steps || at.step % every == 0) {
                    keep(at.t, at.x, &mut frames, seen)?;
                    seen += 1;
                }
                Ok(())
            })?;
            parts.push(x.to_device(&Device::Cpu)?);
            if let Some(own) = own {
                report.get_or_insert_default().append(own);
            }
        }
        progress.done();
        let x = Tensor::cat(&parts, 0)?;
        let bad = to_host(&x)?.iter().filter(|v| !v.is_finite()).count();
        if bad > 0 {
            bail!(
                "{bad} of the {} numbers drawn are not finite: the sampler {} with {} steps left the model's range; try more steps, or sampler.clip=true",
                x.elem_count(),
                self.way.sampler.name(),
                self.way.steps.len()
            );
        }
        let spec = &self.model.spec;
        let path = frames.into_iter().map(|(t, parts)| Ok((t, spec.unranged(&Tensor::cat(&parts, 0)?)?)));
        Ok(Drawn { x: spec.unranged(&x)?, path: path.collect::<Result<_>>()?, report })
    }

    /// One batch: the samples `first` and on of `all`.
    fn one(
        &self,
        seeds: &[u64],
        first: usize,
        all: usize,
        labels: Option<&[u32]>,
        watch: impl FnMut(At) -> candle_core::Result<()>,
    ) -> Result<(Tensor, Option<Report>)> {
        let model = self.model;
        let (way, models, told) = (&self.way, (model, self.guide.as_ref()), (labels, seeds.len()));
        let times = way.times();
        let mut noise = self.noise.of(seeds);
        let mut sampler = way.sampler.clone();
        let mut shape = vec![seeds.len()];
        shape.extend_from_slice(&model.spec.shape);
        let draw =
            |noise: &mut Noise| noise.normal(shape.as_slice(), model.dtype(), model.device())?.affine(way.start, 0.);
        let x = match &self.start {
            Start::Noise => draw(&mut noise)?,
            Start::Image { x0, encode, .. } => {
                let x0 = model.spec.ranged(x0)?.broadcast_as(shape.as_slice())?.contiguous()?;
                if *encode {
                    denoising(models, way, told, |m| Ok(edit::encode(m, &mut sampler.clone(), &times, &x0)?))?
                } else {
                    let eps = noise.normal_like(&x0)?;
                    edit::noised(model.spec.process.get(), &x0, &times[..1], &eps)?
                }
            }
            Start::Between { seeds: [a, b] } => {
                if sampler.get().order().is_none() {
                    return usage(format!(
                        "--interpolate: `{}` draws noise on the way; use an ODE sampler such as sampler.name=heun",
                        sampler.name()
                    ));
                }
                let end = |seed: u64| draw(&mut self.noise.of(&vec![seed; seeds.len()]));
                let (a, b) = (end(*a)?, end(*b)?);
                let between = |i: usize| {
                    let weight = (first + i) as f64 / (all - 1) as f64;
                    edit::slerp(&a.narrow(0, i, 1)?, &b.narrow(0, i, 1)?, weight)
                };
                Tensor::cat(&(0..seeds.len()).map(between).collect::<candle_core::Result<Vec<_>>>()?, 0)?
            }
        };
        let x = denoising(models, way, told, |m| Ok(follow(m, sampler.get_mut(), &way.steps, &x, &mut noise, watch)?))?;
        Ok((x, sampler.get().report().cloned()))
    }
}
