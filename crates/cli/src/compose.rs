//! `langevin sample --compose`: samples of several models at once, `2*a & b & !c`.

mod part;
mod ratios;

use crate::args::Sample;
use crate::changes::Changes;
use crate::draw::{self, Batch, Drawn, One};
use crate::output::{self, Files, View};
use crate::progress::Progress;
use crate::run::{Drawing, Usage, usage};
use crate::sample::{mcmc, seeds};
use crate::stop;
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

/// A composition of opened models.
struct Composition {
    parts: Vec<Part>,
    typed: Expression,
    /// What was typed, with the parts of the plan as models.
    expression: Expression,
    plan: Vec<Estimated>,
    temperature: f64,
}

/// What becomes of a part of a mixture whose normaliser is not known.
const OPTIONS: &str =
    "; --estimate-ratios estimates it, and training with model.normalised=true loss.time=0.001 learns it";

impl Composition {
    fn of(args: &Sample, text: &str, device: &Device) -> Result<Self> {
        let typed = Expression::parse(text).map_err(|e| Usage(e.to_string()))?;
        let parts = args.models.iter().map(|text| Part::open(text, device)).collect::<Result<Vec<_>>>()?;
        let Some(first) = parts.first() else {
            return usage("--compose: name its models with --let, such as --let a=runs/digits,class=3");
        };
        for (i, part) in parts.iter().enumerate() {
            let Part { name, .. } = part;
            if parts.iter().take(i).any(|other| other.name == *name) {
                return usage(format!("--let {name}: there are two models of this name"));
            }
            if part.spec().shape != first.spec().shape || part.spec().from_zero != first.spec().from_zero {
                return usage(format!(
                    "--compose: samples of `{}` have shape {:?}, those of `{name}` {:?}{}; all must be alike",
                    first.name,
                    first.spec().shape,
                    part.spec().shape,
                    if part.spec().from_zero == first.spec().from_zero { "" } else { " in another range" },
                ));
            }
            first.same_columns(part)?;
        }
        if args.estimate_ratios.is_some() && !typed.mixes() {
            return usage(format!("--estimate-ratios: there is no mixture in \"{typed}\"; leave it out"));
        }
        let (expression, temperature) = (typed.clone(), args.temperature.unwrap_or(1.));
        let this = Self { parts, typed, expression, plan: vec![], temperature };
        let this = if args.estimate_ratios.is_some() { this.estimating() } else { this };
        let why = match this.check() {
            Ok(()) => return Ok(this),
            Err(why) if why.is::<Usage>() => return Err(why),
            Err(why) => why,
        };
        let curable = this.plan.is_empty() && this.estimating().check().is_ok();
        let why = crate::without_backtrace(&format!("{why:#}"));
        usage(if curable { why + OPTIONS } else { why })
    }

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
            crate::talk!("`{name}` denoises {theirs}, and is taken as of {} by equal sigma/alpha", own.name());
        }
        let (low, high) = self.with(1, |composed| {
            let (low, high) = composed.process().span();
            Ok((composed.process().marginal(low), composed.process().marginal(high)))
        })?;
        let all = Within::all(own.get()).levels();
        let ratio = |m: Marginal| m.sigma / m.alpha;
        if ratio(low) > all.0 * 1.001 || ratio(high) < all.1 / 1.001 {
            crate::talk!("samples go from sigma/alpha {:.4} to {:.4}, which all of them know", ratio(high), ratio(low));
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

    /// Draws the samples of `seeds` batch by batch, each given to `take`; what MCMC did is told chain by chain if `traced`.
    fn draw(
        &self,
        drawing: &Drawing,
        (seeds, batch, traced): (&[u64], usize, bool),
        take: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<Drawn> {
        let first = self.first()?;
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
                    draw::go_on()
                };
                Ok(follow(m, sampler, &steps, &x, &mut noise, watch)?)
            })?;
            Ok(One { x: spec.unranged(&drawn.x.to_device(&Device::Cpu)?)?, path: vec![], report: drawn.report })
        };
        let drawn = Drawn::by(seeds.len(), (batch, traced), one, take);
        progress.done();
        Ok(drawn)
    }

    /// Points over the composed energy, or over plain ground where there is none.
    fn landscape(&self, x: &Tensor, view: View) -> Result<image::RgbImage> {
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

/// Says on stderr what is drawn only nearly.
fn talk_of(composition: &Composition, sampler: &AnySampler, has_energy: bool) {
    let name = sampler.name();
    if !sampler.get().reports() {
        if !commutes(&composition.typed) || composition.temperature != 1. {
            let lacks = if sampler.get().mcmc() { "no test of acceptance" } else { "no steps of MCMC" };
            crate::talk!(
                "sampler.name={name} has {lacks}, and without them \"{}\" is drawn as something else; leave sampler.name out, \
                 or take smc, annealed-mcmc or tempering",
                composition.typed
            );
        }
    } else if !has_energy {
        crate::talk!(
            "not every model here has an energy: {name} draws \"{}\" approximately, by scores and their line integrals",
            composition.typed
        );
    }
}

/// Carries out `langevin sample --compose TEXT`; what can be written was asked before.
pub fn run(args: &Sample, text: &str, device: &Device) -> Result<()> {
    let own: Vec<String> = match &args.model {
        Some(model) if !model.contains('=') => {
            return usage(format!("{model}: the models of a composition are named by --let, such as --let a={model}"));
        }
        first => first.iter().chain(&args.changes).cloned().collect(),
    };
    let particles = ratios::particles(args.estimate_ratios.flatten())?;
    let mut composition = Composition::of(args, text, device)?;
    if let (Some(n), true) = (args.estimate_ratios.flatten(), composition.plan.is_empty()) {
        return usage(format!(
            "--estimate-ratios={n}: every part of \"{}\" is normalised, and nothing is left to estimate; leave it out",
            composition.typed
        ));
    }
    let kind = composition.first()?.opened.kind();
    crate::sample::suits(args, kind)?;
    let has_energy = composition.with(1, |composed| Ok(composed.noisy_energy().is_some()))?;
    let usual: &[&str] = if has_energy && kind != Kind::Image { &BY_WEIGHTS } else { &CORRECTED };
    let drawing = Drawing::of(None).changed(&Changes::parse(usual)?)?.changed(&Changes::typed(&own)?)?;
    let sampler = drawing.sampler.sampler.get();
    if sampler.needs().consistency {
        return usage("--compose: consistency functions cannot be composed; leave sampler.name out, or use smc");
    }
    crate::sample::reports(args, &drawing.sampler.sampler)?;
    let all = seeds(args)?;
    if sampler.needs().energy && !has_energy {
        return usage(format!(
            "sampler.name={}: it weighs samples by their energy, and not every model here has one; leave it out",
            drawing.sampler.sampler.name()
        ));
    }
    talk_of(&composition, &drawing.sampler.sampler, has_energy);
    let batch = crate::sample::batch(args, &drawing.sampler.sampler, kind, all.len());
    let first = composition.first()?;
    let what = (kind, first.spec().shape.as_slice(), first.opened.columns()?);
    let mut files = Files::create(args, what, all.len(), None)?;
    composition.weigh(particles)?;
    composition.say_processes()?;
    let _hold = stop::hold();
    let asked = (all.as_slice(), batch, args.report.is_some());
    let mut drawn = composition.draw(&drawing, asked, &mut |batch| files.add(batch, &all))?;
    let notes = [
        ("langevin.compose", composition.typed.to_string()),
        ("langevin.models", args.models.join(" ")),
        ("langevin.seeds", draw::listed(&all[..drawn.done])),
        ("langevin.sampler", toml::to_string(&drawing)?),
    ];
    files.finish(&|_, x, view| composition.landscape(x, view), &notes)?;
    mcmc(args, drawn.report.take().as_ref())?;
    let advice = format!(
        "\"{}\" may be no density (a negated part must be wider than the rest), or the steps are too large; try a smaller \
         weight of what is negated, or more sampler.steps",
        composition.typed
    );
    drawn.whole(Some(&all), true, &advice)
}
