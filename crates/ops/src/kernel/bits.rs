//! Products of a matrix of bits with one of numbers: additions alone, four terms at a time, from tables of sums.
//!
//! c(r, j) = sum over k of a(r, k) b(k, j), with a(r, k) = 0 or 1. Any four rows of b have 16 sums; with all of them in a table,
//! a row of c adds one where it would multiply four times. \[Arlazarov70, "the four Russians"\] The sums of four terms are added
//! in the order of k, whatever the number of rows: rows that are samples have the same bits in any batch. Rows of a that
//! hold other numbers are computed by the ordinary product.

use super::block::BLOCK;
use super::matrix::{Matrix, pack};
use super::product::{Matrices, product as ordinary};
use super::{Real, Shared, each, scratch, wide, written};
use pulp::{Arch, Simd, WithSimd};
use std::mem::MaybeUninit;

/// Rows of b that have a table, and the sums in it.
const GROUP: usize = 4;
const SUMS: usize = 1 << GROUP;

/// Terms whose bits are one word, the groups and lines of tables that they make, and the bytes of a line, which is one of the
/// cache: all stay in the nearest.
const WORD: usize = u64::BITS as usize;
const WHOLE: usize = WORD / GROUP;
const TABLES: usize = WHOLE * SUMS;
const LINE: usize = 64;

/// Rows of c that one job computes from its tables, at most.
const ROWS: usize = 1024;
/// Rows of a whose bits one job packs.
const PACKED: usize = 32;
/// Fewer rows than these are not worth tables.
const FEW: usize = 4;

/// a b for `m` x `k` times `k` x `n`: fast in those rows of `a` that hold nothing but 0 and 1.
pub(crate) fn product<T: Real>((m, n, k): (usize, usize, usize), a: &Matrices<T>, b: &Matrices<T>) -> Vec<T> {
    let words = words((m, k), a);
    let others = words.iter().skip(step(k) - 1).step_by(step(k)).filter(|&&other| other != 0).count();
    let fill = |c: *mut T| {
        let (panels, parts, c) = (n.div_ceil(BLOCK), m.div_ceil(ROWS), Shared(c));
        each(panels * parts, m * n * k / GROUP, |job| {
            let (column, part) = (job / parts * BLOCK, job % parts);
            let (row, end) = (part * m / parts, (part + 1) * m / parts);
            let words = &words[row * step(k)..end * step(k)];
            // SAFETY: each job writes its own numbers of c.
            let (b, c) = unsafe { (b.get(0).from(0, column), c.at(row * n + column)) };
            Arch::new().dispatch(Panel { words, terms: k, columns: BLOCK.min(n - column), b, c, c_row: n });
        });
    };
    if others > 0 || m == 0 {
        let mut c = ordinary(1, (m, n, k), a, b, T::one());
        if others < m {
            fill(c.as_mut_ptr());
        }
        return c;
    }
    // SAFETY: the jobs cover the output.
    unsafe { written(m * n, |c: &mut [MaybeUninit<T>]| fill(c.as_mut_ptr().cast())) }
}

/// Words of a row of `k` bits: one more, which is 0 if they are all.
fn step(k: usize) -> usize {
    k.div_ceil(WORD) + 1
}

/// The bits of each row of `a`, of [`step`] words.
fn words<T: Real>((m, k): (usize, usize), a: &Matrices<T>) -> Vec<u64> {
    let mut words = vec![0u64; m * step(k)];
    let to = Shared(words.as_mut_ptr());
    each(m.div_ceil(PACKED), m * k, |job| {
        let (row, a) = (job * PACKED, a.get(0));
        let rows = PACKED.min(m - row);
        // SAFETY: each job writes the words of its own rows.
        unsafe {
            let (a, words) = (a.from(row, 0), std::slice::from_raw_parts_mut(to.at(row * step(k)), rows * step(k)));
            // the numbers are their own, lest they be read anew after each word
            let Matrix { at, row, col } = a;
            wide(
                #[inline(always)]
                || match (row, col) {
                    (_, 1) => along(words, k, move |r, i| *at.add(r * row + i)),
                    (1, _) => across(words, k, move |r, i| *at.add(r + i * col)),
                    _ => along(words, k, move |r, i| *at.add(r * row + i * col)),
                },
            );
        }
    });
    words
}

/// Packs row by row, the faster way where rows lie in memory one after the other.
#[inline(always)]
fn along<T: Real>(words: &mut [u64], k: usize, at: impl Fn(usize, usize) -> T) {
    for (r, words) in words.chunks_exact_mut(step(k)).enumerate() {
        let (last, mut all) = (step(k) - 1, 0);
        for (q, to) in words[..last].iter_mut().enumerate() {
            let (mut word, mut other) = (0u64, 0u64);
            for i in 0..WORD.min(k - q * WORD) {
                let (bit, odd) = sorted(at(r, q * WORD + i));
                word |= bit << i;
                other |= odd;
            }
            *to = word;
            all |= other;
        }
        words[last] = all;
    }
}

