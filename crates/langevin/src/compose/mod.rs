//! Samples of several models at once, `2*a & b & !c`.

mod part;
mod ratios;

use crate::config::{Changes, Drawing};
use crate::error::{Usage, usage};
use crate::output::{self, View};
use crate::sample::{self, Batch, Drawn, Keep, One, Source, Walked, What, listed};
use crate::watch::{Progress, go_on};
use ::image::RgbImage;
use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use langevin_data::Kind;
use langevin_dynamics::process::{self, Within};
use langevin_dynamics::sampler::{AnySampler, follow};
use langevin_dynamics::wrap::{Clamped, Clip, Reframed};
use langevin_dynamics::{Denoiser, Expression, Marginal, NoisyEnergy, Sum};
use part::Part;
use ratios::Estimated;
use std::ops::Range;

/// What draws unless sampler.name says otherwise: no reverse process leads through compositions. Weighed particles follow the
/// energies, with no bias but that of their number.
const BY_WEIGHTS: [&str; 2] = ["sampler.name=smc", "sampler.steps=40"];

/// The same where weights cannot: by scores alone, and for images, which few ancestors would be left of. A corrected reverse
/// process is as right as its corrector has time to be.
const CORRECTED: [&str; 5] = [
    "sampler.name=pc",
    "sampler.corrector.name=hmc",
    "sampler.corrector.leapfrogs=2",
    "sampler.corrector_steps=4",
    "sampler.steps=40",
];

/// Models by their names.
type Models<'a> = Vec<(&'a str, &'a dyn Denoiser)>;

/// Samples of a composition, as they are asked for.
#[derive(Clone, Debug, Default)]
pub struct Composing {
    /// The models, NAME=MODEL\[,class=CLASS\] each.
    pub models: Vec<String>,
    /// What is composed of them: a & b is the product of densities, 2*a a power, !a its inverse, a | b a mixture.
    pub expression: String,
    /// What the energy of all is divided by, if not 1.
    pub temperature: Option<f64>,
    /// Whether the parts of mixtures are weighed by annealed particles, and by how many, if not 128.
    pub estimate_ratios: Option<Option<usize>>,
    /// Of the sampler, `sampler.KEY=value`.
    pub changes: Vec<String>,
    /// One a sample.
    pub seeds: Vec<u64>,
    /// Samples at a time.
    pub batch: Option<usize>,
}

/// A composition of opened models, and how samples of it are drawn.
pub struct Composition {
    parts: Vec<Part>,
    typed: Expression,
    /// What was typed, with the parts of the plan as models.
    expression: Expression,
    plan: Vec<Estimated>,
    temperature: f64,
    /// The models as they were asked for.
    models: String,
    drawing: Drawing,
    seeds: Vec<u64>,
    batch: usize,
    particles: usize,
}

/// What becomes of a part of a mixture whose normaliser is not known.
const OPTIONS: &str =
    "; --estimate-ratios estimates it, and training with model.normalised=true loss.time=0.001 learns it";

