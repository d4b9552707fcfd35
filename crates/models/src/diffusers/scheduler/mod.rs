//! What a `scheduler_config.json` of diffusers means here: process, parametrisation, sampler, and the very steps.
//!
//! One function a class, in `classes.rs`; the defaults are those of the class's signature, for keys that old files lack.
//! The steps, their rounding and what the network is told are diffusers', flaws and all; with the process and the
//! parametrisation alone any other sampler and grid works too.

mod classes;
mod euler;
mod keys;
mod levels;
mod solvers;
mod spacing;

use candle_core::{Result, bail};
use keys::Keys;
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::process::AnyProcess;
use langevin_dynamics::sampler::AnySampler;
use langevin_dynamics::wrap::Clip;
use levels::Levels;
use spacing::Spacing;

/// A scheduler of diffusers.
#[derive(Clone, Debug)]
pub struct Scheduler {
    /// Its class, such as `DDIMScheduler`.
    pub class: &'static str,
    /// What its noise levels are levels of.
    pub process: AnyProcess,
    /// What its network predicts.
    pub predict: AnyParametrisation,
    /// The standard deviation of the data that the network's input is scaled for: 1 where it is not scaled.
    pub sigma_data: f64,
    /// How x0 is kept in range.
    pub clip: Option<Clip>,
    /// Its steps' rule.
    pub sampler: AnySampler,
    /// The number of steps that its pipeline takes unless told otherwise.
    pub steps: usize,
    rule: Rule,
}

/// The steps of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// From t to s, for [`langevin_dynamics::sampler::follow`].
    pub steps: Vec<(f64, f64)>,
    /// Times, each with the timestep that the network is told there, for [`langevin_dynamics::Preconditioned::with_timesteps`].
    pub timesteps: Vec<(f64, f64)>,
    /// The standard deviation of the noise that the run starts from.
    pub start: f64,
}

impl Plan {
    /// The times at which steps begin and clean data, as a grid for other samplers.
    pub fn times(&self) -> Vec<f64> {
        self.steps.iter().map(|step| step.0).chain([0.]).collect()
    }
}

#[derive(Clone, Debug)]
enum Rule {
    /// Whole entries of a table, to `end`, 0 for clean data and 1 for the first entry.
    Entries { spacing: Spacing, to: To, end: f64 },
    /// Noise levels of a table or a flow.
    Levels(Levels),
    /// Geometric levels.
    Ve { sigma_min: f64, sigma_max: f64, sampling_eps: f64 },
    /// Entries of a Karras grid of `total` levels.
    Consistency { sigma_min: f64, sigma_max: f64, rho: f64, total: usize },
}

/// Where a step between entries leads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum To {
    /// To the next timestep.
    Next,
    /// T/n entries on (rounded down), wherever the next step begins.
    Stride,
    /// The same, where the first steps, so many, must lead to the next timestep.
    StrideFrom(usize),
}

