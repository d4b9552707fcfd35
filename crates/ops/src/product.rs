//! Batched matrix products of any layout, closed under differentiation: y = A B with A = a or a^T, B = b or b^T.

use crate::grad::{cut, wants};
use crate::kernel::product::{Matrices, product as run};
use crate::kernel::{Real, native};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor, bail};

/// A B of the last two dimensions, `a` and `b` transposed first where said; equal dimensions before.
pub(crate) fn product(a: &Tensor, b: &Tensor, transposed: [bool; 2]) -> Result<Tensor> {
    let op = Product { transposed };
    op.sizes(a.dims(), b.dims())?;
    if native(&[a, b]) {
        return a.apply_op2(b, op);
    }
    let turned = |t: &Tensor, turn: bool| if turn { t.transpose(D::Minus2, D::Minus1) } else { Ok(t.clone()) };
    turned(a, transposed[0])?.contiguous()?.matmul(&turned(b, transposed[1])?.contiguous()?)
}

#[derive(Clone, Copy)]
struct Product {
    transposed: [bool; 2],
}

impl Product {
    /// Number of matrices, and rows, columns and terms of the product.
    fn sizes(&self, a: &[usize], b: &[usize]) -> Result<(usize, (usize, usize, usize))> {
        let (ra, rb) = (a.len(), b.len());
        if ra < 2 || ra != rb || a[..ra - 2] != b[..rb - 2] {
            bail!("matrix product: shapes {a:?} and {b:?} do not go together");
        }
        let of = |d: &[usize], turn: bool| if turn { (d[1], d[0]) } else { (d[0], d[1]) };
        let (m, k) = of(&a[ra - 2..], self.transposed[0]);
        let (l, n) = of(&b[rb - 2..], self.transposed[1]);
        if k != l {
            bail!("matrix product: shapes {a:?} and {b:?} do not go together: {k} columns times {l} rows");
        }
        Ok((a[..ra - 2].iter().product(), (m, n, k)))
    }
}

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "matrix product"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, sizes) = self.sizes(l1.dims(), l2.dims())?;
        fn typed<T: Real>(
            op: &Product,
            batch: usize,
            sizes: (usize, usize, usize),
            (s1, l1): (&CpuStorage, &Layout),
            (s2, l2): (&CpuStorage, &Layout),
        ) -> Result<CpuStorage> {
            let a = Matrices::new(T::cpu_storage_as_slice(s1)?, l1, op.transposed[0]);
            let b = Matrices::new(T::cpu_storage_as_slice(s2)?, l2, op.transposed[1]);
            Ok(T::to_cpu_storage_owned(run(batch, sizes, &a, &b)))
        }
        let y = match s1 {
            CpuStorage::F32(_) => typed::<f32>(self, batch, sizes, (s1, l1), (s2, l2))?,
            CpuStorage::F64(_) => typed::<f64>(self, batch, sizes, (s1, l1), (s2, l2))?,
            other => bail!("matrix product: no CPU kernel for {:?}", other.dtype()),
        };
        let mut dims = l1.dims()[..l1.dims().len() - 2].to_vec();
        dims.extend([sizes.0, sizes.1]);
        Ok((y, dims.into()))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, h: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [ta, tb] = self.transposed;
        let (a_cut, b_cut, h) = (cut(a), cut(b), cut(h));
        // dA = h B^T, dB = A^T h
        let for_a = || if ta { product(&b_cut, &h, [tb, true]) } else { product(&h, &b_cut, [false, !tb]) };
        let for_b = || if tb { product(&h, &a_cut, [true, ta]) } else { product(&a_cut, &h, [!ta, false]) };
        Ok((wants(a).then(for_a).transpose()?, wants(b).then(for_b).transpose()?))
    }
}
