//! The laws of every parametrisation under every process.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use langevin_dynamics::denoiser::reaches_pure_noise;
use langevin_dynamics::predict::{AnyParametrisation, Edm};
use langevin_dynamics::process::{self, AnyProcess, Table, TableOptions};
use langevin_dynamics::{Cond, Denoiser, Marginal, Mixture, Net, Parametrisation, Preconditioned, Process};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{combine, scale, to_host};
use std::sync::Mutex;

fn processes() -> Vec<AnyProcess> {
    let mut all = AnyProcess::defaults();
    let zero_snr = TableOptions { rescale_betas_zero_snr: true, ..Default::default() };
    all.push(Table::new(zero_snr).unwrap().into());
    all
}

/// Times of the span, both ends with it.
fn times(process: &dyn Process) -> Vec<f64> {
    let (low, high) = process.span();
    let part = |i: i32| f64::from(i) / 20.;
    (0..=20).map(|i| low * (high / low).powf(part(i))).chain((1..20).map(|i| low + (high - low) * part(i))).collect()
}

/// What the papers call these predictions, from x_0 and eps.
fn target(name: &str, m: &Marginal, x0: f64, eps: f64, sigma_data: f64) -> f64 {
    match name {
        "eps" => eps,
        "x0" => x0,
        "score" => -eps / m.sigma,
        "v" | "unscaled" => (m.alpha * eps - m.sigma * x0) / m.alpha.hypot(m.sigma),
        "velocity" => m.dalpha * x0 + m.dsigma * eps,
        "consistency" => {
            let (x, level) = (x0 + m.sigma / m.alpha * eps, m.sigma / m.alpha);
            let from = level - 0.002;
            let c_skip = sigma_data.powi(2) / (from * from + sigma_data.powi(2));
            (x0 - c_skip * x) * level.hypot(sigma_data) / (from * sigma_data)
        }
        "edm" => {
            let total = (m.alpha * sigma_data).powi(2) + m.sigma.powi(2);
            let x = m.alpha * x0 + m.sigma * eps;
            (x0 - m.alpha * sigma_data * sigma_data * x / total) * total.sqrt() / (m.sigma * sigma_data)
        }
        other => panic!("no definition of {other}"),
    }
}

/// Whether a consistency function is x itself there, whatever the network says: nothing to invert.
fn is_boundary(name: &str, m: &Marginal) -> bool {
    name == "consistency" && (m.sigma / m.alpha - 0.002).abs() < 1e-3
}

/// x0 -> what the paper has the network predict -> x0; and 1 - alpha c_skip agrees with c_skip.
#[test]
fn round_trip() {
    for process in processes() {
        let p = process.get();
        for any in AnyParametrisation::defaults() {
            let predict = any.get();
            if reaches_pure_noise(p) && !predict.reaches_pure_noise() {
                continue;
            }
            for t in times(p) {
                let m = p.marginal(t);
                if is_boundary(any.name(), &m) {
                    continue;
                }
                for (x0, eps, sigma_data) in [(0.7, -1.3, 0.5), (-1., 0.2, 1.), (0.3, 2., 2.)] {
                    let (c_skip, c_out) = predict.skip_out(&m, sigma_data);
                    let x = m.alpha * x0 + m.sigma * eps;
                    let back = c_skip * x + c_out * target(any.name(), &m, x0, eps, sigma_data);
                    let at = format!("{} under {p:?} at {t}", any.name());
                    assert!((back - x0).abs() < 1e-10, "{at}: {x0} came back as {back}");
                    let unskipped = predict.unskipped(&m, sigma_data);
                    assert!((unskipped - (1. - m.alpha * c_skip)).abs() < 1e-10, "{at}: {unskipped}");
                    assert!(c_out.is_finite() && c_skip.is_finite(), "{at}");
                }
            }
        }
    }
}

/// The table of the paper, at alpha = 1. [Karras22, table 1]
#[test]
fn edm_is_edm() {
    let process = process::Edm::default();
    let net = Gaussian::default();
    let model = Preconditioned::new(&net, &process, &Edm {}, 0.5, Cond::default()).unwrap();
    for sigma in [0.002f64, 0.1, 0.5, 3., 80.] {
        let c = model.coefficients(sigma);
        let total = sigma * sigma + 0.25;
        for (ours, paper) in [
            (c.c_skip, 0.25 / total),
            (c.c_out, sigma * 0.5 / total.sqrt()),
            (c.c_in, 1. / total.sqrt()),
            (c.c_noise, 0.25 * sigma.ln()),
        ] {
            assert!((ours - paper).abs() < 1e-14 * (1. + paper.abs()), "{sigma}: {ours} {paper}");
        }
        let (a, _) = model.energy_coefficients(sigma);
        assert!((a * 2. * total - 1.).abs() < 1e-13);
    }
}

/// The network that makes data ~ N(mean, variance) exact: F(x') = slope x' + shift, told by what it is asked.
struct Gaussian {
    mean: f64,
    variance: f64,
    line: Mutex<(f64, f64)>,
    predict: Mutex<String>,
}

