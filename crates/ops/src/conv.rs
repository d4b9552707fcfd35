//! 2-D convolution, its input gradient and its weight gradient: three bilinear ops, closed under differentiation.

use candle_core::{Result, Tensor};

/// Stride and zero padding of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Step of the kernel, in both directions.
    pub stride: usize,
    /// Zeros added at the top, bottom, left and right.
    pub pad: [usize; 4],
}

impl Geometry {
    /// Stride 1 and the padding that keeps height and width under an odd kernel of `size`.
    pub fn same(size: usize) -> Self {
        Self { stride: 1, pad: [size / 2; 4] }
    }
}

/// Convolution of `x` `[B, C, H, W]` with `w` `[O, C, kh, kw]` plus `bias` `[O]` -> `[B, O, H', W']`.
pub fn conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, geometry: Geometry) -> Result<Tensor> {
    let Geometry { stride, pad: [top, bottom, left, right] } = geometry;
    let x = x.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)?.contiguous()?;
    let y = x.conv2d(w, 0, stride, 1, 1)?;
    match bias {
        Some(b) => y.broadcast_add(&b.reshape((1, (), 1, 1))?),
        None => Ok(y),
    }
}
