//! What the parts of a mixture are weighed by: log Z(t) of each, by annealing (`--estimate-ratios`), or the one constant of a
//! normalised energy, by draws of its prior.

use super::{Composition, Models};
use crate::error::{Usage, usage};
use crate::likelihood::DRAWS;
use crate::watch::Progress;
use anyhow::{Result, bail};
use langevin_dynamics::likelihood::{Annealing, Constants, LogZ, Normaliser};
use langevin_dynamics::{Denoiser, Expression, NoisyEnergy, Sum};
use langevin_ops::noise::Noise;

/// Particles of a population without a number of them.
const PARTICLES: usize = 128;
/// Independent populations, whose spread is the standard error.
const RUNS: usize = 8;
/// Noise levels that they go down.
const LEVELS: usize = 100;
/// A standard error of a log-ratio that is worth a word: shares are off by a fortieth.
const LARGE: f64 = 0.1;

/// So far apart parts of a mixture may begin.
const FEW_NATS: f64 = 10.;

/// A part of a mixture that is a model of its own, by its log Z.
pub struct Estimated {
    name: String,
    part: Expression,
    log_z: Constants,
}

/// The parts of mixtures in `expression` that are not normalised, parts of parts first, with a log Z of 0 as yet; and the
/// expression with them as models.
pub fn plan(expression: &Expression, known: &dyn Fn(&str) -> bool) -> (Vec<Estimated>, Expression) {
    let (mut plan, mut expression): (Vec<Estimated>, _) = (vec![], expression.clone());
    loop {
        let known = |name: &str| known(name) || plan.iter().any(|part| part.name == name);
        let Some(part) = expression.unnormalised(&known).first().map(|(_, part)| (*part).clone()) else {
            return (plan, expression);
        };
        let name = format!("({part})");
        expression = expression.with_part(&part, &name);
        plan.push(Estimated { name, part, log_z: Constants::same(LogZ { value: 0., error: 0., spread: 0., runs: 0 }) });
    }
}

/// `f` of the models, and of those of `plan` made of them.
pub fn with_parts<R>(models: Models, plan: &[Estimated], f: impl FnOnce(&Models) -> Result<R>) -> Result<R> {
    let Some((first, rest)) = plan.split_first() else { return f(&models) };
    let own = composed(&first.part, &models, 1.)?;
    if own.noisy_energy().is_none() {
        bail!(
            "compose: a mixture needs energies, and `{}` has a score alone; use & and weights, or an energy",
            first.part
        );
    }
    let normalised = Sum::normalised(&own, first.log_z.clone())?;
    let mut models: Models = models;
    models.push((&first.name, &normalised));
    with_parts(models, rest, f)
}

/// The composition of those of the models that the expression names.
pub fn composed<'a>(expression: &Expression, models: &Models<'a>, temperature: f64) -> Result<Sum<'a>> {
    let names = expression.names();
    let named: Vec<_> = models.iter().filter(|(name, _)| names.contains(name)).copied().collect();
    Ok(Sum::composed(expression, &named, temperature)?)
}

/// The number of particles asked for.
pub fn particles(asked: Option<usize>) -> Result<usize> {
    match asked {
        Some(n) if !(2..=1_000_000).contains(&n) => {
            usage(Usage::of("estimate-ratios", "give 2 to 1000000 particles").value(n))
        }
        asked => Ok(asked.unwrap_or(PARTICLES)),
    }
}

impl Composition {
    /// Finds log Z of every part of a mixture, and says it on stderr: by populations of so many particles where that is
    /// needed.
    pub fn weigh(&mut self, particles: usize) -> Result<()> {
        if !self.expression.mixes() {
            return Ok(());
        }
        for i in 0..self.parts.len() {
            if self.parts[i].spec().normalised {
                let log_z = self.constant(i)?;
                let name = &self.parts[i].name;
                crate::note!(
                    "log-ratio of `{name}`: {:.4} +- {:.4}, by {DRAWS} draws of its prior",
                    -log_z.value,
                    log_z.error
                );
                self.parts[i].log_z = Some(Constants::same(log_z));
            }
        }
        let mut progress = Progress::new((self.plan.len() * RUNS * LEVELS) as u64, "levels");
        let mut estimates = vec![];
        for i in 0..self.plan.len() {
            let log_z = self.anneal(i, particles, &mut progress)?;
            estimates.push((self.plan[i].part.to_string(), log_z.least_noisy()));
            self.plan[i].log_z = log_z;
        }
        progress.done();
        for (part, LogZ { value, error, runs, .. }) in &estimates {
            crate::note!(
                "log-ratio of `{part}`: {:.4} +- {error:.4} at the least noise, by {runs} runs of {particles} \
                     particles",
                -value
            );
        }
        if estimates.iter().any(|(_, log_z)| log_z.error > LARGE) {
            crate::note!("that is not well known; more particles know it better: --estimate-ratios={}", 4 * particles);
        }
        let (d, r) = (self.shape(1)?.iter().product::<usize>(), self.with(1, |composed| Ok(composed.unevenness()))?);
        if 0.5 * d as f64 * (r - 1. - r.ln()) > FEW_NATS {
            crate::note!(
                "warning: the parts differ {r:.2} times in their precision where samples begin, as wide as the \
                 widest: in {d} dimensions they do not find the others, and there is too little of these"
            );
        }
        Ok(())
    }

    /// log Z of the model of part `i`, which is the same at every t.
    fn constant(&self, i: usize) -> Result<LogZ> {
        let (part, shape) = (&self.parts[i], self.shape(DRAWS)?);
        let (model, mut noise) = (&part.opened.model, Noise::of_step(0, i as u64, DRAWS));
        let denoiser = part.denoiser(DRAWS)?;
        let c = Normaliser::of(energy(&denoiser)?, &shape, model.dtype(), model.device(), &mut noise)?;
        Ok(LogZ { value: -c.value, error: c.error, spread: c.spread, runs: c.draws })
    }

    /// log Z of the `i`th of the plan, at all noise levels.
    fn anneal(&self, i: usize, particles: usize, progress: &mut Progress) -> Result<Constants> {
        let (shape, model) = (self.shape(particles)?, &self.first()?.opened.model);
        let first = (self.parts.len() + i * RUNS) as u64;
        self.models(particles, &self.plan[..i], |models| {
            let own = composed(&self.plan[i].part, models, 1.)?;
            let noises = (0..RUNS as u64).map(|run| Noise::of_step(0, first + run, particles));
            let annealing = Annealing { levels: LEVELS, ..Annealing::default() };
            let watch = &mut || {
                progress.step();
                Ok(())
            };
            let to = (shape.as_slice(), model.dtype(), model.device());
            Ok(Constants::estimate(energy(&own)?, &annealing, to, noises, watch)?)
        })
    }
}

fn energy(m: &dyn Denoiser) -> Result<&dyn NoisyEnergy> {
    m.noisy_energy().map_or_else(|| bail!("compose: a part of the mixture has no energy"), Ok)
}
