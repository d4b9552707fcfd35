//! 3x3 convolution at stride 1 and its gradients with 4 times fewer products: F(4x4, 3x3) of Winograd.
//!
//! The output is cut into tiles of 4x4 pixels. With d the 6x6 pixels of the input that a tile reads and w a kernel,
//! Y = A' [(G w G') * (B' d B)] A, where * multiplies number by number, ' transposes, and the constant matrices come
//! from polynomial interpolation at 0, a, -a, b, -b and infinity, with a = 1 / sqrt 2 and b = sqrt 2, which keep
//! two more bits than the usual 1 and 2. The sum over channels moves inside the brackets, so that each of the 36 places xi
//! of a tile is a matrix product: M_xi[tile, o] = sum_c V_xi[tile, c] U_xi[c, o] with V = B' d B and U = G w G'.
//! The gradient of the weight is the adjoint: with g the output's gradient, dw = G' [sum over tiles of (B' d B) * (A g A')] G.
//! That of the input is a convolution with the kernel turned over. [Lavin & Gray, arXiv 1509.09308]
//!
//! Every vector holds channels of one pixel (see `block`), so a transform is the same few sums whatever the tile.
//! Tiles are taken in groups whose V stays in the cache of a core.

mod matrices;
mod weight;

pub(crate) use weight::weight_grad;

use super::block::{BLOCK, Product, Window, blocks, load, store, transpose, write};
use super::conv::{Bias, Plan};
use super::{Shared, each, scratch, written};
use matrices::{both, gradient, input, kernel, output};
use pulp::{Arch, Simd, WithSimd};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Pixels of a tile's side, and what it reads of the input.
const TILE: usize = 4;
const READ: usize = 6;
/// Products of a tile: the places of its transform.
const PLACES: usize = READ * READ;
/// Taps of a kernel.
const TAPS: usize = 9;
/// Numbers that a group's transforms may take: most of the cache of a core.
const GROUP: usize = 180_000;
/// Tiles that a group has at least, so that the weights are not read too often.
const TILES: usize = 64;

/// Whether this is a convolution for the functions below, which need every size to be at least 1. A few channels
/// would leave most of each vector empty.
pub(crate) fn fits(plan: &Plan) -> bool {
    plan.kernel == [3, 3] && plan.stride == 1 && plan.channels > 4
}

impl Plan {
    /// Rows of tiles of a sample, and tiles of a row.
    fn grid(&self) -> [usize; 2] {
        self.out.map(|n| n.div_ceil(TILE))
    }

    /// Cuts rows of tiles into an even number of groups of about `tiles` tiles.
    fn groups(&self, rows: Range<usize>, tiles: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
        let count = rows.len().div_ceil((tiles / self.grid()[1]).max(1)).next_multiple_of(2).min(rows.len());
        (0..count).map(move |i| rows.start + i * rows.len() / count..rows.start + (i + 1) * rows.len() / count)
    }

    /// The parts of a group, whose rows count through all samples, by sample.
    fn samples(&self, rows: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let (tall, rows) = (self.grid()[0], rows.clone());
        (rows.start / tall..rows.end.div_ceil(tall))
            .map(move |n| (n, rows.start.saturating_sub(n * tall)..(rows.end - n * tall).min(tall)))
    }
}

/// Numbers `[place][block][tile or channel][16]`: the transforms of images and kernels.
#[derive(Clone, Copy)]
struct Places {
    at: Shared<f32>,
    count: usize,
    blocks: usize,
}

/// Lends scratch memory for transforms.
fn lend<R>(count: usize, blocks: usize, f: impl FnOnce(Places) -> R) -> R {
    scratch(Places::size(count, blocks), |memory: &mut [MaybeUninit<f32>]| {
        f(Places { at: Shared(memory.as_mut_ptr().cast()), count, blocks })
    })
}

impl Places {
    /// Numbers of a place, and a line more: lines at the same place of each page would share too few places of a cache.
    fn step(&self) -> usize {
        (self.count * self.blocks + 1) * BLOCK
    }

    fn size(count: usize, blocks: usize) -> usize {
        PLACES * (count * blocks + 1) * BLOCK
    }

    /// # Safety
    /// The place is inside.
    #[inline(always)]
    unsafe fn get(&self, place: usize, block: usize, i: usize) -> *mut f32 {
        // SAFETY: as promised by the caller.
        unsafe { self.at.at(place * self.step() + (block * self.count + i) * BLOCK) }
    }
}

