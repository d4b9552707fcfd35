//! Nearest up-sampling and mean down-sampling by two: up to a factor, each is the other's transpose.

use crate::grad::cut;
use crate::kernel::{Real, dense, native, resample as cpu};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

/// Each pixel twice in both directions: `[B, C, H, W] -> [B, C, 2H, 2W]`.
pub fn upsample_nearest(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    if native(&[x]) {
        return x.apply_op1(Resample { up: true, scale: 1. });
    }
    x.reshape((b, c, h, 1, w, 1))?.broadcast_as((b, c, h, 2, w, 2))?.contiguous()?.reshape((b, c, 2 * h, 2 * w))
}

/// Mean of each 2x2 block: `[B, C, H, W] -> [B, C, H/2, W/2]`; H and W are even.
pub fn downsample_mean(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    if h % 2 != 0 || w % 2 != 0 {
        bail!("downsample_mean: height and width must be even, got {h}x{w}");
    }
    if native(&[x]) {
        return x.apply_op1(Resample { up: false, scale: 0.25 });
    }
    x.contiguous()?.reshape((b, c, h / 2, 2, w / 2, 2))?.mean(5)?.mean(3)
}

/// `scale` times each pixel repeated over, or summed from, a 2x2 block.
#[derive(Clone, Copy)]
struct Resample {
    up: bool,
    scale: f64,
}

impl CustomOp1 for Resample {
    fn name(&self) -> &'static str {
        if self.up { "upsample" } else { "downsample" }
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        fn typed<T: Real>(op: &Resample, s: &CpuStorage, l: &Layout, width: usize) -> Result<CpuStorage> {
            let (x, scale) = (dense::<T>(s, l)?, T::from_f64(op.scale));
            let y = if op.up { cpu::repeat(&x, width, scale) } else { cpu::gather(&x, width, scale) };
            Ok(T::to_cpu_storage_owned(y))
        }
        let (b, c, h, w) = l.shape().dims4()?;
        let y = match s {
            CpuStorage::F32(_) => typed::<f32>(self, s, l, w)?,
            CpuStorage::F64(_) => typed::<f64>(self, s, l, w)?,
            other => bail!("{}: no CPU kernel for {:?}", self.name(), other.dtype()),
        };
        Ok((y, if self.up { (b, c, 2 * h, 2 * w) } else { (b, c, h / 2, w / 2) }.into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(cut(g).apply_op1(Self { up: !self.up, ..*self })?))
    }
}
