//! Densities by what is known of them, kernels by what they need, and ladders of every kind against exact answers.

mod common;
#[path = "common/machine.rs"]
mod machine;

use candle_core::{DType, Device, Result, Tensor};
use common::{Fast, largest, mixture};
use langevin_dynamics::density::{Capability, Evaluated, Given};
use langevin_dynamics::ladder::{
    Annealed, Base, Conditioned, Exchange, Geometric, Ladder, NoiseLevel, NoiseLevels, Particles, Product,
    RescaledLevels, Tempered,
};
use langevin_dynamics::likelihood::{Annealing, LogZ};
use langevin_dynamics::mcmc::{AnyKernel, Chains, Gibbs, Hmc, Kernel, Langevin, Mala};
use langevin_dynamics::process::AnyProcess;
use langevin_dynamics::{Conditionals, Density, Differentiable, Energy, Mixture, Score};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{sum_per_sample, to_host};
use machine::{At, Cooling, MACHINE};

fn noise(n: usize) -> Noise {
    Noise::seeds(&(0..n as u64).collect::<Vec<_>>())
}

/// E = |x - m|^2 / (2 v) in two dimensions, unnormalised.
struct Bowl {
    m: f64,
    v: f64,
}

impl Energy for Bowl {
    fn energy(&self, x: &Tensor) -> Result<Tensor> {
        sum_per_sample(&((x - self.m)?.sqr()? * (0.5 / self.v))?)
    }
}

impl Differentiable for Bowl {}

impl Density for Bowl {
    fn as_differentiable(&self) -> Option<&dyn Differentiable> {
        Some(self)
    }
}

/// N(0, 1) in two dimensions.
struct Normal;

impl Energy for Normal {
    fn energy(&self, x: &Tensor) -> Result<Tensor> {
        sum_per_sample(&(x.sqr()? * 0.5)?)? + (2. * std::f64::consts::PI).ln()
    }
}

impl Differentiable for Normal {}

impl Density for Normal {
    fn as_differentiable(&self) -> Option<&dyn Differentiable> {
        Some(self)
    }
}

impl Base for Normal {
    fn draw(&self, like: &Tensor, z: &mut Noise) -> Result<Tensor> {
        z.normal_like(like)
    }
}

/// A density known by its score alone.
struct ScoreAlone;

impl Score for ScoreAlone {
    fn score(&self, x: &Tensor) -> Result<Tensor> {
        x.neg()
    }
}

impl Density for ScoreAlone {
    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }
}

#[test]
fn a_density_says_what_is_known_of_it() -> Result<()> {
    let x = Tensor::new(&[[1f64, 0., 1., 1.], [0., 0., 0., 0.]], &Device::Cpu)?;
    let has = |m: &dyn Density| [Capability::Energy, Capability::Score, Capability::Conditionals].map(|of| m.has(of));
    assert_eq!(has(&At(&MACHINE, 1.)), [true, false, true]);
    assert_eq!(has(&Bowl { m: 0., v: 1. }), [true, true, false]);
    assert_eq!(has(&ScoreAlone), [false, true, false]);
    assert_eq!(has(&Given::new(Box::new(At(&MACHINE, 1.)), x.clone())?), [true, false, true]);
    assert!(Given::new(Box::new(ScoreAlone), x.clone()).is_err());
    let Evaluated { energy, score, .. } = At(&MACHINE, 1.).evaluate(&x)?;
    // -(w02 + w03 + w23 + b0 + b2 + b3)
    assert!((energy.unwrap()[0] + -0.7 + 0.4 + 0.6 + 0.3 + 0.2 + 0.8).abs() < 1e-12 && score.is_none());
    let Evaluated { energy, score, .. } = ScoreAlone.evaluate(&x)?;
    assert!(energy.is_none() && largest(&score.unwrap(), &x.neg()?) == 0.);
    Ok(())
}

