//! CPU kernels of group norm (+ SiLU): value, first derivative and second derivative, a group of a sample at a time.
//!
//! n = (x - mean) r with r = 1 / sqrt(var + eps), z = gamma n + beta, y = f(z) with f = SiLU or the identity.
//! `J h = r (h - <h> - <h n> n)` is the symmetric Jacobian of n, `<.>` being the mean over the group. Then
//! dx = J (gamma g f'(z)), and for a cotangent u of dx = J q: d/dq = J u, d/dx = H(q, u) with
//! `H = -r^2 (n (<q u> - <q><u> - 3 <q n><u n>) + <u n> (q - <q>) + <q n> (u - <u>))`.

use super::act::logistic;
use super::{Real, Shared, collect, wide};
use std::mem::MaybeUninit;

/// Sizes and options of a group norm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub batch: usize,
    pub channels: usize,
    pub pixels: usize,
    pub groups: usize,
    pub eps: f64,
    pub silu: bool,
}

impl Norm {
    /// Numbers of one group of one sample.
    fn size(&self) -> usize {
        self.channels / self.groups * self.pixels
    }

    /// The channels of group `unit % groups`.
    fn of<'a, T>(&self, unit: usize, v: &'a [T]) -> &'a [T] {
        let each = self.channels / self.groups;
        let from = unit % self.groups * each;
        &v[from..from + each]
    }

    fn part<'a, T>(&self, unit: usize, x: &'a [T]) -> &'a [T] {
        &x[unit * self.size()..(unit + 1) * self.size()]
    }
}

const LANES: usize = 16;
const BLOCK: usize = 16 * LANES;

/// N sums over i < n, at most five: one pass each, for of several in one loop the compiler makes no good vectors.
#[inline(always)]
fn sums<T: Real, const N: usize>(n: usize, f: impl Fn(usize) -> [T; N]) -> [f64; N] {
    let mut out = [0f64; N];
    macro_rules! one {
        ($k:literal) => {
            if $k < N {
                out[$k] = sum(
                    n,
                    #[inline(always)]
                    |i| f(i)[$k],
                );
            }
        };
    }
    const { assert!(N <= 5) };
    one!(0);
    one!(1);
    one!(2);
    one!(3);
    one!(4);
    out
}

/// The sum of f(i) over i < n: in the element type within blocks of 256, across blocks in f64.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // this nesting of plain loops is what becomes vectors
pub(super) fn sum<T: Real>(n: usize, f: impl Fn(usize) -> T) -> f64 {
    let mut total = 0f64;
    let whole = n / LANES * LANES;
    for from in (0..whole).step_by(BLOCK) {
        let mut lanes = [T::zero(); LANES];
        for row in (from..(from + BLOCK).min(whole)).step_by(LANES) {
            for lane in 0..LANES {
                lanes[lane] += f(row + lane);
            }
        }
        total += lanes.iter().map(|v| v.to_f64()).sum::<f64>();
    }
    (whole..n).fold(total, |total, i| total + f(i).to_f64())
}

/// x[i]. The loops of this file run below the length of every slice they read; a check a number would keep them from
/// becoming vectors.
#[inline(always)]
fn at<T: Copy>(x: &[T], i: usize) -> T {
    debug_assert!(i < x.len());
    // SAFETY: see above.
    unsafe { *x.get_unchecked(i) }
}

/// Mean and 1 / sqrt(var + eps) of a group, and what rounding left of the mean, over the same root: n is
/// (x - mean) r - rest.
#[inline(always)]
fn moments<T: Real>(x: &[T], eps: f64) -> (T, T, T) {
    let n = x.len() as f64;
    let mean = T::from_f64(
        sums(
            x.len(),
            #[inline(always)]
            |i| [at(x, i)],
        )[0] / n,
    );
    let [rest, squares] = sums(
        x.len(),
        #[inline(always)]
        |i| {
            let d = at(x, i) - mean;
            [d, d * d]
        },
    );
    let var = (squares - rest * rest / n).max(0.) / n;
    let r = 1. / (var + eps).sqrt();
    (mean, T::from_f64(r), T::from_f64(rest / n * r))
}

