//! The noise that data are told from: independent normal numbers, as given or as the first batch of the data has them.

use super::real::several;
use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{sum_per_sample, to_host};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::f64::consts::TAU;

/// N(mean, deviation^2), number by number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoiseDensity {
    /// Its mean: one for all numbers of a state, or one each.
    pub mean: Vec<f64>,
    /// Its standard deviation: one for all, or one each.
    pub deviation: Vec<f64>,
}

impl NoiseDensity {
    /// That with the moments of the states `x` `[B, ...]`.
    ///
    /// Errors if a number is the same in all of them.
    pub fn fitted(x: &Tensor) -> Result<Self> {
        let x = x.detach().flatten_from(1)?.to_dtype(DType::F64)?;
        let mean = x.mean_keepdim(0)?;
        let deviation = to_host(&x.broadcast_sub(&mean)?.sqr()?.mean(0)?.sqrt()?)?;
        if let Some(i) = deviation.iter().position(|s| !(*s > 0. && s.is_finite())) {
            bail!("number {i} does not vary in the first batch, and noise cannot be fitted to it; give loss.noise");
        }
        Ok(Self { mean: to_host(&mean)?, deviation })
    }

    /// Errors, naming the option of the loss, if it is not one.
    pub fn check(&self) -> Result<()> {
        for (key, numbers, possible) in [
            ("mean", &self.mean, f64::is_finite as fn(f64) -> bool),
            ("deviation", &self.deviation, |s| s > 0. && s.is_finite()),
        ] {
            if numbers.is_empty() || !numbers.iter().all(|v| possible(*v)) {
                bail!(
                    "loss.noise.{key} is {numbers:?}; give finite numbers, deviations above 0, one for all or one each"
                );
            }
        }
        Ok(())
    }

    /// `v` as a row like one of the states `x` `[B, ...]`: `[1, ...]`.
    fn row(&self, key: &str, v: &[f64], x: &Tensor) -> Result<Tensor> {
        let shape = [&[1], &x.dims()[1..]].concat();
        let d: usize = shape.iter().product();
        let row = match v {
            [one] => Tensor::full(*one, shape, &Device::Cpu)?,
            each if each.len() == d => Tensor::new(each, &Device::Cpu)?.reshape(shape)?,
            _ => bail!("loss.noise.{key} has {} numbers, and a state has {d}; give one for all or one each", v.len()),
        };
        row.to_dtype(x.dtype())?.to_device(x.device())
    }

    /// `k` draws for each of the states `x` `[B, ...]`, by a stream of `z` each: `[k B, ...]`, the first draws of all before the second.
    pub fn draw(&self, x: &Tensor, k: usize, z: &mut Noise) -> Result<Tensor> {
        let normal = several(x, k, |like| z.normal_like(like))?;
        let (mean, deviation) = (self.row("mean", &self.mean, x)?, self.row("deviation", &self.deviation, x)?);
        normal.broadcast_mul(&deviation)?.broadcast_add(&mean)
    }

    /// ln q of each of the states `x` `[B, ...]`: `[B]`.
    pub fn log_density(&self, x: &Tensor) -> Result<Tensor> {
        let (mean, deviation) = (self.row("mean", &self.mean, x)?, self.row("deviation", &self.deviation, x)?);
        let squares = sum_per_sample(&x.broadcast_sub(&mean)?.broadcast_div(&deviation)?.sqr()?)?;
        let d = (x.elem_count() / x.dim(0)?.max(1)) as f64;
        let log_deviation: f64 = to_host(&deviation)?.iter().map(|s| s.ln()).sum();
        squares.affine(-0.5, -0.5 * d * TAU.ln() - log_deviation)
    }
}

/// Where the moments of fitted noise are saved.
const MOMENTS: &str = "noise";

/// The noise of a run: as given, or fitted to the first batch and then kept.
#[derive(Clone, Debug)]
pub(super) struct Fitted(Option<NoiseDensity>, bool);

impl Fitted {
    pub fn new(given: Option<&NoiseDensity>) -> Self {
        Self(given.cloned(), given.is_none())
    }

    /// It, for a batch `x`.
    pub fn of(&mut self, x: &Tensor) -> Result<NoiseDensity> {
        let found = self.0.take().map_or_else(|| NoiseDensity::fitted(x), Ok)?;
        Ok(self.0.insert(found).clone())
    }

    /// What must be saved: the moments, if they were fitted.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let Some(noise) = self.0.as_ref().filter(|_| self.1) else { return Ok(vec![]) };
        let rows = Tensor::new([noise.mean.as_slice(), &noise.deviation].concat(), &Device::Cpu)?;
        Ok(vec![(MOMENTS.into(), rows.reshape((2, noise.mean.len()))?)])
    }

    /// Takes [`Fitted::state`] back.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        if !self.1 {
            return Ok(());
        }
        self.0 = match state.get(MOMENTS) {
            None => None,
            Some(t) => match t.to_dtype(DType::F64)?.to_vec2::<f64>()?.as_slice() {
                [mean, deviation] => Some(NoiseDensity { mean: mean.clone(), deviation: deviation.clone() }),
                _ => bail!("holds moments of noise of shape {:?}; there are two rows", t.dims()),
            },
        };
        Ok(())
    }
}
