//! The exact mixture against recorded figures, its own finite differences and its own draws.

#![allow(clippy::print_stdout)] // errors of the reference cases

use candle_core::{DType, Device, Tensor, safetensors};
use langevin_dynamics::likelihood::Flow;
use langevin_dynamics::process::{AnyProcess, Vp};
use langevin_dynamics::{Denoiser, Marginal, Mixture};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

type Anyhow<T> = Result<T, Box<dyn std::error::Error>>;

fn skewed() -> Mixture {
    let means = [vec![1.5, -0.5, 0.], vec![-1., 1., 0.3], vec![0.2, 0.1, -2.]];
    let covariances = [
        vec![0.5, 0.2, 0.1, 0.2, 0.4, -0.1, 0.1, -0.1, 0.3],
        vec![0.1, 0., 0., 0., 0.2, 0., 0., 0., 0.05],
        vec![0.3, -0.2, 0., -0.2, 0.3, 0.1, 0., 0.1, 0.2],
    ];
    Mixture::full(&[2., 1., 1.], &means, &covariances).unwrap()
}

/// The folder of the cases: below `$LANGEVIN_REFERENCE`, else the copies beside this file.
fn folder() -> PathBuf {
    match std::env::var_os("LANGEVIN_REFERENCE") {
        Some(at) => Path::new(&at).join("metrics/likelihood"),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/likelihood"),
    }
}

fn error(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let top = theirs.iter().fold(0f64, |top, v| top.max(v.abs()));
    ours.iter().zip(theirs).fold(0f64, |worst, (a, b)| worst.max((a - b).abs())) / top
}

/// The largest error of the case in `dir`: of the process's alpha and sigma, and of the exact figures.
fn case(dir: &Path) -> Anyhow<f64> {
    let tensors = safetensors::load(dir.join("tensors.safetensors"), &Device::Cpu)?;
    let get = |name: &str| to_host(&tensors[name]);
    let d = tensors["x0"].dim(1)?;
    let split = |v: Vec<f64>, n: usize| v.chunks(n).map(<[f64]>::to_vec).collect::<Vec<_>>();
    let mixture = Mixture::full(&get("weights")?, &split(get("means")?, d), &split(get("covariances")?, d * d))?;

    let (mut ours, n) = (HashMap::<&str, Vec<f64>>::new(), tensors["x0"].dim(0)?);
    let mut point = |m: &Marginal, x: &[f64], names: [&'static str; 4]| {
        let p = mixture.at(m, x);
        for (name, v) in names.into_iter().zip([vec![p.log_p], p.score, vec![p.laplacian], p.x0]) {
            ours.entry(name).or_default().extend(v);
        }
    };
    get("x0")?.chunks(d).for_each(|x| point(&Marginal::CLEAN, x, ["log_p0", "", "", ""]));
    let (a, s) = (get("a")?, get("s")?);
    for ((x_t, alpha), sigma) in get("x_t")?.chunks(n * d).zip(a).zip(s) {
        let m = Marginal { alpha, sigma, ..Marginal::CLEAN };
        x_t.chunks(d).for_each(|x| point(&m, x, ["log_p", "score", "laplacian", "posterior_mean"]));
    }
    let text = std::fs::read_to_string(dir.join("case.json"))?;
    let name = serde_json::from_str::<serde_json::Value>(&text)?["process"].to_string();
    let process = AnyProcess::named(name.trim_matches('"'))?;
    let marginals: Vec<_> = get("t")?.into_iter().map(|t| process.get().marginal(t)).collect();
    let of = |f: fn(&Marginal) -> f64| marginals.iter().map(f).collect::<Vec<_>>();
    let mut worst = error(&of(|m| m.alpha), &get("a")?).max(error(&of(|m| m.sigma), &get("s")?));
    for name in ["log_p0", "log_p", "score", "laplacian", "posterior_mean"] {
        worst = worst.max(error(&ours[name], &get(name)?));
    }
    Ok(worst)
}

