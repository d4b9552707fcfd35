//! Where ops and gradients meet their edges: empty arguments, long sums, parts that leave the tape, other threads.

use langevin_ops::conv::{Geometry, conv2d, conv2d_input_grad, conv2d_weight_grad};
use langevin_ops::norm::{group_norm, group_norm_silu};
use langevin_ops::shape::to_host;
use langevin_ops::tape::{self, Value, part, recompute};
use langevin_ops::{DType, Device, Result, Tensor, Var, act, grad, linear};

const CPU: &Device = &Device::Cpu;

fn values(n: usize, k: f64) -> Vec<f64> {
    (0..n).map(|i| (k * (i as f64 + 1.)).sin()).collect()
}

fn tensor(dims: &[usize], k: f64) -> Tensor {
    Tensor::from_vec(values(dims.iter().product(), k), dims, CPU).unwrap()
}

fn apart(a: &[f64], b: &[f64]) -> f64 {
    let largest = b.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0., |m: f64, (a, b)| if a.is_finite() { m.max((a - b).abs()) } else { f64::INFINITY })
        / largest
}

/// A weight that a part makes of a variable with candle's own ops is another tensor at every call.
#[test]
fn a_part_that_scales_its_weight_is_an_error_where_it_is_recomputed() {
    let w = Var::from_tensor(&tensor(&[3, 4], 0.7)).unwrap();
    let x = tensor(&[2, 4], 1.3);
    let at = |on: bool| {
        recompute(on, || {
            grad::value_and_grad(std::slice::from_ref(&w), || {
                tape::run(&x, |x| {
                    let w = w.as_tensor().clone();
                    part(&[x], move |x| act::silu(&linear::linear(&x[0], &Value::of(&(&w * 2.)?), None)?))
                })?
                .sum_all()
            })
        })
    };
    assert!(at(false).is_ok());
    assert!(at(true).unwrap_err().to_string().contains("new tensors at every call"));
}

/// The gradient of `loss` in `w` is the same whether parts are kept or recomputed.
fn recomputed_is_kept(w: &Var, loss: impl Fn() -> Result<Tensor>) {
    let at = |on: bool| {
        let (_, g) = recompute(on, || grad::value_and_grad(std::slice::from_ref(w), &loss)).unwrap();
        to_host(&g[0]).unwrap()
    };
    let (kept, again) = (at(false), at(true));
    assert!(apart(&again, &kept) < 1e-12, "recomputed {again:?}, kept {kept:?}");
}

/// A part that is linear in its input, differentiated three times.
#[test]
fn a_linear_part_has_a_third_derivative() {
    let w = Var::from_tensor(&tensor(&[4, 4], 0.7)).unwrap();
    let (x, v) = (tensor(&[2, 4], 1.3), tensor(&[2, 4], 0.4));
    recomputed_is_kept(&w, || {
        let energy = |x: &Tensor| {
            let w = w.as_tensor().clone();
            let linear = move |x: &[Value]| linear::linear(&x[0], &Value::of(&w), None);
            tape::run(x, |x| act::silu(&part(&[x], linear)?))?.sum_all()
        };
        grad::hvp(&x, &v, energy)?.sqr()?.sum_all()
    });
}

/// An input that a part does not use, at second order.
#[test]
fn a_part_may_ignore_an_input_at_second_order() {
    let w = Var::from_tensor(&tensor(&[4, 4], 0.7)).unwrap();
    let x = tensor(&[2, 4], 1.3);
    recomputed_is_kept(&w, || {
        let energy = |x: &Tensor| {
            let w = w.as_tensor().clone();
            let first = move |x: &[Value]| act::silu(&linear::linear(&x[0], &Value::of(&w), None)?);
            tape::run(x, |x| part(&[x, &act::sigmoid(x)?], first))?.sum_all()
        };
        grad::gradient(&x, energy)?.1.sqr()?.sum_all()
    });
}

