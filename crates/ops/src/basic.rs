//! The ops that derivatives are put together from: sums, products, changes of shape. Any layout, any device.

use crate::kernel::{basic as cpu, native, read};
use crate::tape::{Backward, Op, Value, apply};
use candle_core::{Result, Shape, Tensor, bail};

impl Value {
    /// a + b, of one shape.
    pub fn add(&self, b: &Value) -> Result<Value> {
        same("add", self, b)?;
        apply(Add, &[self, b])
    }

    /// a - b, of one shape.
    pub fn sub(&self, b: &Value) -> Result<Value> {
        self.add(&b.affine(-1., 0.)?)
    }

    /// a b, number by number, of one shape.
    pub fn mul(&self, b: &Value) -> Result<Value> {
        same("mul", self, b)?;
        apply(Mul, &[self, b])
    }

    /// scale x + shift.
    pub fn affine(&self, scale: f64, shift: f64) -> Result<Value> {
        apply(Affine { scale, shift }, &[self])
    }

    /// x^p.
    pub fn powf(&self, p: f64) -> Result<Value> {
        apply(Power(p), &[self])
    }

    /// Repeated over the dimensions where it has size 1, to `shape` of the same rank.
    pub fn broadcast(&self, shape: impl Into<Shape>) -> Result<Value> {
        let to = shape.into();
        if &to == self.shape() {
            return Ok(self.clone());
        }
        repeats("broadcast", self.dims(), to.dims())?;
        apply(Broadcast { from: self.shape().clone(), to }, &[self])
    }

    /// The sum over the dimensions where `shape`, of the same rank, has size 1.
    pub fn sum_to(&self, shape: impl Into<Shape>) -> Result<Value> {
        let to = shape.into();
        if &to == self.shape() {
            return Ok(self.clone());
        }
        repeats("sum_to", to.dims(), self.dims())?;
        apply(SumTo { from: self.shape().clone(), to }, &[self])
    }

    /// The same numbers in row-major order in another shape.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Value> {
        let to = shape.into();
        if &to == self.shape() {
            return Ok(self.clone());
        }
        apply(Reshape { from: self.shape().clone(), to }, &[self])
    }

    /// With dimensions `i` and `j` exchanged.
    pub fn transpose(&self, i: usize, j: usize) -> Result<Value> {
        apply(Transpose(i, j), &[self])
    }

    /// `len` places of dimension `dim` from `start`.
    pub fn narrow(&self, dim: usize, start: usize, len: usize) -> Result<Value> {
        let Some(&all) = self.dims().get(dim) else { bail!("narrow: dimension {dim} of {:?}", self.dims()) };
        apply(Narrow { dim, start, len, all }, &[self])
    }

    /// One after the other along `dim`.
    pub fn cat(parts: &[&Value], dim: usize) -> Result<Value> {
        if parts.is_empty() {
            bail!("cat: no parts");
        }
        let mut sizes = vec![];
        for part in parts {
            let Some(&size) = part.dims().get(dim) else { bail!("cat: dimension {dim} of {:?}", part.dims()) };
            sizes.push(size);
        }
        apply(Cat { dim, sizes }, parts)
    }

    /// The sum over everything but the batch: `[B, ...] -> [B]`.
    pub fn sum_per_sample(&self) -> Result<Value> {
        let batch = self.dims().first().copied().unwrap_or(1);
        self.reshape((batch, self.shape().elem_count() / batch.max(1)))?.sum_to((batch, 1))?.reshape(batch)
    }
}

fn same(op: &str, a: &Value, b: &Value) -> Result<()> {
    if a.dims() != b.dims() || a.dtype() != b.dtype() {
        bail!("{op}: {:?} {:?} and {:?} {:?} do not go together", a.dims(), a.dtype(), b.dims(), b.dtype());
    }
    Ok(())
}

/// Whether `small`, repeated where it has size 1, has the shape `large`.
fn repeats(op: &str, small: &[usize], large: &[usize]) -> Result<()> {
    if small.len() != large.len() || small.iter().zip(large).any(|(s, l)| s != l && *s != 1) {
        bail!("{op}: {small:?} does not repeat to {large:?}; give as many sizes, each the same or 1");
    }
    Ok(())
}

struct Add;

