//! From independent visible units to an RBM: f_t(v) = exp(-(1-t) own_a(v) - t own_b(v)) prod_j (1 + exp(t (c_j + (v W)_j))), with
//! own_b the part of the energy that is theirs alone, -v.b, and |v - b|^2 / 2 of real numbers. \[Salakhutdinov08\]
//!
//! The base, at t = 0, has free hidden units, and visible ones with the means of the data: a are their logits, the logarithms of the
//! shares of their states, or the means themselves of real numbers, whose variance is 1 at every rung given h. At t = 1 it is the
//! machine itself. Annealed importance sampling along it gives log Z, in f64.

use super::{Rbm, Visible};
use candle_core::{DType, Result, Tensor, bail};
use langevin_dynamics::density::unclamped;
use langevin_dynamics::{Conditionals, Density, Differentiable, Energy, Ladder};
use langevin_ops::act::{sigmoid, softplus_sum};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;

/// The rungs, at rising t.
pub struct RbmLadder {
    rbm: Rbm,
    base: Tensor, // a, [V]
    betas: Vec<f64>,
}

impl RbmLadder {
    /// A rung for each of the rising `betas`, the first 0 and the last 1, of a copy of `rbm` in f64. `means` are those of rows of the
    /// data, see [`States::rows`](crate::States::rows): of the V visible units, or the shares of their q states, `[V q]`. Those of bits are
    /// taken no nearer to 0 and 1 than 0.05, and shares with a tenth of equal ones.
    ///
    /// Errors if `betas` are not so, or if the means are not one for each number of a row that it can have.
    pub fn new(rbm: &Rbm, means: &[f64], betas: Vec<f64>) -> Result<Self> {
        let rise = betas.windows(2).all(|pair| pair[0] < pair[1]);
        if !(rise && betas.first() == Some(&0.) && betas.last() == Some(&1.)) {
            bail!("the ladder of an RBM has powers that rise from 0 to 1, not {betas:?}");
        }
        let (visible, numbers, n) = (rbm.spec().units(), rbm.spec().numbers(), means.len());
        if n != numbers {
            match rbm.spec().visible {
                Visible::Potts { states } => bail!(
                    "the ladder of an RBM of {visible} visible units needs the shares of the {states} states of each, {numbers} \
                     numbers, and there are {n}"
                ),
                Visible::Bernoulli | Visible::Gaussian => {
                    bail!("the ladder of an RBM of {visible} visible units needs a mean of each, and there are {n}")
                }
            }
        }
        let base = Tensor::new(rbm.spec.visible.with_means(means)?, rbm.device())?;
        Ok(Self { rbm: rbm.to_dtype(DType::F64)?, base, betas })
    }

    /// As [`RbmLadder::new`], with `rungs` >= 2 at even distances.
    pub fn even(rbm: &Rbm, means: &[f64], rungs: usize) -> Result<Self> {
        let last = rungs.saturating_sub(1);
        Self::new(rbm, means, (0..rungs).map(|i| i as f64 / last as f64).collect())
    }

    /// log Z of the first rung: H ln 2, and sum_i ln(1 + exp(a_i)) of bits, V/2 ln(2 pi) of real numbers, or of Potts units
    /// sum_i ln sum_k exp(a_ik).
    pub fn log_z_base(&self) -> Result<f64> {
        Ok(self.rbm.spec.hidden as f64 * 2f64.ln() + self.log_z_visible()?)
    }

    /// The normaliser of the visible units of the base.
    fn log_z_visible(&self) -> Result<f64> {
        self.rbm.spec.visible.log_sum(&self.base.unsqueeze(0)?, &self.base)?.squeeze(0)?.to_scalar()
    }
}

/// The density at one rung.
struct Rung<'a> {
    rbm: &'a Rbm,
    base: &'a Tensor,
    beta: f64,
}

impl Rung<'_> {
    /// t (c + v W).
    fn hidden_logits(&self, v: &Tensor) -> Result<Tensor> {
        self.rbm.hidden_logits(v)?.detach() * self.beta
    }

    /// (1-t) a + t (b + W h).
    fn theta(&self, h: &Tensor) -> Result<Tensor> {
        (self.rbm.theta(h)?.detach() * self.beta)?.broadcast_add(&(self.base * (1. - self.beta))?)
    }
}

impl Energy for Rung<'_> {
    fn energy(&self, v: &Tensor) -> Result<Tensor> {
        let v = self.rbm.rows(v)?;
        let own = |b: &Tensor, share: f64| self.rbm.spec.visible.own(&v, &b.detach())? * share;
        let visible = (own(&self.rbm.visible_bias, self.beta)? + own(self.base, 1. - self.beta)?)?;
        visible - softplus_sum(&self.hidden_logits(&v)?)?
    }
}

/// Of real visible units alone: grad = v - (1-t) a - t (b + W p_t), with p_t = sigmoid(t (c + v W)).
impl Differentiable for Rung<'_> {
    fn energy_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let v = self.rbm.rows(x)?;
        let theta = self.theta(&sigmoid(&self.hidden_logits(&v)?)?)?;
        Ok((self.energy(x)?, (&v - theta)?.reshape(x.shape())?))
    }
}

impl Conditionals for Rung<'_> {
    fn blocks(&self) -> usize {
        1
    }

    fn draw(&self, _block: usize, v: &Tensor, clamped: Option<&Tensor>, z: &mut Noise) -> Result<Tensor> {
        let h = z.bernoulli(&self.hidden_logits(&self.rbm.rows(v)?)?)?;
        let drawn = self.rbm.spec.visible.draw(&self.theta(&h)?, z)?;
        unclamped(v, self.rbm.states(&drawn)?, clamped)
    }
}

impl Density for Rung<'_> {
    fn as_differentiable(&self) -> Option<&dyn Differentiable> {
        (self.rbm.spec.visible == Visible::Gaussian).then_some(self)
    }

    fn as_energy(&self) -> Option<&dyn Energy> {
        Some(self)
    }

    fn as_conditionals(&self) -> Option<&dyn Conditionals> {
        Some(self)
    }
}

impl Ladder for RbmLadder {
    fn rungs(&self) -> usize {
        self.betas.len()
    }

    fn density(&self, rung: usize) -> Box<dyn Density + '_> {
        Box::new(Rung { rbm: &self.rbm, base: &self.base, beta: self.betas[rung] })
    }

    fn name(&self, rung: usize) -> String {
        format!("beta = {:.4}", self.betas[rung])
    }

    /// Draws of the base, in f64.
    fn start(&self, like: &Tensor, _precision: f64, z: &mut Noise) -> Result<Tensor> {
        if like.dtype() != DType::F64 {
            bail!("the ladder of an RBM computes in f64, not {:?}; ask for f64", like.dtype());
        }
        let theta = self.base.unsqueeze(0)?.repeat((like.dim(0)?, 1))?;
        self.rbm.fits(like)?;
        self.rbm.states(&self.rbm.spec.visible.draw(&theta, z)?)
    }

    fn log_start(&self, v: &Tensor, _precision: f64) -> Result<Vec<f64>> {
        let (log_z, own) = (self.log_z_visible()?, self.rbm.spec.visible.own(&self.rbm.rows(v)?, &self.base)?);
        Ok(to_host(&own)?.iter().map(|own| -own - log_z).collect())
    }
}
