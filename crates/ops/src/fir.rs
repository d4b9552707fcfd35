//! Resampling with a separable filter: zeros between the pixels, a short filter, every n-th pixel kept (upfirdn).
//!
//! The transpose of such a map is one again, with up and down exchanged, so the op is its own derivative of any order.

use crate::kernel::fir::{Taps, apply as cpu};
use crate::kernel::{native, read};
use crate::tape::{Backward, Op, Operand, Value, apply};
use candle_core::{DType, Device, Result, Tensor, bail};

/// The filter of StyleGAN2 and NCSN++, for a factor of two.
pub const BINOMIAL: [f64; 4] = [1., 3., 3., 1.];

/// `x` `[B, C, H, W]` with `up - 1` zeros after each pixel, padded by `pad` zeros before and after (less than 0: cut),
/// convolved with `taps` in both directions, every `down`-th pixel kept: `[B, C, H', W']` with
/// H' = (H up + pad\[0\] + pad\[1\] - taps) / down + 1. [Karras et al. 2019, 1912.04958, upfirdn2d]
pub fn upfirdn<T: Operand>(x: &T, taps: &[f64], up: usize, down: usize, pad: [isize; 2]) -> Result<T> {
    let x = x.value();
    let &[_, _, h, w] = x.dims() else { bail!("upfirdn: expected [B, C, H, W], got {:?}", x.dims()) };
    if taps.is_empty() || up == 0 || down == 0 {
        bail!("upfirdn: {} taps, up {up}, down {down}; each must be at least 1", taps.len());
    }
    let size = |n: usize| {
        let all = (n * up) as isize + pad[0] + pad[1] - taps.len() as isize;
        if all < 0 {
            bail!("upfirdn: {} taps do not fit on {h}x{w} pixels, up {up}, padding {pad:?}", taps.len())
        }
        Ok(all as usize / down + 1)
    };
    let taps = taps.iter().rev().copied().collect(); // a convolution turns its filter round
    let op = Fir { taps, up, down, pad: pad[0], from: [h, w], to: [size(h)?, size(w)?] };
    T::from_value(apply(op, &[&x])?)
}

/// `factor` times as many pixels in both directions, smoothed by `taps` (scaled to keep the mean).
/// [NCSN++: Song et al. 2020, 2011.13456, upsample_2d]
pub fn upsample<T: Operand>(x: &T, taps: &[f64], factor: usize) -> Result<T> {
    let over = over("fir::upsample", taps, factor)?;
    let pad = [(over + 1) / 2 + factor as isize - 1, over / 2];
    upfirdn(x, &scaled(taps, factor as f64), factor, 1, pad)
}

/// One pixel of `factor` in both directions, smoothed by `taps` (scaled to keep the mean).
/// [NCSN++: Song et al. 2020, 2011.13456, downsample_2d]
pub fn downsample<T: Operand>(x: &T, taps: &[f64], factor: usize) -> Result<T> {
    let over = over("fir::downsample", taps, factor)?;
    upfirdn(x, &scaled(taps, 1.), 1, factor, [(over + 1) / 2, over / 2])
}

/// By how much the filter is longer than the factor.
fn over(op: &str, taps: &[f64], factor: usize) -> Result<isize> {
    if factor == 0 || taps.is_empty() || taps.iter().sum::<f64>() == 0. {
        bail!("{op}: the factor must be at least 1 and the taps must not sum to 0, got {factor} and {taps:?}");
    }
    Ok(taps.len() as isize - factor as isize)
}

fn scaled(taps: &[f64], gain: f64) -> Vec<f64> {
    let sum: f64 = taps.iter().sum();
    taps.iter().map(|t| t * gain / sum).collect()
}

/// In both directions y_i = sum_k taps_k x_j over the j with j up = i down + k - pad.
struct Fir {
    taps: Vec<f64>,
    up: usize,
    down: usize,
    pad: isize,
    from: [usize; 2],
    to: [usize; 2],
}

impl Fir {
    fn transposed(&self) -> Self {
        let taps: Vec<f64> = self.taps.iter().rev().copied().collect();
        let pad = taps.len() as isize - 1 - self.pad;
        Self { taps, pad, up: self.down, down: self.up, from: self.to, to: self.from }
    }

    /// For each output along dimension `axis`, the inputs it is made of.
    fn rows(&self, axis: usize) -> Vec<Taps> {
        let row = |i: usize| {
            let begin = (i * self.down) as isize - self.pad;
            let of = |(k, &tap): (usize, &f64)| {
                let at = begin + k as isize;
                let j = usize::try_from(at).ok().filter(|at| at % self.up == 0)? / self.up;
                (j < self.from[axis]).then_some((j, tap))
            };
            self.taps.iter().enumerate().filter_map(of).collect()
        };
        (0..self.to[axis]).map(row).collect()
    }

    /// The map along dimension `axis` as a matrix.
    fn matrix(&self, axis: usize, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut matrix = vec![0.; self.to[axis] * self.from[axis]];
        for (row, taps) in matrix.chunks_mut(self.from[axis].max(1)).zip(self.rows(axis)) {
            taps.into_iter().for_each(|(j, tap)| row[j] += tap);
        }
        Tensor::from_vec(matrix, (self.to[axis], self.from[axis]), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
    }
}

impl Op for Fir {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        let (b, c, h, w) = x[0].dims4()?;
        let to = (b, c, self.to[0], self.to[1]);
        if native(x) {
            return read!(x, T, |x| cpu::<T>(x[0], [h, w], &self.rows(0), &self.rows(1)), to);
        }
        let [down, across] = [0, 1].map(|axis| self.matrix(axis, x[0].dtype(), x[0].device()));
        // x A^T for all rows at once, then A' x for each picture
        let x = x[0].contiguous()?.reshape((b * c * h, w))?.matmul(&across?.t()?)?;
        let x = x.reshape((b * c, h, self.to[1]))?;
        down?.broadcast_as((b * c, self.to[0], h))?.contiguous()?.matmul(&x)?.reshape(to)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        Ok(vec![at.wanted(0, || apply(self.transposed(), &[at.g]))?])
    }

    fn cheap(&self) -> bool {
        self.up > 1
    }
}
