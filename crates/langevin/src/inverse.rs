//! What a model makes of a measurement: samples given a part of them, or what a blur, a smaller size or grey have left.

use crate::config::{Changes, Config, Drawing, NoiseSource, apply};
use crate::error::{Usage, usage};
use crate::sample::{Guide, SamplingPlan, denoising};
use crate::watch::{Progress, go_on};
use anyhow::Result;
use candle_core::{Device, Tensor};
use langevin_dynamics::inverse::{AnyMethod, AnyTask, Mask, MaskName, Measured, Method, Operator};
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::sampler::prior;
use langevin_models::{Model, ModelSpec};
use langevin_ops::noise::Noise;
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;

/// Noise levels unless sampler.steps says otherwise: ancestral steps are many.
const USUAL: [&str; 2] = ["sampler.name=ddpm", "sampler.steps=100"];

/// The keys of the sampler that mean something for a method, whose steps are its own.
const OURS: [&str; 4] = ["noise", "sampler.steps", "sampler.clip", "sampler.grid"];

/// The methods called `names`, as `changes` such as `repaint.jump=10` have them, and the changes that are left.
pub fn methods(names: &[String], changes: &[String]) -> Result<(Vec<AnyMethod>, Changes)> {
    let mut left = Changes::typed(changes)?;
    let mut found = Vec::new();
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            return usage(Usage::of("method", "it is named twice; leave one out").value(name));
        }
        let method = AnyMethod::named(name).map_err(|why| Usage::of("method", why).value(name))?;
        let own;
        (own, left) = left.split(name);
        found.push(own.of(name, &method)?);
    }
    let of_another = |key: &str| AnyMethod::ALL.iter().any(|(name, _)| key.split('.').next() == Some(*name));
    if let Some(change) = left.first(of_another) {
        return usage(format!("`{change}`: that method is not among those of --method"));
    }
    let ours = |key: &str| OURS.iter().any(|own| key == *own || key.starts_with(&format!("{own}.")));
    if let Some(change) = left.first(|key| key.starts_with("sampler") && !ours(key)) {
        return usage(format!(
            "`{change}`: the steps are those of --method; sampler.steps, sampler.grid and sampler.clip can be changed"
        ));
    }
    Ok((found, left))
}

/// What samples are drawn from, given a measurement.
pub struct Given<'a> {
    /// What is asked.
    pub model: &'a Model,
    guide: Option<Guide>,
    /// The noise levels.
    pub way: SamplingPlan,
    noise: NoiseSource,
}

impl<'a> Given<'a> {
    /// As a run says, changed by `changes`.
    pub fn new(model: &'a Model, run: Option<&Config>, guide: Option<Guide>, changes: &Changes) -> Result<Self> {
        if matches!(model.spec.predict, AnyParametrisation::Consistency(_)) {
            return usage("a consistency model has no E[x_0 | x_t] that a measurement could be weighed against");
        }
        let drawing = Drawing::of(run).changed(&Changes::parse(&USUAL)?)?.changed(changes)?;
        Ok(Self { model, guide, way: SamplingPlan::of_sampler(model, &drawing.sampler)?, noise: drawing.noise })
    }

    /// How often a bar of progress moves for a batch. Errors if the method cannot go these steps.
    pub fn steps(&self, method: &dyn Method, seen: &Measured) -> Result<u64> {
        let route = method.route(self.model.spec.process.get(), seen, &self.way.times());
        Ok(route.map_err(|why| Usage::new(why.to_string()))?.len() as u64)
    }