/// Every kernel runs on what has what it needs, and says so of what has not.
#[test]
fn every_kernel_says_what_it_needs() -> Result<()> {
    let (bits, points) =
        (Tensor::zeros((3, 4), DType::F64, &Device::Cpu)?, Tensor::ones((3, 2), DType::F64, &Device::Cpu)?);
    let (machine, bowl) = (At(&MACHINE, 1.), Bowl { m: 0., v: 1. });
    for kernel in AnyKernel::defaults() {
        let kernel = kernel.get();
        let (good, bad): ((&dyn Density, _), (&dyn Density, _)) = match kernel.needs() {
            Capability::Conditionals => ((&machine, &bits), (&bowl, &points)),
            _ => ((&bowl, &points), (&machine, &bits)),
        };
        assert!(kernel.run(good.0, &mut Chains::new(good.0, good.1)?, 2, &mut noise(3)).is_ok(), "{kernel:?}");
        let why = kernel.run(bad.0, &mut Chains::new(bad.0, bad.1)?, 2, &mut noise(3)).unwrap_err().to_string();
        assert!(why.contains("; take "), "{kernel:?}: {why}");
    }
    for name in ["annealed-mcmc", "tempering", "smc", "pc"] {
        let key = if name == "pc" { "corrector" } else { "kernel" };
        let read = serde_json::from_str::<langevin_dynamics::sampler::AnySampler>(&format!(
            r#"{{"name": "{name}", "{key}": "gibbs"}}"#
        ));
        let why = read.unwrap_err().to_string();
        assert!(why.contains("use langevin, mala or hmc"), "{name}: {why}");
    }
    Ok(())
}

/// The part of chains in each state, within 5 standard errors of its probability.
fn agrees(x: &Tensor, exact: impl Iterator<Item = ([f64; 4], f64)>) -> Result<()> {
    let rows = to_host(x)?;
    let n = x.dim(0)? as f64;
    for (state, p) in exact {
        let found = rows.chunks(4).filter(|x| *x == state).count() as f64 / n;
        assert!((found - p).abs() <= 5. * (p * (1. - p) / n).sqrt(), "{state:?}: {found} of {p}");
    }
    Ok(())
}

#[test]
fn gibbs_draws_a_boltzmann_machine() -> Result<()> {
    let (n, machine) = (20_000, At(&MACHINE, 1.));
    let mut z = noise(n);
    let mut chains = Chains::new(&machine, &Tensor::zeros((n, 4), DType::F64, &Device::Cpu)?)?;
    let stats = Gibbs {}.run(&machine, &mut chains, 60, &mut z)?;
    assert_eq!((stats.proposed, stats.acceptance()), (60 * n as u64, 1.));
    agrees(&chains.at.x, MACHINE.exact(1.).0.into_iter())?;
    let energies: Vec<f64> = to_host(&chains.at.x)?.chunks(4).map(|x| MACHINE.value(x)).collect();
    assert_eq!(chains.at.energy.as_deref(), Some(energies.as_slice()));
    Ok(())
}

/// Clamped bits stay, and the others are drawn given them.
#[test]
fn clamped_bits_condition_the_rest() -> Result<()> {
    let (n, machine) = (20_000, At(&MACHINE, 1.));
    let density: &dyn Density = &machine;
    let once = Given::new(Box::new(density), Tensor::new(&[[0f64, 1., 0., 0.]], &Device::Cpu)?)?;
    let given = Given::new(Box::new(once), Tensor::new(&[[0f64, 0., 0., 1.]], &Device::Cpu)?)?;
    let start = Tensor::new(&[[0f64, 1., 0., 0.]], &Device::Cpu)?.broadcast_as((n, 4))?.contiguous()?;
    let mut chains = Chains::new(&given, &start)?;
    Gibbs {}.run(&given, &mut chains, 60, &mut noise(n))?;
    let inside = |(x, _): &([f64; 4], f64)| x[1] == 1. && x[3] == 0.;
    let all: Vec<_> = MACHINE.exact(1.).0.into_iter().filter(inside).collect();
    let whole: f64 = all.iter().map(|(_, p)| p).sum();
    agrees(&chains.at.x, all.into_iter().map(|(x, p)| (x, p / whole)))
}

