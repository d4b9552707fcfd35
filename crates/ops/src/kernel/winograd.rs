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
const TILES: usize = 32;

/// Whether this is a convolution for the functions below, which need every size to be at least 1.
pub(crate) fn fits(plan: &Plan) -> bool {
    plan.kernel == [3, 3] && plan.stride == 1
}

impl Plan {
    /// Rows of tiles of a sample, and tiles of a row.
    fn grid(&self) -> [usize; 2] {
        self.out.map(|n| n.div_ceil(TILE))
    }

    /// Cuts rows of tiles into groups of about `tiles` tiles.
    fn groups(&self, rows: Range<usize>, tiles: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
        let count = rows.len().div_ceil((tiles / self.grid()[1]).max(1));
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

/// U, `[block of outputs][place][channel][16]`, of one block of outputs and one of channels.
struct Kernels<'a> {
    plan: &'a Plan,
    w: &'a [f32],
    /// `w` is that of the convolution whose input gradient this is.
    flip: bool,
    block: [usize; 2],
    to: Shared<f32>,
}

/// Numbers from place to place of U; a line more than it has, for places at the same line of each page share too few
/// places of a cache.
fn kernel_step(plan: &Plan) -> usize {
    (blocks(plan.channels) * BLOCK + 1) * BLOCK
}

impl WithSimd for Kernels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Plan { channels, outputs, .. } = *self.plan;
        let (output_step, channel_step) = if self.flip { (TAPS, outputs * TAPS) } else { (channels * TAPS, TAPS) };
        let [o, c] = self.block.map(|block| block * BLOCK);
        let step = kernel_step(self.plan);
        let mut taps = [0f32; TAPS * BLOCK];
        // SAFETY: the kernels read are those of `w`, and each job has its own blocks of U.
        unsafe {
            let to = self.to.at(self.block[0] * PLACES * step);
            for c in c..c + BLOCK {
                if c < channels {
                    let from = self.w.as_ptr().add(o * output_step + c * channel_step);
                    transpose((BLOCK.min(outputs - o), TAPS), from, output_step, taps.as_mut_ptr(), BLOCK, true);
                } else {
                    taps.fill(0.);
                }
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
                        |i, j, u| store::<S>(to.add((i * READ + j) * step + c * BLOCK + v), u),
                    );
                }
            }
        }
    }
}

/// Transforms the tiles of a group of an image of `channels` to `[place][block of channels][tile][16]`, places `step`
/// apart. A tile reads `N` x `N` pixels from 4 times its row and column minus `before` on.
///
/// # Safety
/// `window` has place for the pixels that a sample's tiles read, `to` for the result.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tiles<S: Simd, const N: usize>(
    s: S,
    f: impl Fn(S, [S::f32s; N]) -> [S::f32s; READ] + Copy,
    plan: &Plan,
    rows: &Range<usize>,
    (image, size, channels): (&[f32], [usize; 2], usize),
    before: [usize; 2],
    window: *mut f32,
    to: *mut f32,
    step: usize,
) {
    let wide = plan.grid()[1];
    let across = TILE * wide + N - TILE;
    let planes = size[0] * size[1];
    let mut to = to;
    for block in 0..blocks(channels) {
        for (n, rows) in plan.samples(rows) {
            let start = [(TILE * rows.start) as isize - before[0] as isize, -(before[1] as isize)];
            let view = Window { image: size, start, size: [TILE * rows.len() + N - TILE, across] };
            let channel = block * BLOCK;
            // SAFETY: the window is as large as promised, the planes are those of the sample.
            unsafe {
                view.read(image[(n * channels + channel) * planes..].as_ptr(), BLOCK.min(channels - channel), window);
                for i in 0..rows.len() {
                    for j in 0..wide {
                        let from = window.add((i * across + j) * TILE * BLOCK);
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
                        to = to.add(BLOCK);
                    }
                }
            }
        }
    }
}

/// Numbers from place to place of the transforms of so many tiles; see [`kernel_step`].
fn step(tiles: usize, blocks: usize) -> usize {
    (tiles * blocks + 1) * BLOCK
}

/// Numbers of the window on a group of `rows` rows of tiles that read `read` pixels each way.
fn window(plan: &Plan, rows: usize, read: usize) -> usize {
    let [tall, wide] = plan.grid();
    (TILE * rows.min(tall) + read - TILE) * (TILE * wide + read - TILE) * BLOCK
}

/// Blocks of outputs whose products are in memory at a time.
const PANEL: usize = 2;

