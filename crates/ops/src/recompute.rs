//! Recomputation: parts of a network whose inner values are not kept for the backward pass but computed again in it.
//!
//! Also called gradient checkpointing [Chen et al. 2016, 1604.06174]. Closed under differentiation as the ops are: the
//! gradient of such a part is one itself, so that training an energy keeps only what goes in and out of the parts, at
//! the price of computing each part three times in place of once.

use crate::bridge::unrecorded;
use crate::context::Context;
use crate::tape::{Backward, Op, Value, backward, leaves, record};
use candle_core::{Result, Tensor, bail};
use std::sync::Arc;

/// Runs `f` with every [`part`] inside it recomputed in the backward pass, or none.
pub fn recompute<R>(on: bool, f: impl FnOnce() -> R) -> R {
    Context { recompute: on, ..Context::now() }.run(f)
}

/// `f` of `inputs`, a part that [`recompute`] may speak of. `f` gives the same value at every call.
pub fn part(inputs: &[&Value], f: impl Fn(&[Value]) -> Result<Value> + Send + Sync + 'static) -> Result<Value> {
    let inputs: Vec<Value> = inputs.iter().map(|&x| x.clone()).collect();
    if Context::now().recompute { again(Arc::new(f), inputs) } else { f(&inputs) }
}

type Function = dyn Fn(&[Value]) -> Result<Value> + Send + Sync;

fn again(f: Arc<Function>, mut inputs: Vec<Value>) -> Result<Value> {
    let y = f(&inputs.iter().map(Value::detach).collect::<Vec<_>>())?;
    let weights = leaves(&y); // what `f` takes from outside
    let data = y.data()?;
    drop(y);
    let op = Again { f, inputs: inputs.len(), weights: weights.clone() };
    inputs.extend(weights.iter().map(Value::leaf));
    record(op, &inputs.iter().collect::<Vec<_>>(), data)
}

/// f of the first `inputs`; the rest are the weights that `f` finds by itself.
struct Again {
    f: Arc<Function>,
    inputs: usize,
    weights: Vec<Tensor>,
}

impl Op for Again {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        let x: Vec<Value> = x[..self.inputs].iter().map(|&x| Value::constant(x.clone())).collect();
        unrecorded(|| (self.f)(&x)?.data())
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let x = &at.inputs[..self.inputs];
        if !at.again() {
            return gradients(&*self.f, &self.weights, x, at.g, at.wants, false);
        }
        // one part for each gradient, of the inputs and g
        let one = |i: usize| {
            let (f, weights, n) = (self.f.clone(), self.weights.clone(), self.inputs);
            let gradient = move |x: &[Value]| {
                let mut wants = vec![false; n + weights.len()];
                wants[i] = true;
                let found = gradients(&*f, &weights, &x[..n], &x[n], &wants, true)?.swap_remove(i);
                found.map_or_else(
                    || {
                        let input = if i < n { x[i].data()? } else { weights[i - n].detach() };
                        Ok(Value::constant(input.zeros_like()?))
                    },
                    Ok,
                )
            };
            let mut inputs = x.to_vec();
            inputs.push(at.g.clone());
            again(Arc::new(gradient), inputs)
        };
        (0..at.inputs.len()).map(|i| at.wanted(i, || one(i))).collect()
    }
}

/// The gradients of <f(x), g> with respect to those of x and of the weights that are wanted.
fn gradients(
    f: &Function,
    weights: &[Tensor],
    x: &[Value],
    g: &Value,
    wants: &[bool],
    keep: bool,
) -> Result<Vec<Option<Value>>> {
    let marked: Vec<(Value, Tensor)> = x.iter().map(Value::marked).collect::<Result<_>>()?;
    let keys: Vec<&Tensor> = marked.iter().map(|(_, key)| key).chain(weights).collect();
    let y = recompute(false, || f(&marked.iter().map(|(x, _)| x.clone()).collect::<Vec<_>>()))?;
    if leaves(&y).iter().any(|leaf| weights.iter().all(|weight| weight.id() != leaf.id())) {
        bail!(
            "a part of a network makes new tensors at every call, and loses their gradients; let it compute with values"
        );
    }
    let wanted = |t: &Tensor| keys.iter().zip(wants).any(|(key, want)| *want && key.id() == t.id());
    let mut found = backward(y, g.clone(), wanted, keep)?;
    Ok(keys.iter().map(|key| found.remove(&key.id())).collect())
}
