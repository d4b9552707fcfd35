//! CPU kernels of the convolution and its two gradients: which of them runs, and the general one.
//!
//! f32 runs on blocked images: 3x3 kernels at stride 1 in `winograd`, 1x1 in `pointwise`, the others in `direct`. Which one
//! depends on the sizes of one sample alone, as bits do. f64 takes columns of a few output rows at a time:
//! y[o, p] = sum_k w[o, k] col[k, p] with k = (c, i, j) and p = (row, column) of the output. [Chellapilla et al. 2006]

use super::matrix::{Matrix, gemm};
use super::{Real, Shared, collect, direct, each, pointwise, scratch, winograd, written};
use candle_core::DType;
use std::mem::MaybeUninit;
use std::ops::Range;

/// All sizes of one convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub batch: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub outputs: usize,
    pub kernel: [usize; 2],
    pub stride: usize,
    /// Top, bottom, left, right.
    pub pad: [usize; 4],
    /// Height and width of the output.
    pub out: [usize; 2],
}

/// Numbers in a tile's columns: 512 KiB of f32, about what a core's own cache holds.
const TILE: usize = 1 << 17;
/// Fewer columns than this waste the matrix product.
const COLUMNS: usize = 96;

impl Plan {
    /// Terms of one output: channels times kernel.
    fn terms(&self) -> usize {
        self.channels * self.kernel[0] * self.kernel[1]
    }

    /// Pixels of one output channel.
    pub(crate) fn pixels(&self) -> usize {
        self.out[0] * self.out[1]
    }

    /// 1x1, stride 1, no padding: the input is its own columns.
    fn pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == 1 && self.pad == [0; 4]
    }

    /// Output rows of a tile. It depends on the sizes of one sample alone, as the bits of the result do.
    fn tile_rows(&self) -> usize {
        let [rows, columns] = self.out;
        let fit = TILE / (self.terms() * columns).max(1);
        fit.max(COLUMNS.div_ceil(columns.max(1))).clamp(1, rows.max(1))
    }

    fn tiles(&self) -> usize {
        self.out[0].div_ceil(self.tile_rows())
    }

    fn rows(&self, tile: usize) -> Range<usize> {
        tile * self.tile_rows()..((tile + 1) * self.tile_rows()).min(self.out[0])
    }
}

/// col[(c, i, j), p] = x[c, s row(p) + i - top, s column(p) + j - left], 0 outside, for the output rows `rows`.
fn columns<T: Real>(plan: &Plan, x: &[T], rows: &Range<usize>, col: &mut [MaybeUninit<T>]) {
    let Plan { height, width, stride, pad, out: [_, columns], .. } = *plan;
    let zero = MaybeUninit::new(T::zero());
    if height * width == 0 {
        return col.fill(zero);
    }
    let mut lines = col.chunks_exact_mut(columns.max(1));
    for image in x.chunks_exact(height * width) {
        for i in 0..plan.kernel[0] {
            for j in 0..plan.kernel[1] {
                // columns from..to read inside the image
                let from = pad[2].saturating_sub(j).div_ceil(stride).min(columns);
                let to = (width + pad[2]).saturating_sub(j).div_ceil(stride).clamp(from, columns);
                for (row, line) in rows.clone().zip(&mut lines) {
                    let y = row * stride + i;
                    if y < pad[0] || y >= height + pad[0] || from == to {
                        line.fill(zero);
                        continue;
                    }
                    let start = (y - pad[0]) * width + from * stride + j - pad[2];
                    let source = &image[start..start + (to - from - 1) * stride + 1];
                    line[..from].fill(zero);
                    if stride == 1 {
                        line[from..to].iter_mut().zip(source).for_each(|(a, &b)| *a = MaybeUninit::new(b));
                    } else {
                        let source = source.iter().step_by(stride);
                        line[from..to].iter_mut().zip(source).for_each(|(a, &b)| *a = MaybeUninit::new(b));
                    }
                    line[to..].fill(zero);
                }
            }
        }
    }
}

