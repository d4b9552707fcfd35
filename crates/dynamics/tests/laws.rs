//! Laws that every registered sampler obeys, against the exact mixture. A new sampler is tested by being registered.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::{Guard, compare, energy_distance, mixture, steps_for};
use langevin_dynamics::grid::{AnyGrid, Grid, Karras};
use langevin_dynamics::process::{AnyProcess, Process};
use langevin_dynamics::sampler::{AnySampler, prior, run};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;

const N: usize = 20_000;

fn process(name: &str) -> AnyProcess {
    AnyProcess::named(name).unwrap()
}

fn karras(process: &AnyProcess, steps: usize) -> Vec<f64> {
    AnyGrid::from(Karras::default()).get().times(process.get(), steps)
}

/// Samples of `seeds` from the prior of the process, through `times`.
fn draw(
    process: &AnyProcess,
    sampler: &AnySampler,
    times: &[f64],
    seeds: std::ops::Range<u64>,
    dtype: DType,
) -> Result<Tensor> {
    let mut z = Noise::seeds(&seeds.clone().collect::<Vec<_>>());
    let mixture = mixture();
    let exact = mixture.under(process.get());
    let x = prior(process.get(), &[seeds.count(), 2], dtype, &Device::Cpu, &mut z)?;
    run(&Guard(&exact), sampler.clone().get_mut(), times, &x, &mut z, |_| Ok(()))
}

/// Mode occupancy, mean and covariance of each mode, and the sliced energy distance to exact draws.
#[test]
fn every_sampler_draws_the_mixture_under_every_process() {
    let mixture = mixture();
    let exact = mixture.sample(N, &mut Noise::seeds(&(1 << 32..(1 << 32) + N as u64).collect::<Vec<_>>())).unwrap();
    let exact = to_host(&exact).unwrap();
    let mut failed = vec![];
    for process in AnyProcess::defaults() {
        for sampler in AnySampler::defaults() {
            let begun = std::time::Instant::now();
            let times = karras(&process, steps_for(sampler.name()));
            let x = to_host(&draw(&process, &sampler, &times, 0..N as u64, DType::F32).unwrap()).unwrap();
            let found = compare(&x, &mixture);
            let distance = energy_distance(&x, &exact);
            let line = format!(
                "{:8} {:18} {found} distance {distance:.5} {:.1?}",
                process.name(),
                sampler.name(),
                begun.elapsed()
            );
            println!("{line}");
            if !(found.occupancy < 0.015 && found.mean < 0.04 && found.covariance < 0.12 && distance < 1.5e-3) {
                failed.push(line);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
