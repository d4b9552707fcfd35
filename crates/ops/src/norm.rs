//! Group normalisation, alone and fused with SiLU.
//!
//! y = f(gamma n + beta) with n = (x - mean) / sqrt(var + eps). The first backward pass and its own backward pass are
//! one kernel each; from the third derivative on, they are composed of simple ops.

use crate::act::silu_derivative;
use crate::kernel::norm::{self as cpu, Norm};
use crate::kernel::{Real, native, read, with};
use crate::tape::{Backward, Op, Operand, Value, apply};
use candle_core::{DType, Result, Shape, Tensor, bail};

/// (x - mean) / sqrt(var + eps) over each of `groups` groups of channels, times `gamma` plus `beta` (`[C]` each).
/// `x` is `[B, C, ...]`. [Wu & He 2018, 1803.08494]
pub fn group_norm<T: Operand>(x: &T, gamma: &T, beta: &T, groups: usize, eps: f64) -> Result<T> {
    T::from_value(normalise(&x.value(), &gamma.value(), &beta.value(), groups, eps, false)?)
}

/// SiLU of [`group_norm`].
pub fn group_norm_silu<T: Operand>(x: &T, gamma: &T, beta: &T, groups: usize, eps: f64) -> Result<T> {
    T::from_value(normalise(&x.value(), &gamma.value(), &beta.value(), groups, eps, true)?)
}

fn normalise(x: &Value, gamma: &Value, beta: &Value, groups: usize, eps: f64, silu: bool) -> Result<Value> {
    let &[batch, channels, ref rest @ ..] = x.dims() else {
        bail!("group_norm: expected x [B, C, ...], got {:?}", x.dims());
    };
    if groups == 0 || channels % groups != 0 {
        bail!("group_norm: {channels} channels cannot be split into {groups} groups");
    }
    if gamma.dims() != [channels] || beta.dims() != [channels] {
        bail!(
            "group_norm: gamma and beta must be [{channels}] for x {:?}, got {:?} and {:?}",
            x.dims(),
            gamma.dims(),
            beta.dims()
        );
    }
    let op = Norm { batch, channels, pixels: rest.iter().product(), groups, eps, silu };
    if x.shape().elem_count() == 0 {
        return Ok(x.clone());
    }
    apply(op, &[x, gamma, beta])
}

/// y of (x, gamma, beta).
impl Op for Norm {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        if native(x) {
            return read!(x, T, |x| cpu::forward::<T>(self, x[0], x[1], x[2]), x[0].shape());
        }
        let [x, gamma, beta] = constants(x);
        Terms::new(self, &x, &gamma, &beta)?.value()?.data()
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let ([x, gamma, beta], g) = ([&at.inputs[0], &at.inputs[1], &at.inputs[2]], at.g);
        let (x_data, g_data) = (x.data()?, g.data()?);
        if !at.again() && native(&[&x_data, &g_data]) {
            let (gamma, beta, more) = (gamma.data()?, beta.data()?, at.so_far(0));
            let more = more.map(|more| more.data()).transpose()?;
            let all: Vec<&Tensor> = [&x_data, &gamma, &beta, &g_data].into_iter().chain(&more).collect();
            return match x.dtype() {
                DType::F32 => first::<f32>(self, &all),
                _ => first::<f64>(self, &all),
            };
        }
        let dx = at.wanted(0, || apply(Slope(*self), &[x, gamma, beta, g]))?;
        if !at.wants[1] && !at.wants[2] {
            return Ok(vec![dx, None, None]);
        }
        let terms = Terms::new(self, x, gamma, beta)?;
        let k = terms.split(g)?.mul(&terms.slope()?)?;
        let dgamma = at.wanted(1, || terms.per_channel(&k.mul(&terms.n)?))?;
        Ok(vec![dx, dgamma, at.wanted(2, || terms.per_channel(&k))?])
    }

    fn cheap(&self) -> bool {
        true
    }
}

fn constants<const N: usize>(x: &[&Tensor]) -> [Value; N] {
    std::array::from_fn(|i| Value::constant(x[i].clone()))
}

fn first<T: Real>(op: &Norm, x: &[&Tensor]) -> Result<Vec<Option<Value>>> {
    let (shape, device) = (x[0].shape(), x[0].device());
    let (dx, dp) =
        with::<T, _>(x, |x| Ok(cpu::first(op, x[0], x[1], x[2], x[3], x.get(4).copied().unwrap_or_default())))?;
    let (dgamma, dbeta) = halves(op, dp, device)?;
    Ok(vec![Some(Value::constant(Tensor::from_vec(dx, shape, device)?)), Some(dgamma), Some(dbeta)])
}

/// Gamma's and beta's part of `[2 C]`.
fn halves<T: Real>(op: &Norm, p: Vec<T>, device: &candle_core::Device) -> Result<(Value, Value)> {
    let p = Value::constant(Tensor::from_vec(p, 2 * op.channels, device)?);
    Ok((p.narrow(0, 0, op.channels)?, p.narrow(0, op.channels, op.channels)?))
}

/// dx of (x, gamma, beta, g): the backward pass of [`Norm`] for its input.
struct Slope(Norm);

