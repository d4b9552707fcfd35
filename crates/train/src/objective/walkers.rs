//! The model's own samples: a population that goes down its noise levels while it learns, a level a batch, and starts again
//! from pure noise. Walkers are weighed and drawn again, so that they gather where the energy holds mass that its score
//! does not lead to: the places that make its levels disagree.

use crate::level::{Level, LogSnr};
use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_dynamics::Cond;
use langevin_dynamics::ladder::{NoiseLevels, Particles};
use langevin_dynamics::sampler::prior;
use langevin_models::Model;
use langevin_ops::noise::Noise;
use std::collections::BTreeMap;

/// Where they are saved.
const PLACES: &str = "walkers/x";
const NUMBERS: &str = "walkers/numbers";

/// Levels from pure noise to the least, even in log SNR.
const LEVELS: u64 = 96;

/// Walkers are drawn again where their effective number falls below this part of them.
const RESAMPLE: f64 = 0.5;

/// The population.
#[derive(Debug, Default)]
pub(super) struct Walkers {
    now: Option<At>,
    /// Levels that all populations have come to so far.
    gone: u64,
}

/// The population at one level.
#[derive(Clone, Debug)]
pub(super) struct At {
    /// `[W, ...]`.
    pub x: Tensor,
    /// `[W]`.
    log_w: Vec<f64>,
    /// The time of all.
    pub t: f64,
    /// The class of all, for a model that is told it.
    pub labels: Option<Tensor>,
}

impl Walkers {
    /// `number` walkers of samples like `x0`, a level below where they were.
    pub fn advance(&mut self, model: &Model, number: usize, x0: &Tensor, z: &mut Noise) -> Result<At> {
        let process = model.spec.process.get();
        let time = |gone: u64| LogSnr {}.time(process, 1. - (gone % LEVELS) as f64 / (LEVELS - 1) as f64);
        let (t, class) = (time(self.gone), self.gone / LEVELS);
        // a population of each class in turn, the null class among them
        let told = model.spec.classes.map(|n| n as u64 + u64::from(model.spec.null_class));
        let labels = told.map(|n| Tensor::full((class % n) as u32, number, model.device())).transpose()?;
        let denoiser = model.denoiser(Cond::class(labels.clone()))?;
        let next = match self.now.take() {
            Some(now) if !self.gone.is_multiple_of(LEVELS) => {
                let ends = [now.t, t];
                let levels = NoiseLevels::new(&denoiser, ends.chunks(1));
                Particles::weighed(&levels, 0, &now.x, now.log_w)?.step(&levels, 0, z)?
            }
            _ => {
                let mut shape = x0.dims().to_vec();
                shape[0] = number;
                let pure = [t];
                let levels = NoiseLevels::new(&denoiser, pure.chunks(1));
                Particles::start(&levels, &prior(process, t, &shape, x0.dtype(), x0.device(), z)?)?
            }
        };
        // where no energy is finite the loss is not either, and says so
        let next = match next.effective(&format!("t = {t}")) {
            Ok(part) if part < RESAMPLE => next.resampled(z)?,
            _ => next,
        };
        // what is lost weighs next to nothing, in numbers that can be saved
        let log_w = next.log_w.into_iter().map(|w| w.max(-1e6)).collect();
        let at = At { x: next.at.x.detach(), log_w, t, labels };
        self.gone += 1;
        self.now = Some(at.clone());
        Ok(at)
    }

    /// What must be saved: the places, and the levels gone, the time and the weights.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let Some(At { x, log_w, t, .. }) = &self.now else { return Ok(vec![]) };
        let numbers: Vec<f64> = [self.gone as f64, *t].into_iter().chain(log_w.iter().copied()).collect();
        Ok(vec![(PLACES.into(), x.clone()), (NUMBERS.into(), Tensor::new(numbers, &Device::Cpu)?)])
    }

    /// Takes [`Walkers::state`] back.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>, device: &Device) -> Result<()> {
        let (Some(x), Some(numbers)) = (state.get(PLACES), state.get(NUMBERS)) else { return Ok(()) };
        let numbers = numbers.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        match numbers.as_slice() {
            [gone, t, log_w @ ..] if x.dims().first() == Some(&log_w.len()) => {
                self.gone = *gone as u64;
                self.now = Some(At { x: x.to_device(device)?, log_w: log_w.to_vec(), t: *t, labels: None });
                Ok(())
            }
            _ => bail!("{} saved numbers for walkers of shape {:?}", numbers.len(), x.dims()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use langevin_models::ModelSpec;
    use langevin_models::mlp::MlpConfig;
    use langevin_ops::shape::to_host;

    /// With a model that does not change they are one population that goes down all levels at once, and then begins again.
    #[test]
    fn they_are_one_population_from_batch_to_batch() -> Result<()> {
        // a network whose levels disagree, so that walkers are drawn again
        let spec =
            ModelSpec::energy([2]).net(MlpConfig { width: 16, layers: 1, dropout: 0. }).sigma_data(1.).normalised();
        let model = Model::new(spec, 0, DType::F64, &Device::Cpu)?;
        for (i, (_, var)) in model.vars().iter().enumerate() {
            let noise = Noise::seeds(&[i as u64]).normal((1, var.elem_count()), DType::F64, &Device::Cpu)?;
            var.set(&(var.as_tensor() + (noise * 0.3)?.reshape(var.shape())?)?)?;
        }
        let denoiser = model.denoiser(Cond::default())?;
        let (mut walkers, n) = (Walkers::default(), 16);
        let noise = |k: u64| Noise::of_step(3, k, n);
        let x0 = Tensor::zeros((1, 2), DType::F64, &Device::Cpu)?;
        let mut at = |k: u64| walkers.advance(&model, n, &x0, &mut noise(k));
        let (mut whole, mut before, mut drawn): (Option<Particles>, f64, usize) = (None, 80., 0);
        for k in 0..LEVELS {
            let (now, mut z) = (at(k)?, noise(k));
            let next = match whole {
                None => {
                    let pure = prior(model.spec.process.get(), now.t, &[n, 2], DType::F64, &Device::Cpu, &mut z)?;
                    Particles::start(&NoiseLevels::new(&denoiser, [now.t].chunks(1)), &pure)?
                }
                Some(whole) => whole.step(&NoiseLevels::new(&denoiser, [before, now.t].chunks(1)), 0, &mut z)?,
            };
            let again = next.effective("")? < RESAMPLE;
            drawn += usize::from(again);
            let next = if again { next.resampled(&mut z)? } else { next };
            let off = to_host(&(&next.at.x - &now.x)?)?;
            let weights: Vec<f64> = next.log_w.iter().zip(&now.log_w).map(|(a, b)| a - b).collect();
            let near = |v: &f64| v.abs() < 1e-9; // which a NaN is not
            assert!(off.iter().all(near) && weights.iter().all(near), "level {k}: {off:?} {weights:?}");
            assert!(k == 0 || now.t < before);
            (whole, before) = (Some(next), now.t);
        }
        assert!(drawn > 0 && (before - 0.002).abs() < 1e-9, "{drawn} {before}");
        assert!((at(LEVELS)?.t - 80.).abs() < 1e-9);
        Ok(())
    }
}
