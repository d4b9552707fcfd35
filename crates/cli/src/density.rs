//! log p of samples under a model: along the probability-flow ODE, or by its energy and the constant that this lacks.

use crate::progress::Progress;
use crate::run::usage;
use crate::stop;
use anyhow::{Result, bail};
use candle_core::Tensor;
use langevin_dynamics::likelihood::{Annealing, Flow, FlowLikelihood, LogZ, Normaliser, RungReport};
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::{Cond, Denoiser, NoisyEnergy};
use langevin_models::Model;
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use serde::Serialize;
use std::collections::BTreeMap;

/// Draws of the prior that fix the constant of a normalised energy.
pub const DRAWS: usize = 256;

/// Samples whose log p is asked for.
pub struct Points {
    /// `[N, ...]`, of the type and on the device of the model, in its range.
    pub x: Tensor,
    /// The class of each, for a model that is told it.
    pub labels: Option<Vec<u32>>,
    /// The time of all, or of each.
    pub t: Vec<f64>,
}

/// What must be known of the energy of a class: the constant c in log p = c - E, and its standard error.
pub type Constants = BTreeMap<Option<u32>, (f64, f64)>;

impl Points {
    pub fn len(&self) -> usize {
        self.x.dims()[0]
    }

    /// The classes that there are; `None` alone for a model that is told none.
    pub fn classes(&self) -> Vec<Option<u32>> {
        let Some(labels) = &self.labels else { return vec![None] };
        let mut classes: Vec<_> = labels.iter().copied().map(Some).collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    fn class(&self, i: usize) -> Option<u32> {
        self.labels.as_ref().map(|labels| labels[i])
    }

    /// `f` of the model, x and t of each batch in turn, and of the index of its first sample.
    fn batches(
        &self,
        model: &Model,
        batch: usize,
        mut f: impl FnMut(&dyn Denoiser, &Tensor, &[f64], usize) -> Result<()>,
    ) -> Result<()> {
        for first in (0..self.len()).step_by(batch.max(1)) {
            let n = batch.min(self.len() - first);
            let labels = self.labels.as_ref().map(|labels| Tensor::new(&labels[first..first + n], model.device()));
            let denoiser = model.denoiser(Cond::class(labels.transpose()?))?;
            let t = if self.t.len() == 1 { &self.t } else { &self.t[first..first + n] };
            f(&denoiser, &self.x.narrow(0, first, n)?, t, first)?;
        }
        Ok(())
    }

    /// log p = c - E of each.
    pub fn log_p(&self, minus_energy: &[f64], constants: &Constants) -> Vec<f64> {
        let c = |i| constants.get(&self.class(i)).map_or(f64::NAN, |c| c.0);
        minus_energy.iter().enumerate().map(|(i, e)| c(i) + e).collect()
    }

    /// The standard error that the constants give the mean of log p.
    pub fn shared(&self, constants: &Constants) -> f64 {
        let n = |class: &Option<u32>| (0..self.len()).filter(|&i| self.class(i) == *class).count() as f64;
        constants.iter().map(|(class, (_, error))| (n(class) / self.len() as f64 * error).powi(2)).sum::<f64>().sqrt()
    }
}

/// Why a model has no likelihood at all, if so.
pub fn refuse(model: &Model) -> Result<()> {
    if let AnyParametrisation::Consistency(_) = model.spec.predict {
        return usage("a consistency model gives ends of paths and no score, so that it has no likelihood");
    }
    Ok(())
}

/// Errors, saying why, unless the model has an energy; with `normalised`, one whose constant is the same at every t.
pub fn needs_energy(model: &Model, normalised: bool) -> std::result::Result<(), &'static str> {
    match model.net().potential() {
        None => {
            Err("a plain denoiser has a score alone, which is the gradient of no energy; train with model.head=energy")
        }
        Some(potential) if normalised && !potential.normalised() => {
            Err("the constant of this energy is free at each t, so that -E is no log-density; train with \
             model.normalised=true loss.time=0.001, or use --method ais")
        }
        Some(_) => Ok(()),
    }
}

/// An error if the user wants the program to stop, where something holds the signal off.
fn go_on() -> candle_core::Result<()> {
    match stop::asked() {
        Some(_) => candle_core::bail!("stopped"),
        None => Ok(()),
    }
}

/// `f` of the energy for `n` samples of `class`.
fn energy_of<R>(
    model: &Model,
    class: Option<u32>,
    n: usize,
    f: impl FnOnce(&dyn NoisyEnergy) -> candle_core::Result<R>,
) -> Result<R> {
    let labels = class.map(|class| Tensor::full(class, n, model.device())).transpose()?;
    let denoiser = model.denoiser(Cond::class(labels))?;
    match denoiser.noisy_energy() {
        Some(energy) => Ok(f(energy)?),
        None => bail!("the model has no energy"),
    }
}

