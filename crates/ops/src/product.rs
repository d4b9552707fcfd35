//! Batched matrix products of any layout, closed under differentiation: y = scale A B with A = a or a^T, B = b or b^T.

use crate::kernel::bits::product as run_bits;
use crate::kernel::product::{Matrices, product as run};
use crate::kernel::{Real, native, with};
use crate::tape::{Backward, Op, Value, apply};
use candle_core::{D, DType, Result, Storage, Tensor, bail};

/// scale A B of the last two dimensions, `a` and `b` transposed first where said; equal dimensions before.
pub(crate) fn product(a: &Value, b: &Value, transposed: [bool; 2], scale: f64) -> Result<Value> {
    let op = Product { transposed, scale, bits: false };
    op.sizes(a.dims(), b.dims())?;
    apply(op, &[a, b])
}

/// A B + bias of two matrices and a row `[1, N]`, fast if the numbers of `a` are 0 and 1.
pub(crate) fn product_of_bits(a: &Value, b: &Value, transposed: [bool; 2], bias: Option<&Value>) -> Result<Value> {
    let op = Product { transposed, scale: 1., bits: true };
    op.sizes(a.dims(), b.dims())?;
    apply(op, &[Some(a), Some(b), bias].into_iter().flatten().collect::<Vec<_>>())
}

#[derive(Clone, Copy)]
struct Product {
    transposed: [bool; 2],
    scale: f64,
    /// Whether `a` is a matrix of bits, as far as anyone knows.
    bits: bool,
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

    fn native<T: Real>(&self, x: &[&Tensor]) -> Result<Tensor> {
        let (a, b) = (x[0], x[1]);
        let (batch, sizes) = self.sizes(a.dims(), b.dims())?;
        let ((sa, la), (sb, lb)) = (a.storage_and_layout(), b.storage_and_layout());
        let (Storage::Cpu(sa), Storage::Cpu(sb)) = (&*sa, &*sb) else {
            bail!("matrix product: a CPU kernel was given a tensor of another device");
        };
        let first = Matrices::new(T::cpu_storage_as_slice(sa)?, la, self.transposed[0]);
        let second = Matrices::new(T::cpu_storage_as_slice(sb)?, lb, self.transposed[1]);
        let mut dims = a.dims()[..a.rank() - 2].to_vec();
        dims.extend([sizes.0, sizes.1]);
        let c = match (self.bits, a.rank()) {
            (true, 2) => with::<T, _>(&x[2..], |bias| Ok(run_bits(sizes, &first, &second, bias.first().copied())))?,
            _ => run(batch, sizes, &first, &second, T::from_f64(self.scale)),
        };
        Tensor::from_vec(c, dims, a.device())
    }
}

impl Op for Product {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        if native(x) {
            return match x[0].dtype() {
                DType::F32 => self.native::<f32>(x),
                _ => self.native::<f64>(x),
            };
        }
        let turned = |i: usize| {
            let t = if self.transposed[i] { x[i].transpose(D::Minus2, D::Minus1)? } else { x[i].clone() };
            t.contiguous()
        };
        let y = (turned(0)?.matmul(&turned(1)?)? * self.scale)?;
        x.get(2).map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let Self { transposed: [ta, tb], scale, .. } = *self;
        let (a, b, h) = (&at.inputs[0], &at.inputs[1], at.g);
        // dA = h B^T, dB = A^T h
        let for_a = || if ta { product(b, h, [tb, true], scale) } else { product(h, b, [false, !tb], scale) };
        let for_b = || if tb { product(h, a, [true, ta], scale) } else { product(a, h, [!ta, false], scale) };
        let mut grads = vec![at.wanted(0, for_a)?, at.wanted(1, for_b)?];
        if let Some(bias) = at.inputs.get(2) {
            grads.push(at.wanted(2, || h.sum_to(bias.shape().clone()))?);
        }
        Ok(grads)
    }
}
