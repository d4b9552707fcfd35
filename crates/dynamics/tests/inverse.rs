//! Operators against their definitions, the exact posterior against Bayes' rule, and every method against that posterior.

#![allow(clippy::print_stdout)]

mod common;

use candle_core::{D, DType, Device, Result, Tensor};
use common::{Fast, Plain, largest, worst};
use langevin_dynamics::grid::{Grid, Karras};
use langevin_dynamics::inverse::{
    Along, AnyMethod, AnyTask, Blur, Colour, Deblur, Dps, Inpaint, Mask, MaskName, Mcmc, Measured, Method, Operator,
    Posterior, RePaint, Replace, Separable, SuperRes, posterior,
};
use langevin_dynamics::mcmc::{Hmc, Langevin};
use langevin_dynamics::process::{AnyProcess, Edm, Vp};
use langevin_dynamics::sampler::{Step, prior};
use langevin_dynamics::{Denoiser, FromEnergy, Mixture, Process};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{sum_per_sample, to_host};
use langevin_ops::stats::mean_and_error;

fn normal(shape: &[usize], seed: u64) -> Tensor {
    Noise::of_step(seed, 0, shape[0]).normal(shape, DType::F64, &Device::Cpu).unwrap()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    to_host(&(a * b).unwrap()).unwrap().iter().sum()
}

/// Every task with its default options, and with others.
fn tasks() -> Vec<AnyTask> {
    let mut all = AnyTask::defaults();
    all.extend(MaskName::ALL.map(|mask| Inpaint { mask }.into()));
    all.push(SuperRes { factor: 4 }.into());
    all.push(Deblur { sigma: 0.7, kernel: Blur::Gaussian }.into());
    all.push(Deblur { sigma: 2., kernel: Blur::Box }.into());
    all
}

#[test]
fn adjoints_and_norms() -> Result<()> {
    for task in tasks() {
        let a = task.get().operator(&[3, 8, 12])?;
        let x = normal(&[2, 3, 8, 12], 1);
        let ax = a.apply(&x)?;
        let y = normal(ax.dims(), 2);
        let (left, right) = (dot(&ax, &y), dot(&x, &a.adjoint(&y)?));
        assert!((left - right).abs() < 1e-12 * (1. + left.abs()), "{task:?}: {left} {right}");
        if let Some(g) = a.gram() {
            assert!(largest(&a.apply(&a.adjoint(&ax)?)?, &(&ax * g)?) < 1e-14, "{task:?}");
        }
        // the norm, by powers of A^T A
        let (mut v, mut norm2) = (x.clone(), 0.);
        for _ in 0..200 {
            v = (&v / dot(&v, &v).sqrt())?;
            let next = a.adjoint(&a.apply(&v)?)?;
            norm2 = dot(&next, &v);
            v = next;
        }
        assert!(norm2 <= a.norm2() * (1. + 1e-12) && norm2 > 0.6 * a.norm2(), "{task:?}: {norm2} {}", a.norm2());
        assert_eq!(a.show(&ax)?.dims(), x.dims(), "{task:?}");
        assert!(a.apply(&normal(&[2, 4, 9, 13], 1)).is_err());
    }
    Ok(())
}