/// U, of a block of outputs and one of channels, into block `[2]` of `to`, whose blocks are outputs.
struct Kernels<'a> {
    plan: &'a Plan,
    w: &'a [f32],
    /// `w` is that of the convolution whose input gradient this is.
    flip: bool,
    block: [usize; 3],
    to: Places,
}

impl WithSimd for Kernels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Plan { channels, outputs, .. } = *self.plan;
        let (output_step, channel_step) = if self.flip { (TAPS, outputs * TAPS) } else { (channels * TAPS, TAPS) };
        let [o, c] = [self.block[0] * BLOCK, self.block[1] * BLOCK];
        let step = self.to.step();
        let mut taps = [0f32; TAPS * BLOCK];
        // SAFETY: the kernels read are those of `w`, and each job has its own blocks of U.
        unsafe {
            for c in c..c + BLOCK {
                if c < channels {
                    let from = self.w.as_ptr().add(o * output_step + c * channel_step);
                    transpose((BLOCK.min(outputs - o), TAPS), from, output_step, taps.as_mut_ptr(), BLOCK, true);
                } else {
                    taps.fill(0.);
                }
                let to = self.to.get(0, self.block[2], c);
                for v in (0..BLOCK).step_by(S::F32_LANES) {
                    both(
                        s,
                        #[inline(always)]
                        |s, w| kernel::<S>(s, w),
                        #[inline(always)]
                        |i, j| {
                            let tap = i * 3 + j;
                            load::<S>(taps.as_ptr().add(if self.flip { TAPS - 1 - tap } else { tap } * BLOCK + v))
                        },
                        #[inline(always)]
                        |i, j, u| store::<S>(to.add((i * READ + j) * step + v), u),
                    );
                }
            }
        }
    }
}

/// An image of so many channels, whose tiles read from 4 times their row and column minus `before` on.
#[derive(Clone, Copy)]
struct Image<'a> {
    data: &'a [f32],
    size: [usize; 2],
    channels: usize,
    before: [usize; 2],
}

impl<'a> Image<'a> {
    fn input(plan: &Plan, data: &'a [f32]) -> Self {
        let before = [plan.pad[0], plan.pad[2]];
        Self { data, size: [plan.height, plan.width], channels: plan.channels, before }
    }

    fn gradient(plan: &Plan, data: &'a [f32]) -> Self {
        Self { data, size: plan.out, channels: plan.outputs, before: [0, 0] }
    }

    /// Transforms one block of channels of the tiles of a group, each of `N` x `N` pixels, to `to` from tile `first` on.
    ///
    /// # Safety
    /// `to` has place for the tiles.
    #[inline(always)]
    unsafe fn transform<S: Simd, const N: usize>(
        self,
        s: S,
        f: impl Fn(S, [S::f32s; N]) -> [S::f32s; READ] + Copy,
        (plan, rows, block): (&Plan, &Range<usize>, usize),
        (to, first): (Places, usize),
    ) {
        let wide = plan.grid()[1];
        let across = TILE * wide + N - TILE;
        let planes = self.size[0] * self.size[1];
        let mut tile = first;
        scratch(
            window(plan, rows.len()),
            #[inline(always)]
            |window: &mut [MaybeUninit<f32>]| {
                let window = window.as_mut_ptr().cast::<f32>();
                for (n, rows) in plan.samples(rows) {
                    let start = [(TILE * rows.start) as isize - self.before[0] as isize, -(self.before[1] as isize)];
                    let view = Window { image: self.size, start, size: [TILE * rows.len() + N - TILE, across] };
                    let channel = block * BLOCK;
                    // SAFETY: the window is as large as its scratch memory, the planes are those of the sample.
                    unsafe {
                        let planes = self.data.as_ptr().add((n * self.channels + channel) * planes);
                        view.read(planes, BLOCK.min(self.channels - channel), window);
                        for (i, j) in (0..rows.len()).flat_map(|i| (0..wide).map(move |j| (i, j))) {
                            let from = window.add((i * across + j) * TILE * BLOCK);
                            let (to, step) = (to.get(0, block, tile), to.step());
                            for v in (0..BLOCK).step_by(S::F32_LANES) {
                                both(
                                    s,
                                    f,
                                    #[inline(always)]
                                    |i, j| load::<S>(from.add((i * across + j) * BLOCK + v)),
                                    #[inline(always)]
                                    |i, j, value| store::<S>(to.add((i * READ + j) * step + v), value),
                                );
                            }
                            tile += 1;
                        }
                    }
                }
            },
        );
    }
}

