//! log Z(t) estimated at all noise levels: against energies with known constants, and in mixtures that are drawn.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::{largest, worst};
use langevin_dynamics::exact::Exact;
use langevin_dynamics::grid::Karras;
use langevin_dynamics::likelihood::{Annealing, ConstantAt, Constants, LogZ};
use langevin_dynamics::noisy::Jet;
use langevin_dynamics::process::AnyProcess;
use langevin_dynamics::sampler::{AnySampler, prior, run};
use langevin_dynamics::{Denoiser, Expression, Frame, Grid, Mixture, NoisyEnergy, Sum};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{per_sample, to_host};

const RUNS: u64 = 32;
const PARTICLES: usize = 100;

/// The energy of a mixture with a constant of its own at each t, which it does not know: c(log SNR).
struct Shifted<'a>(Exact<'a>);

/// c and its derivative.
fn shift(log_snr: f64) -> (f64, f64) {
    (1.5 + 2. * (0.4 * log_snr).sin() + 0.3 * log_snr, 0.8 * (0.4 * log_snr).cos() + 0.3)
}

impl Shifted<'_> {
    fn shifts(&self, x: &Tensor, t: &[f64], f: impl Fn(langevin_dynamics::Marginal) -> f64) -> Result<Tensor> {
        let each: Vec<f64> = t.iter().map(|&t| f(self.process().marginal(t))).collect();
        per_sample(&each, x)?.flatten_all()?.broadcast_as(x.dim(0)?)
    }
}

impl Denoiser for Shifted<'_> {
    fn frame(&self) -> Frame<'_> {
        self.0.frame()
    }
    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.0.x0(x, t)
    }
    fn noisy_energy(&self) -> Option<&dyn NoisyEnergy> {
        Some(self)
    }
}

impl NoisyEnergy for Shifted<'_> {
    fn energy_at(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.0.energy(x, t)? + self.shifts(x, t, |m| shift(m.log_snr()).0)?
    }
    fn energy_grad(&self, x: &Tensor, t: &[f64]) -> Result<(Tensor, Tensor)> {
        Ok((self.energy_at(x, t)?, self.0.energy_grad(x, t)?.1))
    }
    fn jet(&self, x: &Tensor, t: &[f64]) -> Result<Jet> {
        let jet = self.0.jet(x, t)?;
        let rate = |m: langevin_dynamics::Marginal| 2. * (m.dalpha / m.alpha - m.dsigma / m.sigma);
        let dt = (jet.dt + self.shifts(x, t, |m| shift(m.log_snr()).1 * rate(m))?)?;
        Ok(Jet { energy: self.energy_at(x, t)?, dt, ..jet })
    }
    fn normalised(&self) -> bool {
        false
    }
}

fn process(name: &str) -> AnyProcess {
    AnyProcess::named(name).unwrap()
}

fn estimate(m: &dyn NoisyEnergy, levels: usize) -> Result<Constants> {
    let noises = (0..RUNS).map(|run| Noise::of_step(3, run, PARTICLES));
    let annealing = Annealing { levels, ..Annealing::default() };
    Constants::estimate(m, &annealing, (&[PARTICLES, 2], DType::F64, &Device::Cpu), noises, &mut || Ok(()))
}

fn normals(n: u64) -> Tensor {
    Noise::seeds(&(0..n).collect::<Vec<_>>()).normal((n as usize, 2), DType::F64, &Device::Cpu).unwrap()
}

/// Two separate modes of unequal width, x[0] < 0 and x[0] > 0.
fn modes() -> (Mixture, Mixture) {
    let one = |mean: f64, variance: f64| Mixture::isotropic(&[1.], &[vec![mean, 0.3]], &[variance]).unwrap();
    (one(-1.5, 0.2), one(1.5, 0.05))
}

