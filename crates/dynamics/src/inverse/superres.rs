//! Super-resolution: y is the mean of each block of f x f pixels. Its rows have squared norm 1/f^2, so A A^T = I / f^2.

use super::along::{Along, Separable, image};
use super::{Operator, Task};
use candle_core::{Device, Result, Tensor, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Averages over blocks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SuperRes {
    /// Side of a block in pixels.
    pub factor: usize,
}

impl Default for SuperRes {
    fn default() -> Self {
        Self { factor: 2 }
    }
}

impl Named for SuperRes {
    const NAME: &'static str = "superres";
    const ABOUT: &'static str = "a picture from a smaller one: y is the mean of each block of factor x factor pixels";
}

impl Task for SuperRes {
    fn key(&self) -> Option<&'static str> {
        Some("factor")
    }

    fn operator(&self, shape: &[usize]) -> Result<Box<dyn Operator>> {
        let [c, h, w] = image(Self::NAME, shape)?;
        let f = self.factor;
        if f < 2 || !h.is_multiple_of(f) || !w.is_multiple_of(f) {
            bail!("superres: factor is {f}; it must be 2 or more and divide both sides of images of {h}x{w}");
        }
        let mean = |n: usize| {
            let entry = |ij: usize| if ij % n / f == ij / n { 1. / f as f64 } else { 0. };
            Tensor::from_iter((0..n / f * n).map(entry), &Device::Cpu)?.reshape((n / f, n))
        };
        let parts = vec![Along::new(2, &mean(h)?)?, Along::new(3, &mean(w)?)?];
        Ok(Box::new(Separable::new(parts, Some(1. / (f * f) as f64))?.repeated([c, h, w])))
    }
}
