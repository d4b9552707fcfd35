//! CPU kernels of resampling by two.

use super::{PIECE, Real, pieces, written};
use std::mem::MaybeUninit;

/// Rows of `width` numbers that make one piece of work.
fn rows_a_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// Each number of the rows of `width` twice, each row twice, times `scale`.
pub(crate) fn repeat<T: Real>(x: &[T], width: usize, scale: T) -> Vec<T> {
    let (rows, width) = (rows_a_piece(width), width.max(1));
    let fill = |y: &mut [MaybeUninit<T>]| {
        pieces(y, 4 * rows * width, |from, y| {
            for (y, x) in y.chunks_exact_mut(4 * width).zip(x[from / 4..].chunks_exact(width)) {
                let (first, second) = y.split_at_mut(2 * width);
                for ((a, b), &x) in first.chunks_exact_mut(2).zip(second.chunks_exact_mut(2)).zip(x) {
                    a.fill(MaybeUninit::new(scale * x));
                    b.fill(MaybeUninit::new(scale * x));
                }
            }
        });
    };
    // SAFETY: the pieces cover the output.
    unsafe { written(4 * x.len(), fill) }
}

/// The sum of each 2x2 block of the rows of `width`, times `scale`.
pub(crate) fn gather<T: Real>(x: &[T], width: usize, scale: T) -> Vec<T> {
    let (rows, width) = (rows_a_piece(width), width.max(2));
    let fill = |y: &mut [MaybeUninit<T>]| {
        pieces(y, rows * width / 2, |from, y| {
            for (y, x) in y.chunks_exact_mut(width / 2).zip(x[4 * from..].chunks_exact(2 * width)) {
                let (first, second) = x.split_at(width);
                for ((y, a), b) in y.iter_mut().zip(first.chunks_exact(2)).zip(second.chunks_exact(2)) {
                    *y = MaybeUninit::new(scale * (a[0] + a[1] + b[0] + b[1]));
                }
            }
        });
    };
    // SAFETY: the pieces cover the output.
    unsafe { written(x.len() / 4, fill) }
}
