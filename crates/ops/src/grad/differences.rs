//! The derivative of a gradient by differences: first-order passes only.

use super::{Mode, backward, backward_here, gradient, scope};
use crate::context::Context;
use crate::shape;
use crate::tape::{self, Backward, Op, Value};
use candle_core::{Result, Tensor, Var, bail};

/// Runs `f` with the gradients of energies in it differentiated by differences ([`gradient_by_differences`]), or exactly.
pub fn differences<R>(on: bool, f: impl FnOnce() -> R) -> R {
    Context { differences: on, ..Context::now() }.run(f)
}

/// Whether [`differences`] asks for differences.
pub fn by_differences() -> bool {
    Context::now().differences
}

/// Root mean square of the step a component, for inputs of about unit variance in f32: rounding and the error of the
/// difference are about as large there.
const STEP: f64 = 1e-2;

/// As [`gradient`] of `f`, which gives one value a sample, `[B]`; but where that would be differentiated again, the
/// derivative is a central difference of first-order gradients, and no second-order graph is built.
///
/// With u the cotangent of the gradient, d/dtheta <u, df/dx> = sum_b |u_b| / 2h d/dtheta (f_b(x + h u_b/|u_b|) - f_b(x - h
/// u_b/|u_b|)) + O(h^2), in the variables theta that `f` uses; there is none in `x`. h is 0.01 times the root of the
/// number of components of a sample: for inputs of about unit variance. `f` computes from variables and constants: what was
/// computed from a variable outside of it, and is used elsewhere too, can be an error.
pub fn gradient_by_differences(
    x: &Tensor,
    f: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    if Context::now().scopes == 0 {
        return Ok(gradient(x, f)?.1);
    }
    if x.track_op() {
        bail!("gradient_by_differences: the input was itself computed from variables; detach it");
    }
    let (leaf, since) = (Var::from_tensor(x)?.into_inner(), tape::now());
    let total = scope(|| f(&leaf)?.sum_all())?;
    let used = total.sorted_nodes().into_iter().filter(|t| t.is_variable() && t.id() != leaf.id());
    let used: Vec<Tensor> = used.cloned().collect();
    let mut grads = backward(total, Mode { keep_graph: false, only: Some(leaf.id()), since })?;
    let Some(g) = grads.remove(&leaf)? else {
        bail!("gradient_by_differences: the value does not depend on the input")
    };
    let leaves: Vec<Value> = used.iter().map(Value::leaf).collect();
    let op = Differences { f: Box::new(f), x: x.detach(), used };
    tape::record(op, &leaves.iter().collect::<Vec<_>>(), g.detach())?.tensor()
}

type Energy = dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync;

/// The gradient of `f` at `x`, as a function of the variables that `f` uses.
struct Differences {
    f: Box<Energy>,
    x: Tensor,
    used: Vec<Tensor>,
}

impl Op for Differences {
    fn forward(&self, _: &[&Tensor]) -> Result<Tensor> {
        Ok(gradient(&self.x, |x| (self.f)(x))?.1)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        if at.again() {
            bail!("a derivative by differences cannot be differentiated again; use second_order = \"exact\"");
        }
        let u = at.g.data()?;
        let norms = shape::norm_per_sample(&u)?;
        let h = STEP * (u.elem_count() as f64 / norms.len().max(1) as f64).sqrt();
        let inverse: Vec<f64> = norms.iter().map(|&n| if n > 0. { h / n } else { 0. }).collect();
        let along = shape::scale(&u, &inverse)?;
        let mut sums: Vec<Option<Tensor>> = vec![None; self.used.len()];
        for sign in [1., -1.] {
            let weights: Vec<f64> = norms.iter().map(|n| sign * n / (2. * h)).collect();
            let since = tape::now();
            let y = scope(|| shape::scale(&(self.f)(&(&self.x + (&along * sign)?)?)?, &weights)?.sum_all())?;
            let mut grads = backward_here(&y, Mode { keep_graph: false, only: None, since })?;
            for (sum, t) in sums.iter_mut().zip(&self.used) {
                let g = grads.remove(t)?.map(|g| g.detach());
                *sum = match (sum.take(), g) {
                    (Some(a), Some(b)) => Some((a + b)?),
                    (a, b) => a.or(b),
                };
            }
        }
        Ok(sums.into_iter().map(|sum| sum.map(Value::constant)).collect())
    }
}