/// The largest error of our probability-flow ODE against that of the case in `dir`, and how large theirs is: the same
/// process, least time and prior.
fn ode(dir: &Path) -> Anyhow<(f64, f64)> {
    let tensors = safetensors::load(dir.join("tensors.safetensors"), &Device::Cpu)?;
    let case: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(dir.join("case.json"))?)?;
    let number = |v: &serde_json::Value| v.as_f64().ok_or("a number is missing in case.json");
    let get = |name: &str| to_host(&tensors[name]);
    let d = tensors["x0"].dim(1)?;
    let split = |v: Vec<f64>, n: usize| v.chunks(n).map(<[f64]>::to_vec).collect::<Vec<_>>();
    let mixture = Mixture::full(&get("weights")?, &split(get("means")?, d), &split(get("covariances")?, d * d))?;
    let (name, from) = (case["process"].as_str().unwrap_or_default(), number(&case["ode_interval"][0])?);
    let least = if name == "edm" { "sigma_min" } else { "t_min" };
    let process: AnyProcess = serde_json::from_value(serde_json::json!({ "name": name, least: from }))?;
    let flow = Flow { atol: 1e-9, rtol: 1e-9, prior_std: Some(number(&case["prior_std"])?), ..Flow::default() };
    let m = mixture.under(process.get());
    let found = flow.log_p(&m, &tensors["ode_x0"], &[from], &mut Noise::seeds(&[]), &mut |_| Ok(()))?;
    let worst = error(&found.log_p, &get("ode_log_likelihood")?).max(error(&found.volume, &get("ode_delta")?));
    let theirs = error(&get("ode_log_likelihood_exact_prior")?, &get("ode_log_p_t0")?);
    let end = to_host(&m.log_p(&found.latent, &[process.get().span().1])?)?;
    let own: Vec<f64> = end.iter().zip(&found.volume).map(|(end, volume)| end + volume).collect();
    Ok((worst.max(error(&to_host(&found.latent)?, &get("ode_z")?)).max(error(&own, &get("ode_log_p_t0")?)), theirs))
}

#[test]
fn reference_metrics_likelihood() -> Anyhow<()> {
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(folder())?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    cases.retain(|dir| dir.join("tensors.safetensors").is_file());
    cases.sort();
    assert!(!cases.is_empty(), "no cases in {}", folder().display());
    let mut failed = vec![];
    for dir in cases {
        let worst = case(&dir).unwrap_or_else(|why| {
            println!("{}: not supported: {why}", dir.display());
            f64::NAN
        });
        let (by_ode, theirs) = ode(&dir).unwrap_or_else(|why| {
            println!("{}: ODE not supported: {why}", dir.display());
            (f64::NAN, f64::NAN)
        });
        let name = dir.display();
        println!("{name}: largest error {worst:.1e}, by the ODE {by_ode:.1e} (that of the case itself: {theirs:.1e})");
        // the ODE of the case is solved to its own error
        if worst.is_nan() || worst > 1e-9 || by_ode.is_nan() || by_ode > 1e-7 + 3. * theirs {
            failed.push(dir);
        }
    }
    assert!(failed.is_empty(), "off by more than 1e-9, or 1e-7 by the ODE: {failed:?}");
    Ok(())
}

