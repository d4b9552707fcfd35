//! AdamW: Adam whose weight decay stands beside the moments: theta <- (1 - lr wd) theta, then Adam's step.
//! \[Loshchilov19, Alg. 2\]

use super::adam::{Moments, compose, fused};
use super::{Optimiser, Piece, Update, fraction, not_negative, positive_eps};
use candle_core::{Result, Tensor};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Adaptive moments with decoupled weight decay.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamW {
    /// Decay of the first and of the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Part of the weight that a step at learning rate 1 takes away.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 }
    }
}

impl Named for AdamW {
    const NAME: &'static str = "adamw";
    const ABOUT: &'static str = "adaptive moments with decoupled weight decay [Loshchilov19]";
}

impl Optimiser for AdamW {
    fn slots(&self) -> &'static [&'static str] {
        &["m", "v"]
    }

    fn fused(&self, at: &Update, piece: Piece) {
        fused(&Moments::new(self.betas, self.eps, at), 1. - at.lr * self.weight_decay, 0., piece);
    }

    fn compose(&self, at: &Update, theta: &Tensor, g: &Tensor, slots: &[Tensor]) -> Result<(Tensor, Vec<Tensor>)> {
        compose(&Moments::new(self.betas, self.eps, at), 1. - at.lr * self.weight_decay, 0., theta, g, slots)
    }

    fn check(&self) -> Result<()> {
        fraction("optimiser.betas[0]", self.betas[0])?;
        fraction("optimiser.betas[1]", self.betas[1])?;
        positive_eps(self.eps)?;
        not_negative("optimiser.weight_decay", self.weight_decay)
    }
}
