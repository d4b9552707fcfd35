//! CPU kernels of the activations and their derivatives.
//!
//! With e = exp(-|x|): s = sigmoid(x), q = s (1 - s) and u = 1 - 2 s have no cancellation anywhere, and
//! s' = q, s'' = q u, s''' = q (1 - 6 q), s'''' = q u (1 - 12 q).

use super::{PIECE, Real, collect, pieces, wide, written};
use candle_core::cpu::erf::erfc_f64;
use std::mem::MaybeUninit;

/// A smooth function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    Silu,
    Sigmoid,
    Softplus,
    Gelu,
    Sin,
}

/// The highest derivative that is known in closed form here.
pub(crate) const ORDERS: usize = 4;

/// s, q and u of the head of this file.
#[inline(always)]
pub(crate) fn logistic<T: Real>(x: T) -> (T, T, T) {
    let e = (-x.abs()).exp();
    let d = T::one() / (T::one() + e);
    let (s, u) = if x >= T::zero() { (d, (e - T::one()) * d) } else { (e * d, (T::one() - e) * d) };
    (s, e * d * d, u)
}

/// The k-th derivative of the sigmoid as coefficients of s, q, q u, q^2, q^2 u.
fn sigmoid(k: usize) -> [f64; 5] {
    match k {
        0 => [1., 0., 0., 0., 0.],
        1 => [0., 1., 0., 0., 0.],
        2 => [0., 0., 1., 0., 0.],
        3 => [0., 1., 0., -6., 0.],
        _ => [0., 0., 1., 0., -12.],
    }
}

/// The k-th derivative of `curve` at every x, times g where given. `k` is at most [`ORDERS`].
pub(crate) fn derivative<T: Real>(curve: Curve, k: usize, x: &[T], g: Option<&[T]>) -> Vec<T> {
    match (curve, k) {
        (Curve::Sigmoid, 0) => map(
            x,
            g,
            #[inline(always)]
            |x| logistic(x).0,
        ),
        (Curve::Sigmoid, _) => by_logistic([0.; 5], sigmoid(k), x, g),
        (Curve::Silu, 0) => by_logistic(sigmoid(0), [0.; 5], x, g),
        (Curve::Silu, _) => by_logistic(sigmoid(k), sigmoid(k - 1).map(|c| c * k as f64), x, g), // (x s)^(k)
        (Curve::Softplus, 0) => map(x, g, |x| T::from_f64(softplus(x.to_f64()))),
        (Curve::Softplus, _) => by_logistic([0.; 5], sigmoid(k - 1), x, g),
        (Curve::Gelu, _) => map(x, g, |x| T::from_f64(gelu(k, x.to_f64()))),
        (Curve::Sin, _) => map(x, g, |x| T::from_f64(sine(k, x.to_f64()))),
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.) + (-x.abs()).exp().ln_1p()
}

/// The sum of ln(1 + exp(x)) over each row of `n`: the numbers above 0, and the logarithm of a product of 1 + exp(-|x|),
/// which for [`FACTORS`] of them is far from too large.
pub(crate) fn softplus_sums<T: Real>(n: usize, x: &[T]) -> Vec<T> {
    collect(x.len() / n.max(1), x.len(), |row| {
        wide(
            #[inline(always)]
            || {
                let (mut above, mut logs) = ([0f64; LANES], 0f64);
                for x in x[row * n..(row + 1) * n].chunks(FACTORS) {
                    let mut products = [1f64; LANES];
                    for x in x.chunks(LANES) {
                        for ((above, product), &x) in above.iter_mut().zip(&mut products).zip(x) {
                            *above += (if x > T::zero() { x } else { T::zero() }).to_f64();
                            *product *= 1. + (-x.abs()).exp().to_f64();
                        }
                    }
                    logs += products.iter().product::<f64>().ln();
                }
                T::from_f64(above.iter().sum::<f64>() + logs)
            },
        )
    })
}

const LANES: usize = 16;
const FACTORS: usize = 512;

fn sine(k: usize, x: f64) -> f64 {
    match k % 4 {
        0 => x.sin(),
        1 => x.cos(),
        2 => -x.sin(),
        _ => -x.cos(),
    }
}

/// x Phi(x), and its derivatives by phi' = -x phi.
fn gelu(k: usize, x: f64) -> f64 {
    let below = 0.5 * erfc_f64(-x * std::f64::consts::FRAC_1_SQRT_2);
    let density = (-0.5 * x * x).exp() / (2. * std::f64::consts::PI).sqrt();
    let polynomial = match k {
        0 => return if below == 0. { 0. } else { x * below },
        1 => x,
        2 => 2. - x * x,
        3 => x * (x * x - 4.),
        _ => x * x * (7. - x * x) - 4.,
    };
    let bell = if density == 0. { 0. } else { density * polynomial };
    if k == 1 { below + bell } else { bell }
}

/// x (a . v) + b . v with v = (s, q, q u, q^2, q^2 u).
fn by_logistic<T: Real>(a: [f64; 5], b: [f64; 5], x: &[T], g: Option<&[T]>) -> Vec<T> {
    let (a, b) = (a.map(T::from_f64), b.map(T::from_f64));
    map(
        x,
        g,
        #[inline(always)]
        move |x| {
            let (s, q, u) = logistic(x);
            let (qu, qq) = (q * u, q * q);
            let v = [s, q, qu, qq, qq * u];
            let dot = |c: &[T; 5]| c[0] * v[0] + c[1] * v[1] + c[2] * v[2] + c[3] * v[3] + c[4] * v[4];
            x * dot(&a) + dot(&b)
        },
    )
}

/// `f` holds its constants itself and each loop has a copy of it: what lies behind a reference would be read again for every
/// number, since the output might have changed it, and loops that do so do not become vectors.
fn map<T: Real>(x: &[T], g: Option<&[T]>, f: impl Fn(T) -> T + Sync + Copy) -> Vec<T> {
    let fill = |y: &mut [MaybeUninit<T>]| {
        pieces(y, PIECE, |from, y| {
            let x = &x[from..from + y.len()];
            match g.map(|g| &g[from..from + y.len()]) {
                None => wide(
                    #[inline(always)]
                    || {
                        let own = f;
                        for (y, &x) in y.iter_mut().zip(x) {
                            *y = MaybeUninit::new(own(x));
                        }
                    },
                ),
                Some(g) => wide(
                    #[inline(always)]
                    || {
                        let own = f;
                        for ((y, &x), &g) in y.iter_mut().zip(x).zip(g) {
                            *y = MaybeUninit::new(g * own(x));
                        }
                    },
                ),
            }
        });
    };
    // SAFETY: the pieces cover the output.
    unsafe { written(x.len(), fill) }
}
