//! Peak signal-to-noise ratio: 10 log10(range^2 / mean (a - b)^2), in decibels.

use candle_core::{Result, Tensor, bail};
use langevin_ops::shape::to_host;

/// Of each image of `a` against that of `b`, both `[B, ...]` with values in an interval of length `range`; infinite where
/// they are the same.
pub fn psnr(a: &Tensor, b: &Tensor, range: f64) -> Result<Vec<f64>> {
    if a.dims() != b.dims() || a.elem_count() == 0 {
        bail!("psnr of images {:?} and {:?}; give as many, of one size", a.dims(), b.dims());
    }
    let each = a.elem_count() / a.dim(0)?;
    let (a, b) = (to_host(a)?, to_host(b)?);
    let error = |(a, b): (&[f64], &[f64])| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / each as f64;
    Ok(a.chunks(each).zip(b.chunks(each)).map(|pair| 10. * (range * range / error(pair)).log10()).collect())
}
