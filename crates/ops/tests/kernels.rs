//! What kernels promise beyond their values: bits that do not change, extremes, and errors that name what is wrong.

use langevin_ops::conv::{Geometry, conv2d, conv2d_input_grad, conv2d_weight_grad};
use langevin_ops::noise::Noise;
use langevin_ops::norm::{group_norm, group_norm_silu};
use langevin_ops::shape::to_host;
use langevin_ops::{DType, Device, Result, Tensor, act, attend, fir, grad, linear, resample};

const CPU: &Device = &Device::Cpu;

fn normal(dims: &[usize], seed: u64) -> Tensor {
    Noise::of_step(seed, 0, dims[0]).normal(dims, DType::F32, CPU).unwrap()
}

fn bits(x: &Tensor) -> Vec<u64> {
    to_host(x).unwrap().into_iter().map(f64::to_bits).collect()
}

/// Runs on a pool of so many threads.
fn on_threads<R: Send>(n: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(f)
}

#[test]
fn convolutions_do_not_depend_on_threads_or_batch() {
    for (size, stride, pad, side) in
        [(3, 1, [1; 4], 28), (3, 2, [0, 1, 0, 1], 28), (1, 1, [0; 4], 7), (3, 1, [1; 4], 7)]
    {
        let geometry = Geometry { stride, pad };
        let (x, w, b) = (normal(&[9, 12, side, side], 1), normal(&[10, 12, size, size], 2), normal(&[10], 3));
        let forward = |x: &Tensor| conv2d(x, &w, Some(&b), geometry).unwrap();
        let y = on_threads(1, || forward(&x));
        let g = normal(y.dims(), 4);
        let input = |g: &Tensor| conv2d_input_grad(g, &w, (side, side), geometry).unwrap();
        let weight = || conv2d_weight_grad(&x, &g, (size, size), geometry).unwrap();
        let (gx, gw) = on_threads(1, || (input(&g), weight()));
        for threads in [2, 5] {
            let all = on_threads(threads, || (forward(&x), input(&g), weight()));
            assert_eq!(bits(&y), bits(&all.0));
            assert_eq!(bits(&gx), bits(&all.1));
            assert_eq!(bits(&gw), bits(&all.2));
        }
        let one = x.narrow(0, 4, 1).unwrap();
        assert_eq!(bits(&y.narrow(0, 4, 1).unwrap()), bits(&forward(&one)));
        assert_eq!(bits(&gx.narrow(0, 4, 1).unwrap()), bits(&input(&g.narrow(0, 4, 1).unwrap())));
    }
}

#[test]
fn norms_do_not_depend_on_threads_or_batch() {
    let (x, gamma, beta) = (normal(&[5, 8, 9, 9], 1), normal(&[8], 2), normal(&[8], 3));
    let y = on_threads(1, || group_norm_silu(&x, &gamma, &beta, 2, 1e-5).unwrap());
    assert_eq!(bits(&y), bits(&on_threads(3, || group_norm_silu(&x, &gamma, &beta, 2, 1e-5).unwrap())));
    let one = group_norm_silu(&x.narrow(0, 3, 1).unwrap(), &gamma, &beta, 2, 1e-5).unwrap();
    assert_eq!(bits(&y.narrow(0, 3, 1).unwrap()), bits(&one));
}

#[test]
fn norm_keeps_small_differences_on_a_large_mean() {
    let x = (normal(&[2, 4, 16, 16], 1).to_dtype(DType::F64).unwrap() * 1e-2).unwrap();
    let (one, zero) = (Tensor::ones(4, DType::F64, CPU).unwrap(), Tensor::zeros(4, DType::F64, CPU).unwrap());
    let exact = group_norm(&x, &one, &zero, 2, 1e-12).unwrap();
    // the same numbers, exact in f32, far from 0
    let grid = ((&x * 4096.).unwrap().round().unwrap() / 4096.).unwrap();
    let at = |offset: f64, dtype: DType| {
        let of = |t: &Tensor| t.to_dtype(dtype).unwrap();
        group_norm(&of(&(&grid + offset).unwrap()), &of(&one), &of(&zero), 2, 1e-12).unwrap()
    };
    let (near, far) = (to_host(&at(0., DType::F64)).unwrap(), to_host(&at(100., DType::F32)).unwrap());
    let off: Vec<f64> = near.iter().zip(&far).map(|(a, b)| a - b).collect();
    assert!(off.iter().all(|off| off.abs() < 1e-3), "{off:?}"); // which a NaN is not
    assert_eq!(exact.dims(), x.dims());
}

/// Value and first and second derivative of `f` at x = +-1e3 in f32.
fn at_extremes(f: impl Fn(&Tensor) -> Result<Tensor>) -> [Vec<f64>; 3] {
    let x = Tensor::new(&[-1e3f32, 1e3, -88.5, 88.5], CPU).unwrap();
    let (_, first) = grad::gradient(&x, |x| f(x)?.sum_all()).unwrap();
    let second = grad::hvp(&x, &x.ones_like().unwrap(), |x| f(x)?.sum_all()).unwrap();
    [f(&x).unwrap(), first, second].map(|t| to_host(&t).unwrap())
}

