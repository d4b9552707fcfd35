//! Products of a matrix of bits with one of numbers: additions alone, five terms at a time, from tables of sums.
//!
//! c(r, j) = bias(j) + sum over k of a(r, k) b(k, j), with a(r, k) = 0 or 1. Any five rows of b have 32 sums; with all of them in
//! a table, a row of c adds one where it would multiply five times. \[Arlazarov70, "the four Russians"\] The sums of five terms are
//! added in the order of k, whatever the number of rows: rows that are samples have the same bits in any batch. Rows of a that
//! hold other numbers are computed by the ordinary product.

use super::block::{BLOCK, soon};
use super::matrix::{Matrix, pack};
use super::product::{Matrices, product as ordinary};
use super::{Real, Shared, each, scratch, wide, written};
use pulp::{Arch, Simd, WithSimd};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows of b that have a table, and the sums in it.
const GROUP: usize = 5;
const SUMS: usize = 1 << GROUP;

/// Terms whose bits are one word, and the groups of it: as many as have their tables in the nearest cache, with lines of the
/// cache for what they add up to. Bytes of a line.
const WHOLE: usize = 12;
const WORD: usize = WHOLE * GROUP;
const LINE: usize = 64;

/// Rows of c that one job computes from its tables, at most, and blocks of their columns: the more, the more of a row is written
/// at once. Jobs of a thread that blocks are left for.
const ROWS: usize = 1024;
const MOST: usize = 4;
const SHARE: usize = 4;
/// Rows of a whose bits one job packs.
const PACKED: usize = 32;
/// Fewer rows than these are not worth tables.
const FEW: usize = 4;

/// a b + bias for `m` x `k` times `k` x `n`: fast in those rows of `a` that hold nothing but 0 and 1.
pub(crate) fn product<T: Real>(
    (m, n, k): (usize, usize, usize),
    a: &Matrices<T>,
    b: &Matrices<T>,
    bias: Option<&[T]>,
) -> Vec<T> {
    let bits = Bits::of((m, k), a);
    let others = bits.others.iter().filter(|&&other| other).count();
    let fill = |c: *mut T| {
        let (parts, c) = (m.div_ceil(ROWS), Shared(c));
        let wide = BLOCK * (n.div_ceil(BLOCK) * parts / (SHARE * rayon::current_num_threads())).clamp(1, MOST);
        each(n.div_ceil(wide) * parts, m * n * k / GROUP, |job| {
            let (column, part) = (job / parts * wide, job % parts);
            let rows = part * m / parts..(part + 1) * m / parts;
            let columns = wide.min(n - column);
            let bias = bias.map(|bias| &bias[column..column + columns]);
            // SAFETY: each job writes its own numbers of c.
            let (b, c) = unsafe { (b.get(0).from(0, column), c.at(rows.start * n + column)) };
            Arch::new().dispatch(Panel { bits: &bits, rows, terms: k, columns, b, bias, c, c_row: n });
        });
    };
    if others > 0 || m == 0 || k == 0 {
        let mut c = ordinary(1, (m, n, k), a, b, T::one());
        if let Some(bias) = bias {
            c.chunks_exact_mut(n.max(1)).for_each(|row| row.iter_mut().zip(bias).for_each(|(c, &bias)| *c += bias));
        }
        if others < m && k > 0 {
            fill(c.as_mut_ptr());
        }
        return c;
    }
    // SAFETY: the jobs cover the output.
    unsafe { written(m * n, |c: &mut [MaybeUninit<T>]| fill(c.as_mut_ptr().cast())) }
}

/// Which numbers of a matrix are 1.
struct Bits {
    /// `[word][row]`: the first bits of all rows, then those that follow.
    words: Vec<u64>,
    /// Whether a row holds other numbers than 0 and 1.
    others: Vec<bool>,
}

impl Bits {
    fn of<T: Real>((m, k): (usize, usize), a: &Matrices<T>) -> Self {
        let (mut words, mut others) = (vec![0u64; m * k.div_ceil(WORD)], vec![false; m]);
        let (to, odd) = (Shared(words.as_mut_ptr()), Shared(others.as_mut_ptr()));
        each(m.div_ceil(PACKED), m * k, |job| {
            let (row, a) = (job * PACKED, a.get(0));
            let rows = PACKED.min(m - row);
            let mut other = [0u64; PACKED];
            // SAFETY: each job reads its rows and writes what is theirs.
            unsafe {
                // the numbers are their own, lest they be read anew after each word
                let Matrix { at, row: step, col } = a.from(row, 0);
                for q in 0..k.div_ceil(WORD) {
                    let words = std::slice::from_raw_parts_mut(to.at(q * m + row), rows);
                    let (first, terms) = (q * WORD, WORD.min(k - q * WORD));
                    wide(
                        #[inline(always)]
                        || match (step, col) {
                            (_, 1) => along(words, &mut other, terms, move |r, i| *at.add(r * step + first + i)),
                            (1, _) => across(words, &mut other, terms, move |r, i| *at.add(r + (first + i) * col)),
                            _ => along(words, &mut other, terms, move |r, i| *at.add(r * step + (first + i) * col)),
                        },
                    );
                }
                (0..rows).for_each(|r| *odd.at(row + r) = other[r] != 0);
            }
        });
        Self { words, others }
    }
}