impl Default for Gaussian {
    fn default() -> Self {
        Self { mean: 0.3, variance: 0.49, line: Mutex::default(), predict: Mutex::new("edm".into()) }
    }
}

impl Gaussian {
    /// Sets F for time `t` of `model`.
    fn fit(&self, model: &Preconditioned, t: f64) -> (f64, f64) {
        let (m, c) = (model.process().marginal(t), model.coefficients(t));
        let total = m.alpha.powi(2) * self.variance + m.sigma.powi(2);
        // x0 = (sigma^2 mean + alpha variance x) / total = c_skip x + c_out (slope c_in x + shift)
        let predict = AnyParametrisation::named(self.predict.lock().unwrap().as_str()).unwrap();
        let skip_error = if m.alpha > 0.1 {
            // the same as below, with the ones taken out
            (predict.get().unskipped(&m, 0.5) - m.sigma.powi(2) / total) / m.alpha
        } else {
            m.alpha * self.variance / total - c.c_skip
        };
        let line = (skip_error / (c.c_out * c.c_in), m.sigma.powi(2) * self.mean / total / c.c_out);
        *self.line.lock().unwrap() = line;
        line
    }
}

impl Net for Gaussian {
    fn forward(&self, x: &Tensor, _: &Tensor, _: &Cond) -> Result<Tensor> {
        let (slope, shift) = *self.line.lock().unwrap();
        x.affine(slope, shift)
    }
}

/// Every pair of process and parametrisation that is allowed, as an exact model of N(0.3, 0.49).
fn for_all(mut f: impl FnMut(&str, &Gaussian, &Preconditioned)) {
    let net = Gaussian::default();
    let mut pairs = 0;
    for process in processes() {
        for any in AnyParametrisation::defaults() {
            if let Ok(model) = Preconditioned::new(&net, process.get(), any.get(), 0.5, Cond::default()) {
                *net.predict.lock().unwrap() = any.name().into();
                f(&format!("{} under {:?}", any.name(), process.get()), &net, &model);
                pairs += 1;
            }
        }
    }
    assert!(pairs >= 36, "{pairs}");
}

fn largest(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (to_host(a).unwrap(), to_host(b).unwrap());
    let top = b.iter().fold(1e-300f64, |top, v| top.max(v.abs()));
    common::worst(a.iter().zip(&b).map(|(a, b)| (a - b).abs())) / top
}

/// eps, score and velocity of the model are those of the exact Gaussian, with the ends in it; where alpha = 0 all stay
/// finite and x0 is the mean of the data.
#[test]
fn views() {
    let mixture = Mixture::isotropic(&[1.], &[vec![0.3; 4]], &[0.49]).unwrap();
    let x = Noise::seeds(&[1, 2, 3]).normal((3, 4), DType::F64, &Device::Cpu).unwrap();
    for_all(|name, net, model| {
        for t in times(model.process()) {
            if is_boundary(&net.predict.lock().unwrap(), &model.process().marginal(t)) {
                continue;
            }
            net.fit(model, t);
            let m = model.process().marginal(t);
            let exact = mixture.under(model.process());
            let x = (&x * m.alpha.hypot(m.sigma)).unwrap();
            // what the cancellation between c_skip x and c_out F costs
            let close = |what: &str, ours: Result<Tensor>, theirs: Result<Tensor>, tolerance: f64| {
                let worst = largest(&ours.unwrap(), &theirs.unwrap());
                assert!(worst < tolerance, "{what} of {name} at {t}: {worst}");
            };
            let lost = 1e-13 * (1. + m.sigma / m.alpha.max(1e-5)) * (1. + m.alpha / m.sigma).powi(2);
            close("x0", model.x0(&x, &[t]), exact.x0(&x, &[t]), lost);
            close("eps", model.eps(&x, &[t]), exact.eps(&x, &[t]), lost);
            close("score", model.score(&x, &[t]), exact.score(&x, &[t]), lost);
            close("velocity", model.velocity(&x, &[t]), exact.velocity(&x, &[t]), lost);
            // the slope of the ODE: f x - g^2/2 score
            if m.alpha > 1e-3 {
                let score = exact.score(&x, &[t]).unwrap();
                close(
                    "slope",
                    model.velocity(&x, &[t]),
                    combine(&[m.drift()], &x, &[-0.5 * m.diffusion2()], &score),
                    1e2 * lost,
                );
            }
        }
    });
}