/// f, f' and f'' at z.
#[inline(always)]
fn curve<T: Real>(z: T, silu: bool) -> (T, T, T) {
    if !silu {
        return (z, T::one(), T::zero());
    }
    let (s, q, u) = logistic(z);
    (z * s, s + z * q, q * (T::one() + T::one() + z * u))
}

/// Runs `f` on every group of every sample with its part of each of K outputs; gives these and what `f` returned.
fn units<T: Real, const K: usize>(
    op: &Norm,
    f: impl Fn(usize, [&mut [MaybeUninit<T>]; K]) -> Vec<f64> + Sync,
) -> ([Vec<T>; K], Vec<Vec<f64>>) {
    let (count, size) = (op.batch * op.groups, op.size());
    let mut outputs: [Vec<T>; K] = std::array::from_fn(|_| Vec::with_capacity(count * size));
    let places = outputs.each_mut().map(|v| Shared(v.spare_capacity_mut().as_mut_ptr()));
    let sums = collect(count, count * size, |unit| {
        // SAFETY: units are disjoint and inside the capacity.
        let parts = places.map(|p| unsafe { std::slice::from_raw_parts_mut(p.at(unit * size), size) });
        f(unit, parts)
    });
    // SAFETY: the functions below write all of their parts.
    outputs.iter_mut().for_each(|v| unsafe { v.set_len(count * size) });
    (outputs, sums)
}

/// What was written, to be read and changed.
///
/// # Safety
/// All of it was written.
#[inline(always)]
unsafe fn filled<T>(x: &mut [MaybeUninit<T>]) -> &mut [T] {
    // SAFETY: by the caller's promise.
    unsafe { &mut *(std::ptr::from_mut(x) as *mut [T]) }
}

/// Sums the units' [gamma..., beta...] over the samples, in their order: `[2 C]`, gamma's first.
fn over_samples<T: Real>(op: &Norm, sums: &[Vec<f64>]) -> Vec<T> {
    let each = op.channels / op.groups;
    let mut total = vec![0f64; 2 * op.channels];
    for (unit, sums) in sums.iter().enumerate() {
        let first = unit % op.groups * each;
        for c in 0..each {
            total[first + c] += sums[c];
            total[op.channels + first + c] += sums[each + c];
        }
    }
    total.into_iter().map(T::from_f64).collect()
}

/// y.
pub(crate) fn forward<T: Real>(op: &Norm, x: &[T], gamma: &[T], beta: &[T]) -> Vec<T> {
    let ([y], _) = units(op, |unit, [y]| {
        let (x, gamma, beta) = (op.part(unit, x), op.of(unit, gamma), op.of(unit, beta));
        if op.silu {
            wide(
                #[inline(always)]
                || value::<T, true>(op, x, gamma, beta, y),
            );
        } else {
            wide(
                #[inline(always)]
                || value::<T, false>(op, x, gamma, beta, y),
            );
        }
        Vec::new()
    });
    y
}

#[inline(always)]
fn value<T: Real, const SILU: bool>(op: &Norm, x: &[T], gamma: &[T], beta: &[T], y: &mut [MaybeUninit<T>]) {
    let (mean, r, rest) = moments(x, op.eps);
    for (c, (x, y)) in x.chunks_exact(op.pixels).zip(y.chunks_exact_mut(op.pixels)).enumerate() {
        let (scale, shift) = (gamma[c] * r, beta[c] - gamma[c] * rest);
        for (y, &x) in y.iter_mut().zip(x) {
            *y = MaybeUninit::new(curve((x - mean) * scale + shift, SILU).0);
        }
    }
}

