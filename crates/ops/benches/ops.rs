//! Each op forward, backward and double backward, ours beside candle's own, at the sizes of a U-Net on 28x28 digits.
//!
//! `cargo bench -p langevin-ops`

use langevin_ops::conv::{Geometry, conv2d};
use langevin_ops::norm::group_norm_silu;
use langevin_ops::{DType, Device, Result, Tensor, Var, act, attend, check, fir, grad, linear, resample};

fn main() {
    divan::main();
}

/// What is timed: an op alone, with the gradient in x, in x and its variables, or with the gradient of a gradient.
#[derive(Clone, Copy, Debug)]
enum Case {
    Forward,
    Score,
    Train,
    EnergyTrain,
}
use Case::{EnergyTrain, Forward, Score, Train};

/// By whom.
#[derive(Clone, Copy, Debug)]
enum By {
    Ours,
    Candle,
}
use By::{Candle, Ours};

type Way = (Case, By);

const WAYS: [Way; 8] = [
    (Forward, Ours),
    (Forward, Candle),
    (Score, Ours),
    (Score, Candle),
    (Train, Ours),
    (Train, Candle),
    (EnergyTrain, Ours),
    (EnergyTrain, Candle),
];

fn tensor(dims: &[usize]) -> Tensor {
    let values: Vec<f32> = (0..dims.iter().product()).map(|i: usize| ((i * 7919 % 2003) as f32) / 1001. - 1.).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

fn run(case: Case, x: &Tensor, vars: &[Var], f: impl Fn(&Tensor) -> Result<Tensor>) {
    let energy = |x: &Tensor| f(x)?.sqr()?.sum_all();
    match case {
        Forward => drop(f(x).unwrap()),
        Score => drop(grad::gradient(x, energy).unwrap()),
        Train => drop(grad::value_and_grad(vars, || energy(x)).unwrap()),
        EnergyTrain => {
            let loss = || grad::gradient(x, energy)?.1.sqr()?.sum_all();
            drop(grad::value_and_grad(vars, loss).unwrap());
        }
    }
}

/// `f` of x of shape `dims` and of variables; candle's way is the composition of its own ops.
fn bench(
    bencher: divan::Bencher,
    (case, by): Way,
    dims: &[usize],
    vars: &[&[usize]],
    f: impl Fn(&Tensor, &[Var]) -> Result<Tensor>,
) {
    let x = tensor(dims);
    let vars: Vec<Var> = vars.iter().map(|dims| Var::from_tensor(&(tensor(dims) * 0.05).unwrap()).unwrap()).collect();
    let once = || run(case, &x, &vars, |x| f(x, &vars));
    bencher.bench_local(|| match by {
        Ours => once(),
        Candle => check::by_composition(once),
    });
}

const IMAGE: &[usize] = &[64, 64, 28, 28];
const SMALL: &[usize] = &[64, 64, 7, 7];

macro_rules! ops {
    ($($name:ident: $dims:expr, [$($var:expr),*], |$x:ident, $v:ident| $body:expr;)*) => {
        $(
            #[divan::bench(args = WAYS, sample_count = 5)]
            fn $name(bencher: divan::Bencher, way: Way) {
                bench(bencher, way, $dims, &[$(&$var),*], |$x, $v| $body);
            }
        )*
    };
}

/// x times a variable of one number, for ops without variables.
fn times(x: &Tensor, v: &[Var]) -> Result<Tensor> {
    x.broadcast_mul(v[0].as_tensor())
}

ops! {
    conv3x3: IMAGE, [[64, 64, 3, 3]], |x, v| conv2d(x, &v[0], None, Geometry::same(3));
    conv3x3_small: SMALL, [[64, 64, 3, 3]], |x, v| conv2d(x, &v[0], None, Geometry::same(3));
    conv3x3_stride2: IMAGE, [[64, 64, 3, 3]], |x, v| conv2d(x, &v[0], None, Geometry { stride: 2, pad: [1; 4] });
    conv1x1: IMAGE, [[64, 64, 1, 1]], |x, v| conv2d(x, &v[0], None, Geometry::same(1));
    linear_map: &[3136, 64], [[64, 64], [64]], |x, v| linear::linear(x, v[0].as_tensor(), Some(v[1].as_tensor()));
    norm_silu: IMAGE, [[64], [64]], |x, v| group_norm_silu(x, &v[0], &v[1], 8, 1e-5);
    silu: IMAGE, [[1]], |x, v| act::silu(&times(x, v)?);
    gelu: IMAGE, [[1]], |x, v| act::gelu(&times(x, v)?);
    attention: &[64, 8, 49, 8], [[1]], |x, v| attend::attention(&times(x, v)?, x, x, 0.35);
    upsample: SMALL, [[1]], |x, v| resample::upsample_nearest(&times(x, v)?);
    downsample: IMAGE, [[1]], |x, v| resample::downsample_mean(&times(x, v)?);
    fir_upsample: SMALL, [[1]], |x, v| fir::upsample(&times(x, v)?, &fir::BINOMIAL, 2);
    fir_downsample: IMAGE, [[1]], |x, v| fir::downsample(&times(x, v)?, &fir::BINOMIAL, 2);
}

#[divan::bench(sample_count = 7)]
fn gemm_rate(bencher: divan::Bencher) {
    let a = Tensor::zeros((2048, 2048), DType::F32, &Device::Cpu).unwrap();
    bencher.bench_local(|| a.matmul(&a).unwrap());
}

/// The hidden units' logits of an RBM on digits: by the product of bits, or by the ordinary one.
#[divan::bench(args = [true, false], sample_count = 20)]
fn rbm_logits(bencher: divan::Bencher, of_bits: bool) {
    let (v, w) =
        (tensor(&[100, 784]).ge(0f32).unwrap().to_dtype(DType::F32).unwrap(), tensor(&[784, 500]).t().unwrap());
    bencher.bench_local(|| match of_bits {
        true => linear::linear_of_bits(&v, &w, None).unwrap(),
        false => linear::linear(&v, &w, None).unwrap(),
    });
}
