//! MCMC inside samplers: any kernel corrects, by energies or by a score alone, and what it did is told level by level.

#![allow(clippy::print_stdout)]

mod common;

use candle_core::{DType, Device};
use common::{DRAWS, Fast, Plain, bound_for, compare, energy_distance, mixture};
use langevin_dynamics::grid::{AnyGrid, Karras};
use langevin_dynamics::mcmc::{AnyKernel, Mala};
use langevin_dynamics::process::AnyProcess;
use langevin_dynamics::sampler::{AnnealedMcmc, AnySampler, Pc, Report, Sampler, Tempering, follow, prior};
use langevin_dynamics::{Denoiser, Expression, Mixture, Sum};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;

const N: usize = 4000;

/// Samples of the first `n` seeds in `steps` steps, and what the sampler reports.
fn draw(sampler: &dyn Sampler, steps: usize, n: usize, energy: bool) -> (Vec<f64>, Option<Report>) {
    let process = AnyProcess::named("edm").unwrap();
    let times = AnyGrid::from(Karras::default()).get().times(process.get(), steps).unwrap();
    let mut z = Noise::seeds(&(0..n as u64).collect::<Vec<_>>());
    let x = prior(process.get(), times[0], &[n, 2], DType::F64, &Device::Cpu, &mut z).unwrap();
    let fast = Fast::new(&mixture(), process.get());
    let plain = Plain(&fast);
    let model: &dyn Denoiser = if energy { &fast } else { &plain };
    let steps: Vec<_> = times.windows(2).map(|pair| (pair[0], pair[1])).collect();
    let drawn = follow(model, sampler, &steps, &x, &mut z, |_| Ok(())).unwrap();
    (to_host(&drawn.x).unwrap(), drawn.report)
}

/// In few steps a reverse SDE misses the data by far; a corrector at each level brings it nearer, whichever it is.
#[test]
fn every_kernel_corrects() {
    let exact =
        to_host(&mixture().sample(N, &mut Noise::seeds(&(1 << 32..(1 << 32) + N as u64).collect::<Vec<_>>())).unwrap());
    let exact = exact.unwrap();
    let alone = Pc { corrector_steps: 0, ..Pc::default() };
    let (x, report) = draw(&alone, 16, N, true);
    assert!(report.is_none());
    let before = energy_distance(&x, &exact);
    for kernel in AnyKernel::defaults().into_iter().filter(|kernel| kernel.check_by_score().is_ok()) {
        let name = kernel.name();
        let pc = Pc { corrector: Some(kernel), corrector_steps: 4, ..Pc::default() };
        let (x, report) = draw(&pc, 16, N, true);
        let (after, levels) = (energy_distance(&x, &exact), report.unwrap().levels);
        assert!(after < 0.6 * before, "{name}: {before} -> {after}");
        assert_eq!(levels.len(), 16);
        let refused = levels.iter().any(|level| level.visit.stats.acceptance() < 0.99);
        assert_eq!(refused, name != "langevin", "{name}");
        for level in &levels {
            let (stats, ess) = (level.visit.stats, level.visit.trace.ess());
            assert_eq!((stats.proposed, stats.nan, level.visit.trace.chains()), (4 * N as u64, 0, N), "{name}");
            assert!((0.45..=1.).contains(&stats.acceptance()), "{name} at {}: {stats:?}", level.t);
            // no fewer than there are chains, which are independent, and R-hat tells whether they agree
            assert!(
                ess > 100. && level.visit.trace.r_hat() > 0.9 && level.noise == level.t,
                "{name} at {}: {ess}",
                level.t
            );
        }
    }
}