/// The transpose of [`columns`]: adds the columns of the output rows `rows` to the image they were read from.
fn add_columns<T: Real>(plan: &Plan, col: &[T], rows: &Range<usize>, x: &mut [T]) {
    let Plan { height, width, stride, pad, out: [_, columns], .. } = *plan;
    let mut lines = col.chunks_exact(columns.max(1));
    for image in x.chunks_exact_mut((height * width).max(1)) {
        for i in 0..plan.kernel[0] {
            for j in 0..plan.kernel[1] {
                let from = pad[2].saturating_sub(j).div_ceil(stride).min(columns);
                let to = (width + pad[2]).saturating_sub(j).div_ceil(stride).clamp(from, columns);
                for (row, line) in rows.clone().zip(&mut lines) {
                    let y = row * stride + i;
                    if y < pad[0] || y >= height + pad[0] || from == to {
                        continue;
                    }
                    let start = (y - pad[0]) * width + from * stride + j - pad[2];
                    let target = image[start..start + (to - from - 1) * stride + 1].iter_mut().step_by(stride);
                    target.zip(&line[from..to]).for_each(|(a, &b)| *a += b);
                }
            }
        }
    }
}

/// Lends the columns of one tile of the sample `x`, with their step from row to row.
fn with_columns<T: Real, R>(plan: &Plan, x: &[T], rows: &Range<usize>, f: impl FnOnce(Matrix<T>) -> R) -> R {
    if plan.pointwise() {
        return f(Matrix { at: x[rows.start * plan.out[1]..].as_ptr(), row: plan.pixels(), col: 1 });
    }
    let pixels = rows.len() * plan.out[1];
    scratch(plan.terms() * pixels, |col| {
        columns(plan, x, rows, col);
        f(Matrix { at: col.as_ptr().cast(), row: pixels, col: 1 })
    })
}

/// The slices, if they are of f32.
fn single<T: Real, const N: usize>(all: [&[T]; N]) -> Option<[&[f32]; N]> {
    // SAFETY: the type is the same.
    (T::DTYPE == DType::F32).then(|| all.map(|x| unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }))
}

/// The slices, if the blocked kernels take them: those are for f32, and for no empty tensor.
fn blocked<'a, T: Real, const N: usize>(plan: &Plan, all: [&'a [T]; N]) -> Option<[&'a [f32]; N]> {
    let some = plan.batch * plan.channels * plan.height * plan.width * plan.outputs > 0;
    if some { single(all) } else { None }
}

/// The vector of f32 as one of T, which is f32.
fn of_single<T: Real>(x: Vec<f32>) -> Vec<T> {
    assert_eq!(T::DTYPE, DType::F32);
    let mut x = std::mem::ManuallyDrop::new(x);
    // SAFETY: the type is the same, and the memory has one owner.
    unsafe { Vec::from_raw_parts(x.as_mut_ptr().cast(), x.len(), x.capacity()) }
}

/// What is added to the outputs: nothing, a number a channel, or a number a channel and sample.
#[derive(Clone, Copy)]
pub(crate) enum Bias<'a, T> {
    None,
    Channel(&'a [T]),
    Sample(&'a [T]),
}

impl<'a, T: Real> Bias<'a, T> {
    fn single(self) -> Bias<'a, f32> {
        let of = |b| single([b]).map_or(&[][..], |[b]| b);
        match self {
            Bias::None => Bias::None,
            Bias::Channel(b) => Bias::Channel(of(b)),
            Bias::Sample(b) => Bias::Sample(of(b)),
        }
    }

    /// The numbers of sample `n`.
    pub(crate) fn of(self, n: usize, batch: usize) -> Option<&'a [T]> {
        match self {
            Bias::None => None,
            Bias::Channel(b) => Some(b),
            Bias::Sample(b) => Some(sample(b, n, batch)),
        }
    }
}

/// y = conv(x, w) + bias + add: `[B, O, H', W']`, as `add` is.
pub(crate) fn forward<T: Real>(plan: &Plan, x: &[T], w: &[T], bias: Bias<T>, add: Option<&[T]>) -> Vec<T> {
    if let Some([x, w, add]) = blocked(plan, [x, w, add.unwrap_or_default()]) {
        let (bias, add) = (bias.single(), (!add.is_empty()).then_some(add));
        return of_single(if winograd::fits(plan) {
            winograd::forward(plan, x, w, false, bias, add)
        } else if plan.pointwise() {
            pointwise::run(plan, false, x, w, bias, add)
        } else {
            direct::forward(plan, x, w, bias, add)
        });
    }
    by_columns(plan, x, w, bias, add)
}

