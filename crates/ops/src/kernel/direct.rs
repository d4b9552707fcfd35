//! Convolution of any kernel and stride, and its gradients, as products of blocked images (see `block`).
//!
//! y[p, o] = sum over taps t and channels c of x[s p + t, c] w[t, c, o]: a matrix product whose left side is read where
//! it lies, at an offset a tap. The input's gradient, gx[q, c] = sum of g[(q - t) / s, o] w[t, c, o] over the taps with
//! an integer place, is one such product for each remainder of q by the stride: its pixels share their taps.
//! The gradient of the weight sums over pixels instead: gw[t, c, o] = sum over p of x[s p + t, c] g[p, o].

use super::block::{BLOCK, Product, TERMS, Window, blocks, transpose, write};
use super::conv::{Bias, Plan};
use super::{Shared, each, scratch, written};
use pulp::{Arch, Simd, WithSimd};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Numbers of an image that are worked on at a time: half the cache of a core.
const PART: usize = 1 << 17;
/// Blocks of outputs whose sums are in memory at a time.
const PANEL: usize = 2;

/// What a convolution, or its input gradient, reads and writes.
#[derive(Clone, Copy)]
struct View<'a> {
    plan: &'a Plan,
    /// The input gradient: from the output's gradient to the input.
    back: bool,
}

/// The pixels that share their taps: of each, its place in the window and in the result. And the taps' offsets.
struct Phase {
    pixels: Vec<[usize; 2]>,
    steps: Vec<usize>,
}

