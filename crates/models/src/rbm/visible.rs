//! Kinds of visible units: the part of the energy that is theirs alone, and how they are distributed given the hidden units.
//!
//! E(v, h) = own(v) - h.c - v W h. Given h the visible units are independent, and of an exponential family with parameters
//! theta = b + W h: bits are 1 with probability sigmoid(theta), real numbers are normal with mean theta and variance 1.

use super::dot;
use crate::family::States;
use candle_core::{Result, Tensor, bail};
use langevin_ops::act::{sigmoid, softplus_sum};
use langevin_ops::linear::{linear, linear_of_bits};
use langevin_ops::noise::Noise;
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;

/// What the visible units of an RBM are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Visible {
    /// 0 or 1, own(v) = -v.b. \[Smolensky86\]
    #[default]
    Bernoulli,
    /// Real numbers of variance 1 given the hidden units, own(v) = |v - b|^2 / 2, so that data of mean 0 and deviation 1 suit
    /// it. \[Hinton12, section 13.2\]
    Gaussian,
}

/// Means of bits are taken no nearer to 0 and 1 than this where chains begin with them.
const EDGE: f64 = 0.05;

impl Visible {
    /// What the numbers of a state are.
    pub fn states(self) -> States {
        match self {
            Self::Bernoulli => States::Bits,
            Self::Gaussian => States::Real,
        }
    }

    /// Whether it is what a description without a word about it means; such files say nothing of it.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether all states of some units can be listed.
    pub(super) fn countable(self) -> bool {
        self == Self::Bernoulli
    }

    /// x w^T + bias with visible units in `x`, by the shorter way if they are bits.
    pub(super) fn linear(self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        match self {
            Self::Bernoulli => linear_of_bits(x, w, bias),
            Self::Gaussian => linear(x, w, bias),
        }
    }

    /// own(v) of rows `[B, V]` with the biases `b` `[V]`: `[B]`.
    pub(super) fn own(self, v: &Tensor, b: &Tensor) -> Result<Tensor> {
        match self {
            Self::Bernoulli => dot(v, b)?.neg(),
            Self::Gaussian => v.broadcast_sub(b)?.sqr()?.sum(1)? * 0.5,
        }
    }

    /// -d own(v)/db of rows `[B, V]`, the same shape: v, or v - b.
    pub(super) fn pull(self, v: &Tensor, b: &Tensor) -> Result<Tensor> {
        match self {
            Self::Bernoulli => Ok(v.clone()),
            Self::Gaussian => v.broadcast_sub(b),
        }
    }

    /// ln of the sum, or the integral, over v of exp(v.(theta - b) - own(v)) for `theta` `[B, V]` and the biases `b` `[V]`: `[B]`.
    pub(super) fn log_sum(self, theta: &Tensor, b: &Tensor) -> Result<Tensor> {
        match self {
            Self::Bernoulli => softplus_sum(theta),
            // V/2 ln(2 pi) + (|theta|^2 - |b|^2) / 2
            Self::Gaussian => {
                let squares = (theta.broadcast_sub(b)? * theta.broadcast_add(b)?)?.sum(1)?;
                squares.affine(0.5, 0.5 * b.elem_count() as f64 * TAU.ln())
            }
        }
    }

    /// The means of units given `theta`.
    pub(super) fn mean(self, theta: &Tensor) -> Result<Tensor> {
        match self {
            Self::Bernoulli => sigmoid(theta),
            Self::Gaussian => Ok(theta.clone()),
        }
    }

    /// Units drawn given `theta` `[B, V]`, a stream of `z` a row.
    pub(super) fn draw(self, theta: &Tensor, z: &mut Noise) -> Result<Tensor> {
        match self {
            Self::Bernoulli => z.bernoulli(theta),
            Self::Gaussian => theta.detach() + z.normal_like(theta)?,
        }
    }

    /// theta of independent units with these means, at which a ladder begins; of bits no nearer to 0 and 1 than 0.05.
    ///
    /// Errors, naming the unit, if it cannot have such a mean.
    pub(super) fn with_means(self, means: &[f64]) -> Result<Vec<f64>> {
        let one = |(i, &mean): (usize, &f64)| match self {
            Self::Bernoulli if !(0. ..=1.).contains(&mean) => {
                bail!("the ladder of an RBM of bits needs means from 0 to 1, and that of visible unit {i} is {mean}")
            }
            Self::Bernoulli => {
                let mean = mean.clamp(EDGE, 1. - EDGE);
                Ok((mean / (1. - mean)).ln())
            }
            Self::Gaussian if !mean.is_finite() => {
                bail!("the ladder of an RBM needs finite means, and that of visible unit {i} is {mean}")
            }
            Self::Gaussian => Ok(mean),
        };
        means.iter().enumerate().map(one).collect()
    }
}
