//! Affine maps of the last dimension.

use crate::product::product;
use crate::tape::{Operand, Value};
use candle_core::{Result, bail};

/// x w^T + bias: `x` `[..., I]`, `w` `[O, I]`, `bias` `[O]` -> `[..., O]`.
pub fn linear<T: Operand>(x: &T, w: &T, bias: Option<&T>) -> Result<T> {
    T::from_value(map(&x.value(), &w.value(), bias.map(T::value).as_ref())?)
}

fn map(x: &Value, w: &Value, bias: Option<&Value>) -> Result<Value> {
    let &[outputs, inputs] = w.dims() else { bail!("linear: expected a weight [O, I], got {:?}", w.dims()) };
    let mut dims = x.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last == inputs => *last = outputs,
        _ => bail!("linear: a weight [{outputs}, {inputs}] on an input of shape {:?}", x.dims()),
    }
    let rows = x.shape().elem_count() / inputs.max(1);
    let y = product(&x.reshape((rows, inputs))?, w, [false, true], 1.)?;
    let y = match bias.map(|b| (b, b.dims())) {
        Some((b, [o])) if *o == outputs => y.add(&b.reshape((1, outputs))?.broadcast((rows, outputs))?)?,
        Some((_, other)) => bail!("linear: a bias of shape {other:?} for {outputs} outputs"),
        None => y,
    };
    y.reshape(dims)
}