/// Score and laplacian are the derivatives of log p, and x0 = (x + sigma^2 score) / alpha, at any noise level.
#[test]
fn derivatives() {
    let mixture = skewed();
    let x = [0.3, -0.4, 0.8];
    for (alpha, sigma) in [(1., 0.2), (0.8, 0.6), (0.1, 0.99), (1., 5.)] {
        let m = Marginal { alpha, sigma, ..Marginal::CLEAN };
        let here = mixture.at(&m, &x);
        let mut laplacian = 0.;
        for i in 0..3 {
            let moved = |by: f64| {
                let mut x = x;
                x[i] += by;
                mixture.at(&m, &x).log_p
            };
            let h = 1e-4 * sigma;
            let slope = (moved(h) - moved(-h)) / (2. * h);
            assert!((slope - here.score[i]).abs() < 1e-6 * (1. + slope.abs()), "{slope} {}", here.score[i]);
            laplacian += (moved(h) - 2. * here.log_p + moved(-h)) / (h * h);
            let tweedie = (x[i] + sigma * sigma * here.score[i]) / alpha;
            assert!((tweedie - here.x0[i]).abs() < 1e-12, "{tweedie} {}", here.x0[i]);
        }
        assert!((laplacian - here.laplacian).abs() < 1e-4 * (1. + laplacian.abs()), "{laplacian} {}", here.laplacian);
        assert!((here.responsibilities.iter().sum::<f64>() - 1.).abs() < 1e-12);
    }
}

/// With no signal left, x0 is the mean of the data; far out, nothing overflows.
#[test]
fn ends() {
    let mixture = skewed();
    let pure = Marginal { alpha: 0., sigma: 1., ..Marginal::CLEAN };
    assert!(error(&mixture.at(&pure, &[0.1, 2., -1.]).x0, &mixture.moments().0) < 1e-12);
    let far = mixture.at(&Marginal { alpha: 1., sigma: 0.01, ..Marginal::CLEAN }, &[1e4, -1e4, 1e4]);
    assert!(far.log_p.is_finite() && far.score.iter().chain(&far.x0).all(|v| v.is_finite()), "{far:?}");
}

/// Draws have the mixture's mean and covariance, and each depends on its own seed alone.
#[test]
fn draws() -> Anyhow<()> {
    let mixture = skewed();
    let n = 40_000;
    let seeds: Vec<u64> = (0..n as u64).collect();
    let x = to_host(&mixture.sample(n, &mut Noise::seeds(&seeds))?)?;
    let mean: Vec<f64> = (0..3).map(|i| x.iter().skip(i).step_by(3).sum::<f64>() / n as f64).collect();
    let pair = |rc: usize| {
        x.chunks(3).map(|x| (x[rc / 3] - mean[rc / 3]) * (x[rc % 3] - mean[rc % 3])).sum::<f64>() / n as f64
    };
    let covariance: Vec<f64> = (0..9).map(pair).collect();
    let (true_mean, true_covariance) = mixture.moments();
    assert!(mean.iter().zip(&true_mean).all(|(a, b)| (a - b).abs() < 0.02), "{mean:?} {true_mean:?}");
    assert!(
        covariance.iter().zip(&true_covariance).all(|(a, b)| (a - b).abs() < 0.03),
        "{covariance:?} {true_covariance:?}"
    );
    let few = to_host(&mixture.sample(2, &mut Noise::seeds(&seeds[5..7]))?)?;
    assert_eq!(few, x[15..21]);
    Ok(())
}

