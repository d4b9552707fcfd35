//! What the CPU kernels share: reading any layout, memory without zeroing it, work on all cores.
//!
//! Rules of all kernels: work is cut by index into pieces that do not depend on the number of threads, and sums over
//! pieces are taken in the order of their index. Each number of a sample is computed by the same operations in the same
//! order whatever the number of samples, so which kernel runs depends on the sizes of a layer alone. A result is then the
//! same bit for bit on every run, and that of a sample in every batch.

#![allow(unsafe_code)]

pub(crate) mod act;
pub(crate) mod basic;
pub(crate) mod bits;
pub(crate) mod block;
pub(crate) mod conv;
pub(crate) mod direct;
pub(crate) mod fir;
pub(crate) mod matrix;
pub(crate) mod norm;
pub(crate) mod pointwise;
pub(crate) mod product;
pub(crate) mod resample;
pub(crate) mod winograd;

use crate::context::Context;
use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, WithDType, bail};
use pulp::Simd;
use rayon::prelude::*;
use std::borrow::Cow;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Neg;

/// The element types that have kernels.
pub(crate) trait Real: WithDType + Default + Neg<Output = Self> {
    /// A vector of them.
    type Vector<S: Simd>: Copy;
    fn exp(self) -> Self;
    fn abs(self) -> Self;
    /// The number in [0, 1) that a word of random bits stands for.
    fn unit(word: u32) -> Self;
    fn splat<S: Simd>(self, simd: S) -> Self::Vector<S>;
    /// a b + c, rounded once.
    fn fused<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>, c: Self::Vector<S>) -> Self::Vector<S>;
    fn plus<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
}

/// The vectors of an element type, by pulp's names for them.
macro_rules! vectors {
    ($vector:ident, $splat:ident, $mul_add:ident, $add:ident) => {
        type Vector<S: Simd> = S::$vector;
        #[inline(always)]
        fn splat<S: Simd>(self, simd: S) -> S::$vector {
            simd.$splat(self)
        }
        #[inline(always)]
        fn fused<S: Simd>(simd: S, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
            simd.$mul_add(a, b, c)
        }
        #[inline(always)]
        fn plus<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
            simd.$add(a, b)
        }
    };
}

impl Real for f32 {
    vectors!(f32s, splat_f32s, mul_add_f32s, add_f32s);
    /// To 2 ulp, without branches so that loops become vectors; 0 below -87, the same above 88. [Cephes, expf]
    #[inline(always)]
    #[allow(clippy::excessive_precision)]
    fn exp(self) -> f32 {
        const ROUND: f32 = 12_582_912.; // 1.5 2^23: adding it leaves the nearest integer in the low bits
        let x = self.clamp(-87., 88.);
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = x - n * 0.693359375 + n * 2.12194440e-4;
        let p = 1.9875691500e-4 * r + 1.3981999507e-3;
        let p = p * r + 8.3334519073e-3;
        let p = p * r + 4.1665795894e-2;
        let p = p * r + 1.6666665459e-1;
        let p = p * r + 5.0000001201e-1;
        let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
        if self < -87. { 0. } else { (p * r * r + r + 1.) * f32::from_bits(power) }
    }
    #[inline(always)]
    fn abs(self) -> f32 {
        self.abs()
    }
    /// Of 24 bits, all that are exact: it is below 1.
    #[inline(always)]
    fn unit(word: u32) -> f32 {
        (word >> 8).cast_signed() as f32 * 2f32.powi(-24)
    }
}

impl Real for f64 {
    vectors!(f64s, splat_f64s, mul_add_f64s, add_f64s);
    #[inline(always)]
    fn exp(self) -> f64 {
        self.exp()
    }
    #[inline(always)]
    fn abs(self) -> f64 {
        self.abs()
    }
    #[inline(always)]
    fn unit(word: u32) -> f64 {
        f64::from(word) * 2f64.powi(-32)
    }
}

/// Runs `f` compiled for the widest vectors of this CPU: a closure marked `#[inline(always)]`, or it is compiled for the
/// narrowest as everything else.
#[inline(always)]
pub(crate) fn wide<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Runs jobs 0..count on all cores, or here if their `work` (numbers touched, multiplied) would not pay for waking them.
pub(crate) fn each(count: usize, work: usize, job: impl Fn(usize) + Sync + Send) {
    if alone(count, work) { (0..count).for_each(job) } else { (0..count).into_par_iter().for_each(job) }
}

/// As [`each`], collecting what the jobs return in their order.
pub(crate) fn collect<R: Send>(count: usize, work: usize, job: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    if alone(count, work) {
        return (0..count).map(job).collect();
    }
    (0..count).into_par_iter().map(job).collect()
}

/// Gives `y` to `f` in pieces of `size` (the last may be shorter), each with the index where it begins.
pub(crate) fn pieces<T: Send>(y: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    if alone(y.len().div_ceil(size), y.len()) {
        return y.chunks_mut(size).enumerate().for_each(|(i, y)| f(i * size, y));
    }
    y.par_chunks_mut(size).enumerate().for_each(|(i, y)| f(i * size, y));
}

fn alone(count: usize, work: usize) -> bool {
    count <= 1 || work < SMALL || rayon::current_num_threads() == 1
}

/// Work that one core does in about the time that waking another takes.
const SMALL: usize = 1 << 15;