#[test]
fn what_is_measured() -> Result<()> {
    let x = normal(&[2, 3, 4, 4], 3);
    let host = to_host(&x)?;
    let at = |b: usize, c: usize, i: usize, j: usize| host[((b * 3 + c) * 4 + i) * 4 + j];
    let small = to_host(&AnyTask::from(SuperRes { factor: 2 }).get().operator(&[3, 4, 4])?.apply(&x)?)?;
    let mean = (at(1, 2, 2, 0) + at(1, 2, 2, 1) + at(1, 2, 3, 0) + at(1, 2, 3, 1)) / 4.;
    assert!((small[((3 + 2) * 2 + 1) * 2] - mean).abs() < 1e-15);
    let grey = to_host(&AnyTask::from(Colour {}).get().operator(&[3, 4, 4])?.apply(&x)?)?;
    let expected = 0.299 * at(1, 0, 2, 3) + 0.587 * at(1, 1, 2, 3) + 0.114 * at(1, 2, 2, 3);
    assert!((grey[16 + 2 * 4 + 3] - expected).abs() < 1e-15);
    // within a pixel of the first row and last column there are four pixels
    let blurred = to_host(&Deblur { sigma: 1., kernel: Blur::Box }.operator_of(&[3, 4, 4])?.apply(&x)?)?;
    let mean = (at(0, 0, 0, 2) + at(0, 0, 0, 3) + at(0, 0, 1, 2) + at(0, 0, 1, 3)) / 4.;
    assert!((blurred[3] - mean).abs() < 1e-15);
    // a Gaussian falls by exp(-d^2 / 2 sigma^2)
    let mut spot = vec![0.; 225];
    spot[7 * 15 + 7] = 1.;
    let spot = Tensor::from_vec(spot, (1, 1, 15, 15), &Device::Cpu)?;
    let spread = to_host(&Deblur { sigma: 1.5, kernel: Blur::Gaussian }.operator_of(&[1, 15, 15])?.apply(&spot)?)?;
    let ratio = spread[7 * 15 + 9] / spread[7 * 15 + 7];
    assert!((ratio - f64::exp(-2. / 2.25)).abs() < 1e-3, "{ratio}"); // but for the normalisation near the edge
    assert!((spread.iter().sum::<f64>() - 1.).abs() < 1e-3);

    let known = |mask: MaskName| mask.known(28, 28).iter().filter(|known| **known).count();
    let counts = MaskName::ALL.map(known);
    println!("known of 784: {counts:?}");
    assert_eq!(counts[2..], [196, 392, 392, 49]);
    assert!((350..650).contains(&counts[0]) && (350..650).contains(&counts[1]), "{counts:?}");
    for name in MaskName::ALL.map(MaskName::name) {
        let read: Inpaint = serde_json::from_value(serde_json::json!({ "mask": name })).unwrap();
        assert_eq!(read.mask.name(), name);
    }
    for (task, words) in [
        (AnyTask::from(SuperRes { factor: 3 }), "divide both sides"),
        (Deblur { sigma: 0., kernel: Blur::Box }.into(), "sigma is 0"),
    ] {
        assert!(task.get().operator(&[3, 4, 4]).unwrap_err().to_string().contains(words));
        assert!(task.get().operator(&[4]).unwrap_err().to_string().contains("images"));
    }
    assert!(AnyTask::from(Colour {}).get().operator(&[1, 4, 4]).unwrap_err().to_string().contains("in colour"));
    assert!(Mask::new(&Tensor::new(&[[0.5, 1.]], &Device::Cpu)?).is_err());
    Ok(())
}

trait OperatorOf {
    fn operator_of(&self, shape: &[usize]) -> Result<Box<dyn Operator>>;
}

impl<T: langevin_dynamics::inverse::Task> OperatorOf for T {
    fn operator_of(&self, shape: &[usize]) -> Result<Box<dyn Operator>> {
        self.operator(shape)
    }
}

fn boxed(operator: impl Operator + 'static) -> Box<dyn Operator> {
    Box::new(operator)
}

/// The first of two coordinates.
fn first() -> Box<dyn Operator> {
    Box::new(Mask::new(&Tensor::new(&[[1., 0.]], &Device::Cpu).unwrap()).unwrap())
}

/// The sum of two coordinates, and half of their difference.
fn turned() -> Box<dyn Operator> {
    let matrix = Tensor::new(&[[1., 1.], [0.5, -0.5]], &Device::Cpu).unwrap();
    Box::new(Separable::new(vec![Along::new(1, &matrix).unwrap()], None).unwrap())
}

/// log posterior - log prior - log likelihood is the same at every point.
#[test]
fn the_posterior_of_a_mixture_is_that_of_bayes() -> Result<()> {
    let mixture = common::mixture();
    let process = Edm::default();
    let clean = 1e-9; // the mixture itself
    for (operator, y) in [(first(), [0.4, 0.]), (turned(), [0.3, 0.9])] {
        let seen = Measured::new(operator, Tensor::new(&[y], &Device::Cpu)?, 0.3)?;
        let exact = posterior(&mixture, &seen, &[2])?;
        let x = (normal(&[50, 2], 4) * 1.5)?;
        let log = |m: &Mixture| to_host(&m.under(&process).log_p(&x, &[clean])?);
        let misfit = seen.residual(1., &x)?.sqr()?.sum(1)?.affine(-0.5 / 0.09, 0.)?;
        let (after, before, likelihood) = (log(&exact)?, log(&mixture)?, to_host(&misfit)?);
        let constants: Vec<f64> = (0..50).map(|i| after[i] - before[i] - likelihood[i]).collect();
        assert!(constants.iter().all(|c| (c - constants[0]).abs() < 1e-5), "{constants:?}");
    }
    let exact = Measured::new(first(), Tensor::new(&[[0.4, 0.]], &Device::Cpu)?, 0.)?;
    assert!((posterior(&mixture, &exact, &[2])?.moments().0[0] - 0.4).abs() < 1e-12);
    Ok(())
}

