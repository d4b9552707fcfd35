//! What a measurement leaves of a mixture: four ways to draw from the posterior, beside the exact one.
//!
//! `cargo run --release -p langevin-dynamics --example inverse`

#![allow(clippy::print_stdout)] // an example talks

use langevin_dynamics::grid::{Grid, Karras};
use langevin_dynamics::inverse::{Along, AnyMethod, Measured, Operator, Separable, posterior};
use langevin_dynamics::process::Edm;
use langevin_dynamics::sampler::prior;
use langevin_dynamics::{FromEnergy, Mixture};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{sum_per_sample, to_host};
use langevin_ops::{DType, Device, Result, Tensor};

fn main() -> Result<()> {
    // x is normal with correlation 0.8; measured is y = x_1 + 0.3 n, the first of its two numbers
    let (variance, covariance) = (1., 0.8);
    let matrix = vec![variance, covariance, covariance, variance];
    let data = Mixture::full(&[1.], &[vec![0., 0.]], &[matrix])?;
    let row = Along::new(1, &Tensor::new(&[[1f64, 0.]], &Device::Cpu)?)?;
    let first: Box<dyn Operator> = Box::new(Separable::new(vec![row], Some(1.))?);
    let seen = Measured::new(first, Tensor::new(&[[1.5f64]], &Device::Cpu)?, 0.3)?;
    let exact = posterior(&data, &seen, &[2])?;
    println!("{:<8} mean {:>6.3?}", "exact", exact.moments().0);

    // its energy at every noise level, of operations that can be differentiated: dps needs them
    let process = Edm { sigma_min: 0.02, sigma_max: 20. };
    let energy = |x: &Tensor, t: &[f64]| {
        let (a, b) = (variance + t[0] * t[0], covariance);
        let (x, y) = (x.narrow(1, 0, 1)?, x.narrow(1, 1, 1)?);
        let squares = (((x.sqr()? + y.sqr()?)? * a)? - ((x * y)? * (2. * b))?)?;
        sum_per_sample(&squares)?.affine(0.5 / (a * a - b * b), 0.)
    };
    let model = FromEnergy::new(&process, energy)?;
    let seeds: Vec<u64> = (0..400).collect();
    let times = Karras::default().times(&process, 40)?;
    for mut method in AnyMethod::defaults() {
        if let AnyMethod::Dps(dps) = &mut method {
            dps.scale = 0.2; // a step of 1 is for images, whose norm is tens
        }
        let mut z = Noise::seeds(&seeds);
        let start = prior(&process, times[0], &[seeds.len(), 2], DType::F64, &Device::Cpu, &mut z)?;
        let x = method.get().draw(&model, &seen, &times, &start, &mut z, &mut |_| Ok(()))?;
        let mean = to_host(&x.mean(0)?)?;
        println!("{:<8} mean {mean:>6.3?}", method.name());
        let far = mean.iter().zip(&exact.moments().0).map(|(a, b)| (a - b).abs()).fold(0., f64::max);
        assert!(far < if method.name() == "mcmc" { 0.15 } else { 0.6 }, "{}: {far}", method.name());
    }
    Ok(())
}
