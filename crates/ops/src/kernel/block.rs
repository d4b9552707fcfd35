//! Images by blocks of 16 channels, and the matrix product that reads and writes them.
//!
//! A blocked image is `[block of 16 channels][pixel][16]`: one pixel of a block is one cache line, and a few vectors.
//! What is left of the last block is 0. Whatever is a matrix here is blocked by its columns in the same way,
//! `[block][row][16]`, so that nothing has to be packed for the product.

use super::Real;
use pulp::Simd;

/// Channels of a block.
pub(crate) const BLOCK: usize = 16;

/// Blocks that `n` channels take.
pub(crate) fn blocks(n: usize) -> usize {
    n.div_ceil(BLOCK)
}

/// Has `n` numbers brought nearer, where the CPU knows how to be asked: they may lie anywhere.
#[inline(always)]
pub(crate) fn soon<T>(_at: *const T, _n: usize) {
    #[cfg(target_arch = "x86_64")]
    for byte in (0..=_n * size_of::<T>()).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: it reads nothing, and every CPU of this kind has it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(_at.wrapping_byte_add(byte).cast()) };
    }
}

/// `to[j][i] = from[i][j]` for i < rows <= 16, j < columns <= 16, the rows `step` apart; with `fill`, 0 for the rows
/// up to 16.
///
/// # Safety
/// Both matrices lie inside their allocations and do not overlap.
#[inline(always)]
pub(crate) unsafe fn transpose(
    (rows, columns): (usize, usize),
    from: *const f32,
    from_step: usize,
    to: *mut f32,
    to_step: usize,
    fill: bool,
) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has AVX-512, and the rest is promised by the caller.
        return unsafe { transpose_avx512((rows, columns), from, from_step, to, to_step, fill) };
    }
    // SAFETY: as promised by the caller.
    unsafe {
        for j in 0..columns {
            for i in 0..rows {
                *to.add(j * to_step + i) = *from.add(i * from_step + j);
            }
            for i in rows..if fill { BLOCK } else { rows } {
                *to.add(j * to_step + i) = 0.;
            }
        }
    }
}

/// Four rounds that each exchange halves: of pairs of numbers, of pairs of pairs, and of quarters of a vector twice.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_avx512(
    (rows, columns): (usize, usize),
    from: *const f32,
    from_step: usize,
    to: *mut f32,
    to_step: usize,
    fill: bool,
) {
    use std::arch::x86_64::*;
    let mask = |n: usize| ((1u32 << n) - 1) as __mmask16;
    let mut a = [_mm512_setzero_ps(); 16];
    // SAFETY: rows and columns are masked to those that the caller has.
    unsafe {
        if rows == 16 && columns == 16 {
            for (i, a) in a.iter_mut().enumerate() {
                // 16 rows far apart are more than the CPU would follow by itself
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(i * from_step + 4 * BLOCK).cast());
                *a = _mm512_loadu_ps(from.add(i * from_step));
            }
        } else {
            for (i, a) in a.iter_mut().enumerate() {
                if i < rows {
                    *a = _mm512_maskz_loadu_ps(mask(columns), from.add(i * from_step));
                }
            }
        }
    }
    let mut b = a;
    for i in 0..8 {
        b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
    let [lo, hi] = [
        |a, b| _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))),
        |a, b| _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))),
    ];
    for i in [0, 4, 8, 12] {
        a[i] = lo(b[i], b[i + 2]);
        a[i + 1] = hi(b[i], b[i + 2]);
        a[i + 2] = lo(b[i + 1], b[i + 3]);
        a[i + 3] = hi(b[i + 1], b[i + 3]);
    }
    for k in 0..4 {
        let even = [_mm512_shuffle_f32x4(a[k], a[4 + k], 0x88), _mm512_shuffle_f32x4(a[8 + k], a[12 + k], 0x88)];
        let odd = [_mm512_shuffle_f32x4(a[k], a[4 + k], 0xdd), _mm512_shuffle_f32x4(a[8 + k], a[12 + k], 0xdd)];
        b[k] = _mm512_shuffle_f32x4(even[0], even[1], 0x88);
        b[4 + k] = _mm512_shuffle_f32x4(odd[0], odd[1], 0x88);
        b[8 + k] = _mm512_shuffle_f32x4(even[0], even[1], 0xdd);
        b[12 + k] = _mm512_shuffle_f32x4(odd[0], odd[1], 0xdd);
    }
    // SAFETY: as above.
    unsafe {
        if columns == 16 && (fill || rows == 16) {
            for (j, b) in b.iter().enumerate() {
                _mm512_storeu_ps(to.add(j * to_step), *b);
            }
        } else {
            let mask = mask(if fill { 16 } else { rows });
            for (j, b) in b.iter().enumerate() {
                if j < columns {
                    _mm512_mask_storeu_ps(to.add(j * to_step), mask, *b);
                }
            }
        }
    }
}

/// A window on one block of channels of an image, surrounded by zeros.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    /// Height and width of the image.
    pub image: [usize; 2],
    /// Where the window begins in the image: before it, if negative.
    pub start: [isize; 2],
    /// Height and width of the window.
    pub size: [usize; 2],
}