/// The wrapped model: its score and dE/dt are the derivatives of its energy, its x0 that of its score.
#[test]
fn a_model_given_a_measurement_is_a_model() -> Result<()> {
    let mixture = common::mixture();
    for process in [AnyProcess::from(Vp::default()), Edm::default().into()] {
        let process = process.get();
        let seen = Measured::new(turned(), Tensor::new(&[[0.3, 0.9]], &Device::Cpu)?, 0.2)?;
        let model = mixture.under(process);
        let given = Posterior::new(&model, &seen);
        let energy = given.noisy_energy().unwrap();
        let x = normal(&[5, 2], 5);
        let (low, high) = process.span();
        for t in [0.02, 0.3, 0.8].map(|part| low + part * (high - low)) {
            let m = process.marginal(t);
            let (score, jet, h) = (given.score(&x, &[t])?, energy.jet(&x, &[t])?, 1e-4);
            let difference = |x: &Tensor, y: &Tensor, t: f64, s: f64, h: f64| -> Result<Tensor> {
                (energy.energy_at(y, &[s])? - energy.energy_at(x, &[t])?)? / (2. * h)
            };
            for i in 0..2 {
                let step = Tensor::new(&[[h * f64::from(i == 0), h * f64::from(i == 1)]], &Device::Cpu)?;
                let (down, up) = (x.broadcast_sub(&step)?, x.broadcast_add(&step)?);
                let slope = difference(&down, &up, t, t, h)?.neg()?;
                let size = 1. + to_host(&slope)?.iter().fold(0., |top, v| f64::max(top, v.abs()));
                assert!(largest(&score.narrow(1, i as usize, 1)?.squeeze(1)?, &slope) < 1e-5 * size);
            }
            let rise = difference(&x, &x, t - h * t, t + h * t, h * t)?;
            let size = 1. + to_host(&rise)?.iter().fold(0., |top, v| f64::max(top, v.abs()));
            assert!(largest(&jet.dt, &rise) < 1e-5 * size, "{process:?} at {t}");
            assert!(largest(&jet.gradient.neg()?, &score) < 1e-12 * (1. + dot(&score, &score).sqrt()));
            let (e, g) = energy.energy_grad(&x, &[t])?;
            assert!(largest(&e, &jet.energy) < 1e-9 && largest(&g, &jet.gradient) < 1e-9);
            let x0 = ((&x + (&score * (m.sigma * m.sigma))?)? / m.alpha)?;
            assert!(largest(&x0, &given.x0(&x, &[t])?) < 1e-9 * (1. + dot(&x0, &x0).sqrt()));
        }
    }
    Ok(())
}

fn draw(method: &dyn Method, m: &dyn Denoiser, seen: &Measured, steps: usize, n: usize) -> Result<Tensor> {
    draw_of(&[n, 2], method, m, seen, steps)
}

fn draw_of(shape: &[usize], method: &dyn Method, m: &dyn Denoiser, seen: &Measured, steps: usize) -> Result<Tensor> {
    let process = m.process();
    let times = Karras::default().times(process, steps)?;
    let mut z = Noise::seeds(&(0..shape[0] as u64).collect::<Vec<_>>());
    let start = prior(process, times[0], shape, DType::F64, &Device::Cpu, &mut z)?;
    let (route, mut told) = (method.route(process, seen, &times)?, 0);
    let x = method.draw(m, seen, &times, &start, &mut z, &mut |at| {
        told += 1;
        assert_eq!((at.step, at.steps), (told, route.len()));
        Ok(())
    })?;
    assert_eq!(told, route.len());
    Ok(x)
}

