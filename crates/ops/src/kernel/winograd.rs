//! 3x3 convolution at stride 1 and its gradients with 4 times fewer products: F(4x4, 3x3) of Winograd.
//!
//! The output is cut into tiles of 4x4 pixels. With d the 6x6 pixels of the input that a tile reads and w a kernel,
//! Y = A' [(G w G') * (B' d B)] A, where * multiplies number by number, ' transposes, and the constant matrices come
//! from polynomial interpolation at 0, a, -a, b, -b and infinity, with a = 1 / sqrt 2 and b = sqrt 2, which keep
//! two more bits than the usual 1 and 2. The sum over channels moves inside the brackets, so
//! that each of the 36 numbers xi of a tile is a matrix product: M_xi[tile, o] = sum_c V_xi[tile, c] U_xi[c, o] with
//! V = B' d B and U = G w G'. The gradient of the weight is the adjoint: with g the output's gradient,
//! dw = G' [sum over tiles of (B' d B) * (A g A')] G. That of the input is a convolution with the kernel turned over.
//! [Lavin & Gray, arXiv 1509.09308]
//!
//! Every vector holds channels of one pixel (see `block`), so a transform is the same few sums whatever the tile.
//! Tiles are taken in groups whose V stays in the cache of a core.

use super::block::{BLOCK, Product, Window, blocks, load, store, transpose, write};
use super::conv::{Bias, Plan};
use super::{Shared, each, scratch, written};
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

/// 1 / sqrt 2, and its double.
const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;

#[inline(always)]
fn splat<S: Simd, const N: usize>(s: S, values: [f32; N]) -> [S::f32s; N] {
    let mut vectors = [s.splat_f32s(0.); N];
    for i in 0..N {
        vectors[i] = s.splat_f32s(values[i]);
    }
    vectors
}

/// B': row p != 0 has the coefficients of x (x + p) (x^2 - q^2), q being the other of a and b.
#[inline(always)]
fn input<S: Simd>(s: S, d: [S::f32s; 6]) -> [S::f32s; 6] {
    let [a, b, half, two, both] = splat(s, [A, B, 0.5, 2., 2.5]);
    let (even, odd) = (s.negate_mul_add_f32s(two, d[2], d[4]), s.negate_mul_add_f32s(two, d[1], d[3]));
    let (even_b, odd_b) = (s.negate_mul_add_f32s(half, d[2], d[4]), s.negate_mul_add_f32s(half, d[1], d[3]));
    [
        s.negate_mul_add_f32s(both, d[2], s.add_f32s(d[0], d[4])),
        s.mul_add_f32s(a, odd, even),
        s.negate_mul_add_f32s(a, odd, even),
        s.mul_add_f32s(b, odd_b, even_b),
        s.negate_mul_add_f32s(b, odd_b, even_b),
        s.negate_mul_add_f32s(both, d[3], s.add_f32s(d[1], d[5])),
    ]
}

/// G: row p has [1, p, p^2] / N(p), with N(0) = 1, N(a) = -3/2, N(b) = 6.
#[inline(always)]
fn kernel<S: Simd>(s: S, w: [S::f32s; 3]) -> [S::f32s; 6] {
    let [n_a, n_b, a, b, third] = splat(s, [-2. / 3., 1. / 6., -2. / 3. * A, B / 6., 1. / 3.]);
    let even = s.negate_mul_add_f32s(third, w[2], s.mul_f32s(n_a, w[0]));
    let even_b = s.mul_add_f32s(third, w[2], s.mul_f32s(n_b, w[0]));
    [
        w[0],
        s.mul_add_f32s(a, w[1], even),
        s.negate_mul_add_f32s(a, w[1], even),
        s.mul_add_f32s(b, w[1], even_b),
        s.negate_mul_add_f32s(b, w[1], even_b),
        w[2],
    ]
}

/// G', the transpose of [`kernel`].
#[inline(always)]
fn weight<S: Simd>(s: S, u: [S::f32s; 6]) -> [S::f32s; 3] {
    let [n_a, n_b, a, b, third] = splat(s, [-2. / 3., 1. / 6., -2. / 3. * A, B / 6., 1. / 3.]);
    let (even, odd) = (s.add_f32s(u[1], u[2]), s.sub_f32s(u[1], u[2]));
    let (even_b, odd_b) = (s.add_f32s(u[3], u[4]), s.sub_f32s(u[3], u[4]));
    [
        s.mul_add_f32s(n_a, even, s.mul_add_f32s(n_b, even_b, u[0])),
        s.mul_add_f32s(a, odd, s.mul_f32s(b, odd_b)),
        s.mul_add_f32s(third, s.sub_f32s(even_b, even), u[5]),
    ]
}