impl Scheduler {
    /// The scheduler of the text of a `scheduler_config.json`.
    ///
    /// Errors, naming the key, if a value or the class is not supported.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::of(Keys::parse(text)?)
    }

    /// The scheduler of another class with the keys of that text, as `CLASS.from_config(scheduler.config)` has it.
    pub fn from_json_as(text: &str, class: &str) -> Result<Self> {
        Self::of(Keys::parse(text)?.renamed(class))
    }

    fn of(config: Keys) -> Result<Self> {
        let names: Vec<_> = classes::ALL.iter().map(|(name, _)| *name).collect();
        let class = config.word("_class_name", "")?;
        match classes::ALL.iter().find(|(name, _)| *name == class) {
            Some((_, read)) => read(&config),
            None => Err(config.wrong("_class_name", &format!("one of {}", names.join(", ")))),
        }
    }

    /// Whether its pipeline takes the data to lie in [0, 1] instead of [-1, 1].
    pub fn from_zero(&self) -> bool {
        self.class == "ScoreSdeVeScheduler"
    }

    /// The steps that diffusers takes when asked for `steps`.
    pub fn plan(&self, steps: usize) -> Result<Plan> {
        let (least, most) = match &self.rule {
            Rule::Entries { spacing, to: To::StrideFrom(first), .. } => (first + 1, spacing.total),
            Rule::Entries { spacing, .. } => (1, spacing.total),
            Rule::Levels(levels) => (1, levels.spacing.total),
            Rule::Ve { .. } => (2, 1_000_000),
            Rule::Consistency { total, .. } => (1, *total),
        };
        if !(least..=most).contains(&steps) {
            bail!("{} takes from {least} to {most} steps, not {steps}", self.class);
        }
        let plan = match &self.rule {
            Rule::Entries { spacing, to, end } => entries(spacing, *to, *end, steps)?,
            Rule::Levels(levels) => self.levels(levels, steps)?,
            Rule::Ve { sigma_min, sigma_max, sampling_eps } => ve(*sigma_min, *sigma_max, *sampling_eps, steps),
            Rule::Consistency { sigma_min, sigma_max, rho, total } => {
                let root = |sigma: f64| sigma.powf(1. / rho);
                let part = |i: usize| (i * (total / steps)) as f64 / (total.max(&2) - 1) as f64;
                let level = |i: usize| (root(*sigma_max) + part(i) * (root(*sigma_min) - root(*sigma_max))).powf(*rho);
                let times: Vec<f64> = (0..steps).map(level).chain([0.]).collect();
                Plan { steps: pairs(&times), timesteps: vec![], start: *sigma_max }
            }
        };
        let bad = |(t, s): &&(f64, f64)| !(t.is_finite() && s.is_finite() && *t > 0.);
        if let Some((t, s)) = plan.steps.iter().find(bad) {
            bail!("{}: its noise levels lead from time {t} to {s}, which are none; look at its sigmas", self.class);
        }
        Ok(plan)
    }

    fn levels(&self, levels: &Levels, steps: usize) -> Result<Plan> {
        let visit = levels.visit(steps)?;
        let process = self.process.get();
        let time = |level: f64| match level {
            0. => 0.,
            _ if levels.flow.is_some() => level,
            _ => process.t_at(-2. * level.ln()),
        };
        let times: Vec<f64> = visit.levels.iter().chain([&visit.end]).map(|&level| time(level)).collect();
        let begins = &times[..times.len() - 1];
        if let Some(t) = begins.windows(2).find(|pair| pair[0] <= pair[1]) {
            bail!(
                "{}: {steps} steps are too many: the noise levels at t = {} and {} do not fall",
                self.class,
                t[0],
                t[1]
            );
        }
        let top = visit.levels.iter().fold(0f64, |top, level| top.max(*level));
        let start = match levels.solver {
            Some(_) => 1.,
            None => process.marginal(times[0]).alpha * if levels.with_data { top.hypot(1.) } else { top },
        };
        Ok(Plan { timesteps: times.iter().copied().zip(visit.timesteps).collect(), steps: pairs(&times), start })
    }
}

/// (t, s) of neighbours.
fn pairs(times: &[f64]) -> Vec<(f64, f64)> {
    times.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

fn entries(spacing: &Spacing, to: To, end: f64, steps: usize) -> Result<Plan> {
    let timesteps: Vec<f64> = spacing.ancestral(steps).into_iter().map(f64::round_ties_even).collect();
    spacing.check(&timesteps)?;
    let stride = (spacing.total / steps) as f64;
    if let To::StrideFrom(first) = to {
        let uneven = |pair: &[f64]| pair[0] - pair[1] != stride;
        if timesteps.windows(2).take(first).any(uneven) {
            bail!(
                "PNDMScheduler: timestep_spacing {:?} in {steps} steps does not go {stride} entries at a time, which its \
                 first steps need; take leading, or trailing with a number of steps that divides {}",
                spacing.kind,
                spacing.total
            );
        }
    }
    let times: Vec<f64> = timesteps.iter().map(|k| k + 1.).chain([end]).collect();
    let steps = match to {
        To::Next => pairs(&times),
        To::Stride | To::StrideFrom(_) => {
            let beyond = |t: f64| if t - stride < 1. { end } else { t - stride };
            times[..times.len() - 1].iter().map(|&t| (t, beyond(t))).collect()
        }
    };
    Ok(Plan { steps, timesteps: vec![], start: 1. })
}

/// Levels of the variance exploding scheduler: it steps between rounded ones and tells those of its timesteps, with the
/// rounding of single precision.
fn ve(sigma_min: f64, sigma_max: f64, sampling_eps: f64, steps: usize) -> Plan {
    let growth = (sigma_max / sigma_min).ln();
    let last = steps - 1;
    let stride = (sampling_eps as f32 - 1.) / last as f32;
    let time = |i: usize| match i < steps.div_ceil(2) {
        true => 1. + stride * i as f32,
        false => sampling_eps as f32 - stride * (last - i) as f32,
    };
    let level = |k: usize| sigma_min * (growth * k as f64 / last as f64).exp();
    let (mut pairs, mut timesteps) = (vec![], vec![]);
    for i in 0..steps {
        let k = ((time(i) * last as f32) as usize).min(last);
        pairs.push((level(k), if k == 0 { 0. } else { level(k - 1) }));
        timesteps.push((level(k), sigma_min * (growth * f64::from(time(i))).exp()));
    }
    Plan { steps: pairs, timesteps, start: sigma_max }
}
