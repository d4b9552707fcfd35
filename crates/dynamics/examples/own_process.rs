//! A noise process of one's own: give its marginal and its span, and every sampler works with it.
//!
//! `cargo run --release -p langevin-dynamics --example own_process`

#![allow(clippy::print_stdout)] // an example talks

use langevin_dynamics::exact::Mixture;
use langevin_dynamics::grid::{Grid, LogSnr};
use langevin_dynamics::process::{Marginal, Process};
use langevin_dynamics::sampler::{Heun, prior, run};
use langevin_ops::noise::Noise;
use langevin_ops::{DType, Device, Result};

/// On the circle: x_t = cos(t) x_0 + sin(t) eps, almost to pure noise.
#[derive(Debug)]
struct Circle;

impl Process for Circle {
    fn marginal(&self, t: f64) -> Marginal {
        if t <= 0. {
            return Marginal::CLEAN;
        }
        Marginal { alpha: t.cos(), sigma: t.sin(), dalpha: -t.sin(), dsigma: t.cos() }
    }

    fn span(&self) -> (f64, f64) {
        (1e-3, 1.57)
    }
}

fn main() -> Result<()> {
    // two normal peaks, 30% at -2 and 70% at 1: their denoiser is known exactly
    let data = Mixture::isotropic(&[0.3, 0.7], &[vec![-2.], vec![1.]], &[0.05, 0.1])?;
    let seeds: Vec<u64> = (0..4000).collect();
    let mut noise = Noise::seeds(&seeds);
    let start = prior(&Circle, 1.57, &[seeds.len(), 1], DType::F64, &Device::Cpu, &mut noise)?;
    let times = LogSnr::default().times(&Circle, 20)?;
    let x = run(&data.under(&Circle), &Heun::default(), &times, &start, &mut noise, |_| Ok(()))?;

    let x = x.flatten_all()?.to_vec1::<f64>()?;
    let left = x.iter().filter(|&&x| x < -0.5).count() as f64 / x.len() as f64;
    println!("{:.1}% of the samples lie in the left peak, which has 30% of the mass", 100. * left);
    assert!((left - 0.3).abs() < 0.03);
    Ok(())
}