/// Between levels a smooth log Z is told as well as a cubic tells it, and its derivative is that of what is told.
#[test]
fn between_levels_lies_a_cubic() -> Result<()> {
    let exact = |log_snr: f64| LogZ { value: shift(log_snr).0, error: 0., spread: 0., runs: 1 };
    let at = |i: usize| -10. + 20. * i as f64 / 100.;
    let levels = |step: usize| (0..=100).step_by(step).map(|i| ConstantAt { log_snr: at(i), log_z: exact(at(i)) });
    let constants = |step| Constants::at_levels(levels(step).collect());
    let off = |constants: &Constants| {
        let of = |i: usize| {
            let l = -10. + 20. * (i as f64 + 0.31) / 700.;
            let ((value, slope), (c, dc)) = (constants.at(l), shift(l));
            let moved = (constants.at(l + 1e-5).0 - constants.at(l - 1e-5).0) / 2e-5;
            assert!((slope - moved).abs() < 1e-6, "{l}: {slope} {moved}");
            ((value - c).abs(), (slope - dc).abs())
        };
        let (values, slopes): (Vec<_>, Vec<_>) = (0..699).map(of).unzip();
        (worst(values), worst(slopes))
    };
    let (fine, coarse) = (off(&constants(1)?), off(&constants(2)?));
    // of fourth order, and of third in the derivative
    assert!(fine.0 < 1e-5 && fine.1 < 2e-4, "{fine:?}");
    assert!(
        (12. ..20.).contains(&(coarse.0 / fine.0)) && (6. ..10.).contains(&(coarse.1 / fine.1)),
        "{fine:?} {coarse:?}"
    );
    let same = Constants::same(exact(0.));
    assert_eq!((same.at(-50.), same.at(3.)), ((1.5, 0.), (1.5, 0.)));
    for (levels, words) in [
        (levels(50).collect::<Vec<_>>(), "at least 4"),
        (levels(1).collect::<Vec<_>>().into_iter().rev().collect(), "must rise"),
        (levels(1).map(|l| ConstantAt { log_z: LogZ { value: f64::NAN, ..l.log_z }, ..l }).collect(), "finite"),
    ] {
        let why = Constants::at_levels(levels).unwrap_err().to_string();
        assert!(why.contains(words), "{why}");
    }
    Ok(())
}

/// Constants that an energy does not know are found at every level, and what it is with them is -log p and its derivatives.
#[test]
fn unknown_constants_are_found_at_every_level() -> Result<()> {
    let mixture = Mixture::isotropic(&[0.6, 0.4], &[vec![-1., 0.2], vec![0.8, -0.6]], &[0.1, 0.3])?;
    for name in ["edm", "vp", "flow"] {
        let process = process(name);
        let model = Shifted(mixture.under(process.get()));
        let constants = estimate(&model, 60)?;
        for ConstantAt { log_snr, log_z } in constants.levels() {
            let (truth, _) = shift(*log_snr);
            assert!(log_z.error < 0.05, "{name} at {log_snr}: {log_z:?}");
            assert!((log_z.value + truth).abs() < 5. * log_z.error + 1e-9, "{name} at {log_snr}: {log_z:?} {}", -truth);
        }
        let normalised = Sum::normalised(&model, constants)?;
        let (low, high) = normalised.process().span();
        assert_eq!(low, process.get().span().0);
        // told up to where nothing of the data is left
        assert!(process.get().marginal(high).alpha > 0. && process.get().log_snr(high) <= -2. * 79f64.ln());
        let x = normals(6);
        let middle = process.get().t_at(0.);
        let t = [low, low, middle, middle, 0.5 * (middle + high), high];
        let (jet, exact) = (normalised.jet(&x, &t)?, model.0.jet(&x, &t)?);
        let off = largest(&jet.energy, &exact.energy);
        assert!(off < 0.1 && largest(&normalised.energy_at(&x, &t)?, &jet.energy) < 1e-12, "{name}: {off}");
        assert!(largest(&normalised.energy_grad(&x, &t)?.0, &jet.energy) < 1e-12 && normalised.normalised());
        assert_eq!(largest(&normalised.score(&x, &t)?, &model.score(&x, &t)?), 0.);
        // dE/dt, in log SNR: the slope of an estimate is as noisy as its steps
        let rates = t.map(|t| process.get().marginal(t)).map(|m| 2. * (m.dalpha / m.alpha - m.dsigma / m.sigma));
        for (i, (a, b)) in to_host(&jet.dt)?.into_iter().zip(to_host(&exact.dt)?).enumerate() {
            assert!(((a - b) / rates[i]).abs() < 0.1, "{name} at {}: {a} {b}", t[i]);
        }
        let why = normalised.energy_at(&x, &[0.5 * low]).unwrap_err().to_string();
        assert!(why.contains("keep to these times"), "{why}");
    }
    Ok(())
}

