//! Adam: m <- b1 m + (1-b1) g, v <- b2 v + (1-b2) g^2, theta <- theta - lr (m / (1-b1^k)) / (sqrt(v / (1-b2^k)) + eps).
//! \[Kingma14, Alg. 1\]; weight decay adds to the gradient.

use super::{Optimiser, Piece, Update, fraction, not_negative, positive_eps};
use crate::inplace::Float;
use candle_core::{Result, Tensor};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Adaptive moments.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adam {
    /// Decay of the first and of the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Factor of the weight that is added to its gradient.
    pub weight_decay: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Self { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0. }
    }
}

impl Named for Adam {
    const NAME: &'static str = "adam";
    const ABOUT: &'static str = "adaptive moments; weight decay through the gradient [Kingma14]";
}

impl Optimiser for Adam {
    fn slots(&self) -> &'static [&'static str] {
        &["m", "v"]
    }

    fn fused(&self, at: &Update, piece: Piece) {
        fused(&Moments::new(self.betas, self.eps, at), 1., self.weight_decay, piece);
    }

    fn compose(&self, at: &Update, theta: &Tensor, g: &Tensor, slots: &[Tensor]) -> Result<(Tensor, Vec<Tensor>)> {
        compose(&Moments::new(self.betas, self.eps, at), 1., self.weight_decay, theta, g, slots)
    }

    fn check(&self) -> Result<()> {
        fraction("optimiser.betas[0]", self.betas[0])?;
        fraction("optimiser.betas[1]", self.betas[1])?;
        positive_eps(self.eps)?;
        not_negative("optimiser.weight_decay", self.weight_decay)
    }
}

/// The numbers of one update that every element shares.
pub(super) struct Moments {
    betas: [f64; 2],
    eps: f64,
    scale: f64,
    step: f64,
    root: f64, // sqrt(1 - b2^k)
}

impl Moments {
    pub(super) fn new(betas: [f64; 2], eps: f64, at: &Update) -> Self {
        let correction = |beta: f64| 1. - beta.powf(at.k as f64);
        Self { betas, eps, scale: at.scale, step: at.lr / correction(betas[0]), root: correction(betas[1]).sqrt() }
    }
}

/// `keep`: what is left of the weight before the step; `decay`: what of it is added to the gradient.
pub(super) fn fused(m: &Moments, keep: f64, decay: f64, piece: Piece) {
    match piece {
        Piece::F32(theta, g, slots) => numbers(m, keep, decay, theta, g, slots),
        Piece::F64(theta, g, slots) => numbers(m, keep, decay, theta, g, slots),
    }
}

fn numbers<T: Float>(shared: &Moments, keep: f64, decay: f64, theta: &mut [T], g: &[T], slots: &mut [&mut [T]]) {
    let [m, v] = slots else { return };
    let [b1, b2] = shared.betas;
    let (one_b1, one_b2, b2) = (T::from_f64(1. - b1), T::from_f64(1. - b2), T::from_f64(b2));
    let (keep, decay, scale) = (T::from_f64(keep), T::from_f64(decay), T::from_f64(shared.scale));
    let (step, root, eps) = (T::from_f64(shared.step), T::from_f64(shared.root), T::from_f64(shared.eps));
    for (((theta, &g), m), v) in theta.iter_mut().zip(g).zip(m.iter_mut()).zip(v.iter_mut()) {
        let g = g * scale + *theta * decay;
        let kept = *theta * keep;
        *m += one_b1 * (g - *m);
        *v = *v * b2 + one_b2 * g * g;
        *theta = kept - step * (*m / (v.sqrt() / root + eps));
    }
}

pub(super) fn compose(
    shared: &Moments,
    keep: f64,
    decay: f64,
    theta: &Tensor,
    g: &Tensor,
    slots: &[Tensor],
) -> Result<(Tensor, Vec<Tensor>)> {
    let [m, v] = slots else { candle_core::bail!("adam: {} moments for 2", slots.len()) };
    let [b1, b2] = shared.betas;
    let theta = theta.detach();
    let g = ((g * shared.scale)? + (&theta * decay)?)?;
    let m = ((m * b1)? + (&g * (1. - b1))?)?;
    let v = ((v * b2)? + (g.sqr()? * (1. - b2))?)?;
    let direction = (&m / ((v.sqrt()? / shared.root)? + shared.eps)?)?;
    Ok((((theta * keep)? - (direction * shared.step)?)?, vec![m, v]))
}