/// ln Z from weights along a ladder: of bits by Gibbs sampling, of points by the geometric path, moved by HMC or not at all,
/// drawn again or not.
#[test]
fn weights_along_a_ladder_tell_log_z() -> Result<()> {
    let (n, runs) = (500, 16);
    let betas: Vec<f64> = (0..=20).map(|i| f64::from(i) / 20.).collect();
    let (cooling, target) = (Cooling(&MACHINE, betas.clone()), Bowl { m: 0.7, v: 0.3 });
    let path = Geometric::new(&Normal, &target, betas)?;
    let gaussian = (2. * std::f64::consts::PI * target.v).ln(); // D/2 ln(2 pi v), D = 2
    let cases: [(&dyn Ladder, usize, AnyKernel, f64); 3] = [
        (&cooling, 4, Gibbs {}.into(), MACHINE.exact(1.).1),
        (&path, 2, Hmc::default().into(), gaussian),
        (&path, 2, Mala::default().into(), gaussian),
    ];
    for (ladder, d, kernel, truth) in cases {
        for (resample, steps_per_level) in [(0., 1), (0.9999, 1), (0., 0)] {
            let annealing = Annealing { levels: 20, resample, kernel: kernel.clone(), steps_per_level };
            let one = |run: u64| {
                let (to, z) = (([n, d], DType::F64, Device::Cpu), &mut Noise::of_step(1, run, n));
                annealing.along(ladder, (&to.0, to.1, &to.2), z, &mut || Ok(()))
            };
            let all = (0..runs).map(one).collect::<Result<Vec<_>>>()?;
            assert!(all.iter().all(|population| population.rungs.len() == 21));
            let drawn = all.iter().any(|population| population.rungs.iter().any(|rung| rung.resampled));
            assert_eq!(drawn, resample > 0.);
            let found = LogZ::of(&all.iter().map(|population| population.log_z).collect::<Vec<_>>());
            let name = format!("{} {resample} {steps_per_level}", kernel.name());
            assert!(found.error < 0.05, "{name}: {found:?}");
            assert!((found.value - truth).abs() < 5. * found.error, "{name}: {found:?} of {truth}");
        }
    }
    let annealing = Annealing { kernel: Gibbs {}.into(), steps_per_level: 1, ..Annealing::default() };
    let to = (&[4usize, 2][..], DType::F64, &Device::Cpu);
    let why = annealing.along(&path, to, &mut noise(4), &mut || Ok(())).unwrap_err().to_string();
    assert!(why.contains("take mala, hmc or langevin"), "{why}");
    Ok(())
}

/// Annealed chains and replica exchange, each written once, on temperatures of points and of bits.
#[test]
fn chains_come_down_a_ladder() -> Result<()> {
    let n = 4000;
    // two wells of 0.7 and 0.3 of the mass, which no chain leaves at the last temperature
    let wells = |x: &Tensor| {
        let well = |at: f64, share: f64| (x - at)?.sqr()?.sum(1)?.affine(-0.5 / 0.05, share.ln());
        Tensor::stack(&[well(-2., 0.7)?, well(2., 0.3)?], 1)?.log_sum_exp(1)?.neg()
    };
    let ladder = Tempered::new(&wells, (0..8).map(|i| 0.02 * 50f64.powf(f64::from(i) / 7.)).collect())?;
    let start = Tensor::full(2f64, (n, 1), &Device::Cpu)?;
    let left =
        |x: &Tensor| Ok::<_, candle_core::Error>(to_host(x)?.iter().filter(|x| **x < 0.).count() as f64 / n as f64);
    let kernel = Hmc { step: 0.1, ..Hmc::default() };
    let (x, visits) = Exchange::new(&kernel, 10).run(&ladder, &start, 60, 8, &mut noise(n))?;
    assert!((left(&x)? - 0.7).abs() < 0.05, "{}", left(&x)?);
    assert!(visits[0].swaps.is_none_or(|s| s.proposed == 0) && visits[1..].iter().all(|v| v.swaps.is_some()));
    let (x, visits) = Annealed::new(&kernel, 10, 10).run(&ladder, &start, &mut noise(n))?;
    // the shares are those of the last temperature at which chains went over
    assert!((0.4..0.75).contains(&left(&x)?), "{}", left(&x)?);
    assert!(visits.len() == 8 && visits.iter().all(|visit| visit.trace.steps() == 10));
    let cooling = Cooling(&MACHINE, vec![0.25, 0.5, 0.75, 1.]);
    let bits = Tensor::ones((n, 4), DType::F64, &Device::Cpu)?;
    let (x, _) = Annealed::new(&Gibbs {}, 0, 10).run(&cooling, &bits, &mut noise(n))?;
    agrees(&x, MACHINE.exact(1.).0.into_iter())?;
    let (x, visits) = Exchange::new(&Gibbs {}, 0).run(&cooling, &bits, 8, 4, &mut noise(n))?;
    agrees(&x, MACHINE.exact(1.).0.into_iter())?;
    assert!(visits[3].swaps.is_some_and(|swaps| swaps.acceptance() > 0.5));
    Ok(())
}