/// Outside a scope, `tape::run` is unrecorded, but for a gradient taken inside it.
#[test]
fn a_gradient_inside_an_unrecorded_run() {
    let x = tensor(&[3], 0.9);
    // the score of silu(x) + x^2 / 2: silu'(x) + x
    let score = |x: &Value| -> Result<Value> {
        let x = x.clone().tensor()?;
        let x = if x.track_op() { x.detach() } else { x };
        let (_, g) = grad::gradient(&x, |x| (act::silu(x)? + (x.sqr()? * 0.5)?)?.sum_all())?;
        Ok(Value::of(&g.detach()))
    };
    let direct = to_host(&score(&Value::of(&x)).unwrap().tensor().unwrap()).unwrap();
    let run = to_host(&tape::run(&x, score).unwrap()).unwrap();
    assert!(apart(&run, &direct) < 1e-12, "inside tape::run {run:?}, outside {direct:?}");
}

/// x^2 has third derivative 0, at 0 too.
#[test]
fn powers_have_derivatives_at_zero() {
    let x = Tensor::new(&[0f64, 1.], CPU).unwrap();
    let square = |x: &Tensor| -> Result<Tensor> { Value::of(x).powf(2.)?.tensor()?.sum_all() };
    let (_, third) = grad::gradient(&x, |x| grad::hvp(x, &x.ones_like()?.detach(), square)?.sum_all()).unwrap();
    assert_eq!(to_host(&third).unwrap(), [0., 0.]);
}

#[test]
fn a_broadcast_to_more_dimensions_is_an_error() {
    let x = tensor(&[2, 3], 0.7);
    assert!(Value::of(&x).broadcast((2, 2, 3)).is_err());
    assert!(Value::of(&x).broadcast((2, 4)).is_err());
    assert!(Value::of(&x).sum_to((2, 2)).is_err());
}

/// Dirties the scratch memory of the threads, so that what is read unwritten shows.
fn dirty(dtype: DType) {
    for _ in 0..4 {
        let x = Tensor::full(1e6f32, (2, 3, 12, 12), CPU).unwrap().to_dtype(dtype).unwrap();
        let w = Tensor::full(1e6f32, (2, 3, 3, 3), CPU).unwrap().to_dtype(dtype).unwrap();
        conv2d(&x, &w, None, Geometry { stride: 2, pad: [1; 4] }).unwrap();
        conv2d_input_grad(&conv2d(&x, &w, None, Geometry::same(3)).unwrap(), &w, (12, 12), Geometry::same(3)).unwrap();
    }
}

/// An image without rows, padded.
#[test]
fn a_convolution_of_padding_alone_is_zero() {
    for dtype in [DType::F32, DType::F64] {
        dirty(dtype);
        let geometry = Geometry { stride: 1, pad: [2, 2, 1, 1] };
        for size in [(0, 4), (4, 0), (0, 0)] {
            let geometry = Geometry { pad: [2, 2, 2, 2], ..geometry };
            let x = Tensor::zeros((1, 2, size.0, size.1), dtype, CPU).unwrap();
            let w = Tensor::ones((3, 2, 3, 3), dtype, CPU).unwrap();
            let y = conv2d(&x, &w, None, geometry).unwrap();
            assert!(to_host(&y).unwrap().iter().all(|v| *v == 0.), "{dtype:?} {size:?}: {:?}", to_host(&y).unwrap());
            let gw = conv2d_weight_grad(&x, &y.ones_like().unwrap(), (3, 3), geometry).unwrap();
            assert!(to_host(&gw).unwrap().iter().all(|v| *v == 0.), "{dtype:?} {size:?}: {:?}", to_host(&gw).unwrap());
        }
    }
}

/// No channels or no outputs.
#[test]
fn a_convolution_without_channels_is_zero() {
    for dtype in [DType::F32, DType::F64] {
        for stride in [1, 2] {
            dirty(dtype);
            let geometry = Geometry { stride, pad: [1; 4] };
            let x = Tensor::zeros((2, 0, 4, 4), dtype, CPU).unwrap();
            let w = Tensor::zeros((3, 0, 3, 3), dtype, CPU).unwrap();
            let y = conv2d(&x, &w, None, geometry).unwrap();
            assert!(to_host(&y).unwrap().iter().all(|v| *v == 0.));
            let w = Tensor::zeros((0, 3, 3, 3), dtype, CPU).unwrap();
            let g = Tensor::zeros((2, 0, 4 / stride, 4 / stride), dtype, CPU).unwrap();
            let gx = conv2d_input_grad(&g, &w, (4, 4), geometry).unwrap();
            assert!(to_host(&gx).unwrap().iter().all(|v| *v == 0.));
        }
    }
}

