//! ln Z of an RBM by a sum over all states of one layer, with the other summed out.

use super::{Rbm, Visible, dot};
use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_ops::shape::to_host;
use langevin_ops::stats::log_sum_exp;

/// A layer of at most so many units is enumerated.
const EXACT: usize = 25;

/// States that are enumerated at once.
const AT_ONCE: usize = 1 << 11;

/// And numbers that these make of the larger layer, at most.
const NUMBERS: usize = 1 << 21;

impl Rbm {
    /// ln Z, in f64, by a sum over all states of the layer that has fewer, with the other summed out; of real visible units, which have
    /// no list of states, over those of the hidden layer.
    ///
    /// Errors if that layer has more than 2^25 states, which are those of 25 bits.
    pub fn log_z_exact(&self) -> Result<f64> {
        let (visible, hidden) = (self.spec.units(), self.spec.hidden);
        if self.listed() > EXACT as f64 {
            let these = match self.spec.visible {
                Visible::Bernoulli => {
                    format!("one layer has at most {EXACT} units, and these have {visible} and {hidden}")
                }
                Visible::Gaussian => format!(
                    "there are at most {EXACT} hidden units, and here are {hidden}; states of real visible units cannot be listed"
                ),
                Visible::Potts { states } => format!(
                    "there are at most {EXACT} hidden units, or 2^{EXACT} states of the visible ones, and here are {hidden} hidden \
                     units and {visible} visible ones of {states} states each"
                ),
            };
            bail!("log Z is exact where {these}; estimate it by annealed importance sampling");
        }
        let wide = self.to_dtype(DType::F64)?;
        let (base, n) = self.layer();
        let (states, mut log_z) = (base.pow(n as u32), f64::NEG_INFINITY);
        let some = (NUMBERS / self.spec.numbers().max(hidden)).clamp(1, AT_ONCE);
        for from in (0..states).step_by(some) {
            let units = numerals(base, from, some.min(states - from), n, self.device())?;
            let logs = match self.lists_hidden() {
                true => wide.log_sum_visible(&units)?,
                false => {
                    let rows = self.spec.visible.states().rows(&units)?;
                    wide.summed_out(&rows, &wide.hidden_logits(&rows)?)?.neg()?
                }
            };
            log_z = log_sum_exp(&[log_z, log_sum_exp(&to_host(&logs.detach())?)]);
        }
        Ok(log_z)
    }

    /// Whether log Z is a sum over the states of the hidden layer.
    fn lists_hidden(&self) -> bool {
        self.spec.visible.count().is_none_or(|q| (self.spec.hidden as f64) < bits(q, self.spec.units()))
    }

    /// States of a unit of the layer that is listed, and its units.
    fn layer(&self) -> (usize, usize) {
        match self.spec.visible.count() {
            Some(q) if !self.lists_hidden() => (q, self.spec.units()),
            _ => (2, self.spec.hidden),
        }
    }

    /// The logarithm to base 2 of the number of states whose sum is Z.
    pub(super) fn listed(&self) -> f64 {
        let (base, n) = self.layer();
        bits(base, n)
    }

    /// ln of the sum, or the integral, of exp(-E(v, h)) over v for hidden units `[B, H]`: `[B]`.
    fn log_sum_visible(&self, h: &Tensor) -> Result<Tensor> {
        dot(h, &self.hidden_bias)? + self.spec.visible.log_sum(&self.theta(h)?, &self.visible_bias)?
    }
}

/// The logarithm to base 2 of the number of states of `n` units with `base` states each.
fn bits(base: usize, n: usize) -> f64 {
    n as f64 * (base as f64).log2()
}

/// The states `from`, `from` + 1, ... of `n` binary units, unit i being bit i of their number: `[count, n]` in f64.
pub fn binary(from: usize, count: usize, n: usize, device: &Device) -> Result<Tensor> {
    numerals(2, from, count, n, device)
}

/// The states `from`, `from` + 1, ... of `n` units with `base` states each, unit i being digit i of their number to this base, the
/// lowest first: `[count, n]` in f64. Their numbers are below 2^64.
pub fn numerals(base: usize, from: usize, count: usize, n: usize, device: &Device) -> Result<Tensor> {
    let mut digits = Vec::with_capacity(count * n);
    for mut state in from..from + count {
        for _ in 0..n {
            digits.push((state % base) as f64);
            state /= base;
        }
    }
    Tensor::from_vec(digits, (count, n), device)
}
