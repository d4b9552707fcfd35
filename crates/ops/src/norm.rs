//! Group normalisation, alone and fused with SiLU.
//!
//! y = f(gamma n + beta) with n = (x - mean) / sqrt(var + eps). The first backward pass and its own backward pass are
//! one kernel each; from the third derivative on, they are composed of candle's ops.

use crate::act::{silu, silu_derivative};
use crate::grad::{mode, wants};
use crate::kernel::norm::{self as cpu, Norm};
use crate::kernel::{Real, dense, native, with};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};

/// (x - mean) / sqrt(var + eps) over each of `groups` groups of channels, times `gamma` plus `beta` (`[C]` each).
/// `x` is `[B, C, ...]`. [Wu & He 2018, 1803.08494]
pub fn group_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    normalise(x, gamma, beta, groups, eps, false)
}

/// SiLU of [`group_norm`].
pub fn group_norm_silu(x: &Tensor, gamma: &Tensor, beta: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    normalise(x, gamma, beta, groups, eps, true)
}

fn normalise(x: &Tensor, gamma: &Tensor, beta: &Tensor, groups: usize, eps: f64, silu: bool) -> Result<Tensor> {
    if x.rank() < 2 {
        bail!("group_norm: expected x [B, C, ...], got {:?}", x.dims());
    }
    let (batch, channels) = (x.dim(0)?, x.dim(1)?);
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
    let pixels = x.dims()[2..].iter().product();
    let op = Norm { batch, channels, pixels, groups, eps, silu };
    if native(&[x, gamma, beta]) && x.elem_count() > 0 {
        return x.apply_op3(gamma, beta, Value(op));
    }
    Terms::new(&op, x, gamma, beta)?.value()
}

struct Value(Norm);

