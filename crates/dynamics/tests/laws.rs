//! Laws that every registered sampler obeys, against the exact mixture. A new sampler is tested by being registered.

#![allow(clippy::print_stdout)]

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::{
    Fast, Guard, bound_for, compare, draws_for, energy_distance, few_and_many, largest, mixture, steps_for, worst,
    worth,
};
use langevin_dynamics::grid::{AnyGrid, Karras};
use langevin_dynamics::process::{AnyProcess, Flow, Table, TableOptions};
use langevin_dynamics::sampler::{AnySampler, Rk45, Step, prior, run};
use langevin_dynamics::{Denoiser, Frame, NoisyEnergy};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;

const N: usize = common::DRAWS;

fn process(name: &str) -> AnyProcess {
    AnyProcess::named(name).unwrap()
}

fn karras(process: &AnyProcess, steps: usize) -> Vec<f64> {
    AnyGrid::from(Karras::default()).get().times(process.get(), steps).unwrap()
}

fn uniform(process: &AnyProcess, steps: usize) -> Vec<f64> {
    AnyGrid::named("uniform").unwrap().get().times(process.get(), steps).unwrap()
}

/// The exact consistency function of the process: the end of the trajectory of the ODE.
struct Trajectory<'a>(&'a dyn Denoiser);

impl Denoiser for Trajectory<'_> {
    fn frame(&self) -> Frame<'_> {
        self.0.frame()
    }

    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        const STEPS: usize = 24;
        let (low, process) = (self.process().span().0, self.process());
        let root = |t: f64| (-0.5 * process.log_snr(t)).exp().min(1000.).powf(1. / 7.);
        let at = |t: f64, i: usize| match i {
            0 => t,
            STEPS => 0.,
            _ => {
                let part = i as f64 / (STEPS - 1) as f64;
                process.t_at(-14. * (root(t) + part * (root(low) - root(t))).ln())
            }
        };
        let heun = AnySampler::named("heun").map_err(candle_core::Error::Msg)?;
        let (mut x, mut now) = (x.clone(), t.to_vec());
        for i in 1..=STEPS {
            let next: Vec<f64> = t.iter().map(|&t| at(t, i)).collect();
            x = heun.get().start(&[]).step(self.0, &x, Step { t: &now, s: &next }, &mut Noise::seeds(&[]))?;
            now = next;
        }
        Ok(x)
    }
}

/// `model`, or its consistency function where the sampler wants one.
fn run_on(model: &dyn Denoiser, sampler: &AnySampler, times: &[f64], x: &Tensor, z: &mut Noise) -> Result<Tensor> {
    let consistency = Trajectory(model);
    let model = if sampler.get().needs().consistency { &consistency } else { model };
    run(model, sampler.get(), times, x, z, |_| Ok(()))
}

/// Samples of `seeds` from the prior of the process, through `times`.
fn draw(process: &AnyProcess, sampler: &AnySampler, times: &[f64], seeds: &[u64], dtype: DType) -> Result<Tensor> {
    let mut z = Noise::seeds(seeds);
    let exact = Fast::new(&mixture(), process.get());
    let x = prior(process.get(), process.get().span().1, &[seeds.len(), 2], dtype, &Device::Cpu, &mut z)?;
    run_on(&Guard(&exact), sampler, times, &x, &mut z)
}

fn seeds(n: usize) -> Vec<u64> {
    (0..n as u64).collect()
}

fn exact_draws(n: usize) -> Vec<f64> {
    to_host(&mixture().sample(n, &mut Noise::seeds(&(1 << 32..(1 << 32) + n as u64).collect::<Vec<_>>())).unwrap())
        .unwrap()
}

