//! 2-D convolution, its input gradient and its weight gradient: three bilinear ops, closed under differentiation.
//!
//! All three are partial derivatives of the trilinear T(x, w, g) = <conv(x, w), g>, so the backward pass of each is
//! written with the other two, and any order of derivative costs only their kernels.

use crate::grad::{cut, wants};
use crate::kernel::conv::{self as cpu, Bias, Plan};
use crate::kernel::{Real, dense, native};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

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
pub fn conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, geometry: Geometry) -> Result<Tensor> {
    let plan = plan("conv2d", x.dims(), w.dims(), geometry)?;
    let per_sample = match bias.map(Tensor::dims) {
        Some([o]) if *o == plan.outputs => false,
        Some([b, o]) if *b == plan.batch && *o == plan.outputs => true,
        None => false,
        Some(dims) => {
            bail!("conv2d: a bias of shape {dims:?} for {} samples and {} outputs", plan.batch, plan.outputs)
        }
    };
    match bias {
        None => trilinear(Part::Output, plan, x, w),
        Some(b) if native(&[x, w, b]) => x.apply_op3(w, b, Biased { plan, per_sample }),
        Some(b) => {
            let y = trilinear(Part::Output, plan, x, w)?;
            y.broadcast_add(&b.reshape(((), plan.outputs, 1, 1))?)
        }
    }
}

/// The gradient of <conv2d(x, w), g> with respect to x, of height and width `size`: `[B, C, H, W]`.
///
/// `g` is `[B, O, H', W']`, `w` `[O, C, kh, kw]`.
pub fn conv2d_input_grad(g: &Tensor, w: &Tensor, size: (usize, usize), geometry: Geometry) -> Result<Tensor> {
    let (x, w_dims) = ([g.dims().first().copied().unwrap_or(0), w.dims4()?.1, size.0, size.1], w.dims());
    let plan = plan("conv2d_input_grad", &x, w_dims, geometry)?;
    plan.check_output("conv2d_input_grad", g)?;
    trilinear(Part::Input, plan, g, w)
}

/// The gradient of <conv2d(x, w), g> with respect to w, a kernel of `size`: `[O, C, kh, kw]`.
///
/// `x` is `[B, C, H, W]`, `g` `[B, O, H', W']`.
pub fn conv2d_weight_grad(x: &Tensor, g: &Tensor, size: (usize, usize), geometry: Geometry) -> Result<Tensor> {
    let w = [g.dims4()?.1, x.dims4()?.1, size.0, size.1];
    let plan = plan("conv2d_weight_grad", x.dims(), &w, geometry)?;
    plan.check_output("conv2d_weight_grad", g)?;
    trilinear(Part::Weight, plan, x, g)
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
    fn input_dims(&self) -> [usize; 4] {
        [self.batch, self.channels, self.height, self.width]
    }

    fn weight_dims(&self) -> [usize; 4] {
        [self.outputs, self.channels, self.kernel[0], self.kernel[1]]
    }

    fn output_dims(&self) -> [usize; 4] {
        [self.batch, self.outputs, self.out[0], self.out[1]]
    }

    fn check_output(&self, op: &str, g: &Tensor) -> Result<()> {
        if g.dims() != self.output_dims() {
            bail!("{op}: expected an output gradient of shape {:?}, got {:?}", self.output_dims(), g.dims());
        }
        Ok(())
    }
}

/// With respect to which argument of T(x, w, g) an op is the derivative.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// conv(x, w)
    Output,
    /// input_grad(g, w)
    Input,
    /// weight_grad(x, g)
    Weight,
}

#[derive(Clone, Copy)]
struct Trilinear {
    part: Part,
    plan: Plan,
}

fn trilinear(part: Part, plan: Plan, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if native(&[a, b]) {
        return a.apply_op2(b, Trilinear { part, plan });
    }
    match part {
        Part::Output => composed_output(&plan, a, b),
        Part::Input => composed_input(&plan, a, b),
        Part::Weight => composed_weight(&plan, a, b),
    }
}