    /// Samples `[N, ...]` in [-1, 1] on the CPU, for the `seeds` of a batch; `seen` is one measurement for all or one a seed,
    /// in the range of the model. They may not be finite.
    pub fn draw(
        &self,
        method: &AnyMethod,
        seen: &Measured,
        (seeds, labels): (&[u64], Option<&[u32]>),
        progress: &mut Progress,
    ) -> Result<Tensor> {
        let (model, spec, times) = (self.model, &self.model.spec, self.way.times());
        let mut z = self.noise.of(seeds);
        let mut shape = vec![seeds.len()];
        shape.extend_from_slice(&spec.shape);
        let start = prior(spec.process.get(), times[0], &shape, model.dtype(), model.device(), &mut z)?;
        let x = denoising((model, self.guide.as_ref()), &self.way, (labels, seeds.len()), |m| {
            let watch = &mut |_: langevin_dynamics::sampler::At| {
                progress.step();
                go_on()
            };
            Ok(method.get().draw(m, seen, &times, &start, &mut z, watch)?)
        })?;
        Ok(spec.unranged(&x.to_device(&Device::Cpu)?)?)
    }
}

/// What to do about samples by `method` that are not finite.
pub fn advice(method: &AnyMethod) -> String {
    format!("drawn by {}: try more sampler.steps, a smaller dps.scale, or sampler.clip=true", method.name())
}

/// Keeps the noise of measurements apart from that of samples ("measured" in ASCII).
const MEASURED: u64 = 0x6d65_6173_7572_6564;

/// What is measured of `x0` `[N, C, H, W]` in [-1, 1] with noise `s`, in the range of the model.
pub fn measured(
    operator: &Arc<dyn Operator>,
    spec: &ModelSpec,
    x0: &Tensor,
    s: f64,
    seeds: &[u64],
) -> Result<Measured> {
    let mut z = Noise::seeds(&seeds.iter().map(|seed| seed ^ MEASURED).collect::<Vec<_>>());
    Measured::of(operator.clone(), &spec.ranged(x0)?, in_range(spec, s), &mut z).map_err(wrong_noise)
}

/// A length in [-1, 1] in the range of the model.
pub fn in_range(spec: &ModelSpec, s: f64) -> f64 {
    if spec.from_zero { 0.5 * s } else { s }
}

/// What was measured already: `y`, in the range of the model, with noise `s` there.
pub fn of(operator: Arc<dyn Operator>, y: Tensor, s: f64) -> Result<Measured> {
    Measured::new(operator, y, s).map_err(wrong_noise)
}

fn wrong_noise(why: candle_core::Error) -> anyhow::Error {
    Usage::of("noise", why).into()
}

/// The operator of NAME or NAME=VALUE.
pub fn operator(text: &str, shape: &[usize]) -> Result<Arc<dyn Operator>> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    let wrong = |why: String| Usage::of("task", why).value(text);
    let task = AnyTask::named(name).map_err(&wrong)?;
    let mut table = toml::Table::try_from(&task)?;
    match (value, task.get().key()) {
        (Some(value), Some(key)) => apply(&mut table, &[format!("{key}={value}")])?,
        (Some(_), None) => return usage(Usage::of("task", format!("{name} takes no value")).value(text)),
        (None, _) => {}
    }
    let task = AnyTask::deserialize(table).map_err(|why| wrong(why.message().trim().to_string()))?;
    Ok(task.get().operator(shape).map_err(|why| wrong(why.to_string()))?.into())
}

/// The mask in an image file: what is bright there is hidden.
pub fn mask_in(path: &Path, shape: &[usize]) -> Result<Arc<dyn Operator>> {
    if !path.is_file() {
        let names: Vec<_> = MaskName::ALL.iter().map(|name| name.name()).collect();
        return usage(
            Usage::of("mask", format!("no such file, and no mask of that name: {}", names.join(", ")))
                .value(path.display()),
        );
    }
    let [c, h, w] = *shape else { return usage(Usage::of("mask", "this model is not one of images")) };
    let mask = match langevin_data::mask(path, h, w) {
        Ok(mask) => mask,
        Err(why) => return usage(Usage::of("mask", why)),
    };
    mask.notes.iter().for_each(|note| crate::note!("{note}"));
    let known = Tensor::from_iter(mask.hidden.iter().map(|hidden| f64::from(u8::from(!hidden))), &Device::Cpu)?;
    let known = known.reshape((1, 1, h, w))?.broadcast_as((1, c, h, w))?.contiguous()?;
    Ok(Arc::new(Mask::new(&known)?))
}
