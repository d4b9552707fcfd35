//! Tensors changed where they lie: one pass over the numbers of several tensors on the CPU.
//!
//! An optimiser's step reads a gradient and changes a weight and its moments. As a chain of tensor operations that is a
//! dozen passes over memory and as many allocations; here it is one.

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Tensor, WithDType, bail};
use rayon::prelude::*;
use std::cell::RefCell;

/// Numbers a thread takes at a time. Every element is computed alone, so the cut changes no bit.
const CHUNK: usize = 1 << 14;

/// f32 or f64, the types of trained weights on the CPU.
pub trait Float: WithDType {
    /// Square root.
    fn sqrt(self) -> Self;
    /// Its bits, widened.
    fn bits(self) -> u64;
    #[doc(hidden)]
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

impl Float for f32 {
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    fn bits(self) -> u64 {
        self.to_bits().into()
    }
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F32(v) = storage { Some(v) } else { None }
    }
}

impl Float for f64 {
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F64(v) = storage { Some(v) } else { None }
    }
}

type Then<'f, T> = &'f mut dyn FnMut(Vec<&mut [T]>);
type Held<'h, 'f, T> = (Vec<&'h mut [T]>, Then<'f, T>);

/// Locks the tensors one inside the other, then runs the function on all of their numbers.
struct Nest<'h, 'f, T> {
    rest: &'f [&'f Tensor],
    state: RefCell<Option<Held<'h, 'f, T>>>,
}

fn nest<T: Float>(held: Vec<&mut [T]>, tensors: &[&Tensor], f: Then<T>) -> Result<()> {
    let Some((first, rest)) = tensors.split_first() else {
        f(held);
        return Ok(());
    };
    first.inplace_op1(&Nest { rest, state: RefCell::new(Some((held, f))) })
}

impl<T: Float> InplaceOp1 for Nest<'_, '_, T> {
    fn name(&self) -> &'static str {
        "in-place pass"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((held, f)) = self.state.take() else { bail!("in-place pass: entered twice") };
        let Some((from, to)) = layout.contiguous_offsets() else {
            bail!("in-place pass: the tensor is not contiguous")
        };
        let dtype = T::DTYPE;
        let Some(numbers) = T::slice_mut(storage) else { bail!("in-place pass: the tensor is not {dtype:?}") };
        let mut held: Vec<&mut [T]> = held;
        held.push(&mut numbers[from..to]);
        nest(held, self.rest, f)
    }
}

/// Whether [`pass`] can work on `t` with numbers of type `T`.
pub(crate) fn fits<T: Float>(t: &Tensor) -> bool {
    matches!(t.device(), Device::Cpu) && t.dtype() == T::DTYPE && t.is_contiguous()
}

/// Runs `f` on equal pieces of `targets`, on all cores. The targets have one size and separate storage, and [`fits`]
/// holds for each.
pub(crate) fn pass<T: Float>(targets: &[&Tensor], f: impl Fn(usize, &mut [&mut [T]]) + Sync) -> Result<()> {
    let mut run = |all: Vec<&mut [T]>| {
        let n = all.first().map_or(0, |v| v.len());
        if n <= 2 * CHUNK {
            let mut all = all;
            return f(0, &mut all);
        }
        let mut pieces: Vec<Vec<&mut [T]>> = (0..n.div_ceil(CHUNK)).map(|_| Vec::with_capacity(all.len())).collect();
        for v in all {
            v.chunks_mut(CHUNK).zip(&mut pieces).for_each(|(chunk, piece)| piece.push(chunk));
        }
        pieces.par_iter_mut().enumerate().for_each(|(i, piece)| f(i * CHUNK, piece));
    };
    nest(Vec::with_capacity(targets.len()), targets, &mut run)
}

/// The numbers of `t` handed to `f` where they lie, if [`fits`] holds.
pub(crate) fn read<T: Float, R>(t: &Tensor, f: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = t.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (candle_core::Storage::Cpu(s), Some((from, to))) => Ok(f(&T::cpu_storage_as_slice(s)?[from..to])),
        _ => bail!("in-place pass: a source is not contiguous on the CPU"),
    }
}

/// Puts `source` in the place of `target`'s numbers: same shape, dtype and device.
pub(crate) fn set(target: &Tensor, source: &Tensor) -> Result<()> {
    target.flatten_all()?.slice_set(&source.contiguous()?.flatten_all()?, 0, 0)
}

