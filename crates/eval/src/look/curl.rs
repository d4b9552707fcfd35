//! How far a field is from a gradient: the share |A|^2 / |J|^2 of its Jacobian J, A = (J - J^T) / 2, in Frobenius norms.
//!
//! It is 0 for the gradient of an energy and 1 for pure rotation; |J - J^T|^2 / (4 |J|^2) in \[Chao22\]. By Hutchinson
//! |M|^2 = E|M v|^2 for v of unit covariance, and both products come from autodiff: J^T v is one, J v the derivative of
//! J^T u in u.

use candle_core::{Result, Tensor, bail};
use langevin_dynamics::Denoiser;
use langevin_ops::grad;
use langevin_ops::noise::Noise;
use langevin_ops::shape::{sum_per_sample, to_host};

/// |A|^2 and |J|^2 at one sample, estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parts {
    /// |A|^2, of the antisymmetric part.
    pub antisymmetric: f64,
    /// |J|^2 = |A|^2 + |(J + J^T) / 2|^2.
    pub whole: f64,
}

/// The parts at each sample, of the two fields that a model has at a noise level.
#[derive(Clone, Debug)]
pub struct Curl {
    /// Of the score, whose Jacobian is mostly -1/sigma^2 times the unit matrix where there is little noise.
    pub score: Vec<Parts>,
    /// Of x0 = E[x_0 | x_t], whose antisymmetric part is the same up to a factor, and not hidden by that.
    pub x0: Vec<Parts>,
}

/// The curl of `m` at samples `x` of x_t `[B, ...]`, from `probes` random vectors of `z`, which has `B` streams; exact
/// where there are no more numbers in a sample than that.
pub fn curl(m: &dyn Denoiser, x: &Tensor, t: f64, probes: usize, z: &mut Noise) -> Result<Curl> {
    let (batch, numbers) = (x.dim(0)?, x.elem_count() / x.dim(0)?.max(1));
    if probes == 0 || numbers == 0 {
        bail!("curl: {probes} probes of samples of {numbers} numbers; give at least one of each");
    }
    let marginal = m.process().marginal(t);
    let (alpha, precision) = (marginal.alpha, 1. / (marginal.sigma * marginal.sigma));
    let mut found = Curl { score: vec![Parts::default(); batch], x0: vec![Parts::default(); batch] };
    // a sum over the axes is the norm itself; over random vectors, their mean is
    let exact = numbers <= probes;
    let (times, each) = if exact { (numbers, 1.) } else { (probes, 1. / probes as f64) };
    for probe in 0..times {
        let v = if exact { axis(x, probe)? } else { z.rademacher_like(x)? };
        let transposed = grad::vjp(x, &v, |x| m.x0(x, &[t]))?; // J^T v
        let forward = grad::vjp(&v, &v, |u| grad::vjp(x, u, |x| m.x0(x, &[t])))?; // d/du (v . J^T u) = J v
        let of_score = |jv: &Tensor| ((jv * alpha)? - &v)? * precision;
        add(&mut found.x0, &forward, &transposed, each)?;
        add(&mut found.score, &of_score(&forward)?, &of_score(&transposed)?, each)?;
    }
    Ok(found)
}

/// The `i`-th axis of the space of each sample, the shape of `x`.
fn axis(x: &Tensor, i: usize) -> Result<Tensor> {
    let numbers = x.elem_count() / x.dim(0)?;
    let one = Tensor::from_iter((0..x.elem_count()).map(|j| f64::from(u8::from(j % numbers == i))), x.device())?;
    one.to_dtype(x.dtype())?.reshape(x.shape())
}

/// Adds `each` |J v - J^T v|^2 / 4 and the mean of `each` |J v|^2 and |J^T v|^2.
fn add(parts: &mut [Parts], forward: &Tensor, transposed: &Tensor, each: f64) -> Result<()> {
    let square = |v: &Tensor| to_host(&sum_per_sample(&v.to_dtype(candle_core::DType::F64)?.sqr()?)?);
    let difference = square(&(forward - transposed)?)?;
    let (forward, transposed) = (square(forward)?, square(transposed)?);
    for ((parts, difference), (forward, transposed)) in
        parts.iter_mut().zip(difference).zip(forward.iter().zip(transposed))
    {
        parts.antisymmetric += each * difference / 4.;
        parts.whole += each * (forward + transposed) / 2.;
    }
    Ok(())
}

/// The share of the antisymmetric part over all samples, and its standard error: that of a ratio of means.
pub fn share(parts: &[Parts]) -> (f64, f64) {
    let n = parts.len() as f64;
    let antisymmetric = parts.iter().map(|p| p.antisymmetric).sum::<f64>() / n;
    let whole = parts.iter().map(|p| p.whole).sum::<f64>() / n;
    let share = antisymmetric / whole;
    let off = parts.iter().map(|p| (p.antisymmetric - share * p.whole).powi(2)).sum::<f64>();
    (share, (off / (n - 1.).max(1.) / n).sqrt() / whole)
}