impl View<'_> {
    /// Channels, height and width of what is read.
    fn from(&self) -> (usize, [usize; 2]) {
        let Plan { channels, height, width, outputs, out, .. } = *self.plan;
        if self.back { (outputs, out) } else { (channels, [height, width]) }
    }

    /// Channels, height and width of what is written.
    fn to(&self) -> (usize, [usize; 2]) {
        Self { back: !self.back, ..*self }.from()
    }

    /// Channels of a block that are read.
    fn lanes(&self) -> usize {
        self.from().0.min(BLOCK)
    }

    /// Remainders by which pixels and taps are told apart.
    fn remainders(&self) -> usize {
        if self.back { self.plan.stride } else { 1 }
    }

    /// The taps along `axis` of the pixels with a remainder, in the order in which their pixels lie.
    fn taps(&self, axis: usize, remainder: usize) -> Vec<usize> {
        let taps = (remainder..self.plan.kernel[axis]).step_by(self.remainders());
        if self.back { taps.rev().collect() } else { taps.collect() }
    }

    /// All taps in the order of the phases.
    fn order(&self) -> Vec<usize> {
        let mut order = vec![];
        for phase in 0..self.remainders() * self.remainders() {
            let [down, across] = [phase / self.remainders(), phase % self.remainders()];
            for i in self.taps(0, down) {
                order.extend(self.taps(1, across).iter().map(|j| i * self.plan.kernel[1] + j));
            }
        }
        order
    }

    /// Where the window on the pixels `range` of the result begins along `axis`, and its size.
    fn extent(&self, axis: usize, range: &Range<usize>) -> (isize, usize) {
        let Plan { kernel, stride, pad, .. } = *self.plan;
        let (pad, reach, stride) = (pad[2 * axis] as isize, kernel[axis] as isize - 1, stride as isize);
        let (first, last) = (range.start as isize, range.end as isize - 1);
        let (start, end) = if self.back {
            ((first + pad - reach).div_euclid(stride), (last + pad).div_euclid(stride))
        } else {
            (first * stride - pad, last * stride - pad + reach)
        };
        (start, (end - start + 1) as usize)
    }

    /// The pixels of the result along `axis` with a remainder, each with its first tap's place in the window.
    fn pixels(&self, axis: usize, range: &Range<usize>, remainder: usize) -> Vec<[usize; 2]> {
        let (stride, pad) = (self.plan.stride, self.plan.pad[2 * axis]);
        let start = self.extent(axis, range).0;
        let Some(&tap) = self.taps(axis, remainder).first() else {
            // none of the taps: the sums are 0 wherever they begin
            return self.with_remainder(axis, range, remainder).map(|q| [0, q - range.start]).collect();
        };
        let place = |q: usize| {
            let at =
                if self.back { (q + pad) as isize - tap as isize } else { (q * stride + tap) as isize - pad as isize };
            (if self.back { at.div_euclid(stride as isize) } else { at } - start) as usize
        };
        self.with_remainder(axis, range, remainder).map(|q| [place(q), q - range.start]).collect()
    }

    fn with_remainder(&self, axis: usize, range: &Range<usize>, remainder: usize) -> impl Iterator<Item = usize> {
        let (remainders, pad) = (self.remainders(), self.plan.pad[2 * axis]);
        range.clone().filter(move |q| (q + pad) % remainders == remainder)
    }

    fn phase(&self, phase: usize, rows: &Range<usize>, window: [usize; 2]) -> Phase {
        let remainder = [phase / self.remainders(), phase % self.remainders()];
        let (channels, [_, width]) = (self.from().0, self.to().1);
        let lines = self.pixels(0, rows, remainder[0]);
        let columns = self.pixels(1, &(0..width), remainder[1]);
        let mut pixels = Vec::with_capacity(lines.len() * columns.len());
        for [from, to] in lines {
            pixels.extend(columns.iter().map(|c| [(from * window[1] + c[0]) * BLOCK, (to * width + c[1]) * BLOCK]));
        }
        let mut steps = vec![];
        for i in 0..self.taps(0, remainder[0]).len() {
            for j in 0..self.taps(1, remainder[1]).len() {
                let at = i * window[1] + j;
                steps.extend((0..blocks(channels)).map(|block| (block * window[0] * window[1] + at) * BLOCK));
            }
        }
        Phase { pixels, steps }
    }

    /// The weights as `[block of what is written][tap][channel of what is read][16]`, taps in the order of the phases.
    fn weights(&self, w: &[f32], to: &mut [MaybeUninit<f32>]) {
        let Plan { channels, outputs, kernel: [kh, kw], .. } = *self.plan;
        let ((from, _), (into, _)) = (self.from(), self.to());
        let (taps, order) = (kh * kw, self.order());
        let depth = blocks(from) * self.lanes();
        let (from_step, into_step) = if self.back { (channels * taps, taps) } else { (taps, channels * taps) };
        debug_assert_eq!(into * from, channels * outputs);
        let to = Shared(to.as_mut_ptr().cast::<f32>());
        each(blocks(into) * blocks(from), w.len() * 4, |job| {
            let [o, c] = [job / blocks(from) * BLOCK, job % blocks(from) * BLOCK];
            let mut lines = [0f32; BLOCK * BLOCK];
            for c in c..c + self.lanes() {
                for first in (0..taps).step_by(BLOCK) {
                    let count = BLOCK.min(taps - first);
                    // SAFETY: the kernels read are those of `w`, and each job has its own blocks of the result.
                    unsafe {
                        if c < from {
                            let at = w.as_ptr().add(o * into_step + c * from_step + first);
                            let size = (BLOCK.min(into - o), count);
                            transpose(size, at, into_step, lines.as_mut_ptr(), BLOCK, true);
                        } else {
                            lines.fill(0.);
                        }
                        for (place, &tap) in order.iter().enumerate() {
                            if !(first..first + count).contains(&tap) {
                                continue;
                            }
                            let line = to.at(o * taps * depth + (place * depth + c) * BLOCK);
                            lines.as_ptr().add((tap - first) * BLOCK).copy_to_nonoverlapping(line, BLOCK);
                        }
                    }
                }
            }
        });
    }

    /// Rows of the result that one job computes. Not the bits, only the time depends on it.
    fn rows(&self) -> usize {
        let (channels, [_, width]) = self.from();
        let (_, [rows, _]) = self.to();
        let line =
            blocks(channels) * BLOCK * (width + self.plan.kernel[1]) * if self.back { 1 } else { self.plan.stride };
        let most = (PART / line).max(4);
        rows.div_ceil(rows.div_ceil(most))
    }
}