/// Packs row by row, the faster way where rows lie in memory one after the other.
#[inline(always)]
fn along<T: Real>(words: &mut [u64], other: &mut [u64; PACKED], terms: usize, at: impl Fn(usize, usize) -> T) {
    for (r, (to, other)) in words.iter_mut().zip(other).enumerate() {
        let (mut word, mut others) = (0u64, 0u64);
        for i in 0..terms {
            let (bit, odd) = sorted(at(r, i));
            word |= bit << i;
            others |= odd;
        }
        *to = word;
        *other |= others;
    }
}

/// Packs all rows at once, term by term, the faster way where columns lie in memory one after the other.
#[inline(always)]
fn across<T: Real>(words: &mut [u64], other: &mut [u64; PACKED], terms: usize, at: impl Fn(usize, usize) -> T) {
    let mut word = [0u64; PACKED];
    for i in 0..terms {
        for r in 0..words.len().min(PACKED) {
            let (bit, odd) = sorted(at(r, i));
            word[r] |= bit << i;
            other[r] |= odd;
        }
    }
    words.iter_mut().zip(word).for_each(|(to, word)| *to = word);
}

/// Whether a number is 1, and whether it is neither 0 nor 1.
#[inline(always)]
fn sorted<T: Real>(v: T) -> (u64, u64) {
    (u64::from(v == T::one()), u64::from(v != T::one() && v != T::zero()))
}

/// Some columns of some rows of c.
struct Panel<'a, T> {
    bits: &'a Bits,
    rows: Range<usize>,
    terms: usize,
    columns: usize,
    b: Matrix<T>,
    bias: Option<&'a [T]>,
    c: *mut T,
    c_row: usize,
}

