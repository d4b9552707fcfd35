//! The model's own samples: a population that goes down its noise levels while it learns, a level a batch, and starts again
//! from pure noise. Walkers are weighed and drawn again, so that they gather where the energy holds mass that its score
//! does not lead to: the places that make its levels disagree.

use crate::level::{Level, LogSnr};
use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_dynamics::Cond;
use langevin_dynamics::particles::Particles;
use langevin_dynamics::sampler::prior;
use langevin_models::Model;
use langevin_ops::noise::Noise;

/// Levels from pure noise to the least, even in log SNR.
const LEVELS: u64 = 96;

/// Walkers are drawn again where their effective number falls below this part of them.
const RESAMPLE: f64 = 0.5;

/// The population.
#[derive(Debug, Default)]
pub(crate) struct Walkers {
    now: Option<At>,
    /// Levels that all populations have come to so far.
    gone: u64,
}

/// The population at one level.
#[derive(Clone, Debug)]
pub(crate) struct At {
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
        let labels = model.spec.classes.map(|n| Tensor::full((class % n as u64) as u32, number, model.device()));
        let labels = labels.transpose()?;
        let denoiser = model.denoiser(Cond { labels: labels.clone(), dropout: None })?;
        let next = match self.now.take() {
            Some(now) if !self.gone.is_multiple_of(LEVELS) => {
                Particles::at(&denoiser, &now.x, now.t, now.log_w)?.step(&denoiser, now.t, t, z)?
            }
            _ => {
                let mut shape = x0.dims().to_vec();
                shape[0] = number;
                Particles::from_prior(&denoiser, &prior(process, t, &shape, x0.dtype(), x0.device(), z)?, t)?
            }
        };
        let next = if next.effective(t)? < RESAMPLE { next.drawn_again(z)? } else { next };
        // what is lost weighs next to nothing, in numbers that can be saved
        let log_w = next.log_w.into_iter().map(|w| w.max(-1e6)).collect();
        let at = At { x: next.at.x.detach(), log_w, t, labels };
        self.gone += 1;
        self.now = Some(at.clone());
        Ok(at)
    }

    /// What must be saved: the places, and the levels gone, the time and the weights.
    pub fn state(&self) -> Result<Option<[Tensor; 2]>> {
        let Some(At { x, log_w, t, .. }) = &self.now else { return Ok(None) };
        let numbers: Vec<f64> = [self.gone as f64, *t].into_iter().chain(log_w.iter().copied()).collect();
        Ok(Some([x.clone(), Tensor::new(numbers, &Device::Cpu)?]))
    }

    /// Takes [`Walkers::state`] back.
    pub fn restore(&mut self, [x, numbers]: [Tensor; 2]) -> Result<()> {
        let numbers = numbers.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        match numbers.as_slice() {
            [gone, t, log_w @ ..] if x.dims().first() == Some(&log_w.len()) => {
                self.gone = *gone as u64;
                self.now = Some(At { x, log_w: log_w.to_vec(), t: *t, labels: None });
                Ok(())
            }
            _ => bail!("{} saved numbers for walkers of shape {:?}", numbers.len(), x.dims()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use langevin_models::mixture;
    use langevin_ops::shape::to_host;

    /// Of a model whose energies agree, the population has its density at the end, and then begins again.
    #[test]
    fn they_come_to_the_density_of_the_model() -> Result<()> {
        let spec = mixture::exact("exact:8-gaussians", langevin_dynamics::process::Edm::default().into()).unwrap();
        let model = Model::new(spec, 0, DType::F64, &Device::Cpu)?;
        let (mut walkers, n) = (Walkers::default(), 400);
        let x0 = Tensor::zeros((1, 2), DType::F64, &Device::Cpu)?;
        let mut at = |k: u64| walkers.advance(&model, n, &x0, &mut Noise::of_step(3, k, n));
        let (mut times, mut last) = (vec![], None);
        for k in 0..LEVELS {
            let now = at(k)?;
            times.push(now.t);
            last = Some(now);
        }
        let top = |t: f64| (t - 80.).abs() < 1e-9;
        let ends = top(times[0]) && (times[95] - 0.002).abs() < 1e-9;
        assert!(ends && times.windows(2).all(|pair| pair[1] < pair[0]), "{times:?}");
        // modes of width 0.15 at radius 1.4: |x|^2 is 1.4^2 + 2 * 0.15^2 on the mean, with a deviation of 0.42
        let last = last.unwrap();
        let squares = to_host(&last.x.sqr()?.sum(1)?)?;
        let w: Vec<f64> = last.log_w.iter().map(|w| w.exp()).collect();
        let total: f64 = w.iter().sum();
        let mean = squares.iter().zip(&w).map(|(s, w)| s * w).sum::<f64>() / total;
        assert!((mean - 2.005).abs() < 0.15, "{mean}");
        assert!(top(at(LEVELS)?.t));
        Ok(())
    }
}
