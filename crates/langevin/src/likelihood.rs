//! log p of samples under a model: along the probability-flow ODE, or by its energy and the constant that this lacks.

use crate::error::usage;
use crate::open::Opened;
use crate::sample::{cond, told};
use crate::watch::{Progress, go_on};
use anyhow::{Result, bail};
use candle_core::Tensor;
use langevin_dynamics::likelihood::{
    Annealing, Divergence, FEW, Flow, FlowLikelihood, LogZ, Normaliser, Probe, RungReport,
};
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::{Cond, Denoiser, NoisyEnergy};
use langevin_models::Model;
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use serde::Serialize;
use std::collections::BTreeMap;

/// Draws of the prior that fix the constant of a normalised energy.
pub const DRAWS: usize = 256;
/// Samples at a time, where nothing else is asked.
const BATCH: usize = 64;
/// Probes of the divergence.
const PROBES: usize = 4;

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
    /// How many there are.
    pub fn len(&self) -> usize {
        self.x.dims()[0]
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
    pub t: f64,
    /// What became of them there.
    #[serde(flatten)]
    pub particles: RungReport,
}

/// How log Z is estimated.
pub struct Populations {
    /// How a population goes down the noise levels.
    pub annealing: Annealing,
    /// Particles of a population.
    pub particles: usize,
    /// Independent populations.
    pub runs: usize,
    /// Of all that is random in them.
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

/// log p_t of each point: by the energy where it is normalised, else along the probability-flow ODE. How it was done, and how well
/// it is known, is noted.
///
/// Errors if the model has no likelihood.
pub fn log_p(model: &Model, points: &Points) -> Result<Vec<f64>> {
    refuse(model)?;
    let (n, d) = (points.len(), points.x.elem_count() / points.len().max(1));
    if needs_energy(model, true).is_ok() {
        let classes = points.classes();
        let found = normalisers(model, &classes, DRAWS, 0)?;
        let error = found.iter().map(|c| c.error).fold(0., f64::max);
        crate::note!("logp: by the energy, its constant known to {error:.4} nats from {DRAWS} draws of the prior");
        let constants = classes.into_iter().zip(found).map(|(class, c)| (class, (c.value, c.error))).collect();
        return Ok(points.log_p(&minus_energy(model, points, BATCH)?, &constants));
    }
    let exact = d <= FEW;
    let probes = Divergence::Hutchinson { probes: PROBES, probe: Probe::Rademacher };
    let ode = Flow { divergence: if exact { Divergence::Exact } else { probes }, ..Flow::default() };
    let found = flow(model, &ode, points, &(0..n as u64).collect::<Vec<_>>(), BATCH)?;
    let divergence = match &found.error {
        Some(error) => {
            let worst = error.iter().copied().fold(0., f64::max);
            format!("{PROBES} random probes of the divergence, standard error at most {worst:.3} nats")
        }
        None => "exact divergence".into(),
    };
    crate::note!("logp: along the probability-flow ODE, {divergence}, rtol {:e}, atol {:e}", ode.rtol, ode.atol);
    Ok(found.log_p)
}

/// The density of a model at clean data, in its range: images in [-1, 1], or [0, 1] with `from_zero`, rows of a table as
/// [`Opened::columns`] scale them.
impl Opened {
    /// log p of each of `x` `[N, ...]`, of the least noisy time of the process. `class` is that of all, for a model that is told one.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// let model = langevin::open("exact:gaussian-2d")?;
    /// let mean = langevin::Tensor::new(&[[0.7f32, 0.]], &langevin::Device::Cpu)?;
    /// let exact = -(std::f64::consts::TAU * 0.5).ln(); // of variance 0.5 in the plane
    /// assert!((model.log_p(&mean, None)?[0] - exact).abs() < 1e-3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn log_p(&self, x: &Tensor, class: Option<&str>) -> Result<Vec<f64>> {
        let t = vec![self.model.spec.process.get().span().0];
        let labels = self.labels(x, class)?;
        log_p(&self.model, &Points { x: x.clone(), labels, t })
    }

    /// The score grad log p_t of noisy `x` `[N, ...]` at the time `t` of all, or those of each.
    pub fn score(&self, x: &Tensor, t: &[f64], class: Option<&str>) -> Result<Tensor> {
        Ok(self.model.denoiser(self.cond(x, class)?)?.score(x, t)?)
    }

    /// The energy E(x, t) of each of noisy `x` `[N, ...]`, up to a constant of t. Errors if the model has a score alone.
    pub fn energy(&self, x: &Tensor, t: &[f64], class: Option<&str>) -> Result<Tensor> {
        Ok(self.model.energy(x, t, &self.cond(x, class)?)?)
    }

    fn labels(&self, x: &Tensor, class: Option<&str>) -> Result<Option<Vec<u32>>> {
        let label = told(self, class)?;
        Ok(label.map(|label| vec![label; x.dims()[0]]))
    }

    fn cond(&self, x: &Tensor, class: Option<&str>) -> Result<Cond> {
        cond(&self.model, &self.labels(x, class)?.unwrap_or_default())
    }
}
