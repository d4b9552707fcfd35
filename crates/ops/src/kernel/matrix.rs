//! Products of matrices that lie anywhere in memory, on this thread.
//!
//! c(r, j) = sum over k of a(r, k) b(k, j), term by term in the order of k, in parts of [`DEPTH`] terms that are added up
//! in their order. No number of the result depends on how many rows or columns there are, on the steps in memory, or on
//! where a tile of the work begins: rows that are samples have the same bits in any batch.

use super::block::{BLOCK, Product, transpose};
use super::{Real, scratch};
use candle_core::DType;
use pulp::{Arch, Simd, WithSimd};
use std::mem::MaybeUninit;

/// A matrix by its first element and the steps from row to row and from column to column.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<T> {
    pub at: *const T,
    pub row: usize,
    pub col: usize,
}

impl<T> Matrix<T> {
    /// The matrix from this element on.
    ///
    /// # Safety
    /// The element lies inside the allocation, or just behind.
    #[inline(always)]
    pub(crate) unsafe fn from(self, row: usize, col: usize) -> Self {
        // SAFETY: as promised by the caller.
        unsafe { Self { at: self.at.add(row * self.row + col * self.col), ..self } }
    }
}

/// Terms of a sum that are taken one by one. With [`PANEL`] blocks of columns they stay in the nearest cache.
const DEPTH: usize = 256;
/// Blocks of columns of b that are copied at a time.
const PANEL: usize = 2;

/// c = a b, or c += a b with `add`; `c` is `m` x `n` with its rows `row` apart, `a` has `k` columns.
///
/// # Safety
/// The matrices lie inside their allocations; `c` overlaps neither, and holds numbers if `add`.
pub(crate) unsafe fn gemm<T: Real>(
    sizes: (usize, usize, usize),
    c: (*mut T, usize),
    add: bool,
    a: Matrix<T>,
    b: Matrix<T>,
) {
    Arch::new().dispatch(Gemm { sizes, c, add, a, b });
}

struct Gemm<T> {
    sizes: (usize, usize, usize),
    c: (*mut T, usize),
    add: bool,
    a: Matrix<T>,
    b: Matrix<T>,
}

impl<T: Real> WithSimd for Gemm<T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let (m, n, k) = self.sizes;
        let depth = DEPTH.min(k);
        scratch(
            (PANEL * depth + m) * BLOCK,
            #[inline(always)]
            |memory: &mut [MaybeUninit<T>]| {
                let packed = memory.as_mut_ptr().cast::<T>();
                // SAFETY: the copy of b and a block of c are parts of the scratch memory; the rest is promised by the caller.
                unsafe {
                    let rest = packed.add(PANEL * depth * BLOCK);
                    if k == 0 && !self.add {
                        (0..m).for_each(|r| self.c.0.add(r * self.c.1).write_bytes(0, n));
                    }
                    for first in (0..k).step_by(DEPTH) {
                        let terms = DEPTH.min(k - first);
                        for column in (0..n).step_by(PANEL * BLOCK) {
                            self.panel(s, (first, terms), column, packed, rest);
                        }
                    }
                }
            },
        );
    }
}

impl<T: Real> Gemm<T> {
    /// Adds the terms from `first` on to the columns from `column` on; `rest` is memory for a block of c.
    #[inline(always)]
    unsafe fn panel<S: Simd>(&self, s: S, (first, terms): (usize, usize), column: usize, packed: *mut T, rest: *mut T) {
        let Self { sizes: (m, n, _), c: (c, step), a, b, .. } = *self;
        let columns = (n - column).min(PANEL * BLOCK);
        let (whole, left) = (columns / BLOCK, columns % BLOCK);
        let add = self.add || first > 0;
        // SAFETY: as promised by the caller.
        unsafe {
            for block in 0..columns.div_ceil(BLOCK) {
                let j = column + block * BLOCK;
                let from = Matrix { at: b.at.add(first * b.row + j * b.col), ..b };
                pack(from, (terms, BLOCK.min(n - j)), packed.add(block * terms * BLOCK));
            }
            let product = Product {
                a: a.at.add(first * a.col),
                steps: &[0],
                inner: terms,
                inner_step: a.col,
                b: packed,
                b_block: terms * BLOCK,
                c: c.add(column),
                c_block: BLOCK,
                add,
                apart: true,
            };
            product.run(
                s,
                m,
                whole,
                #[inline(always)]
                |r| [r * a.row, r * step],
            );
            if left == 0 {
                return;
            }
            let last = Product { b: packed.add(whole * terms * BLOCK), c: rest, add: false, ..product };
            last.run(
                s,
                m,
                1,
                #[inline(always)]
                |r| [r * a.row, r * BLOCK],
            );
            for r in 0..m {
                let (to, from) = (c.add(r * step + column + whole * BLOCK), rest.add(r * BLOCK));
                for j in 0..left {
                    let sum = *from.add(j);
                    to.add(j).write(if add { *to.add(j) + sum } else { sum });
                }
            }
        }
    }
}

/// Copies `terms` rows of `columns` <= 16 columns to `[row][16]`, with zeros in what is left.
///
/// # Safety
/// The rows lie inside their allocation; `to` has place for the copy.
#[inline(always)]
pub(super) unsafe fn pack<T: Real>(b: Matrix<T>, (terms, columns): (usize, usize), to: *mut T) {
    // SAFETY: as promised by the caller; the type is the same where pointers are cast.
    unsafe {
        if b.col == 1 && columns == BLOCK {
            (0..terms).for_each(|k| to.add(k * BLOCK).copy_from_nonoverlapping(b.at.add(k * b.row), BLOCK));
        } else if b.row == 1 && T::DTYPE == DType::F32 {
            for k in (0..terms).step_by(BLOCK) {
                let size = (columns, BLOCK.min(terms - k));
                transpose(size, b.at.add(k).cast(), b.col, to.add(k * BLOCK).cast(), BLOCK, true);
            }
        } else {
            for k in 0..terms {
                let (from, to) = (b.at.add(k * b.row), to.add(k * BLOCK));
                (0..columns).for_each(|j| to.add(j).write(*from.add(j * b.col)));
                (columns..BLOCK).for_each(|j| to.add(j).write(T::zero()));
            }
        }
    }
}
