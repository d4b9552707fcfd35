//! Replacement: after each step, what was measured takes its place in x_t with noise of that level,
//! A x_t = alpha y + sigma A z. [Song21, appendix I.2]
//!
//! Its samples have what was measured exactly, but the rest was drawn before it knew: a biased draw from the posterior.

use super::{Measured, Method};
use crate::sampler::{Ddpm, Step, Stepper};
use crate::{Denoiser, Process};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Ancestral steps with replacement.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replace {}

impl Named for Replace {
    const NAME: &'static str = "replace";
    const ABOUT: &'static str = "what was measured takes its place, with noise, after every step [Song21]";
}

impl Method for Replace {
    fn start<'a>(&'a self, measured: &'a Measured, _times: &[f64]) -> Result<Box<dyn Stepper + 'a>> {
        Ok(Box::new(Replaced::new(measured)?))
    }
}

/// Ancestral sampling that goes back up, too, by noise, and has what was measured in its place after every step.
pub(super) struct Replaced<'a> {
    measured: &'a Measured,
    gram: f64,
    inner: Ddpm,
}

impl<'a> Replaced<'a> {
    /// Errors if the operator has no inverse that could put a measurement in its place.
    pub fn new(measured: &'a Measured) -> Result<Self> {
        let Some(gram) = measured.operator().gram() else {
            bail!("what was measured through a blur cannot be put back into its place; use the method dps or mcmc");
        };
        Ok(Self { measured, gram, inner: Ddpm::default() })
    }

    /// Of the noise that alpha y needs to have that of the level; below 0 where it has more already.
    fn variance(&self, alpha: f64, sigma: f64) -> f64 {
        sigma * sigma - (alpha * self.measured.noise()).powi(2) / self.gram
    }

    /// The last of the falling `times` at which what was measured is put in its place.
    pub fn lowest(&self, process: &dyn Process, times: &[f64]) -> f64 {
        let placed = |t: &&f64| self.variance(process.marginal(**t).alpha, process.marginal(**t).sigma) >= 0.;
        times.iter().rev().find(placed).copied().unwrap_or(f64::INFINITY)
    }

    /// x + A^T (alpha y + deviation A z - A x) / g: with the noise of y, all has the noise of the level.
    fn place(&self, x: &Tensor, alpha: f64, sigma: f64, z: &mut Noise) -> Result<Tensor> {
        let operator = self.measured.operator();
        let variance = self.variance(alpha, sigma);
        if variance < 0. {
            return Ok(x.clone()); // y has more noise than x_t has left: from here on the model denoises both
        }
        let drawn = z.normal_like(x)?.affine(variance.sqrt(), 0.)?;
        let missing = self.measured.residual(alpha, &(x - drawn)?)?;
        x + operator.adjoint(&missing)?.affine(1. / self.gram, 0.)?
    }
}

impl Stepper for Replaced<'_> {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor> {
        let (&[from], &[to]) = (step.t, step.s) else {
            bail!("replacement takes its steps at one time for all samples");
        };
        if to > from {
            return self.inner.back(m.process(), x, from, to, z);
        }
        let x = (&self.inner).step(m, x, step, z)?;
        let end = m.process().marginal(to);
        self.place(&x, end.alpha, end.sigma, z)
    }
}