/// The transform of the input, or with `gradient` of the output's gradient: one block of channels of a group.
struct Transform<'a> {
    plan: &'a Plan,
    image: Image<'a>,
    gradient: bool,
    rows: &'a Range<usize>,
    block: usize,
    to: Places,
    first: usize,
}

impl WithSimd for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let (of, to) = ((self.plan, self.rows, self.block), (self.to, self.first));
        // SAFETY: whoever made the job gave it a place in `to`.
        unsafe {
            if self.gradient {
                self.image.transform(
                    s,
                    #[inline(always)]
                    |s, g| gradient::<S>(s, g),
                    of,
                    to,
                );
            } else {
                self.image.transform(
                    s,
                    #[inline(always)]
                    |s, d| input::<S>(s, d),
                    of,
                    to,
                );
            }
        }
    }
}

/// Numbers of the window on a group of `rows` rows of tiles.
fn window(plan: &Plan, rows: usize) -> usize {
    let [tall, wide] = plan.grid();
    (TILE * rows.min(tall) + READ - TILE) * (TILE * wide + READ - TILE) * BLOCK
}

/// Blocks of outputs whose products are in memory at a time.
const PANEL: usize = 2;

/// The outputs of a group of tiles: `panel` blocks from `block` on, of which `u` has the first at its block `u_block`.
struct Outputs<'a> {
    plan: &'a Plan,
    v: Places,
    /// The first tile of the group in `v`.
    first: usize,
    u: Places,
    u_block: usize,
    bias: Bias<'a, f32>,
    add: Option<&'a [f32]>,
    rows: &'a Range<usize>,
    block: usize,
    panel: usize,
    y: Shared<f32>,
}

impl WithSimd for Outputs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let count = self.rows.len() * self.plan.grid()[1];
        let steps: Vec<usize> = (0..self.v.blocks).map(|block| block * self.v.count * BLOCK).collect();
        let size = Places::size(count, self.panel);
        scratch(
            size + window(self.plan, self.rows.len()),
            #[inline(always)]
            |memory: &mut [MaybeUninit<f32>]| {
                let m = Places { at: Shared(memory.as_mut_ptr().cast()), count, blocks: self.panel };
                // SAFETY: m and the pixels of a sample are parts of the scratch memory, of the sizes just computed.
                unsafe {
                    for place in 0..PLACES {
                        let product = Product {
                            a: self.v.get(place, 0, self.first),
                            steps: &steps,
                            inner: BLOCK,
                            inner_step: 1,
                            b: self.u.get(place, self.u_block, 0),
                            b_block: self.u.count * BLOCK,
                            c: m.get(place, 0, 0),
                            c_block: count * BLOCK,
                            add: false,
                            apart: false,
                        };
                        product.run(
                            s,
                            count,
                            self.panel,
                            #[inline(always)]
                            |r| [r * BLOCK; 2],
                        );
                    }
                    for block in 0..self.panel {
                        self.write(s, self.block + block, m.get(0, block, 0), m.step(), m.at.at(size));
                    }
                }
            },
        );
    }
}

