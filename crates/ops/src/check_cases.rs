//! The list of cases: every op with arguments of all kinds and layouts.

use super::{Case, Function};
use crate::tape::{self, Value};
use crate::{act, attend, conv, fir, linear, norm, resample};
use candle_core::{Device, Result, Tensor};

/// How an argument lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Plain,
    /// Its dimensions in reverse order.
    Reversed,
    /// Part of a larger tensor: an offset, and gaps between rows.
    Part,
    /// Repeated along the first dimension without a copy.
    Repeated,
}
use Layout::{Part, Plain, Repeated, Reversed};

impl Layout {
    /// The argument as it is stored, to be turned by [`Layout::view`] into one of shape `dims`.
    fn stored(self, dims: &[usize]) -> Vec<usize> {
        let mut dims = dims.to_vec();
        match self {
            Plain => {}
            Reversed => dims.reverse(),
            Part => dims.iter_mut().rev().take(1).for_each(|d| *d += 2),
            Repeated => dims.iter_mut().take(1).for_each(|d| *d = 1),
        }
        dims
    }

    fn view(self, stored: &Tensor, dims: &[usize]) -> Result<Tensor> {
        match self {
            Plain => Ok(stored.clone()),
            Reversed => stored.permute((0..dims.len()).rev().collect::<Vec<_>>()),
            Part => stored.narrow(dims.len() - 1, 1, dims[dims.len() - 1]),
            Repeated => stored.broadcast_as(dims),
        }
    }
}

type Argument = (Vec<usize>, Layout);

