//! A table of betas: its precision, and a model of its entries under continuous samplers.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::{Fast, compare, energy_distance, mixture};
use langevin_dynamics::grid::AnyGrid;
use langevin_dynamics::predict::Eps;
use langevin_dynamics::process::{Betas, Process, Table, TableOptions};
use langevin_dynamics::sampler::{AnySampler, prior, run};
use langevin_dynamics::{Cond, Denoiser, Net, Preconditioned};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;

/// A network that predicts the mixture's noise exactly, at the entry that it is told: between entries too.
struct Exact {
    table: Table,
}

impl Net for Exact {
    fn forward(&self, x: &Tensor, c_noise: &Tensor, _: &Cond) -> Result<Tensor> {
        let mixture = mixture();
        Fast::new(&mixture, &self.table).eps(x, &[to_host(c_noise)?[0] + 1.])
    }
}

/// A model of a table is one for continuous samplers and grids: times between its entries are matched by SNR.
#[test]
fn a_table_serves_continuous_samplers() -> Result<()> {
    let options = TableOptions { beta_schedule: Betas::ScaledLinear, single_precision: true, ..Default::default() };
    let table = Table::new(options)?;
    let (net, process) = (Exact { table: table.clone() }, &table);
    let model = Preconditioned::new(&net, process, &Eps {}, 1., Cond::default())?;
    let n = 20_000;
    let mixture = mixture();
    let draws = Noise::seeds(&(1 << 32..(1 << 32) + n).collect::<Vec<u64>>());
    let exact = to_host(&mixture.sample(n as usize, &mut draws.clone())?)?;
    let seeds: Vec<u64> = (0..n).collect();
    for (sampler, grid, steps) in [
        ("heun", "karras", 60),
        ("dpmpp-2m", "karras", 60),
        ("dpmpp-2m", "log-snr", 60),
        ("heun", "beta", 120),
        ("unipc", "log-snr", 60),
        ("edm-stochastic", "karras", 80),
    ] {
        let times = AnyGrid::named(grid).unwrap().get().times(process, steps)?;
        let between = times.iter().filter(|t| t.fract() != 0.).count();
        assert!(between > steps / 2, "{grid} has only {between} times between entries");
        let sampler = AnySampler::named(sampler).unwrap();
        let mut z = Noise::seeds(&seeds);
        let x = prior(process, times[0], &[n as usize, 2], DType::F64, &Device::Cpu, &mut z)?;
        let x = to_host(&run(&model, sampler.get(), &times, &x, &mut z, |_| Ok(()))?)?;
        let (found, distance) = (compare(&x, &mixture), energy_distance(&x, &exact));
        let line = format!("{} on {grid}: {found} distance {distance:.5}", sampler.name());
        assert!(found.occupancy < 0.014 && found.mean < 0.025 && found.covariance < 0.08, "{line}");
        assert!(distance < 6e-4, "{line}");
    }
    Ok(())
}

/// Rounded to single precision the first entry is 1 - beta as PyTorch has it, and all stay close to the exact ones.
#[test]
fn single_precision() {
    let table = |single_precision| Table::new(TableOptions { single_precision, ..Default::default() }).unwrap();
    let (rounded, exact) = (table(true), table(false));
    let first = f64::from(1f32 - 1e-4f32);
    assert!((rounded.log_snr(1.) - (first / (1. - first)).ln()).abs() < 1e-12);
    for t in [1., 10., 500., 1000.] {
        let apart = (rounded.log_snr(t) - exact.log_snr(t)).abs();
        assert!(apart > 0. && apart < 1e-3, "{t}: {apart}");
    }
}
