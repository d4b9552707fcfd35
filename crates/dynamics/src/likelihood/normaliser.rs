//! The one constant of a normalised energy: log p_t(x) = c - E(x, t) at every t, with c = E_z[E(z, T) + log prior(z)] from
//! z ~ prior at the noisy end, where p_T is known. \[Guth25, section 3.2\]

use crate::NoisyEnergy;
use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_ops::stats::{log_gaussian, mean_and_error};
use serde::Serialize;

/// c, and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Normaliser {
    /// c in log p_t(x) = c - E(x, t).
    pub value: f64,
    /// Standard error of its estimate.
    pub error: f64,
    /// Standard deviation of E + log prior over draws of the prior: 0 if the energy is the prior's there.
    pub spread: f64,
    /// Draws.
    pub draws: usize,
}

impl Normaliser {
    /// From a batch of `shape` `[B, ...]`, B at least 2, drawn from the prior N(0, sigma^2 I) at the end of the span.
    ///
    /// Errors for an energy whose constant is free at each t.
    pub fn of(m: &dyn NoisyEnergy, shape: &[usize], dtype: DType, device: &Device, z: &mut Noise) -> Result<Self> {
        if !m.normalised() {
            bail!(
                "likelihood: the constant of this energy is free at each t, so that -E is no log-density; take an energy that \
                 learnt its normaliser, or estimate the constant by annealed importance sampling"
            );
        }
        let draws = shape.first().copied().unwrap_or(0);
        if draws < 2 {
            bail!("likelihood: {draws} draws of the prior; take at least 2");
        }
        let (process, end) = (m.process(), m.process().span().1);
        let std = process.marginal(end).sigma;
        let x = z.normal(shape, dtype, device)?.affine(std, 0.)?;
        let energy = to_host(&m.energy_at(&x, &[end])?.detach())?;
        let sums: Vec<f64> = energy.iter().zip(log_gaussian(&x, std)?).map(|(e, prior)| e + prior).collect();
        let (value, error) = mean_and_error(&sums);
        if !value.is_finite() {
            bail!("likelihood: the energy is not finite at the prior end, t = {end}");
        }
        Ok(Self { value, error, spread: error * (draws as f64).sqrt(), draws })
    }

    /// log p_t of `x` `[B, ...]` in one pass; `t` is one for all samples or one a sample.
    pub fn log_p(&self, m: &dyn NoisyEnergy, x: &Tensor, t: &[f64]) -> Result<Vec<f64>> {
        Ok(to_host(&m.energy_at(x, t)?.detach())?.into_iter().map(|e| self.value - e).collect())
    }
}