/// The gradients of <y, g> with respect to x, plus `more` unless that is empty, and to gamma and beta in one: `[2 C]`.
pub(crate) fn first<T: Real>(op: &Norm, x: &[T], gamma: &[T], beta: &[T], g: &[T], more: &[T]) -> (Vec<T>, Vec<T>) {
    let ([dx], sums) = units(op, |unit, [dx]| {
        let (x, g, gamma, beta) = (op.part(unit, x), op.part(unit, g), op.of(unit, gamma), op.of(unit, beta));
        let more = if more.is_empty() { more } else { op.part(unit, more) };
        if op.silu {
            wide(
                #[inline(always)]
                || slope::<T, true>(op, x, gamma, beta, g, more, dx),
            )
        } else {
            wide(
                #[inline(always)]
                || slope::<T, false>(op, x, gamma, beta, g, more, dx),
            )
        }
    });
    (dx, over_samples(op, &sums))
}

#[inline(always)]
fn slope<T: Real, const SILU: bool>(
    op: &Norm,
    x: &[T],
    gamma: &[T],
    beta: &[T],
    g: &[T],
    more: &[T],
    dx: &mut [MaybeUninit<T>],
) -> Vec<f64> {
    let (p, size) = (op.pixels, x.len() as f64);
    let (mean, r, rest) = moments(x, op.eps);
    for (c, dx) in dx.chunks_exact_mut(p).enumerate() {
        let (scale, shift) = (gamma[c] * r, beta[c] - gamma[c] * rest);
        for ((k, &x), &g) in dx.iter_mut().zip(&x[c * p..]).zip(&g[c * p..]) {
            *k = MaybeUninit::new(g * curve((x - mean) * scale + shift, SILU).1);
        }
    }
    // SAFETY: just written.
    let k = unsafe { filled(dx) };
    let mut out = vec![0f64; 2 * gamma.len()];
    let (mut a, mut b) = (0., 0.); // <q> and <q n>, q = gamma k
    for (c, k) in k.chunks_exact(p).enumerate() {
        let x = &x[c * p..(c + 1) * p];
        let [kn, k] = sums(
            p,
            #[inline(always)]
            |i| [at(k, i) * ((at(x, i) - mean) * r - rest), at(k, i)],
        );
        (out[c], out[gamma.len() + c]) = (kn, k);
        a += gamma[c].to_f64() * k / size;
        b += gamma[c].to_f64() * kn / size;
    }
    let (a, b) = (T::from_f64(a), T::from_f64(b));
    for (c, k) in k.chunks_exact_mut(p).enumerate() {
        if more.is_empty() {
            for (k, &x) in k.iter_mut().zip(&x[c * p..]) {
                *k = r * (gamma[c] * *k - a - b * ((x - mean) * r - rest));
            }
        } else {
            for ((k, &x), &more) in k.iter_mut().zip(&x[c * p..]).zip(&more[c * p..]) {
                *k = r * (gamma[c] * *k - a - b * ((x - mean) * r - rest)) + more;
            }
        }
    }
    out
}

/// Gradients of <dx, u> with respect to x, to gamma and beta in one, and to g, where dx is that of [`first`].
pub(crate) struct Second<T> {
    pub x: Vec<T>,
    pub p: Vec<T>,
    pub g: Vec<T>,
}

/// The backward pass of [`first`]'s dx, for its cotangent `u`.
pub(crate) fn second<T: Real>(op: &Norm, x: &[T], gamma: &[T], beta: &[T], g: &[T], u: &[T]) -> Second<T> {
    let ([dx, dg], sums) = units(op, |unit, [dx, dg]| {
        let part = Arguments {
            x: op.part(unit, x),
            g: op.part(unit, g),
            u: op.part(unit, u),
            gamma: op.of(unit, gamma),
            beta: op.of(unit, beta),
        };
        if op.silu {
            wide(
                #[inline(always)]
                || bend::<T, true>(op, &part, dx, dg),
            )
        } else {
            wide(
                #[inline(always)]
                || bend::<T, false>(op, &part, dx, dg),
            )
        }
    });
    Second { x: dx, p: over_samples(op, &sums), g: dg }
}

struct Arguments<'a, T> {
    x: &'a [T],
    g: &'a [T],
    u: &'a [T],
    gamma: &'a [T],
    beta: &'a [T],
}

