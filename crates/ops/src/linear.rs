//! Affine maps of the last dimension.

use crate::product::product;
use candle_core::{Result, Tensor, bail};

/// x w^T + bias: `x` `[..., I]`, `w` `[O, I]`, `bias` `[O]` -> `[..., O]`.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = w.dims2()?;
    let mut dims = x.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last == inputs => *last = outputs,
        _ => bail!("linear: a weight [{outputs}, {inputs}] on an input of shape {:?}", x.dims()),
    }
    let x = if x.rank() == 2 { x.clone() } else { x.contiguous()?.reshape(((), inputs))? };
    let y = product(&x, w, [false, true])?;
    let y = match bias {
        Some(b) => y.broadcast_add(b)?,
        None => y,
    };
    if dims.len() == 2 { Ok(y) } else { y.reshape(dims) }
}
