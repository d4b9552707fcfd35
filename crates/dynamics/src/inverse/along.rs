//! A matrix along one dimension of a sample, and products of such: averages, blurs, mixtures of colours.
//!
//! (A x)_i = sum_j M_ij x_j along the dimension; the adjoint is M^T along it, and that of a product is the product of the
//! adjoints.

use super::Operator;
use candle_core::{Result, Tensor, bail};
use langevin_ops::linear::linear;

/// M `[out, in]` along dimension `dim` of a batch, 1 for channels.
#[derive(Clone, Debug)]
pub struct Along {
    dim: usize,
    matrix: Tensor,    // f64 [out, in]
    transpose: Tensor, // f64 [in, out]
}

impl Along {
    /// Errors if `matrix` is not one.
    pub fn new(dim: usize, matrix: &Tensor) -> Result<Self> {
        if matrix.rank() != 2 || dim == 0 {
            bail!(
                "a matrix of shape {:?} along dimension {dim}; give [out, in], and a dimension of samples",
                matrix.dims()
            );
        }
        let matrix = matrix.to_dtype(candle_core::DType::F64)?.contiguous()?;
        Ok(Self { dim, transpose: matrix.t()?.contiguous()?, matrix })
    }

    /// `matrix` `[out, in]` along the dimension of `x`.
    fn times(&self, x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
        let (to, from) = matrix.dims2()?;
        let last = x.rank().saturating_sub(1);
        if self.dim > last || x.dim(self.dim)? != from {
            bail!("an operator for {from} numbers along dimension {} of a batch {:?}", self.dim, x.dims());
        }
        let turned = x.transpose(self.dim, last)?.contiguous()?;
        let mut dims = turned.dims().to_vec();
        let matrix = matrix.to_dtype(x.dtype())?.to_device(x.device())?;
        let y = linear(&turned.reshape(((), from))?, &matrix, None)?;
        dims[last] = to;
        y.reshape(dims)?.transpose(self.dim, last)?.contiguous()
    }

    /// The largest sum of a column times that of a row, of |M|: no less than the square of its norm.
    fn norm2(&self) -> Result<f64> {
        let abs = self.matrix.abs()?;
        let most = |dim: usize| abs.sum(dim)?.max(0)?.to_scalar::<f64>();
        Ok(most(0)? * most(1)?)
    }
}

/// How a measurement is shown in the shape of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shown {
    /// As it is.
    AsIs,
    /// Each pixel or channel as often as fills the shape `[C, H, W]`.
    Repeated([usize; 3]),
}

/// The product of matrices along different dimensions.
#[derive(Clone, Debug)]
pub struct Separable {
    parts: Vec<Along>,
    gram: Option<f64>,
    norm2: f64,
    shown: Shown,
}

impl Separable {
    /// `gram` as [`Operator::gram`] has it.
    pub fn new(parts: Vec<Along>, gram: Option<f64>) -> Result<Self> {
        let norm2 = parts.iter().map(Along::norm2).product::<Result<f64>>()?;
        Ok(Self { parts, gram, norm2: gram.unwrap_or(norm2), shown: Shown::AsIs })
    }

    /// Measurements are shown with each number as often as fills a sample of `shape`.
    pub(super) fn repeated(self, shape: [usize; 3]) -> Self {
        Self { shown: Shown::Repeated(shape), ..self }
    }
}

impl Operator for Separable {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.parts.iter().try_fold(x.clone(), |x, part| part.times(&x, &part.matrix))
    }

    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        self.parts.iter().rev().try_fold(y.clone(), |y, part| part.times(&y, &part.transpose))
    }

    fn gram(&self) -> Option<f64> {
        self.gram
    }

    fn norm2(&self) -> f64 {
        self.norm2
    }

    fn show(&self, y: &Tensor) -> Result<Tensor> {
        let Shown::Repeated(shape) = self.shown else { return Ok(y.clone()) };
        let mut y = y.clone();
        for (dim, want) in (1..).zip(shape) {
            let have = y.dim(dim)?;
            let rows: Vec<u32> = (0..want).map(|i| (i * have / want) as u32).collect();
            y = y.index_select(&Tensor::new(rows, y.device())?, dim)?;
        }
        Ok(y)
    }
}

/// `[C, H, W]` of `shape`, which the task `name` needs.
pub(super) fn image(name: &str, shape: &[usize]) -> Result<[usize; 3]> {
    match *shape {
        [c, h, w] => Ok([c, h, w]),
        _ => bail!("{name} is for images, and samples have shape {shape:?}"),
    }
}
