//! Eigenvalues of a symmetric matrix that is known by its products alone: Lanczos, with full reorthogonalisation.
//!
//! T = Q^T A Q is tridiagonal in the basis Q of the Krylov space of a start vector; its eigenvalues approach the outermost of
//! A, and with the squares of the first components of its eigenvectors as weights they are a Gauss quadrature of A's spectral
//! density. \[Golub & Welsch 1969; Lin16\]

use candle_core::{DType, Result, Tensor, bail};
use langevin_dynamics::NoisyEnergy;
use langevin_ops::grad;
use langevin_ops::linalg::eigen_tridiagonal;

/// What a start vector tells of the spectrum, from the least eigenvalue up.
#[derive(Clone, Debug)]
pub struct Spectrum {
    /// Eigenvalues of T.
    pub values: Vec<f64>,
    /// The part of the spectrum that each stands for; they sum to 1.
    pub weights: Vec<f64>,
    /// An eigenvalue of A lies no farther from each than this.
    pub errors: Vec<f64>,
}

/// The state of one start vector.
struct Row {
    basis: Vec<Vec<f64>>,
    diagonal: Vec<f64>,
    beside: Vec<f64>,
    done: bool,
}

/// `steps` steps from each vector of `start`, all of one length; `product` gives A v of each of as many vectors, where each may
/// belong to a matrix of its own.
pub fn lanczos(
    start: &[Vec<f64>],
    steps: usize,
    mut product: impl FnMut(&[Vec<f64>]) -> Result<Vec<Vec<f64>>>,
) -> Result<Vec<Spectrum>> {
    let d = start.first().map_or(0, Vec::len);
    if d == 0 || steps == 0 || start.iter().any(|v| v.len() != d || !(norm(v) > 0. && norm(v).is_finite())) {
        bail!(
            "lanczos: {steps} steps from {} vectors of {d} numbers; give vectors of one length, none of them 0",
            start.len()
        );
    }
    let row = |v: &Vec<f64>| {
        let size = norm(v);
        Row { basis: vec![v.iter().map(|v| v / size).collect()], diagonal: vec![], beside: vec![], done: false }
    };
    let mut rows: Vec<Row> = start.iter().map(row).collect();
    for _ in 0..steps.min(d) {
        let asked: Vec<Vec<f64>> = rows.iter().filter_map(|row| row.basis.last().cloned()).collect();
        for (row, next) in rows.iter_mut().zip(product(&asked)?) {
            if !row.done {
                row.add(next)?;
            }
        }
    }
    rows.iter().map(Row::spectrum).collect()
}

impl Row {
    /// One more step, from the product with the last vector of the basis.
    fn add(&mut self, mut w: Vec<f64>) -> Result<()> {
        let size = norm(&w);
        if !size.is_finite() {
            bail!(
                "lanczos: a product with the matrix is not finite; the model left its range, try another noise level"
            );
        }
        let along = self.basis.last().map_or(0., |last| dot(last, &w));
        self.diagonal.push(along);
        // twice: once leaves errors that grow [Kahan and Parlett]
        for _ in 0..2 {
            for q in &self.basis {
                let along = dot(q, &w);
                w.iter_mut().zip(q).for_each(|(w, q)| *w -= along * q);
            }
        }
        let left = norm(&w);
        self.beside.push(left);
        // nothing new: the space holds all that the start vector can reach
        self.done = left <= 1e-12 * size.max(along.abs()) || self.basis.len() >= w.len();
        if self.done {
            self.beside.pop();
            self.beside.push(0.);
        } else {
            self.basis.push(w.into_iter().map(|w| w / left).collect());
        }
        Ok(())
    }

    fn spectrum(&self) -> Result<Spectrum> {
        let k = self.diagonal.len();
        let Some(eigen) = eigen_tridiagonal(&self.diagonal, &self.beside) else {
            bail!("lanczos: the eigenvalues of the tridiagonal matrix could not be computed");
        };
        let last = self.beside.last().copied().unwrap_or(0.);
        let vectors = eigen.vectors.chunks(k);
        Ok(Spectrum {
            weights: vectors.clone().map(|vector| vector[0].powi(2)).collect(),
            errors: vectors.map(|vector| (last * vector[k - 1]).abs()).collect(),
            values: eigen.values,
        })
    }
}

/// The spectrum of the Hessian of E(., t) at each sample of `x` `[B, ...]`, from the start vectors `v`, the shape of `x`.
/// `watch` is told after each step, of which there are no more than a sample has numbers.
///
/// The model's energy must be made of operations that can be differentiated twice.
pub fn hessian(
    energy: &dyn NoisyEnergy,
    x: &Tensor,
    t: f64,
    v: &Tensor,
    steps: usize,
    watch: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Spectrum>> {
    let start: Vec<Vec<f64>> = v.flatten_from(1)?.to_dtype(DType::F64)?.to_vec2()?;
    lanczos(&start, steps, |asked| {
        let v = Tensor::from_iter(asked.iter().flatten().copied(), x.device())?;
        let v = v.to_dtype(x.dtype())?.reshape(x.shape())?;
        let product = grad::hvp(x, &v, |x| energy.energy_at(x, &[t]))?;
        watch()?;
        product.flatten_from(1)?.to_dtype(DType::F64)?.to_vec2()
    })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(v: &[f64]) -> f64 {
    dot(v, v).sqrt()
}