/// Samples of this model, `[n, ...]`.
fn shape(model: &Model, n: usize) -> Vec<usize> {
    std::iter::once(n).chain(model.spec.shape.iter().copied()).collect()
}

/// -E(x, t) of each point, on the host.
pub fn minus_energy(model: &Model, points: &Points, batch: usize) -> Result<Vec<f64>> {
    let mut all = vec![];
    let mut progress = Progress::new(points.len().div_ceil(batch.max(1)) as u64, "batches");
    points.batches(model, batch, |m, x, t, _| {
        match m.noisy_energy() {
            Some(energy) => all.extend(to_host(&energy.energy_at(x, t)?.detach().neg()?)?),
            None => bail!("the model has no energy"),
        }
        progress.step();
        Ok(go_on()?)
    })?;
    progress.done();
    Ok(all)
}

/// Streams of noise of one seed that no other use of it has.
const ANNEALING: u64 = 1 << 32;

/// The normaliser of each class, from `draws` of the prior.
pub fn normalisers(model: &Model, classes: &[Option<u32>], draws: usize, seed: u64) -> Result<Vec<Normaliser>> {
    let of = |class: &Option<u32>| {
        let mut z = Noise::of_step(seed, class.map_or(0, u64::from), draws);
        energy_of(model, *class, draws, |m| {
            Normaliser::of(m, &shape(model, draws), model.dtype(), model.device(), &mut z)
        })
    };
    classes.iter().map(of).collect()
}

/// The particles of a population at one noise level.
#[derive(Serialize)]
pub struct AtLevel {
    /// The time.
    t: f64,
    #[serde(flatten)]
    pub particles: RungReport,
}

/// How log Z is estimated.
pub struct Populations {
    pub annealing: Annealing,
    pub particles: usize,
    pub runs: usize,
    pub seed: u64,
}

impl Populations {
    /// log Z(t) of each class, and the levels of all its populations.
    pub fn log_z(&self, model: &Model, classes: &[Option<u32>], t: f64) -> Result<Vec<(LogZ, Vec<AtLevel>)>> {
        let mut progress = Progress::new((classes.len() * self.runs * self.annealing.levels) as u64, "levels");
        let mut all = vec![];
        for &class in classes {
            let (mut log_z, mut levels) = (vec![], vec![]);
            for run in 0..self.runs {
                let number = ANNEALING + u64::from(class.unwrap_or(0)) * self.runs as u64 + run as u64;
                let mut z = Noise::of_step(self.seed, number, self.particles);
                let shape = shape(model, self.particles);
                let (population, times) = energy_of(model, class, self.particles, |m| {
                    let to = (shape.as_slice(), model.dtype(), model.device());
                    let population = self.annealing.run(m, t, to, &mut z, &mut || {
                        progress.step();
                        go_on()
                    });
                    Ok((population?, self.annealing.times(m, t)?))
                })?;
                log_z.push(population.log_z);
                levels.extend(times.into_iter().zip(population.rungs).map(|(t, particles)| AtLevel { t, particles }));
            }
            all.push((LogZ::of(&log_z), levels));
        }
        progress.done();
        Ok(all)
    }
}

/// log p along the ODE, its probes drawn with the streams of `seeds`, one a sample.
pub fn flow(model: &Model, flow: &Flow, points: &Points, seeds: &[u64], batch: usize) -> Result<FlowLikelihood> {
    let mut progress = Progress::new(points.len() as u64, "samples");
    let (mut told, mut parts) = (0, vec![]);
    points.batches(model, batch, |m, x, t, first| {
        let n = x.dim(0)?;
        let mut z = Noise::seeds(&seeds[first..first + n]);
        let found = flow.log_p(m, x, t, &mut z, &mut |part| {
            let now = first + (part * n as f64) as usize;
            (told..now).for_each(|_| progress.step());
            told = now.max(told);
            go_on()
        })?;
        parts.push(found);
        Ok(())
    })?;
    progress.done();
    let latent = Tensor::cat(&parts.iter().map(|part| &part.latent).collect::<Vec<_>>(), 0)?;
    let mut all = FlowLikelihood { log_p: vec![], error: Some(vec![]), latent, volume: vec![], evaluations: vec![] };
    for part in parts {
        all.log_p.extend(part.log_p);
        all.volume.extend(part.volume);
        all.evaluations.extend(part.evaluations);
        all.error = all.error.zip(part.error).map(|(mut all, part)| {
            all.extend(part);
            all
        });
    }
    Ok(all)
}

/// `log_p` `[N]` in the type and on the device of `x`.
pub fn column(log_p: Vec<f64>, x: &Tensor) -> Result<Tensor> {
    Ok(Tensor::new(log_p, x.device())?.to_dtype(x.dtype())?)
}