/// The outputs of a group of tiles.
struct Forward<'a> {
    plan: &'a Plan,
    x: &'a [f32],
    u: &'a [MaybeUninit<f32>],
    bias: Bias<'a, f32>,
    add: Option<&'a [f32]>,
    rows: Range<usize>,
    y: Shared<f32>,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { plan, rows, .. } = &self;
        let count = rows.len() * plan.grid()[1];
        let depth = blocks(plan.channels);
        let (v_step, m_step) = (step(count, depth), step(count, PANEL));
        let edge = window(plan, rows.len(), READ);
        let steps: Vec<usize> = (0..depth).map(|block| block * count * BLOCK).collect();
        let u = self.u.as_ptr().cast::<f32>();
        let size = edge + PLACES * (v_step + m_step);
        scratch(
            size,
            #[inline(always)]
            |memory: &mut [MaybeUninit<f32>]| {
                let edge_at = memory.as_mut_ptr().cast::<f32>();
                // SAFETY: the parts of the scratch memory follow each other, of the sizes just computed.
                unsafe {
                    let v = edge_at.add(edge);
                    let m = v.add(PLACES * v_step);
                    let image = (self.x, [plan.height, plan.width], plan.channels);
                    tiles(
                        s,
                        #[inline(always)]
                        |s, d| input::<S>(s, d),
                        plan,
                        rows,
                        image,
                        [plan.pad[0], plan.pad[2]],
                        edge_at,
                        v,
                        v_step,
                    );
                    for first in (0..blocks(plan.outputs)).step_by(PANEL) {
                        let panel = PANEL.min(blocks(plan.outputs) - first);
                        for place in 0..PLACES {
                            let product = Product {
                                a: v.add(place * v_step),
                                steps: &steps,
                                inner: BLOCK,
                                inner_step: 1,
                                b: u.add((first * PLACES + place) * kernel_step(plan)),
                                b_block: PLACES * kernel_step(plan),
                                c: m.add(place * m_step),
                                c_block: count * BLOCK,
                                add: false,
                            };
                            product.run(
                                s,
                                count,
                                panel,
                                #[inline(always)]
                                |r| [r * BLOCK; 2],
                            );
                        }
                        for block in 0..panel {
                            self.write(s, first + block, m.add(block * count * BLOCK), m_step, edge_at);
                        }
                    }
                }
            },
        );
    }
}

impl Forward<'_> {
    /// Transforms the products `m` of one block of outputs, and writes them, plus bias and `add`; `pixels` is memory
    /// for those of a sample.
    #[inline(always)]
    unsafe fn write<S: Simd>(&self, s: S, block: usize, m: *const f32, m_step: usize, pixels: *mut f32) {
        let Plan { batch, outputs, out: [height, width], .. } = *self.plan;
        let wide = self.plan.grid()[1];
        let o = block * BLOCK;
        let count = BLOCK.min(outputs - o);
        let mut m = m;
        for (n, rows) in self.plan.samples(&self.rows) {
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
    let grid = [blocks(plan.outputs), blocks(plan.channels)];
    let size = plan.batch * plan.outputs * plan.pixels();
    let tall = plan.grid()[0];
    let tiles = (GROUP / (PLACES * BLOCK * (grid[1] + PANEL))).max(TILES);
    let groups: Vec<_> = plan.groups(0..plan.batch * tall, tiles).collect();
    scratch(grid[0] * PLACES * kernel_step(plan), |u| {
        let to = Shared(u.as_mut_ptr().cast::<f32>());
        each(grid[0] * grid[1], w.len() * 8, |job| {
            Arch::new().dispatch(Kernels { plan, w, flip, block: [job / grid[1], job % grid[1]], to });
        });
        let u = &*u;
        let fill = |y: &mut [MaybeUninit<f32>]| {
            let y = Shared(y.as_mut_ptr().cast::<f32>());
            each(groups.len(), size * plan.channels, |i| {
                Arch::new().dispatch(Forward { plan, x, u, bias, add, rows: groups[i].clone(), y });
            });
        };
        // SAFETY: the groups cover the output.
        unsafe { written(size, fill) }
    })
}

/// Sums (B' d B) * (A g A') over rows of tiles, into `[place][block of channels][block of outputs][16][16]`.
struct Gradient<'a> {
    plan: &'a Plan,
    x: &'a [f32],
    g: &'a [f32],
    rows: Range<usize>,
    sum: Shared<f32>,
}

/// Numbers from place to place of a [`Gradient`]; see [`kernel_step`].
fn sum_step(plan: &Plan) -> usize {
    (blocks(plan.channels) * blocks(plan.outputs) * BLOCK + 1) * BLOCK
}

