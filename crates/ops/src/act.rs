//! Smooth activations, exact for large arguments too, and closed under differentiation.
//!
//! f^(k)(x) has the gradient g f^(k+1)(x), and g f^(k)(x) the gradients (g h) f^(k+1)(x) and h f^(k)(x): one family.

use crate::grad::cut;
use crate::kernel::act::{Curve, ORDERS, derivative};
use crate::kernel::{Real, dense, native};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// x / (1 + exp(-x)).
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if native(&[x]) { x.apply_op1(Value(Curve::Silu, 0)) } else { x * sigmoid(x)? }
}

/// 1 / (1 + exp(-x)).
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    if native(&[x]) { x.apply_op1(Value(Curve::Sigmoid, 0)) } else { ((x * 0.5)?.tanh()? * 0.5)? + 0.5 }
}

/// ln(1 + exp(x)), without overflow.
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    if native(&[x]) {
        return x.apply_op1(Value(Curve::Softplus, 0));
    }
    // ln(1 + exp(x)) = x/2 + ln(2 cosh(x/2)), even part by |x|: smooth at 0 to every order
    let half = (x.abs()? * 0.5)?;
    (x * 0.5)? + (half.clone() + ((half * -2.)?.exp()? + 1.)?.log()?)?
}

/// x Phi(x), Phi being the normal distribution function.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if native(&[x]) {
        return x.apply_op1(Value(Curve::Gelu, 0));
    }
    // candle's own gelu has a derivative good to 1e-7 only
    ((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.)? * (x * 0.5)?
}

/// The k-th derivative of SiLU, k = 1, 2, differentiable again.
pub(crate) fn silu_derivative(x: &Tensor, k: usize) -> Result<Tensor> {
    if native(&[x]) {
        return x.apply_op1(Value(Curve::Silu, k));
    }
    let s = sigmoid(x)?;
    let q = (&s * (1. - &s)?)?;
    match k {
        1 => s + (x * q)?,
        _ => q * ((x * (1. - (s * 2.)?)?)? + 2.)?,
    }
}

fn name(curve: Curve) -> &'static str {
    match curve {
        Curve::Silu => "silu",
        Curve::Sigmoid => "sigmoid",
        Curve::Softplus => "softplus",
        Curve::Gelu => "gelu",
    }
}

fn known(curve: Curve, k: usize) -> Result<usize> {
    if k > ORDERS {
        bail!(
            "{}: derivatives beyond the {ORDERS}th are not there; take fewer gradients inside each other",
            name(curve)
        );
    }
    Ok(k)
}

/// f^(k)(x).
struct Value(Curve, usize);

/// g f^(k)(x), of (x, g).
struct Times(Curve, usize);

impl CustomOp1 for Value {
    fn name(&self) -> &'static str {
        name(self.0)
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(op: &Value, s: &CpuStorage, l: &Layout) -> Result<CpuStorage> {
            Ok(T::to_cpu_storage_owned(derivative(op.0, op.1, &dense::<T>(s, l)?, None)))
        }
        let y = match s {
            CpuStorage::F32(_) => run::<f32>(self, s, l)?,
            CpuStorage::F64(_) => run::<f64>(self, s, l)?,
            other => bail!("{}: no CPU kernel for {:?}", self.name(), other.dtype()),
        };
        Ok((y, l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(cut(x).apply_op2(&cut(g), Times(self.0, known(self.0, self.1 + 1)?))?))
    }
}

impl CustomOp2 for Times {
    fn name(&self) -> &'static str {
        name(self.0)
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(op: &Times, (s1, l1): (&CpuStorage, &Layout), g: (&CpuStorage, &Layout)) -> Result<CpuStorage> {
            let (x, g) = (dense::<T>(s1, l1)?, dense::<T>(g.0, g.1)?);
            Ok(T::to_cpu_storage_owned(derivative(op.0, op.1, &x, Some(&g))))
        }
        let y = match s1 {
            CpuStorage::F32(_) => run::<f32>(self, (s1, l1), (s2, l2))?,
            CpuStorage::F64(_) => run::<f64>(self, (s1, l1), (s2, l2))?,
            other => bail!("{}: no CPU kernel for {:?}", self.name(), other.dtype()),
        };
        Ok((y, l1.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, g: &Tensor, _: &Tensor, h: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Self(curve, k) = *self;
        let (x_cut, g_cut, h) = (cut(x), cut(g), cut(h));
        let for_x = || x_cut.apply_op2(&(&g_cut * &h)?, Times(curve, known(curve, k + 1)?));
        let for_g = || x_cut.apply_op2(&h, Times(curve, k));
        Ok((x.track_op().then(for_x).transpose()?, g.track_op().then(for_g).transpose()?))
    }
}
