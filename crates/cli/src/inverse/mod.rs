//! What a model makes of a measurement: the verbs `inpaint` and `impute`, and what they share.

pub mod impute;
pub mod inpaint;
mod table;

use crate::draw::go_on;
use crate::guide::{Guide, denoising};
use crate::progress::Progress;
use crate::run::{Drawing, NoiseSource, Usage, apply, usage};
use crate::way::Way;
use anyhow::Result;
use candle_core::{Device, Tensor};
use langevin_dynamics::inverse::{AnyMethod, Measured, Method};
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::sampler::prior;
use langevin_models::Model;
use serde::Deserialize;
use toml::Table;

/// Noise levels unless sampler.steps says otherwise: ancestral steps are many.
const STEPS: &str = "sampler.steps=100";

/// The methods called `names`, as `changes` such as `repaint.jump=10` have them, and the changes that are left.
fn methods(names: &[String], changes: &[String]) -> Result<(Vec<AnyMethod>, Vec<String>)> {
    let mut left = changes.to_vec();
    let mut found = Vec::new();
    for name in names {
        let method = AnyMethod::named(name).map_err(|why| Usage(format!("--method {name}: {why}")))?;
        let mut table = Table::try_from(&method)?;
        let own = format!("{name}.");
        for change in changes.iter().filter(|change| change.starts_with(&own)) {
            apply(&mut table, &change[own.len()..])?;
            left.retain(|other| other != change);
        }
        found.push(AnyMethod::deserialize(table).map_err(|why| Usage(why.message().trim().to_string()))?);
    }
    if let Some(name) = left.iter().find(|change| change.starts_with("sampler.name")) {
        return usage(format!(
            "`{name}`: the steps are those of --method; sampler.steps and sampler.grid can be changed"
        ));
    }
    if let Some(other) = AnyMethod::ALL.iter().find(|(name, _)| left.iter().any(|l| l.starts_with(&format!("{name}."))))
    {
        return usage(format!("`{}.`: that method is not among those of --method", other.0));
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
    fn new(model: &'a Model, run: Option<&crate::run::Run>, guide: Option<Guide>, changes: &[String]) -> Result<Self> {
        if matches!(model.spec.predict, AnyParametrisation::Consistency(_)) {
            return usage("a consistency model has no E[x_0 | x_t] that a measurement could be weighed against");
        }
        let changes: Vec<String> =
            [STEPS.to_string(), "sampler.name=ddpm".to_string()].into_iter().chain(changes.to_vec()).collect();
        let drawing = Drawing::of(run, &changes)?;
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
