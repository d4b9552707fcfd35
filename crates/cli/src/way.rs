//! The way from noise to data: the steps of a run's sampler, or those of a scheduler of diffusers.

use crate::run::{Drawing, NoiseSource, Sampler, usage};
use anyhow::Result;
use langevin_dynamics::diffusers::Scheduler;
use langevin_dynamics::sampler::{AnySampler, Norms};
use langevin_dynamics::wrap::Clip;
use langevin_models::Model;

/// A sampler with its steps.
pub struct Way {
    pub sampler: AnySampler,
    /// Each from t to s.
    pub steps: Vec<(f64, f64)>,
    /// What the network is told at a time, where that is not the parametrisation's c_noise.
    pub told: Vec<(f64, f64)>,
    /// Standard deviation of the noise at the start.
    pub start: f64,
    pub clip: Option<Clip>,
    /// Whose steps they are, if not those of a sampler that a configuration names.
    pub whose: Option<String>,
}

impl Way {
    /// The steps of a sampler on its grid.
    pub fn of_sampler(model: &Model, sampler: &Sampler) -> Result<Self> {
        sampler.suits(&model.spec.predict)?;
        let process = model.spec.process.get();
        let times = sampler.grid.get().times(process, sampler.steps)?;
        Ok(Self {
            sampler: sampler.sampler.clone(),
            steps: times.windows(2).map(|pair| (pair[0], pair[1])).collect(),
            told: vec![],
            start: process.marginal(times[0]).sigma,
            clip: sampler.clip.then(Clip::default),
            whose: None,
        })
    }

    /// The steps of diffusers' scheduler, of which `changes` may choose the number; those of a sampler of ours if `changes`
    /// name anything else of it. Where a scheduler has one step size for the whole batch, each sample has its own, but with
    /// noise = "torch".
    pub fn of_scheduler(scheduler: &Scheduler, model: &Model, drawing: &Drawing, changes: &[String]) -> Result<Self> {
        let key = |change: &String| change.split('=').next().unwrap_or_default().trim().to_string();
        let keys: Vec<String> = changes.iter().map(key).filter(|key| key.starts_with("sampler")).collect();
        if keys.iter().any(|key| key != "sampler.steps") {
            return Self::of_sampler(model, &drawing.sampler);
        }
        let count = if keys.is_empty() { scheduler.steps } else { drawing.sampler.steps };
        let plan = match scheduler.plan(count) {
            Ok(plan) => plan,
            Err(e) => return usage(e.to_string()),
        };
        let mut sampler = scheduler.sampler.clone();
        if let (AnySampler::Pc(pc), NoiseSource::Counter) = (&mut sampler, drawing.noise)
            && pc.norms == Norms::Batch
        {
            pc.norms = Norms::Sample; // so that a sample depends on its seed alone
        }
        Ok(Self {
            sampler,
            steps: plan.steps,
            told: plan.told,
            start: plan.start,
            clip: scheduler.clip.clone(),
            whose: Some(format!("{} of diffusers, {count} steps", scheduler.class)),
        })
    }

    /// Where the steps begin, and where the last ends.
    pub fn times(&self) -> Vec<f64> {
        self.steps.iter().map(|step| step.0).chain(self.steps.last().map(|step| step.1)).collect()
    }
}
