//! Gradients against finite differences, to any order, and a case for every op: what `langevin check` runs.
//!
//! From f the scalar L0 = <v, f> + |f|^2 / 2 + sum f^3 / 6 is made, so that no derivative vanishes, and from each L_k the
//! scalar L_{k+1} = sum_i <u_i, dL_k/dx_i>. The gradient of L_{k-1} with respect to every argument is compared with
//! central differences of fourth order, taken in f64 on the CPU.

use crate::context::Context;
use crate::grad;
use candle_core::{DType, Device, Result, Tensor, Var};

#[path = "check_cases.rs"]
mod list;
pub use list::cases;

/// Runs `f` with every op composed of candle's own, as on devices that have no kernels of ours.
pub fn by_composition<R>(f: impl FnOnce() -> R) -> R {
    Context { composed: true, ..Context::now() }.run(f)
}

/// A function of several tensors.
pub type Function = dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync;

/// Largest error of the gradient of `f` at `inputs` (f64), over the largest derivative, for all arguments.
pub fn gradcheck(f: &Function, inputs: &[Tensor]) -> Result<f64> {
    order(f, inputs, 1, &Device::Cpu, DType::F64)
}

/// As [`gradcheck`], of the second derivative.
pub fn gradgradcheck(f: &Function, inputs: &[Tensor]) -> Result<f64> {
    order(f, inputs, 2, &Device::Cpu, DType::F64)
}

/// As [`gradcheck`], of the `n`-th derivative, taken on `device` in `dtype`.
pub fn order(f: &Function, inputs: &[Tensor], n: usize, device: &Device, dtype: DType) -> Result<f64> {
    let exact = inputs.iter().map(|x| x.to_device(&Device::Cpu)?.to_dtype(DType::F64)).collect::<Result<Vec<_>>>()?;
    let vars = exact.iter().map(|x| Var::from_tensor(&x.to_dtype(dtype)?.to_device(device)?));
    let vars = vars.collect::<Result<Vec<_>>>()?;
    let leaves: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let (_, grads) = grad::value_and_grad(&vars, || scalar(f, &leaves, n - 1))?;
    let (mut error, mut largest) = (0f64, 0f64);
    for (i, g) in grads.iter().enumerate() {
        let g = crate::shape::to_host(&g.to_device(&Device::Cpu)?)?;
        for (j, numeric) in differences(f, &exact, n - 1, i)?.into_iter().enumerate() {
            let difference = (g[j] - numeric).abs();
            error = if difference.is_nan() { f64::INFINITY } else { error.max(difference) };
            largest = largest.max(numeric.abs());
        }
    }
    Ok(error / largest.max(f64::MIN_POSITIVE))
}

/// dL_k / dx_i, by differences of L_k.
fn differences(f: &Function, inputs: &[Tensor], k: usize, i: usize) -> Result<Vec<f64>> {
    const STEP: f64 = 1e-3;
    let x = crate::shape::to_host(&inputs[i])?;
    let at = |j: usize, h: f64| -> Result<f64> {
        let (mut moved, mut values) = (inputs.to_vec(), x.clone());
        values[j] += h;
        moved[i] = Tensor::from_vec(values, inputs[i].shape(), &Device::Cpu)?;
        scalar(f, &moved, k)?.to_scalar()
    };
    let one = |j: usize| -> Result<f64> {
        let near = at(j, STEP)? - at(j, -STEP)?;
        let far = at(j, 2. * STEP)? - at(j, -2. * STEP)?;
        Ok((8. * near - far) / (12. * STEP))
    };
    (0..x.len()).map(one).collect()
}

/// L_k at `inputs`.
fn scalar(f: &Function, inputs: &[Tensor], k: usize) -> Result<Tensor> {
    if k == 0 {
        let y = f(inputs)?;
        let powers = ((&y / 6.)? + 0.5)?;
        return (&y * (weights(&y, 1.)? + (&y * powers)?)?)?.sum_all();
    }
    let mut sum = None;
    for (i, x) in inputs.iter().enumerate() {
        let (_, g) = grad::gradient(x, |x| {
            let mut leaves = inputs.to_vec();
            leaves[i] = x.clone();
            scalar(f, &leaves, k - 1)
        })?;
        let term = (weights(&g, 2. + i as f64)? * g)?.sum_all()?;
        sum = Some(match sum {
            None => term,
            Some(sum) => (sum + term)?,
        });
    }
    match sum {
        Some(sum) => Ok(sum),
        None => Tensor::zeros((), DType::F64, &Device::Cpu),
    }
}