/// Ladders of ladders: the energies, scores and ways of their parts.
#[test]
fn ladders_are_made_of_ladders() -> Result<()> {
    let (process, mixture) = (AnyProcess::named("vp").unwrap(), mixture());
    let exact = Fast::new(&mixture, process.get());
    let times = [0.9, 0.5, 0.1];
    let levels = NoiseLevels::new(&exact, times.chunks(1));
    let cooled = Tempered::along(&levels, vec![0.5, 1., 2.])?;
    let product = Product::new(&levels, &cooled)?;
    let x = noise(5).normal((5, 2), DType::F64, &Device::Cpu)?;
    for (rung, beta) in [0.5, 1., 2.].into_iter().enumerate() {
        let own = NoiseLevel { model: &exact, t: &times[rung..=rung] }.evaluate(&x)?;
        for (ladder, factor) in [(&cooled as &dyn Ladder, beta), (&product, 1. + beta)] {
            let found = ladder.density(rung).evaluate(&x)?;
            let off = found.energy()?.iter().zip(own.energy()?).map(|(found, own)| (found - factor * own).abs());
            assert!(off.fold(0., f64::max) < 1e-9);
            assert!(largest(found.score()?, &(own.score()? * factor)?) < 1e-9);
        }
        assert_eq!(cooled.name(rung), format!("t = {}, beta = {beta}", times[rung]));
    }
    assert!(Tempered::along(&levels, vec![1.; 2]).is_err() && Geometric::new(&Normal, &Normal, vec![0., 0.5]).is_err());
    let why = Tempered::new(&Normal, vec![1.])?.log_start(&x, 1.).unwrap_err().to_string();
    assert!(why.contains("Geometric"), "{why}");
    assert!([0., -1., f64::NAN].into_iter().all(|beta| Tempered::new(&Normal, vec![1., beta]).is_err()));
    // y = x/alpha is one state at all levels
    let rescaled = RescaledLevels::new(&exact, times.chunks(1));
    let (alpha, y) = (process.get().marginal(0.5).alpha, rescaled.level(1).y(&x)?);
    assert!(largest(&(y.clone() * alpha)?, &x) < 1e-12 && largest(&rescaled.carry(1, &y)?, &y) == 0.);
    let (own, scaled) = (levels.density(1).evaluate(&x)?, rescaled.density(1).evaluate(&y)?);
    assert!(largest(&(own.score()? * alpha)?, scaled.score()?) < 1e-9);
    Ok(())
}

/// ln of the integral of p^power for N(m, v I) in two dimensions: D/2 ((1 - power) ln(2 pi v) - ln power).
fn log_z_of_power(v: f64, power: f64) -> f64 {
    (1. - power) * (2. * std::f64::consts::PI * v).ln() - power.ln()
}

/// Powers and products of noise levels begin and propose as wide as they are: for Gaussian data weights stay even.
#[test]
fn weights_of_tempered_levels_stay_even() -> Result<()> {
    let process = AnyProcess::named("edm").unwrap();
    let gaussian = Mixture::isotropic(&[1.], &[vec![0.4, -0.3]], &[0.5])?;
    let exact = gaussian.under(process.get());
    let (n, annealing) = (400, Annealing { levels: 40, ..Annealing::default() });
    let times = annealing.times(&exact, 0.1)?;
    let levels = NoiseLevels::new(&exact, times.chunks(1));
    let v = 0.5 + 0.1f64.powi(2);
    for beta in [0.3, 0.5, 2.] {
        let cooled = Tempered::along(&levels, vec![beta; levels.rungs()])?;
        let product = Product::new(&levels, &cooled)?;
        for (ladder, power) in [(&cooled as &dyn Ladder, beta), (&product, 1. + beta)] {
            let to = (&[n, 2][..], DType::F64, &Device::Cpu);
            let found = annealing.along(ladder, to, &mut noise(n), &mut || Ok(()))?;
            let ess = found.rungs.iter().map(|rung| rung.ess).fold(1., f64::min);
            let off = (found.log_z - log_z_of_power(v, power)).abs();
            assert!(ess > 0.95 && off < 0.02, "power {power}: {ess} {off}");
        }
    }
    Ok(())
}

/// Parts of states are held along a whole ladder: ln Z given them, and states drawn given them.
#[test]
fn a_ladder_is_conditioned() -> Result<()> {
    let (n, cooling) = (20_000, Cooling(&MACHINE, vec![0.25, 0.5, 0.75, 1.]));
    let mask = Tensor::new(&[[0f64, 1., 0., 1.]], &Device::Cpu)?;
    let given = Conditioned::new(&cooling, mask.clone())?;
    assert!(Conditioned::new(&cooling, mask.broadcast_as((2, 4))?.contiguous()?).is_err());
    let start = Tensor::new(&[[0f64, 1., 0., 0.]], &Device::Cpu)?.broadcast_as((n, 4))?.contiguous()?;
    let (x, visits) = Exchange::new(&Gibbs {}, 0).run(&given, &start, 8, 2, &mut noise(n))?;
    // a rung is there for its own sweeps and those of the next
    let sweeps: Vec<u64> = visits.iter().map(|visit| visit.stats.proposed / n as u64).collect();
    assert_eq!(sweeps, [16, 16, 16, 8]);
    let inside = |(x, _): &([f64; 4], f64)| x[1] == 1. && x[3] == 0.;
    let all: Vec<_> = MACHINE.exact(1.).0.into_iter().filter(inside).collect();
    let whole: f64 = all.iter().map(|(_, p)| p).sum();
    agrees(&x, all.into_iter().map(|(x, p)| (x, p / whole)))
}