/// Mean and covariance of points `[n, ...]` are those of `exact`, within 5 standard errors.
fn has_moments(x: &Tensor, exact: &Mixture) -> Result<()> {
    let ((mean, covariance), d) = (exact.moments(), exact.dim());
    let x = to_host(x)?;
    let centred: Vec<Vec<f64>> = x.chunks(d).map(|p| p.iter().zip(&mean).map(|(p, m)| p - m).collect()).collect();
    let off = |truth: f64, f: &dyn Fn(&[f64]) -> f64| {
        let (found, error) = mean_and_error(&centred.iter().map(|p| f(p)).collect::<Vec<_>>());
        ((found - truth) / error).abs()
    };
    let means = worst((0..d).map(|i| off(0., &|p| p[i])));
    let pair = |ij: usize| off(covariance[ij], &|p| p[ij / d] * p[ij % d]);
    let covariances = worst((0..d * d).filter(|ij| ij / d <= ij % d).map(pair));
    println!("off by {means:.2} standard errors in a mean, {covariances:.2} in a covariance");
    assert!(means < 5. && covariances < 5., "{means} {covariances}");
    Ok(())
}

/// Two overlapping components, which no chain takes long to go between.
fn overlapping() -> Mixture {
    let covariances = [vec![0.3, 0.12, 0.12, 0.25], vec![0.2, -0.1, -0.1, 0.3]];
    Mixture::full(&[0.6, 0.4], &[vec![-0.4, 0.3], vec![0.5, -0.4]], &covariances).unwrap()
}

/// At its last level MCMC has the law p_t(x) N(alpha y; A x, v), a mixture that is known.
#[test]
fn mcmc_draws_from_the_posterior() -> Result<()> {
    let sigma = 0.12;
    let process = Edm { sigma_min: sigma, sigma_max: 6. };
    let mixture = overlapping();
    let noisy = |k: usize| {
        let c = mixture.covariance_of(k);
        vec![c[0] + sigma * sigma, c[1], c[2], c[3] + sigma * sigma]
    };
    let means = [0, 1].map(|k| mixture.mean_of(k).to_vec());
    let noisy = Mixture::full(mixture.weights(), &means, &[noisy(0), noisy(1)])?;
    for (operator, y) in [(first(), [0.9, 0.]), (turned(), [0.7, 0.4])] {
        let y = Tensor::new(&[y], &Device::Cpu)?;
        let seen = Measured::new(operator, y.clone(), 0.4)?;
        let variance = Posterior::new(&mixture.under(&process), &seen).variance(&process.marginal(sigma));
        let (energy, score) = (mixture.under(&process), Fast::new(&mixture, &process));
        let hmc = Hmc { adapt: 40, ..Hmc::default() };
        let corrected = Mcmc { kernel: hmc.into(), steps_per_level: 8 };
        let plain = Mcmc { kernel: Langevin { step: 0.2 }.into(), steps_per_level: 80 };
        // the same measurement with the noise of that level on it
        let operator = if to_host(&y)?[1] == 0. { first() } else { turned() };
        let exact = posterior(&noisy, &Measured::new(operator, y, variance.sqrt())?, &[2])?;
        has_moments(&draw(&corrected, &energy, &seen, 12, 1200)?, &exact)?;
        has_moments(&draw(&Mcmc::default(), &energy, &seen, 12, 1200)?, &exact)?;
        has_moments(&draw(&plain, &score, &seen, 20, 1200)?, &exact)?;
        let (mean, prior) = (exact.moments().0, noisy.moments().0);
        assert!((mean[0] - prior[0]).abs() > 0.2, "a measurement that tells nothing");
    }
    Ok(())
}

/// Images of two overlapping components, in which near numbers are alike.
fn images([c, h, w]: [usize; 3]) -> Result<Mixture> {
    let d = c * h * w;
    let apart = |i: usize, j: usize| {
        let far = |a: usize, b: usize| a.abs_diff(b) as f64;
        far(i / (h * w), j / (h * w)) + far(i / w % h, j / w % h) + far(i % w, j % w)
    };
    let alike = |size: f64, own: f64| {
        let entry = |ij: usize| size * (-apart(ij / d, ij % d) / 1.5).exp() + own * f64::from(ij / d == ij % d);
        (0..d * d).map(entry).collect::<Vec<_>>()
    };
    Mixture::full(&[0.6, 0.4], &[vec![-0.2; d], vec![0.3; d]], &[alike(0.25, 0.02), alike(0.15, 0.1)])
}

