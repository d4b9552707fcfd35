//! Smooth activations, exact for large arguments too.

use candle_core::{Result, Tensor};

/// x / (1 + exp(-x)).
pub fn silu(x: &Tensor) -> Result<Tensor> {
    x * sigmoid(x)?
}

/// 1 / (1 + exp(-x)).
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    ((x * 0.5)?.tanh()? * 0.5)? + 0.5
}

/// ln(1 + exp(x)), without overflow.
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + (x.abs()?.neg()?.exp()? + 1.)?.log()?
}

/// x Phi(x), Phi being the normal distribution function.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}