/// Some rows of the result for one sample.
struct Rows<'a> {
    view: View<'a>,
    x: &'a [f32],
    w: &'a [MaybeUninit<f32>],
    bias: Bias<'a, f32>,
    add: Option<&'a [f32]>,
    n: usize,
    rows: Range<usize>,
    y: Shared<f32>,
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { view, n, rows, .. } = &self;
        let ((from, image), (into, [height, width])) = (view.from(), view.to());
        let ((top, high), (left, wide)) = (view.extent(0, rows), view.extent(1, &(0..width)));
        let plane = high * wide * BLOCK;
        let pixels = rows.len() * width;
        let depth = view.plan.kernel.iter().product::<usize>() * blocks(from) * view.lanes();
        let phases = view.remainders() * view.remainders();
        let phases: Vec<Phase> = (0..phases).map(|phase| view.phase(phase, rows, [high, wide])).collect();
        let size = blocks(from) * plane + PANEL * pixels * BLOCK;
        scratch(
            size,
            #[inline(always)]
            |memory: &mut [MaybeUninit<f32>]| {
                let a = memory.as_mut_ptr().cast::<f32>();
                let window = Window { image, start: [top, left], size: [high, wide] };
                // SAFETY: the parts of the scratch memory follow each other; each job has its own rows of the result.
                unsafe {
                    let c = a.add(blocks(from) * plane);
                    for block in 0..blocks(from) {
                        let at = (n * from + block * BLOCK) * image[0] * image[1];
                        window.read(self.x.as_ptr().add(at), BLOCK.min(from - block * BLOCK), a.add(block * plane));
                    }
                    for first in (0..blocks(into)).step_by(PANEL) {
                        let panel = PANEL.min(blocks(into) - first);
                        for block in 0..panel {
                            self.begin(
                                first + block,
                                std::slice::from_raw_parts_mut(c.add(block * pixels * BLOCK), pixels * BLOCK),
                            );
                        }
                        let mut b = self.w.as_ptr().cast::<f32>().add(first * depth * BLOCK);
                        for Phase { pixels: places, steps } in &phases {
                            let product = Product {
                                a,
                                steps,
                                inner: view.lanes(),
                                inner_step: 1,
                                b,
                                b_block: depth * BLOCK,
                                c,
                                c_block: pixels * BLOCK,
                                add: true,
                                apart: false,
                            };
                            product.run(
                                s,
                                places.len(),
                                panel,
                                #[inline(always)]
                                |r| *places.get_unchecked(r),
                            );
                            b = b.add(steps.len() * view.lanes() * BLOCK);
                        }
                        for block in 0..panel {
                            let channel = (first + block) * BLOCK;
                            let at = (n * into + channel) * height * width + rows.start * width;
                            let add = self.add.map(|add| add.as_ptr().add(at));
                            let from = c.add(block * pixels * BLOCK);
                            write(from, pixels, BLOCK.min(into - channel), self.y.at(at), height * width, add);
                        }
                    }
                }
            },
        );
    }
}

impl Rows<'_> {
    /// Writes the bias of a block of outputs to its pixels.
    #[inline(always)]
    fn begin(&self, block: usize, pixels: &mut [f32]) {
        let mut line = [0f32; BLOCK];
        if let Some(b) = self.bias.of(self.n, self.view.plan.batch) {
            let b = &b[block * BLOCK..b.len().min((block + 1) * BLOCK)];
            line[..b.len()].copy_from_slice(b);
        }
        pixels.chunks_exact_mut(BLOCK).for_each(|pixel| pixel.copy_from_slice(&line));
    }
}

