//! The random numbers of PyTorch's CPU generator: MT19937 [Matsumoto & Nishimura 1998], one generator a sample.
//!
//! 16 numbers or more come from pairs of uniform ones 8 apart, by Box and Muller's transform, in blocks of 16 of which
//! the last is moved back to end with the tensor and drawn anew; fewer one by one, in f64. f32 numbers are computed in
//! f32, and agree with PyTorch's to about 1e-6: its vector code rounds logarithms and cosines its own way.

use candle_core::DType;
use rand_mt::Mt;
use std::f64::consts::TAU;

/// `torch.Generator().manual_seed(seed)`.
#[derive(Clone, Debug)]
pub(super) struct Torch {
    bits: Mt,
    /// The second number of a pair, drawn one by one.
    next: Option<f64>,
}

impl Torch {
    pub fn new(seed: u64) -> Self {
        Self { bits: Mt::new(seed as u32), next: None } // the generator takes the low bits alone
    }

    /// Uniform on [0, 1), with the 24 bits of an f32 or the 53 of an f64.
    fn uniform_one(&mut self, dtype: DType) -> f64 {
        if dtype == DType::F64 {
            let (high, low) = (self.bits.next_u32(), self.bits.next_u32());
            let bits = (u64::from(high) << 32 | u64::from(low)) & ((1 << 53) - 1);
            return bits as f64 / (1u64 << 53) as f64;
        }
        f64::from(self.bits.next_u32() & ((1 << 24) - 1)) / f64::from(1 << 24)
    }

    /// `torch.rand`.
    pub fn uniform(&mut self, out: &mut [f64], dtype: DType) {
        out.fill_with(|| self.uniform_one(dtype));
    }

    /// `torch.randn`.
    pub fn normal(&mut self, out: &mut [f64], dtype: DType) {
        if out.len() < 16 {
            return out.fill_with(|| self.normal_one());
        }
        self.uniform(out, dtype);
        out.chunks_exact_mut(16).for_each(|block| box_muller(block, dtype));
        if !out.len().is_multiple_of(16) {
            let from = out.len() - 16;
            self.uniform(&mut out[from..], dtype);
            box_muller(&mut out[from..], dtype);
        }
    }

    fn normal_one(&mut self) -> f64 {
        if let Some(next) = self.next.take() {
            return next;
        }
        let (angle, u) = (TAU * self.uniform_one(DType::F64), self.uniform_one(DType::F64));
        let radius = (-2. * (-u).ln_1p()).sqrt();
        self.next = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// 16 uniform numbers to normal ones.
fn box_muller(block: &mut [f64], dtype: DType) {
    let (first, second) = block.split_at_mut(8);
    for (a, b) in first.iter_mut().zip(second) {
        (*a, *b) = if dtype == DType::F64 {
            let (radius, angle) = ((-2. * (1. - *a).ln()).sqrt(), TAU * *b);
            (radius * angle.cos(), radius * angle.sin())
        } else {
            let radius = (-2. * (1. - *a as f32).ln()).sqrt();
            let angle = TAU as f32 * *b as f32;
            (f64::from(radius * angle.cos()), f64::from(radius * angle.sin()))
        };
    }
}
