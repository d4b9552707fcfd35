//! Nearest up-sampling and mean down-sampling by two: up to a factor, each is the other's transpose.

use crate::kernel::{native, read, resample as cpu};
use crate::tape::{Backward, Op, Operand, Value, apply};
use candle_core::{Result, Tensor, bail};

/// Each pixel twice in both directions: `[B, C, H, W] -> [B, C, 2H, 2W]`.
pub fn upsample_nearest<T: Operand>(x: &T) -> Result<T> {
    let x = x.value();
    if x.dims().len() != 4 {
        bail!("upsample_nearest: expected [B, C, H, W], got {:?}", x.dims());
    }
    T::from_value(apply(Resample { up: true, scale: 1. }, &[&x])?)
}

/// Mean of each 2x2 block: `[B, C, H, W] -> [B, C, H/2, W/2]`; H and W are even.
pub fn downsample_mean<T: Operand>(x: &T) -> Result<T> {
    let x = x.value();
    match x.dims() {
        [_, _, h, w] if h % 2 != 0 || w % 2 != 0 => {
            bail!("downsample_mean: height and width must be even, got {h}x{w}")
        }
        [_, _, _, _] => T::from_value(apply(Resample { up: false, scale: 0.25 }, &[&x])?),
        other => bail!("downsample_mean: expected [B, C, H, W], got {other:?}"),
    }
}

/// `scale` times each pixel repeated over, or summed from, a 2x2 block.
#[derive(Clone, Copy)]
struct Resample {
    up: bool,
    scale: f64,
}

impl Op for Resample {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        let (b, c, h, w) = x[0].dims4()?;
        let to = if self.up { (b, c, 2 * h, 2 * w) } else { (b, c, h / 2, w / 2) };
        if native(x) {
            return read!(
                x,
                T,
                |x| {
                    let f = if self.up { cpu::repeat::<T> } else { cpu::gather::<T> };
                    f(x[0], w, <T as candle_core::WithDType>::from_f64(self.scale))
                },
                to
            );
        }
        let y = if self.up {
            x[0].contiguous()?.reshape((b, c, h, 1, w, 1))?.broadcast_as((b, c, h, 2, w, 2))?.contiguous()?
        } else {
            x[0].contiguous()?.reshape((b, c, h / 2, 2, w / 2, 2))?.sum(5)?.sum(3)?
        };
        y.reshape(to)? * self.scale
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        Ok(vec![at.wanted(0, || apply(Self { up: !self.up, ..*self }, &[at.g]))?])
    }

    fn cheap(&self) -> bool {
        self.up
    }
}