impl Composing {
    /// The models opened, and all that is asked checked.
    pub fn prepared(&self, device: &Device) -> Result<Composition> {
        let particles = ratios::particles(self.estimate_ratios.flatten())?;
        if self.seeds.is_empty() {
            return usage(Usage::of("seeds", "there are none, and so no samples; give one a sample"));
        }
        if self.batch == Some(0) {
            return usage(Usage::of("batch", "give at least 1").value(0));
        }
        let mut composition = self.composed(device)?;
        composition.particles = particles;
        if let (Some(n), true) = (self.estimate_ratios.flatten(), composition.plan.is_empty()) {
            let why = format!(
                "every part of \"{}\" is normalised, and nothing is left to estimate; leave it out",
                composition.typed
            );
            return usage(Usage::of("estimate-ratios", why).value(n));
        }
        let kind = composition.first()?.opened.kind();
        let has_energy = composition.with(1, |composed| Ok(composed.noisy_energy().is_some()))?;
        let usual: &[&str] = if has_energy && kind != Kind::Image { &BY_WEIGHTS } else { &CORRECTED };
        let drawing = Drawing::of(None).changed(&Changes::parse(usual)?)?.changed(&Changes::typed(&self.changes)?)?;
        let (sampler, needs) = (&drawing.sampler.sampler, drawing.sampler.sampler.get().needs());
        if needs.consistency {
            let why = "consistency functions cannot be composed; leave sampler.name out, or use smc";
            return usage(Usage::of("compose", why));
        }
        if needs.energy && !has_energy {
            let why = "it weighs samples by their energy, and not every model here has one; leave it out";
            return usage(Usage::of("sampler.name", why).value(sampler.name()));
        }
        note_of(&composition, sampler, has_energy);
        let batch = sample::batch(self.batch, sampler, kind, self.seeds.len());
        Ok(Composition { drawing, batch, ..composition })
    }

    fn composed(&self, device: &Device) -> Result<Composition> {
        let typed = Expression::parse(&self.expression).map_err(|e| Usage::new(e.to_string()))?;
        let parts = self.models.iter().map(|text| Part::open(text, device)).collect::<Result<Vec<_>>>()?;
        let Some(first) = parts.first() else {
            return usage(Usage::of("compose", "name its models with --let, such as --let a=runs/digits,class=3"));
        };
        for (i, part) in parts.iter().enumerate() {
            let Part { name, .. } = part;
            if parts.iter().take(i).any(|other| other.name == *name) {
                return usage(Usage::of("let", "there are two models of this name").value(name));
            }
            if part.spec().shape != first.spec().shape || part.spec().from_zero != first.spec().from_zero {
                return usage(Usage::of(
                    "compose",
                    format!(
                        "samples of `{}` have shape {:?}, those of `{name}` {:?}{}; all must be alike",
                        first.name,
                        first.spec().shape,
                        part.spec().shape,
                        if part.spec().from_zero == first.spec().from_zero { "" } else { " in another range" }
                    ),
                ));
            }
            first.same_columns(part)?;
        }
        if self.estimate_ratios.is_some() && !typed.mixes() {
            return usage(Usage::of("estimate-ratios", format!("there is no mixture in \"{typed}\"; leave it out")));
        }
        let this = Composition {
            parts,
            expression: typed.clone(),
            typed,
            plan: vec![],
            temperature: self.temperature.unwrap_or(1.),
            models: self.models.join(" "),
            drawing: Drawing::default(),
            seeds: self.seeds.clone(),
            batch: 0,
            particles: 0,
        };
        let this = if self.estimate_ratios.is_some() { this.estimating() } else { this };
        let why = match this.check() {
            Ok(()) => return Ok(this),
            Err(why) if why.is::<Usage>() => return Err(why),
            Err(why) => why,
        };
        let curable = this.plan.is_empty() && this.estimating().check().is_ok();
        let why = crate::error::without_backtrace(&format!("{why:#}"));
        usage(if curable { why + OPTIONS } else { why })
    }
}

impl Composition {
    /// The same with an estimate of each normaliser that is not known.
    fn estimating(self) -> Self {
        let known = |name: &str| self.parts.iter().any(|part| part.name == name && part.spec().normalised);
        let (plan, expression) = ratios::plan(&self.typed, &known);
        Self { plan, expression, ..self }
    }

    /// Errors if no density comes of it.
    fn check(&self) -> Result<()> {
        self.typed.check_names(&self.parts.iter().map(|part| part.name.clone()).collect::<Vec<_>>())?;
        self.with(1, |_| Ok(()))
    }

    /// `f` of the composed model, for `n` samples.
    fn with<R>(&self, n: usize, f: impl FnOnce(&Sum) -> Result<R>) -> Result<R> {
        self.models(n, &self.plan, |models| f(&ratios::composed(&self.expression, models, self.temperature)?))
    }

