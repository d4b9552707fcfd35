//! Batched matrix products of any layout, closed under differentiation: y = scale A B with A = a or a^T, B = b or b^T.

use crate::kernel::bits::product as run_bits;
use crate::kernel::product::{Matrices, product as run};
use crate::kernel::{Real, native};
use crate::tape::{Backward, Op, Value, apply};
use candle_core::{D, DType, Result, Storage, Tensor, bail};

/// scale A B of the last two dimensions, `a` and `b` transposed first where said; equal dimensions before.
pub(crate) fn product(a: &Value, b: &Value, transposed: [bool; 2], scale: f64) -> Result<Value> {
    multiplied(Product { transposed, scale, bits: false }, a, b)
}

/// A B of two matrices, fast if the numbers of `a` are 0 and 1.
pub(crate) fn product_of_bits(a: &Value, b: &Value, transposed: [bool; 2]) -> Result<Value> {
    multiplied(Product { transposed, scale: 1., bits: true }, a, b)
}

fn multiplied(op: Product, a: &Value, b: &Value) -> Result<Value> {
    op.sizes(a.dims(), b.dims())?;
    apply(op, &[a, b])
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

    fn native<T: Real>(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
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
            (true, 2) => run_bits(sizes, &first, &second),
            _ => run(batch, sizes, &first, &second, T::from_f64(self.scale)),
        };
        Tensor::from_vec(c, dims, a.device())
    }
}

impl Op for Product {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        if native(x) {
            return match x[0].dtype() {
                DType::F32 => self.native::<f32>(x[0], x[1]),
                _ => self.native::<f64>(x[0], x[1]),
            };
        }
        let turned = |i: usize| {
            let t = if self.transposed[i] { x[i].transpose(D::Minus2, D::Minus1)? } else { x[i].clone() };
            t.contiguous()
        };
        turned(0)?.matmul(&turned(1)?)? * self.scale
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let Self { transposed: [ta, tb], scale, .. } = *self;
        let (a, b, h) = (&at.inputs[0], &at.inputs[1], at.g);
        // dA = h B^T, dB = A^T h
        let for_a = || if ta { product(b, h, [tb, true], scale) } else { product(h, b, [false, !tb], scale) };
        let for_b = || if tb { product(h, a, [true, ta], scale) } else { product(a, h, [!ta, false], scale) };
        Ok(vec![at.wanted(0, for_a)?, at.wanted(1, for_b)?])
    }
}
