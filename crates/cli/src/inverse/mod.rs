//! What a model makes of a measurement: the verbs `inpaint` and `impute`, and what they share.

pub mod impute;
pub mod inpaint;
mod table;

use crate::changes::Changes;
use crate::draw::go_on;
use crate::guide::{Guide, denoising};
use crate::progress::Progress;
use crate::run::{Drawing, NoiseSource, Usage, usage};
use crate::way::Way;
use anyhow::Result;
use candle_core::{Device, Tensor};
use langevin_dynamics::inverse::{AnyMethod, Measured, Method};
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::sampler::prior;
use langevin_models::Model;

/// Noise levels unless sampler.steps says otherwise: ancestral steps are many.
const USUAL: [&str; 2] = ["sampler.name=ddpm", "sampler.steps=100"];

/// The keys of the sampler that mean something for a method, whose steps are its own.
const OURS: [&str; 4] = ["noise", "sampler.steps", "sampler.clip", "sampler.grid"];

/// The methods called `names`, as `changes` such as `repaint.jump=10` have them, and the changes that are left.
fn methods(names: &[String], changes: &[String]) -> Result<(Vec<AnyMethod>, Changes)> {
    let mut left = Changes::typed(changes)?;
    let mut found = Vec::new();
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            return usage(format!("--method {name}: it is named twice; leave one out"));
        }
        let method = AnyMethod::named(name).map_err(|why| Usage(format!("--method {name}: {why}")))?;
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
struct Given<'a> {
    model: &'a Model,
    guide: Option<Guide>,
    way: Way,
    noise: NoiseSource,
}

impl<'a> Given<'a> {
    /// As a run says, changed by `changes`.
    fn new(model: &'a Model, run: Option<&crate::run::Run>, guide: Option<Guide>, changes: &Changes) -> Result<Self> {
        if matches!(model.spec.predict, AnyParametrisation::Consistency(_)) {
            return usage("a consistency model has no E[x_0 | x_t] that a measurement could be weighed against");
        }
        let drawing = Drawing::of(run).changed(&Changes::parse(&USUAL)?)?.changed(changes)?;
        Ok(Self { model, guide, way: Way::of_sampler(model, &drawing.sampler)?, noise: drawing.noise })
    }

    /// How often a bar of progress moves for a batch. Errors if the method cannot go these steps.
    fn steps(&self, method: &dyn Method, seen: &Measured) -> Result<u64> {
        let route = method.route(self.model.spec.process.get(), seen, &self.way.times());
        Ok(route.map_err(|why| Usage(why.to_string()))?.len() as u64)
    }

    /// Samples `[N, ...]` in [-1, 1] on the CPU, for the `seeds` of a batch; `seen` is one measurement for all or one a seed,
    /// in the range of the model. They may not be finite.
    fn draw(
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
fn advice(method: &AnyMethod) -> String {
    format!("drawn by {}: try more sampler.steps, a smaller dps.scale, or sampler.clip=true", method.name())
}