    /// `f` of the models of the parts and of `plan`, for `n` samples: all as of the process of the first, which a part of the
    /// plan need not name.
    fn models<R>(&self, n: usize, plan: &[Estimated], f: impl FnOnce(&Models) -> Result<R>) -> Result<R> {
        let process = self.first()?.spec().process.get();
        let models = self.parts.iter().map(|part| part.denoiser(n)).collect::<Result<Vec<_>>>()?;
        let models = models.iter().map(|model| Ok(Reframed::new(model, process)?)).collect::<Result<Vec<_>>>()?;
        let each = || self.parts.iter().zip(&models);
        let known = each()
            .map(|(part, model)| Ok(part.log_z.clone().map(|log_z| Sum::normalised(model, log_z)).transpose()?))
            .collect::<Result<Vec<_>>>()?;
        let named = each().zip(&known).map(|((part, model), known)| match known {
            Some(known) => (part.name.as_str(), known as &dyn Denoiser),
            None => (part.name.as_str(), model as &dyn Denoiser),
        });
        ratios::with_parts(named.collect(), plan, f)
    }

    /// Says which models are taken as of another process, and at which noise levels.
    fn say_processes(&self) -> Result<()> {
        let own = &self.first()?.spec().process;
        let others = self.parts.iter().filter(|part| !process::alike(own.get(), part.spec().process.get()));
        for Part { name, opened, .. } in others {
            let theirs = opened.model.spec.process.name();
            crate::note!("`{name}` denoises {theirs}, and is taken as of {} by equal sigma/alpha", own.name());
        }
        let (low, high) = self.with(1, |composed| {
            let (low, high) = composed.process().span();
            Ok((composed.process().marginal(low), composed.process().marginal(high)))
        })?;
        let all = Within::all(own.get()).levels();
        let ratio = |m: Marginal| m.sigma / m.alpha;
        if ratio(low) > all.0 * 1.001 || ratio(high) < all.1 / 1.001 {
            crate::note!("samples go from sigma/alpha {:.4} to {:.4}, which all of them know", ratio(high), ratio(low));
        }
        Ok(())
    }

    /// Samples of these models, `[n, ...]`.
    fn shape(&self, n: usize) -> Result<Vec<usize>> {
        Ok(std::iter::once(n).chain(self.first()?.spec().shape.iter().copied()).collect())
    }

    fn first(&self) -> Result<&Part> {
        self.parts.first().map_or_else(|| bail!("compose: there are no models"), Ok)
    }

    /// Points over the composed energy, or over plain ground where there is none.
    fn landscape(&self, x: &Tensor, view: View) -> Result<RgbImage> {
        let first = self.first()?;
        let (model, log_snr) = (&first.opened.model, output::shown_log_snr(first.spec().sigma_data));
        let energy = |x: &Tensor| -> Result<Tensor> {
            let x = x.to_dtype(model.dtype())?.to_device(model.device())?;
            self.with(x.dim(0)?, |composed| {
                let t = composed.process().t_at(log_snr);
                Ok(composed.energy_at(&x, &[t])?.to_device(&Device::Cpu)?)
            })
        };
        let known = self.with(1, |composed| Ok(composed.noisy_energy().is_some()))?;
        let energy: Option<&output::Energy> = if known { Some(&energy) } else { None };
        output::landscape(energy, x, view)
    }
}

/// Whether a reverse process leads through the noisy composition: noise commutes with mixtures, and with nothing else.
fn commutes(expression: &Expression) -> bool {
    match expression {
        Expression::Model(_) => true,
        Expression::Mixture(parts) => parts.iter().all(|(_, part)| commutes(part)),
        _ => false,
    }
}