/// The same of averages, blurs and greys of images.
#[test]
fn mcmc_draws_images_from_the_posterior() -> Result<()> {
    let (sigma, n) = (0.12, 1000);
    let process = Edm { sigma_min: sigma, sigma_max: 6. };
    let method = Mcmc { kernel: Hmc { adapt: 40, ..Hmc::default() }.into(), steps_per_level: 8 };
    for (task, shape) in [
        (AnyTask::from(SuperRes { factor: 2 }), [1, 4, 4]),
        (Deblur { sigma: 0.8, kernel: Blur::Gaussian }.into(), [1, 4, 4]),
        (Colour {}.into(), [3, 2, 2]),
    ] {
        let (mixture, of) = (images(shape)?, |n: usize| [&[n], &shape[..]].concat());
        let (means, d) = ([0, 1].map(|k| mixture.mean_of(k).to_vec()), mixture.dim());
        let noisy = [0, 1].map(|k| {
            let entries = mixture.covariance_of(k).into_iter().enumerate();
            entries.map(|(ij, c)| c + sigma * sigma * f64::from(ij / d == ij % d)).collect()
        });
        let noisy = Mixture::full(mixture.weights(), &means, &noisy)?;
        let x0 = mixture.sample(1, &mut Noise::seeds(&[3]))?.reshape(of(1))?;
        let seen = Measured::of(task.get().operator(&shape)?, &x0, 0.2, &mut Noise::seeds(&[4]))?;
        let model = mixture.under(&process);
        let variance = Posterior::new(&model, &seen).variance(&process.marginal(sigma));
        let last = Measured::new(task.get().operator(&shape)?, seen.y().clone(), variance.sqrt())?;
        let exact = posterior(&noisy, &last, &shape)?;
        println!("{}:", task.name());
        let x = draw_of(&of(n), &method, &model, &seen, 12)?;
        has_moments(&x, &exact)?;
        // E|y - A x|^2 = |y - A E x|^2 + tr A S A^T, which tells all of the likelihood at once
        let (mean, covariance) = exact.moments();
        let moved = mean.iter().zip(noisy.moments().0).map(|(a, b)| (a - b).abs());
        assert!(worst(moved) > 0.2, "{}: a measurement that tells nothing", task.name());
        let square = |x: &Tensor| to_host(&sum_per_sample(&seen.residual(1., x)?.sqr()?)?);
        let columns = seen.operator().apply(&Tensor::eye(d, DType::F64, &Device::Cpu)?.reshape(of(d))?)?;
        let columns = columns.flatten_from(1)?;
        let inner = to_host(&columns.matmul(&columns.t()?)?)?;
        let spread = covariance.iter().zip(&inner).map(|(c, a)| c * a).sum::<f64>();
        let truth = square(&Tensor::from_vec(mean, of(1), &Device::Cpu)?)?[0] + spread;
        let (found, error) = mean_and_error(&square(&x)?);
        println!("residual {found:.4} +- {error:.4}, exact {truth:.4}");
        assert!((found - truth).abs() < 5. * error && error < 0.04 * truth, "{}: {found} {truth}", task.name());
    }
    Ok(())
}