#[test]
fn activations_are_right_at_large_arguments() {
    let line = [0., 1e3, 0., 88.5];
    let step = [0., 1., 0., 1.];
    let none = [0.; 4];
    let close = |got: [Vec<f64>; 3], expected: [[f64; 4]; 3], name: &str| {
        for (order, (got, expected)) in got.iter().zip(expected).enumerate() {
            for (a, b) in got.iter().zip(expected) {
                assert!((a - b).abs() <= 1e-6 * b.abs().max(1.), "{name}, derivative {order}: {a} for {b}");
            }
        }
    };
    close(at_extremes(act::silu), [line, step, none], "silu");
    close(at_extremes(act::softplus), [line, step, none], "softplus");
    close(at_extremes(act::gelu), [line, step, none], "gelu");
    close(at_extremes(act::sigmoid), [step, none, none], "sigmoid");
}

#[test]
fn nan_goes_through() {
    let x = Tensor::new(&[f32::NAN, 1.], CPU).unwrap();
    for f in [act::silu, act::sigmoid, act::softplus, act::gelu] {
        let y = to_host(&f(&x).unwrap()).unwrap();
        assert!(y[0].is_nan() && y[1].is_finite());
    }
}

#[test]
fn softmax_rows_sum_to_one_at_any_length() {
    for n in [1, 3, 49, 1024, 9000] {
        let x = (normal(&[3, n], 5) * 50.).unwrap();
        let y = attend::softmax(&x).unwrap();
        for sum in to_host(&y.sum(1).unwrap()).unwrap() {
            assert!((sum - 1.).abs() < 1e-5, "{sum} for {n}");
        }
    }
}

#[test]
fn errors_name_what_does_not_fit() {
    let (x, w) = (normal(&[1, 2, 4, 4], 1), normal(&[3, 2, 3, 3], 2));
    let says = |result: Result<Tensor>, what: &str| {
        let message = result.expect_err("an error").to_string();
        assert!(message.contains(what), "{message}");
    };
    let same = Geometry::same(3);
    says(conv2d(&x, &normal(&[3, 5, 3, 3], 2), None, same), "2 channels, the weight takes 5");
    says(conv2d(&x, &w, Some(&normal(&[4], 3)), same), "a bias of shape [4]");
    says(conv2d(&x, &w, None, Geometry { stride: 0, pad: [0; 4] }), "stride is 0");
    says(conv2d(&normal(&[1, 2, 2, 2], 1), &w, None, Geometry { stride: 1, pad: [0; 4] }), "does not fit");
    says(conv2d_input_grad(&x, &w, (4, 4), same), "output gradient of shape");
    says(group_norm(&x, &normal(&[2], 1), &normal(&[2], 1), 3, 1e-5), "3 groups");
    says(group_norm(&x, &normal(&[3], 1), &normal(&[2], 1), 2, 1e-5), "gamma and beta must be [2]");
    says(linear::linear(&x, &normal(&[3, 5], 1), None), "[3, 5] on an input of shape [1, 2, 4, 4]");
    says(resample::downsample_mean(&normal(&[1, 1, 3, 4], 1)), "even, got 3x4");
    says(attend::softmax(&Tensor::zeros((2, 0), DType::F32, CPU).unwrap()), "nothing to sum over");
}

#[test]
fn an_empty_batch_is_no_error() {
    let x = Tensor::zeros((0, 2, 4, 4), DType::F32, CPU).unwrap();
    let y = conv2d(&x, &normal(&[3, 2, 3, 3], 2), None, Geometry::same(3)).unwrap();
    assert_eq!(y.dims(), [0, 3, 4, 4]);
    assert_eq!(group_norm(&x, &normal(&[2], 1), &normal(&[2], 1), 2, 1e-5).unwrap().dims(), x.dims());
    assert_eq!(act::silu(&x).unwrap().dims(), x.dims());
}

