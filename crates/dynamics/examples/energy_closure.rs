//! An energy given as a closure, sampled by Langevin dynamics: its score is its gradient by autodiff.
//!
//! `cargo run --release -p langevin-dynamics --example energy_closure`

#![allow(clippy::print_stdout)] // an example talks

use langevin_dynamics::mcmc::{Chains, Kernel, Langevin};
use langevin_ops::noise::Noise;
use langevin_ops::shape::sum_per_sample;
use langevin_ops::{DType, Device, Result, Tensor};

fn main() -> Result<()> {
    // E(x) = 2 (|x| - 3)^2: a ring of radius 3
    let ring = |x: &Tensor| sum_per_sample(&x.sqr()?)?.sqrt()?.affine(1., -3.)?.sqr()?.affine(2., 0.);

    let seeds: Vec<u64> = (0..2000).collect();
    let mut noise = Noise::seeds(&seeds);
    let start = noise.normal((seeds.len(), 2), DType::F64, &Device::Cpu)?;
    let mut chains = Chains::new(&ring, &start)?;
    let stats = Langevin { step: 0.02 }.run(&ring, &mut chains, 300, &mut noise)?;

    let radius = sum_per_sample(&chains.at.x.sqr()?)?.sqrt()?;
    let mean = radius.mean_all()?.to_scalar::<f64>()?;
    println!("{} chains, {} bad steps, mean radius {mean:.3}", seeds.len(), stats.nan);
    // p(r) ~ r exp(-2 (r - 3)^2), whose mean is 3 + 1/12
    assert!((mean - 3. - 1. / 12.).abs() < 0.05);
    Ok(())
}