fn run(view: View, x: &[f32], w: &[f32], bias: Bias<f32>, add: Option<&[f32]>) -> Vec<f32> {
    let ((from, _), (into, [height, width])) = (view.from(), view.to());
    let size = view.plan.batch * into * height * width;
    let depth = view.plan.kernel.iter().product::<usize>() * blocks(from) * view.lanes();
    let parts = height.div_ceil(view.rows());
    scratch(blocks(into) * BLOCK * depth, |weights| {
        view.weights(w, weights);
        let w = &*weights;
        let fill = |y: &mut [MaybeUninit<f32>]| {
            let y = Shared(y.as_mut_ptr().cast::<f32>());
            each(view.plan.batch * parts, size * depth, |job| {
                let (n, part) = (job / parts, job % parts);
                let rows = part * height / parts..(part + 1) * height / parts;
                Arch::new().dispatch(Rows { view, x, w, bias, add, n, rows, y });
            });
        };
        // SAFETY: the rows of all samples cover the result.
        unsafe { written(size, fill) }
    })
}

/// conv(x, w) + bias + add; every size is at least 1.
pub(crate) fn forward(plan: &Plan, x: &[f32], w: &[f32], bias: Bias<f32>, add: Option<&[f32]>) -> Vec<f32> {
    run(View { plan, back: false }, x, w, bias, add)
}

/// The gradient of <conv(x, w), g> with respect to x, plus `add`; every size is at least 1.
pub(crate) fn input_grad(plan: &Plan, g: &[f32], w: &[f32], add: Option<&[f32]>) -> Vec<f32> {
    run(View { plan, back: true }, g, w, Bias::None, add)
}

/// The output's gradient as `[block of outputs][sample][pixel][16]`: one block of one sample.
struct Copy<'a> {
    plan: &'a Plan,
    g: &'a [f32],
    job: usize,
    to: Shared<f32>,
}

impl WithSimd for Copy<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Plan { batch, outputs, out, .. } = *self.plan;
        let (block, n) = (self.job / batch, self.job % batch);
        let pixels = out[0] * out[1];
        let window = Window { image: [1, pixels], start: [0, 0], size: [1, pixels] };
        // SAFETY: the planes are those of the sample, and each job has its own place.
        unsafe {
            let g = self.g.as_ptr().add((n * outputs + block * BLOCK) * pixels);
            window.read(g, BLOCK.min(outputs - block * BLOCK), self.to.at(self.job * pixels * BLOCK));
        }
    }
}

/// Sums x g over the pixels of some samples for one block of channels: `[block of outputs][tap][channel][16]`.
struct Sum<'a> {
    plan: &'a Plan,
    x: &'a [f32],
    g: &'a [MaybeUninit<f32>],
    samples: Range<usize>,
    block: usize,
    to: *mut f32,
}

impl WithSimd for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Plan { batch, channels, height, width, outputs, kernel, stride, out, .. } = *self.plan;
        let view = View { plan: self.plan, back: false };
        let ((top, high), (left, wide)) = (view.extent(0, &(0..out[0])), view.extent(1, &(0..out[1])));
        let (plane, pixels) = (high * wide * BLOCK, out[0] * out[1] * BLOCK);
        let window = Window { image: [height, width], start: [top, left], size: [high, wide] };
        let count = BLOCK.min(channels - self.block * BLOCK);
        let group = (PART / plane).clamp(1, self.samples.len());
        let steps = (0..group).flat_map(|n| (0..out[0]).map(move |row| n * plane + row * stride * wide * BLOCK));
        let steps: Vec<usize> = steps.collect();
        let of_tap = |tap: usize| (tap / kernel[1] * wide + tap % kernel[1]) * BLOCK;
        let row = |tap, c| [of_tap(tap) + c, (tap * BLOCK + c) * BLOCK];
        let rows: Vec<_> = (0..kernel[0] * kernel[1]).flat_map(|tap| (0..count).map(move |c| row(tap, c))).collect();
        scratch(
            group * plane,
            #[inline(always)]
            |memory: &mut [MaybeUninit<f32>]| {
                let a = memory.as_mut_ptr().cast::<f32>();
                for first in self.samples.clone().step_by(group) {
                    let group = group.min(self.samples.end - first);
                    // SAFETY: the windows fit in the scratch memory; each job has its own sums.
                    unsafe {
                        for n in 0..group {
                            let at = ((first + n) * channels + self.block * BLOCK) * height * width;
                            window.read(self.x.as_ptr().add(at), count, a.add(n * plane));
                        }
                        let lines = TERMS.div_ceil(out[1]);
                        for (i, steps) in steps[..group * out[0]].chunks(lines).enumerate() {
                            let product = Product {
                                a,
                                steps,
                                inner: out[1],
                                inner_step: stride * BLOCK,
                                b: self.g.as_ptr().cast::<f32>().add(first * pixels + i * lines * out[1] * BLOCK),
                                b_block: batch * pixels,
                                c: self.to,
                                c_block: kernel[0] * kernel[1] * BLOCK * BLOCK,
                                add: first > self.samples.start || i > 0,
                                apart: true,
                            };
                            product.run(
                                s,
                                rows.len(),
                                blocks(outputs),
                                #[inline(always)]
                                |r| *rows.get_unchecked(r),
                            );
                        }
                    }
                }
            },
        );
    }
}

