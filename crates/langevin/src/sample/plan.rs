//! The way from noise to data: the steps of a run's sampler, or those of a scheduler of diffusers.

use crate::config::{Changes, Drawing, NoiseSource, Sampler};
use crate::error::usage;
use crate::open::Opened;
use anyhow::Result;
use langevin_dynamics::sampler::{AnySampler, Norms};
use langevin_dynamics::wrap::Clip;
use langevin_models::Model;
use langevin_models::diffusers::Scheduler;

/// A sampler with its steps.
pub struct SamplingPlan {
    /// What makes the steps.
    pub sampler: AnySampler,
    /// Each from t to s.
    pub steps: Vec<(f64, f64)>,
    /// Times, each with what the network is told there, where that is not the parametrisation's c_noise.
    pub timesteps: Vec<(f64, f64)>,
    /// Standard deviation of the noise at the start.
    pub start: f64,
    /// How the estimate of the clean data is clipped.
    pub clip: Option<Clip>,
    /// Whose steps they are, if not those of a sampler that a configuration names.
    pub whose: Option<String>,
}

impl SamplingPlan {
    /// How samples of a model are drawn with `changes`: by the scheduler that it came with, or that was `chosen` for it; by a
    /// sampler of ours where it came with none, or where `changes` name one.
    pub fn of(opened: &Opened, chosen: Option<&str>, changes: &[String]) -> Result<(Drawing, Self)> {
        let changes = Changes::typed(changes)?;
        if let Some(scheduler) = &opened.scheduler {
            match (changes.find("sampler.name"), chosen) {
                (Some(change), Some(chosen)) => {
                    return usage(format!(
                        "--scheduler {chosen} and `{change}`: both say how samples are drawn; leave one out"
                    ));
                }
                (None, _) => return Self::of_scheduler(scheduler, chosen, &changes),
                (Some(_), None) => {}
            }
        }
        let drawing = Drawing::of(opened.run.as_ref()).changed(&changes)?;
        let way = Self::of_sampler(&opened.model, &drawing.sampler)?;
        Ok((drawing, way))
    }

    /// The steps of a sampler on its grid.
    pub fn of_sampler(model: &Model, sampler: &Sampler) -> Result<Self> {
        sampler.suits(&model.spec.predict)?;
        let process = model.spec.process.get();
        let times = sampler.grid.get().times(process, sampler.steps)?;
        Ok(Self {
            sampler: sampler.sampler.clone(),
            steps: times.windows(2).map(|pair| (pair[0], pair[1])).collect(),
            timesteps: vec![],
            start: process.marginal(times[0]).sigma,
            clip: sampler.clip.then(Clip::default),
            whose: None,
        })
    }

    /// The steps of diffusers' scheduler, whose number, clipping and options `changes` may change. Where a scheduler has one
    /// step size for the whole batch, each sample has its own, but with noise = "torch".
    fn of_scheduler(scheduler: &Scheduler, chosen: Option<&str>, changes: &Changes) -> Result<(Drawing, Self)> {
        let class = scheduler.class;
        if let Some(change) = changes.find("sampler.grid") {
            let instead = if chosen.is_some() { ", in place of --scheduler" } else { "" };
            return usage(format!(
                "`{change}`: {class} of diffusers has noise levels of its own; name a sampler, too, such as \
                 sampler.name=heun{instead}"
            ));
        }
        let own = Sampler {
            sampler: scheduler.sampler.clone(),
            steps: scheduler.steps,
            clip: scheduler.clip.is_some(),
            ..Sampler::default()
        };
        let mut drawing = Drawing { sampler: own, ..Drawing::default() };
        if changes.first(|_| true).is_some() {
            drawing = drawing.changed(changes)?;
        }
        let plan = match scheduler.plan(drawing.sampler.steps) {
            Ok(plan) => plan,
            Err(e) => return usage(e.to_string()),
        };
        if let (AnySampler::Pc(pc), NoiseSource::Counter) = (&mut drawing.sampler.sampler, drawing.noise)
            && pc.norms == Norms::Batch
            && changes.find("sampler.norms").is_none()
        {
            pc.norms = Norms::Sample; // so that a sample depends on its seed alone
        }
        let also: Vec<_> = changes.texts(|key| key.starts_with("sampler.") && key != "sampler.steps").collect();
        let also = if also.is_empty() { String::new() } else { format!(", {}", also.join(" ")) };
        let way = Self {
            sampler: drawing.sampler.sampler.clone(),
            steps: plan.steps,
            timesteps: plan.timesteps,
            start: plan.start,
            clip: drawing.sampler.clip.then(|| scheduler.clip.clone().unwrap_or_default()),
            whose: Some(format!("{class} of diffusers, {} steps{also}", drawing.sampler.steps)),
        };
        Ok((drawing, way))
    }

    /// Where the steps begin, and where the last ends.
    pub fn times(&self) -> Vec<f64> {
        self.steps.iter().map(|step| step.0).chain(self.steps.last().map(|step| step.1)).collect()
    }
}
