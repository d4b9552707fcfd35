//! CPU kernels of batched matrix products and of softmax over rows.

use super::matrix::{Matrix, gemm};
use super::{Real, Shared, each, pieces, wide, written};
use candle_core::Layout;
use std::mem::MaybeUninit;

/// A batch of matrices in memory: where each begins, and the steps inside.
pub(crate) struct Matrices<'a, T> {
    data: &'a [T],
    layout: &'a Layout,
    transposed: bool,
}

impl<'a, T: Real> Matrices<'a, T> {
    pub(crate) fn new(data: &'a [T], layout: &'a Layout, transposed: bool) -> Self {
        Self { data, layout, transposed }
    }

    /// Matrix `n` of the batch; `n` counts row-major over all dimensions but the last two.
    pub(crate) fn get(&self, mut n: usize) -> Matrix<T> {
        let rank = self.layout.dims().len();
        let (dims, strides) = (self.layout.dims(), self.layout.stride());
        let mut offset = self.layout.start_offset();
        for d in (0..rank - 2).rev() {
            offset += n % dims[d] * strides[d];
            n /= dims[d];
        }
        let (row, col) = (strides[rank - 2], strides[rank - 1]);
        let (row, col) = if self.transposed { (col, row) } else { (row, col) };
        Matrix { at: self.data[offset..].as_ptr(), row, col }
    }
}

/// Rows of a product that one job computes, at most, the columns at least, and jobs that each thread should have. Not the bits,
/// only the time depends on them.
const ROWS: usize = 128;
const COLUMNS: usize = 64;
const SHARE: usize = 2;

/// c = scale a b for `batch` matrices: `m` x `k` times `k` x `n`.
pub(crate) fn product<T: Real>(
    batch: usize,
    (m, n, k): (usize, usize, usize),
    a: &Matrices<T>,
    b: &Matrices<T>,
    scale: T,
) -> Vec<T> {
    let size = batch * m * n;
    if size == 0 || k == 0 {
        return vec![T::zero(); size];
    }
    let parts = m.div_ceil(ROWS);
    let wide = n.div_ceil((SHARE * rayon::current_num_threads()).div_ceil(batch * parts)).next_multiple_of(COLUMNS);
    let across = n.div_ceil(wide);
    let fill = |c: &mut [MaybeUninit<T>]| {
        let c = Shared(c.as_mut_ptr().cast::<T>());
        each(batch * parts * across, size * k, |job| {
            let (i, part, column) = (job / (parts * across), job / across % parts, job % across * wide);
            let (row, end) = (part * m / parts, (part + 1) * m / parts);
            let columns = wide.min(n - column);
            // SAFETY: the layouts say where the matrices lie; each job writes its own rows and columns, all of them.
            unsafe {
                let (a, b) = (a.get(i).from(row, 0), b.get(i).from(0, column));
                let c = c.at((i * m + row) * n + column);
                gemm((end - row, columns, k), (c, n), false, a, b);
                if scale != T::one() {
                    for r in 0..end - row {
                        std::slice::from_raw_parts_mut(c.add(r * n), columns).iter_mut().for_each(|v| *v *= scale);
                    }
                }
            }
        });
    };
    // SAFETY: the jobs cover the output.
    unsafe { written(size, fill) }
}

/// Applies `f` to rows of `n` numbers of each input, many rows a job.
fn rows<T: Real, const N: usize>(
    n: usize,
    inputs: [&[T]; N],
    f: impl Fn([&[T]; N], &mut [MaybeUninit<T>]) + Sync,
) -> Vec<T> {
    let size = (super::PIECE / n.max(1)).max(1) * n.max(1);
    let fill = |y: &mut [MaybeUninit<T>]| {
        pieces(y, size, |start, y| {
            wide(
                #[inline(always)]
                || {
                    for (row, y) in y.chunks_exact_mut(n).enumerate() {
                        let from = start + row * n;
                        f(inputs.map(|x| &x[from..from + n]), y);
                    }
                },
            );
        });
    };
    // SAFETY: the rows cover the output, and `f` writes its row.
    unsafe { written(inputs[0].len(), fill) }
}

#[inline(always)]
fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::zero(); 16];
    let (a16, b16) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest = a16.remainder().iter().zip(b16.remainder()).fold(T::zero(), |sum, (&a, &b)| sum + a * b);
    for (a, b) in a16.zip(b16) {
        (0..16).for_each(|i| lanes[i] += a[i] * b[i]);
    }
    lanes.iter().fold(rest, |sum, &v| sum + v)
}

/// y = exp(x - max) / sum, over rows of `n`.
pub(crate) fn softmax<T: Real>(n: usize, x: &[T]) -> Vec<T> {
    rows(
        n,
        [x],
        #[inline(always)]
        |[x], y| {
            let max = x.iter().fold(x[0], |max, &v| if v > max { v } else { max });
            let mut sum = T::zero();
            for (y, &x) in y.iter_mut().zip(x) {
                *y = MaybeUninit::new((x - max).exp());
            }
            // SAFETY: the row was just written.
            let y = unsafe { &mut *(std::ptr::from_mut(y) as *mut [T]) };
            y.iter().for_each(|&v| sum += v);
            let scale = T::one() / sum;
            y.iter_mut().for_each(|v| *v *= scale);
        },
    )
}

/// y (g - <g, y>): the gradient of softmax, for its value y.
pub(crate) fn softmax_slope<T: Real>(n: usize, y: &[T], g: &[T]) -> Vec<T> {
    rows(
        n,
        [y, g],
        #[inline(always)]
        |[y, g], out| {
            let mean = dot(y, g);
            for ((out, &y), &g) in out.iter_mut().zip(y).zip(g) {
                *out = MaybeUninit::new(y * (g - mean));
            }
        },
    )
}

/// u g - u <g, y> - g <u, y>: the gradient of <u, [`softmax_slope`]> with respect to y.
pub(crate) fn softmax_bend<T: Real>(n: usize, y: &[T], g: &[T], u: &[T]) -> Vec<T> {
    rows(
        n,
        [y, g, u],
        #[inline(always)]
        |[y, g, u], out| {
            let (g_mean, u_mean) = (dot(y, g), dot(y, u));
            for ((out, &g), &u) in out.iter_mut().zip(g).zip(u) {
                *out = MaybeUninit::new(u * g - u * g_mean - g * u_mean);
            }
        },
    )
}