fn norm_error(mean: f64, silu: bool) -> (f64, f64) {
    let (b, c, side) = (2, 8, 16);
    let x = Tensor::from_vec(
        values(b * c * side * side, 1.7).iter().map(|v| (mean + v) as f32).collect::<Vec<_>>(),
        (b, c, side, side),
        CPU,
    )
    .unwrap();
    let (gamma, beta) = (Tensor::ones(c, DType::F32, CPU).unwrap(), Tensor::zeros(c, DType::F32, CPU).unwrap());
    let g = tensor(&[b, c, side, side], 0.61).to_dtype(DType::F32).unwrap();
    let at = |dtype: DType| {
        let of = |t: &Tensor| t.to_dtype(dtype).unwrap();
        let f = |x: &Tensor| {
            if silu {
                group_norm_silu(x, &of(&gamma), &of(&beta), 2, 1e-5)
            } else {
                group_norm(x, &of(&gamma), &of(&beta), 2, 1e-5)
            }
        };
        let y = f(&of(&x)).unwrap();
        let dx = grad::vjp(&of(&x), &of(&g), f).unwrap();
        (to_host(&y).unwrap(), to_host(&dx).unwrap())
    };
    let ((y, dx), (y64, dx64)) = (at(DType::F32), at(DType::F64));
    (apart(&y, &y64), apart(&dx, &dx64))
}

/// Mean far above the standard deviation: the same f32 numbers in f64.
#[test]
fn norm_with_a_large_mean() {
    let mut worst = String::new();
    for mean in [1e2, 1e3, 1e4, 1e5] {
        for silu in [false, true] {
            let (y, dx) = norm_error(mean, silu);
            if y > 1e-4 || dx > 1e-4 {
                worst += &format!("mean {mean:e} silu {silu}: {y:e} {dx:e}; ");
            }
        }
    }
    assert!(worst.is_empty(), "{worst}");
}

/// The bias' gradient of a linear map over many rows.
#[test]
fn linear_bias_gradient_over_many_rows() {
    let mut worst = String::new();
    for rows in [1 << 12, 1 << 14, 1 << 16, 1 << 18] {
        let at = |dtype| {
            let x = Tensor::full(0.1f32, (rows, 2), CPU).unwrap().to_dtype(dtype).unwrap();
            let w = Tensor::ones((3, 2), dtype, CPU).unwrap();
            let b = Var::zeros(3, dtype, CPU).unwrap();
            let (_, g) = grad::value_and_grad(std::slice::from_ref(&b), || {
                (linear::linear(&x, &w, Some(b.as_tensor()))? * f64::from(0.1f32))?.sum_all()
            })
            .unwrap();
            to_host(&g[0]).unwrap()
        };
        let e = apart(&at(DType::F32), &at(DType::F64));
        if e > 1e-4 {
            worst += &format!("{rows} rows: {e:e}; ");
        }
    }
    assert!(worst.is_empty(), "{worst}");
}

/// Weight gradients over large images of positive numbers.
#[test]
fn weight_gradients_over_many_pixels() {
    let mut worst = String::new();
    for (c, k, stride, pad) in [(8, 1, 1, 0), (8, 3, 1, 1), (3, 3, 1, 1), (8, 3, 2, 1)] {
        for side in [64, 256] {
            let batch = 16;
            let geometry = Geometry { stride, pad: [pad; 4] };
            let x = Tensor::full(0.1f32, (batch, c, side, side), CPU).unwrap();
            let out = (side + 2 * pad - k) / stride + 1;
            let g = Tensor::full(0.1f32, (batch, 8, out, out), CPU).unwrap();
            let w = conv2d_weight_grad(&x, &g, (k, k), geometry).unwrap();
            // of this sum every term is known
            let v = f64::from(0.1f32).powi(2);
            let inside =
                |i: usize| (0..out).filter(|p| (p * stride + i >= pad) && (p * stride + i < side + pad)).count();
            let expected: Vec<f64> = (0..8 * c)
                .flat_map(|_| (0..k).flat_map(move |i| (0..k).map(move |j| (i, j))))
                .map(|(i, j)| v * (batch * inside(i) * inside(j)) as f64)
                .collect();
            let e = apart(&to_host(&w).unwrap(), &expected);
            if e > 1e-4 {
                worst += &format!("{k}x{k} of {c} stride {stride}, {side}: {e:e}; ");
            }
        }
    }
    assert!(worst.is_empty(), "{worst}");
}