/// Packs all rows at once, term by term, the faster way where columns lie in memory one after the other.
#[inline(always)]
fn across<T: Real>(words: &mut [u64], k: usize, at: impl Fn(usize, usize) -> T) {
    let rows = words.len() / step(k);
    let mut other = [0u64; PACKED];
    for q in 0..step(k) - 1 {
        let mut word = [0u64; PACKED];
        for i in 0..WORD.min(k - q * WORD) {
            for r in 0..rows.min(PACKED) {
                let (bit, odd) = sorted(at(r, q * WORD + i));
                word[r] |= bit << i;
                other[r] |= odd;
            }
        }
        (0..rows).for_each(|r| words[r * step(k) + q] = word[r]);
    }
    (0..rows).for_each(|r| words[(r + 1) * step(k) - 1] = other[r]);
}

/// Whether a number is 1, and whether it is neither 0 nor 1.
#[inline(always)]
fn sorted<T: Real>(v: T) -> (u64, u64) {
    (u64::from(v == T::one()), u64::from(v != T::one() && v != T::zero()))
}

/// At most [`BLOCK`] columns of some rows of c.
struct Panel<'a, T> {
    words: &'a [u64],
    terms: usize,
    columns: usize,
    b: Matrix<T>,
    c: *mut T,
    c_row: usize,
}

impl<T: Real> WithSimd for Panel<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let size = size_of::<T>();
        scratch(
            TABLES * LINE / size + (WORD + self.words.len() / step(self.terms)) * BLOCK,
            #[inline(always)]
            |memory: &mut [MaybeUninit<T>]| {
                let memory = memory.as_mut_ptr().cast::<T>();
                // SAFETY: the memory holds the tables, the copy of b and the sums; the caller gives places of b and c.
                unsafe {
                    match (size, size_of::<T::Vector<S>>()) {
                        (_, 64) => self.run::<S, 2, 1>(s, memory),
                        (_, 32) => self.run::<S, 2, 2>(s, memory),
                        (_, 16) => self.run::<S, 2, 4>(s, memory),
                        (8, _) => self.run::<S, 1, 8>(s, memory),
                        _ => self.run::<S, 1, 16>(s, memory),
                    }
                }
            },
        );
    }
}

impl<T: Real> Panel<'_, T> {
    /// With `R` rows at a time, and a line of the cache in `V` vectors.
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const V: usize>(&self, s: S, memory: *mut T) {
        let Self { words, terms, columns, b, .. } = *self;
        let (rows, lanes) = (words.len() / step(terms), LINE / size_of::<T>());
        // SAFETY: the parts of the memory do not overlap; the rest is promised by the caller.
        unsafe {
            let (tables, copy) = (memory, memory.add(TABLES * lanes));
            let sums = copy.add(WORD * BLOCK);
            sums.write_bytes(0, rows * BLOCK);
            for (q, first) in (0..terms).step_by(WORD).enumerate() {
                let terms = WORD.min(terms - first);
                let groups = terms.div_ceil(GROUP);
                let from = b.from(first, 0);
                let from = if b.col == 1 && columns == BLOCK && terms == groups * GROUP {
                    from
                } else {
                    pack(from, (terms, columns), copy);
                    copy.add(terms * BLOCK).write_bytes(0, (groups * GROUP - terms) * BLOCK);
                    Matrix { at: copy.cast_const(), row: BLOCK, col: 1 }
                };
                for line in 0..BLOCK / lanes {
                    let (from, sums) = (from.from(0, line * lanes), sums.add(line * rows * lanes));
                    let word = |r: usize| words[r * step(self.terms) + q];
                    if rows < FEW {
                        (0..rows).for_each(|r| direct::<T, S, V>(s, word(r), groups, from, sums.add(r * lanes)));
                        continue;
                    }
                    tabulate::<T, S, V>(s, groups, from, tables);
                    let whole = rows - rows % R;
                    for r in (0..whole).step_by(R) {
                        look_up::<T, S, R, V>(
                            s,
                            std::array::from_fn(|i| word(r + i)),
                            groups,
                            tables,
                            sums.add(r * lanes),
                        );
                    }
                    for r in whole..rows {
                        look_up::<T, S, 1, V>(s, [word(r)], groups, tables, sums.add(r * lanes));
                    }
                }
            }
            self.write(sums, rows);
        }
    }

    /// Gives the sums, `[line][row][lane]`, to the rows of c that are theirs.
    #[inline(always)]
    unsafe fn write(&self, sums: *const T, rows: usize) {
        let (lanes, step) = (LINE / size_of::<T>(), step(self.terms));
        for r in (0..rows).filter(|r| self.words[(r + 1) * step - 1] == 0) {
            for line in 0..self.columns.div_ceil(lanes) {
                // SAFETY: as promised by the caller.
                unsafe {
                    let (to, from) = (self.c.add(r * self.c_row + line * lanes), sums.add((line * rows + r) * lanes));
                    match self.columns - line * lanes {
                        left if left < lanes => (0..left).for_each(|j| to.add(j).write(*from.add(j))),
                        _ => to.copy_from_nonoverlapping(from, lanes),
                    }
                }
            }
        }
    }
}

