//! CPU kernels of sums, products and copies.

use super::norm::sum;
use super::{PIECE, Real, Shared, each, pieces, wide, written};
use std::mem::MaybeUninit;

/// f(a, b) of each pair of numbers.
pub(crate) fn zip<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync) -> Vec<T> {
    let fill = |y: &mut [MaybeUninit<T>]| {
        pieces(y, PIECE, |from, y| {
            let to = from + y.len();
            wide(
                #[inline(always)]
                || {
                    for ((y, &a), &b) in y.iter_mut().zip(&a[from..to]).zip(&b[from..to]) {
                        *y = MaybeUninit::new(f(a, b));
                    }
                },
            );
        });
    };
    // SAFETY: the pieces cover the output.
    unsafe { written(a.len(), fill) }
}

/// `outer` rows, each the rows of the parts one after the other.
pub(crate) fn cat<T: Real>(parts: &[&[T]], outer: usize) -> Vec<T> {
    let size: usize = parts.iter().map(|x| x.len()).sum();
    let fill = |y: &mut [MaybeUninit<T>]| {
        let (y, row) = (Shared(y.as_mut_ptr().cast::<T>()), size / outer.max(1));
        each(outer, size, |i| {
            let mut at = i * row;
            for x in parts {
                let len = x.len() / outer;
                // SAFETY: the parts of row `i` fill it, in the output and beside no other.
                unsafe { std::ptr::copy_nonoverlapping(x[i * len..].as_ptr(), y.at(at), len) };
                at += len;
            }
        });
    };
    // SAFETY: the rows cover the output.
    unsafe { written(size, fill) }
}

/// The sums over the dimensions of `from` where `to` has size 1; between blocks and rows in f64.
pub(crate) fn sum_to<T: Real>(x: &[T], from: &[usize], to: &[usize]) -> Vec<T> {
    let mut sums = vec![0f64; to.iter().product()];
    if !x.is_empty() {
        add_to(x, from, to, &mut sums);
    }
    sums.into_iter().map(T::from_f64).collect()
}

fn add_to<T: Real>(x: &[T], from: &[usize], to: &[usize], sums: &mut [f64]) {
    match (from, to) {
        ([n], [1]) => sums[0] += sum(*n, |i| x[i]),
        ([_, rest @ ..], [kept, to @ ..]) if !rest.is_empty() => {
            let size = rest.iter().product();
            let step = if *kept == 1 { 0 } else { to.iter().product() };
            for (i, x) in x.chunks_exact(size).enumerate() {
                add_to(x, rest, to, &mut sums[i * step..]);
            }
        }
        _ => sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x.to_f64()),
    }
}