/// Energies per sample: the sum over a large image.
#[test]
fn sums_per_sample_over_many_pixels() {
    let x = Tensor::full(0.1f32, (2, 3, 512, 512), CPU).unwrap();
    let y = to_host(&Value::of(&x).sum_per_sample().unwrap().tensor().unwrap()).unwrap();
    let expected = [f64::from(0.1f32) * (3 * 512 * 512) as f64; 2];
    let e = apart(&y, &expected);
    assert!(e < 1e-4, "{e:e}");
}

/// A part that passes its input through a tensor of candle's.
#[test]
fn a_part_through_candle_is_an_error_where_it_is_recomputed() {
    let x = tensor(&[2, 4], 1.3);
    let at = |on: bool| {
        recompute(on, || {
            grad::gradient(&x, |x| {
                tape::run(x, |x| {
                    part(&[x], |x| Ok(Value::of(&x[0].clone().tensor()?.sqr()?)))?
                        .sum_per_sample()?
                        .add(&x.mul(x)?.sum_per_sample()?)
                })
            })
        })
    };
    assert!(at(false).is_ok());
    assert!(at(true).unwrap_err().to_string().contains("passes through a tensor"));
}

/// silu of very negative numbers in f32 is 0.
#[test]
fn silu_of_very_negative_numbers_is_zero() {
    let x = Tensor::new(&[-1e30f32, -1e36, -1e38], CPU).unwrap();
    let y = to_host(&act::silu(&x).unwrap()).unwrap();
    assert!(y.iter().all(|y| y.abs() < 1e-6), "{y:?}");
}

/// 3x3 convolution of an image with a mean, by kernels whose sum is 0: against products in f32 one by one.
#[test]
fn convolution_of_an_image_with_a_mean() {
    let (c, side) = (16, 16);
    let x: Vec<f32> = values(c * side * side, 1.7).iter().map(|v| (100. + v) as f32).collect();
    let mut w: Vec<f32> = values(16 * c * 9, 0.71).iter().map(|v| *v as f32).collect();
    for taps in w.chunks_exact_mut(9) {
        let mean = taps.iter().sum::<f32>() / 9.;
        taps.iter_mut().for_each(|t| *t -= mean);
    }
    let x = Tensor::from_vec(x, (1, c, side, side), CPU).unwrap();
    let w = Tensor::from_vec(w, (16, c, 3, 3), CPU).unwrap();
    let geometry = Geometry { stride: 1, pad: [0; 4] };
    let of = |dtype| {
        let (x, w) = (x.to_dtype(dtype).unwrap(), w.to_dtype(dtype).unwrap());
        to_host(&conv2d(&x, &w, None, geometry).unwrap()).unwrap()
    };
    let exact = of(DType::F64);
    let ours = apart(&of(DType::F32), &exact);
    let plain = langevin_ops::check::by_composition(|| apart(&of(DType::F32), &exact));
    assert!(ours <= plain.max(1e-5), "{ours:e}, candle's own f32 {plain:e}");
}

/// The weight's gradient of a linear map over many rows.
#[test]
fn linear_weight_gradient_over_many_rows() {
    let mut worst = String::new();
    for rows in [1 << 14, 1 << 16, 1 << 18] {
        let at = |dtype| {
            let x = Tensor::full(0.1f32, (rows, 8), CPU).unwrap().to_dtype(dtype).unwrap();
            let w = Var::ones((16, 8), dtype, CPU).unwrap();
            let (_, g) = grad::value_and_grad(std::slice::from_ref(&w), || {
                (linear::linear(&x, w.as_tensor(), None)? * f64::from(0.1f32))?.sum_all()
            })
            .unwrap();
            to_host(&g[0]).unwrap()
        };
        let e = apart(&at(DType::F32), &at(DType::F64));
        if e > 1e-4 {
            worst += &format!("{rows} rows: {e:e}; ");
        }
    }
    assert!(worst.is_empty(), "{worst}");
}

