//! Changes of resolution, by reshapes and means: candle's own nearest upsampling loses gradients.

use candle_core::{Result, Tensor};

/// Each pixel twice in both directions: `[B, C, H, W] -> [B, C, 2H, 2W]`.
pub fn upsample_nearest(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    x.reshape((b, c, h, 1, w, 1))?.broadcast_as((b, c, h, 2, w, 2))?.contiguous()?.reshape((b, c, 2 * h, 2 * w))
}

/// Mean of each 2x2 block: `[B, C, H, W] -> [B, C, H/2, W/2]`; H and W are even.
pub fn downsample_mean(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    x.contiguous()?.reshape((b, c, h / 2, 2, w / 2, 2))?.mean(5)?.mean(3)
}
