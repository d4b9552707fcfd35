//! From independent bits to an RBM: f_t(v) = exp((1-t) v.a + t v.b) prod_j (1 + exp(t (c_j + (v W)_j))). \[Salakhutdinov08\]
//!
//! The base, at t = 0, has the logits a of the data's means and free hidden units; at t = 1 it is the machine itself. Annealed
//! importance sampling along it gives log Z, in f64.

use super::{Rbm, dot};
use candle_core::{DType, Result, Tensor, bail};
use langevin_dynamics::density::unclamped;
use langevin_dynamics::{Conditionals, Density, Energy, Ladder};
use langevin_ops::act::{softplus, softplus_sum};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;

/// Means of the data are taken no nearer to 0 and 1 than this.
const EDGE: f64 = 0.05;

/// The rungs, at rising t.
pub struct RbmLadder {
    rbm: Rbm,
    base: Tensor, // a, [V]
    betas: Vec<f64>,
}

impl RbmLadder {
    /// A rung for each of the rising `betas`, the first 0 and the last 1, of a copy of `rbm` in f64. `means` are those of the visible
    /// units over the data, `[V]`.
    ///
    /// Errors if `betas` are not so, or if the means are not one for each visible unit.
    pub fn new(rbm: &Rbm, means: &[f64], betas: Vec<f64>) -> Result<Self> {
        let rise = betas.windows(2).all(|pair| pair[0] < pair[1]);
        if !(rise && betas.first() == Some(&0.) && betas.last() == Some(&1.)) {
            bail!("the ladder of an RBM has powers that rise from 0 to 1, not {betas:?}");
        }
        let visible = rbm.spec().visible();
        if means.len() != visible {
            let n = means.len();
            bail!("the ladder of an RBM of {visible} visible units needs a mean of each, and there are {n}");
        }
        if let Some((i, mean)) = means.iter().enumerate().find(|(_, mean)| !(0. ..=1.).contains(*mean)) {
            bail!("the ladder of an RBM needs means from 0 to 1, and that of visible unit {i} is {mean}");
        }
        let logit = |mean: &f64| {
            let mean = mean.clamp(EDGE, 1. - EDGE);
            (mean / (1. - mean)).ln()
        };
        let base = Tensor::from_iter(means.iter().map(logit), rbm.device())?;
        Ok(Self { rbm: rbm.to_dtype(DType::F64)?, base, betas })
    }

    /// As [`RbmLadder::new`], with `rungs` >= 2 at even distances.
    pub fn even(rbm: &Rbm, means: &[f64], rungs: usize) -> Result<Self> {
        let last = rungs.saturating_sub(1);
        Self::new(rbm, means, (0..rungs).map(|i| i as f64 / last as f64).collect())
    }

    /// log Z of the first rung: H ln 2 + sum_i ln(1 + exp(a_i)).
    pub fn log_z_base(&self) -> Result<f64> {
        Ok(self.rbm.spec.hidden as f64 * 2f64.ln() + self.log_ones()?)
    }

    /// The normaliser of the visible units of the base.
    fn log_ones(&self) -> Result<f64> {
        softplus(&self.base)?.sum_all()?.to_scalar()
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
}

impl Energy for Rung<'_> {
    fn energy(&self, v: &Tensor) -> Result<Tensor> {
        let v = self.rbm.rows(v)?;
        let own = dot(&v, &self.rbm.visible_bias)?.detach() * self.beta;
        let visible = (own? + (dot(&v, self.base)? * (1. - self.beta))?)?;
        (visible + softplus_sum(&self.hidden_logits(&v)?)?)?.neg()
    }
}

impl Conditionals for Rung<'_> {
    fn blocks(&self) -> usize {
        1
    }

    fn draw(&self, _block: usize, v: &Tensor, clamped: Option<&Tensor>, z: &mut Noise) -> Result<Tensor> {
        let h = z.bernoulli(&self.hidden_logits(&self.rbm.rows(v)?)?)?;
        let logits = (self.rbm.visible_logits(&h)?.detach() * self.beta)?;
        let drawn = z.bernoulli(&logits.broadcast_add(&(self.base * (1. - self.beta))?)?)?;
        unclamped(v, drawn.reshape(v.shape())?, clamped)
    }
}

impl Density for Rung<'_> {
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
        let logits = self.base.unsqueeze(0)?.repeat((like.dim(0)?, 1))?;
        let drawn = z.bernoulli(&logits)?.reshape(like.shape())?;
        self.rbm.rows(&drawn)?;
        Ok(drawn)
    }

    fn log_start(&self, v: &Tensor, _precision: f64) -> Result<Vec<f64>> {
        let ones = self.log_ones()?;
        Ok(to_host(&dot(&self.rbm.rows(v)?, &self.base)?)?.iter().map(|own| own - ones).collect())
    }
}