impl CustomOp3 for Value {
    fn name(&self) -> &'static str {
        if self.0.silu { "group_norm_silu" } else { "group_norm" }
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(op: &Norm, stores: [(&CpuStorage, &Layout); 3]) -> Result<CpuStorage> {
            let [x, gamma, beta] = stores.map(|(s, l)| dense::<T>(s, l));
            Ok(T::to_cpu_storage_owned(cpu::forward(op, &x?, &gamma?, &beta?)))
        }
        let stores = [(s1, l1), (s2, l2), (s3, l3)];
        let y = match s1 {
            CpuStorage::F32(_) => run::<f32>(&self.0, stores)?,
            CpuStorage::F64(_) => run::<f64>(&self.0, stores)?,
            other => bail!("{}: no CPU kernel for {:?}", self.name(), other.dtype()),
        };
        Ok((y, l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let c = self.0.channels;
        let parameters = wants(gamma) || wants(beta);
        if !mode().keep_graph {
            let (dx, dp) = match x.dtype() {
                DType::F32 => first::<f32>(&self.0, x, gamma, beta, g)?,
                _ => first::<f64>(&self.0, x, gamma, beta, g)?,
            };
            return Ok((Some(dx), Some(dp.narrow(0, 0, c)?), Some(dp.narrow(0, c, c)?)));
        }
        let p = Tensor::cat(&[gamma, beta], 0)?;
        let dx = x.apply_op3(&p, g, Slope(self.0))?;
        if !parameters {
            return Ok((Some(dx), skipped(gamma)?, skipped(beta)?));
        }
        let terms = Terms::new(&self.0, x, gamma, beta)?;
        let k = (terms.split(g)? * terms.slope()?)?;
        Ok((Some(dx), Some(terms.per_channel(&(&k * &terms.n)?)?), Some(terms.per_channel(&k)?)))
    }
}

/// What stands for a gradient that nobody asked for: candle needs a tensor there unless it is a leaf.
fn skipped(t: &Tensor) -> Result<Option<Tensor>> {
    if t.track_op() && !t.is_variable() { t.zeros_like().map(Some) } else { Ok(None) }
}

fn first<T: Real>(op: &Norm, x: &Tensor, gamma: &Tensor, beta: &Tensor, g: &Tensor) -> Result<(Tensor, Tensor)> {
    with([x, gamma, beta, g], |[x_data, gamma, beta, g]: [&[T]; 4]| {
        let (dx, dp) = cpu::first(op, x_data, gamma, beta, g);
        Ok((Tensor::from_vec(dx, x.shape(), x.device())?, Tensor::from_vec(dp, 2 * op.channels, x.device())?))
    })
}

/// dx of (x, [gamma, beta], g): the backward pass of [`Value`] for its input.
struct Slope(Norm);

impl CustomOp3 for Slope {
    fn name(&self) -> &'static str {
        "group_norm_input_grad"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(op: &Norm, stores: [(&CpuStorage, &Layout); 3]) -> Result<CpuStorage> {
            let [x, p, g] = stores.map(|(s, l)| dense::<T>(s, l));
            let (x, p, g) = (x?, p?, g?);
            let (gamma, beta) = p.split_at(op.channels);
            Ok(T::to_cpu_storage_owned(cpu::first(op, &x, gamma, beta, &g).0))
        }
        let stores = [(s1, l1), (s2, l2), (s3, l3)];
        let y = match s1 {
            CpuStorage::F32(_) => run::<f32>(&self.0, stores)?,
            CpuStorage::F64(_) => run::<f64>(&self.0, stores)?,
            other => bail!("{}: no CPU kernel for {:?}", self.name(), other.dtype()),
        };
        Ok((y, l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        p: &Tensor,
        g: &Tensor,
        _: &Tensor,
        u: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let op = &self.0;
        if !mode().keep_graph {
            return match x.dtype() {
                DType::F32 => second::<f32>(op, x, p, g, u),
                _ => second::<f64>(op, x, p, g, u),
            };
        }
        let (gamma, beta) = (p.narrow(0, 0, op.channels)?, p.narrow(0, op.channels, op.channels)?);
        let terms = Terms::new(op, x, &gamma, &beta)?;
        let (g, u) = (terms.split(g)?, terms.split(u)?);
        let slope = terms.slope()?;
        let k = (&g * &slope)?;
        let q = k.broadcast_mul(&terms.gamma)?;
        let w = terms.jacobian(&u)?;
        let gw = w.broadcast_mul(&terms.gamma)?;
        let dz = match terms.curvature()? {
            Some(curvature) => ((g * curvature)? * &gw)?,
            None => gw.zeros_like()?,
        };
        let dn = dz.broadcast_mul(&terms.gamma)?;
        let dx = (terms.jacobian(&dn)? + terms.hessian(&q, &u)?)?;
        let dgamma = terms.per_channel(&((w * k)? + (&dz * &terms.n)?)?)?;
        let dp = Tensor::cat(&[dgamma, terms.per_channel(&dz)?], 0)?;
        Ok((Some(dx.reshape(x.shape())?), Some(dp), Some((slope * gw)?.reshape(x.shape())?)))
    }
}

type Three = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

fn second<T: Real>(op: &Norm, x: &Tensor, p: &Tensor, g: &Tensor, u: &Tensor) -> Result<Three> {
    let d = with([x, p, g, u], |[x, p, g, u]: [&[T]; 4]| {
        let (gamma, beta) = p.split_at(op.channels);
        Ok(cpu::second(op, x, gamma, beta, g, u))
    })?;
    let dx = Tensor::from_vec(d.x, x.shape(), x.device())?;
    let dp = Tensor::from_vec(d.p, p.shape(), p.device())?;
    Ok((Some(dx), Some(dp), Some(Tensor::from_vec(d.g, g.shape(), g.device())?)))
}

/// The formulas of `kernel/norm.rs` in candle's ops, on `[B, groups, C / groups, pixels]`.
struct Terms {
    op: Norm,
    shape: Shape,
    n: Tensor,
    r: Tensor,
    z: Tensor,
    gamma: Tensor,
}

impl Terms {
    fn new(op: &Norm, x: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<Self> {
        let channel = |v: &Tensor| v.reshape((1, op.groups, op.channels / op.groups, 1));
        let (gamma, beta) = (channel(gamma)?, channel(beta)?);
        let split = x.contiguous()?.reshape((op.batch, op.groups, op.channels / op.groups, op.pixels))?;
        let centred = split.broadcast_sub(&mean(&split)?)?;
        let r = (mean(&centred.sqr()?)? + op.eps)?.sqrt()?.recip()?;
        let n = centred.broadcast_mul(&r)?;
        let z = n.broadcast_mul(&gamma)?.broadcast_add(&beta)?;
        Ok(Self { op: *op, shape: x.shape().clone(), n, r, z, gamma })
    }

    fn value(&self) -> Result<Tensor> {
        if self.op.silu { silu(&self.z)?.reshape(&self.shape) } else { self.z.reshape(&self.shape) }
    }

    /// f'(z).
    fn slope(&self) -> Result<Tensor> {
        if self.op.silu { silu_derivative(&self.z, 1) } else { self.z.ones_like() }
    }

    /// f''(z), if it is not zero everywhere.
    fn curvature(&self) -> Result<Option<Tensor>> {
        if self.op.silu { silu_derivative(&self.z, 2).map(Some) } else { Ok(None) }
    }

    fn split(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.reshape(self.n.shape())
    }

    /// J h.
    fn jacobian(&self, h: &Tensor) -> Result<Tensor> {
        let along = self.n.broadcast_mul(&mean(&(h * &self.n)?)?)?;
        (h.broadcast_sub(&mean(h)?)? - along)?.broadcast_mul(&self.r)
    }

    /// H(q, u).
    fn hessian(&self, q: &Tensor, u: &Tensor) -> Result<Tensor> {
        let (a, a_u) = (mean(q)?, mean(u)?);
        let (b, b_u) = (mean(&(q * &self.n)?)?, mean(&(u * &self.n)?)?);
        let c = ((mean(&(q * u)?)? - (&a * &a_u)?)? - ((&b * &b_u)? * 3.)?)?;
        let sum = (self.n.broadcast_mul(&c)? + q.broadcast_sub(&a)?.broadcast_mul(&b_u)?)?;
        (sum + u.broadcast_sub(&a_u)?.broadcast_mul(&b)?)?.broadcast_mul(&self.r.sqr()?.neg()?)
    }

    /// The sum over samples and pixels: `[C]`.
    fn per_channel(&self, x: &Tensor) -> Result<Tensor> {
        x.sum_keepdim((0, 3))?.reshape(self.op.channels)
    }
}

/// The mean over each group, dimensions kept.
fn mean(x: &Tensor) -> Result<Tensor> {
    let size = x.dim(2)? * x.dim(3)?;
    x.sum_keepdim((2, 3))? / size as f64
}