/// A': column p has the powers 1, p, p^2, p^3.
#[inline(always)]
fn output<S: Simd>(s: S, m: [S::f32s; 6]) -> [S::f32s; 4] {
    let [a, b, half, two, a_3, b_3] = splat(s, [A, B, 0.5, 2., A / 2., 2. * B]);
    let (even, odd) = (s.add_f32s(m[1], m[2]), s.sub_f32s(m[1], m[2]));
    let (even_b, odd_b) = (s.add_f32s(m[3], m[4]), s.sub_f32s(m[3], m[4]));
    [
        s.add_f32s(m[0], s.add_f32s(even, even_b)),
        s.mul_add_f32s(a, odd, s.mul_f32s(b, odd_b)),
        s.mul_add_f32s(half, even, s.mul_f32s(two, even_b)),
        s.mul_add_f32s(a_3, odd, s.mul_add_f32s(b_3, odd_b, m[5])),
    ]
}

/// A, the transpose of [`output`].
#[inline(always)]
fn gradient<S: Simd>(s: S, g: [S::f32s; 4]) -> [S::f32s; 6] {
    let [a, b, half, two, a_3, b_3] = splat(s, [A, B, 0.5, 2., A / 2., 2. * B]);
    let (even, odd) = (s.mul_add_f32s(half, g[2], g[0]), s.mul_add_f32s(a_3, g[3], s.mul_f32s(a, g[1])));
    let (even_b, odd_b) = (s.mul_add_f32s(two, g[2], g[0]), s.mul_add_f32s(b_3, g[3], s.mul_f32s(b, g[1])));
    [g[0], s.add_f32s(even, odd), s.sub_f32s(even, odd), s.add_f32s(even_b, odd_b), s.sub_f32s(even_b, odd_b), g[3]]
}

/// Applies `f` to the columns of a matrix and then to the rows. Closures must be inlined: else each vector operation
/// becomes a call, for the target's features are those of the function they end in.
#[inline(always)]
fn both<S: Simd, const N: usize, const M: usize>(
    s: S,
    f: impl Fn(S, [S::f32s; N]) -> [S::f32s; M],
    read: impl Fn(usize, usize) -> S::f32s,
    write: impl Fn(usize, usize, S::f32s),
) {
    let mut half = [[s.splat_f32s(0.); N]; M];
    for j in 0..N {
        let mut column = [s.splat_f32s(0.); N];
        for i in 0..N {
            column[i] = read(i, j);
        }
        let column = f(s, column);
        for i in 0..M {
            half[i][j] = column[i];
        }
    }
    for i in 0..M {
        let row = f(s, half[i]);
        for j in 0..M {
            write(i, j, row[j]);
        }
    }
}