/// A model of images of any shape, with a time a sample; the views agree with each other.
#[test]
fn denoiser() -> Anyhow<()> {
    let mean: Vec<f64> = (0..12).map(|i| 0.1 * f64::from(i)).collect();
    let mixture = Mixture::isotropic(&[1., 3.], &[mean.clone(), vec![0.; 12]], &[0.2, 0.5])?;
    let x = Noise::seeds(&[1, 2]).normal((2, 3, 2, 2), DType::F64, &Device::Cpu)?;
    let vp = Vp::default();
    let exact = mixture.under(&vp);
    let x0 = exact.x0(&x, &[0.1, 0.7])?;
    assert_eq!(x0.dims(), x.dims());
    let alone = exact.x0(&x.narrow(0, 1, 1)?, &[0.7])?;
    assert_eq!(to_host(&x0.narrow(0, 1, 1)?)?, to_host(&alone)?);
    let from_score = {
        let m = langevin_dynamics::Process::marginal(&vp, 0.7);
        let score = exact.score(&x.narrow(0, 1, 1)?, &[0.7])?;
        ((x.narrow(0, 1, 1)? + (score * (m.sigma * m.sigma))?)? / m.alpha)?
    };
    assert!(error(&to_host(&from_score)?, &to_host(&alone)?) < 1e-12);
    assert_eq!(to_host(&exact.energy(&x, &[0.3])?)?, to_host(&exact.log_p(&x, &[0.3])?.neg()?)?);
    assert!(exact.x0(&Tensor::zeros((2, 5), DType::F64, &Device::Cpu)?, &[0.1]).is_err());
    assert!(exact.x0(&x, &[0.1, 0.2, 0.3]).is_err());
    for process in AnyProcess::defaults() {
        let p = process.get();
        let (from, to) = p.span();
        for t in [from, 0.5 * (from + to), to] {
            assert!(to_host(&mixture.under(p).x0(&x, &[t])?)?.iter().all(|v| v.is_finite()), "{process:?} {t}");
        }
    }
    Ok(())
}

#[test]
fn refuses() {
    let at = |v: f64| vec![vec![v]];
    for bad in [
        Mixture::isotropic(&[], &[], &[]),
        Mixture::isotropic(&[-1.], &at(0.), &[1.]),
        Mixture::isotropic(&[f64::NAN], &at(0.), &[1.]),
        Mixture::isotropic(&[1.], &at(f64::NAN), &[1.]),
        Mixture::isotropic(&[1.], &at(0.), &[-1.]),
        Mixture::isotropic(&[1., 1.], &at(0.), &[1.]),
        Mixture::full(&[1.], &[vec![0., 0.]], &[vec![1., 2., 2., 1.]]),
        Mixture::full(&[1.], &[vec![0., 0.]], &[vec![1., 0.5, 0., 1.]]),
        Mixture::full(&[1.], &[vec![0., 0.]], &[vec![1.]]),
    ] {
        assert!(bad.is_err(), "{bad:?}");
    }
}

/// dE/dt of the exact mixture, by the Fokker-Planck equation, against differences of its energy; and as FromEnergy has it.
#[test]
fn the_energy_of_a_mixture_changes_as_its_jet_says() {
    use langevin_dynamics::{FromEnergy, NoisyEnergy, process::AnyProcess};
    let mixture = Mixture::full(
        &[0.3, 0.7],
        &[vec![1., -0.5], vec![-1., 0.4]],
        &[vec![0.3, 0.1, 0.1, 0.2], vec![0.1, 0., 0., 0.5]],
    )
    .unwrap();
    let x = Tensor::new(&[[0.3f64, 0.2], [-1.5, 0.8], [2., -1.]], &Device::Cpu).unwrap();
    for process in AnyProcess::defaults() {
        let (low, high) = process.get().span();
        let exact = mixture.under(process.get());
        for t in [1.5 * low, 0.3 * high, 0.7 * high]
            .map(|t| if process.get().discrete().is_some() { t.round() + 0.5 } else { t })
        {
            let jet = exact.jet(&x, &[t]).unwrap();
            let h = 1e-5 * t;
            let at = |t: f64| to_host(&exact.energy(&x, &[t]).unwrap()).unwrap();
            let (up, down) = (at(t + h), at(t - h));
            let closure = FromEnergy::new(process.get(), |x, t| exact.energy(x, t)).unwrap();
            let also = closure.energy_at(&x, &[t]).unwrap();
            assert_eq!(to_host(&also).unwrap(), at(t));
            for (i, dt) in to_host(&jet.dt).unwrap().into_iter().enumerate() {
                let slope = (up[i] - down[i]) / (2. * h);
                assert!((dt - slope).abs() < 1e-5 * slope.abs().max(1. / t), "{process:?} at {t}: {dt} {slope}");
            }
        }
    }
}