/// Whatever leads from level to level, a corrector brings it within the bounds of more steps.
#[test]
fn every_reverse_sde_is_corrected() {
    let (mixture, seeds) = (mixture(), (1 << 32..(1 << 32) + DRAWS as u64).collect::<Vec<_>>());
    let exact = to_host(&mixture.sample(DRAWS, &mut Noise::seeds(&seeds)).unwrap()).unwrap();
    for name in ["ddpm", "euler-maruyama", "dpmpp-2m-sde"] {
        let [(alone, before), (corrected, after)] = [0, 1].map(|corrector_steps| {
            let predictor = Box::new(AnySampler::named(name).unwrap());
            let (corrector, adapt) = (Some(Mala::default().into()), 4 * corrector_steps);
            let pc = Pc { predictor, corrector, corrector_steps, adapt, ..Pc::default() };
            let (x, _) = draw(&pc, 32, DRAWS, true);
            (compare(&x, &mixture), energy_distance(&x, &exact))
        });
        println!("{name}: {alone} distance {before:.5}; corrected: {corrected} distance {after:.5}");
        assert!(bound_for("pc").holds(&corrected, after) && after < 0.3 * before, "{name}: {corrected} {after}");
    }
}

/// Acceptance by the line integral of the score is that by the energy: the same chains, but for a rare decision, and its
/// error is told.
#[test]
fn a_score_alone_is_enough() {
    let n = 300;
    let make = || {
        let kernel = Some(Mala { step: 0.3, ..Mala::default() }.into());
        Pc { corrector: kernel, corrector_steps: 2, adapt: 0, ..Pc::default() }
    };
    let ((exact, by_energy), (line, by_score)) = (draw(&make(), 16, n, true), draw(&make(), 16, n, false));
    let same = exact.iter().zip(&line).filter(|(a, b)| (*a - *b).abs() < 1e-9).count();
    assert!(same > 2 * n * 97 / 100, "{same} of {}", 2 * n);
    let mut most = 0f64;
    for (energy, score) in by_energy.unwrap().levels.iter().zip(by_score.unwrap().levels) {
        let (energy, score) = (energy.visit.stats, score.visit.stats);
        assert!((energy.acceptance() - score.acceptance()).abs() < 0.01, "{energy:?} {score:?}");
        assert!(energy.mean_error() < 1e-9 && score.mean_error() < 0.1, "{energy:?} {score:?}");
        most = most.max(score.mean_error());
    }
    assert!(most > 1e-6, "{most}"); // between the modes the quadrature has to work
}

/// Reports of batches add up to that of all, and each run has its own.
#[test]
fn reports_of_batches_add_up() {
    let samplers: [AnySampler; 2] = [AnnealedMcmc::default().into(), Tempering::default().into()];
    for sampler in samplers {
        let (_, whole) = draw(sampler.get(), 5, 40, true);
        let (_, again) = draw(sampler.get(), 5, 40, true);
        let (whole, mut both) = (whole.unwrap(), again.unwrap());
        assert_eq!(whole.levels.len(), both.levels.len());
        both.append(whole.clone());
        let levels = both.levels.iter().zip(&whole.levels).map(|(both, whole)| (&both.visit, &whole.visit));
        for (both, whole) in levels {
            assert_eq!(both.stats.accepted, 2 * whole.stats.accepted);
            assert_eq!((both.trace.chains(), both.trace.steps()), (80, whole.trace.steps()));
            assert_eq!(both.swaps.map(|s| s.proposed), whole.swaps.map(|s| 2 * s.proposed));
        }
        let swapped = whole.levels.iter().skip(1).all(|level| level.visit.swaps.is_some_and(|s| s.accepted > 0));
        assert_eq!(swapped, sampler.name() == "tempering");
    }
}

/// With one sweep a level all neighbours swap, in turn.
#[test]
fn every_pair_swaps_with_one_sweep_a_level() {
    let n = 20;
    for sweeps in [1, 2, 3] {
        let sampler = Tempering { sweeps, ..Tempering::default() };
        let (_, report) = draw(&sampler, 12, n, true);
        let levels = report.unwrap().levels;
        for (k, level) in levels.iter().enumerate().skip(1) {
            // the pair is there in all sweeps from its own level on, and swaps in every second
            let turns = (levels.len() - k) * sweeps;
            let proposed = level.visit.swaps.map_or(0, |swaps| swaps.proposed) / n as u64;
            assert!(
                proposed.abs_diff(turns as u64 / 2) <= 1 && proposed > 0,
                "{sweeps} a level: {proposed} of {turns} at {k}"
            );
        }
    }
}

