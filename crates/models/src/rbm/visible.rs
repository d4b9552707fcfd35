//! Kinds of visible units: the part of the energy that is theirs alone, and how they are distributed given the hidden units.
//!
//! E(v, h) = own(v) - h.c - v W h. Given h the visible units are independent, and of an exponential family with parameters
//! theta = b + W h: bits are 1 with probability sigmoid(theta), real numbers are normal with mean theta and variance 1. The v here are
//! rows, see [`States::rows`]: a Potts unit of q states is q of their numbers, 1 at its state and else 0, so that b and W have q rows
//! for it, and its states have the probabilities softmax(theta) of its own q thetas.

use super::dot;
use crate::family::States;
use candle_core::{Result, Tensor, bail};
use langevin_ops::act::{sigmoid, softplus_sum};
use langevin_ops::attend::softmax;
use langevin_ops::linear::{linear, linear_of_bits};
use langevin_ops::noise::Noise;
use serde::Serialize;
use std::f64::consts::TAU;

/// What the visible units of an RBM are: the key `visible`, and the options of that kind beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "visible", rename_all = "kebab-case")]
pub enum Visible {
    /// 0 or 1, own(v) = -v.b. \[Smolensky86\]
    #[default]
    Bernoulli,
    /// Real numbers of variance 1 given the hidden units, own(v) = |v - b|^2 / 2, so that data of mean 0 and deviation 1 suit
    /// it. \[Hinton12, section 13.2\]
    Gaussian,
    /// One of q states each, own(v) = -v.b. \[Salakhutdinov07; Tubiana19\]
    Potts {
        /// q, from 2 to [`MOST_STATES`].
        states: usize,
    },
}

/// States of a Potts unit are so many at most.
pub const MOST_STATES: usize = 256;

/// Means of bits are taken no nearer to 0 and 1 than this where chains begin with them.
const EDGE: f64 = 0.05;

impl Visible {
    /// What the numbers of a state are.
    pub fn states(self) -> States {
        match self {
            Self::Bernoulli => States::Bits,
            Self::Gaussian => States::Real,
            Self::Potts { states } => States::Integers(states),
        }
    }

    /// The kind that the keys `visible` and `states` name.
    ///
    /// Errors in one sentence that names the key.
    pub(super) fn named(name: &str, states: Option<usize>) -> std::result::Result<Self, String> {
        match (name, states) {
            ("bernoulli", None) => Ok(Self::Bernoulli),
            ("gaussian", None) => Ok(Self::Gaussian),
            ("potts", Some(states)) => Ok(Self::Potts { states }),
            ("potts", None) => {
                Err(format!("`states` is missing; potts units need their number of states, 2 to {MOST_STATES}"))
            }
            ("bernoulli" | "gaussian", Some(states)) => Err(format!(
                "`states` is {states}, the number of states of potts units, and these are {name}; leave it out, or begin with a \
                 configuration that does not have it"
            )),
            _ => Err(format!("`visible` is {name}; give bernoulli, gaussian or potts")),
        }
    }

    /// Errors, naming the key, if an option is out of its range.
    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Potts { states } if !(2..=MOST_STATES).contains(&states) => {
                bail!("`states` is {states}; give 2 to {MOST_STATES} states of a visible unit")
            }
            Self::Bernoulli | Self::Gaussian | Self::Potts { .. } => Ok(()),
        }
    }

    /// Whether it is what a description without a word about it means; such files say nothing of it.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The number of states of a unit, if they can be listed.
    pub(super) fn count(self) -> Option<usize> {
        match self {
            Self::Bernoulli => Some(2),
            Self::Gaussian => None,
            Self::Potts { states } => Some(states),
        }
    }

    /// x w^T + bias with visible units in `x`, by the shorter way if the numbers of rows are bits.
    pub(super) fn linear(self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        match self {
            Self::Bernoulli | Self::Potts { .. } => linear_of_bits(x, w, bias),
            Self::Gaussian => linear(x, w, bias),
        }
    }

    /// own(v) of rows `[B, V]` with the biases `b` `[V]`: `[B]`.
    pub(super) fn own(self, v: &Tensor, b: &Tensor) -> Result<Tensor> {
        match self {
            Self::Bernoulli | Self::Potts { .. } => dot(v, b)?.neg(),
            Self::Gaussian => v.broadcast_sub(b)?.sqr()?.sum(1)? * 0.5,
        }
    }

    /// -d own(v)/db of rows `[B, V]`, the same shape: v, or v - b.
    pub(super) fn pull(self, v: &Tensor, b: &Tensor) -> Result<Tensor> {
        match self {
            Self::Bernoulli | Self::Potts { .. } => Ok(v.clone()),
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
            Self::Potts { states } => {
                let theta = each(&theta.detach(), states)?;
                let top = theta.max_keepdim(2)?;
                let sums = theta.broadcast_sub(&top)?.exp()?.sum(2)?.log()?;
                (sums + top.squeeze(2)?)?.sum(1)
            }
        }
    }

    /// The means of rows `[B, V]` given `theta`: of Potts units the probabilities of their states.
    pub(super) fn mean(self, theta: &Tensor) -> Result<Tensor> {
        match self {
            Self::Bernoulli => sigmoid(theta),
            Self::Gaussian => Ok(theta.clone()),
            Self::Potts { states } => softmax(&each(theta, states)?)?.reshape(theta.shape()),
        }
    }

    /// How much numbers that go with rows, `[B, V]`, rise with the states of units: themselves, or of Potts units the slope of the line
    /// nearest to those of their states, `[B, V / q]`.
    pub(super) fn slopes(self, rows: &Tensor) -> Result<Tensor> {
        let Self::Potts { states } = self else { return Ok(rows.clone()) };
        let middle = (states - 1) as f64 / 2.;
        let off: Vec<f64> = (0..states).map(|k| k as f64 - middle).collect();
        let squares = off.iter().map(|off| off * off).sum::<f64>();
        let off = Tensor::new(off, rows.device())?.to_dtype(rows.dtype())?;
        each(rows, states)?.broadcast_mul(&off)?.sum(2)? / squares
    }

    /// Rows drawn given `theta` `[B, V]`, a stream of `z` each.
    pub(super) fn draw(self, theta: &Tensor, z: &mut Noise) -> Result<Tensor> {
        match self {
            Self::Bernoulli => z.bernoulli(theta),
            Self::Gaussian => theta.detach() + z.normal_like(theta)?,
            Self::Potts { states } => z.one_hot(&each(theta, states)?)?.reshape(theta.shape()),
        }
    }

    /// theta of independent units with these means of rows, at which a ladder begins; of bits no nearer to 0 and 1 than 0.05, and of
    /// Potts units mixed with a tenth of equal shares, which is as far for two states.
    ///
    /// Errors, naming the unit, if it cannot have such a mean.
    pub(super) fn with_means(self, means: &[f64]) -> Result<Vec<f64>> {
        let one = |(i, &mean): (usize, &f64)| match self {
            Self::Potts { states } if !(0. ..=1.).contains(&mean) => {
                let (unit, state) = (i / states, i % states);
                bail!(
                    "the ladder of an RBM needs shares from 0 to 1, and that of state {state} of visible unit {unit} is {mean}"
                )
            }
            Self::Potts { states } => Ok((mean * (1. - 2. * EDGE) + 2. * EDGE / states as f64).ln()),
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

/// Rows `[B, N q]` of units with q `states` each: `[B, N, q]`.
fn each(rows: &Tensor, states: usize) -> Result<Tensor> {
    let (batch, numbers) = rows.dims2()?;
    rows.reshape((batch, numbers / states, states))
}
