//! Each op forward, backward and double backward, ours beside candle's own, at the sizes of a U-Net on 28x28 digits.
//!
//! `cargo bench -p langevin-ops`

use langevin_ops::conv::{Geometry, conv2d};
use langevin_ops::norm::group_norm_silu;
use langevin_ops::{DType, Device, Result, Tensor, Var, act, attend, check, grad};

fn main() {
    divan::main();
}

/// What is timed.
#[derive(Clone, Copy, Debug)]
enum Case {
    Forward,
    Score,
    Train,
    EnergyTrain,
}

const CASES: [Case; 4] = [Case::Forward, Case::Score, Case::Train, Case::EnergyTrain];

fn tensor(dims: &[usize]) -> Tensor {
    let values: Vec<f32> = (0..dims.iter().product()).map(|i: usize| ((i * 7919 % 2003) as f32) / 1001. - 1.).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

fn run(case: Case, x: &Tensor, vars: &[Var], f: impl Fn(&Tensor) -> Result<Tensor>) {
    let energy = |x: &Tensor| f(x)?.sqr()?.sum_all();
    match case {
        Case::Forward => drop(f(x).unwrap()),
        Case::Score => drop(grad::gradient(x, energy).unwrap()),
        Case::Train => drop(grad::value_and_grad(vars, || energy(x)).unwrap()),
        Case::EnergyTrain => {
            let loss = || grad::gradient(x, energy)?.1.sqr()?.sum_all();
            drop(grad::value_and_grad(vars, loss).unwrap());
        }
    }
}

fn bench(
    bencher: divan::Bencher,
    case: Case,
    dims: &[usize],
    vars: &[&[usize]],
    f: impl Fn(&Tensor, &[Var]) -> Result<Tensor>,
) {
    let x = tensor(dims);
    let vars: Vec<Var> = vars.iter().map(|dims| Var::from_tensor(&(tensor(dims) * 0.05).unwrap()).unwrap()).collect();
    bencher.bench_local(|| run(case, &x, &vars, |x| f(x, &vars)));
}

const IMAGE: &[usize] = &[64, 64, 28, 28];

#[divan::bench(args = CASES, sample_count = 7)]
fn conv3x3(bencher: divan::Bencher, case: Case) {
    bench(bencher, case, IMAGE, &[&[64, 64, 3, 3]], |x, v| conv2d(x, &v[0], None, Geometry::same(3)));
}

#[divan::bench(args = CASES, sample_count = 5)]
fn conv3x3_candle(bencher: divan::Bencher, case: Case) {
    bench(bencher, case, IMAGE, &[&[64, 64, 3, 3]], |x, v| x.conv2d(&v[0], 1, 1, 1, 1));
}

#[divan::bench(args = CASES, sample_count = 7)]
fn conv3x3_small(bencher: divan::Bencher, case: Case) {
    bench(bencher, case, &[64, 64, 7, 7], &[&[64, 64, 3, 3]], |x, v| conv2d(x, &v[0], None, Geometry::same(3)));
}

#[divan::bench(args = CASES, sample_count = 7)]
fn conv1x1(bencher: divan::Bencher, case: Case) {
    let geometry = Geometry { stride: 1, pad: [0; 4] };
    bench(bencher, case, IMAGE, &[&[64, 64, 1, 1]], |x, v| conv2d(x, &v[0], None, geometry));
}

#[divan::bench(args = CASES, sample_count = 7)]
fn norm_silu(bencher: divan::Bencher, case: Case) {
    bench(bencher, case, IMAGE, &[&[64], &[64]], |x, v| group_norm_silu(x, &v[0], &v[1], 8, 1e-5));
}

#[divan::bench(args = CASES, sample_count = 3)]
fn norm_silu_candle(bencher: divan::Bencher, case: Case) {
    let of = |x: &Tensor, v: &[Var]| check::by_composition(|| group_norm_silu(x, &v[0], &v[1], 8, 1e-5));
    bench(bencher, case, IMAGE, &[&[64], &[64]], of);
}

#[divan::bench(args = CASES, sample_count = 7)]
fn silu(bencher: divan::Bencher, case: Case) {
    bench(bencher, case, IMAGE, &[&[1]], |x, v| act::silu(&x.broadcast_mul(&v[0].reshape((1, 1, 1, 1))?)?));
}

#[divan::bench(args = CASES, sample_count = 7)]
fn attention(bencher: divan::Bencher, case: Case) {
    let dims = &[64, 8, 49, 8];
    bench(bencher, case, dims, &[&[64, 8, 49, 8]], |x, v| attend::attention(&(x * v[0].as_tensor())?, x, x, 0.35));
}

#[divan::bench(sample_count = 7)]
fn gemm_rate(bencher: divan::Bencher) {
    let a = Tensor::zeros((2048, 2048), DType::F32, &Device::Cpu).unwrap();
    bencher.bench_local(|| a.matmul(&a).unwrap());
}
