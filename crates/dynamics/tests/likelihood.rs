//! The three likelihoods on the exact mixture, under every process, and what they refuse.

#![allow(clippy::print_stdout)]

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::mixture;
use langevin_dynamics::exact::Exact;
use langevin_dynamics::likelihood::{Annealing, Divergence, Flow, LogZ, Normaliser, Population, Probe};
use langevin_dynamics::mcmc::{AnyKernel, Hmc, Langevin, Mala};
use langevin_dynamics::noisy::Jet;
use langevin_dynamics::process::{AnyProcess, SubVp, Vp};
use langevin_dynamics::{Denoiser, Expression, Frame, FromEnergy, Mixture, NoisyEnergy, Process, Sum};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{combine, sum_per_sample, to_host};
use langevin_ops::stats::{log_gaussian, mean_and_error};

fn seeds(n: usize) -> Vec<u64> {
    (0..n as u64).collect()
}

fn points(n: usize) -> Tensor {
    mixture().sample(n, &mut Noise::seeds(&seeds(n))).unwrap()
}

fn quiet() -> impl FnMut(f64) -> Result<()> {
    |_| Ok(())
}

fn largest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    common::worst(a.iter().zip(b).map(|(a, b)| (a - b).abs()))
}

/// v^T dx0/dx of the mixture is that of its x0, by differences, with signal and without.
#[test]
fn the_mixture_knows_its_jacobian() -> Result<()> {
    let (mixture, x) = (mixture(), points(3));
    let v = Noise::seeds(&seeds(3)).normal_like(&x)?;
    for process in AnyProcess::defaults() {
        let exact = mixture.under(process.get());
        let (low, high) = process.get().span();
        for t in [low, 0.3 * high, high] {
            let (x0, vjp) = exact.x0_vjp(&x, &[t], &v)?;
            assert_eq!(to_host(&x0)?, to_host(&exact.x0(&x, &[t])?)?);
            let h = 1e-4 * process.get().marginal(t).sigma;
            for i in 0..2 {
                let unit =
                    Tensor::new(&[[f64::from(u8::from(i == 0)) * h, f64::from(u8::from(i == 1)) * h]], &Device::Cpu)?;
                let (up, down) = (x.broadcast_add(&unit)?, x.broadcast_sub(&unit)?);
                let slope = ((exact.x0(&up, &[t])? - exact.x0(&down, &[t])?)? * (0.5 / h))?;
                let expected = to_host(&sum_per_sample(&(slope * &v)?)?)?;
                let ours = to_host(&vjp.narrow(1, i, 1)?)?;
                assert!(largest(&ours, &expected) < 1e-5, "{process:?} at {t}: {ours:?} {expected:?}");
            }
        }
    }
    Ok(())
}

/// The ODE ends at log p of the mixture, but for the difference of its prior from the Gaussian of samplers: with the
/// mixture's own p_T in the place of that, at any time, under every process.
#[test]
fn the_flow_finds_the_density() -> Result<()> {
    let (mixture, x) = (mixture(), points(6));
    for process in AnyProcess::defaults() {
        let (p, exact) = (process.get(), mixture.under(process.get()));
        let (low, high) = p.span();
        let middle = p.t_at(0.);
        let flow = Flow { atol: 1e-7, rtol: 1e-7, ..Flow::default() };
        let times = [low, low, low, middle, middle, 0.5 * (low + middle)];
        let found = flow.log_p(&exact, &x, &times, &mut Noise::seeds(&[]), &mut quiet())?;
        let truth = to_host(&exact.log_p(&x, &times)?)?;
        let end = to_host(&exact.log_p(&found.latent, &[high])?)?;
        let own: Vec<f64> = end.iter().zip(&found.volume).map(|(end, volume)| end + volume).collect();
        assert!(largest(&own, &truth) < 1e-5, "{process:?}: {own:?} {truth:?}");
        // the prior of samplers is as near as alpha / sigma is small there
        let m = p.marginal(high);
        assert!(
            largest(&found.log_p, &truth) < 1e-5 + 10. * m.alpha / m.sigma,
            "{process:?}: {:?} {truth:?}",
            found.log_p
        );
        assert!(found.error.is_none() && found.evaluations.iter().all(|&n| n > 20));
    }
    Ok(())
}