impl Outputs<'_> {
    /// Transforms the products `m` of one block of outputs, and writes them, plus bias and `add`; `pixels` is memory
    /// for those of a sample.
    #[inline(always)]
    unsafe fn write<S: Simd>(&self, s: S, block: usize, m: *const f32, m_step: usize, pixels: *mut f32) {
        let Plan { batch, outputs, out: [height, width], .. } = *self.plan;
        let wide = self.plan.grid()[1];
        let o = block * BLOCK;
        let count = BLOCK.min(outputs - o);
        let mut m = m;
        for (n, rows) in self.plan.samples(self.rows) {
            let mut bias = [0f32; BLOCK];
            if let Some(b) = self.bias.of(n, batch) {
                bias[..count].copy_from_slice(&b[o..o + count]);
            }
            let high = (height - TILE * rows.start).min(TILE * rows.len());
            // SAFETY: the tiles of `m` and the pixels of the output are those of the group; each group has its own.
            unsafe {
                for y in (0..high).step_by(TILE) {
                    for x in (0..TILE * wide).step_by(TILE) {
                        let to = pixels.add((y * width + x) * BLOCK);
                        for v in (0..BLOCK).step_by(S::F32_LANES) {
                            let bias = load::<S>(bias.as_ptr().add(v));
                            both(
                                s,
                                #[inline(always)]
                                |s, m| output::<S>(s, m),
                                #[inline(always)]
                                |i, j| load::<S>(m.add((i * READ + j) * m_step + v)),
                                #[inline(always)]
                                |i, j, value| {
                                    if y + i < high && x + j < width {
                                        store::<S>(to.add((i * width + j) * BLOCK + v), s.add_f32s(value, bias));
                                    }
                                },
                            );
                        }
                        m = m.add(BLOCK);
                    }
                }
                let at = ((n * outputs + o) * height + TILE * rows.start) * width;
                let add = self.add.map(|add| add.as_ptr().add(at));
                write(pixels, high * width, count, self.y.at(at), height * width, add);
            }
        }
    }
}

/// conv(x, w) + bias + add, or, with `flip`, the input gradient of the convolution of which `plan` is the mirror.
pub(crate) fn forward(plan: &Plan, x: &[f32], w: &[f32], flip: bool, bias: Bias<f32>, add: Option<&[f32]>) -> Vec<f32> {
    let (deep, across) = (blocks(plan.channels), blocks(plan.outputs));
    let (rows, wide) = (plan.batch * plan.grid()[0], plan.grid()[1]);
    let (size, work) = (plan.batch * plan.outputs * plan.pixels(), x.len() * plan.outputs);
    let arch = Arch::new();
    let tiles = (GROUP / (PLACES * BLOCK * (deep + PANEL))).max(TILES);
    let groups: Vec<_> = plan.groups(0..rows, tiles).collect();
    let outputs = |y: Shared<f32>, rows, block, (v, first), (u, u_block), panel| {
        arch.dispatch(Outputs { plan, v, first, u, u_block, bias, add, rows, block, panel, y });
    };
    let input = |rows, block, to, first| {
        let image = Image::input(plan, x);
        arch.dispatch(Transform { plan, image, gradient: false, rows, block, to, first });
    };
    // The larger of U and V is made a piece at a time, where it is used, the smaller one before and as a whole. Each
    // number is computed in the same way in both cases.
    let by_outputs = |y| {
        lend(rows * wide, deep, |v| {
            each(groups.len() * deep, work, |job| {
                let rows = &groups[job / deep];
                input(rows, job % deep, v, rows.start * wide);
            });
            let panel = if deep * PLACES * BLOCK * BLOCK * PANEL > GROUP { 1 } else { PANEL };
            each(across.div_ceil(panel), work, |job| {
                let first = job * panel;
                let panel = panel.min(across - first);
                lend(deep * BLOCK, panel, |u| {
                    for (o, c) in (0..panel).flat_map(|o| (0..deep).map(move |c| (o, c))) {
                        arch.dispatch(Kernels { plan, w, flip, block: [first + o, c, o], to: u });
                    }
                    groups.iter().for_each(|rows| outputs(y, rows, first, (v, rows.start * wide), (u, 0), panel));
                });
            });
        });
    };
    let by_tiles = |y| {
        lend(deep * BLOCK, across, |u| {
            each(across * deep, w.len() * 8, |job| {
                let block = [job / deep, job % deep, job / deep];
                arch.dispatch(Kernels { plan, w, flip, block, to: u });
            });
            each(groups.len(), work, |i| {
                lend(groups[i].len() * wide, deep, |v| {
                    (0..deep).for_each(|block| input(&groups[i], block, v, 0));
                    for first in (0..across).step_by(PANEL) {
                        outputs(y, &groups[i], first, (v, 0), (u, first), PANEL.min(across - first));
                    }
                });
            });
        });
    };
    let fill = |y: &mut [MaybeUninit<f32>]| {
        let y = Shared(y.as_mut_ptr().cast::<f32>());
        if rows * wide < plan.outputs { by_outputs(y) } else { by_tiles(y) }
    };
    // SAFETY: the groups cover the output.
    unsafe { written(size, fill) }
}