/// The table of each group of rows of `b`: sum i has the rows whose bits are set in i.
#[inline(always)]
unsafe fn tabulate<T: Real, S: Simd, const V: usize>(s: S, groups: usize, b: Matrix<T>, tables: *mut T) {
    for v in 0..V {
        for g in 0..groups {
            let mut sums = [T::zero().splat(s); SUMS];
            // SAFETY: as promised by the caller.
            unsafe {
                for t in 0..GROUP {
                    let row = vector::<T, S>(b.from(g * GROUP + t, 0).at, v).read_unaligned();
                    (0..1 << t).for_each(|i| sums[(1 << t) + i] = T::plus(s, sums[i], row));
                }
                for (i, sum) in sums.iter().enumerate() {
                    vector::<T, S>(tables, (g * SUMS + i) * V + v).cast_mut().write(*sum);
                }
            }
        }
    }
}

/// Adds to each of `R` lines of `sums` what the tables hold for the bits of its word.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // the same index in several arrays
unsafe fn look_up<T: Real, S: Simd, const R: usize, const V: usize>(
    s: S,
    words: [u64; R],
    groups: usize,
    tables: *const T,
    sums: *mut T,
) {
    let mut own = [[T::zero().splat(s); V]; R];
    // SAFETY: as promised by the caller.
    unsafe {
        for r in 0..R {
            (0..V).for_each(|v| own[r][v] = vector::<T, S>(sums, r * V + v).read());
        }
        match groups {
            WHOLE => add_up::<T, S, R, V>(s, words, WHOLE, tables, &mut own),
            _ => add_up::<T, S, R, V>(s, words, groups, tables, &mut own),
        }
        for r in 0..R {
            (0..V).for_each(|v| vector::<T, S>(sums, r * V + v).cast_mut().write(own[r][v]));
        }
    }
}

/// Inside [`look_up`]; inlined, so that the compiler knows the number of groups of a whole word.
#[inline(always)]
unsafe fn add_up<T: Real, S: Simd, const R: usize, const V: usize>(
    s: S,
    words: [u64; R],
    groups: usize,
    tables: *const T,
    own: &mut [[T::Vector<S>; V]; R],
) {
    // the bits of the group under way stand where they say how many bytes the sum lies behind the first
    let mut words = words.map(|word| word.rotate_left(LINE.ilog2()));
    for g in 0..groups {
        for (word, own) in words.iter_mut().zip(own.iter_mut()) {
            let offset = g * SUMS * LINE + (*word as usize & ((SUMS - 1) * LINE));
            *word = word.rotate_right(GROUP as u32);
            for (v, own) in own.iter_mut().enumerate() {
                // SAFETY: as promised by the caller.
                *own = T::plus(s, *own, unsafe { vector::<T, S>(tables.byte_add(offset), v).read() });
            }
        }
    }
}

/// As [`look_up`] of one row, adding rows of `b` in the order in which [`tabulate`] does.
#[inline(always)]
unsafe fn direct<T: Real, S: Simd, const V: usize>(s: S, word: u64, groups: usize, b: Matrix<T>, sums: *mut T) {
    let nothing = [T::zero(); LINE / 4];
    for g in 0..groups {
        for v in 0..V {
            // SAFETY: as promised by the caller.
            unsafe {
                let mut sum = T::zero().splat(s);
                for i in g * GROUP..(g + 1) * GROUP {
                    let row = if word >> i & 1 == 1 { b.from(i, 0).at } else { nothing.as_ptr() };
                    sum = T::plus(s, sum, vector::<T, S>(row, v).read_unaligned());
                }
                let to = vector::<T, S>(sums, v).cast_mut();
                to.write(T::plus(s, to.read(), sum));
            }
        }
    }
}

/// Where vector `v` from `at` on lies.
#[inline(always)]
fn vector<T: Real, S: Simd>(at: *const T, v: usize) -> *const T::Vector<S> {
    at.cast::<T::Vector<S>>().wrapping_add(v)
}