fn run<T: Real>(op: &Trilinear, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<CpuStorage> {
    let (a, b) = (dense::<T>(s1, l1)?, dense::<T>(s2, l2)?);
    Ok(T::to_cpu_storage_owned(match op.part {
        Part::Output => cpu::forward(&op.plan, &a, &b, Bias::None, None),
        Part::Input => cpu::input_grad(&op.plan, &a, &b, None),
        Part::Weight => cpu::weight_grad(&op.plan, &a, &b),
    }))
}

impl CustomOp2 for Trilinear {
    fn name(&self) -> &'static str {
        match self.part {
            Part::Output => "conv2d",
            Part::Input => "conv2d_input_grad",
            Part::Weight => "conv2d_weight_grad",
        }
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = match s1 {
            CpuStorage::F32(_) => run::<f32>(self, s1, l1, s2, l2)?,
            CpuStorage::F64(_) => run::<f64>(self, s1, l1, s2, l2)?,
            other => bail!("{}: no CPU kernel for {:?}", self.name(), other.dtype()),
        };
        let shape = match self.part {
            Part::Output => self.plan.output_dims(),
            Part::Input => self.plan.input_dims(),
            Part::Weight => self.plan.weight_dims(),
        };
        Ok((y, Shape::from(&shape)))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, h: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (cut_a, cut_b, h) = (cut(a), cut(b), cut(h));
        let part = |part, a: &Tensor, b: &Tensor| trilinear(part, self.plan, a, b);
        let for_a = || match self.part {
            Part::Output => part(Part::Input, &h, &cut_b), // d/dx at (w, g = h)
            Part::Input => part(Part::Output, &h, &cut_b), // d/dg at (x = h, w)
            Part::Weight => part(Part::Input, &cut_b, &h), // d/dx at (g, w = h)
        };
        let for_b = || match self.part {
            Part::Output => part(Part::Weight, &cut_a, &h), // d/dw at (x, g = h)
            Part::Input => part(Part::Weight, &h, &cut_a),  // d/dw at (x = h, g)
            Part::Weight => part(Part::Output, &cut_a, &h), // d/dg at (x, w = h)
        };
        Ok((wants(a).then(for_a).transpose()?, wants(b).then(for_b).transpose()?))
    }
}

/// conv(x, w) + bias, `bias` being `[O]` or `[B, O]`.
struct Biased {
    plan: Plan,
    per_sample: bool,
}

impl Biased {
    fn run<T: Real>(&self, stores: [(&CpuStorage, &Layout); 3]) -> Result<CpuStorage> {
        let [x, w, b] = stores.map(|(s, l)| dense::<T>(s, l));
        let b = b?;
        let bias = if self.per_sample { Bias::Sample(&b) } else { Bias::Channel(&b) };
        Ok(T::to_cpu_storage_owned(cpu::forward(&self.plan, &x?, &w?, bias, None)))
    }
}

impl CustomOp3 for Biased {
    fn name(&self) -> &'static str {
        "conv2d"
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
        let stores = [(s1, l1), (s2, l2), (s3, l3)];
        let y = match s1 {
            CpuStorage::F32(_) => self.run::<f32>(stores)?,
            CpuStorage::F64(_) => self.run::<f64>(stores)?,
            other => bail!("conv2d: no CPU kernel for {:?}", other.dtype()),
        };
        Ok((y, Shape::from(&self.plan.output_dims())))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        h: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (cut_x, cut_w, h) = (cut(x), cut(w), cut(h));
        let for_x = || trilinear(Part::Input, self.plan, &h, &cut_w);
        let for_w = || trilinear(Part::Weight, self.plan, &cut_x, &h);
        let for_bias =
            || h.apply_op1(Channels { dims: self.plan.output_dims(), per_sample: self.per_sample, sum: true });
        Ok((
            wants(x).then(for_x).transpose()?,
            wants(w).then(for_w).transpose()?,
            wants(bias).then(for_bias).transpose()?,
        ))
    }
}

/// The sum over pixels (and samples), or its transpose, which repeats a number over them.
#[derive(Clone, Copy)]
struct Channels {
    dims: [usize; 4],
    per_sample: bool,
    sum: bool,
}

impl Channels {
    fn run<T: Real>(&self, storage: &CpuStorage, layout: &Layout) -> Result<CpuStorage> {
        let [b, c, h, w] = self.dims;
        let x = dense::<T>(storage, layout)?;
        let f = if self.sum { cpu::channel_sum } else { cpu::channel_spread };
        Ok(T::to_cpu_storage_owned(f(&x, (b, c, h * w), self.per_sample)))
    }
}

impl CustomOp1 for Channels {
    fn name(&self) -> &'static str {
        if self.sum { "channel_sum" } else { "channel_spread" }
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = match storage {
            CpuStorage::F32(_) => self.run::<f32>(storage, layout)?,
            CpuStorage::F64(_) => self.run::<f64>(storage, layout)?,
            other => bail!("{}: no CPU kernel for {:?}", self.name(), other.dtype()),
        };
        let [b, c, ..] = self.dims;
        let shape: Shape = match (self.sum, self.per_sample) {
            (true, true) => (b, c).into(),
            (true, false) => c.into(),
            (false, _) => Shape::from(&self.dims),
        };
        Ok((y, shape))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, h: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(cut(h).apply_op1(Self { sum: !self.sum, ..*self })?))
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