/// log Z of prod_k N(alpha m_k, alpha^2 v_k + sigma^2)^w_k in the plane.
fn of_product(m: &langevin_dynamics::Marginal, parts: &[(f64, [f64; 2], f64)]) -> f64 {
    let variance = |v: f64| m.alpha * m.alpha * v + m.sigma * m.sigma;
    let along = |i: usize| {
        let sum = |f: &dyn Fn(f64, f64, f64) -> f64| {
            parts.iter().map(|(w, mean, v)| f(*w, m.alpha * mean[i], variance(*v))).sum::<f64>()
        };
        let (precision, mean) = (sum(&|w, _, v| w / v), sum(&|w, mean, v| w * mean / v));
        let own = sum(&|w, mean, v| w * ((2. * std::f64::consts::PI * v).ln() + mean * mean / v));
        0.5 * (mean * mean / precision + (2. * std::f64::consts::PI / precision).ln() - own)
    };
    along(0) + along(1)
}

/// A composition is an energy whose prior is sharper than noise: its log Z is known in closed form for Gaussians.
#[test]
fn log_z_of_a_composition() -> Result<()> {
    let means = [[0.6, -0.3], [-0.4, 0.5]];
    let of = |mean: [f64; 2], v: f64| Mixture::isotropic(&[1.], &[mean.to_vec()], &[v]);
    let (a, b) = (of(means[0], 0.5)?, of(means[1], 0.8)?);
    for (name, text, weights) in
        [("vp", "2*a & b", [2., 1.]), ("flow", "2*a & b", [2., 1.]), ("edm", "0.5*a & 0.2*b", [0.5, 0.2])]
    {
        let process = process(name);
        let (a, b) = (a.under(process.get()), b.under(process.get()));
        let product = Sum::composed(&Expression::parse(text)?, &[("a", &a), ("b", &b)], 1.)?;
        let constants = estimate(&product, 60)?;
        for ConstantAt { log_snr, log_z } in constants.levels() {
            let m = process.get().marginal(process.get().t_at(*log_snr));
            let truth = of_product(&m, &[(weights[0], means[0], 0.5), (weights[1], means[1], 0.8)]);
            let (off, error) = ((log_z.value - truth).abs(), log_z.error);
            assert!(error < 0.05 && off < 5. * error + 1e-6, "{name} {text} at {log_snr}: {log_z:?} {truth}");
        }
    }
    Ok(())
}

/// The part of the draws of a composition that lies left of 0, and their number.
fn left(model: &Sum, sampler: &str, n: u64) -> Result<f64> {
    let sampler: AnySampler = serde_json::from_str(sampler).unwrap();
    let times = Karras::default().times(model.process(), 40)?;
    let mut z = Noise::seeds(&(0..n).collect::<Vec<_>>());
    let x = prior(model.process(), times[0], &[n as usize, 2], DType::F64, &Device::Cpu, &mut z)?;
    let x = run(model, sampler.get(), &times, &(x / model.prior_precision().sqrt())?, &mut z, |_| Ok(()))?;
    Ok(to_host(&x)?.chunks(2).filter(|x| x[0] < 0.).count() as f64 / n as f64)
}

const PC: &str = r#"{"name": "pc", "corrector": {"name": "hmc", "step": 0.5, "leapfrogs": 4}, "corrector_steps": 3}"#;
const SMC: &str = r#"{"name": "smc", "kernel": {"name": "mala", "step": 0.4}, "steps_per_level": 3}"#;

/// Within 5 standard errors of `n` draws, and of a log-ratio known to `error`.
fn share_is(name: &str, found: f64, truth: f64, n: f64, error: f64) {
    let spread = (truth * (1. - truth) / n).sqrt() + truth * (1. - truth) * error;
    assert!((found - truth).abs() < 5. * spread, "{name}: {found:.3} of the draws, exact {truth:.3}");
}