/// One step for one Gaussian N(mu, S), whose x0-hat is mu + K (x - alpha mu) with K = alpha S (alpha^2 S + sigma^2 I)^-1: the
/// ancestral one, and scale (alpha^2 + sigma^2) K^T A^T r / |r| from it, r = y - A x0-hat.
#[test]
fn a_step_of_dps_is_that_of_its_paper() -> Result<()> {
    let (mu, s, y) = ([0.4, -0.3], [[0.5, 0.2], [0.2, 0.3]], [1.3, 0.4]);
    let gauss = Mixture::full(&[1.], &[mu.to_vec()], &[s.concat()])?;
    let (a, seen) = ([[1., 1.], [0.5, -0.5]], Measured::new(turned(), Tensor::new(&[y], &Device::Cpu)?, 0.1)?);
    let (x, z) = (normal(&[3, 2], 9), normal(&[3, 2], 10));
    let times = |m: &[[f64; 2]; 2], v: [f64; 2]| m.map(|row| row[0] * v[0] + row[1] * v[1]);
    let turn = |m: &[[f64; 2]; 2]| [[m[0][0], m[1][0]], [m[0][1], m[1][1]]];
    for (process, from, to) in [(AnyProcess::from(Vp::default()), 0.4, 0.3), (Edm::default().into(), 1.5, 0.9)] {
        let process = process.get();
        let (t, s_of) = (process.marginal(from), process.marginal(to));
        let model = FromEnergy::new(process, energy(&gauss, process))?;
        let (a2, s2) = (t.alpha * t.alpha, t.sigma * t.sigma);
        let (p, q, r) = (a2 * s[0][0] + s2, a2 * s[0][1], a2 * s[1][1] + s2);
        let inverse = [[r, -q], [-q, p]].map(|row| row.map(|v| v / (p * r - q * q)));
        let k = s.map(|row| times(&turn(&inverse), row).map(|v| t.alpha * v));
        let (ratio, keep) = (t.alpha / s_of.alpha, s_of.sigma / t.sigma);
        let beta = s2 - (ratio * s_of.sigma).powi(2);
        let step = |scale: f64, x: &[f64], z: &[f64]| {
            let shift = times(&k, [x[0] - t.alpha * mu[0], x[1] - t.alpha * mu[1]]);
            let x0 = [mu[0] + shift[0], mu[1] + shift[1]];
            let seen = times(&a, x0);
            let residual = [y[0] - seen[0], y[1] - seen[1]];
            let pull = times(&turn(&k), times(&turn(&a), residual)).map(|v| v / residual[0].hypot(residual[1]));
            let of = |i: usize| {
                let ancestral = ratio * keep * keep * x[i] + s_of.alpha * beta / s2 * x0[i] + beta.sqrt() * keep * z[i];
                ancestral + scale * (a2 + s2) * pull[i]
            };
            [of(0), of(1)]
        };
        let (x_of, z_of) = (to_host(&x)?, to_host(&z)?);
        for scale in [0.3, 1.] {
            let expected = |scale: f64| {
                let rows = x_of.chunks(2).zip(z_of.chunks(2)).flat_map(|(x, z)| step(scale, x, z));
                Tensor::from_iter(rows, &Device::Cpu)?.reshape((3, 2))
            };
            let mut noise = Noise::replay(vec![z.clone()]);
            let found = Dps { scale }.start(&seen, &[])?.step(&model, &x, Step { t: &[from], s: &[to] }, &mut noise)?;
            let off = largest(&found, &expected(scale)?);
            println!("{process:?}, scale {scale}: off by {off:.1e}");
            assert!(off < 1e-9 && largest(&found, &expected(2. * scale)?) > 0.05, "{process:?}, scale {scale}: {off}");
        }
    }
    Ok(())
}

/// One Gaussian: there the answer of replacement is known to be wrong, and RePaint's is near the right one.
#[test]
fn replacement_has_the_data_and_resampling_mends_the_rest() -> Result<()> {
    let gauss = Mixture::full(&[1.], &[vec![0., 0.]], &[vec![1., 0.9, 0.9, 1.]])?;
    let process = Edm { sigma_min: 0.01, sigma_max: 10. };
    let model = Fast::new(&gauss, &process);
    let y = Tensor::new(&[[1.2, 0.]], &Device::Cpu)?;
    let exact = posterior(&gauss, &Measured::new(first(), y.clone(), 0.)?, &[2])?;
    let mut off = vec![];
    for method in [AnyMethod::from(Replace {}), RePaint { jump: 4, resample: 8 }.into()] {
        let seen = Measured::new(first(), y.clone(), 0.)?;
        let x = draw(method.get(), &model, &seen, 40, 1500)?;
        assert!(to_host(&seen.residual(1., &x)?)?.iter().all(|r| r.abs() < 1e-12), "y is not in its place");
        let second = to_host(&x.narrow(1, 1, 1)?)?;
        off.push(second.iter().sum::<f64>() / 1500. - exact.moments().0[1]);
    }
    println!("the mean given y, off by {off:.3?}");
    let error = (exact.moments().1[3] / 1500.).sqrt();
    assert!(off[0] < -10. * error, "replacement knows too late: {off:?}");
    assert!(off[1].abs() < 0.35 * off[0].abs(), "{off:?}");
    // with noise on y, what is drawn is between y and the model
    let seen = Measured::new(first(), y.clone(), 0.5)?;
    let x = draw(&RePaint { jump: 4, resample: 8 }, &model, &seen, 40, 1500)?;
    let at = to_host(&x.mean(0)?)?;
    let exact = posterior(&gauss, &Measured::new(first(), y, 0.5)?, &[2])?.moments().0;
    assert!((at[0] - exact[0]).abs() < 0.15 && (at[1] - exact[1]).abs() < 0.25, "{at:?} {exact:?}");
    Ok(())
}