impl WithSimd for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let plan = self.plan;
        let (deep, across) = (blocks(plan.channels), blocks(plan.outputs));
        let tiles_of_group = (GROUP / (PLACES * BLOCK * (deep + across))).max(TILES);
        for rows in plan.groups(self.rows.clone(), tiles_of_group) {
            let count = rows.len() * plan.grid()[1];
            let (v_step, g_step) = (step(count, deep), step(count, across));
            let edge = window(plan, rows.len(), READ);
            let size = edge + PLACES * (v_step + g_step);
            scratch(
                size,
                #[inline(always)]
                |memory: &mut [MaybeUninit<f32>]| {
                    let edge_at = memory.as_mut_ptr().cast::<f32>();
                    // SAFETY: the parts of the scratch memory follow each other, of the sizes just computed.
                    unsafe {
                        let v = edge_at.add(edge);
                        let g = v.add(PLACES * v_step);
                        let image = (self.x, [plan.height, plan.width], plan.channels);
                        tiles(
                            s,
                            #[inline(always)]
                            |s, d| input::<S>(s, d),
                            plan,
                            &rows,
                            image,
                            [plan.pad[0], plan.pad[2]],
                            edge_at,
                            v,
                            v_step,
                        );
                        tiles(
                            s,
                            #[inline(always)]
                            |s, g| gradient::<S>(s, g),
                            plan,
                            &rows,
                            (self.g, plan.out, plan.outputs),
                            [0, 0],
                            edge_at,
                            g,
                            g_step,
                        );
                        for place in 0..PLACES {
                            for block in 0..deep {
                                let product = Product {
                                    a: v.add(place * v_step + block * count * BLOCK),
                                    steps: &[0],
                                    inner: count,
                                    inner_step: BLOCK,
                                    b: g.add(place * g_step),
                                    b_block: count * BLOCK,
                                    c: self.sum.at(place * sum_step(plan) + block * across * BLOCK * BLOCK),
                                    c_block: BLOCK * BLOCK,
                                    add: rows.start > self.rows.start,
                                };
                                product.run(
                                    s,
                                    BLOCK,
                                    across,
                                    #[inline(always)]
                                    |r| [r, r * BLOCK],
                                );
                            }
                        }
                    }
                },
            );
        }
    }
}

/// The weight's gradient, of one block of channels and one of outputs, from the sums of all parts.
struct Weights<'a> {
    plan: &'a Plan,
    sums: &'a [Vec<f32>],
    block: [usize; 2],
    w: Shared<f32>,
}

impl WithSimd for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Plan { channels, outputs, .. } = *self.plan;
        let [o, c] = self.block.map(|block| block * BLOCK);
        let at = (self.block[1] * blocks(outputs) + self.block[0]) * BLOCK * BLOCK;
        let mut taps = [0f32; TAPS * BLOCK];
        let to = taps.as_mut_ptr();
        for i in 0..BLOCK.min(channels - c) {
            // SAFETY: each job has its own blocks of the sums and of the weight.
            unsafe {
                for v in (0..BLOCK).step_by(S::F32_LANES) {
                    both(
                        s,
                        #[inline(always)]
                        |s, u| weight::<S>(s, u),
                        #[inline(always)]
                        |row, column| {
                            let at = (row * READ + column) * sum_step(self.plan) + at + i * BLOCK + v;
                            let mut sum = load::<S>(self.sums[0].as_ptr().add(at));
                            for part in &self.sums[1..] {
                                sum = s.add_f32s(sum, load::<S>(part.as_ptr().add(at)));
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

/// The gradient of <conv(x, w), g> with respect to w.
pub(crate) fn weight_grad(plan: &Plan, x: &[f32], g: &[f32]) -> Vec<f32> {
    let (size, sum_size) = (plan.outputs * plan.channels * TAPS, PLACES * sum_step(plan));
    let rows = plan.batch * plan.grid()[0];
    // Each part sums some rows of tiles; parts and their order depend on the sizes alone.
    let parts = ((1 << 22) / sum_size).clamp(2, 8).min(rows);
    let work = x.len() * plan.outputs;
    let sums: Vec<Vec<f32>> = super::collect(parts, work, |part| {
        let fill = |sum: &mut [MaybeUninit<f32>]| {
            let rows = part * rows / parts..(part + 1) * rows / parts;
            Arch::new().dispatch(Gradient { plan, x, g, rows, sum: Shared(sum.as_mut_ptr().cast()) });
        };
        // SAFETY: the first group of tiles writes all but the lines between places, which nobody reads.
        unsafe { written(sum_size, fill) }
    });
    let across = blocks(plan.outputs);
    let fill = |w: &mut [MaybeUninit<f32>]| {
        let w = Shared(w.as_mut_ptr().cast::<f32>());
        each(blocks(plan.channels) * across, size * 8 * parts, |job| {
            Arch::new().dispatch(Weights { plan, sums: &sums, block: [job % across, job / across], w });
        });
    };
    // SAFETY: the blocks cover the weight.
    unsafe { written(size, fill) }
}