/// Notes what is drawn only nearly.
fn note_of(composition: &Composition, sampler: &AnySampler, has_energy: bool) {
    let name = sampler.name();
    if !sampler.get().reports() {
        if !commutes(&composition.typed) || composition.temperature != 1. {
            let lacks = if sampler.get().mcmc() { "no test of acceptance" } else { "no steps of MCMC" };
            crate::note!(
                "sampler.name={name} has {lacks}, and without them \"{}\" is drawn as something else; leave \
                 sampler.name out, or take smc, annealed-mcmc or tempering",
                composition.typed
            );
        }
    } else if !has_energy {
        crate::note!(
            "not every model here has an energy: {name} draws \"{}\" approximately, by scores and their line integrals",
            composition.typed
        );
    }
}

impl Source for Composition {
    fn what(&self) -> Result<What> {
        let Part { opened, .. } = self.first()?;
        let (kind, shape) = (opened.kind(), opened.model.spec.shape.clone());
        Ok(What { kind, shape, columns: opened.columns()?, labels: None })
    }

    fn seeds(&self) -> &[u64] {
        &self.seeds
    }

    fn reports(&self) -> Result<()> {
        sample::reports(&self.drawing.sampler.sampler)
    }

    fn ready(&mut self) -> Result<()> {
        self.weigh(self.particles)?;
        self.say_processes()
    }

    fn draw(&self, keep: Keep, take: &mut dyn FnMut(Batch) -> Result<()>) -> Result<Drawn> {
        let (seeds, batch, drawing, first) = (&self.seeds, self.batch, &self.drawing, self.first()?);
        let (model, spec) = (&first.opened.model, first.spec());
        let (steps, std) = self.with(1, |composed| {
            let times = drawing.sampler.grid.get().times(composed.process(), drawing.sampler.steps)?;
            let steps: Vec<(f64, f64)> = times.windows(2).map(|pair| (pair[0], pair[1])).collect();
            Ok((steps, composed.process().marginal(times[0]).sigma / composed.prior_precision().sqrt()))
        })?;
        let mut progress = Progress::new((seeds.len().div_ceil(batch) * steps.len()) as u64, "steps");
        let one = |places: Range<usize>| {
            let some = &seeds[places];
            let (mut noise, sampler) = (drawing.noise.of(some), drawing.sampler.sampler.get());
            let shape = self.shape(some.len())?;
            let drawn = self.with(some.len(), |composed| {
                let clamped = drawing.sampler.clip.then(|| Clamped::new(composed, Clip::default())).transpose()?;
                let m: &dyn Denoiser = clamped.as_ref().map_or(composed, |clamped| clamped);
                let x = noise.normal(shape, model.dtype(), model.device())?.affine(std, 0.)?;
                let watch = |_: langevin_dynamics::sampler::At| {
                    progress.step();
                    go_on()
                };
                Ok(follow(m, sampler, &steps, &x, &mut noise, watch)?)
            })?;
            Ok(One {
                x: spec.unranged(&drawn.x.to_device(&Device::Cpu)?)?,
                path: vec![],
                report: drawn.report.map(Walked::Levels),
            })
        };
        let drawn = Drawn::by(seeds.len(), (batch, keep.traced), one, take);
        progress.done();
        Ok(drawn)
    }

    fn notes(&self, done: usize) -> Result<Vec<(&'static str, String)>> {
        Ok(vec![
            ("langevin.compose", self.typed.to_string()),
            ("langevin.models", self.models.clone()),
            ("langevin.seeds", listed(&self.seeds[..done])),
            ("langevin.sampler", toml::to_string(&self.drawing)?),
        ])
    }

    fn picture(&self, _t: Option<f64>, x: &Tensor, view: View) -> Result<RgbImage> {
        self.landscape(x, view)
    }

    fn advice(&self) -> String {
        format!(
            "\"{}\" may be no density (a negated part must be wider than the rest), or the steps are too large; try \
             a smaller weight of what is negated, or more sampler.steps",
            self.typed
        )
    }
}