/// E = a |x|^2 + b h(c_in x), h = slope/2 |x'|^2 + shift sum x': its differences are those of the exact energy and its
/// slope is minus the score, also where sigma is small.
#[test]
fn energies() {
    let mixture = Mixture::isotropic(&[1.], &[vec![0.3]], &[0.49]).unwrap();
    for_all(|name, net, model| {
        for t in times(model.process()) {
            if is_boundary(&net.predict.lock().unwrap(), &model.process().marginal(t)) {
                continue;
            }
            let (m, c) = (model.process().marginal(t), model.coefficients(t));
            let (slope, shift) = net.fit(model, t);
            let (a, b) = model.energy_coefficients(t);
            let energy = |x: f64| a * x * x + b * (0.5 * slope * (c.c_in * x).powi(2) + shift * c.c_in * x);
            let exact = |x: f64| -mixture.at(&m, &[x]).log_p;
            let spread = (m.alpha.powi(2) * 0.49 + m.sigma.powi(2)).sqrt();
            let (x, y) = (m.alpha * 0.3 + 0.9 * spread, m.alpha * 0.3 - 1.4 * spread);
            let (ours, theirs) = (energy(x) - energy(y), exact(x) - exact(y));
            // both terms are of size x^2 / sigma^2 where the parametrisation says so: their difference loses digits
            let lost = 1e-14 * (1. + (a * x * x).abs() + (b * slope * (c.c_in * x).powi(2)).abs());
            assert!((ours - theirs).abs() < 1e2 * lost, "energy of {name} at {t}: {ours} {theirs}");
            let h = 1e-4 * spread;
            let gradient = (energy(x + h) - energy(x - h)) / (2. * h);
            let score = mixture.at(&m, &[x]).score[0];
            assert!(
                (gradient + score).abs() < 1e-7 * score.abs() + 1e2 * lost / h,
                "score of {name} at {t}: {gradient} {score}"
            );
        }
    });
}

/// The first coefficient near the data, where 1 - alpha c_skip done as written has lost its digits.
#[test]
fn no_cancellation_near_the_data() {
    let m = process::Edm::default().marginal(1e-7);
    let exact = m.sigma.powi(2) / (0.25 + m.sigma.powi(2));
    let c_skip = Edm {}.skip_out(&m, 0.5).0;
    assert!((Edm {}.unskipped(&m, 0.5) / exact - 1.).abs() < 1e-14);
    assert!(((1. - m.alpha * c_skip) / exact - 1.).abs() > 1e-4);
    for (any, process) in [("v", "vp"), ("velocity", "vp"), ("velocity", "flow"), ("edm", "flow")] {
        let (any, process) = (AnyParametrisation::named(any).unwrap(), AnyProcess::named(process).unwrap());
        let at = |t: f64| any.get().unskipped(&process.get().marginal(t), 0.5) / process.get().marginal(t).sigma;
        let rest: Vec<f64> = [1e-3, 1e-6, 1e-9].into_iter().map(at).collect();
        assert!(rest.iter().all(|r| r.is_finite() && *r != 0.), "{any:?} {rest:?}");
    }
}

#[test]
fn refusals() {
    let net = Gaussian::default();
    let new = |predict: &str, process: &dyn Process, sigma_data: f64| {
        let predict = AnyParametrisation::named(predict).unwrap();
        Preconditioned::new(&net, process, predict.get(), sigma_data, Cond::default())
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    for process in processes() {
        for any in AnyParametrisation::defaults() {
            let refused = reaches_pure_noise(process.get()) && ["eps", "score", "consistency"].contains(&any.name());
            assert_eq!(new(any.name(), process.get(), 0.5).is_err(), refused, "{any:?} {process:?}");
        }
    }
    let ends = process::Flow { t_max: 0.99, ..Default::default() };
    assert_eq!(new("eps", &ends, 0.5), Ok(()));
    assert!(new("eps", &process::Flow::default(), 0.5).unwrap_err().contains("velocity"));
    let bad = process::Ve { sigma_min: -1., ..Default::default() };
    assert!(new("eps", &bad, 0.5).unwrap_err().contains("sigma_min"));
    for sigma_data in [0., -1., f64::NAN, f64::INFINITY] {
        assert!(new("edm", &process::Edm::default(), sigma_data).unwrap_err().contains("sigma_data"));
    }
    let process = process::Edm::default();
    let model = Preconditioned::new(&net, &process, &Edm {}, 0.5, Cond::default()).unwrap();
    let x = Tensor::zeros((3, 2), DType::F64, &Device::Cpu).unwrap();
    for t in [&[][..], &[1., 2.], &[1.; 4]] {
        assert!(model.x0(&x, t).is_err());
    }
}

/// A time a sample gives what each sample gives alone, and the gradient flows through to the input.
#[test]
fn times_of_samples() -> Result<()> {
    let (net, process) = (Gaussian::default(), process::Vp::default());
    let predict = AnyParametrisation::named("v").unwrap();
    let model = Preconditioned::new(&net, &process, predict.get(), 0.5, Cond::default())?;
    *net.predict.lock().unwrap() = "v".into();
    net.fit(&model, 0.4);
    let x = Noise::seeds(&[1, 2, 3]).normal((3, 2, 2), DType::F64, &Device::Cpu)?;
    let t = [0.1, 0.4, 0.9];
    let together = model.x0(&x, &t)?;
    for (i, t) in t.iter().enumerate() {
        let alone = model.x0(&x.narrow(0, i, 1)?, &[*t])?;
        assert!(largest(&together.narrow(0, i, 1)?, &alone) < 1e-15);
    }
    let x = Var::from_tensor(&x)?;
    assert!(model.x0(&scale(&x, &t)?, &t)?.track_op());
    Ok(())
}
