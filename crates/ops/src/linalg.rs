//! Small matrices in f64 on the host: eigenvalues of symmetric ones, and systems of equations that are nearly singular.
//!
//! A matrix `[d, d]` is `d * d` numbers in row-major order.

use faer::{Mat, Side};

/// The eigenvalues of a symmetric matrix with their eigenvectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Eigen {
    /// `[d]`.
    pub values: Vec<f64>,
    /// `[d, d]`: a row each, orthonormal, in the order of the values.
    pub vectors: Vec<f64>,
}

/// Of the symmetric `a` `[d, d]`, in no order, by cyclic Jacobi rotations: small eigenvalues are as accurate as large ones.
///
/// `None` if it is not finite, or not symmetric to 1e-9 of its largest number.
pub fn eigen(a: &[f64], d: usize) -> Option<Eigen> {
    let scale = largest(a);
    let skew = |rc: usize| (a[rc] - a[rc % d * d + rc / d]).abs();
    if a.len() != d * d || !scale.is_finite() || (0..d * d).any(|rc| skew(rc) > 1e-9 * scale) {
        return None;
    }
    let (mut a, mut axes) = (a.to_vec(), vec![0.; d * d]);
    (0..d).for_each(|i| axes[i * d + i] = 1.);
    for _ in 0..100 {
        let off: f64 = (0..d * d).filter(|rc| rc / d != rc % d).map(|rc| a[rc] * a[rc]).sum();
        if off.sqrt() <= 1e-17 * scale {
            break;
        }
        for p in 0..d {
            for q in p + 1..d {
                turn(&mut a, &mut axes, d, p, q);
            }
        }
    }
    Some(Eigen { values: (0..d).map(|i| a[i * d + i]).collect(), vectors: axes })
}

/// The largest size of a number of `a`; that of NaN is passed over.
pub fn largest(a: &[f64]) -> f64 {
    a.iter().fold(0f64, |top, v| top.max(v.abs()))
}

/// The rotation of axes `p`, `q` that makes `a[p, q]` zero.
fn turn(a: &mut [f64], axes: &mut [f64], d: usize, p: usize, q: usize) {
    let apq = a[p * d + q];
    if apq == 0. {
        return;
    }
    let theta = (a[q * d + q] - a[p * d + p]) / (2. * apq);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.));
    let (c, s) = (1. / t.hypot(1.), t / t.hypot(1.));
    for k in 0..d {
        let (x, y) = (a[k * d + p], a[k * d + q]);
        (a[k * d + p], a[k * d + q]) = (c * x - s * y, s * x + c * y);
    }
    for k in 0..d {
        let (x, y) = (a[p * d + k], a[q * d + k]);
        (a[p * d + k], a[q * d + k]) = (c * x - s * y, s * x + c * y);
        let (x, y) = (axes[p * d + k], axes[q * d + k]);
        (axes[p * d + k], axes[q * d + k]) = (c * x - s * y, s * x + c * y);
    }
}

/// Of the symmetric tridiagonal matrix with this `diagonal` and the numbers `beside` it (one fewer; more are not used), from
/// the least eigenvalue up.
///
/// `None` if they do not converge, as where a number is not finite.
pub fn eigen_tridiagonal(diagonal: &[f64], beside: &[f64]) -> Option<Eigen> {
    let d = diagonal.len();
    let t = Mat::from_fn(d, d, |i, j| match i.abs_diff(j) {
        0 => diagonal[i],
        1 => beside[i.min(j)],
        _ => 0.,
    });
    let eigen = t.self_adjoint_eigen(Side::Lower).ok()?;
    let (values, vectors) = (eigen.S(), eigen.U());
    Some(Eigen {
        values: (0..d).map(|i| values[i]).collect(),
        vectors: (0..d * d).map(|rc| vectors[(rc % d, rc / d)]).collect(),
    })
}

/// A symmetric matrix that is not negative, ready to solve A x = b where A is nearly singular: pivots are kept above 0, and
/// two rounds of refinement mend what that costs.
#[derive(Clone, Debug)]
pub struct Cholesky {
    a: Vec<Vec<f64>>,
    l: Vec<Vec<f64>>,
}

impl Cholesky {
    /// Of `a`, its rows; numbers near 1 on its diagonal.
    pub fn of(a: Vec<Vec<f64>>) -> Self {
        let mut l = a.clone();
        for i in 0..a.len() {
            for j in 0..=i {
                let dot: f64 = (0..j).map(|k| l[i][k] * l[j][k]).sum();
                let rest = a[i][j] - dot;
                l[i][j] = if i == j { rest.max(1e-15).sqrt() } else { rest / l[j][j] };
            }
        }
        Self { a, l }
    }

    /// x of A x = b.
    pub fn solve(&self, b: &[f64]) -> Vec<f64> {
        let mut x = self.substitute(b);
        for _ in 0..2 {
            let product = |a: &Vec<f64>| a.iter().zip(&x).map(|(a, x)| a * x).sum::<f64>();
            let left: Vec<f64> = self.a.iter().zip(b).map(|(a, b)| b - product(a)).collect();
            x.iter_mut().zip(self.substitute(&left)).for_each(|(x, d)| *x += d);
        }
        x
    }

