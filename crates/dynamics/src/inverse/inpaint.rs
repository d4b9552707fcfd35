//! Inpainting: y is x where it is known, and nothing elsewhere. A is a projection: A^T = A, A A^T = I on what is known.
//!
//! The six masks are those of \[Lugmayr22\], table 1; the strokes of "wide" and "narrow" are drawn as in
//! \[Suvorov22, LaMa, 2109.07161\], always the same ones.

use super::{Operator, Task};
use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_ops::noise::generator;
use langevin_ops::registry::Named;
use langevin_ops::shape::to_host;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// Which parts of samples are known.
#[derive(Clone, Debug)]
pub struct Mask {
    kept: Tensor, // f64, 1 where known and 0 elsewhere
}

impl Mask {
    /// `kept` is 1 where a sample is known, 0 elsewhere, in the shape of samples: `[1, ...]`, or `[B, ...]` with a mask for
    /// each. Errors on other numbers.
    pub fn new(kept: &Tensor) -> Result<Self> {
        let numbers = to_host(kept)?;
        if kept.rank() < 2 || numbers.iter().any(|v| *v != 0. && *v != 1.) {
            bail!("a mask holds 1 where a sample is known and 0 elsewhere, in the shape [1, ...] of a sample");
        }
        Ok(Self { kept: kept.to_dtype(DType::F64)? })
    }

    /// 1 where known, 0 elsewhere, f64.
    pub fn kept(&self) -> &Tensor {
        &self.kept
    }
}

impl Operator for Mask {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        x.broadcast_mul(&self.kept.to_dtype(x.dtype())?.to_device(x.device())?)
    }

    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        self.apply(y)
    }

    fn gram(&self) -> Option<f64> {
        Some(1.)
    }

    fn norm2(&self) -> f64 {
        1.
    }

    fn show(&self, y: &Tensor) -> Result<Tensor> {
        let hidden = self.kept.affine(-1., 1.)?.to_dtype(y.dtype())?.to_device(y.device())?;
        self.apply(y)?.broadcast_add(&hidden)
    }
}

/// The usual masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskName {
    /// Hidden under a few thick strokes.
    Wide,
    /// Hidden under many thin strokes.
    Narrow,
    /// Known at every second pixel of every second row.
    SuperResolve,
    /// Known at every second row.
    Lines,
    /// The left half is known.
    #[default]
    Half,
    /// The middle is known, a quarter of either side.
    Expand,
}

impl MaskName {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Wide, Self::Narrow, Self::SuperResolve, Self::Lines, Self::Half, Self::Expand];

    /// As configurations name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wide => "wide",
            Self::Narrow => "narrow",
            Self::SuperResolve => "super-resolve",
            Self::Lines => "lines",
            Self::Half => "half",
            Self::Expand => "expand",
        }
    }

    /// The mask for images of `height` x `width`, row by row: whether a pixel is known.
    pub fn known(self, height: usize, width: usize) -> Vec<bool> {
        let side = height.min(width) as f64;
        let hidden = match self {
            Self::Wide => strokes(height, width, 3, 0.2 * side),
            Self::Narrow => strokes(height, width, 10, 0.045 * side),
            _ => vec![false; height * width],
        };
        let known = |i: usize, j: usize| match self {
            Self::Wide | Self::Narrow => !hidden[i * width + j],
            Self::SuperResolve => i.is_multiple_of(2) && j.is_multiple_of(2),
            Self::Lines => i.is_multiple_of(2),
            Self::Half => j < width / 2,
            Self::Expand => middle(i, height) && middle(j, width),
        };
        (0..height * width).map(|at| known(at / width, at % width)).collect()
    }
}

/// Whether `i` of `n` lies in the middle quarter.
fn middle(i: usize, n: usize) -> bool {
    let part = (n / 4).max(1);
    let first = (n - part) / 2;
    (first..first + part).contains(&i)
}

/// What lies within half of `thickness` of `number` broken lines of random turns, from a fixed seed.
fn strokes(height: usize, width: usize, number: usize, thickness: f64) -> Vec<bool> {
    let (mut rng, side) = (generator(0x6d61_736b, number as u64), height.min(width) as f64); // "mask" in ASCII
    let mut hidden = vec![false; height * width];
    for _ in 0..number {
        let mut at = [rng.random::<f64>() * height as f64, rng.random::<f64>() * width as f64];
        let mut angle = 2. * PI * rng.random::<f64>();
        for _ in 0..3 {
            angle += 0.8 * (rng.random::<f64>() - 0.5) * PI;
            let length = side * (0.15 + 0.2 * rng.random::<f64>());
            let to = [at[0] + length * angle.sin(), at[1] + length * angle.cos()];
            for (i, hidden) in hidden.iter_mut().enumerate() {
                let pixel = [(i / width) as f64 + 0.5, (i % width) as f64 + 0.5];
                *hidden |= distance(pixel, at, to) <= (0.5 * thickness).max(0.5);
            }
            at = [to[0].clamp(0., height as f64), to[1].clamp(0., width as f64)];
        }
    }
    hidden
}

/// From `p` to the line between `a` and `b`.
fn distance(p: [f64; 2], a: [f64; 2], b: [f64; 2]) -> f64 {
    let (along, to) = ([b[0] - a[0], b[1] - a[1]], [p[0] - a[0], p[1] - a[1]]);
    let length2 = (along[0] * along[0] + along[1] * along[1]).max(f64::MIN_POSITIVE);
    let part = ((along[0] * to[0] + along[1] * to[1]) / length2).clamp(0., 1.);
    (to[0] - part * along[0]).hypot(to[1] - part * along[1])
}

/// One of the usual masks; any other is a [`Mask`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Inpaint {
    /// "wide", "narrow", "super-resolve", "lines", "half" or "expand".
    pub mask: MaskName,
}

impl Named for Inpaint {
    const NAME: &'static str = "inpaint";
    const ABOUT: &'static str =
        "a whole picture from a part: masks wide, narrow, super-resolve, lines, half, expand [Lugmayr22]";
}

impl Task for Inpaint {
    fn key(&self) -> Option<&'static str> {
        Some("mask")
    }

    fn operator(&self, shape: &[usize]) -> Result<Box<dyn Operator>> {
        let [c, h, w] = super::along::image(Self::NAME, shape)?;
        let known: Vec<f64> = self.mask.known(h, w).into_iter().map(|known| f64::from(u8::from(known))).collect();
        let kept = Tensor::from_vec(known, (1, 1, h, w), &Device::Cpu)?;
        Ok(Box::new(Mask::new(&kept.broadcast_as((1, c, h, w))?.contiguous()?)?))
    }
}