/// The gradient of <conv(x, w), g> with respect to w; every size is at least 1.
pub(crate) fn weight_grad(plan: &Plan, x: &[f32], g: &[f32]) -> Vec<f32> {
    let Plan { batch, channels, outputs, kernel, .. } = *plan;
    let (taps, deep, across) = (kernel[0] * kernel[1], blocks(channels), blocks(outputs));
    let (size, work, sum_size) = (outputs * channels * taps, x.len() * outputs * taps, taps * across * BLOCK * BLOCK);
    // Each part sums some samples; parts and their order depend on the sizes alone.
    let parts = ((1 << 19) / (deep * sum_size)).clamp(1, 8).min(batch);
    let fill = |w: &mut [MaybeUninit<f32>]| {
        let w = Shared(w.as_mut_ptr().cast::<f32>());
        scratch(across * BLOCK * batch * plan.pixels(), |blocked: &mut [MaybeUninit<f32>]| {
            let to = Shared(blocked.as_mut_ptr().cast::<f32>());
            each(across * batch, g.len(), |job| Arch::new().dispatch(Copy { plan, g, job, to }));
            let g = &*blocked;
            scratch(parts * deep * sum_size, |sums: &mut [MaybeUninit<f32>]| {
                let sums = Shared(sums.as_mut_ptr().cast::<f32>());
                each(parts * deep, work, |job| {
                    let (part, block) = (job / deep, job % deep);
                    let samples = part * batch / parts..(part + 1) * batch / parts;
                    // SAFETY: each job has its own sums.
                    let to = unsafe { sums.at(job * sum_size) };
                    Arch::new().dispatch(Sum { plan, x, g, samples, block, to });
                });
                each(deep * across, size * parts, |job| {
                    let [c, o] = [job / across, job % across];
                    let mut lines = [0f32; BLOCK * BLOCK * BLOCK];
                    for first in (0..taps).step_by(BLOCK) {
                        let count = BLOCK.min(taps - first);
                        // SAFETY: what is read was written; each job has its own blocks of the weight.
                        unsafe {
                            for (tap, lines) in lines.chunks_exact_mut(BLOCK * BLOCK).take(count).enumerate() {
                                let at = (o * taps + first + tap) * BLOCK * BLOCK;
                                let rows = BLOCK * BLOCK.min(channels - c * BLOCK);
                                for part in 0..parts {
                                    let sum = sums.at((part * deep + c) * sum_size + at);
                                    let sum = std::slice::from_raw_parts(sum, rows);
                                    if part == 0 {
                                        lines[..rows].copy_from_slice(sum);
                                    } else {
                                        lines.iter_mut().zip(sum).for_each(|(a, b)| *a += b);
                                    }
                                }
                            }
                            for i in 0..BLOCK.min(channels - c * BLOCK) {
                                let w = w.at((o * BLOCK * channels + c * BLOCK + i) * taps + first);
                                let (from, step) = (lines.as_ptr().add(i * BLOCK), BLOCK * BLOCK);
                                transpose(
                                    (count, BLOCK.min(outputs - o * BLOCK)),
                                    from,
                                    step,
                                    w,
                                    channels * taps,
                                    false,
                                );
                            }
                        }
                    }
                });
            });
        });
    };
    // SAFETY: the blocks cover the weight.
    unsafe { written(size, fill) }
}