/// The oracle of these tests is the library's.
#[test]
fn the_fast_mixture_is_the_exact_one() {
    let mixture = mixture();
    for process in AnyProcess::defaults() {
        let (low, high) = process.get().span();
        let x = Noise::seeds(&seeds(50)).normal((50, 2), DType::F64, &Device::Cpu).unwrap();
        for part in [0., 0.3, 0.9, 1.] {
            let t = [low + part * (high - low)];
            let x = (&x * (2. * process.get().marginal(t[0]).sigma.max(0.5))).unwrap();
            let (fast, exact) = (Fast::new(&mixture, process.get()), mixture.under(process.get()));
            assert!(largest(&fast.x0(&x, &t).unwrap(), &exact.x0(&x, &t).unwrap()) < 1e-9, "{process:?} {t:?}");
            let (fast, exact) = (fast.energy_grad(&x, &t).unwrap(), exact.energy_grad(&x, &t).unwrap());
            let (energy, gradient) = (largest(&fast.0, &exact.0), largest(&fast.1, &exact.1));
            assert!(energy < 1e-7 && gradient < 1e-4, "{process:?} {t:?}: {energy} {gradient}");
        }
    }
}

/// Mode occupancy, mean and covariance of each mode, and the sliced energy distance to exact draws.
#[test]
fn every_sampler_draws_the_mixture_under_every_process() {
    let mixture = mixture();
    let exact = exact_draws(N);
    let mut failed = vec![];
    for process in AnyProcess::defaults() {
        for sampler in AnySampler::defaults() {
            let begun = std::time::Instant::now();
            let times = karras(&process, steps_for(sampler.name()));
            let n = draws_for(sampler.name());
            let x = to_host(&draw(&process, &sampler, &times, &seeds(n), DType::F32).unwrap()).unwrap();
            let found = compare(&x, &mixture);
            let distance = energy_distance(&x, &exact);
            let line = format!(
                "{:8} {:18} {found} distance {distance:.5} {:.1?}",
                process.name(),
                sampler.name(),
                begun.elapsed()
            );
            println!("{line}");
            if !bound_for(sampler.name()).holds(&found, distance) {
                failed.push(line);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Slope of the error against a fine solution, between t = 0.9 and 0.1 of flow, in even steps of t.
#[test]
fn the_ode_solvers_converge_with_their_order() {
    let process = AnyProcess::from(Flow::default());
    let even = |n: usize| (0..=n).map(|i| 0.9 - 0.8 * i as f64 / n as f64).collect::<Vec<_>>();
    let mut fine: AnySampler = Rk45::default().into();
    if let AnySampler::Rk45(fine) = &mut fine {
        (fine.atol, fine.rtol, fine.max_steps) = (1e-12, 1e-12, 100_000);
    }
    let truth = draw(&process, &fine, &even(1), &seeds(64), DType::F64).unwrap();
    let mut failed = vec![];
    for sampler in AnySampler::defaults() {
        let Some(order) = sampler.get().order() else { continue };
        let error = |n: usize| largest(&draw(&process, &sampler, &even(n), &seeds(64), DType::F64).unwrap(), &truth);
        let errors = [error(40), error(80), error(160)];
        let slopes = [(errors[0] / errors[1]).log2(), (errors[1] / errors[2]).log2()];
        let line = format!("{:10} order {order}, slopes {slopes:.2?}, errors {errors:?}", sampler.name());
        println!("{line}");
        // an adaptive one has its tolerance in place of the slope
        if !(slopes[1] > f64::from(order) - 0.3 || errors[2] < 1e-5 && sampler.name() == "rk45") {
            failed.push(line);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn rk45_keeps_its_tolerance() {
    for process in AnyProcess::defaults() {
        let solve = |tolerance: f64| {
            let mut sampler = Rk45::default();
            (sampler.atol, sampler.rtol, sampler.max_steps) = (tolerance, tolerance, 100_000);
            draw(&process, &sampler.into(), &karras(&process, 2), &seeds(64), DType::F64).unwrap()
        };
        let truth = solve(1e-12);
        let errors = [1e-3, 1e-5, 1e-7].map(|tolerance| largest(&solve(tolerance), &truth));
        println!("{}: {errors:?}", process.name());
        // where the flow divides between modes, an error grows on its way
        assert!(errors[0] < 0.3 && errors[1] < 3e-3 && errors[2] < 3e-5, "{process:?}: {errors:?}");
    }
}

/// The more steps, the nearer to the data, down to the noise of the draws. With the exact consistency function any number
/// of steps is as good.
#[test]
fn the_bias_of_the_stochastic_ones_shrinks() {
    let exact = exact_draws(N);
    for name in ["vp", "edm", "flow"] {
        for sampler in
            AnySampler::defaults().iter().filter(|s| s.get().order().is_none() && !s.get().needs().consistency)
        {
            let n = draws_for(sampler.name());
            let distance = |steps: usize| {
                let x = draw(&process(name), sampler, &karras(&process(name), steps), &seeds(n), DType::F32).unwrap();
                energy_distance(&to_host(&x).unwrap(), &exact)
            };
            let (few, many) = few_and_many(sampler.name());
            let (few, many) = (distance(few), distance(many));
            println!("{name:5} {:18} {few:.5} {many:.5}", sampler.name());
            assert!(
                many < 0.5 * few || many < 3e-4 * (N / worth(sampler.name())) as f64,
                "{name} {}: {few} {many}",
                sampler.name()
            );
        }
    }
}

/// Sample n depends on seed n alone: not on its batch, nor on the number of threads.
#[test]
fn a_sample_is_its_seeds_own() {
    let pool = |n: usize| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    for name in ["vp", "flow"] {
        for sampler in AnySampler::defaults() {
            let times = karras(&process(name), 10);
            let of = |seeds: &[u64]| draw(&process(name), &sampler, &times, seeds, DType::F32).unwrap();
            let all = pool(1).install(|| of(&seeds(11)));
            let again = pool(2).install(|| of(&seeds(11)));
            let parts = Tensor::cat(&[of(&seeds(11)[..4]), of(&seeds(11)[4..])], 0).unwrap();
            assert!(largest(&all, &again) == 0., "{name} {}: threads", sampler.name());
            let alone = sampler.get().needs().population || largest(&all, &parts) == 0.;
            assert!(alone, "{name} {}: batch", sampler.name());
        }
    }
}

/// A second run with the same sampler is not haunted by the first.
#[test]
fn a_run_forgets_the_last() {
    let process = process("vp");
    let mixture = mixture();
    let exact = Fast::new(&mixture, process.get());
    for sampler in AnySampler::defaults() {
        let go = || {
            let mut z = Noise::seeds(&seeds(3));
            let x = prior(process.get(), process.get().span().1, &[3, 2], DType::F64, &Device::Cpu, &mut z).unwrap();
            run(&exact, sampler.get(), &karras(&process, 7), &x, &mut z, |_| Ok(())).unwrap()
        };
        assert!(largest(&go(), &go()) == 0., "{}", sampler.name());
    }
}

/// Times of each sample's own give what one time for all gives.
#[test]
fn times_may_be_each_samples_own() {
    for name in ["vp", "flow", "edm"] {
        let (process, mixture) = (process(name), mixture());
        let exact = Fast::new(&mixture, process.get());
        let times = karras(&process, 6);
        for sampler in AnySampler::defaults() {
            let go = |wide: bool| {
                let mut z = Noise::seeds(&seeds(3));
                let mut x =
                    prior(process.get(), process.get().span().1, &[3, 2], DType::F64, &Device::Cpu, &mut z).unwrap();
                let mut run = sampler.get().start(&times);
                for pair in times.windows(2) {
                    let n = if wide { 3 } else { 1 };
                    let (t, s) = (vec![pair[0]; n], vec![pair[1]; n]);
                    x = run.step(&exact, &x, Step { t: &t, s: &s }, &mut z).unwrap();
                }
                x
            };
            assert!(largest(&go(true), &go(false)) < 1e-12, "{name} {}", sampler.name());
        }
    }
}

/// From alpha = 0 every sampler starts cleanly, on a coarse grid even in t too.
#[test]
fn pure_noise_is_a_clean_start() {
    let zero = TableOptions { rescale_betas_zero_snr: true, ..Default::default() };
    let zero = AnyProcess::from(Table::new(zero).unwrap());
    for process in [process("flow"), process("cosine"), zero] {
        let (_, end) = process.get().span();
        assert!(process.get().marginal(end).alpha < 1e-9);
        for sampler in AnySampler::defaults() {
            for times in [uniform(&process, 10), karras(&process, 10), uniform(&process, 1)] {
                let x = draw(&process, &sampler, &times, &seeds(200), DType::F32).unwrap();
                let top = worst(to_host(&x).unwrap().into_iter().map(f64::abs));
                assert!(top < 100., "{} {} in {} steps: {top}", process.name(), sampler.name(), times.len() - 1);
            }
        }
    }
}