/// What is asked beyond a ladder is an error, not a panic.
#[test]
fn there_is_nothing_beyond_a_ladder() -> Result<()> {
    let cooling = Cooling(&MACHINE, vec![0.5, 1.]);
    let (x, z) = (Tensor::ones((3, 4), DType::F64, &Device::Cpu)?, &mut noise(3));
    let gibbs = Gibbs {};
    let mut exchange = Exchange::new(&gibbs, 0);
    assert!(exchange.join(&cooling, &x, 0, z).is_err());
    exchange.join(&cooling, &x, 2, z)?;
    exchange.join(&cooling, &x, 2, z)?;
    assert!(exchange.join(&cooling, &x, 2, z).is_err());
    assert!(Annealed::new(&gibbs, 0, 1).rung(&cooling, 2, &x, z).is_err());
    assert!(Particles::start(&cooling, &x)?.step(&cooling, 1, z).is_err());
    let rising = [0.1, 0.5];
    let exact = Mixture::isotropic(&[1.], &[vec![0.; 4]], &[1.])?;
    let process = AnyProcess::named("edm").unwrap();
    let model = exact.under(process.get());
    let levels = NoiseLevels::new(&model, rising.chunks(1));
    let why = Particles::start(&levels, &x)?.step(&levels, 0, z).unwrap_err().to_string();
    assert!(why.contains("no less noisy"), "{why}");
    // a model that is closed under powers keeps its conditionals at another temperature
    struct Warm(At<'static>);
    impl Density for Warm {
        fn as_conditionals(&self) -> Option<&dyn Conditionals> {
            Some(&self.0)
        }
        fn tempered(&self, beta: f64) -> Option<Box<dyn Density + '_>> {
            Some(Box::new(At(&MACHINE, beta)))
        }
    }
    let (warm, cold) = (Warm(At(&MACHINE, 1.)), At(&MACHINE, 1.));
    assert!(Tempered::new(&warm, vec![0.5, 1.])?.density(0).has(Capability::Conditionals));
    assert!(!Tempered::new(&cold, vec![0.5, 1.])?.density(0).has(Capability::Conditionals));
    assert!(Tempered::new(&cold, vec![0.5, 1.])?.density(1).has(Capability::Conditionals));
    Ok(())
}

/// Sizes that one kernel found are not those of another.
#[test]
fn step_sizes_are_of_a_kernel() -> Result<()> {
    let bowl = Bowl { m: 0., v: 1. };
    let x = Tensor::ones((2, 2), DType::F64, &Device::Cpu)?;
    let hmc = Hmc { jitter: 0., ..Hmc::default() };
    let mut chains = Chains::new(&bowl, &x)?;
    chains.adapt(&bowl, &Mala { step: 4., ..Mala::default() }, 30, &mut noise(2))?;
    chains.at = bowl.evaluate(&x)?;
    let mut fresh = Chains::new(&bowl, &x)?;
    hmc.step(&bowl, &mut chains, &mut noise(2))?;
    hmc.step(&bowl, &mut fresh, &mut noise(2))?;
    assert_eq!(to_host(&chains.at.x)?, to_host(&fresh.at.x)?);
    Ok(())
}

/// Without a rate of acceptance there is nothing to adapt by.
#[test]
fn what_cannot_adapt_does_not() -> Result<()> {
    let bowl = Bowl { m: 0., v: 1. };
    let mut chains = Chains::new(&bowl, &Tensor::ones((2, 2), DType::F64, &Device::Cpu)?)?;
    chains.adapt(&bowl, &Langevin::default(), 5, &mut noise(2))?;
    assert_eq!(to_host(&chains.at.x)?, [1.; 4]);
    chains.adapt(&bowl, &Mala::default(), 5, &mut noise(2))?;
    assert_ne!(to_host(&chains.at.x)?, [1.; 4]);
    Ok(())
}