/// Energies with unknown constants are mixed half and half once their log Z is estimated; with a ratio, as it says.
#[test]
fn mixtures_have_the_right_share_of_each_part() -> Result<()> {
    let (a, b) = modes();
    for (name, sampler, effective) in [("vp", SMC, 0.5), ("flow", PC, 1.)] {
        let process = process(name);
        let (a, b) = (Shifted(a.under(process.get())), b.under(process.get()));
        let why = Sum::composed(&Expression::parse("a | b")?, &[("a", &a), ("b", &b)], 1.).map(|_| ()).unwrap_err();
        assert!(why.to_string().contains("which is not known; estimate it"), "{why}");
        let constants = estimate(&a, 40)?;
        let error = constants.least_noisy().error;
        let a = Sum::normalised(&a, constants)?;
        for (text, truth) in [("a | b", 0.5), ("0.25:a | b", 0.2)] {
            let model = Sum::composed(&Expression::parse(text)?, &[("a", &a), ("b", &b)], 1.)?;
            assert!(model.normalised());
            let n = 1000;
            share_is(&format!("{text} under {name}"), left(&model, sampler, n)?, truth, effective * n as f64, error);
        }
    }
    Ok(())
}

/// A part that is a composition itself: (2*a & b) | c, as a model of its own with its estimated log Z.
#[test]
fn compositions_are_parts_of_mixtures() -> Result<()> {
    let (a, c) = modes();
    let b = Mixture::isotropic(&[1.], &[vec![-1.2, 0.]], &[0.6])?;
    let process = process("vp");
    let (a, b, c) = (a.under(process.get()), b.under(process.get()), c.under(process.get()));
    let product = Sum::composed(&Expression::parse("2*a & b")?, &[("a", &a), ("b", &b)], 1.)?;
    let constants = estimate(&product, 60)?;
    let error = constants.least_noisy().error;
    let product = Sum::normalised(&product, constants)?;
    assert_eq!(product.prior_precision(), 3.);
    let model = Sum::composed(&Expression::parse("p | 3:c")?, &[("p", &product), ("c", &c)], 1.)?;
    // the widest of a mixture counts
    assert_eq!(
        (model.prior_precision(), model.unevenness(), product.process().span()),
        (1., 3., model.process().span())
    );
    share_is("(2*a & b) | 3:c", left(&model, PC, 1000)?, 0.25, 1000., error);
    // weights of a composition add up, precisions of its parts weighed
    let power = Sum::composed(&Expression::parse("0.5*p & c")?, &[("p", &product), ("c", &c)], 1.)?;
    assert_eq!((power.prior_precision(), power.unevenness()), (2.5, 1.));
    let (x, t) = (normals(4), [0.3]);
    let m = process.get().marginal(t[0]);
    let told = ((&x + (power.score(&x, &t)? * m.sigma.powi(2))?)? / m.alpha)?;
    assert!(largest(&power.x0(&x, &t)?, &told) < 1e-10);
    Ok(())
}

/// What the parts of mixtures are called, and what is not normalised among them.
#[test]
fn parts_of_mixtures_are_found_from_the_inside() -> Result<()> {
    let known = |name: &str| name == "n";
    let found = |text: &str| {
        let expression = Expression::parse(text).unwrap();
        let parts = expression.unnormalised(&known);
        parts.iter().map(|(ratio, part)| format!("{ratio:?} {part}")).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(found("a & b"), "");
    assert_eq!(found("n | 0.5:n"), "");
    assert_eq!(found("a | 0.5:n & b | n"), "None a; Some(0.5) n & b");
    assert_eq!(found("2*((a | n) & b) | n"), "None a; None 2*((a | n) & b)");
    let text = Expression::parse("(a | b) & a | a")?;
    let new = text.with_part(&Expression::parse("a")?, "p");
    assert_eq!(new, Expression::parse("(p | b) & a | p")?);
    assert!(text.mixes() && !Expression::parse("2*a & !b")?.mixes());
    Ok(())
}