#[test]
fn hutchinsons_estimate_has_no_bias_and_knows_its_error() -> Result<()> {
    let (mixture, vp, n) = (mixture(), Vp::default(), 400);
    let exact = mixture.under(&vp);
    let x = Tensor::new(&[[0.3f64, -0.2]], &Device::Cpu)?.broadcast_as((n, 2))?.contiguous()?;
    let one = Flow::default().log_p(&exact, &x.narrow(0, 0, 1)?, &[1e-3], &mut Noise::seeds(&[0]), &mut quiet())?;
    for probe in [Probe::Rademacher, Probe::Normal] {
        let flow = Flow { divergence: Divergence::Hutchinson { probes: 4, probe }, ..Flow::default() };
        let found = flow.log_p(&exact, &x, &[1e-3], &mut Noise::seeds(&seeds(n)), &mut quiet())?;
        let (mean, error) = mean_and_error(&found.log_p);
        assert!((mean - one.log_p[0]).abs() < 5. * error, "{probe:?}: {mean} {error} {}", one.log_p[0]);
        assert!(error > 1e-4, "{probe:?}: the probes are not random");
        // the mean of the squares of the stated errors is the variance of the estimates: to 4 probes a sample, 25 %
        let stated = found.error.unwrap().iter().map(|e| e * e).sum::<f64>() / n as f64;
        assert!((stated / (error * error * n as f64) - 1.).abs() < 0.4, "{probe:?}: {stated} {error}");
    }
    // the same at any batch size
    let flow = Flow { divergence: Divergence::Hutchinson { probes: 2, probe: Probe::Rademacher }, ..Flow::default() };
    let few = points(3);
    let all = flow.log_p(&exact, &few, &[1e-3], &mut Noise::seeds(&[4, 5, 6]), &mut quiet())?;
    let last = flow.log_p(&exact, &few.narrow(0, 2, 1)?, &[1e-3], &mut Noise::seeds(&[6]), &mut quiet())?;
    assert!((all.log_p[2] - last.log_p[0]).abs() < 1e-9);
    Ok(())
}

/// Without a word the divergence is exact up to 16 numbers a sample, and by one probe of signs beyond: an image costs one
/// product of vector and Jacobian an evaluation, not as many as it has numbers.
#[test]
fn the_usual_divergence_of_many_numbers_is_by_one_probe() -> Result<()> {
    let vp = Vp::default();
    for (shape, exact) in [(vec![4, 4], true), (vec![1, 17], false), (vec![1, 28, 28], false)] {
        let d: usize = shape.iter().product();
        let mixture = Mixture::isotropic(&[0.5, 0.5], &[vec![0.3; d], vec![-0.4; d]], &[0.2, 0.5])?;
        let m = mixture.under(&vp);
        let x = Noise::seeds(&seeds(2)).normal([vec![2], shape].concat(), DType::F64, &Device::Cpu)?;
        let log_p = |divergence| {
            let flow = Flow { rtol: 1e-2, atol: 1e-2, divergence, ..Flow::default() };
            Ok::<_, candle_core::Error>(flow.log_p(&m, &x, &[1e-3], &mut Noise::seeds(&[4, 5]), &mut quiet())?.log_p)
        };
        let found = log_p(Flow::default().divergence)?;
        let signs = log_p(Divergence::Hutchinson { probes: 1, probe: Probe::Rademacher })?;
        assert_eq!(found == signs, !exact, "{d} numbers");
        assert!(!exact || found == log_p(Divergence::Exact)?, "{d} numbers");
    }
    Ok(())
}

