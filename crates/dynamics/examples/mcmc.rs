//! Eight modes by replica exchange: what no single chain finds, with acceptance, effective sample size and R-hat.
//!
//! `cargo run --release -p langevin-dynamics --example mcmc`

#![allow(clippy::print_stdout)] // an example talks

use langevin_dynamics::mcmc::diagnostics::Trace;
use langevin_dynamics::mcmc::{Ladder, Mala, Score};
use langevin_ops::noise::Noise;
use langevin_ops::{DType, Device, Result, Tensor};

fn main() -> Result<()> {
    // E(x) = -ln sum_k exp(-|x - c_k|^2 / 2 s^2), c_k on a circle of radius 2.5, s = 0.35
    let angle = |k: usize| std::f64::consts::TAU * k as f64 / 8.;
    let centres: Vec<f64> = (0..8).flat_map(|k| [2.5 * angle(k).cos(), 2.5 * angle(k).sin()]).collect();
    let centres = Tensor::from_vec(centres, (1, 8, 2), &Device::Cpu)?;
    let ring = |x: &Tensor| {
        let far = x.unsqueeze(1)?.broadcast_sub(&centres)?.sqr()?.sum(2)?; // [B, 8]
        (far * (-0.5 / 0.35f64.powi(2)))?.log_sum_exp(1)?.neg()
    };
    let temperatures = [1., 2., 4., 8., 16.];
    let tempered = temperatures.map(|t| move |x: &Tensor| ring(x)? / t);
    let rungs = tempered.iter().map(|rung| rung as &dyn Score).collect();

    let seeds: Vec<u64> = (0..64).collect();
    let mut noise = Noise::seeds(&seeds);
    let start = noise.normal((64, 2), DType::F64, &Device::Cpu)?;
    let kernel = Mala { step: 0.5, ..Mala::default() };
    let mut ladder = Ladder::new(
        rungs,
        &temperatures.map(|t: f64| 0.35 * t.sqrt()),
        &kernel.into(),
        &vec![start; temperatures.len()],
    )?;
    let mut trace = Trace::default();
    for sweep in 0..1000 {
        ladder.sweep(1, &mut noise)?;
        if sweep >= 200 {
            trace.record(&ladder.views()[0])?;
        }
    }
    for (t, (stats, swaps)) in temperatures.iter().zip(ladder.stats().iter().zip(ladder.swaps())) {
        println!("temperature {t:>2}: {:.2} accepted, {:.2} swapped", stats.acceptance(), swaps.acceptance());
    }
    println!("{:.0} effective draws of {}, R-hat {:.3}", trace.ess(), 64 * trace.steps(), trace.r_hat());
    assert!(trace.r_hat() < 1.1);
    Ok(())
}
