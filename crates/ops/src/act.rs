//! Smooth activations, exact for large arguments too.

use candle_core::{Result, Tensor};

/// x / (1 + exp(-x)).
pub fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}

/// ln(1 + exp(x)), without overflow.
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + (x.abs()?.neg()?.exp()? + 1.)?.log()?
}
