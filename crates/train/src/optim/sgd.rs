//! Gradient descent with momentum: b <- mu b + (1-damp) g, theta <- theta - lr b (Nesterov: lr (g + mu b)).
//! \[Sutskever13\], in PyTorch's form: the first b is g itself.

use super::{Optimiser, Piece, Update, fraction, not_negative};
use crate::inplace::Float;
use candle_core::{Result, Tensor, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Stochastic gradient descent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sgd {
    /// How much of the last direction is kept.
    pub momentum: f64,
    /// How much of a new gradient does not enter the direction.
    pub dampening: f64,
    /// Whether the gradient is followed as if after the momentum's step.
    pub nesterov: bool,
    /// Factor of the weight that is added to its gradient.
    pub weight_decay: f64,
}

impl Named for Sgd {
    const NAME: &'static str = "sgd";
    const ABOUT: &'static str = "gradient descent, with momentum if it is set [Sutskever13]";
}

impl Sgd {
    /// Factors of (b, g) in the new b, and of (b, g) in the direction.
    fn factors(&self, at: &Update) -> ([f64; 2], [f64; 2]) {
        let first = at.k == 1;
        let of_b = if first { [0., 1.] } else { [self.momentum, 1. - self.dampening] };
        (of_b, if self.nesterov { [self.momentum, 1.] } else { [1., 0.] })
    }

    fn numbers<T: Float>(&self, at: &Update, theta: &mut [T], g: &[T], slots: &mut [&mut [T]]) {
        let (lr, scale, decay) = (T::from_f64(at.lr), T::from_f64(at.scale), T::from_f64(self.weight_decay));
        let [b] = slots else {
            let plain = |(theta, &g): (&mut T, &T)| *theta -= lr * (g * scale + *theta * decay);
            return theta.iter_mut().zip(g).for_each(plain);
        };
        let (into_b, direction) = self.factors(at);
        let (into_b, direction) = (into_b.map(T::from_f64), direction.map(T::from_f64));
        for ((theta, &g), b) in theta.iter_mut().zip(g).zip(b.iter_mut()) {
            let g = g * scale + *theta * decay;
            *b = into_b[0] * *b + into_b[1] * g;
            *theta -= lr * (direction[0] * *b + direction[1] * g);
        }
    }
}

impl Optimiser for Sgd {
    fn slots(&self) -> &'static [&'static str] {
        if self.momentum > 0. { &["b"] } else { &[] }
    }

    fn fused(&self, at: &Update, piece: Piece) {
        match piece {
            Piece::F32(theta, g, slots) => self.numbers(at, theta, g, slots),
            Piece::F64(theta, g, slots) => self.numbers(at, theta, g, slots),
        }
    }

    fn compose(&self, at: &Update, theta: &Tensor, g: &Tensor, slots: &[Tensor]) -> Result<(Tensor, Vec<Tensor>)> {
        let theta = theta.detach();
        let g = ((g * at.scale)? + (&theta * self.weight_decay)?)?;
        let [b] = slots else { return Ok(((theta - (g * at.lr)?)?, vec![])) };
        let (into_b, direction) = self.factors(at);
        let b = ((b * into_b[0])? + (&g * into_b[1])?)?;
        let step = ((&b * direction[0])? + (g * direction[1])?)?;
        Ok(((theta - (step * at.lr)?)?, vec![b]))
    }

    fn check(&self) -> Result<()> {
        fraction("optimiser.momentum", self.momentum)?;
        fraction("optimiser.dampening", self.dampening)?;
        if self.nesterov && (self.momentum == 0. || self.dampening != 0.) {
            bail!("optimiser.nesterov needs a momentum above 0 and a dampening of 0");
        }
        not_negative("optimiser.weight_decay", self.weight_decay)
    }
}