/// [`forward`] as products of the weight with columns.
fn by_columns<T: Real>(plan: &Plan, x: &[T], w: &[T], bias: Bias<T>, add: Option<&[T]>) -> Vec<T> {
    let (o, k, pixels, tiles) = (plan.outputs, plan.terms(), plan.pixels(), plan.tiles());
    let size = plan.batch * o * pixels;
    let fill = |y: &mut [MaybeUninit<T>]| {
        let y = Shared(y.as_mut_ptr().cast::<T>());
        each(plan.batch * tiles, size * k, |job| {
            let (n, rows) = (job / tiles, plan.rows(job % tiles));
            let x = sample(x, n, plan.batch);
            let width = rows.len() * plan.out[1];
            let start = n * o * pixels + rows.start * plan.out[1];
            with_columns(plan, x, &rows, |col| {
                let begun = add.is_some() || bias.of(n, plan.batch).is_some();
                // SAFETY: each job writes its own rows of its own sample, all of them.
                unsafe {
                    for i in (0..o).filter(|_| begun) {
                        let b = bias.of(n, plan.batch).map_or(T::zero(), |b| b[i]);
                        for p in start + i * pixels..start + i * pixels + width {
                            y.at(p).write(b + add.map_or(T::zero(), |add| add[p]));
                        }
                    }
                    let w = Matrix { at: w.as_ptr(), row: k, col: 1 };
                    gemm((o, width, k), (y.at(start), pixels), begun, w, col);
                }
            });
        });
    };
    // SAFETY: the tiles of all samples cover the output.
    unsafe { written(size, fill) }
}

/// The gradient of <conv(x, w), g> with respect to x, plus `add`: `[B, C, H, W]`.
pub(crate) fn input_grad<T: Real>(plan: &Plan, g: &[T], w: &[T], add: Option<&[T]>) -> Vec<T> {
    let [kh, kw] = plan.kernel;
    let [top, bottom, left, right] = plan.pad;
    let mirror = plan.stride == 1 && top.max(bottom) < kh && left.max(right) < kw;
    // from very few channels the columns are cheaper, unless there is something to add
    if (plan.outputs > 4 || add.is_some())
        && let Some([g, w, add]) = blocked(plan, [g, w, add.unwrap_or_default()])
    {
        let add = (!add.is_empty()).then_some(add);
        return of_single(if mirror && winograd::fits(&mirrored(plan)) {
            winograd::forward(&mirrored(plan), g, w, true, Bias::None, add)
        } else if plan.pointwise() {
            pointwise::run(plan, true, g, w, Bias::None, add)
        } else {
            direct::input_grad(plan, g, w, add)
        });
    }
    if mirror {
        let flipped = flip(plan, w);
        return by_columns(&mirrored(plan), g, &flipped, Bias::None, add);
    }
    let (o, k, pixels) = (plan.outputs, plan.terms(), plan.pixels());
    let size = plan.channels * plan.height * plan.width;
    let mut out = add.map_or_else(|| vec![T::zero(); plan.batch * size], <[T]>::to_vec);
    let place = Shared(out.as_mut_ptr());
    each(plan.batch, plan.batch * size * o, |n| {
        // SAFETY: each job has its own sample.
        let x = unsafe { std::slice::from_raw_parts_mut(place.at(n * size), size) };
        let g = sample(g, n, plan.batch);
        for rows in (0..plan.tiles()).map(|tile| plan.rows(tile)) {
            let width = rows.len() * plan.out[1];
            scratch(k * width, |col: &mut [MaybeUninit<T>]| {
                let from = rows.start * plan.out[1];
                // SAFETY: the product writes all of `col`, k x width.
                let col = unsafe {
                    let a = Matrix { at: w.as_ptr(), row: 1, col: k };
                    let g = Matrix { at: g[from..].as_ptr(), row: pixels, col: 1 };
                    gemm((k, width, o), (col.as_mut_ptr().cast(), width), false, a, g);
                    std::slice::from_raw_parts(col.as_ptr().cast::<T>(), col.len())
                };
                add_columns(plan, col, &rows, x);
            });
        }
    });
    out
}

