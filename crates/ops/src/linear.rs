//! Affine maps of the last dimension.

use candle_core::{Result, Tensor};

/// x w^T + bias: `x` `[..., I]`, `w` `[O, I]`, `bias` `[O]` -> `[..., O]`.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = w.dims2()?;
    let mut dims = x.dims().to_vec();
    let y = x.contiguous()?.reshape(((), inputs))?.matmul(&w.t()?)?;
    if let Some(last) = dims.last_mut() {
        *last = outputs;
    }
    let y = match bias {
        Some(b) => y.broadcast_add(b)?,
        None => y,
    };
    y.reshape(dims)
}
