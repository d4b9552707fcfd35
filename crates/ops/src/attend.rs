//! Softmax and attention, twice differentiable by kernels and to any order by composition.

use crate::grad::{cut, mode};
use crate::kernel::product as cpu;
use crate::kernel::{Real, dense, native};
use crate::product::product;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor, bail};

/// Softmax over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if x.rank() == 0 || x.elem_count() == 0 {
        bail!("softmax: nothing to sum over in a tensor of shape {:?}", x.dims());
    }
    if native(&[x]) {
        return x.apply_op1(Softmax);
    }
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

/// softmax(scale q k^T) v: `q` `[B, heads, N, D]`, `k` `[B, heads, M, D]`, `v` `[B, heads, M, E]` -> `[B, heads, N, E]`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    let scores = product(&(q * scale)?, k, [false, true])?; // [B, heads, N, M]
    product(&softmax(&scores)?, v, [false, false])
}

/// Runs a row kernel of `N` arguments of one shape.
fn run<const N: usize>(stores: [(&CpuStorage, &Layout); N], op: Rows) -> Result<(CpuStorage, Shape)> {
    fn typed<T: Real, const N: usize>(stores: [(&CpuStorage, &Layout); N], op: Rows) -> Result<CpuStorage> {
        let n = stores[0].1.dims().last().copied().unwrap_or(1);
        let all = stores.iter().map(|(s, l)| dense::<T>(s, l)).collect::<Result<Vec<_>>>()?;
        Ok(T::to_cpu_storage_owned(match (op, &all[..]) {
            (Rows::Value, [x]) => cpu::softmax(n, x),
            (Rows::Slope, [y, g]) => cpu::softmax_slope(n, y, g),
            (Rows::Bend, [y, g, u]) => cpu::softmax_bend(n, y, g, u),
            _ => bail!("softmax: {N} arguments"),
        }))
    }
    let y = match stores[0].0 {
        CpuStorage::F32(_) => typed::<f32, N>(stores, op)?,
        CpuStorage::F64(_) => typed::<f64, N>(stores, op)?,
        other => bail!("softmax: no CPU kernel for {:?}", other.dtype()),
    };
    Ok((y, stores[0].1.shape().clone()))
}

#[derive(Clone, Copy)]
enum Rows {
    Value,
    Slope,
    Bend,
}

/// <a, b> of each row.
fn dot(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    (a * b)?.sum_keepdim(D::Minus1)
}

/// y = softmax(x).
struct Softmax;

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        run([(s, l)], Rows::Value)
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(cut(y).apply_op2(&cut(g), Slope)?))
    }
}

/// y (g - <g, y>) of (y, g).
struct Slope;

impl CustomOp2 for Slope {
    fn name(&self) -> &'static str {
        "softmax_grad"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        run([(s1, l1), (s2, l2)], Rows::Slope)
    }

    fn bwd(&self, y: &Tensor, g: &Tensor, _: &Tensor, u: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (y_cut, g_cut, u) = (cut(y), cut(g), cut(u));
        let for_y = || y_cut.apply_op3(&g_cut, &u, Bend);
        let for_g = || y_cut.apply_op2(&u, Slope);
        Ok((y.track_op().then(for_y).transpose()?, g.track_op().then(for_g).transpose()?))
    }
}

/// u g - u <g, y> - g <u, y> of (y, g, u).
struct Bend;

impl CustomOp3 for Bend {
    fn name(&self) -> &'static str {
        "softmax_grad_grad"
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
        run([(s1, l1), (s2, l2), (s3, l3)], Rows::Bend)
    }

    fn bwd(
        &self,
        y: &Tensor,
        g: &Tensor,
        u: &Tensor,
        _: &Tensor,
        h: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        debug_assert!(mode().keep_graph || !h.track_op());
        let (y, g, u, h) = (&cut(y), &cut(g), &cut(u), &cut(h));
        let (hu, hg) = (dot(h, u)?, dot(h, g)?);
        // d/dy: -<h, u> g - <h, g> u;  d/dg: h u - <h, u> y - h <u, y>;  and the same for u
        let for_y = (g.broadcast_mul(&hu)? + u.broadcast_mul(&hg)?)?.neg()?;
        let other = |v: &Tensor, hv: &Tensor| ((h * v)? - y.broadcast_mul(hv)?)? - h.broadcast_mul(&dot(v, y)?)?;
        Ok((Some(for_y), Some(other(u, &hu)?), Some(other(g, &hg)?)))
    }
}