/// A mixture in the plane, written with tensors: an energy that can be differentiated.
fn energy<'a>(mixture: &'a Mixture, process: &'a dyn Process) -> impl Fn(&Tensor, &[f64]) -> Result<Tensor> + 'a {
    move |x: &Tensor, t: &[f64]| {
        let m = process.marginal(t[0]);
        let mut logs = vec![];
        for k in 0..mixture.components() {
            let (mean, c) = (mixture.mean_of(k), mixture.covariance_of(k));
            let (a2, s2) = (m.alpha * m.alpha, m.sigma * m.sigma);
            let (a, b, d) = (a2 * c[0] + s2, a2 * c[1], a2 * c[3] + s2);
            let det = a * d - b * b;
            let inverse = Tensor::new(&[[d / det, -b / det], [-b / det, a / det]], &Device::Cpu)?;
            let far = x.broadcast_sub(&Tensor::new(&[[m.alpha * mean[0], m.alpha * mean[1]]], &Device::Cpu)?)?;
            let square = (far.matmul(&inverse)? * &far)?.sum(1)?;
            logs.push(square.affine(-0.5, mixture.weights()[k].ln() - 0.5 * det.ln())?);
        }
        let logs = Tensor::stack(&logs, 1)?;
        let top = logs.max_keepdim(D::Minus1)?.detach();
        (logs.broadcast_sub(&top)?.exp()?.sum(1)?.log()? + top.squeeze(1)?)?.neg()
    }
}

/// Given a first coordinate that only one mode has, all methods end in that mode with nearly that coordinate.
#[test]
fn every_method_lands_in_the_right_mode_with_the_data() -> Result<()> {
    let process = Edm { sigma_min: 0.01, sigma_max: 10. };
    let exact = common::mixture();
    let model = FromEnergy::new(&process, energy(&exact, &process))?;
    let x = normal(&[20, 2], 7);
    assert!(largest(&model.x0(&x, &[0.7])?, &exact.under(&process).x0(&x, &[0.7])?) < 1e-10);
    let y = Tensor::new(&[[-1.7, 0.]], &Device::Cpu)?;
    let right = exact.mean_of(0);
    let mut methods = AnyMethod::defaults();
    for method in &mut methods {
        if let AnyMethod::Dps(dps) = method {
            dps.scale = 0.2; // of data of this size, two numbers a sample
        }
    }
    for method in methods {
        let seen = Measured::new(first(), y.clone(), 0.05)?;
        let weights = posterior(&exact, &seen, &[2])?.weights().to_vec();
        let x = draw(method.get(), &Plain(&model), &seen, 40, 200)?;
        let points = to_host(&x)?;
        let near = points.chunks(2).filter(|p| (p[0] - right[0]).hypot(p[1] - right[1]) < 1.2).count() as f64 / 200.;
        let off = points.chunks(2).map(|p| (p[0] + 1.7).powi(2)).sum::<f64>() / 200.;
        println!("{}: {near:.3} in the mode ({:.3}), rms of the residual {:.3}", method.name(), weights[0], off.sqrt());
        assert!(near > 0.85 && off.sqrt() < 0.25, "{}: {near} {off}", method.name());
    }
    Ok(())
}