impl<T: Real> WithSimd for Panel<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let lanes = LINE / size_of::<T>();
        scratch(
            WHOLE * SUMS * lanes + WORD * BLOCK + (1 + self.rows.len()) * self.columns.next_multiple_of(BLOCK),
            #[inline(always)]
            |memory: &mut [MaybeUninit<T>]| {
                let memory = memory.as_mut_ptr().cast::<T>();
                // SAFETY: the memory holds the tables, the copy of b, the bias and the sums; the caller gives places of b and c.
                unsafe {
                    match (size_of::<T>(), size_of::<T::Vector<S>>()) {
                        (_, 64) => self.run::<S, 4, 1>(s, memory),
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
        let (rows, lanes, m) = (self.rows.len(), LINE / size_of::<T>(), self.bits.others.len());
        // SAFETY: the parts of the memory do not overlap; the rest is promised by the caller.
        unsafe {
            let (tables, copy) = (memory, memory.add(WHOLE * SUMS * lanes));
            let start = copy.add(WORD * BLOCK);
            let sums = start.add(self.columns.next_multiple_of(BLOCK));
            start.write_bytes(0, self.columns.next_multiple_of(BLOCK));
            if let Some(bias) = self.bias {
                start.copy_from_nonoverlapping(bias.as_ptr(), bias.len());
            }
            let firsts = (0..self.terms).step_by(WORD).enumerate();
            for (column, (q, first)) in
                (0..self.columns).step_by(BLOCK).flat_map(|j| firsts.clone().map(move |q| (j, q)))
            {
                let (columns, terms) = (BLOCK.min(self.columns - column), WORD.min(self.terms - first));
                let groups = terms.div_ceil(GROUP);
                let from = self.b.from(first, column);
                let from = if from.col == 1 && columns == BLOCK && terms == groups * GROUP {
                    from
                } else {
                    pack(from, (terms, columns), copy);
                    copy.add(terms * BLOCK).write_bytes(0, (groups * GROUP - terms) * BLOCK);
                    Matrix { at: copy.cast_const(), row: BLOCK, col: 1 }
                };
                if self.b.col == 1 && rows >= FEW {
                    // the next rows of b come while sums are looked up: the CPU does not follow steps as long as theirs
                    let next = first + WORD..self.terms.min(first + 2 * WORD);
                    next.for_each(|k| soon(self.b.at.wrapping_add(k * self.b.row + column), columns));
                }
                let words = &self.bits.words[q * m + self.rows.start..][..rows];
                for j in (0..columns).step_by(lanes) {
                    let from = from.from(0, j);
                    // where rows of sums are, and where they were: at first they are the bias
                    let to = |r: usize| sums.add((column + j) * rows + r * lanes);
                    let was = |r: usize| if q == 0 { start.add(column + j) } else { to(r) };
                    if rows < FEW {
                        (0..rows).for_each(|r| direct::<T, S, V>(s, words[r], groups, from, (was(r), to(r))));
                        continue;
                    }
                    tabulate::<T, S, V>(s, groups, from, tables);
                    let whole = rows - rows % R;
                    let mut r = 0;
                    while r < whole {
                        let some = std::array::from_fn(|i| words[r + i]);
                        let places = std::array::from_fn(|i| (was(r + i).cast_const(), to(r + i)));
                        look_up::<T, S, R, V>(s, some, groups, tables, places);
                        r += R;
                    }
                    while r < rows {
                        look_up::<T, S, 1, V>(s, [words[r]], groups, tables, [(was(r).cast_const(), to(r))]);
                        r += 1;
                    }
                }
            }
            self.write(sums);
        }
    }

    /// Gives the sums, `[line][row][lane]`, to the rows of c that are theirs.
    #[inline(always)]
    unsafe fn write(&self, sums: *const T) {
        let (lanes, rows) = (LINE / size_of::<T>(), self.rows.len());
        for r in (0..rows).filter(|r| !self.bits.others[self.rows.start + r]) {
            for j in (0..self.columns).step_by(lanes) {
                // SAFETY: as promised by the caller.
                unsafe {
                    let (to, from) = (self.c.add(r * self.c_row + j), sums.add(j * rows + r * lanes));
                    match self.columns - j {
                        left if left < lanes => (0..left).for_each(|i| to.add(i).write(*from.add(i))),
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
    const HALF: usize = SUMS / 2;
    for v in 0..V {
        for g in 0..groups {
            // those without the last row: as many as the CPU has registers for
            let mut sums = [T::zero().splat(s); HALF];
            // SAFETY: as promised by the caller.
            unsafe {
                let row = |t: usize| vector::<T, S>(b.from(g * GROUP + t, 0).at, v).read_unaligned();
                for t in 0..GROUP - 1 {
                    let row = row(t);
                    (0..1 << t).for_each(|i| sums[(1 << t) + i] = T::plus(s, sums[i], row));
                }
                let last = row(GROUP - 1);
                for (i, sum) in sums.into_iter().enumerate() {
                    let to = |i: usize| vector::<T, S>(tables, (g * SUMS + i) * V + v).cast_mut();
                    to(i).write(sum);
                    to(HALF + i).write(T::plus(s, sum, last));
                }
            }
        }
    }
}

/// Each of `R` lines of sums, and what the tables hold for the bits of its word: from the first of its places to the other.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // the same index in several arrays
unsafe fn look_up<T: Real, S: Simd, const R: usize, const V: usize>(
    s: S,
    words: [u64; R],
    groups: usize,
    tables: *const T,
    places: [(*const T, *mut T); R],
) {
    let mut own = [[T::zero().splat(s); V]; R];
    // SAFETY: as promised by the caller.
    unsafe {
        for r in 0..R {
            (0..V).for_each(|v| own[r][v] = vector::<T, S>(places[r].0, v).read());
        }
        match groups {
            WHOLE => add_up::<T, S, R, V>(s, words, WHOLE, tables, &mut own),
            _ => add_up::<T, S, R, V>(s, words, groups, tables, &mut own),
        }
        for r in 0..R {
            (0..V).for_each(|v| vector::<T, S>(places[r].1, v).cast_mut().write(own[r][v]));
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
unsafe fn direct<T: Real, S: Simd, const V: usize>(
    s: S,
    word: u64,
    groups: usize,
    b: Matrix<T>,
    (was, to): (*const T, *mut T),
) {
    let nothing = [T::zero(); LINE / 4];
    for v in 0..V {
        // SAFETY: as promised by the caller.
        unsafe {
            let mut own = vector::<T, S>(was, v).read();
            for g in 0..groups {
                let mut sum = T::zero().splat(s);
                for i in g * GROUP..(g + 1) * GROUP {
                    let row = if word >> i & 1 == 1 { b.from(i, 0).at } else { nothing.as_ptr() };
                    sum = T::plus(s, sum, vector::<T, S>(row, v).read_unaligned());
                }
                own = T::plus(s, own, sum);
            }
            vector::<T, S>(to, v).cast_mut().write(own);
        }
    }
}

/// Where vector `v` from `at` on lies.
#[inline(always)]
fn vector<T: Real, S: Simd>(at: *const T, v: usize) -> *const T::Vector<S> {
    at.cast::<T::Vector<S>>().wrapping_add(v)
}
