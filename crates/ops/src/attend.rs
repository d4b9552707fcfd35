//! Softmax and attention.

use candle_core::{D, Result, Tensor};

/// Softmax over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

/// softmax(scale q k^T) v: `q` `[B, heads, N, D]`, `k` `[B, heads, M, D]`, `v` `[B, heads, M, E]` -> `[B, heads, N, E]`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    let scores = (q.contiguous()? * scale)?.matmul(&k.t()?.contiguous()?)?;
    softmax(&scores)?.matmul(&v.contiguous()?)
}