/// Exchanges the numbers of `a` and `b`, which have separate storage.
pub(crate) fn swap(a: &Tensor, b: &Tensor) -> Result<()> {
    fn here<T: Float>(a: &Tensor, b: &Tensor) -> Result<()> {
        pass::<T>(&[a, b], |_, both| {
            if let [a, b] = both {
                a.swap_with_slice(b);
            }
        })
    }
    if fits::<f32>(a) && fits::<f32>(b) {
        here::<f32>(a, b)
    } else if fits::<f64>(a) && fits::<f64>(b) {
        here::<f64>(a, b)
    } else {
        let kept = a.copy()?;
        set(a, b)?;
        set(b, &kept)
    }
}

/// Chunks whose sums grow side by side: none waits for another.
const BESIDE: usize = 8;

/// Sum of the squares of all numbers, in f64, chunk by chunk; the order of summation does not depend on the number of threads.
pub(crate) fn sum_of_squares(tensors: &[Tensor]) -> Result<f64> {
    fn square<T: Float>(v: &T) -> f64 {
        v.to_f64() * v.to_f64()
    }
    /// The sums of at most [`BESIDE`] chunks, of which the last may be shorter.
    fn sums<T: Float>(some: &[T]) -> impl Iterator<Item = f64> {
        let chunks: Vec<&[T]> = some.chunks(CHUNK).collect();
        let (count, short) = (chunks.len(), chunks.last().map_or(0, |last| last.len()));
        // where there is no chunk, or no more of it, another is added up in its place
        let mut beside: [&[T]; BESIDE] = std::array::from_fn(|j| chunks.get(j).map_or(chunks[0], |chunk| chunk));
        let mut sums = [0.; BESIDE];
        let add = |sums: &mut [f64; BESIDE], beside: [&[T]; BESIDE]| {
            for i in 0..beside[0].len() {
                sums.iter_mut().zip(beside).for_each(|(sum, chunk)| *sum += square(&chunk[i]));
            }
        };
        add(&mut sums, beside.map(|chunk| &chunk[..short]));
        let last = sums[count - 1];
        beside[count - 1] = chunks[0];
        if count > 1 {
            add(&mut sums, beside.map(|chunk| &chunk[short..]));
        }
        sums[count - 1] = last;
        sums.into_iter().take(count)
    }
    fn here<T: Float>(t: &Tensor) -> Result<f64> {
        read::<T, f64>(t, |v| {
            if v.len() <= 2 * CHUNK {
                return v.iter().map(square).sum();
            }
            v.par_chunks(BESIDE * CHUNK).flat_map_iter(sums).collect::<Vec<_>>().iter().sum()
        })
    }
    let mut total = 0.;
    let mut elsewhere = Vec::new();
    for t in tensors {
        let t = t.contiguous()?;
        match () {
            () if fits::<f32>(&t) => total += here::<f32>(&t)?,
            () if fits::<f64>(&t) => total += here::<f64>(&t)?,
            () => elsewhere.push(t.to_dtype(candle_core::DType::F32)?.sqr()?.sum_all()?),
        }
    }
    if !elsewhere.is_empty() {
        total += Tensor::stack(&elsewhere, 0)?.to_vec1::<f32>()?.iter().map(|&v| f64::from(v)).sum::<f64>();
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Chunks beside each other have the bits that they have one after the other.
    #[test]
    fn sums_of_squares_are_those_of_chunks_in_order() -> Result<()> {
        let sizes = [1, CHUNK, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1, BESIDE * CHUNK - 1, BESIDE * CHUNK];
        for n in sizes.into_iter().chain([BESIDE * CHUNK + 1, 2 * BESIDE * CHUNK + 5]) {
            let v: Vec<f32> = (0..n).map(|i| ((i as f32) * 0.7).sin() * 3.).collect();
            let square = |v: &f32| f64::from(*v) * f64::from(*v);
            let plain: f64 = match n <= 2 * CHUNK {
                true => v.iter().map(square).sum(),
                false => v.chunks(CHUNK).map(|chunk| chunk.iter().map(square).sum::<f64>()).sum(),
            };
            let found = sum_of_squares(&[Tensor::from_vec(v, n, &Device::Cpu)?])?;
            assert_eq!(found.to_bits(), plain.to_bits(), "{n} numbers");
        }
        Ok(())
    }
}
