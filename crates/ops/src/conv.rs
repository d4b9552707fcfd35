//! 2-D convolution, its input gradient and its weight gradient: three bilinear ops, closed under differentiation.
//!
//! All three are partial derivatives of the trilinear T(x, w, g) = <conv(x, w), g>, so the backward pass of each is
//! written with the other two, and any order of derivative costs only their kernels.

use crate::kernel::conv::{self as cpu, Bias, Plan};
use crate::kernel::{native, read};
use crate::tape::{Backward, Op, Operand, Value, apply};
use candle_core::{Result, Shape, Tensor, bail};

/// Stride and zero padding of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Step of the kernel, in both directions.
    pub stride: usize,
    /// Zeros added at the top, bottom, left and right.
    pub pad: [usize; 4],
}

impl Geometry {
    /// Stride 1 and the padding that keeps height and width under an odd kernel of `size`.
    pub fn same(size: usize) -> Self {
        Self { stride: 1, pad: [size / 2; 4] }
    }
}

/// Convolution of `x` `[B, C, H, W]` with `w` `[O, C, kh, kw]`, plus `bias` -> `[B, O, H', W']`.
///
/// `bias` is `[O]`, or `[B, O]` for one a sample: a convolution's bias plus a time embedding costs nothing more.
pub fn conv2d<T: Operand>(x: &T, w: &T, bias: Option<&T>, geometry: Geometry) -> Result<T> {
    T::from_value(conv(&x.value(), &w.value(), bias.map(T::value).as_ref(), None, geometry)?)
}

/// As [`conv2d`], plus `more` of the shape of the result: a residual sum in the same pass over memory.
pub fn conv2d_add<T: Operand>(x: &T, w: &T, bias: Option<&T>, more: &T, geometry: Geometry) -> Result<T> {
    T::from_value(conv(&x.value(), &w.value(), bias.map(T::value).as_ref(), Some(&more.value()), geometry)?)
}

fn conv(x: &Value, w: &Value, bias: Option<&Value>, more: Option<&Value>, geometry: Geometry) -> Result<Value> {
    let plan = plan("conv2d", x.dims(), w.dims(), geometry)?;
    let per_sample = match bias.map(Value::dims) {
        Some([o]) if *o == plan.outputs => Some(false),
        Some([b, o]) if *b == plan.batch && *o == plan.outputs => Some(true),
        None => None,
        Some(dims) => {
            bail!("conv2d: a bias of shape {dims:?} for {} samples and {} outputs", plan.batch, plan.outputs)
        }
    };
    if let Some(dims) = more.map(Value::dims).filter(|dims| *dims != plan.output_dims().dims()) {
        bail!("conv2d: a sum of shape {dims:?} with an output {:?}", plan.output_dims());
    }
    let inputs: Vec<&Value> = [x, w].into_iter().chain(bias).chain(more).collect();
    apply(Conv { plan, per_sample }, &inputs)
}

/// The gradient of <conv2d(x, w), g> with respect to x, of height and width `size`: `[B, C, H, W]`.
///
/// `g` is `[B, O, H', W']`, `w` `[O, C, kh, kw]`.
pub fn conv2d_input_grad<T: Operand>(g: &T, w: &T, size: (usize, usize), geometry: Geometry) -> Result<T> {
    let (g, w) = (g.value(), w.value());
    let channels = w.dims().get(1).copied().unwrap_or(0);
    let x = [g.dims().first().copied().unwrap_or(0), channels, size.0, size.1];
    let plan = plan("conv2d_input_grad", &x, w.dims(), geometry)?;
    plan.check_output("conv2d_input_grad", &g)?;
    T::from_value(apply(InputGrad(plan), &[&g, &w])?)
}

/// The gradient of <conv2d(x, w), g> with respect to w, a kernel of `size`: `[O, C, kh, kw]`.
///
/// `x` is `[B, C, H, W]`, `g` `[B, O, H', W']`.
pub fn conv2d_weight_grad<T: Operand>(x: &T, g: &T, size: (usize, usize), geometry: Geometry) -> Result<T> {
    let (x, g) = (x.value(), g.value());
    let channels = |v: &Value| v.dims().get(1).copied().unwrap_or(0);
    let plan = plan("conv2d_weight_grad", x.dims(), &[channels(&g), channels(&x), size.0, size.1], geometry)?;
    plan.check_output("conv2d_weight_grad", &g)?;
    T::from_value(apply(WeightGrad(plan), &[&x, &g])?)
}