/// The gradient of <conv(x, w), g> with respect to w: `[O, C, kh, kw]`.
pub(crate) fn weight_grad<T: Real>(plan: &Plan, x: &[T], g: &[T]) -> Vec<T> {
    if let Some([x, g]) = blocked(plan, [x, g]) {
        return of_single(if winograd::fits(plan) {
            winograd::weight_grad(plan, x, g)
        } else if plan.pointwise() {
            pointwise::weight_grad(plan, x, g)
        } else {
            direct::weight_grad(plan, x, g)
        });
    }
    let (o, k, pixels) = (plan.outputs, plan.terms(), plan.pixels());
    // Each part sums some samples; parts and their order depend on the sizes alone.
    let parts = ((1 << 21) / (o * k).max(1)).clamp(4, 16).min(plan.batch.max(1));
    let sums: Vec<Vec<T>> = collect(parts, plan.batch * pixels * o * k, |part| {
        let mut sum = vec![T::zero(); k * o]; // [K, O]
        for n in part * plan.batch / parts..(part + 1) * plan.batch / parts {
            let (x, g) = (sample(x, n, plan.batch), sample(g, n, plan.batch));
            for rows in (0..plan.tiles()).map(|tile| plan.rows(tile)) {
                let width = rows.len() * plan.out[1];
                let from = rows.start * plan.out[1];
                with_columns(plan, x, &rows, |col| {
                    // SAFETY: `sum` is k x o, `col` k x width, `g` o x width with its rows `pixels` apart.
                    unsafe {
                        let b = Matrix { at: g[from..].as_ptr(), row: 1, col: pixels };
                        gemm((k, o, width), (sum.as_mut_ptr(), o), true, col, b);
                    }
                });
            }
        }
        sum
    });
    let mut out = vec![T::zero(); o * k];
    let place = Shared(out.as_mut_ptr());
    each(o, o * k, |o_i| {
        // SAFETY: each job has its own row of the output.
        let row = unsafe { std::slice::from_raw_parts_mut(place.at(o_i * k), k) };
        for sum in &sums {
            row.iter_mut().enumerate().for_each(|(k_i, w)| *w += sum[k_i * o + o_i]);
        }
    });
    out
}

pub(crate) fn sample<T>(x: &[T], n: usize, batch: usize) -> &[T] {
    let size = x.len() / batch;
    &x[n * size..(n + 1) * size]
}

/// The convolution that maps the output's gradient to the input's, at stride 1.
fn mirrored(plan: &Plan) -> Plan {
    let [kh, kw] = plan.kernel;
    let [top, bottom, left, right] = plan.pad;
    Plan {
        channels: plan.outputs,
        outputs: plan.channels,
        height: plan.out[0],
        width: plan.out[1],
        pad: [kh - 1 - top, kh - 1 - bottom, kw - 1 - left, kw - 1 - right],
        out: [plan.height, plan.width],
        ..*plan
    }
}

/// w[o, c, i, j] -> w[c, o, kh - 1 - i, kw - 1 - j].
fn flip<T: Real>(plan: &Plan, w: &[T]) -> Vec<T> {
    let area = plan.kernel[0] * plan.kernel[1];
    let mut out = Vec::with_capacity(w.len());
    for c in 0..plan.channels {
        for o in 0..plan.outputs {
            let from = (o * plan.channels + c) * area;
            out.extend(w[from..from + area].iter().rev());
        }
    }
    out
}

/// Sums over pixels, and over samples too unless `per_sample`: `[B, C, P] -> [C]` or `[B, C]`.
pub(crate) fn channel_sum<T: Real>(x: &[T], (b, c, p): (usize, usize, usize), per_sample: bool) -> Vec<T> {
    let rows = collect(b * c, x.len(), |i| sum(&x[i * p..(i + 1) * p]));
    if per_sample {
        return rows.into_iter().map(T::from_f64).collect();
    }
    (0..c).map(|i| T::from_f64((0..b).map(|n| rows[n * c + i]).sum())).collect()
}

/// The sum in f64, on eight running sums.
pub(crate) fn sum<T: Real>(x: &[T]) -> f64 {
    let mut sums = [0f64; 8];
    let eights = x.chunks_exact(8);
    let rest: f64 = eights.remainder().iter().map(|v| v.to_f64()).sum();
    for eight in eights {
        sums.iter_mut().zip(eight).for_each(|(s, v)| *s += v.to_f64());
    }
    sums.iter().sum::<f64>() + rest
}

/// Repeats a number a channel (and sample) over its pixels: the transpose of [`channel_sum`].
pub(crate) fn channel_spread<T: Real>(v: &[T], (b, c, p): (usize, usize, usize), per_sample: bool) -> Vec<T> {
    let fill = |out: &mut [MaybeUninit<T>]| {
        let of = |i: usize| MaybeUninit::new(v[if per_sample { i } else { i % c }]);
        let place = Shared(out.as_mut_ptr());
        // SAFETY: each job has its own row.
        each(b * c, b * c * p, |i| unsafe { std::slice::from_raw_parts_mut(place.at(i * p), p) }.fill(of(i)));
    };
    // SAFETY: the rows cover the output.
    unsafe { written(b * c * p, fill) }
}

#[cfg(test)]
mod tests;
