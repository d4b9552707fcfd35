//! 1x1 convolution at stride 1 without padding, and its gradients: y[o, p] = sum over c of w[o, c] x[c, p], a matrix product a sample.
//!
//! In outputs and input gradients vectors hold 16 pixels of a channel, as they lie in memory: nothing is transposed. The pixels of a job are copied to
//! `[16 pixels][channel][16]`, so that the product (see `block`) finds them in a row.

use super::block::{BLOCK, Product, TERMS, Window, blocks, load, store};
use super::conv::{Bias, Plan};
use super::{Shared, each, scratch, written};
use pulp::{Arch, Simd, WithSimd};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Numbers that a job reads and writes: half the cache of a core.
const PART: usize = 1 << 17;

/// Some pixels of one sample; weight (o, c) is at `o * step[0] + c * step[1]`.
struct Pixels<'a> {
    channels: usize,
    outputs: usize,
    pixels: usize,
    x: &'a [f32],
    w: &'a [f32],
    step: [usize; 2],
    bias: Option<&'a [f32]>,
    add: Option<&'a [f32]>,
    range: Range<usize>,
    /// The sample's output.
    y: *mut f32,
}

impl WithSimd for Pixels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { channels, outputs, pixels, .. } = self;
        let count = blocks(self.range.len());
        let whole = self.range.len() / BLOCK;
        let rest = self.range.len() % BLOCK;
        // a line more than a block has: lines at the same place of each page would share too few places of a cache
        let (b_block, c_block) = ((channels + 1) * BLOCK, (outputs + 1) * BLOCK);
        scratch(
            count * (b_block + c_block),
            #[inline(always)]
            |memory: &mut [MaybeUninit<f32>]| {
                let b = memory.as_mut_ptr().cast::<f32>();
                // SAFETY: b and c are parts of the scratch memory; each job has its own pixels of the output.
                unsafe {
                    let c = b.add(count * b_block);
                    for channel in 0..channels {
                        let from = self.x.as_ptr().add(channel * pixels + self.range.start);
                        for block in 0..whole {
                            let to = b.add(block * b_block + channel * BLOCK);
                            to.copy_from_nonoverlapping(from.add(block * BLOCK), BLOCK);
                        }
                        if rest > 0 {
                            let to = b.add(whole * b_block + channel * BLOCK);
                            to.write_bytes(0, BLOCK);
                            to.copy_from_nonoverlapping(from.add(whole * BLOCK), rest);
                        }
                    }
                    let product = Product {
                        a: self.w.as_ptr(),
                        steps: &[0],
                        inner: channels,
                        inner_step: self.step[1],
                        b,
                        b_block,
                        c,
                        c_block,
                        add: false,
                        apart: false,
                    };
                    product.run(
                        s,
                        outputs,
                        count,
                        #[inline(always)]
                        |r| [r * self.step[0], r * BLOCK],
                    );
                    for o in 0..outputs {
                        let bias = self.bias.map_or(0., |b| b[o]);
                        let at = o * pixels + self.range.start;
                        let (to, add) = (self.y.add(at), self.add.map(|add| add.as_ptr().add(at)));
                        for block in 0..count {
                            let from = c.add(block * c_block + o * BLOCK);
                            if block < whole {
                                for v in (0..BLOCK).step_by(S::F32_LANES) {
                                    let mut sum = s.add_f32s(load::<S>(from.add(v)), s.splat_f32s(bias));
                                    if let Some(add) = add {
                                        sum = s.add_f32s(sum, load::<S>(add.add(block * BLOCK + v)));
                                    }
                                    store::<S>(to.add(block * BLOCK + v), sum);
                                }
                            } else {
                                for i in 0..rest {
                                    let sum = *from.add(i) + bias;
                                    let p = block * BLOCK + i;
                                    *to.add(p) = add.map_or(sum, |add| sum + *add.add(p));
                                }
                            }
                        }
                    }
                }
            },
        );
    }
}