fn plan(op: &str, x: &[usize], w: &[usize], Geometry { stride, pad }: Geometry) -> Result<Plan> {
    let (&[batch, channels, height, width], &[outputs, c, kh, kw]) = (x, w) else {
        bail!("{op}: expected x [B, C, H, W] and w [O, C, kh, kw], got {x:?} and {w:?}");
    };
    if c != channels {
        bail!("{op}: the input has {channels} channels, the weight takes {c} (x {x:?}, w {w:?})");
    }
    if stride == 0 {
        bail!("{op}: the stride is 0; it must be at least 1");
    }
    let [top, bottom, left, right] = pad;
    let (high, wide) = (height + top + bottom, width + left + right);
    if kh == 0 || kw == 0 || high < kh || wide < kw {
        bail!("{op}: a {kh}x{kw} kernel does not fit on an input of {height}x{width} with padding {pad:?}");
    }
    let out = [(high - kh) / stride + 1, (wide - kw) / stride + 1];
    Ok(Plan { batch, channels, height, width, outputs, kernel: [kh, kw], stride, pad, out })
}

impl Plan {
    fn input_dims(&self) -> Shape {
        Shape::from((self.batch, self.channels, self.height, self.width))
    }

    fn weight_dims(&self) -> Shape {
        Shape::from((self.outputs, self.channels, self.kernel[0], self.kernel[1]))
    }

    fn output_dims(&self) -> Shape {
        Shape::from((self.batch, self.outputs, self.out[0], self.out[1]))
    }

    fn check_output(&self, op: &str, g: &Value) -> Result<()> {
        if g.shape() != &self.output_dims() {
            bail!("{op}: expected an output gradient of shape {:?}, got {:?}", self.output_dims(), g.dims());
        }
        Ok(())
    }
}

/// conv(x, w) + bias + more, of (x, w) and what there is of the others.
struct Conv {
    plan: Plan,
    /// Whether the bias is one a sample, if there is one.
    per_sample: Option<bool>,
}

impl Op for Conv {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        let plan = &self.plan;
        let more = 2 + usize::from(self.per_sample.is_some());
        if native(x) {
            return read!(
                x,
                T,
                |x| {
                    let bias = match self.per_sample {
                        None => Bias::None,
                        Some(false) => Bias::Channel(x[2]),
                        Some(true) => Bias::Sample(x[2]),
                    };
                    cpu::forward::<T>(plan, x[0], x[1], bias, x.get(more).copied())
                },
                plan.output_dims()
            );
        }
        let mut y = composed_output(plan, x[0], x[1])?;
        if self.per_sample.is_some() {
            y = y.broadcast_add(&x[2].reshape(((), plan.outputs, 1, 1))?)?;
        }
        if let Some(more) = x.get(more) { y + *more } else { Ok(y) }
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let (x, w, g) = (&at.inputs[0], &at.inputs[1], at.g);
        let mut grads = vec![
            at.wanted(0, || input_grad(self.plan, g, w, at.so_far(0)))?,
            at.wanted(1, || apply(WeightGrad(self.plan), &[x, g]))?,
        ];
        if let Some(per_sample) = self.per_sample {
            let sum = || apply(Channels { plan: self.plan, per_sample, sum: true }, &[g]);
            grads.push(at.wanted(2, sum)?);
        }
        if at.inputs.len() > grads.len() {
            grads.push(at.wanted(grads.len(), || Ok(g.clone()))?);
        }
        Ok(grads)
    }
}

fn output(plan: Plan, x: &Value, w: &Value, more: Option<Value>) -> Result<Value> {
    apply(Conv { plan, per_sample: None }, &[x, w].into_iter().chain(&more).collect::<Vec<_>>())
}

fn input_grad(plan: Plan, g: &Value, w: &Value, more: Option<Value>) -> Result<Value> {
    apply(InputGrad(plan), &[g, w].into_iter().chain(&more).collect::<Vec<_>>())
}

/// The derivative of T(x, w, g) by x, of (g, w), plus a third argument if there is one.
struct InputGrad(Plan);

