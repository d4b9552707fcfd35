//! The constant matrices of F(4x4, 3x3), each as the sums that it stands for.
//!
//! Interpolation at 0, a, -a, b, -b and infinity: the rows of a pair p, -p differ by the sign of their odd part.

use pulp::Simd;

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
pub(super) fn input<S: Simd>(s: S, d: [S::f32s; 6]) -> [S::f32s; 6] {
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
pub(super) fn kernel<S: Simd>(s: S, w: [S::f32s; 3]) -> [S::f32s; 6] {
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
pub(super) fn weight<S: Simd>(s: S, u: [S::f32s; 6]) -> [S::f32s; 3] {
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
pub(super) fn output<S: Simd>(s: S, m: [S::f32s; 6]) -> [S::f32s; 4] {
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
pub(super) fn gradient<S: Simd>(s: S, g: [S::f32s; 4]) -> [S::f32s; 6] {
    let [a, b, half, two, a_3, b_3] = splat(s, [A, B, 0.5, 2., A / 2., 2. * B]);
    let (even, odd) = (s.mul_add_f32s(half, g[2], g[0]), s.mul_add_f32s(a_3, g[3], s.mul_f32s(a, g[1])));
    let (even_b, odd_b) = (s.mul_add_f32s(two, g[2], g[0]), s.mul_add_f32s(b_3, g[3], s.mul_f32s(b, g[1])));
    [g[0], s.add_f32s(even, odd), s.sub_f32s(even, odd), s.add_f32s(even_b, odd_b), s.sub_f32s(even_b, odd_b), g[3]]
}

/// Applies `f` to the columns of a matrix and then to the rows. Closures must be inlined: else each vector operation
/// becomes a call, for the target's features are those of the function they end in.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // the same index in several arrays, and columns
pub(super) fn both<S: Simd, const N: usize, const M: usize>(
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