/// Numbers of order one without a pattern, in the shape of `x`: the v and u_i above.
fn weights(x: &Tensor, phase: f64) -> Result<Tensor> {
    let v: Vec<f64> = (0..x.elem_count()).map(|i| (phase + 1.7 * i as f64 * (1. + 0.1 * phase)).sin()).collect();
    Tensor::from_vec(v, x.shape(), &Device::Cpu)?.to_dtype(x.dtype())?.to_device(x.device())
}

/// An op at given arguments, for the checks.
pub struct Case {
    /// The op and what is special about the arguments.
    pub name: String,
    /// The highest order of derivative that is checked; 0 for large arguments, where only the value is.
    pub order: usize,
    f: Box<Function>,
    inputs: Vec<Tensor>,
}

/// What [`Case::run`] found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Error of the value in f32 over its largest number, at arguments scaled by 1, 1e4 and 1e-4: the largest of the three.
    pub precision: f64,
    /// Error of the first, second, ... derivative over the largest derivative of that order.
    pub errors: Vec<f64>,
    /// The largest of `errors` allowed.
    pub tolerance: f64,
}

/// The largest [`Outcome::precision`] allowed.
pub const PRECISION: f64 = 1e-4;

impl Outcome {
    /// Whether all errors are within the tolerances.
    pub fn passed(&self) -> bool {
        self.precision <= PRECISION && self.errors.iter().all(|e| *e <= self.tolerance)
    }
}

impl Case {
    /// Checks the value in f32 on `device`, and the derivatives: in f64 on the CPU and on CUDA, in f32 elsewhere.
    pub fn run(&self, device: &Device) -> Result<Outcome> {
        let dtype = if device.is_cpu() || device.is_cuda() { DType::F64 } else { DType::F32 };
        let tolerance = if dtype == DType::F64 { 1e-7 } else { 1e-3 };
        let errors =
            (1..=self.order).map(|n| order(&*self.f, &self.inputs, n, device, dtype)).collect::<Result<_>>()?;
        Ok(Outcome { precision: self.precision(device)?, errors, tolerance })
    }

    fn precision(&self, device: &Device) -> Result<f64> {
        let mut worst = 0f64;
        for scale in [1., 1e4, 1e-4] {
            let exact = by_composition(|| self.value(scale, DType::F64, &Device::Cpu))?;
            let found = self.value(scale, DType::F32, device)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
            let largest = |x: &Tensor| x.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>();
            let error = largest(&(found - &exact)?)? / largest(&exact)?.max(f64::MIN_POSITIVE);
            worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
        }
        Ok(worst)
    }

    /// The op at its arguments, all scaled by `scale`, in `dtype` on `device`.
    pub fn value(&self, scale: f64, dtype: DType, device: &Device) -> Result<Tensor> {
        let inputs = self.inputs.iter().map(|x| (x * scale)?.to_dtype(dtype)?.to_device(device));
        (self.f)(&inputs.collect::<Result<Vec<_>>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::{Backward, Op, Value, apply};

    /// The identity, whose gradient tells how its backward pass ran.
    struct Asks;

    impl Op for Asks {
        fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
            Ok(x[0].clone())
        }

        fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
            let told = if Context::now().composed { 1. } else { 0. };
            Ok(vec![Some(at.g.affine(0., told)?)])
        }
    }

    #[test]
    fn backward_passes_are_composed_too() -> Result<()> {
        let x = Tensor::zeros(1, DType::F64, &Device::Cpu)?;
        let told = || grad::gradient(&x, |x| apply(Asks, &[&Value::of(x)])?.tensor())?.1.to_vec1::<f64>();
        assert_eq!(told()?, [0.]);
        assert_eq!(by_composition(told)?, [1.]);
        assert_eq!(told()?, [0.]);
        Ok(())
    }
}