    fn substitute(&self, b: &[f64]) -> Vec<f64> {
        let (l, n, mut x) = (&self.l, b.len(), b.to_vec());
        for i in 0..n {
            x[i] = (x[i] - (0..i).map(|k| l[i][k] * x[k]).sum::<f64>()) / l[i][i];
        }
        for i in (0..n).rev() {
            x[i] = (x[i] - (i + 1..n).map(|k| l[k][i] * x[k]).sum::<f64>()) / l[i][i];
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest number of A - sum_i value_i vector_i vector_i^T, and of V V^T - I.
    fn off(a: &[f64], eigen: &Eigen) -> f64 {
        let d = eigen.values.len();
        let of = |i: usize, k: usize| eigen.vectors[i * d + k];
        let entry = |r: usize, c: usize| (0..d).map(|i| eigen.values[i] * of(i, r) * of(i, c)).sum::<f64>();
        let product = |i: usize, j: usize| (0..d).map(|k| of(i, k) * of(j, k)).sum::<f64>();
        let pairs = (0..d * d).map(|rc| (rc / d, rc % d));
        pairs.fold(0f64, |top, (r, c)| {
            let unit = if r == c { 1. } else { 0. };
            top.max((entry(r, c) - a[r * d + c]).abs()).max((product(r, c) - unit).abs())
        })
    }

    #[test]
    fn eigenvalues_of_two_by_two() {
        let a = [2., 1., 1., 2.];
        let of = eigen(&a, 2).unwrap();
        let mut values = of.values.clone();
        values.sort_by(f64::total_cmp);
        assert!((values[0] - 1.).abs() < 1e-15 && (values[1] - 3.).abs() < 1e-15, "{values:?}");
        assert!(off(&a, &of) < 1e-15);
    }

    /// min(i, j) + 1 has the inverse of second differences, and so 1 / (2 - 2 cos((2k + 1) pi / (2d + 1))).
    #[test]
    fn eigenvalues_of_a_random_walk() {
        let d = 9;
        let a: Vec<f64> = (0..d * d).map(|rc| (rc / d).min(rc % d) as f64 + 1.).collect();
        let of = eigen(&a, d).unwrap();
        let mut values = of.values.clone();
        values.sort_by(|a, b| b.total_cmp(a));
        for (k, value) in values.iter().enumerate() {
            let angle = (2 * k + 1) as f64 * std::f64::consts::PI / (2 * d + 1) as f64;
            let truth = 1. / (2. - 2. * angle.cos());
            assert!((value / truth - 1.).abs() < 1e-13, "{k}: {value}, not {truth}");
        }
        assert!(off(&a, &of) < 1e-13 * largest(&a), "{}", off(&a, &of));
    }

    #[test]
    fn only_finite_symmetric_matrices_have_them() {
        for (a, d) in [(vec![1., 2., 3., 4.], 2), (vec![1., f64::INFINITY, f64::INFINITY, 1.], 2), (vec![1.; 3], 2)] {
            assert!(eigen(&a, d).is_none(), "{a:?}");
        }
    }

    /// Second differences: 2 - 2 cos(k pi / (d + 1)), and sines.
    #[test]
    fn eigenvalues_of_a_tridiagonal_matrix() {
        let d = 12;
        let of = eigen_tridiagonal(&vec![2.; d], &vec![-1.; d - 1]).unwrap();
        for k in 0..d {
            let angle = (k + 1) as f64 * std::f64::consts::PI / (d + 1) as f64;
            assert!((of.values[k] - (2. - 2. * angle.cos())).abs() < 1e-14, "{k}: {}", of.values[k]);
            let first = (2. / (d + 1) as f64).sqrt() * angle.sin();
            assert!((of.vectors[k * d].abs() - first).abs() < 1e-14, "{k}: {}", of.vectors[k * d]);
        }
    }

    #[test]
    fn systems_are_solved() {
        let a = vec![vec![1., 0.5, 0.], vec![0.5, 1., 0.25], vec![0., 0.25, 1.]];
        let x = Cholesky::of(a).solve(&[2., 3.25, 3.5]);
        assert!(x.iter().zip([1., 2., 3.]).all(|(x, truth)| (x - truth).abs() < 1e-14), "{x:?}");
    }

    /// The Hilbert matrix of 8 rows, of condition 1.5e10, with what 1, -1, 1, .. makes of it.
    #[test]
    fn systems_near_singular_ones_are_solved() {
        let a: Vec<Vec<f64>> = (0..8).map(|i| (0..8).map(|j| 1. / (i + j + 1) as f64).collect()).collect();
        let b: Vec<f64> =
            a.iter().map(|a| a.iter().enumerate().map(|(j, a)| if j % 2 == 0 { *a } else { -a }).sum()).collect();
        let x = Cholesky::of(a).solve(&b);
        for (j, x) in x.iter().enumerate() {
            assert!((x.abs() - 1.).abs() < 1e-5 && (*x > 0.) == (j % 2 == 0), "{j}: {x}");
        }
    }
}