/// By automatic differentiation, of an energy: a Gaussian N(0, v) whose alpha v / (alpha^2 v + sigma^2) is known.
#[test]
fn an_energy_is_differentiated_for_its_divergence() -> Result<()> {
    let (vp, v) = (Vp::default(), 0.3);
    let energy = |x: &Tensor, t: &[f64]| {
        let variance: Vec<f64> =
            t.iter().map(|&t| vp.marginal(t)).map(|m| m.alpha.powi(2) * v + m.sigma.powi(2)).collect();
        let inverse: Vec<f64> = variance.iter().map(|v| 0.5 / v).collect();
        langevin_ops::shape::scale(&sum_per_sample(&x.sqr()?)?, &inverse)
    };
    let model = FromEnergy::new(&vp, energy)?;
    let x = Noise::seeds(&seeds(5)).normal((5, 2, 3), DType::F64, &Device::Cpu)?;
    let found = Flow { atol: 1e-8, rtol: 1e-8, ..Flow::default() };
    let found = found.log_p(&model, &x, &[1e-3], &mut Noise::seeds(&[]), &mut quiet())?;
    let m = vp.marginal(1e-3);
    let at =
        |x: &Tensor, m: langevin_dynamics::Marginal| log_gaussian(x, (m.alpha.powi(2) * v + m.sigma.powi(2)).sqrt());
    let end = at(&found.latent, vp.marginal(1.))?;
    let own: Vec<f64> = end.iter().zip(&found.volume).map(|(a, b)| a + b).collect();
    assert!(largest(&own, &at(&x, m)?) < 1e-6);
    Ok(())
}

/// A model that is told something of each of its two samples: asked about any other number of them, it errors.
struct Bound<'a>(Exact<'a>);

impl Denoiser for Bound<'_> {
    fn frame(&self) -> Frame<'_> {
        Frame { whole_batch: true, ..self.0.frame() }
    }
    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        if x.dim(0)? != 2 {
            candle_core::bail!("asked about {} samples", x.dim(0)?);
        }
        self.0.x0(x, t)
    }
    fn x0_vjp(&self, x: &Tensor, t: &[f64], v: &Tensor) -> Result<(Tensor, Tensor)> {
        self.x0(x, t)?;
        self.0.x0_vjp(x, t, v)
    }
}

/// Samples that arrive one before another do not part from their batch where the model is told of each.
#[test]
fn a_conditional_model_is_asked_about_its_whole_batch() -> Result<()> {
    use langevin_dynamics::sampler::{Rk45, Sampler, Step};
    use langevin_dynamics::{Clamped, Clip, Guidance};
    let (mixture, vp) = (mixture(), Vp::default());
    let exact = mixture.under(&vp);
    let x = Tensor::new(&[[0.3f64, -0.2], [40., -70.]], &Device::Cpu)?;
    let flow = |m: &dyn Denoiser| Flow::default().log_p(m, &x, &[1e-3, 0.9], &mut Noise::seeds(&[]), &mut quiet());
    let (free, bound) = (flow(&exact)?, flow(&Bound(exact))?);
    assert!(free.evaluations[0] != free.evaluations[1] && free.evaluations == bound.evaluations);
    assert!(largest(&free.log_p, &bound.log_p) < 1e-12);
    let step = Step { t: &[0.9], s: &[0., 0.5] };
    let down = |m: &dyn Denoiser| Rk45::default().start(&[]).step(m, &x, step, &mut Noise::seeds(&[]));
    assert!(largest(&to_host(&down(&exact)?)?, &to_host(&down(&Bound(exact))?)?) < 1e-12);
    let bound = Bound(exact);
    let clamped = Clamped::new(&bound, Clip::default())?;
    assert!(
        down(&clamped).is_ok() && down(&Sum::guided(&exact, &bound, Guidance { scale: 2., interval: None })?).is_ok()
    );
    Ok(())
}

/// The exact energy with a constant of its own at each t.
struct Shifted<'a> {
    exact: Exact<'a>,
    shift: fn(f64) -> f64,
    normalised: bool,
}

impl Denoiser for Shifted<'_> {
    fn frame(&self) -> Frame<'_> {
        self.exact.frame()
    }
    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.exact.x0(x, t)
    }
    fn noisy_energy(&self) -> Option<&dyn NoisyEnergy> {
        Some(self)
    }
}

impl NoisyEnergy for Shifted<'_> {
    fn energy_at(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        let shift: Vec<f64> = t.iter().map(|&t| (self.shift)(t)).collect();
        let energy = self.exact.energy(x, t)?;
        combine(&[1.], &energy, &shift, &energy.ones_like()?)
    }
    fn energy_grad(&self, x: &Tensor, t: &[f64]) -> Result<(Tensor, Tensor)> {
        Ok((self.energy_at(x, t)?, self.exact.energy_grad(x, t)?.1))
    }
    fn jet(&self, x: &Tensor, t: &[f64]) -> Result<Jet> {
        self.exact.jet(x, t)
    }
    fn normalised(&self) -> bool {
        self.normalised
    }
}

