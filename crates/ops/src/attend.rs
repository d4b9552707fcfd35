//! Softmax and attention, twice differentiable by kernels and to any order by composition.

use crate::kernel::product as cpu;
use crate::kernel::{native, read};
use crate::product::product;
use crate::tape::{Backward, Op, Operand, Value, apply};
use candle_core::{D, Result, Tensor, bail};

/// Softmax over the last dimension.
pub fn softmax<T: Operand>(x: &T) -> Result<T> {
    let x = x.value();
    if matches!(x.dims().last(), None | Some(0)) {
        bail!("softmax: nothing to sum over in a tensor of shape {:?}", x.dims());
    }
    if x.shape().elem_count() == 0 {
        return Ok(x.clone()).and_then(T::from_value);
    }
    T::from_value(apply(Softmax, &[&x])?)
}

/// softmax(scale q k^T) v: `q` `[B, heads, N, D]`, `k` `[B, heads, M, D]`, `v` `[B, heads, M, E]` -> `[B, heads, N, E]`.
pub fn attention<T: Operand>(q: &T, k: &T, v: &T, scale: f64) -> Result<T> {
    let scores = product(&q.value(), &k.value(), [false, true], scale)?; // [B, heads, N, M]
    T::from_value(product(&softmax(&scores)?, &v.value(), [false, false], 1.)?)
}

/// [`attention`] over pixels, channels first as convolutions have them: `q`, `k` `[B, heads, D, N]`, `v`
/// `[B, heads, E, N]` -> `[B, heads, E, N]`.
pub fn attention_of_channels<T: Operand>(q: &T, k: &T, v: &T, scale: f64) -> Result<T> {
    let scores = product(&q.value(), &k.value(), [true, false], scale)?; // [B, heads, N, N]
    T::from_value(product(&v.value(), &softmax(&scores)?, [false, true], 1.)?)
}

/// y = softmax(x).
struct Softmax;

impl Op for Softmax {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        let n = x[0].dim(D::Minus1)?;
        if native(x) {
            return read!(x, T, |x| cpu::softmax::<T>(n, x[0]), x[0].shape());
        }
        let e = x[0].broadcast_sub(&x[0].max_keepdim(D::Minus1)?)?.exp()?;
        e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        Ok(vec![at.wanted(0, || apply(Slope, &[at.output()?, at.g]))?])
    }

    fn needs_output(&self) -> bool {
        true
    }
}

/// y (g - <g, y>) of (y, g).
struct Slope;

impl Op for Slope {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        if native(x) {
            let n = x[0].dim(D::Minus1)?;
            return read!(x, T, |x| cpu::softmax_slope::<T>(n, x[0], x[1]), x[0].shape());
        }
        x[0] * x[1].broadcast_sub(&(x[0] * x[1])?.sum_keepdim(D::Minus1)?)?
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let (y, g, u) = (&at.inputs[0], &at.inputs[1], at.g);
        Ok(vec![at.wanted(0, || apply(Bend, &[y, g, u]))?, at.wanted(1, || apply(Slope, &[y, u]))?])
    }
}

/// u g - u <g, y> - g <u, y> of (y, g, u).
struct Bend;

impl Op for Bend {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        if native(x) {
            let n = x[0].dim(D::Minus1)?;
            return read!(x, T, |x| cpu::softmax_bend::<T>(n, x[0], x[1], x[2]), x[0].shape());
        }
        let [y, g, u] = [x[0], x[1], x[2]];
        let mean = |v: &Tensor| (v * y)?.sum_keepdim(D::Minus1);
        ((u * g)? - u.broadcast_mul(&mean(g)?)?)? - g.broadcast_mul(&mean(u)?)?
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let [y, g, u] = [&at.inputs[0], &at.inputs[1], &at.inputs[2]];
        let h = at.g;
        // d/dy: -<h, u> g - <h, g> u;  d/dg: h u - <h, u> y - h <u, y>;  and the same for u
        let for_y = || g.mul(&dot(h, u)?)?.add(&u.mul(&dot(h, g)?)?)?.affine(-1., 0.);
        let other = |v: &Value| h.mul(v)?.sub(&y.mul(&dot(h, v)?)?)?.sub(&h.mul(&dot(v, y)?)?);
        Ok(vec![at.wanted(0, for_y)?, at.wanted(1, || other(u))?, at.wanted(2, || other(g))?])
    }
}

/// <a, b> of each row, repeated over it.
fn dot(a: &Value, b: &Value) -> Result<Value> {
    let mut rows = a.dims().to_vec();
    if let Some(last) = rows.last_mut() {
        *last = 1;
    }
    a.mul(b)?.sum_to(rows)?.broadcast(a.shape().clone())
}
