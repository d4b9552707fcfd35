//! Affine maps of the last dimension.

use crate::product::{product, product_of_bits};
use crate::tape::{Operand, Value};
use candle_core::{Result, bail};

/// x w^T + bias: `x` `[..., I]`, `w` `[O, I]`, `bias` `[O]` -> `[..., O]`.
pub fn linear<T: Operand>(x: &T, w: &T, bias: Option<&T>) -> Result<T> {
    let multiply = |x: &Value, w: &Value, bias: Option<&Value>| {
        let y = product(x, w, [false, true], 1.)?;
        bias.map_or(Ok(y.clone()), |bias| y.add(&bias.broadcast(y.shape().clone())?))
    };
    T::from_value(map(&x.value(), &w.value(), bias.map(T::value).as_ref(), multiply)?)
}

/// As [`linear`], on the CPU about twice as fast for those rows of `x` whose numbers are all 0 or 1, such as states of binary
/// units. They are found by looking: any `x` is right, and other rows take as long as there.
///
/// A number of `w` that meets nothing but zeros is not read, even if it is not finite.
pub fn linear_of_bits<T: Operand>(x: &T, w: &T, bias: Option<&T>) -> Result<T> {
    let multiply = |x: &Value, w: &Value, bias: Option<&Value>| product_of_bits(x, w, [false, true], bias);
    T::from_value(map(&x.value(), &w.value(), bias.map(T::value).as_ref(), multiply)?)
}

/// Gives `multiply` all but the last dimension of x as one, and the bias as a row.
fn map(
    x: &Value,
    w: &Value,
    bias: Option<&Value>,
    multiply: impl Fn(&Value, &Value, Option<&Value>) -> Result<Value>,
) -> Result<Value> {
    let &[outputs, inputs] = w.dims() else { bail!("linear: expected a weight [O, I], got {:?}", w.dims()) };
    let mut dims = x.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last == inputs => *last = outputs,
        _ => bail!("linear: a weight [{outputs}, {inputs}] on an input of shape {:?}", x.dims()),
    }
    let bias = match bias.map(|b| (b, b.dims())) {
        Some((b, [o])) if *o == outputs => Some(b.reshape((1, outputs))?),
        Some((_, other)) => bail!("linear: a bias of shape {other:?} for {outputs} outputs"),
        None => None,
    };
    let rows = x.shape().elem_count() / inputs.max(1);
    multiply(&x.reshape((rows, inputs))?, w, bias.as_ref())?.reshape(dims)
}