#[test]
fn a_normalised_energy_needs_one_constant() -> Result<()> {
    let (mixture, x) = (mixture(), points(8));
    for name in ["vp", "edm", "flow", "cosine"] {
        let process = AnyProcess::named(name).map_err(candle_core::Error::Msg)?;
        let exact = mixture.under(process.get());
        let shifted = Shifted { exact, shift: |_| 3.5, normalised: true };
        let c = Normaliser::of(&shifted, &[1000, 2], DType::F64, &Device::Cpu, &mut Noise::seeds(&seeds(1000)))?;
        let m = process.get().marginal(process.get().span().1);
        // what is left is the distance of p_T from the prior, of second order in alpha / sigma
        let bias = 4. * (m.alpha / m.sigma).powi(2);
        assert!((c.value - 3.5).abs() < 5. * c.error + bias + 1e-9, "{name}: {c:?}");
        assert!(c.spread < 3. * m.alpha / m.sigma + 1e-9 && c.draws == 1000, "{name}: {c:?}");
        let t = [process.get().span().0];
        let found = c.log_p(&shifted, &x, &t)?;
        assert!(largest(&found, &to_host(&exact.log_p(&x, &t)?)?) < 5. * c.error + bias + 1e-9, "{name}");
        let free = Shifted { normalised: false, ..shifted };
        let why = Normaliser::of(&free, &[8, 2], DType::F64, &Device::Cpu, &mut Noise::seeds(&seeds(8))).unwrap_err();
        assert!(why.to_string().contains("free at each t"), "{why}");
    }
    Ok(())
}

/// log Z of an energy with another constant at every level is the constant at the last, within its error.
#[test]
fn annealing_finds_log_z_whatever_the_constants_between() -> Result<()> {
    let (mixture, runs, particles) = (mixture(), 8, 250);
    let cases = [("vp", 0.5), ("vp", 0.), ("edm", 0.5), ("flow", 0.5), ("ve", 0.5), ("table", 0.5)];
    for (name, resample) in cases {
        let process = AnyProcess::named(name).map_err(candle_core::Error::Msg)?;
        let shift = |t: f64| 5. * (7. * t).sin() + 2.;
        let model = Shifted { exact: mixture.under(process.get()), shift, normalised: false };
        let t = process.get().span().0;
        let annealing = Annealing { levels: 60, resample, ..Annealing::default() };
        let mut log_z = vec![];
        for run in 0..runs {
            let mut z = Noise::of_step(1, run, particles);
            let to = (&[particles, 2][..], DType::F64, &Device::Cpu);
            let population = annealing.run(&model, t, to, &mut z, &mut || Ok(()))?;
            assert_eq!(population.rungs.len(), 61);
            assert!(population.rungs.iter().all(|level| level.ess > 0. && level.ess <= 1. + 1e-9));
            assert!(resample > 0. || population.rungs.iter().all(|level| !level.resampled));
            let (last, times) = (population.rungs[60], annealing.times(&model, t)?);
            assert!(times[60] == t && last.log_z == population.log_z && last.acceptance.is_nan());
            for (rung, t) in population.rungs.iter().zip(times).skip(21) {
                assert!((rung.log_z + shift(t)).abs() < 0.5, "{name} at {t}: {}", rung.log_z);
            }
            log_z.push(population.log_z);
        }
        let found = LogZ::of(&log_z);
        assert!(found.error > 1e-6 && found.error < 0.1, "{name}: {found:?}");
        assert!((found.value + shift(t)).abs() < 5. * found.error, "{name} {resample}: {found:?} {}", -shift(t));
    }
    Ok(())
}

/// `runs` populations of `particles` in the plane, all of one seed.
fn populations(
    m: &dyn NoisyEnergy,
    a: &Annealing,
    (runs, particles): (u64, usize),
    seed: u64,
) -> Result<Vec<Population>> {
    let one = |run| {
        let mut z = Noise::of_step(seed, run, particles);
        a.run(m, m.process().span().0, (&[particles, 2], DType::F64, &Device::Cpu), &mut z, &mut || Ok(()))
    };
    (0..runs).map(one).collect()
}