#[inline(always)]
fn bend<T: Real, const SILU: bool>(
    op: &Norm,
    of: &Arguments<T>,
    dx: &mut [MaybeUninit<T>],
    dg: &mut [MaybeUninit<T>],
) -> Vec<f64> {
    let &Arguments { x, g, u, gamma, beta } = of;
    let (p, size, channels) = (op.pixels, x.len() as f64, gamma.len());
    let (mean, r, rest) = moments(x, op.eps);
    // f' in dg, g f'' in dx
    for c in 0..channels {
        let (scale, shift) = (gamma[c] * r, beta[c] - gamma[c] * rest);
        let range = c * p..(c + 1) * p;
        let (x, g) = (&x[range.clone()], &g[range.clone()]);
        for (((d1, d2), &x), &g) in dg[range.clone()].iter_mut().zip(&mut dx[range]).zip(x).zip(g) {
            let (_, first, second) = curve((x - mean) * scale + shift, SILU);
            (*d1, *d2) = (MaybeUninit::new(first), MaybeUninit::new(g * second));
        }
    }
    // SAFETY: both were just written.
    let (dx, dg) = unsafe { (filled(dx), filled(dg)) };
    // means over the group of q, q n, u, u n and q u, with q = gamma g f'
    let mut means = [0f64; 5];
    for c in 0..channels {
        let range = c * p..(c + 1) * p;
        let (x, g, u, d1) = (&x[range.clone()], &g[range.clone()], &u[range.clone()], &dg[range]);
        let [k, kn, u, un, ku] = sums(
            p,
            #[inline(always)]
            |i| {
                let (n, k, u) = ((at(x, i) - mean) * r - rest, at(g, i) * at(d1, i), at(u, i));
                [k, k * n, u, u * n, k * u]
            },
        );
        let gamma = gamma[c].to_f64();
        [gamma * k, gamma * kn, u, un, gamma * ku].iter().zip(&mut means).for_each(|(v, sum)| *sum += v / size);
    }
    let [q_mean, qn, u_mean, un, qu] = means;
    let [a, b, a_u, b_u] = [q_mean, qn, u_mean, un].map(T::from_f64);
    // dg, and dz in dx; the sums of <dz> and <dz n> over the group, times gamma
    let mut out = vec![0f64; 2 * channels];
    let (mut dn, mut dnn) = (0f64, 0f64);
    for c in 0..channels {
        let range = c * p..(c + 1) * p;
        let (xs, gs, us) = (&x[range.clone()], &g[range.clone()], &u[range.clone()]);
        let (d1, d2) = (&dg[range.clone()], &dx[range.clone()]);
        let [wk, dzn, dz] = sums(
            p,
            #[inline(always)]
            |i| {
                let n = (at(xs, i) - mean) * r - rest;
                let w = r * (at(us, i) - a_u - b_u * n);
                let dz = at(d2, i) * gamma[c] * w;
                [w * at(gs, i) * at(d1, i), dz * n, dz]
            },
        );
        (out[c], out[channels + c]) = (wk + dzn, dz);
        dn += gamma[c].to_f64() * dz / size;
        dnn += gamma[c].to_f64() * dzn / size;
    }
    let (dn, dnn) = (T::from_f64(dn), T::from_f64(dnn));
    let curvature = T::from_f64(qu - q_mean * u_mean - 3. * qn * un);
    for c in 0..channels {
        let range = c * p..(c + 1) * p;
        let (xs, gs, us) = (&x[range.clone()], &g[range.clone()], &u[range.clone()]);
        let (d1, d2, gamma) = (&mut dg[range.clone()], &mut dx[range], gamma[c]);
        for ((((d1, d2), &x), &g), &u) in d1.iter_mut().zip(d2).zip(xs).zip(gs).zip(us) {
            let n = (x - mean) * r - rest;
            let gw = gamma * (r * (u - a_u - b_u * n));
            let q = gamma * g * *d1;
            let jacobian = r * (gamma * *d2 * gw - dn - dnn * n);
            let hessian = r * r * (n * curvature + b_u * (q - a) + b * (u - a_u));
            (*d1, *d2) = (*d1 * gw, jacobian - hessian);
        }
    }
    out
}