/// Weighed particles tell of each level once, the noisiest first.
#[test]
fn smc_tells_of_each_level_once() {
    let (_, report) = draw(AnySampler::named("smc").unwrap().get(), 6, 30, true);
    let noises: Vec<f64> = report.unwrap().levels.iter().map(|level| level.noise).collect();
    let process = AnyProcess::named("edm").unwrap();
    let times = AnyGrid::from(Karras::default()).get().times(process.get(), 6).unwrap();
    assert_eq!(noises, times[..6]);
}

/// A kernel without a test of acceptance leaves no level as it is, and weights would not be those of what it draws.
#[test]
fn smc_refuses_a_kernel_without_a_test() {
    let why = serde_json::from_str::<AnySampler>(r#"{"name": "smc", "kernel": {"name": "langevin"}}"#).unwrap_err();
    assert!(why.to_string().contains("langevin has no test of acceptance"), "{why}");
}

/// Of a square the shares of the modes are those of the squared weights. No reverse process leads there, and steps within a mode
/// do not either: swaps with noisier levels do.
#[test]
fn replicas_bring_modes_their_shares() {
    let process = AnyProcess::named("edm").unwrap();
    let two = Mixture::isotropic(&[0.7, 0.3], &[vec![-1.2, 0.], vec![1.2, 0.]], &[0.16; 2]).unwrap();
    let exact = two.under(process.get());
    let model = Sum::composed(&Expression::parse("2*a").unwrap(), &[("a", &exact)], 1.).unwrap();
    let times = AnyGrid::from(Karras::default()).get().times(process.get(), 24).unwrap();
    // the square of a mode is N(c, 0.08), and what the modes have in common at 1.2^2 / 0.16 is nothing
    let truth = 0.49 / (0.49 + 0.09);
    let share = |replicas: usize, n: usize| {
        let corrector = Some(Mala::default().into());
        let pc = Pc { corrector, corrector_steps: 3, replicas, ..Pc::default() };
        let mut z = Noise::seeds(&(0..n as u64).collect::<Vec<_>>());
        let x = prior(process.get(), times[0], &[n, 2], DType::F64, &Device::Cpu, &mut z).unwrap();
        let x = (x / model.prior_precision().sqrt()).unwrap();
        let steps: Vec<_> = times.windows(2).map(|pair| (pair[0], pair[1])).collect();
        let drawn = follow(&model, &pc, &steps, &x, &mut z, |_| Ok(())).unwrap();
        let x = to_host(&drawn.x).unwrap();
        let left: Vec<&[f64]> = x.chunks(2).filter(|x| x[0] < 0.).collect();
        let variance = left.iter().map(|x| ((x[0] + 1.2).powi(2) + x[1].powi(2)) / 2.).sum::<f64>() / left.len() as f64;
        (left.len() as f64 / n as f64, variance, drawn.report.unwrap())
    };
    let n = 4000;
    let [(alone, _), (swapped, report)] = [1, 8].map(|replicas| {
        let (share, variance, report) = share(replicas, n);
        println!("{replicas}: {share:.4} of {truth:.4}, variance {variance:.4} of 0.08");
        assert!((variance / 0.08 - 1.).abs() < 4. / (share * n as f64).sqrt(), "{replicas}: {variance}");
        (share, report)
    });
    let error = (truth * (1. - truth) / n as f64).sqrt();
    assert!((alone - truth).abs() > 3.5 * error && (swapped - truth).abs() < 2.5 * error, "{alone} {swapped} {truth}");
    // the first level has no run behind it
    let swaps: Vec<f64> = report.levels.iter().filter_map(|level| level.visit.swaps.map(|s| s.acceptance())).collect();
    assert!(swaps.len() == 23 && swaps.iter().all(|rate| *rate > 0.6), "{swaps:.2?}");
}

/// Swaps leave exact levels as they are, in few steps of any reverse SDE, for an energy and for a score alone; and the replicas
/// of a chain are its own.
#[test]
fn replicas_leave_exact_levels_as_they_are() {
    let (mixture, seeds) = (mixture(), (1 << 32..(1 << 32) + DRAWS as u64).collect::<Vec<_>>());
    let exact = to_host(&mixture.sample(DRAWS, &mut Noise::seeds(&seeds)).unwrap()).unwrap();
    for (name, energy) in [("ddpm", true), ("dpmpp-2m-sde", true), ("euler-maruyama", true), ("euler-maruyama", false)]
    {
        let make = || {
            let (predictor, corrector) = (Box::new(AnySampler::named(name).unwrap()), Some(Mala::default().into()));
            Pc { predictor, corrector, replicas: 3, ..Pc::default() }
        };
        let (x, report) = draw(&make(), 32, DRAWS, energy);
        let (found, distance) = (compare(&x, &mixture), energy_distance(&x, &exact));
        println!("{name}: {found} distance {distance:.5}");
        assert!(bound_for("pc").holds(&found, distance), "{name}: {found} {distance}");
        assert_eq!(report.unwrap().levels.len(), 32);
        let (few, _) = draw(&make(), 32, 10, energy);
        let same = few.iter().zip(&x).all(|(few, all)| (few - all).abs() < 1e-9);
        assert!(same, "{name}: what is drawn depends on what is drawn beside it");
    }
}

/// Where a process begins at pure noise there is nothing to correct: that level is left out, of the report too.
#[test]
fn replicas_leave_pure_noise_out() {
    let (process, mixture) = (AnyProcess::named("cosine").unwrap(), mixture());
    let times = AnyGrid::from(Karras::default()).get().times(process.get(), 8).unwrap();
    let pc = Pc { corrector: Some(Mala::default().into()), replicas: 3, ..Pc::default() };
    let (mut z, n) = (Noise::seeds(&(0..50).collect::<Vec<_>>()), 50);
    let x = prior(process.get(), times[0], &[n, 2], DType::F64, &Device::Cpu, &mut z).unwrap();
    let model = Fast::new(&mixture, process.get());
    let steps: Vec<_> = times.windows(2).map(|pair| (pair[0], pair[1])).collect();
    let drawn = follow(&model, &pc, &steps, &x, &mut z, |_| Ok(())).unwrap();
    let x = to_host(&drawn.x).unwrap();
    assert!(x.iter().all(|v| v.abs() < 5.), "{x:?}");
    let pure =
        times.iter().filter(|&&t| t > 0. && process.get().marginal(t).sigma > 1e3 * process.get().marginal(t).alpha);
    let (pure, levels) = (pure.count(), drawn.report.unwrap().levels);
    assert!(pure > 0 && levels.len() == 8 - pure, "{pure} of 8, {} told", levels.len());
    assert!(levels.iter().all(|level| level.visit.stats.proposed == n as u64), "{levels:?}");
}

/// Without a test of acceptance nothing leaves the levels as they are between swaps.
#[test]
fn replicas_want_a_kernel_with_a_test() {
    for corrector in ["", r#", "corrector": {"name": "langevin"}"#] {
        let read = serde_json::from_str::<AnySampler>(&format!(r#"{{"name": "pc", "replicas": 2{corrector}}}"#));
        let why = read.unwrap_err().to_string();
        assert!(why.contains("replicas is 2") && why.contains("corrector=mala"), "{why}");
    }
    let none = r#"{"name": "pc", "replicas": 2, "corrector_steps": 0, "corrector": {"name": "mala"}}"#;
    assert!(serde_json::from_str::<AnySampler>(none).unwrap_err().to_string().contains("corrector_steps 0"));
    let why = serde_json::from_str::<AnySampler>(r#"{"name": "pc", "replicas": 0}"#).unwrap_err().to_string();
    assert!(why.contains("replicas is 0"), "{why}");
    let with = |replicas| serde_json::json!({"name": "pc", "replicas": replicas, "corrector": {"name": "mala"}});
    let wants = |replicas| serde_json::from_value::<AnySampler>(with(replicas)).unwrap().get().needs().prior;
    assert!(wants(2) && !wants(1));
}
