//! The gradient of the weight: dw = G' [sum over tiles of (B' d B) * (A g A')] G.

use super::matrices::{both, weight};
use super::*;

/// Sums (B' d B) * (A g A') over tiles, of a block of channels and all outputs: into
/// `to`, `[place][block of outputs][channel][16]`, from its block `first` on.
struct Sum {
    v: Places,
    g: Places,
    block: usize,
    add: bool,
    to: Places,
    first: usize,
}

impl WithSimd for Sum {
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
                    c: self.to.get(place, self.first, 0),
                    c_block: self.to.count * BLOCK,
                    add: self.add,
                    apart: false,
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
    block: [usize; 2],
    sums: Places,
    /// Where the blocks of the parts begin in the sums, and how far apart they are.
    first: usize,
    step: usize,
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
                            let mut sum = load::<S>(self.sums.get(place, self.first, i).add(v));
                            for part in (self.first + self.step..self.sums.blocks).step_by(self.step) {
                                sum = s.add_f32s(sum, load::<S>(self.sums.get(place, part, i).add(v)));
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

/// Numbers of V and A g A' that may be in memory at a time.
const WHOLE: usize = 10 << 20;

/// The gradient of <conv(x, w), g> with respect to w.
pub(crate) fn weight_grad(plan: &Plan, x: &[f32], g: &[f32]) -> Vec<f32> {
    let (deep, across) = (blocks(plan.channels), blocks(plan.outputs));
    let (rows, wide) = (plan.batch * plan.grid()[0], plan.grid()[1]);
    let all = rows * wide;
    let size = plan.outputs * plan.channels * TAPS;
    let fill = |w: &mut [MaybeUninit<f32>]| {
        let job = Job { plan, x, g, w: Shared(w.as_mut_ptr().cast()) };
        // Large weights are summed over all tiles where they are used, small ones beside the tiles they sum over.
        if deep * across * BLOCK >= all && Places::size(all, deep) + Places::size(all, across) <= WHOLE {
            lend(all, deep, |v| lend(all, across, |g| job.by_channels(v, g)));
        } else {
            job.by_tiles();
        }
    };
    // SAFETY: either way writes all blocks of the weight.
    unsafe { written(size, fill) }
}

#[derive(Clone, Copy)]
struct Job<'a> {
    plan: &'a Plan,
    x: &'a [f32],
    g: &'a [f32],
    w: Shared<f32>,
}

impl Job<'_> {
    fn work(&self) -> usize {
        self.x.len() * self.plan.outputs
    }

    /// Transforms one block of a group, those of the input and then those of the output's gradient, to tile `first` on.
    fn transform(&self, rows: &Range<usize>, block: usize, (v, g): (Places, Places), first: usize) {
        let plan = self.plan;
        let (image, gradient, block, to) = match block.checked_sub(v.blocks) {
            None => (Image::input(plan, self.x), false, block, v),
            Some(block) => (Image::gradient(plan, self.g), true, block, g),
        };
        Arch::new().dispatch(Transform { plan, image, gradient, rows, block, to, first });
    }

    fn by_channels(&self, v: Places, g: Places) {
        let Self { plan, w, .. } = *self;
        let groups: Vec<_> = plan.groups(0..plan.batch * plan.grid()[0], TILES).collect();
        let count = v.blocks + g.blocks;
        each(groups.len() * count, self.work(), |job| {
            let rows = &groups[job / count];
            self.transform(rows, job % count, (v, g), rows.start * plan.grid()[1]);
        });
        each(v.blocks, self.work(), |block| {
            lend(BLOCK, g.blocks, |sums| {
                Arch::new().dispatch(Sum { v, g, block, add: false, to: sums, first: 0 });
                for o in 0..g.blocks {
                    Arch::new().dispatch(Weights { plan, block: [o, block], sums, first: o, step: g.blocks, w });
                }
            });
        });
    }

    fn by_tiles(&self) {
        let Self { plan, w, .. } = *self;
        let (deep, across) = (blocks(plan.channels), blocks(plan.outputs));
        let (rows, wide) = (plan.batch * plan.grid()[0], plan.grid()[1]);
        let step = deep * across;
        // Each part sums some rows of tiles; parts and their order depend on the sizes alone.
        let parts = (1 << ((1 << 22) / Places::size(BLOCK, step)).clamp(2, 8).ilog2()).min(rows);
        let tiles = (GROUP / (PLACES * BLOCK * (deep + across))).max(TILES);
        lend(BLOCK, parts * step, |sums| {
            each(parts, self.work(), |part| {
                let all = part * rows / parts..(part + 1) * rows / parts;
                for rows in plan.groups(all.clone(), tiles) {
                    let (count, add) = (rows.len() * wide, rows.start > all.start);
                    lend(count, deep, |v| {
                        lend(count, across, |g| {
                            (0..deep + across).for_each(|block| self.transform(&rows, block, (v, g), 0));
                            for block in 0..deep {
                                let first = part * step + block * across;
                                Arch::new().dispatch(Sum { v, g, block, add, to: sums, first });
                            }
                        });
                    });
                }
            });
            each(step, step * PLACES * parts * BLOCK * BLOCK, |first| {
                let block = [first % across, first / across];
                Arch::new().dispatch(Weights { plan, block, sums, first, step, w });
            });
        });
    }
}