impl Op for Add {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        if !native(x) {
            return x[0] + x[1];
        }
        read!(
            x,
            T,
            |x| cpu::zip(
                x[0],
                x[1],
                #[inline(always)]
                |a: T, b: T| a + b
            ),
            x[0].shape()
        )
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        Ok(vec![at.wanted(0, || Ok(at.g.clone()))?, at.wanted(1, || Ok(at.g.clone()))?])
    }
}

struct Mul;

impl Op for Mul {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        if !native(x) {
            return x[0] * x[1];
        }
        read!(
            x,
            T,
            |x| cpu::zip(
                x[0],
                x[1],
                #[inline(always)]
                |a: T, b: T| a * b
            ),
            x[0].shape()
        )
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let [a, b] = [&at.inputs[0], &at.inputs[1]];
        Ok(vec![at.wanted(0, || at.g.mul(b))?, at.wanted(1, || at.g.mul(a))?])
    }
}

struct Affine {
    scale: f64,
    shift: f64,
}

impl Op for Affine {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        x[0].affine(self.scale, self.shift)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        Ok(vec![at.wanted(0, || at.g.affine(self.scale, 0.))?])
    }
}

struct Power(f64);

impl Op for Power {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        x[0].powf(self.0)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let slope = || match self.0 {
            0. => at.g.affine(0., 0.), // at 0 too
            p => at.g.mul(&at.inputs[0].powf(p - 1.)?.affine(p, 0.)?),
        };
        Ok(vec![at.wanted(0, slope)?])
    }
}

struct Broadcast {
    from: Shape,
    to: Shape,
}

impl Op for Broadcast {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        x[0].broadcast_as(&self.to)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        Ok(vec![at.wanted(0, || at.g.sum_to(&self.from))?])
    }
}

struct SumTo {
    from: Shape,
    to: Shape,
}

impl Op for SumTo {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        if native(x) {
            return read!(x, T, |x| cpu::sum_to::<T>(x[0], self.from.dims(), self.to.dims()), &self.to);
        }
        let sizes = self.from.dims().iter().zip(self.to.dims()).enumerate();
        let dims: Vec<usize> = sizes.filter(|(_, (from, to))| from != to).map(|(i, _)| i).collect();
        x[0].sum_keepdim(dims)?.reshape(&self.to)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        Ok(vec![at.wanted(0, || at.g.broadcast(&self.from))?])
    }
}

struct Reshape {
    from: Shape,
    to: Shape,
}

impl Op for Reshape {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        x[0].reshape(&self.to)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        Ok(vec![at.wanted(0, || at.g.reshape(&self.from))?])
    }
}

struct Transpose(usize, usize);

impl Op for Transpose {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        x[0].transpose(self.0, self.1)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        Ok(vec![at.wanted(0, || at.g.transpose(self.0, self.1))?])
    }
}

struct Narrow {
    dim: usize,
    start: usize,
    len: usize,
    all: usize,
}

impl Op for Narrow {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        x[0].narrow(self.dim, self.start, self.len)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let Self { dim, start, len, all } = *self;
        Ok(vec![at.wanted(0, || apply(Pad { dim, start, len, all }, &[at.g]))?])
    }
}

/// The transpose of [`Narrow`].
struct Pad {
    dim: usize,
    start: usize,
    len: usize,
    all: usize,
}

impl Op for Pad {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        x[0].pad_with_zeros(self.dim, self.start, self.all - self.start - self.len)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        Ok(vec![at.wanted(0, || at.g.narrow(self.dim, self.start, self.len))?])
    }
}

struct Cat {
    dim: usize,
    sizes: Vec<usize>,
}

impl Op for Cat {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        if !native(x) {
            return Tensor::cat(x, self.dim);
        }
        let mut dims = x[0].dims().to_vec();
        let outer = dims[..self.dim].iter().product();
        for other in &x[1..] {
            let fits = |(i, (a, b)): (usize, (&usize, &usize))| i == self.dim || a == b;
            if other.rank() != dims.len() || !dims.iter().zip(other.dims()).enumerate().all(fits) {
                bail!("cat: {dims:?} and {:?} along dimension {}", other.dims(), self.dim);
            }
        }
        dims[self.dim] = self.sizes.iter().sum();
        read!(x, T, |x| cpu::cat::<T>(x, outer), dims)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let mut start = 0;
        let of = |(i, &len): (usize, &usize)| {
            start += len;
            at.wanted(i, || at.g.narrow(self.dim, start - len, len))
        };
        self.sizes.iter().enumerate().map(of).collect()
    }
}