/// Numbers `[place][block][tile or channel][16]`: the transforms of images and kernels.
#[derive(Clone, Copy)]
struct Places {
    at: Shared<f32>,
    count: usize,
    blocks: usize,
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
    // The larger of U and V is made a piece at a time, where it is used, and the smaller one before, as a whole.
    // Each number is computed in the same way in both cases.
    let whole_v = rows * wide < plan.outputs;
    let whole = if whole_v { (rows * wide, deep) } else { (deep * BLOCK, across) };
    scratch(Places::size(whole.0, whole.1), |memory: &mut [MaybeUninit<f32>]| {
        let whole = Places { at: Shared(memory.as_mut_ptr().cast()), count: whole.0, blocks: whole.1 };
        let outputs = |y: Shared<f32>, rows, block, panel, (v, first), (u, u_block)| {
            arch.dispatch(Outputs { plan, v, first, u, u_block, bias, add, rows, block, panel, y });
        };
        let input = |rows, block, to, first| {
            let image = Image::input(plan, x);
            arch.dispatch(Transform { plan, image, gradient: false, rows, block, to, first });
        };
        let fill = |y: &mut [MaybeUninit<f32>]| {
            let y = Shared(y.as_mut_ptr().cast::<f32>());
            if whole_v {
                each(groups.len() * deep, work, |job| {
                    let rows = &groups[job / deep];
                    input(rows, job % deep, whole, rows.start * wide);
                });
                let panel = if deep * PLACES * BLOCK * BLOCK * PANEL > GROUP { 1 } else { PANEL };
                each(across.div_ceil(panel), work, |job| {
                    let first = job * panel;
                    let panel = panel.min(across - first);
                    scratch(Places::size(deep * BLOCK, panel), |u: &mut [MaybeUninit<f32>]| {
                        let u = Places { at: Shared(u.as_mut_ptr().cast()), count: deep * BLOCK, blocks: panel };
                        for (o, c) in (0..panel).flat_map(|o| (0..deep).map(move |c| (o, c))) {
                            arch.dispatch(Kernels { plan, w, flip, block: [first + o, c, o], to: u });
                        }
                        for rows in &groups {
                            outputs(y, rows, first, panel, (whole, rows.start * wide), (u, 0));
                        }
                    });
                });
            } else {
                each(across * deep, w.len() * 8, |job| {
                    let block = [job / deep, job % deep, job / deep];
                    arch.dispatch(Kernels { plan, w, flip, block, to: whole });
                });
                each(groups.len(), work, |i| {
                    let count = groups[i].len() * wide;
                    scratch(Places::size(count, deep), |v: &mut [MaybeUninit<f32>]| {
                        let v = Places { at: Shared(v.as_mut_ptr().cast()), count, blocks: deep };
                        (0..deep).for_each(|block| input(&groups[i], block, v, 0));
                        for first in (0..across).step_by(PANEL) {
                            outputs(y, &groups[i], first, PANEL.min(across - first), (v, 0), (whole, first));
                        }
                    });
                });
            }
        };
        // SAFETY: the groups cover the output.
        unsafe { written(size, fill) }
    })
}

/// Sums (B' d B) * (A g A') over tiles, of a block of channels and all outputs: `to` is `[place][block of outputs][channel][16]`.
struct Sum<'a> {
    v: Places,
    g: Places,
    block: usize,
    add: bool,
    to: &'a Places,
}

impl WithSimd for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        for place in 0..PLACES {
            // SAFETY: each job has its own block of channels of the sums.
            unsafe {
                let product = Product {
                    a: self.v.get(place, self.block, 0),
                    steps: &[0],
                    inner: self.v.count,
                    inner_step: BLOCK,
                    b: self.g.get(place, 0, 0),
                    b_block: self.g.count * BLOCK,
                    c: self.to.get(place, 0, 0),
                    c_block: self.to.count * BLOCK,
                    add: self.add,
                };
                product.run(
                    s,
                    BLOCK,
                    self.g.blocks,
                    #[inline(always)]
                    |r| [r, r * BLOCK],
                );
            }
        }
    }
}

/// The weight's gradient, of one block of channels and one of outputs, from the sums of all parts.
struct Weights<'a> {
    plan: &'a Plan,
    sums: &'a [Places],
    block: [usize; 2],
    w: Shared<f32>,
}

impl WithSimd for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Plan { channels, outputs, .. } = *self.plan;
        let [o, c] = self.block.map(|block| block * BLOCK);
        let mut taps = [0f32; TAPS * BLOCK];
        let to = taps.as_mut_ptr();
        for i in 0..BLOCK.min(channels - c) {
            // SAFETY: each job has its own blocks of the weight.
            unsafe {
                for v in (0..BLOCK).step_by(S::F32_LANES) {
                    both(
                        s,
                        #[inline(always)]
                        |s, u| weight::<S>(s, u),
                        #[inline(always)]
                        |row, column| {
                            let place = row * READ + column;
                            let mut sum = load::<S>(self.sums[0].get(place, self.block[0], i).add(v));
                            for part in &self.sums[1..] {
                                sum = s.add_f32s(sum, load::<S>(part.get(place, self.block[0], i).add(v)));
                            }
                            sum
                        },
                        #[inline(always)]
                        |i, j, w| store::<S>(to.add((i * 3 + j) * BLOCK + v), w),
                    );
                }
                let w = self.w.at((o * channels + c + i) * TAPS);
                transpose((TAPS, BLOCK.min(outputs - o)), to, BLOCK, w, channels * TAPS, false);
            }
        }
    }
}

