//! Encoding and its inverse, interpolation of noises, and the start from an image.

#![allow(clippy::print_stdout)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{Fast, mixture};
use langevin_dynamics::grid::{AnyGrid, Karras};
use langevin_dynamics::process::AnyProcess;
use langevin_dynamics::sampler::edit::{cut, encode, noised, slerp};
use langevin_dynamics::sampler::{AnySampler, run};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{norm_per_sample, to_host};

fn seeds(n: usize) -> Vec<u64> {
    (0..n as u64).collect()
}

fn times(process: &AnyProcess, steps: usize) -> Vec<f64> {
    AnyGrid::from(Karras::default()).get().times(process.get(), steps).unwrap()
}

/// decode(encode(x)) = x, and encoded data are noise of the prior.
#[test]
fn encoding_has_an_inverse() {
    let x = mixture().sample(2000, &mut Noise::seeds(&seeds(2000))).unwrap();
    for name in ["vp", "edm", "flow", "cosine"] {
        let process = AnyProcess::named(name).unwrap();
        let exact = Fast::new(&mixture(), process.get());
        for (name, steps, tolerance) in [("rk45", 2, 4e-3), ("heun", 200, 0.02), ("euler", 400, 0.1)] {
            let sampler = AnySampler::named(name).unwrap();
            let grid = times(&process, steps);
            let noise = encode(&exact, &sampler, &grid, &x).unwrap();
            let sigma = process.get().marginal(grid[0]).sigma;
            let values: Vec<f64> = to_host(&noise).unwrap().iter().map(|v| v / sigma).collect();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let variance = values.iter().map(|v| v * v).sum::<f64>() / n;
            assert!(mean.abs() < 0.07 && (variance - 1.).abs() < 0.1, "{process:?} {name}: {mean} {variance}");
            let back = run(&exact, sampler.get(), &grid, &noise, &mut Noise::seeds(&[]), |_| Ok(())).unwrap();
            let off = norm_per_sample(&(&back - &x).unwrap()).unwrap();
            let mean_off = off.iter().sum::<f64>() / off.len() as f64;
            println!("{process:?} {name}: mean distance {mean_off:.1e}");
            assert!(mean_off < tolerance, "{process:?} {name}: {mean_off}");
        }
    }
}

#[test]
fn only_the_ode_encodes() {
    let process = AnyProcess::named("vp").unwrap();
    let exact = Fast::new(&mixture(), process.get());
    let x = Tensor::zeros((1, 2), DType::F64, &Device::Cpu).unwrap();
    let ddpm = AnySampler::named("ddpm").unwrap();
    let error = encode(&exact, &ddpm, &times(&process, 5), &x).unwrap_err().to_string();
    assert!(error.contains("ddpm") && error.contains("heun"), "{error}");
}

#[test]
fn slerp_goes_along_the_sphere() {
    let mut z = Noise::seeds(&seeds(5));
    let a = z.normal((5, 3, 8, 8), DType::F64, &Device::Cpu).unwrap();
    let b = z.normal((5, 3, 8, 8), DType::F64, &Device::Cpu).unwrap();
    let off = |x: &Tensor, y: &Tensor| common::worst(norm_per_sample(&(x - y).unwrap()).unwrap());
    assert!(off(&slerp(&a, &b, 0.).unwrap(), &a) < 1e-12 && off(&slerp(&a, &b, 1.).unwrap(), &b) < 1e-12);
    assert!(off(&slerp(&a, &a, 0.3).unwrap(), &a) < 1e-12);
    // of unit vectors at a right angle, a third of the way is 30 degrees
    let unit = |v: [f64; 2]| Tensor::new(&[v], &Device::Cpu).unwrap();
    let third = slerp(&unit([1., 0.]), &unit([0., 1.]), 1. / 3.).unwrap();
    assert!(off(&third, &unit([0.75f64.sqrt(), 0.5])) < 1e-12);
    // half-way between draws lies a vector as long as a draw, where the straight line's is shorter by sqrt(2)
    for norm in norm_per_sample(&slerp(&a, &b, 0.5).unwrap()).unwrap() {
        assert!((norm / 192f64.sqrt() - 1.).abs() < 0.15, "{norm}");
    }
}

#[test]
fn an_image_is_kept_as_far_as_strength_says() {
    let process = AnyProcess::named("vp").unwrap();
    let exact = Fast::new(&mixture(), process.get());
    let grid = times(&process, 40);
    let x0 = mixture().sample(500, &mut Noise::seeds(&seeds(500))).unwrap();
    let eps = Noise::seeds(&seeds(500)).normal_like(&x0).unwrap();
    let distance = |strength: f64| {
        let left = cut(&grid, strength).unwrap();
        let x = noised(process.get(), &x0, &left[..1], &eps).unwrap();
        let heun = AnySampler::named("heun").unwrap();
        let x = run(&exact, heun.get(), left, &x, &mut Noise::seeds(&[]), |_| Ok(())).unwrap();
        norm_per_sample(&(x - &x0).unwrap()).unwrap().iter().sum::<f64>() / 500.
    };
    let distances = [0., 0.25, 0.5, 0.75, 1.].map(distance);
    println!("{distances:.3?}");
    assert_eq!(distances[0], 0.);
    assert!(distances.windows(2).all(|pair| pair[0] < pair[1]), "{distances:?}");
    assert_eq!(cut(&grid, 1.).unwrap(), grid);
    assert!(cut(&grid, 1.5).unwrap_err().to_string().contains("strength 1.5"));
}
