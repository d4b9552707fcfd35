//! Smooth activations, exact for large arguments too, and closed under differentiation.
//!
//! f^(k)(x) has the gradient g f^(k+1)(x), and g f^(k)(x) the gradients (g h) f^(k+1)(x) and h f^(k)(x): one family.

use crate::kernel::act::{Curve, ORDERS, derivative, softplus_sums};
use crate::kernel::{native, read};
use crate::tape::{Backward, Op, Operand, Value, apply};
use candle_core::{Result, Tensor, bail};

/// x / (1 + exp(-x)).
pub fn silu<T: Operand>(x: &T) -> Result<T> {
    value(x, Curve::Silu)
}

/// 1 / (1 + exp(-x)).
pub fn sigmoid<T: Operand>(x: &T) -> Result<T> {
    value(x, Curve::Sigmoid)
}

/// ln(1 + exp(x)), without overflow.
pub fn softplus<T: Operand>(x: &T) -> Result<T> {
    value(x, Curve::Softplus)
}

/// The sum of ln(1 + exp(x)) over the last dimension: `[B, N] -> [B]`.
pub fn softplus_sum<T: Operand>(x: &T) -> Result<T> {
    T::from_value(apply(SoftplusSum, &[&x.value()])?)
}

/// x Phi(x), Phi being the normal distribution function.
pub fn gelu<T: Operand>(x: &T) -> Result<T> {
    value(x, Curve::Gelu)
}

/// The sine; the cosine is that of x + pi/2.
pub fn sin<T: Operand>(x: &T) -> Result<T> {
    value(x, Curve::Sin)
}

fn value<T: Operand>(x: &T, curve: Curve) -> Result<T> {
    T::from_value(apply(Derivative { curve, k: 0 }, &[&x.value()])?)
}

/// The k-th derivative of SiLU.
pub(crate) fn silu_derivative(x: &Value, k: usize) -> Result<Value> {
    apply(Derivative { curve: Curve::Silu, k }, &[x])
}

struct SoftplusSum;

impl Op for SoftplusSum {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        let &[batch, n] = x[0].dims() else { bail!("softplus_sum: shape {:?}; give [B, N]", x[0].dims()) };
        if native(x) {
            return read!(x, T, |x| softplus_sums::<T>(n, x[0]), batch);
        }
        composed(Curve::Softplus, 0, x[0])?.sum(1)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let x = &at.inputs[0];
        let slope = || {
            let g = at.g.reshape((x.dims()[0], 1))?.broadcast(x.shape().clone())?;
            apply(Derivative { curve: Curve::Sigmoid, k: 0 }, &[x])?.mul(&g)
        };
        Ok(vec![at.wanted(0, slope)?])
    }
}

/// f^(k)(x) of (x), or g f^(k)(x) of (x, g).
#[derive(Clone, Copy)]
struct Derivative {
    curve: Curve,
    k: usize,
}

impl Derivative {
    fn next(self) -> Result<Self> {
        if self.k == ORDERS {
            bail!(
                "{:?}: derivatives beyond the {ORDERS}th are not there; take fewer gradients inside each other",
                self.curve
            );
        }
        Ok(Self { k: self.k + 1, ..self })
    }
}

impl Op for Derivative {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        if native(x) {
            return read!(x, T, |x| derivative::<T>(self.curve, self.k, x[0], x.get(1).copied()), x[0].shape());
        }
        let y = composed(self.curve, self.k, x[0])?;
        if let Some(g) = x.get(1) { y * *g } else { Ok(y) }
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let (x, h) = (&at.inputs[0], at.g);
        let Some(g) = at.inputs.get(1) else {
            return Ok(vec![at.wanted(0, || apply(self.next()?, &[x, h]))?]);
        };
        Ok(vec![at.wanted(0, || apply(self.next()?, &[x, &g.mul(h)?]))?, at.wanted(1, || apply(*self, &[x, h]))?])
    }

    fn cheap(&self) -> bool {
        true
    }
}

/// The derivatives in candle's ops.
fn composed(curve: Curve, k: usize, x: &Tensor) -> Result<Tensor> {
    match (curve, k) {
        (Curve::Sigmoid, k) => sigmoid_derivative(x, k),
        (Curve::Silu, 0) => x * sigmoid_derivative(x, 0)?,
        // (x s)^(k) = x s^(k) + k s^(k-1)
        (Curve::Silu, k) => (x * sigmoid_derivative(x, k)?)? + (sigmoid_derivative(x, k - 1)? * k as f64)?,
        // ln(1 + exp(x)) = max(x, 0) + ln(1 + exp(-|x|))
        (Curve::Softplus, 0) => x.relu()? + (x.abs()?.neg()?.exp()? + 1.)?.log()?,
        (Curve::Softplus, k) => sigmoid_derivative(x, k - 1),
        (Curve::Sin, 1) => x.cos(),
        (Curve::Sin, 2) => x.sin()?.neg(),
        (Curve::Sin, 3) => x.cos()?.neg(),
        (Curve::Sin, _) => x.sin(),
        (Curve::Gelu, k) => {
            // candle's own gelu has a derivative good to 1e-7 only
            let below = (((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.)? * 0.5)?;
            let bell = ((x.sqr()? * -0.5)?.exp()? / (2. * std::f64::consts::PI).sqrt())?;
            let xx = x.sqr()?;
            match k {
                0 => x * below,
                1 => below + (bell * x)?,
                2 => bell * (2. - xx)?,
                3 => bell * (x * (xx - 4.)?)?,
                _ => bell * ((&xx * (7. - &xx)?)? - 4.)?,
            }
        }
    }
}

/// s, q, q u, q (1 - 6 q), q u (1 - 12 q), with q = s (1 - s) and u = 1 - 2 s.
fn sigmoid_derivative(x: &Tensor, k: usize) -> Result<Tensor> {
    let t = (x * 0.5)?.tanh()?;
    let s = ((&t * 0.5)? + 0.5)?;
    if k == 0 {
        return Ok(s);
    }
    let (q, u) = (((1. - t.sqr()?)? * 0.25)?, t.neg()?);
    match k {
        1 => Ok(q),
        2 => q * u,
        3 => &q * (1. - (&q * 6.)?)?,
        _ => (&q * u)? * (1. - (&q * 12.)?)?,
    }
}
