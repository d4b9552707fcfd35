//! Numbers that belong to a sample (`[B]` on the host) meeting tensors of images (`[B, ...]`).
//!
//! Schedules and coefficients are `f64` on the host; this is the one place where they are broadcast.

use candle_core::{DType, Result, Tensor, bail};

/// Numbers on the host that are one for all samples, or one a sample: times, step sizes, marginals.
pub trait PerSample<T: Copy> {
    /// The one of sample `i`. Panics where there is none, which [`PerSample::check`] rules out.
    fn at(&self, i: usize) -> T;

    /// Errors, naming them as `what` ("times of the mixture"), unless there is one, or one for each of `batch` samples.
    fn check(&self, batch: usize, what: &str) -> Result<()>;
}

impl<T: Copy> PerSample<T> for [T] {
    fn at(&self, i: usize) -> T {
        match self {
            [all] => *all,
            each => each[i],
        }
    }

    fn check(&self, batch: usize, what: &str) -> Result<()> {
        if self.len() != 1 && self.len() != batch {
            bail!("{} {what} for a batch of {batch}; give one, or one a sample", self.len());
        }
        Ok(())
    }
}

/// `v`, one for all samples or one a sample, shaped `[1 or B, 1, ..., 1]` with the rank, dtype and device of `x`.
pub fn per_sample(v: &[f64], x: &Tensor) -> Result<Tensor> {
    v.check(x.dim(0)?, "factors")?;
    let mut dims = vec![1; x.rank()];
    dims[0] = v.len();
    Tensor::from_slice(v, dims, x.device())?.to_dtype(x.dtype())
}

/// `v x`, with `v` one for all samples or one a sample.
pub fn scale(x: &Tensor, v: &[f64]) -> Result<Tensor> {
    match v {
        [c] => x.affine(*c, -0.), // which keeps the sign of 0, as the product does
        _ => x.broadcast_mul(&per_sample(v, x)?),
    }
}

/// `a x + b y`: the step of nearly every sampler. `a`, `b` one for all samples or one a sample.
pub fn combine(a: &[f64], x: &Tensor, b: &[f64], y: &Tensor) -> Result<Tensor> {
    scale(x, a)? + scale(y, b)?
}

/// Sum over everything but the batch: `[B, ...] -> [B]`.
pub fn sum_per_sample(x: &Tensor) -> Result<Tensor> {
    if x.rank() <= 1 {
        return Ok(x.clone());
    }
    x.flatten_from(1)?.sum(1)
}

/// Mean over everything but the batch: `[B, ...] -> [B]`.
pub fn mean_per_sample(x: &Tensor) -> Result<Tensor> {
    if x.rank() <= 1 {
        return Ok(x.clone());
    }
    x.flatten_from(1)?.mean(1)
}

/// Scalar product of each sample of `x` and `y`, on the host, summed in f64: `[B, ...] -> B` numbers.
pub fn dot_per_sample(x: &Tensor, y: &Tensor) -> Result<Vec<f64>> {
    to_host(&sum_per_sample(&(x.to_dtype(DType::F64)? * y.to_dtype(DType::F64)?)?)?)
}

/// Euclidean norm of each sample, on the host: `[B, ...] -> B` numbers.
pub fn norm_per_sample(x: &Tensor) -> Result<Vec<f64>> {
    to_host(&sum_per_sample(&x.to_dtype(DType::F64)?.sqr()?)?).map(|v| v.into_iter().map(f64::sqrt).collect())
}

/// The numbers of a tensor of any shape and float type, in row-major order, on the host.
pub fn to_host(x: &Tensor) -> Result<Vec<f64>> {
    x.flatten_all()?.to_dtype(DType::F64)?.to_vec1()
}

/// Numbers in [-1, 1] as the nearest of `levels` >= 2 even ones, told by their places from 0 to `levels` - 1; any shape.
pub fn levels(x: &Tensor, levels: usize) -> Result<Tensor> {
    let last = levels.saturating_sub(1) as f64;
    x.affine(0.5 * last, 0.5 * last)?.round()?.clamp(0., last)
}

/// Sample by sample: `a` where `mask`, else `b`; what is not chosen may hold anything.
pub fn choose(mask: &[bool], a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mask: Vec<u8> = mask.iter().map(|&m| m.into()).collect();
    let mut dims = vec![1; a.rank()];
    dims[0] = mask.len();
    Tensor::from_vec(mask, dims, a.device())?.broadcast_as(a.shape())?.contiguous()?.where_cond(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn one_number_is_that_of_all_samples() -> Result<()> {
        for n in [0, 1, 7] {
            [0.5].check(n, "times")?;
            assert_eq!([0.5].at(n), 0.5);
        }
        Ok(())
    }

    #[test]
    fn each_sample_has_its_own() -> Result<()> {
        let v = [1., 2., 3.];
        v.check(3, "times")?;
        assert_eq!([v.at(0), v.at(1), v.at(2)], [1., 2., 3.]);
        Ok(())
    }

    #[test]
    fn what_is_not_chosen_does_not_matter() -> Result<()> {
        let (a, b) = (
            Tensor::new(&[[1., 2.], [f64::NAN, f64::NAN]], &Device::Cpu)?,
            Tensor::new(&[[f64::NAN; 2], [3., 4.]], &Device::Cpu)?,
        );
        assert_eq!(choose(&[true, false], &a, &b)?.to_vec2::<f64>()?, [[1., 2.], [3., 4.]]);
        Ok(())
    }

    #[test]
    fn any_other_count_is_an_error_that_names_them() {
        for (v, batch) in [(vec![], 2), (vec![1., 2.], 3), (vec![1., 2.], 1)] {
            let error = v.check(batch, "times of the mixture").unwrap_err().to_string();
            let told = format!("{} times of the mixture for a batch of {batch}; give one, or one a sample", v.len());
            assert!(error.contains(&told), "{error}");
        }
    }
}