/// Elements of a piece of elementwise work.
pub(crate) const PIECE: usize = 1 << 13;

/// Whether an op on these tensors runs our kernels; else it is composed of candle's own ops.
pub(crate) fn native(tensors: &[&Tensor]) -> bool {
    !Context::now().composed
        && tensors.iter().all(|t| t.device().is_cpu() && matches!(t.dtype(), DType::F32 | DType::F64))
        && tensors.windows(2).all(|pair| pair[0].dtype() == pair[1].dtype())
}

/// The numbers of a tensor in row-major order, copied only if they do not lie so.
pub(crate) fn dense<'a, T: Real>(storage: &'a CpuStorage, layout: &Layout) -> Result<Cow<'a, [T]>> {
    let data = T::cpu_storage_as_slice(storage)?;
    if let Some((from, to)) = layout.contiguous_offsets() {
        return Ok(Cow::Borrowed(&data[from..to]));
    }
    let mut out = Vec::with_capacity(layout.shape().elem_count());
    gather(data, layout.start_offset(), layout.dims(), layout.stride(), &mut out);
    Ok(Cow::Owned(out))
}

fn gather<T: Copy>(data: &[T], offset: usize, dims: &[usize], stride: &[usize], out: &mut Vec<T>) {
    let run: usize = dims.iter().product();
    if Layout::new(dims.into(), stride.to_vec(), offset).is_contiguous() {
        return out.extend_from_slice(&data[offset..offset + run]);
    }
    match (dims, stride) {
        ([n], [s]) => out.extend((0..*n).map(|i| data[offset + i * s])),
        _ => (0..dims[0]).for_each(|i| gather(data, offset + i * stride[0], &dims[1..], &stride[1..], out)),
    }
}

/// Gives the numbers of CPU tensors of one type to `f`, in row-major order.
pub(crate) fn with<T: Real, R>(tensors: &[&Tensor], f: impl FnOnce(&[&[T]]) -> Result<R>) -> Result<R> {
    let stores: Vec<_> = tensors.iter().map(|t| t.storage_and_layout()).collect();
    let mut all = Vec::with_capacity(stores.len());
    for (storage, layout) in &stores {
        match &**storage {
            Storage::Cpu(storage) => all.push(dense::<T>(storage, layout)?),
            _ => bail!("a CPU kernel was given a tensor of another device"),
        }
    }
    f(&all.iter().map(|x| &**x).collect::<Vec<_>>())
}

/// `read!(tensors, T, |x| f(x), shape)`: a tensor of `shape` from the vector that `f` makes of the tensors' numbers, `T`
/// being their type.
macro_rules! read {
    ($tensors:expr, $t:ident, |$x:ident| $body:expr, $shape:expr) => {{
        let (tensors, shape) = ($tensors as &[&candle_core::Tensor], $shape);
        let device = tensors[0].device();
        match tensors[0].dtype() {
            candle_core::DType::F32 => {
                type $t = f32;
                let y = $crate::kernel::with(tensors, |$x: &[&[$t]]| Ok($body))?;
                candle_core::Tensor::from_vec(y, shape, device)
            }
            _ => {
                type $t = f64;
                let y = $crate::kernel::with(tensors, |$x: &[&[$t]]| Ok($body))?;
                candle_core::Tensor::from_vec(y, shape, device)
            }
        }
    }};
}
pub(crate) use read;

/// A vector of `n` numbers that `fill` writes, without being zeroed before.
///
/// # Safety
/// `fill` writes every number.
pub(crate) unsafe fn written<T: Copy>(n: usize, fill: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut out = Vec::with_capacity(n);
    fill(&mut out.spare_capacity_mut()[..n]);
    // SAFETY: the capacity is there, and the caller promises that `fill` wrote it all.
    unsafe { out.set_len(n) };
    out
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]);

thread_local! {
    static SCRATCH: Cell<Vec<Vec<MaybeUninit<Line>>>> = const { Cell::new(Vec::new()) };
}

/// Lends `n` unwritten numbers of this thread's scratch memory, which is kept for the next call at the same depth.
#[inline(always)]
pub(crate) fn scratch<T: Real, R>(n: usize, f: impl FnOnce(&mut [MaybeUninit<T>]) -> R) -> R {
    let mut kept = SCRATCH.take();
    let mut memory = kept.pop().unwrap_or_default();
    SCRATCH.set(kept);
    let lines = (n * size_of::<T>()).div_ceil(64);
    if memory.len() < lines {
        memory = Vec::with_capacity(lines);
        memory.resize(lines, MaybeUninit::uninit());
    }
    // SAFETY: `lines` cover `n` numbers, at an alignment of 64, and unwritten memory is what the type says.
    let result = f(unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), n) });
    let mut kept = SCRATCH.take();
    kept.push(memory);
    SCRATCH.set(kept);
    result
}

/// A pointer that threads share; each writes its own places.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub *mut T);
// SAFETY: the kernels that use it write disjoint places.
unsafe impl<T: Send> Send for Shared<T> {}
unsafe impl<T: Send> Sync for Shared<T> {}
impl<T> Shared<T> {
    /// The place `i`; a method, so that closures capture the whole and not the bare pointer.
    pub(crate) unsafe fn at(&self, i: usize) -> *mut T {
        // SAFETY: the caller keeps `i` inside the allocation.
        unsafe { self.0.add(i) }
    }
}