impl Window {
    /// Writes `[pixel of the window][16]` from `channels` <= 16 planes that lie one after the other at `image`.
    ///
    /// # Safety
    /// The planes lie inside their allocation; `to` has place for the window.
    #[inline(always)]
    pub(crate) unsafe fn read(&self, image: *const f32, channels: usize, to: *mut f32) {
        let ([height, width], [high, across]) = (self.image, self.size);
        // columns from..until of the window are in the image
        let from = (-self.start[1]).clamp(0, across as isize) as usize;
        let until = (width as isize - self.start[1]).clamp(from as isize, across as isize) as usize;
        // SAFETY: only pixels of the image are read, each row of the window is written once.
        unsafe {
            for i in 0..high {
                let to = to.add(i * across * BLOCK);
                let y = self.start[0] + i as isize;
                if y < 0 || y >= height as isize || from == until {
                    to.write_bytes(0, across * BLOCK);
                    continue;
                }
                to.write_bytes(0, from * BLOCK);
                to.add(until * BLOCK).write_bytes(0, (across - until) * BLOCK);
                for j in (from..until).step_by(BLOCK) {
                    // whole blocks are faster: the last one may overlap the one before
                    let j = j.min(until.saturating_sub(BLOCK).max(from));
                    let size = (channels, (until - j).min(BLOCK));
                    transpose(
                        size,
                        image.offset(y * width as isize + self.start[1] + j as isize),
                        height * width,
                        to.add(j * BLOCK),
                        BLOCK,
                        true,
                    );
                }
            }
        }
    }
}

/// Adds the pixels `[pixel][16]` of one block to `channels` planes of an output, `plane` apart, which has them in a row.
///
/// # Safety
/// The planes lie inside their allocation; `add`, if given, is laid out as they are.
#[inline(always)]
pub(crate) unsafe fn write(
    from: *const f32,
    pixels: usize,
    channels: usize,
    to: *mut f32,
    plane: usize,
    add: Option<*const f32>,
) {
    // SAFETY: as promised by the caller.
    unsafe {
        for p in (0..pixels).step_by(BLOCK) {
            let n = (pixels - p).min(BLOCK);
            transpose((n, channels), from.add(p * BLOCK), BLOCK, to.add(p), plane, false);
            if let Some(add) = add {
                for c in 0..channels {
                    let (to, add) = (to.add(c * plane + p), add.add(c * plane + p));
                    if n == BLOCK {
                        (0..BLOCK).for_each(|i| *to.add(i) += *add.add(i));
                    } else {
                        (0..n).for_each(|i| *to.add(i) += *add.add(i));
                    }
                }
            }
        }
    }
}

/// Terms of a sum in f32 that is taken one by one: longer ones are cut, and their parts added up.
pub(crate) const TERMS: usize = 1024;

/// c = a b, or c += a b with `add`. The sum over k runs over `steps` x `inner`, in this order for every element.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a, T = f32> {
    /// a(r, k) is at `rows(r)[0] + steps[k / inner] + k % inner * inner_step`.
    pub a: *const T,
    pub steps: &'a [usize],
    pub inner: usize,
    pub inner_step: usize,
    /// b is `[block][k][16]`, its blocks so far apart.
    pub b: *const T,
    pub b_block: usize,
    /// c is `[block][row][16]`, its blocks so far apart, row r at `rows(r)[1]`.
    pub c: *mut T,
    pub c_block: usize,
    pub add: bool,
    /// Add when the sum is complete: better for many terms, slower for few.
    pub apart: bool,
}