fn log_z(populations: &[Population]) -> LogZ {
    LogZ::of(&populations.iter().map(|population| population.log_z).collect::<Vec<_>>())
}

/// Over many seeds, (estimate - truth) / error is Student's t of as many degrees of freedom as its error has.
#[test]
fn the_error_of_annealing_is_honest() -> Result<()> {
    let (edm, seeds) = (AnyProcess::named("edm").map_err(candle_core::Error::Msg)?, 24);
    let mixture = Mixture::isotropic(&[0.6, 0.4], &[vec![-0.4, 0.3], vec![0.5, -0.4]], &[0.3, 0.25])?;
    for (resample, steps_per_level) in [(0., 0), (0.99, 1)] {
        let annealing = Annealing { levels: 30, resample, steps_per_level, ..Annealing::default() };
        let off = |seed| {
            let found = log_z(&populations(&mixture.under(edm.get()), &annealing, (16, 16), seed)?);
            Ok(found.value / found.error)
        };
        let off = (0..seeds).map(off).collect::<Result<Vec<f64>>>()?;
        let (mean, square) = (mean_and_error(&off).0, off.iter().map(|z| z * z).sum::<f64>() / seeds as f64);
        println!("resample {resample}, {steps_per_level} moves: mean {mean:.2}, mean square {square:.2}");
        // of 15 degrees of freedom: z^2 has mean 15/13 and deviation 1.84
        assert!(mean.abs() < 5. * (15. / 13. / seeds as f64).sqrt(), "{mean}");
        assert!(square > 0.3 && square < 15. / 13. + 5. * 1.84 / (seeds as f64).sqrt(), "{square}");
    }
    Ok(())
}

/// A Gaussian of nine dimensions under sub-VP noise, down to where next to none is left: log Z is 0 within five errors at
/// every seed, where 32 runs know the error to an eighth of itself.
#[test]
fn annealing_finds_log_z_of_nine_dimensions_under_subvp() -> Result<()> {
    let variances = [1.1, 0.05, 0.4, 0.9, 0.02, 0.25, 0.6, 1.3, 0.12];
    let mean: Vec<f64> = (0..9).map(|i| (1.7 * f64::from(i)).sin()).collect();
    let covariance = (0..81).map(|ij| if ij % 10 == 0 { variances[ij / 10] } else { 0. }).collect();
    let mixture = Mixture::full(&[1.], &[mean], &[covariance])?;
    let process = SubVp { t_min: 1e-5, ..SubVp::default() };
    let (m, particles, annealing) = (mixture.under(&process), 64, Annealing { levels: 60, ..Annealing::default() });
    for seed in 0..6 {
        let run = |run| {
            let to = (&[particles, 9][..], DType::F64, &Device::Cpu);
            annealing.run(&m, 1e-5, to, &mut Noise::of_step(seed, run, particles), &mut || Ok(()))
        };
        let found = LogZ::of(&(0..32).map(|i| Ok(run(i)?.log_z)).collect::<Result<Vec<_>>>()?);
        println!("seed {seed}: {found:?}");
        assert!(found.value.abs() < 5. * found.error && found.error < 0.1, "seed {seed}: {found:?}");
    }
    Ok(())
}