/// conv(x, w) + bias + add, or with `back` the input gradient, whose x is the output's gradient.
pub(crate) fn run(plan: &Plan, back: bool, x: &[f32], w: &[f32], bias: Bias<f32>, add: Option<&[f32]>) -> Vec<f32> {
    let (c, o, pixels) = (plan.channels, plan.outputs, plan.pixels());
    let (channels, outputs, step) = if back { (o, c, [1, c]) } else { (c, o, [c, 1]) };
    let size = plan.batch * outputs * pixels;
    // Parts of about the same number of whole blocks, an even one if possible.
    let most = (PART / (BLOCK * (channels + outputs))).max(2);
    let parts = blocks(pixels).div_ceil(most);
    let length = blocks(pixels).div_ceil(parts).next_multiple_of(2) * BLOCK;
    let parts = pixels.div_ceil(length);
    let fill = |y: &mut [MaybeUninit<f32>]| {
        let y = Shared(y.as_mut_ptr().cast::<f32>());
        each(plan.batch * parts, size * channels, |job| {
            let (n, from) = (job / parts, job % parts * length);
            let range = from..pixels.min(from + length);
            let (x, add) = (&x[n * channels * pixels..], add.map(|add| &add[n * outputs * pixels..]));
            // SAFETY: the sample is one of the output's.
            let y = unsafe { y.at(n * outputs * pixels) };
            let bias = bias.of(n, plan.batch);
            Arch::new().dispatch(Pixels { channels, outputs, pixels, x, w, step, bias, add, range, y });
        });
    };
    // SAFETY: the parts of all samples cover the output.
    unsafe { written(size, fill) }
}

/// Sums g x over the pixels of some samples: `[block of outputs][channel][16]`.
struct Sum<'a> {
    plan: &'a Plan,
    x: &'a [f32],
    g: &'a [f32],
    samples: Range<usize>,
    to: *mut f32,
}

impl WithSimd for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Plan { channels, outputs, .. } = *self.plan;
        let (pixels, across) = (self.plan.pixels(), blocks(outputs));
        let window = Window { image: [1, pixels], start: [0, 0], size: [1, pixels] };
        scratch(
            across * pixels * BLOCK,
            #[inline(always)]
            |memory: &mut [MaybeUninit<f32>]| {
                let b = memory.as_mut_ptr().cast::<f32>();
                for n in self.samples.clone() {
                    // SAFETY: the blocks of a sample's gradient fit in the scratch memory; each job has its own sums.
                    unsafe {
                        for block in 0..across {
                            let planes = self.g.as_ptr().add((n * outputs + block * BLOCK) * pixels);
                            window.read(planes, BLOCK.min(outputs - block * BLOCK), b.add(block * pixels * BLOCK));
                        }
                        for from in (0..pixels).step_by(TERMS) {
                            let product = Product {
                                a: self.x.as_ptr().add(n * channels * pixels + from),
                                steps: &[0],
                                inner: TERMS.min(pixels - from),
                                inner_step: 1,
                                b: b.add(from * BLOCK),
                                b_block: pixels * BLOCK,
                                c: self.to,
                                c_block: channels * BLOCK,
                                add: n > self.samples.start || from > 0,
                                apart: true,
                            };
                            product.run(
                                s,
                                channels,
                                across,
                                #[inline(always)]
                                |r| [r * pixels, r * BLOCK],
                            );
                        }
                    }
                }
            },
        );
    }
}

/// The gradient of <conv(x, w), g> with respect to w.
pub(crate) fn weight_grad(plan: &Plan, x: &[f32], g: &[f32]) -> Vec<f32> {
    let Plan { batch, channels, outputs, .. } = *plan;
    let sum_size = blocks(outputs) * channels * BLOCK;
    // Each part sums some samples; parts and their order depend on the sizes alone.
    let parts = ((1 << 19) / sum_size).clamp(2, 8).min(batch);
    let fill = |w: &mut [MaybeUninit<f32>]| {
        scratch(parts * sum_size, |sums: &mut [MaybeUninit<f32>]| {
            let at = Shared(sums.as_mut_ptr().cast::<f32>());
            each(parts, x.len() * outputs, |part| {
                let samples = part * batch / parts..(part + 1) * batch / parts;
                // SAFETY: each part has its own sums.
                let to = unsafe { at.at(part * sum_size) };
                Arch::new().dispatch(Sum { plan, x, g, samples, to });
            });
            for (o, w) in w.chunks_exact_mut(channels).enumerate() {
                for (c, w) in w.iter_mut().enumerate() {
                    let place = (o / BLOCK * channels + c) * BLOCK + o % BLOCK;
                    // SAFETY: the first sample of each part wrote its sums.
                    *w = MaybeUninit::new((0..parts).map(|part| unsafe { *at.at(part * sum_size + place) }).sum());
                }
            }
        });
    };
    // SAFETY: the rows cover the weight.
    unsafe { written(outputs * channels, fill) }
}