impl Op for InputGrad {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        if !native(x) {
            let y = composed_input(&self.0, x[0], x[1])?;
            return if let Some(more) = x.get(2) { y + *more } else { Ok(y) };
        }
        read!(x, T, |x| cpu::input_grad::<T>(&self.0, x[0], x[1], x.get(2).copied()), self.0.input_dims())
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let (g, w, h) = (&at.inputs[0], &at.inputs[1], at.g);
        let mut grads = vec![
            at.wanted(0, || output(self.0, h, w, at.so_far(0)))?,
            at.wanted(1, || apply(WeightGrad(self.0), &[h, g]))?,
        ];
        if at.inputs.len() > 2 {
            grads.push(at.wanted(2, || Ok(h.clone()))?);
        }
        Ok(grads)
    }
}

/// The derivative of T(x, w, g) by w, of (x, g).
struct WeightGrad(Plan);

impl Op for WeightGrad {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        if !native(x) {
            return composed_weight(&self.0, x[0], x[1]);
        }
        read!(x, T, |x| cpu::weight_grad::<T>(&self.0, x[0], x[1]), self.0.weight_dims())
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        let (x, g, h) = (&at.inputs[0], &at.inputs[1], at.g);
        Ok(vec![
            at.wanted(0, || input_grad(self.0, g, h, at.so_far(0)))?,
            at.wanted(1, || output(self.0, x, h, at.so_far(1)))?,
        ])
    }
}

/// The sum over pixels (and samples), or its transpose, which repeats a number over them.
#[derive(Clone, Copy)]
struct Channels {
    plan: Plan,
    per_sample: bool,
    sum: bool,
}

impl Op for Channels {
    fn forward(&self, x: &[&Tensor]) -> Result<Tensor> {
        let Plan { batch, outputs, .. } = self.plan;
        let to = match (self.sum, self.per_sample) {
            (true, true) => Shape::from((batch, outputs)),
            (true, false) => Shape::from(outputs),
            (false, _) => self.plan.output_dims(),
        };
        if native(x) {
            return read!(
                x,
                T,
                |x| {
                    let f = if self.sum { cpu::channel_sum::<T> } else { cpu::channel_spread::<T> };
                    f(x[0], (batch, outputs, self.plan.pixels()), self.per_sample)
                },
                to
            );
        }
        match (self.sum, self.per_sample) {
            (true, true) => x[0].sum((2, 3)),
            (true, false) => x[0].sum((0, 2, 3)),
            (false, _) => x[0].reshape(((), outputs, 1, 1))?.broadcast_as(to)?.contiguous(),
        }
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Value>>> {
        Ok(vec![at.wanted(0, || apply(Self { sum: !self.sum, ..*self }, &[at.g]))?])
    }
}

/// The input with its padding, cut to what the kernel reads: so that candle's own backward is right for any parity.
fn padded(plan: &Plan, x: &Tensor) -> Result<Tensor> {
    let [top, bottom, left, right] = plan.pad;
    let [high, wide] = used(plan);
    x.pad_with_zeros(2, top, bottom)?
        .pad_with_zeros(3, left, right)?
        .narrow(2, 0, high)?
        .narrow(3, 0, wide)?
        .contiguous()
}

/// Height and width of the padded input that the kernel reads.
fn used(plan: &Plan) -> [usize; 2] {
    [0, 1].map(|i| (plan.out[i] - 1) * plan.stride + plan.kernel[i])
}

fn composed_output(plan: &Plan, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    padded(plan, x)?.conv2d(&w.contiguous()?, 0, plan.stride, 1, 1)
}

fn composed_input(plan: &Plan, g: &Tensor, w: &Tensor) -> Result<Tensor> {
    let x = g.contiguous()?.conv_transpose2d(&w.contiguous()?, 0, 0, plan.stride, 1)?;
    let [top, bottom, left, right] = plan.pad;
    let [high, wide] = used(plan);
    let (height, width) = (plan.height + top + bottom, plan.width + left + right);
    x.pad_with_zeros(2, 0, height - high)?
        .pad_with_zeros(3, 0, width - wide)?
        .narrow(2, top, plan.height)?
        .narrow(3, left, plan.width)?
        .contiguous()
}

fn composed_weight(plan: &Plan, x: &Tensor, g: &Tensor) -> Result<Tensor> {
    let x = padded(plan, x)?.transpose(0, 1)?.contiguous()?;
    x.conv2d(&g.transpose(0, 1)?.contiguous()?, 0, 1, plan.stride, 1)?.transpose(0, 1)?.contiguous()
}
