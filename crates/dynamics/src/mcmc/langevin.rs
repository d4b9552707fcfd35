//! Unadjusted Langevin dynamics: x + eps score + sqrt(2 eps) z. [Roberts & Tweedie 1996]
//!
//! Its stationary density is off by O(eps): a normal of variance v gets v / (1 - eps/(2v)).

use super::{Chain, Kernel, Score, Stats};
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{combine, sum_per_sample, to_host};

/// x + eps score + sqrt(2 eps) z, `eps` one for all samples or one a sample: every corrector's step too.
pub fn langevin(x: &Tensor, score: &Tensor, eps: &[f64], z: &Tensor) -> Result<Tensor> {
    let noise: Vec<f64> = eps.iter().map(|eps| (2. * eps).sqrt()).collect();
    x + combine(eps, score, &noise, z)?
}

/// Langevin dynamics without a test of acceptance.
#[derive(Clone, Debug)]
pub struct Langevin {
    /// The step size eps.
    pub step: f64,
}

impl<M: Score + ?Sized> Kernel<M> for Langevin {
    fn step(&mut self, m: &M, chain: &mut Chain, z: &mut Noise) -> Result<Stats> {
        let proposal = langevin(&chain.x, &m.score(&chain.x)?, &[self.step], &z.normal_like(&chain.x)?)?.detach();
        // 0 x is 0 where x is finite, and NaN elsewhere
        let finite: Vec<bool> =
            to_host(&sum_per_sample(&(&proposal * 0.)?)?)?.into_iter().map(|zero| zero == 0.).collect();
        let nan = finite.iter().filter(|&&finite| !finite).count() as u64;
        chain.x = if nan == 0 { proposal } else { choose(&finite, &proposal, &chain.x)? };
        let proposed = finite.len() as u64;
        Ok(Stats { proposed, accepted: proposed - nan, nan, diverged: 0 })
    }
}

/// Sample by sample: `a` where `mask`, else `b`; what is not chosen may hold anything.
pub(crate) fn choose(mask: &[bool], a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mask: Vec<u8> = mask.iter().map(|&m| m.into()).collect();
    let mut dims = vec![1; a.rank()];
    dims[0] = mask.len();
    Tensor::from_vec(mask, dims, a.device())?.broadcast_as(a.shape())?.contiguous()?.where_cond(a, b)
}
