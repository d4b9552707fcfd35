//! Compositions of mixtures against densities on a lattice, by annealing and by weighed particles; and what is refused.

#![allow(clippy::print_stdout)]

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::{Plain, largest};
use langevin_dynamics::grid::{AnyGrid, Karras};
use langevin_dynamics::process::{AnyProcess, Edm, Flow};
use langevin_dynamics::sampler::{AnySampler, prior, run};
use langevin_dynamics::{Denoiser, Expression, Guidance, Marginal, Mixture, NoisyEnergy, Sum};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{dot_per_sample, to_host};

const N: usize = 1000;

fn models() -> [(&'static str, Mixture); 3] {
    let a = Mixture::isotropic(&[0.5, 0.3, 0.2], &[vec![-1., 0.], vec![0.6, 0.9], vec![0.7, -0.8]], &[0.3, 0.2, 0.25]);
    let b = Mixture::isotropic(&[0.6, 0.4], &[vec![0.8, 0.], vec![-0.7, 0.6]], &[0.5, 0.4]);
    let c = Mixture::isotropic(&[1.], &[vec![0.5, 0.3]], &[1.5]);
    [("a", a.unwrap()), ("b", b.unwrap()), ("c", c.unwrap())]
}

fn process(name: &str) -> AnyProcess {
    AnyProcess::named(name).unwrap()
}

/// `f` of the composition of the three mixtures under `process`; of those that it names alone.
fn composed<R>(text: &str, temperature: f64, process: &AnyProcess, f: impl FnOnce(&Sum) -> R) -> Result<R> {
    let mixtures = models();
    let exact: Vec<_> = mixtures.iter().map(|(name, mixture)| (*name, mixture.under(process.get()))).collect();
    let expression = Expression::parse(text)?;
    let named = exact.iter().filter(|(name, _)| expression.names().contains(name));
    let named: Vec<(&str, &dyn Denoiser)> = named.map(|(name, exact)| (*name, exact as &dyn Denoiser)).collect();
    Ok(f(&Sum::composed(&expression, &named, temperature)?))
}

/// Expectations under the density exp(log_p) in the plane, on a lattice: each mean, and the variance of one draw.
fn truth(log_p: impl Fn(&[f64]) -> f64, functions: &[fn(&[f64]) -> f64]) -> Vec<(f64, f64)> {
    let at = |i: usize| -6. + 12. * (i as f64 + 0.5) / 240.;
    let points: Vec<[f64; 2]> = (0..240 * 240).map(|i| [at(i % 240), at(i / 240)]).collect();
    let weights: Vec<f64> = points.iter().map(|x| log_p(x).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mean = |f: &dyn Fn(&[f64]) -> f64| points.iter().zip(&weights).map(|(x, w)| w * f(x)).sum::<f64>() / total;
    functions.iter().map(|f| (mean(&|x| f(x)), mean(&|x| f(x) * f(x)) - mean(&|x| f(x)).powi(2))).collect()
}

/// Draws of the composition under `process` by the sampler of that JSON.
fn draw(text: &str, temperature: f64, process: &AnyProcess, sampler: &str, steps: usize) -> Vec<f64> {
    let sampler: AnySampler = serde_json::from_str(sampler).unwrap();
    let times = AnyGrid::from(Karras::default()).get().times(process.get(), steps).unwrap();
    let mut z = Noise::seeds(&(0..N as u64).collect::<Vec<_>>());
    let x = prior(process.get(), times[0], &[N, 2], DType::F64, &Device::Cpu, &mut z).unwrap();
    let x = composed(text, temperature, process, |model| {
        let x = (x / model.prior_precision().sqrt()).unwrap();
        run(model, sampler.get(), &times, &x, &mut z, |_| Ok(())).unwrap()
    });
    to_host(&x.unwrap()).unwrap()
}

/// ln p of each of the three mixtures, of clean data.
fn logs(mixtures: &[(&str, Mixture); 3], x: &[f64]) -> [f64; 3] {
    [0, 1, 2].map(|k| mixtures[k].1.at(&Marginal::CLEAN, x).log_p)
}

/// Occupancy of the quadrants' sides and moments within 5 standard errors of `effective` independent draws.
fn agrees(name: &str, x: &[f64], log_p: impl Fn(&[f64]) -> f64, effective: f64) {
    let functions: [fn(&[f64]) -> f64; 7] = [
        |x| x[0],
        |x| x[1],
        |x| x[0] * x[0],
        |x| x[0] * x[1],
        |x| x[1] * x[1],
        |x| f64::from(u8::from(x[0] < 0.)),
        |x| f64::from(u8::from(x[0] > 0. && x[1] > 0.)),
    ];
    for (i, (f, (mean, variance))) in functions.iter().zip(truth(log_p, &functions)).enumerate() {
        let found = x.chunks(2).map(f).sum::<f64>() / (x.len() / 2) as f64;
        let off = (found - mean) / (variance / effective).sqrt();
        assert!(off.abs() < 5., "{name}: function {i} has mean {found:.4}, exact {mean:.4}: {off:.1} standard errors");
    }
}

const ANNEAL: &str =
    r#"{"name": "annealed-mcmc", "kernel": {"name": "hmc", "step": 0.5, "leapfrogs": 4}, "steps_per_level": 3}"#;
const PC: &str = r#"{"name": "pc", "corrector": {"name": "hmc", "step": 0.5, "leapfrogs": 4}, "corrector_steps": 3}"#;
const SMC: &str = r#"{"name": "smc", "kernel": {"name": "mala", "step": 0.4}, "steps_per_level": 3}"#;

/// Products, powers, quotients, mixtures and temperatures, by every way, under processes that scale the data and do not.
#[test]
fn compositions_are_drawn_as_they_are() {
    type Log = fn([f64; 3]) -> f64;
    let cases: [(&str, f64, &str, Log); 6] = [
        ("a & b", 1., "edm", |[a, b, _]| a + b),
        ("2*a", 1., "vp", |[a, _, _]| 2. * a),
        ("2*a & b & !c", 1., "edm", |[a, b, c]| 2. * a + b - c),
        ("a & b", 2., "vp", |[a, b, _]| 0.5 * (a + b)),
        ("a | 0.5:b", 1., "edm", |[a, b, _]| (a.exp() + 0.5 * b.exp()).ln()),
        ("(a | b) & -0.5*c", 1., "edm", |[a, b, c]| (a.exp() + b.exp()).ln() - 0.5 * c),
    ];
    let mixtures = models();
    for (text, temperature, name, log) in cases {
        for (how, sampler, effective) in
            [("annealed", ANNEAL, N as f64), ("corrected", PC, N as f64), ("smc", SMC, 0.5 * N as f64)]
        {
            let x = draw(text, temperature, &process(name), sampler, 40);
            agrees(&format!("{how} {text} at {temperature} under {name}"), &x, |x| log(logs(&mixtures, x)), effective);
        }
    }
}

/// The composed score follows a composition that noise does not commute with: without MCMC the product is missed.
#[test]
fn a_reverse_process_alone_misses_the_product() {
    let mixtures = models();
    let x = draw("4*a & 4*b", 1., &process("edm"), r#"{"name": "heun"}"#, 40);
    let log = |x: &[f64]| 4. * logs(&mixtures, x)[..2].iter().sum::<f64>();
    let (mean, variance) = truth(log, &[|x| x[0]])[0];
    let found = x.chunks(2).map(|x| x[0]).sum::<f64>() / N as f64;
    println!("heun: mean {found:.4}, exact {mean:.4}, standard deviation {:.4}", variance.sqrt());
    let off = (found - mean).abs() / (variance / N as f64).sqrt();
    // far off for chance, and near enough to be a density: not for want of numbers
    assert!((4. ..20.).contains(&off), "{off} standard errors");
    let x = draw("4*a & 4*b", 1., &process("edm"), SMC, 60);
    agrees("smc", &x, |x| 4. * (logs(&mixtures, x)[..2].iter().sum::<f64>()), 0.3 * N as f64);
}

/// Energies add up as the expression says, and every derivative follows them.
#[test]
fn derivatives_are_those_of_the_energy() {
    let (vp, t) = (process("vp"), [0.35]);
    let x = Noise::seeds(&(0..20).collect::<Vec<_>>()).normal((20, 2), DType::F64, &Device::Cpu).unwrap();
    let mixtures = models();
    let of = |k: usize| to_host(&mixtures[k].1.under(vp.get()).energy(&x, &t).unwrap()).unwrap();
    let (a, b, c) = (of(0), of(1), of(2));
    let expected = |n: usize| (2. * a[n] - (0.7 * (-b[n]).exp() + 0.2 * (-c[n]).exp()).ln()) / 1.5;
    composed("2*a & (0.7:b | 0.2:c)", 1.5, &vp, |model| {
        let jet = model.jet(&x, &t).unwrap();
        let energy = to_host(&jet.energy).unwrap();
        (0..20).for_each(|n| assert!((energy[n] - expected(n)).abs() < 1e-12));
        let h = 1e-5;
        let at = |dx: [f64; 2], dt: f64| {
            let moved = x.broadcast_add(&Tensor::new(&[dx], &Device::Cpu).unwrap()).unwrap();
            to_host(&model.energy_at(&moved, &[t[0] + dt]).unwrap()).unwrap()
        };
        let slope = |dx: [f64; 2], dt: f64| {
            let (up, down) = (at(dx, dt), at(dx.map(|v| -v), -dt));
            up.iter().zip(down).map(|(up, down)| (up - down) / (2. * h)).collect::<Vec<_>>()
        };
        let gradient = to_host(&jet.gradient).unwrap();
        let (along_x, along_y, along_t) = (slope([h, 0.], 0.), slope([0., h], 0.), slope([0., 0.], h));
        let dt = to_host(&jet.dt).unwrap();
        for n in 0..20 {
            assert!((gradient[2 * n] - along_x[n]).abs() < 1e-6 && (gradient[2 * n + 1] - along_y[n]).abs() < 1e-6);
            assert!((dt[n] - along_t[n]).abs() < 1e-5, "{} {}", dt[n], along_t[n]);
        }
        let score = to_host(&model.score(&x, &t).unwrap()).unwrap();
        score.iter().zip(&gradient).for_each(|(s, g)| assert!((s + g).abs() < 1e-12));
        assert!(!model.normalised() && (model.prior_precision() - 2.).abs() < 1e-12);
    })
    .unwrap();
    composed("0.3:a | b", 1., &vp, |model| assert!(model.normalised())).unwrap();
}

/// v^T dx0/dx is the sum of that of the parts, exact ones too, which autodiff does not see through. A mixture is refused.
#[test]
fn x0_is_differentiated_part_by_part() {
    let (vp, t) = (process("vp"), [0.35]);
    let mut z = Noise::seeds(&(0..20).collect::<Vec<_>>());
    let [x, v, u] = [(); 3].map(|()| z.normal((20, 2), DType::F64, &Device::Cpu).unwrap());
    let (b, guidance) = (models()[1].1.clone(), Guidance { scale: 2.5, interval: None });
    let b = b.under(vp.get());
    let check = |model: &Sum| {
        let (x0, vjp) = model.x0_vjp(&x, &t, &v).unwrap();
        assert!(largest(&x0, &model.x0(&x, &t).unwrap()) < 1e-12);
        let at = |by: f64| model.x0(&(&x + (&u * by).unwrap()).unwrap(), &t).unwrap();
        let rise = ((at(1e-5) - at(-1e-5)).unwrap() / 2e-5).unwrap();
        let (found, truth) = (dot_per_sample(&vjp, &u).unwrap(), dot_per_sample(&v, &rise).unwrap());
        assert!(found.iter().zip(&truth).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {truth:?}");
    };
    composed("2*a & !c", 1.5, &vp, |model| {
        check(model);
        check(&Sum::guided(model, &b, guidance.clone()).unwrap());
    })
    .unwrap();
    let why = composed("a | b", 1., &vp, |model| model.x0_vjp(&x, &t, &v).map(|_| ()).unwrap_err()).unwrap();
    assert!(why.to_string().contains("a mixture depend on x"), "{why}");
}

/// Scores alone make products, by the line integral; x0 is that of the score, at pure noise too where weights add up to 1.
#[test]
fn scores_alone_make_products() {
    let flow = AnyProcess::from(Flow::default());
    let mixtures = models();
    let (a, b) = (mixtures[0].1.under(flow.get()), mixtures[1].1.under(flow.get()));
    let (plain_a, plain_b) = (Plain(&a), Plain(&b));
    let x = Noise::seeds(&(0..9).collect::<Vec<_>>()).normal((9, 2), DType::F64, &Device::Cpu).unwrap();
    let make = |text: &str| Expression::parse(text).unwrap();
    for text in ["a & b", "0.5*a & 0.5*b"] {
        let exact = Sum::composed(&make(text), &[("a", &a), ("b", &b)], 1.).unwrap();
        let alone = Sum::composed(&make(text), &[("a", &plain_a), ("b", &plain_b)], 1.).unwrap();
        assert!(exact.noisy_energy().is_some() && alone.noisy_energy().is_none());
        for t in [[0.3], [0.8]] {
            assert!(largest(&exact.score(&x, &t).unwrap(), &alone.score(&x, &t).unwrap()) < 1e-9);
            let m = flow.get().marginal(t[0]);
            let told = ((&x + (alone.score(&x, &t).unwrap() * m.sigma.powi(2)).unwrap()).unwrap() / m.alpha).unwrap();
            assert!(largest(&alone.x0(&x, &t).unwrap(), &told) < 1e-9);
        }
        assert_eq!(alone.x0(&x, &[1.]).is_ok(), text != "a & b");
    }
}

/// What wraps a composition knows how wide its pure noise is.
#[test]
fn wrappers_keep_the_precision_of_pure_noise() {
    let edm = process("edm");
    composed("3*a", 1., &edm, |model| {
        let plain = models()[1].1.clone();
        let plain = plain.under(edm.get());
        let of =
            |scale: f64, interval| Sum::guided(model, &plain, Guidance { scale, interval }).unwrap().prior_precision();
        assert_eq!((of(2., None), of(2., Some((0.1, 1.)))), (5., 3.));
        let clipped = langevin_dynamics::Clamped::new(model, Default::default()).unwrap();
        assert_eq!(clipped.prior_precision(), 3.);
    })
    .unwrap();
}

#[test]
fn what_makes_no_density_is_refused() {
    let refused = |text: &str, temperature: f64| match composed(text, temperature, &process("edm"), |_| ()) {
        Err(why) => why.to_string(),
        Ok(()) => panic!("{text} is taken"),
    };
    for (text, words) in [
        ("a & !b", "add up to 0"),
        ("!a", "add up to -1"),
        ("a | !b", "`!b` is part of a mixture"),
        ("a | 2*b", "`2*b` is part of a mixture"),
        ("a | (b & c)", "give the ratio of its exp(-E) to the others', such as 1:b & c"),
        ("a & d", "no model `d`; there are: a"),
    ] {
        let why = refused(text, 1.);
        assert!(why.contains(words), "{text}: {why}");
    }
    assert!(refused("a", 0.).contains("temperature is 0"));
    composed("1:a | 1:2*b", 1., &process("edm"), |_| ()).unwrap();

    let (edm, mixtures) = (process("edm"), models());
    let far = AnyProcess::from(Edm { sigma_min: 1e3, sigma_max: 1e4 });
    let (a, b) = (mixtures[0].1.under(edm.get()), mixtures[1].1.under(far.get()));
    let other = mixtures[1].1.under(edm.get());
    let plain = Plain(&other);
    let make = |text: &str, b: &dyn Denoiser| {
        let made = Sum::composed(&Expression::parse(text).unwrap(), &[("a", &a), ("b", b)], 1.).map(|_| ());
        made.unwrap_err().to_string()
    };
    assert!(make("a & b", &b).contains("none in common"));
    assert!(make("a | b", &plain).contains("`b` has a score alone"));
    assert!(make("2*a", &other).contains("the model `b` is not in \"2*a\""));
}

#[test]
fn errors_point_at_the_character() {
    for (text, words) in [
        ("", "character 1 of \"\" is the end; expected a model"),
        ("a & & b", "character 5 of \"a & & b\" is `&`"),
        ("2 a", "character 3 of \"2 a\" is `a`; expected * and"),
        ("(a | b", "character 7 of \"(a | b\" is the end; expected &, | or )"),
        ("a b", "character 3 of \"a b\" is `b`; expected &, | or the end"),
        ("1.2.3*a", "character 1 of \"1.2.3*a\" is `1`; expected a number"),
        ("-1:a | b", "expected a ratio above 0"),
        ("1e308*a", "character 1 of \"1e308*a\" is `1`; expected a number from 1e-100 to 1e100"),
        ("1e-320:a | b", "expected a number from 1e-100 to 1e100"),
        ("ä & %", "character 5 of \"ä & %\" is `%`"),
        (&"(".repeat(100_000), "not nested so deeply"),
        (&"!".repeat(100_000), "not nested so deeply"),
    ] {
        let why = Expression::parse(text).unwrap_err().to_string();
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn what_binds_tighter() {
    let shown = |text: &str| Expression::parse(text).unwrap().to_string();
    assert_eq!(shown(" 2*a&b & !c "), "2*a & b & !c");
    assert_eq!(shown("a & b | 0.3:c & d"), "a & b | 0.3:c & d");
    assert_eq!(shown("2*(a|b)&c"), "2*(a | b) & c");
    assert_eq!(shown("!!a"), "!!a");
    assert_eq!(shown("-1*a & 1e-3*b"), "!a & 0.001*b");
    assert_eq!(shown("1e-99:a | 2e99*b"), "1e-99:a | 2e99*b");
    assert_eq!(Expression::parse("b & a & 2*b").unwrap().names(), ["b", "a"]);
}

/// No text makes the parser panic, and what it takes it gives back.
#[test]
fn any_text_is_read_or_refused() {
    let (mut z, mut taken) = (Noise::seeds(&(0..24).collect::<Vec<_>>()), 0);
    let letters: Vec<char> = "ab2.5*&|!():e- \u{e9}\u{1f600}%".chars().collect();
    for _ in 0..20_000 {
        let u = z.uniform(24).unwrap();
        let length = (u[0] * 23.) as usize;
        let text: String = u[1..=length].iter().map(|u| letters[(u * letters.len() as f64) as usize]).collect();
        if let Ok(expression) = Expression::parse(&text) {
            taken += 1;
            let again = Expression::parse(&expression.to_string());
            assert_eq!(again.unwrap(), expression, "{text}");
        }
    }
    assert!(taken > 100, "{taken}");
}