fn case(
    name: &str,
    order: usize,
    arguments: &[Argument],
    f: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Case> {
    let inputs = arguments.iter().enumerate().map(|(i, (dims, layout))| {
        let dims = layout.stored(dims);
        let value = |k: usize| (0.3 + i as f64 + 2.399 * k as f64).sin() + 0.3 * (1.1 * k as f64).cos();
        let values: Vec<f64> = (0..dims.iter().product()).map(value).collect();
        Tensor::from_vec(values, dims, &Device::Cpu)
    });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    let views = arguments.to_vec();
    let f: Box<Function> = Box::new(move |stored| {
        let view = |(x, (dims, layout)): (&Tensor, &Argument)| layout.view(x, dims);
        f(&stored.iter().zip(&views).map(view).collect::<Result<Vec<_>>>()?)
    });
    let layouts: Vec<_> = arguments.iter().map(|(_, layout)| format!("{layout:?}").to_lowercase()).collect();
    Ok(Case { name: format!("{name} ({})", layouts.join(", ")), order, f, inputs })
}

/// Every op at arguments of all kinds.
pub fn cases() -> Result<Vec<Case>> {
    let mut all = Vec::new();
    convolutions(&mut all)?;
    norms(&mut all)?;
    activations(&mut all)?;
    products(&mut all)?;
    resampling(&mut all)?;
    networks(&mut all)?;
    large(&mut all)?;
    Ok(all)
}

fn convolutions(all: &mut Vec<Case>) -> Result<()> {
    // name, kernel, stride, padding, input height and width
    let geometries = [
        ("3x3", 3, 1, [1, 1, 1, 1], (4, 3)),
        ("1x1", 1, 1, [0, 0, 0, 0], (3, 2)),
        ("3x3 stride 2 padded below and right", 3, 2, [0, 1, 0, 1], (4, 3)),
        ("3x3 stride 2", 3, 2, [1, 1, 1, 1], (5, 4)),
        ("2x2 padded more than the kernel", 2, 1, [2, 1, 0, 2], (2, 3)),
        ("1x1 stride 2", 1, 2, [0, 0, 0, 0], (4, 3)),
    ];
    for (i, (name, k, stride, pad, (h, w))) in geometries.into_iter().enumerate() {
        let geometry = conv::Geometry { stride, pad };
        let order = if i < 3 { 3 } else { 2 };
        let [x, weight] = [vec![2, 2, h, w], vec![3, 2, k, k]];
        let layouts = [(Plain, Plain), (Reversed, Part), (Repeated, Reversed)];
        for (lx, lw) in layouts.into_iter().take(if i < 4 { 3 } else { 1 }) {
            let order = if lx == Plain { order } else { 2 };
            all.push(case(&format!("conv2d {name}"), order, &[(x.clone(), lx), (weight.clone(), lw)], move |a| {
                conv::conv2d(&a[0], &a[1], None, geometry)
            })?);
        }
        for bias in [vec![3], vec![2, 3]] {
            let arguments = [(x.clone(), Part), (weight.clone(), Plain), (bias, Reversed)];
            all.push(case(&format!("conv2d with bias, {name}"), 2, &arguments, move |a| {
                conv::conv2d(&a[0], &a[1], Some(&a[2]), geometry)
            })?);
        }
        let out = [(h + pad[0] + pad[1] - k) / stride + 1, (w + pad[2] + pad[3] - k) / stride + 1];
        let g = vec![2, 3, out[0], out[1]];
        all.push(case(&format!("conv2d_input_grad {name}"), 2, &[(g.clone(), Reversed), (weight, Plain)], move |a| {
            conv::conv2d_input_grad(&a[0], &a[1], (h, w), geometry)
        })?);
        all.push(case(&format!("conv2d_weight_grad {name}"), 2, &[(x, Plain), (g, Reversed)], move |a| {
            conv::conv2d_weight_grad(&a[0], &a[1], (k, k), geometry)
        })?);
    }
    Ok(())
}

fn norms(all: &mut Vec<Case>) -> Result<()> {
    for (dims, groups, layout) in [
        (vec![2, 4, 2, 2], 2, Plain),
        (vec![2, 4, 2, 2], 4, Reversed),
        (vec![2, 3, 3], 1, Part),
        (vec![3, 4], 2, Plain),
    ] {
        let channels = dims[1];
        let arguments = [(dims, layout), (vec![channels], Plain), (vec![channels], Part)];
        all.push(case(&format!("group_norm of {groups}"), 3, &arguments, move |a| {
            norm::group_norm(&a[0], &a[1], &a[2], groups, 1e-2)
        })?);
        all.push(case(&format!("group_norm_silu of {groups}"), 3, &arguments, move |a| {
            norm::group_norm_silu(&a[0], &a[1], &a[2], groups, 1e-2)
        })?);
    }
    Ok(())
}

type Unary = fn(&Tensor) -> Result<Tensor>;

fn activations(all: &mut Vec<Case>) -> Result<()> {
    let ops: [(&str, Unary); 5] = [
        ("silu", act::silu),
        ("sigmoid", act::sigmoid),
        ("softplus", act::softplus),
        ("gelu", act::gelu),
        ("softmax", attend::softmax),
    ];
    for (name, op) in ops {
        for layout in [Plain, Reversed, Part] {
            all.push(case(name, 3, &[(vec![2, 3, 2], layout)], move |a| op(&a[0]))?);
            all.push(case(&format!("{name} of 3x"), 2, &[(vec![2, 3, 2], layout)], move |a| op(&(&a[0] * 3.)?))?);
        }
    }
    for layout in [Plain, Reversed, Part] {
        all.push(case("softplus_sum", 3, &[(vec![3, 11], layout)], |a| act::softplus_sum(&(&a[0] * 3.)?))?);
    }
    // of bounded angles: where x is large, x rounded to f32 is another angle
    for layout in [Plain, Reversed, Part] {
        let angles = &[(vec![2, 3, 2], layout)];
        all.push(case("sin", 3, angles, move |a| act::sin(&(act::sigmoid(&a[0])? * 6.)?))?);
    }
    Ok(())
}

fn products(all: &mut Vec<Case>) -> Result<()> {
    for layout in [Plain, Reversed] {
        let arguments = [(vec![2, 2, 3], layout), (vec![4, 3], layout), (vec![4], Plain)];
        all.push(case("linear", 2, &arguments[..2], |a| linear::linear(&a[0], &a[1], None))?);
        all.push(case("linear with bias", 3, &arguments, |a| linear::linear(&a[0], &a[1], Some(&a[2])))?);
        let weight = &[(vec![3, 6], layout)];
        all.push(case("linear of bits", 2, weight, |a| linear::linear_of_bits(&bits((5, 6), &a[0])?, &a[0], None))?);
        let qkv = [(vec![1, 2, 3, 2], layout), (vec![1, 2, 2, 2], layout), (vec![1, 2, 2, 3], layout)];
        all.push(case("attention", 3, &qkv, |a| attend::attention(&a[0], &a[1], &a[2], 0.7))?);
    }
    let repeated = [(vec![2, 2, 3], Repeated), (vec![4, 3], Part), (vec![4], Part)];
    all.push(case("linear with bias", 2, &repeated, |a| linear::linear(&a[0], &a[1], Some(&a[2])))?);
    Ok(())
}

/// Some of 0 and 1, of the type of `like` and where it is.
fn bits((rows, columns): (usize, usize), like: &Tensor) -> Result<Tensor> {
    let bits = Tensor::from_iter((0..rows * columns).map(|i| (i * i % 7 % 2) as f64), &Device::Cpu)?;
    bits.reshape((rows, columns))?.to_dtype(like.dtype())?.to_device(like.device())
}

fn resampling(all: &mut Vec<Case>) -> Result<()> {
    for layout in [Plain, Reversed, Part] {
        let image = [(vec![1, 2, 4, 2], layout)];
        all.push(case("upsample_nearest", 3, &image, |a| resample::upsample_nearest(&a[0]))?);
        all.push(case("downsample_mean", 3, &image, |a| resample::downsample_mean(&a[0]))?);
        all.push(case("fir::upsample", 3, &image, |a| fir::upsample(&a[0], &fir::BINOMIAL, 2))?);
        all.push(case("fir::downsample", 3, &image, |a| fir::downsample(&a[0], &fir::BINOMIAL, 2))?);
        let image = [(vec![2, 1, 5, 3], layout)];
        all.push(case("upfirdn by 2/3", 2, &image, |a| fir::upfirdn(&a[0], &[1., 0.5, -0.25], 2, 3, [2, 1]))?);
        all.push(case("upfirdn by 3, cut", 2, &image, |a| fir::upfirdn(&a[0], &[1., -0.5], 3, 1, [-2, 1]))?);
    }
    Ok(())
}

/// What a score network is made of, in one piece: an energy's derivatives go through all of it.
fn networks(all: &mut Vec<Case>) -> Result<()> {
    let arguments = [
        (vec![1, 2, 4, 4], Part),     // the picture
        (vec![2, 2, 3, 3], Reversed), // convolutions
        (vec![2, 2, 1, 1], Plain),
        (vec![2], Plain), // norm
        (vec![2], Part),
    ];
    all.push(case("network", 3, &arguments, |a| {
        tape::run(&a[0], |x| {
            let [w, point, gamma, beta] = [1, 2, 3, 4].map(|i| Value::of(&a[i]));
            let x = conv::conv2d(x, &w, None, conv::Geometry::same(3))?;
            let h = norm::group_norm_silu(&x, &gamma, &beta, 1, 1e-2)?;
            let h = conv::conv2d_add(&h, &point, Some(&beta), &x, conv::Geometry::same(1))?; // x: a residual
            let small = fir::downsample(&h, &fir::BINOMIAL, 2)?;
            let rows = small.reshape((1, 1, 2, 4))?.transpose(2, 3)?;
            let rows = attend::attention(&rows, &rows, &rows, 0.7)?;
            let small = rows.transpose(2, 3)?.reshape(small.shape().clone())?;
            let up = act::gelu(&resample::upsample_nearest(&small)?)?;
            norm::group_norm(&Value::cat(&[&up, &x], 1)?.narrow(1, 1, 2)?, &gamma, &beta, 2, 1e-2) // x: a skip
        })
    })?);
    Ok(())
}

/// Sizes at which the fast kernels run: values alone.
fn large(all: &mut Vec<Case>) -> Result<()> {
    let geometries = [
        ("3x3", 3, 1, [1; 4]),
        ("1x1", 1, 1, [0; 4]),
        ("3x3 stride 2", 3, 2, [1; 4]),
        ("3x3 stride 2 padded below and right", 3, 2, [0, 1, 0, 1]),
    ];
    for (name, k, stride, pad) in geometries {
        let geometry = conv::Geometry { stride, pad };
        let (x, w) = (vec![2, 48, 14, 14], vec![32, 48, k, k]);
        let out = (14 + pad[0] + pad[1] - k) / stride + 1;
        let g = vec![2, 32, out, out];
        all.push(case(&format!("conv2d {name}, large"), 0, &[(x.clone(), Plain), (w.clone(), Plain)], move |a| {
            conv::conv2d(&a[0], &a[1], None, geometry)
        })?);
        all.push(case(&format!("conv2d_input_grad {name}, large"), 0, &[(g.clone(), Plain), (w, Plain)], move |a| {
            conv::conv2d_input_grad(&a[0], &a[1], (14, 14), geometry)
        })?);
        all.push(case(&format!("conv2d_weight_grad {name}, large"), 0, &[(x, Plain), (g, Plain)], move |a| {
            conv::conv2d_weight_grad(&a[0], &a[1], (k, k), geometry)
        })?);
    }
    let channels = [(vec![2, 32, 9, 9], Plain), (vec![32], Plain), (vec![32], Plain)];
    all.push(case("group_norm_silu, large", 0, &channels, |a| norm::group_norm_silu(&a[0], &a[1], &a[2], 4, 1e-5))?);
    let qkv = [(vec![2, 2, 49, 32], Plain), (vec![2, 2, 49, 32], Plain), (vec![2, 2, 49, 32], Plain)];
    all.push(case("attention, large", 0, &qkv, |a| attend::attention(&a[0], &a[1], &a[2], 0.2))?);
    let rows = [(vec![64, 200], Plain), (vec![100, 200], Plain)];
    all.push(case("linear, large", 0, &rows, |a| linear::linear(&a[0], &a[1], None))?);
    Ok(())
}
