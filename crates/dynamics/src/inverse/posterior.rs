//! A model given what was measured, as a denoiser: E(x, t) + |alpha y - A x|^2 / (2 v) at every noise level, with
//! v = alpha^2 s^2 + |A|^2 sigma^2, the variance of alpha y - A x_t that noise alone makes. [Jalal21]
//!
//! It is the posterior of x_0 where sigma is small, and not that of x_t above: annealing leads from one to the other.

use super::Measured;
use crate::denoiser::{Frame, each};
use crate::noisy::{Jet, NoisyEnergy};
use crate::{Denoiser, Marginal};
use candle_core::{Result, Tensor, bail};
use langevin_ops::shape::{scale, sum_per_sample};

/// `model` given `seen`. Times are one for all samples.
pub struct Posterior<'a> {
    model: &'a dyn Denoiser,
    seen: &'a Measured,
}

impl<'a> Posterior<'a> {
    /// `model` given `seen`.
    pub fn new(model: &'a dyn Denoiser, seen: &'a Measured) -> Self {
        Self { model, seen }
    }

    pub(super) fn marginal(&self, t: &[f64]) -> Result<Marginal> {
        match t {
            [t] => Ok(self.process().marginal(*t)),
            _ => bail!("a posterior is asked at one time for all samples, not at {} times", t.len()),
        }
    }

    /// v.
    pub fn variance(&self, m: &Marginal) -> f64 {
        (m.alpha * self.seen.noise()).powi(2) + self.seen.operator().norm2() * m.sigma.powi(2)
    }

    /// The gradient of the log-likelihood, A^T (alpha y - A x) / v.
    fn pull(&self, x: &Tensor, m: &Marginal) -> Result<Tensor> {
        let residual = self.seen.residual(m.alpha, x)?;
        self.seen.operator().adjoint(&residual)?.affine(1. / self.variance(m), 0.)
    }

    fn model_energy(&self) -> Result<&dyn NoisyEnergy> {
        match self.model.noisy_energy() {
            Some(energy) => Ok(energy),
            None => bail!("posterior: the model is a plain denoiser, whose score is the gradient of no energy"),
        }
    }

    /// |alpha y - A x|^2 / (2 v), `[B]`.
    fn misfit(&self, x: &Tensor, m: &Marginal) -> Result<Tensor> {
        sum_per_sample(&self.seen.residual(m.alpha, x)?.sqr()?)?.affine(0.5 / self.variance(m), 0.)
    }
}

impl Denoiser for Posterior<'_> {
    fn frame(&self) -> Frame<'_> {
        self.model.frame()
    }

    /// x0 + sigma^2 / alpha times the gradient of the log-likelihood. Errors where alpha = 0.
    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        let m = self.marginal(t)?;
        if m.alpha < 1e-6 {
            bail!("no measurement tells x0 where alpha = 0, as it is at t = {t:?}; its score does");
        }
        let pull = scale(&self.pull(x, &m)?, &each(self.process(), t, |m| m.sigma * m.sigma / m.alpha))?;
        self.model.x0(x, t)? + pull
    }

    fn score(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.model.score(x, t)? + self.pull(x, &self.marginal(t)?)?
    }

    fn noisy_energy(&self) -> Option<&dyn NoisyEnergy> {
        self.model.noisy_energy().map(|_| self as &dyn NoisyEnergy)
    }
}

impl NoisyEnergy for Posterior<'_> {
    fn energy_at(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.model_energy()?.energy_at(x, t)? + self.misfit(x, &self.marginal(t)?)?
    }

    fn energy_grad(&self, x: &Tensor, t: &[f64]) -> Result<(Tensor, Tensor)> {
        let (m, (energy, gradient)) = (self.marginal(t)?, self.model_energy()?.energy_grad(x, t)?);
        Ok(((energy + self.misfit(x, &m)?)?, (gradient - self.pull(x, &m)?)?))
    }

    fn jet(&self, x: &Tensor, t: &[f64]) -> Result<Jet> {
        let (m, jet) = (self.marginal(t)?, self.model_energy()?.jet(x, t)?);
        let (residual, v) = (self.seen.residual(m.alpha, x)?, self.variance(&m));
        let dv = 2. * m.alpha * m.dalpha * self.seen.noise().powi(2)
            + 2. * self.seen.operator().norm2() * m.sigma * m.dsigma;
        let y = self.seen.residual(1., &x.zeros_like()?)?;
        let along = sum_per_sample(&(&residual * y)?)?.affine(m.dalpha / v, 0.)?;
        let widening = self.misfit(x, &m)?.affine(-dv / v, 0.)?;
        Ok(Jet {
            energy: (jet.energy + self.misfit(x, &m)?)?,
            gradient: (jet.gradient - self.pull(x, &m)?)?,
            dt: (jet.dt + (along + widening)?)?,
        })
    }

    fn normalised(&self) -> bool {
        false
    }
}