/// Half of a batch on another thread, inside `value_and_grad`.
#[test]
fn a_network_carried_to_another_thread_has_its_gradient() {
    let w = Var::from_tensor(&tensor(&[3, 4], 0.7)).unwrap();
    let (a, b) = (tensor(&[2, 4], 1.3), tensor(&[2, 4], 0.4));
    let net = |x: &Tensor| tape::run(x, |x| act::silu(&linear::linear(x, &Value::of(&w), None)?)?.sum_per_sample());
    let loss = |parallel: bool| {
        grad::value_and_grad(std::slice::from_ref(&w), || {
            let (a, b) = if parallel {
                std::thread::scope(|s| {
                    let other = s.spawn(grad::carry(|| net(&b)));
                    (net(&a), other.join().unwrap())
                })
            } else {
                (net(&a), net(&b))
            };
            (a? + b?)?.sum_all()
        })
    };
    let one = to_host(&loss(false).unwrap().1[0]).unwrap();
    let two = to_host(&loss(true).unwrap().1[0]).unwrap();
    assert!(apart(&two, &one) < 1e-12, "on two threads {two:?}, on one {one:?}");
}

/// A variable that is listed twice.
#[test]
fn a_variable_listed_twice_has_its_gradient_twice() {
    let w = Var::new(&[1f64, 2.], CPU).unwrap();
    let (_, g) = grad::value_and_grad(&[w.clone(), w.clone()], || w.sqr()?.sum_all()).unwrap();
    assert_eq!(to_host(&g[0]).unwrap(), [2., 4.]);
    assert_eq!(to_host(&g[1]).unwrap(), [2., 4.], "the second is said to be unused");
}

/// Attention in a network on an empty batch, where convolutions and norms are no error.
#[test]
fn attention_of_an_empty_batch() {
    use langevin_ops::attend::{attention, softmax};
    let q = Tensor::zeros((0, 2, 3, 4), DType::F32, CPU).unwrap();
    assert_eq!(softmax(&Tensor::zeros((0, 4), DType::F32, CPU).unwrap()).unwrap().dims(), [0, 4]);
    assert_eq!(attention(&q, &q, &q, 1.).unwrap().dims(), [0, 2, 3, 4]);
}

/// Nothing to put one after the other.
#[test]
fn cat_of_nothing_is_an_error() {
    assert!(Value::cat(&[], 0).is_err());
}

#[test]
fn gradients_of_an_empty_batch() {
    let w = Var::ones((3, 2, 3, 3), DType::F32, CPU).unwrap();
    let x = Tensor::zeros((0, 2, 4, 4), DType::F32, CPU).unwrap();
    for stride in [1, 2] {
        let f = |x: &Tensor| {
            let y =
                tape::run(x, |x| conv2d(x, &Value::of(&w), None, Geometry { stride, pad: [1; 4] })?.sum_per_sample())?;
            y.sum_all()
        };
        assert_eq!(grad::gradient(&x, f).unwrap().1.dims(), x.dims());
        let (_, g) = grad::value_and_grad(std::slice::from_ref(&w), || f(&x)).unwrap();
        assert!(to_host(&g[0]).unwrap().iter().all(|v| *v == 0.));
    }
}

#[test]
fn the_sigmoid_of_infinite_numbers_is_its_limit() -> Result<()> {
    for dtype in [DType::F32, DType::F64] {
        let x = Tensor::new(&[f64::INFINITY, f64::NEG_INFINITY, 0.], &Device::Cpu)?.to_dtype(dtype)?;
        assert_eq!(to_host(&act::sigmoid(&x)?)?, [1., 0., 0.5], "{dtype:?}");
    }
    Ok(())
}
