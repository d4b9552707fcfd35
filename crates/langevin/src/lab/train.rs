//! A method of the lab trained with what it may use.

use super::Budget;
use super::counted::Counted;
use super::methods::{self, Learns, Method};
use crate::likelihood;
use crate::watch::{Progress, go_on};
use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};
use langevin_data::Loader;
use langevin_dynamics::{Cond, Density};
use langevin_models::params::Params;
use langevin_models::{DensityModel, Model};
use langevin_train::ema::Constant;
use langevin_train::optim::Adam;
use langevin_train::schedule::Decay;
use langevin_train::{Objective, TrainOptions, Trainable, Trainer, Values};
use std::time::{Duration, Instant};

/// Samples of the data in a step.
pub const BATCH: usize = 128;
/// Steps and time in which it is found out how long a step takes.
const PROBE: u64 = 100;
const PROBED: Duration = Duration::from_secs(1);
/// A run that uses less than this part of its time is made again with more steps, so many times in all.
const FULL: f64 = 0.8;
const TRIES: usize = 3;
/// Steps of any run, at most.
const MOST: u64 = u32::MAX as u64;

/// An energy `[N]` of points `[N, 2]` in f64.
type EnergyOf = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

/// What was learnt.
pub struct Trained {
    pub energy: EnergyOf,
    pub claimed_log_z: Option<f64>,
    pub steps: u64,
    pub evaluations: u64,
    pub seconds: f64,
}

/// A run of a method that is over.
struct Over<M: Trainable> {
    trainer: Trainer<M>,
    log_z: Option<f64>,
    evaluations: u64,
    seconds: f64,
}

/// Trains `method` on batches of `loader`.
pub fn trained(method: &Method, (budget, seed): (Budget, u64), loader: &Loader, device: &Device) -> Result<Trained> {
    match method.learns {
        Learns::Energy(loss) => {
            let begin = |steps: u64| {
                let model = DensityModel::new(methods::energy(), seed, DType::F32, device)?;
                Ok(trainer(Counted::new(model), loss(), options(steps, method.rate, seed))?)
            };
            let over = run(begin, |counted, _| counted.asked(), budget, loader)?;
            let model = &over.trainer.model().model;
            let wide = DensityModel::of(model.spec.clone(), model.weights(), DType::F64, device)?;
            let energy = move |x: &Tensor| match wide.as_energy() {
                Some(energy) => Ok(energy.energy(x)?.detach()),
                None => bail!("it has no energy"),
            };
            Ok(over.told(Box::new(energy), |log_z| log_z))
        }
        Learns::Noisy(of) => {
            let begin = |steps: u64| {
                let (spec, loss) = of();
                Ok(trainer(
                    Model::new(spec, seed, DType::F32, device)?,
                    Box::new(loss),
                    options(steps, method.rate, seed),
                )?)
            };
            // a pass of the network, with all its derivatives, for each sample
            let over = run(begin, |_, samples| samples, budget, loader)?;
            let model = over.trainer.model();
            let params = Params::loaded(over.trainer.model().weights().into_iter().collect());
            let wide = Model::from_params(model.spec.clone(), &params, DType::F64, device)?;
            let claimed = match wide.spec.normalised {
                true => likelihood::normalisers(&wide, &[None], likelihood::DRAWS, seed)?.first().map(|c| -c.value),
                false => None,
            };
            let t = wide.spec.process.get().span().0;
            let energy = move |x: &Tensor| Ok(wide.energy(x, &[t], &Cond::default())?.detach());
            Ok(over.told(Box::new(energy), |_| claimed))
        }
    }
}

impl<M: Trainable> Over<M> {
    fn told(&self, energy: EnergyOf, claimed: impl FnOnce(Option<f64>) -> Option<f64>) -> Trained {
        let (steps, evaluations, seconds) = (self.trainer.step_number(), self.evaluations, self.seconds);
        Trained { energy, claimed_log_z: claimed(self.log_z), steps, evaluations, seconds }
    }
}

fn trainer<M: Trainable + 'static>(
    model: M,
    loss: Box<dyn Objective<M>>,
    options: TrainOptions,
) -> candle_core::Result<Trainer<M>> {
    Trainer::new(model, loss, Adam::default().into(), Constant { decay: 0. }.into(), options)
}

fn options(steps: u64, lr: f64, seed: u64) -> TrainOptions {
    let numbers = TrainOptions { steps, batch: BATCH, lr, warmup: (steps / 10).min(100), ..TrainOptions::default() };
    TrainOptions { decay: Decay::Cosine, clip: 1., seed, ..numbers }
}

/// Makes as many steps as the budget has room for, at whose end the learning rate is 0: a run that is thrown away finds out how many.
/// `asked` says how often the energy of a model was, after so many samples.
fn run<M: Trainable>(
    begin: impl Fn(u64) -> Result<Trainer<M>>,
    asked: impl Fn(&M, u64) -> u64,
    budget: Budget,
    loader: &Loader,
) -> Result<Over<M>> {
    let make = |steps: u64, end: Option<Duration>| -> Result<Over<M>> {
        let (mut trainer, mut log_z) = (begin(steps)?, None);
        let (since, mut progress) = (Instant::now(), Progress::new(steps, "steps"));
        while trainer.step_number() < steps && end.is_none_or(|end| since.elapsed() < end) {
            let report = trainer.step(&[loader.batch(trainer.step_number())?])?;
            let told = report.series.iter().find(|series| series.name == "log_z").map(|series| &series.values);
            if let Some(Values::Mean(value)) = told {
                log_z = Some(*value);
            }
            progress.step();
            go_on()?;
        }
        progress.done();
        let evaluations = asked(trainer.model(), trainer.step_number() * BATCH as u64);
        Ok(Over { trainer, log_z, evaluations, seconds: since.elapsed().as_secs_f64() })
    };
    match budget {
        Budget::Evaluations(n) => {
            let each = make(1, None)?.evaluations.max(1);
            make((n / each).clamp(1, MOST), None)
        }
        Budget::Seconds(seconds) => {
            make(1, None)?; // what is slow once
            let end = Some(Duration::from_secs_f64(seconds));
            let mut over = make(PROBE, Some(PROBED))?;
            for _ in 0..TRIES {
                let pace = over.trainer.step_number() as f64 / over.seconds;
                over = make(((seconds * pace) as u64).clamp(1, MOST), end)?;
                // steps were slower when they were timed than they are: there is room for more
                if over.seconds >= FULL * seconds {
                    break;
                }
            }
            Ok(over)
        }
    }
}