impl<T: Real> Product<'_, T> {
    /// Computes `m` rows of `blocks` blocks.
    ///
    /// # Safety
    /// All that is read and written lies inside its allocation; c overlaps neither a nor b.
    #[inline(always)]
    pub(crate) unsafe fn run<S: Simd>(
        self,
        simd: S,
        m: usize,
        blocks: usize,
        rows: impl Fn(usize) -> [usize; 2] + Copy,
    ) {
        // SAFETY: as promised by the caller.
        unsafe {
            // as many sums as leave registers for the vectors of b and one of a
            match (size_of::<T>(), size_of::<T::Vector<S>>()) {
                (4, 64) => {
                    self.panels::<S, 12, 2>(simd, m, blocks - blocks % 2, rows);
                    if blocks % 2 == 1 {
                        self.at(blocks - 1).panel::<S, 12, 1>(simd, m, rows);
                    }
                }
                (8, 64) => self.panels::<S, 12, 2>(simd, m, blocks, rows),
                (4, 32) => self.panels::<S, 6, 2>(simd, m, blocks, rows),
                (8, 32) => self.panels::<S, 2, 4>(simd, m, blocks, rows),
                (4, 16) => self.panels::<S, 6, 4>(simd, m, blocks, rows),
                (8, 16) => self.panels::<S, 2, 8>(simd, m, blocks, rows),
                _ => self.panels::<S, 1, 16>(simd, m, blocks, rows),
            }
        }
    }

    /// The blocks one panel after the other, each as wide as `V` vectors.
    #[inline(always)]
    unsafe fn panels<S: Simd, const R: usize, const V: usize>(
        self,
        simd: S,
        m: usize,
        blocks: usize,
        rows: impl Fn(usize) -> [usize; 2] + Copy,
    ) {
        let wide = (V * size_of::<T::Vector<S>>() / size_of::<T>() / BLOCK).max(1);
        for j in (0..blocks).step_by(wide) {
            // SAFETY: as promised by the caller.
            unsafe { self.at(j).panel::<S, R, V>(simd, m, rows) };
        }
    }

    /// The product from block `j` of b and c on.
    #[inline(always)]
    unsafe fn at(self, j: usize) -> Self {
        // SAFETY: as promised by the caller.
        unsafe { Self { b: self.b.add(j * self.b_block), c: self.c.add(j * self.c_block), ..self } }
    }

    /// Cuts the rows into parts of about the same size, at most `R`.
    #[inline(always)]
    unsafe fn panel<S: Simd, const R: usize, const V: usize>(
        self,
        simd: S,
        m: usize,
        rows: impl Fn(usize) -> [usize; 2] + Copy,
    ) {
        let parts = m.div_ceil(R);
        for part in 0..parts {
            let (from, to) = (part * m / parts, (part + 1) * m / parts);
            // SAFETY: as promised by the caller.
            unsafe {
                match to - from {
                    1 => self.tile::<S, 1, V>(simd, from, rows),
                    2 => self.tile::<S, 2, V>(simd, from, rows),
                    3 => self.tile::<S, 3, V>(simd, from, rows),
                    4 => self.tile::<S, 4, V>(simd, from, rows),
                    5 => self.tile::<S, 5, V>(simd, from, rows),
                    6 => self.tile::<S, 6, V>(simd, from, rows),
                    7 if R > 6 => self.tile::<S, 7, V>(simd, from, rows),
                    8 if R > 6 => self.tile::<S, 8, V>(simd, from, rows),
                    9 if R > 6 => self.tile::<S, 9, V>(simd, from, rows),
                    10 if R > 6 => self.tile::<S, 10, V>(simd, from, rows),
                    11 if R > 6 => self.tile::<S, 11, V>(simd, from, rows),
                    _ => self.tile::<S, R, V>(simd, from, rows),
                }
            }
        }
    }

    /// `R` rows of `V` vectors, from row `from` on, whose sums stay in registers.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // the same index in several arrays
    unsafe fn tile<S: Simd, const R: usize, const V: usize>(
        self,
        simd: S,
        from: usize,
        rows: impl Fn(usize) -> [usize; 2],
    ) {
        /// Where vector `v` begins in blocks that are `step` apart.
        #[inline(always)]
        fn of<V, T>(v: usize, step: usize) -> usize {
            let lanes = size_of::<V>() / size_of::<T>();
            v * lanes / BLOCK * step + v * lanes % BLOCK
        }
        let of = of::<T::Vector<S>, T>;
        let mut sums = [[T::zero().splat(simd); V]; R];
        let mut row = [[0; 2]; R];
        // SAFETY: as promised by the caller.
        unsafe {
            let c = self.c;
            for r in 0..R {
                row[r] = rows(from + r);
                for v in 0..V {
                    if self.add && !self.apart {
                        sums[r][v] = read::<T::Vector<S>, T>(c.add(of(v, self.c_block) + row[r][1]));
                    }
                }
            }
            let mut b = self.b;
            for &step in self.steps {
                let mut a = self.a.add(step);
                for _ in 0..self.inner {
                    let mut vectors = [T::zero().splat(simd); V];
                    for v in 0..V {
                        vectors[v] = read::<T::Vector<S>, T>(b.add(of(v, self.b_block)));
                    }
                    for r in 0..R {
                        let factor = (*a.add(row[r][0])).splat(simd);
                        for v in 0..V {
                            sums[r][v] = T::fused(simd, factor, vectors[v], sums[r][v]);
                        }
                    }
                    a = a.add(self.inner_step);
                    b = b.add(BLOCK);
                }
            }
            for r in 0..R {
                for v in 0..V {
                    let c = c.add(of(v, self.c_block) + row[r][1]);
                    let sum = if self.add && self.apart {
                        T::plus(simd, read::<T::Vector<S>, T>(c), sums[r][v])
                    } else {
                        sums[r][v]
                    };
                    c.cast::<T::Vector<S>>().write_unaligned(sum);
                }
            }
        }
    }
}

/// # Safety
/// A vector's numbers lie there.
#[inline(always)]
unsafe fn read<V, T>(at: *const T) -> V {
    // SAFETY: as promised by the caller; any bits are numbers.
    unsafe { at.cast::<V>().read_unaligned() }
}

/// # Safety
/// A vector's numbers lie there.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd>(at: *const f32) -> S::f32s {
    // SAFETY: as promised by the caller.
    unsafe { read(at) }
}

/// # Safety
/// There is place for a vector's numbers.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd>(at: *mut f32, v: S::f32s) {
    // SAFETY: as promised by the caller.
    unsafe { at.cast::<S::f32s>().write_unaligned(v) }
}
