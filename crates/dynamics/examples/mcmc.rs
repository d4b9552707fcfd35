//! Eight modes by replica exchange: what no single chain finds, with acceptance, effective sample size and R-hat.
//!
//! `cargo run --release -p langevin-dynamics --example mcmc`

#![allow(clippy::print_stdout)] // an example talks

use langevin_dynamics::ladder::{Ladder, Tempered, sweep};
use langevin_dynamics::mcmc::diagnostics::Trace;
use langevin_dynamics::mcmc::{Chains, Mala, Stats};
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
    let temperatures = [16f64, 8., 4., 2., 1.];
    let ladder = Tempered::new(&ring, temperatures.map(|t| 1. / t).to_vec())?;

    let seeds: Vec<u64> = (0..64).collect();
    let mut noise = Noise::seeds(&seeds);
    let start = noise.normal((64, 2), DType::F64, &Device::Cpu)?;
    let kernel = Mala { step: 0.5, ..Mala::default() };
    let rung = |i| Ok(Chains::new(ladder.density(i).as_ref(), &start)?.in_units(vec![0.35 * temperatures[i].sqrt()]));
    let mut rungs = (0..ladder.rungs()).map(rung).collect::<Result<Vec<_>>>()?;
    let mut trace = Trace::default();
    let (mut moved, mut swapped) = ([Stats::default(); 5], [Stats::default(); 5]);
    for turn in 0..1000 {
        for (i, swept) in sweep(&kernel, &ladder, 0, &mut rungs, turn, &mut noise)?.into_iter().enumerate() {
            moved[i] += swept.moved;
            swapped[i] += swept.swapped.unwrap_or_default();
        }
        if turn >= 200 {
            trace.record(&rungs[4].at)?;
        }
    }
    for (i, t) in temperatures.iter().enumerate() {
        print!("temperature {t:>2}: {:.2} accepted", moved[i].acceptance());
        println!("{}", if i > 0 { format!(", {:.2} swapped", swapped[i].acceptance()) } else { String::new() });
    }
    println!("{:.0} effective draws of {}, R-hat {:.3}", trace.ess(), 64 * trace.steps(), trace.r_hat());
    assert!(trace.r_hat() < 1.1);
    Ok(())
}