/// Against the definition: zeros put in, padding, a convolution with the outer product of the taps, pixels left out.
#[test]
fn filtered_resampling_is_upfirdn() {
    let x = normal(&[2, 3, 6, 5], 1).to_dtype(DType::F64).unwrap();
    let taps = [1., 3., -2., 0.5];
    let (values, (b, c, h, w)) = (to_host(&x).unwrap(), x.dims4().unwrap());
    for (up, down, pad) in [(2, 1, [2, 1]), (1, 2, [1, 1]), (3, 2, [4, -1]), (1, 1, [-1, 3])] {
        let y = fir::upfirdn(&x, &taps, up, down, pad).unwrap();
        let dims = y.dims4().unwrap();
        let at = |image: usize, i: isize, j: isize| {
            let (i, j) = (i - pad[0], j - pad[0]);
            let inside = i >= 0 && j >= 0 && i < (h * up) as isize && j < (w * up) as isize;
            if !inside || i % up as isize != 0 || j % up as isize != 0 {
                return 0.;
            }
            values[(image * h + i as usize / up) * w + j as usize / up]
        };
        let y = to_host(&y).unwrap();
        for image in 0..b * c {
            for (i, j) in (0..dims.2).flat_map(|i| (0..dims.3).map(move |j| (i, j))) {
                let mut sum = 0.;
                for (k, l) in (0..4).flat_map(|k| (0..4).map(move |l| (k, l))) {
                    sum += taps[3 - k] * taps[3 - l] * at(image, (i * down + k) as isize, (j * down + l) as isize);
                }
                let got = y[(image * dims.2 + i) * dims.3 + j];
                assert!((got - sum).abs() < 1e-12, "up {up}, down {down}, pad {pad:?}: {got} for {sum}");
            }
        }
    }
    let ones = Tensor::ones((1, 1, 8, 8), DType::F64, CPU).unwrap();
    let twice = fir::upsample(&ones, &fir::BINOMIAL, 2).unwrap();
    assert_eq!(twice.dims(), [1, 1, 16, 16]);
    assert_eq!(to_host(&twice.narrow(2, 1, 14).unwrap().narrow(3, 1, 14).unwrap()).unwrap(), [1.; 196]);
    assert_eq!(fir::downsample(&twice, &fir::BINOMIAL, 2).unwrap().dims(), [1, 1, 8, 8]);
    assert!(fir::upfirdn(&ones, &[1.; 20], 1, 1, [0, 0]).is_err());
    assert!(fir::upsample(&ones, &[1., -1.], 2).is_err());
}

/// Rows of a product, of any layout, are computed as they are alone: the sum of their terms in order, rounded once each.
#[test]
fn rows_of_a_product_do_not_depend_on_how_many_there_are() {
    for dtype in [DType::F32, DType::F64] {
        for (inputs, outputs) in [(1, 1), (4, 128), (17, 16), (129, 1), (300, 33), (1000, 5), (513, 64)] {
            let of = |dims: &[usize], seed| normal(dims, seed).to_dtype(dtype).unwrap();
            let (x, w) = (of(&[300, inputs], 1), of(&[outputs, inputs], 2)); // more than one job takes
            let turned = w.t().unwrap(); // the same numbers column by column
            let whole = linear::linear(&x, &w, None).unwrap();
            assert!(far(&whole, &x.matmul(&turned).unwrap()) < 1e-4, "{inputs} to {outputs}");
            // the gradient in x multiplies by the weight as it lies
            let back = |x: &Tensor| grad::gradient(x, |x| linear::linear(x, &w, None)?.sqr()).unwrap().1;
            let slope = back(&x);
            for (first, n) in [(0, 1), (299, 1), (3, 2), (5, 8), (20, 9), (5, 65), (0, 32), (90, 129)] {
                let part = x.narrow(0, first, n).unwrap();
                for (name, all, some) in
                    [("y", &whole, linear::linear(&part, &w, None).unwrap()), ("slope", &slope, back(&part))]
                {
                    let all = all.narrow(0, first, n).unwrap();
                    assert_eq!(bits(&all), bits(&some), "{dtype:?} {inputs} to {outputs}: {name} of {n} rows");
                }
            }
        }
    }
}

/// The largest difference; infinite if one is NaN.
fn far(a: &Tensor, b: &Tensor) -> f64 {
    let off = to_host(&(a - b).unwrap()).unwrap();
    off.into_iter().fold(0., |top, off| if off.is_nan() { f64::INFINITY } else { f64::max(top, off.abs()) })
}

/// Attention of a sample, and its gradient, in a batch of any size; of few pixels and of one.
#[test]
fn attention_does_not_depend_on_batch() {
    for dtype in [DType::F32, DType::F64] {
        for pixels in [1, 4, 49, 100] {
            let all: Vec<Tensor> = (1..4).map(|k| normal(&[9, 2, 12, pixels], k).to_dtype(dtype).unwrap()).collect();
            let of = |q: &Tensor, k: &Tensor, v: &Tensor| {
                let f = |q: &Tensor| attend::attention_of_channels(q, k, v, 0.3);
                [f(q).unwrap(), grad::gradient(q, |q| f(q)?.sqr()).unwrap().1]
            };
            let whole = of(&all[0], &all[1], &all[2]);
            for (first, n) in [(0, 1), (8, 1), (1, 2), (1, 8)] {
                let some: Vec<Tensor> = all.iter().map(|t| t.narrow(0, first, n).unwrap()).collect();
                for (whole, part) in whole.iter().zip(of(&some[0], &some[1], &some[2])) {
                    assert_eq!(bits(&whole.narrow(0, first, n).unwrap()), bits(&part), "{dtype:?} {pixels} pixels");
                }
            }
        }
    }
}