/// Numbers of V and A g A' that may be in memory at a time for the whole batch.
const WHOLE: usize = 1 << 23;

/// The gradient of <conv(x, w), g> with respect to w.
pub(crate) fn weight_grad(plan: &Plan, x: &[f32], g: &[f32]) -> Vec<f32> {
    let (deep, across) = (blocks(plan.channels), blocks(plan.outputs));
    let (rows, wide) = (plan.batch * plan.grid()[0], plan.grid()[1]);
    let (size, work) = (plan.outputs * plan.channels * TAPS, x.len() * plan.outputs);
    let arch = Arch::new();
    let transform = |rows: &Range<usize>, block: usize, v: Places, g_to: Places, first: usize| {
        let (image, gradient) = (Image::input(plan, x), false);
        if block < deep {
            return arch.dispatch(Transform { plan, image, gradient, rows, block, to: v, first });
        }
        let (image, gradient, block) = (Image::gradient(plan, g), true, block - deep);
        arch.dispatch(Transform { plan, image, gradient, rows, block, to: g_to, first });
    };
    let pair = |memory: &mut [MaybeUninit<f32>], count| {
        let at = memory.as_mut_ptr().cast::<f32>();
        let v = Places { at: Shared(at), count, blocks: deep };
        // SAFETY: both were asked for.
        (v, Places { at: Shared(unsafe { at.add(Places::size(count, deep)) }), count, blocks: across })
    };
    let pair_size = |count| Places::size(count, deep) + Places::size(count, across);
    let (sum, sum_size) = ((BLOCK, across), Places::size(BLOCK, across));
    let sum_at = |at: Shared<f32>, i: usize| {
        // SAFETY: so many were asked for.
        Places { at: Shared(unsafe { at.at(i * sum_size) }), count: sum.0, blocks: sum.1 }
    };
    let groups: Vec<_> = plan.groups(0..rows, TILES).collect();
    let fill = |w: &mut [MaybeUninit<f32>]| {
        let w = Shared(w.as_mut_ptr().cast::<f32>());
        // Large weights: all tiles are transformed, and then each block of channels is summed where it is used.
        if deep * across * BLOCK >= rows * wide && pair_size(rows * wide) <= WHOLE {
            return scratch(pair_size(rows * wide), |memory| {
                let (v, g) = pair(memory, rows * wide);
                each(groups.len() * (deep + across), work, |job| {
                    let rows = &groups[job / (deep + across)];
                    transform(rows, job % (deep + across), v, g, rows.start * wide);
                });
                each(deep, work, |block| {
                    scratch(sum_size, |memory: &mut [MaybeUninit<f32>]| {
                        let sum = sum_at(Shared(memory.as_mut_ptr().cast()), 0);
                        arch.dispatch(Sum { v, g, block, add: false, to: &sum });
                        for o in 0..across {
                            arch.dispatch(Weights { plan, sums: &[sum], block: [o, block], w });
                        }
                    });
                });
            });
        }
        // Else each part sums some rows of tiles; parts and their order depend on the sizes alone.
        let parts = (1 << ((1 << 22) / (deep * sum_size)).clamp(2, 8).ilog2()).min(rows);
        let tiles = (GROUP / (PLACES * BLOCK * (deep + across))).max(TILES);
        scratch(parts * deep * sum_size, |sums: &mut [MaybeUninit<f32>]| {
            let sums = Shared(sums.as_mut_ptr().cast::<f32>());
            each(parts, work, |part| {
                let all = part * rows / parts..(part + 1) * rows / parts;
                for rows in plan.groups(all.clone(), tiles) {
                    let count = rows.len() * wide;
                    scratch(pair_size(count), |memory| {
                        let (v, g) = pair(memory, count);
                        (0..deep + across).for_each(|block| transform(&rows, block, v, g, 0));
                        for block in 0..deep {
                            let to = &sum_at(sums, part * deep + block);
                            arch.dispatch(Sum { v, g, block, add: rows.start > all.start, to });
                        }
                    });
                }
            });
            each(deep * across, size * 8 * parts, |job| {
                let block = [job % across, job / across];
                let sums: Vec<_> = (0..parts).map(|part| sum_at(sums, part * deep + block[1])).collect();
                arch.dispatch(Weights { plan, sums: &sums, block, w });
            });
        });
    };
    // SAFETY: the blocks cover the weight.
    unsafe { written(size, fill) }
}