impl Op for Slope {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        if native(x) {
            return read!(x, T, |x| cpu::first::<T>(&self.0, x[0], x[1], x[2], x[3], &[]).0, x[0].shape());
        }
        let [x, gamma, beta, g] = constants(x);
        let terms = Terms::new(&self.0, &x, &gamma, &beta)?;
        let k = terms.split(&g)?.mul(&terms.slope()?)?;
        terms.jacobian(&terms.scaled(&k)?)?.data()?.reshape(x.shape())
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let ([x, gamma, beta, g], u) = ([&at.inputs[0], &at.inputs[1], &at.inputs[2], &at.inputs[3]], at.g);
        let op = &self.0;
        let (x_data, u_data) = (x.data()?, u.data()?);
        if !at.again() && native(&[&x_data, &u_data]) {
            let (gamma, beta, g) = (gamma.data()?, beta.data()?, g.data()?);
            return match x.dtype() {
                DType::F32 => second::<f32>(op, [&x_data, &gamma, &beta, &g, &u_data]),
                _ => second::<f64>(op, [&x_data, &gamma, &beta, &g, &u_data]),
            };
        }
        let terms = Terms::new(op, x, gamma, beta)?;
        let (g, u) = (terms.split(g)?, terms.split(u)?);
        let slope = terms.slope()?;
        let k = g.mul(&slope)?;
        let q = terms.scaled(&k)?;
        let w = terms.jacobian(&u)?;
        let gw = terms.scaled(&w)?;
        let dz = g.mul(&terms.curvature()?)?.mul(&gw)?;
        let dx = || {
            let dn = terms.scaled(&dz)?;
            terms.jacobian(&dn)?.add(&terms.hessian(&q, &u)?)?.reshape(x.shape().clone())
        };
        Ok(vec![
            at.wanted(0, dx)?,
            at.wanted(1, || terms.per_channel(&w.mul(&k)?.add(&dz.mul(&terms.n)?)?))?,
            at.wanted(2, || terms.per_channel(&dz))?,
            at.wanted(3, || slope.mul(&gw)?.reshape(x.shape().clone()))?,
        ])
    }
}

fn second<T: Real>(op: &Norm, x: [&Tensor; 5]) -> Result<Vec<Option<Value>>> {
    let (shape, device) = (x[0].shape(), x[0].device());
    let d = with::<T, _>(&x, |x| Ok(cpu::second(op, x[0], x[1], x[2], x[3], x[4])))?;
    let (dgamma, dbeta) = halves(op, d.p, device)?;
    let of = |v: Vec<T>| Tensor::from_vec(v, shape, device).map(|t| Some(Value::constant(t)));
    Ok(vec![of(d.x)?, Some(dgamma), Some(dbeta), of(d.g)?])
}

/// The formulas of `kernel/norm.rs` in simple ops, on `[B, groups, C / groups, pixels]`.
struct Terms {
    op: Norm,
    input: Shape,
    /// That of `n`.
    shape: Shape,
    n: Value,
    r: Value,
    z: Value,
    gamma: Value,
}

impl Terms {
    fn new(op: &Norm, x: &Value, gamma: &Value, beta: &Value) -> Result<Self> {
        let shape = Shape::from((op.batch, op.groups, op.channels / op.groups, op.pixels));
        let channel = |v: &Value| v.reshape((1, op.groups, op.channels / op.groups, 1))?.broadcast(shape.clone());
        let (gamma, beta) = (channel(gamma)?, channel(beta)?);
        let split = x.reshape(shape.clone())?;
        let centred = split.sub(&mean(&split)?)?;
        let r = mean(&centred.mul(&centred)?)?.affine(1., op.eps)?.powf(-0.5)?;
        let n = centred.mul(&r)?;
        let z = n.mul(&gamma)?.add(&beta)?;
        Ok(Self { op: *op, input: x.shape().clone(), shape, n, r, z, gamma })
    }

    fn value(&self) -> Result<Value> {
        let y = if self.op.silu { silu_derivative(&self.z, 0)? } else { self.z.clone() };
        y.reshape(self.input.clone())
    }

    /// f'(z).
    fn slope(&self) -> Result<Value> {
        if self.op.silu { silu_derivative(&self.z, 1) } else { self.z.affine(0., 1.) }
    }

    /// f''(z).
    fn curvature(&self) -> Result<Value> {
        if self.op.silu { silu_derivative(&self.z, 2) } else { self.z.affine(0., 0.) }
    }

    fn split(&self, x: &Value) -> Result<Value> {
        x.reshape(self.shape.clone())
    }

    /// gamma h.
    fn scaled(&self, h: &Value) -> Result<Value> {
        h.mul(&self.gamma)
    }

    /// J h.
    fn jacobian(&self, h: &Value) -> Result<Value> {
        let along = self.n.mul(&mean(&h.mul(&self.n)?)?)?;
        h.sub(&mean(h)?)?.sub(&along)?.mul(&self.r)
    }

    /// H(q, u).
    fn hessian(&self, q: &Value, u: &Value) -> Result<Value> {
        let (a, a_u) = (mean(q)?, mean(u)?);
        let (b, b_u) = (mean(&q.mul(&self.n)?)?, mean(&u.mul(&self.n)?)?);
        let c = mean(&q.mul(u)?)?.sub(&a.mul(&a_u)?)?.sub(&b.mul(&b_u)?.affine(3., 0.)?)?;
        let sum = self.n.mul(&c)?.add(&q.sub(&a)?.mul(&b_u)?)?.add(&u.sub(&a_u)?.mul(&b)?)?;
        sum.mul(&self.r)?.mul(&self.r)?.affine(-1., 0.)
    }

    /// The sum over samples and pixels: `[C]`.
    fn per_channel(&self, x: &Value) -> Result<Value> {
        x.sum_to((1, self.op.groups, self.op.channels / self.op.groups, 1))?.reshape(self.op.channels)
    }
}

/// The mean over each group, repeated over it.
fn mean(x: &Value) -> Result<Value> {
    let &[b, groups, channels, pixels] = x.dims() else { bail!("group_norm: {:?}", x.dims()) };
    x.sum_to((b, groups, 1, 1))?.affine(1. / (channels * pixels) as f64, 0.)?.broadcast(x.shape().clone())
}