/// A power of a density at every level: no level is the one below it with noise. There moves tell more than levels do at
/// the same cost.
#[test]
fn moves_help_where_levels_do_not_follow_by_noise() -> Result<()> {
    let edm = AnyProcess::named("edm").map_err(candle_core::Error::Msg)?;
    let angle = |k: i32| std::f64::consts::TAU * f64::from(k) / 8.;
    let means: Vec<_> = (0..8).map(|k| vec![1.4 * angle(k).cos(), 1.4 * angle(k).sin()]).collect();
    let mixture = Mixture::isotropic(&[1.; 8], &means, &[0.0225; 8])?;
    let (exact, t) = (mixture.under(edm.get()), edm.get().span().0);
    let square = Sum::composed(&Expression::parse("2*a")?, &[("a", &exact as &dyn Denoiser)], 1.)?;
    let side = 300;
    let at = |i: usize| 6. * ((i as f64 + 0.5) / side as f64 - 0.5);
    let lattice = Tensor::from_iter((0..side * side).flat_map(|i| [at(i % side), at(i / side)]), &Device::Cpu)?;
    let log_p = to_host(&exact.log_p(&lattice.reshape((side * side, 2))?, &[t])?)?;
    let truth = (log_p.iter().map(|log_p| (2. * log_p).exp()).sum::<f64>() * (6. / side as f64).powi(2)).ln();
    let run = |levels, kernel: AnyKernel, steps_per_level| {
        let annealing = Annealing { levels, resample: 0.5, kernel, steps_per_level };
        let all = populations(&square, &annealing, (16, 32), 3)?;
        let found = log_z(&all);
        println!("{levels} levels, {steps_per_level} moves: {found:?}, in truth {truth:.4}");
        assert!((found.value - truth).abs() < 5. * found.error && found.error < 0.1, "{found:?} {truth}");
        Ok::<_, candle_core::Error>((found.error, all))
    };
    let (still, _) = run(200, Mala::default().into(), 0)?;
    let (moved, by_mala) = run(100, Mala::default().into(), 1)?;
    assert!(moved < 0.85 * still, "{still} {moved}");
    let (_, by_hmc) = run(100, Hmc { leapfrogs: 2, ..Hmc::default() }.into(), 1)?;
    for all in [by_mala, by_hmc] {
        // step sizes follow the acceptance that they aim at
        let late = all.iter().flat_map(|population| &population.rungs[51..]).map(|level| level.acceptance);
        let (mean, _) = mean_and_error(&late.collect::<Vec<_>>());
        assert!((mean - 0.7).abs() < 0.15, "{mean}");
    }
    Ok(())
}

#[test]
fn refuses() -> Result<()> {
    let (mixture, vp, x) = (mixture(), Vp::default(), points(2));
    let exact = mixture.under(&vp);
    let flow = |flow: Flow, t: &[f64]| flow.log_p(&exact, &x, t, &mut Noise::seeds(&[1, 2]), &mut quiet());
    let none = Divergence::Hutchinson { probes: 0, probe: Probe::Rademacher };
    for (result, word) in [
        (flow(Flow { atol: 0., ..Flow::default() }, &[0.1]), "atol"),
        (flow(Flow { rtol: f64::NAN, ..Flow::default() }, &[0.1]), "rtol"),
        (flow(Flow { prior_std: Some(-1.), ..Flow::default() }, &[0.1]), "prior_std"),
        (flow(Flow { divergence: none, ..Flow::default() }, &[0.1]), "probes"),
        (flow(Flow { max_steps: 2, ..Flow::default() }, &[0.1]), "max_steps"),
        (flow(Flow::default(), &[0.]), "span"),
        (flow(Flow::default(), &[1.]), "span"),
        (flow(Flow::default(), &[0.1, 0.2, 0.3]), "3 times"),
    ] {
        let why = result.unwrap_err().to_string();
        assert!(why.contains(word), "{word}: {why}");
    }
    let run = |annealing: Annealing, n: usize, t: f64| {
        annealing.run(&exact, t, (&[n, 2], DType::F64, &Device::Cpu), &mut Noise::seeds(&seeds(n)), &mut || Ok(()))
    };
    let usual = Annealing::default;
    for (result, word) in [
        (run(Annealing { levels: 1, ..usual() }, 4, 0.1), "levels"),
        (run(Annealing { resample: 2., ..usual() }, 4, 0.1), "resample"),
        (run(Annealing { kernel: Langevin::default().into(), steps_per_level: 1, ..usual() }, 4, 0.1), "no test"),
        (run(Annealing { kernel: Mala { step: 0., ..Mala::default() }.into(), ..usual() }, 4, 0.1), "step is 0"),
        (run(usual(), 1, 0.1), "particles"),
        (run(usual(), 4, 2.), "span"),
    ] {
        let why = result.unwrap_err().to_string();
        assert!(why.contains(word), "{word}: {why}");
    }
    Ok(())
}