#[test]
fn repaint_goes_back_as_its_paper_does() {
    let times = [5., 4., 3., 2., 1., 0.];
    let path = |jump, resample| RePaint { jump, resample }.path(&times, 0.).collect::<Vec<_>>();
    let down = |from: usize, to: usize| (from..to).map(|i| (times[i], times[i + 1])).collect::<Vec<_>>();
    assert_eq!(path(2, 1), down(0, 5));
    let expected = [down(0, 3), vec![(2., 4.)], down(1, 3), down(3, 5), vec![(0., 2.)], down(3, 5)].concat();
    assert_eq!(path(2, 2), expected);
    assert_eq!(path(9, 3), down(0, 5));
    let above = [down(0, 3), vec![(2., 4.)], down(1, 5)].concat();
    assert_eq!(RePaint { jump: 2, resample: 2 }.path(&times, 0.5).collect::<Vec<_>>(), above);
    assert_eq!(path(1, 3).iter().filter(|step| step.1 > step.0).count(), 10);
    // q(x_t | x_s) and back: the level of the noise is kept
    let vp = Vp::default();
    let unit = Mixture::isotropic(&[1.], &[vec![0.; 2]], &[1.]).unwrap();
    let nothing = Mask::new(&Tensor::new(&[[0., 0.]], &Device::Cpu).unwrap()).unwrap();
    let seen = Measured::new(boxed(nothing), Tensor::new(&[[0., 0.]], &Device::Cpu).unwrap(), 0.).unwrap();
    let x = draw(&RePaint { jump: 3, resample: 4 }, &Fast::new(&unit, &vp), &seen, 200, 1500).unwrap();
    let variance = dot(&x, &x) / 3000.;
    assert!((variance - 1.).abs() < 5. * (2f64 / 3000.).sqrt() + 0.06, "{variance}");
}

#[test]
fn what_cannot_be_is_said() -> Result<()> {
    let gauss = Mixture::isotropic(&[1.], &[vec![0.; 16]], &[1.])?;
    let process = Edm::default();
    let model = gauss.under(&process);
    let blur = AnyTask::from(Deblur::default()).get().operator(&[1, 4, 4])?;
    let x = normal(&[2, 1, 4, 4], 8);
    let seen = Measured::of(blur, &x, 0.1, &mut Noise::seeds(&[0, 1]))?;
    let fails = |method: &dyn Method| {
        let mut z = Noise::seeds(&[0, 1]);
        method.draw(&model, &seen, &[1., 0.], &x, &mut z, &mut |_| Ok(())).unwrap_err().to_string()
    };
    assert!(fails(&Replace {}).contains("dps or mcmc") && fails(&RePaint::default()).contains("dps or mcmc"));
    assert!(fails(&Dps { scale: 0. }).contains("scale is 0"));
    assert!(fails(&Mcmc { steps_per_level: 0, ..Mcmc::default() }).contains("steps_per_level"));
    assert!(fails(&Mcmc { kernel: Langevin { step: 0. }.into(), ..Mcmc::default() }).contains("step is 0"));
    assert!(fails(&RePaint { jump: 0, resample: 1 }).contains("jump is 0"));
    let hidden =
        Measured::of(boxed(Mask::new(&x.narrow(0, 0, 1)?.zeros_like()?)?), &x, 0., &mut Noise::seeds(&[0, 1]))?;
    let refused = |jump, resample, times: &[f64]| {
        let (method, mut z) = (RePaint { jump, resample }, Noise::seeds(&[0, 1]));
        assert!(method.route(&process, &hidden, times).is_err());
        method.draw(&model, &hidden, times, &x, &mut z, &mut |_| Ok(())).unwrap_err().to_string()
    };
    let why = refused(3, 2, &[1., 0.5, 0.]);
    assert!(why.contains("3 levels") && why.contains("2 steps"), "{why}");
    assert!(refused(1, usize::MAX, &[1., 0.5, 0.]).contains("lower resample"));
    assert!(fails(&Dps::default()).contains("does not depend on the input"), "the mixture is computed on the host");
    let y = Tensor::zeros((1, 1, 3, 3), DType::F64, &Device::Cpu)?;
    let small = AnyTask::from(SuperRes::default()).get().operator(&[1, 4, 4])?;
    assert!(Measured::new(small, y.clone(), 0.).is_err());
    assert!(Measured::new(first(), Tensor::zeros((1, 2), DType::F64, &Device::Cpu)?, -1.).is_err());
    // noise on what was measured alone
    let hidden = AnyTask::from(Inpaint { mask: MaskName::Lines }).get().operator(&[1, 4, 4])?;
    let seen = Measured::of(hidden, &x, 0.3, &mut Noise::seeds(&[0, 1]))?;
    let y = to_host(seen.y())?;
    assert!(y.chunks(4).skip(1).step_by(2).flatten().all(|v| *v == 0.) && y[0] != to_host(&x)?[0]);
    Ok(())
}
