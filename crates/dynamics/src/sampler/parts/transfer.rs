//! What the steps are made of: host numbers of the two ends of a step, and sums of tensors weighted by them.
//!
//! x_t = alpha_t x_0 + sigma_t eps at one end, the same with s at the other. Everything is written in x and x0, which
//! stay finite where alpha = 0; only [`Interval::ratio`] looks from s up to t, where alpha_s > 0.

use crate::sampler::Step;
use crate::{Marginal, Process};
use candle_core::{Result, Tensor, bail};
use langevin_ops::shape::{PerSample, scale};

/// sigma/alpha from which next to nothing of the data is seen.
pub(crate) const PURE: f64 = 1e3;

/// The marginals at both ends of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    pub t: Marginal,
    pub s: Marginal,
}

impl Interval {
    /// sigma_s / sigma_t, the factor of x in the exact step for a constant x0 (DDIM): x_s = keep x + gain x0.
    pub fn keep(&self) -> f64 {
        self.s.sigma / self.t.sigma
    }

    /// alpha_s - alpha_t sigma_s / sigma_t, the factor of x0 in it.
    pub fn gain(&self) -> f64 {
        self.s.alpha - self.t.alpha * self.keep()
    }

    /// e^-h with h the gain in ln(alpha/sigma): 0 for a step from alpha = 0 or to sigma = 0.
    pub fn decay(&self) -> f64 {
        self.t.alpha * self.keep() / self.s.alpha
    }

    /// The gain in ln(alpha/sigma): infinite for a step from alpha = 0 or to sigma = 0.
    pub fn h(&self) -> f64 {
        -self.decay().ln()
    }

    /// alpha_t / alpha_s, the factor of x_s in q(x_t | x_s).
    pub fn ratio(&self) -> f64 {
        self.t.alpha / self.s.alpha
    }

    /// Whether there is next to no signal at t.
    pub fn starts_from_noise(&self) -> bool {
        self.t.sigma >= PURE * self.t.alpha
    }

    /// The variance of q(x_t | x_s).
    pub fn variance(&self) -> f64 {
        (self.t.sigma.powi(2) - (self.ratio() * self.s.sigma).powi(2)).max(0.)
    }

    /// The variance of q(x_s | x_t, x_0). \[Ho20, eq. 7\]
    pub fn posterior(&self) -> f64 {
        self.variance() * self.keep().powi(2)
    }
}

impl Step<'_> {
    /// The marginals at both ends for each sample, or the one pair that all share.
    pub(crate) fn intervals(self, process: &dyn Process) -> Result<Vec<Interval>> {
        let Step { t, s } = self;
        let n = t.len().max(s.len());
        if [t.len(), s.len()].iter().any(|&len| len != 1 && len != n) {
            bail!("a step from {} times to {} times; give one time, or one a sample", t.len(), s.len());
        }
        Ok((0..n).map(|i| Interval { t: process.marginal(t.at(i)), s: process.marginal(s.at(i)) }).collect())
    }
}

/// `f` of each.
pub(crate) fn of<T, R>(each: &[T], f: impl Fn(&T) -> R) -> Vec<R> {
    each.iter().map(f).collect()
}

/// The sum of tensors, each times its number (one for all samples, or one a sample). A tensor whose numbers are all
/// 0 is left out, so it may hold anything.
pub(crate) fn sum(terms: &[(Vec<f64>, &Tensor)]) -> Result<Tensor> {
    let mut total: Option<Tensor> = None;
    for (v, x) in terms {
        if v.iter().all(|&v| v == 0.) {
            continue;
        }
        let term = scale(x, v)?;
        total = Some(match total {
            None => term,
            Some(total) => (total + term)?,
        });
    }
    match (total, terms.first()) {
        (Some(total), _) => Ok(total),
        (None, Some((_, x))) => x.zeros_like(),
        (None, None) => bail!("a sum of no tensors"),
    }
}

/// The exact step for a constant x0, which is Euler's in sigma/alpha and DDIM's with eta = 0.
pub(crate) fn euler_step(ends: &[Interval], x: &Tensor, x0: &Tensor) -> Result<Tensor> {
    sum(&[(of(ends, Interval::keep), x), (of(ends, Interval::gain), x0)])
}

/// x from one noise level to the next with nothing but the scale of the data: x/alpha stays; where there is next to no
/// signal, x/sigma does.
pub(crate) fn carried(ends: &[Interval], x: &Tensor) -> Result<Tensor> {
    scale(x, &of(ends, |e| if e.starts_from_noise() { e.keep() } else { e.s.alpha / e.t.alpha }))
}
