//! The denoising loss at its minimum, under every process, parametrisation and weight; and a network that finds it.

use candle_core::{DType, Device, Result, Tensor, Var};
use langevin_data::Batch;
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::process::AnyProcess;
use langevin_dynamics::{Cond, Denoiser, Net, Preconditioned};
use langevin_models::mlp::MlpConfig;
use langevin_models::{Model, ModelSpec};
use langevin_ops::grad;
use langevin_ops::noise::Noise;
use langevin_ops::shape::{combine, per_sample, scale, to_host};
use langevin_train::ema::WarmUp;
use langevin_train::level::{Draw, Uniform};
use langevin_train::{AnyLevel, AnyOptimiser, AnyWeight, Denoising, TrainOptions, Trainer};
use std::sync::Mutex;

const S: f64 = 0.7; // deviation of the data
const MU: f64 = 0.3; // their mean

/// The exact F of data N(MU, S^2) at the times that were set, times one variable plus another.
struct Exact {
    times: Mutex<Vec<f64>>,
    process: AnyProcess,
    predict: AnyParametrisation,
    theta: [Var; 2],
}

impl Net for Exact {
    fn forward(&self, x: &Tensor, _: &Tensor, _: &Cond) -> Result<Tensor> {
        let (mut of_x, mut constant) = (vec![], vec![]);
        for &t in self.times.lock().unwrap().iter() {
            let m = self.process.get().marginal(t);
            let (c_skip, c_out) = self.predict.get().skip_out(&m, 0.5);
            let total = (m.alpha * S).powi(2) + m.sigma.powi(2);
            let gain = m.alpha * S * S / total; // x0-hat = MU + gain (x - alpha MU)
            let c_in = self.predict.get().c_in(&m, 0.5);
            of_x.push((gain - c_skip) / (c_out * c_in));
            constant.push(MU * (1. - gain * m.alpha) / c_out);
        }
        let f = scale(x, &of_x)?.broadcast_add(&per_sample(&constant, x)?)?;
        f.broadcast_mul(&self.theta[0])?.broadcast_add(&self.theta[1])
    }
}

#[test]
fn the_exact_denoiser_is_the_minimum() -> Result<()> {
    let n = 20_000;
    let mut cases = 0;
    for process in AnyProcess::defaults() {
        let (low, high) = process.get().span();
        for predict in AnyParametrisation::defaults() {
            for (name, _) in AnyWeight::ALL {
                let theta = [Var::new(1f64, &Device::Cpu)?, Var::new(0f64, &Device::Cpu)?];
                let net = Exact { times: Mutex::default(), process: process.clone(), predict: predict.clone(), theta };
                let cond = Cond::default();
                let Ok(model) = Preconditioned::new(&net, process.get(), predict.get(), 0.5, cond) else { continue };
                let loss = Denoising { weight: AnyWeight::named(name).unwrap(), level: Uniform {}.into() };
                // times away from the ends, where some weights make any estimate hopeless
                let times: Vec<f64> =
                    (0..n).map(|i| low + (high - low) * (0.2 + 0.6 * (i % 50) as f64 / 50.)).collect();
                let draws: Vec<Draw> = times.iter().map(|&t| Draw { t, factor: 1., u: 0. }).collect();
                *net.times.lock().unwrap() = times.clone();
                let mut z = Noise::of_step(3, 0, n);
                let x0 = z.normal((n, 1), DType::F64, &Device::Cpu)?.affine(S, MU)?;
                let mut each = vec![];
                let (_, g) = grad::value_and_grad(&net.theta, || {
                    let losses = loss.losses(&model, 0.5, &x0, &draws, &mut z)?;
                    each = to_host(&losses)?;
                    losses.mean_all()
                })?;
                let m = |t: f64| process.get().marginal(t);
                let exact = |t: f64| {
                    let (m, v) = (m(t), S * S);
                    loss.weight.get().lambda(&m, 0.5) * v * m.sigma.powi(2) / ((m.alpha * S).powi(2) + m.sigma.powi(2))
                };
                let total: f64 = each.iter().sum();
                let expected: f64 = times.iter().map(|&t| exact(t)).sum();
                // a squared normal number has deviation sqrt(2)
                let error = (times.iter().map(|&t| 2. * exact(t).powi(2)).sum::<f64>()).sqrt();
                let what = format!("{} {} {name}", process.name(), predict.name());
                assert!((total - expected).abs() < 4. * error, "{what}: {total} for {expected} +- {error}");
                // d/dtheta of w (theta_0 F + theta_1 - target)^2 is 2 w residual (F, 1), whose mean is 0
                let mut spread = [0., 0.];
                let f = to_host(&model.output(
                    &combine(&times.iter().map(|&t| m(t).alpha).collect::<Vec<_>>(), &x0, &[0.], &x0)?,
                    &times,
                )?)?;
                for ((&t, l), f) in times.iter().zip(&each).zip(&f) {
                    let c = model.coefficients(t);
                    let w = loss.weight.get().lambda(&m(t), 0.5) * c.c_out * c.c_out;
                    let scale_of_f = f.abs() + (m(t).sigma * c.c_skip / c.c_out).abs() + 1.;
                    spread[0] += 4. * w * l * scale_of_f * scale_of_f;
                    spread[1] += 4. * w * l;
                }
                for (g, spread) in g.iter().zip(spread) {
                    let (g, bound) = (g.to_scalar::<f64>()?, 4. * spread.sqrt() / n as f64);
                    assert!(g.abs() < bound, "{what}: gradient {g}, should be 0 +- {bound}");
                }
                cases += 1;
            }
        }
    }
    assert!(cases > 200, "{cases} cases");
    Ok(())
}

#[test]
fn a_small_energy_learns_a_toy() -> Result<()> {
    // two points of the plane, blurred: p = (N(-a, s^2) + N(a, s^2)) / 2
    let (a, s) = ([0.6, 0.3], 0.15);
    let sigma_data = f64::sqrt((0.36 + 0.09) / 2. + s * s);
    let batch = |n: u64| -> Result<Batch> {
        let mut z = Noise::of_step(5, n, 128);
        let sign: Vec<f64> = z.uniform(128)?.into_iter().map(|u| if u < 0.5 { 1. } else { -1. }).collect();
        let x = z.normal((128, 2), DType::F32, &Device::Cpu)?.affine(s, 0.)?;
        let centre = Tensor::new(&[a.map(|v| v as f32)], &Device::Cpu)?.broadcast_as((128, 2))?;
        Ok(Batch::new((x + scale(&centre, &sign)?)?, None))
    };
    let spec = ModelSpec::energy([2]).net(MlpConfig { width: 64, layers: 2, dropout: 0. }).sigma_data(sigma_data);
    let model = Model::new(spec, 0, DType::F32, &Device::Cpu)?;
    let options = TrainOptions { steps: 400, batch: 128, lr: 3e-3, warmup: 20, ..TrainOptions::default() };
    let (weight, level) = (AnyWeight::default(), AnyLevel::default());
    let optimiser = AnyOptimiser::named("adam").unwrap();
    let mut trainer = Trainer::new(model, Denoising { weight, level }, optimiser, WarmUp::default().into(), options)?;
    let mut losses = vec![];
    for n in 0..400 {
        losses.push(trainer.step(&[batch(n)?])?.loss);
    }
    // the loss of the exact denoiser, on the very levels of training
    let loss = Denoising::default();
    let process = AnyProcess::named("edm").unwrap();
    let mut best = 0.;
    for n in 0..40 {
        let mut z = Noise::of_step(11, n, 128);
        let draws = loss.draws(process.get(), 128, &mut z)?;
        let (x0, t) = (batch(1000 + n)?.x, draws.iter().map(|d| d.t).collect::<Vec<_>>());
        let x = combine(&[1.], &x0, &t, &z.normal_like(&x0)?)?.to_vec2::<f32>()?;
        for ((x, x0), &t) in x.iter().zip(x0.to_vec2::<f32>()?).zip(&t) {
            let v = s * s + t * t;
            // x0-hat of either point, mixed by tanh(<x, a> / v)
            let mix = ((f64::from(x[0]) * a[0] + f64::from(x[1]) * a[1]) / v).tanh();
            let error = (0..2).map(|i| {
                let gain = s * s / v;
                let x0_hat = gain * f64::from(x[i]) + (1. - gain) * a[i] * mix;
                (x0_hat - f64::from(x0[i])).powi(2)
            });
            let m = process.get().marginal(t);
            best += loss.weight.get().lambda(&m, sigma_data) * error.sum::<f64>() / 2. / (40. * 128.);
        }
    }
    let mean = |some: &[f64]| some.iter().sum::<f64>() / some.len() as f64;
    let (start, end) = (mean(&losses[..5]), mean(&losses[320..]));
    assert!(end < 1.05 * best && end > 0.97 * best, "{end}, the exact denoiser has {best}");
    assert!(start > 1.4 * best, "{start} to {end}"); // EDM's loss of a network that gives 0 is 1
    assert!(trainer.model().energy(&batch(0)?.x, &[0.5], &Cond::default())?.dims() == [128]);
    Ok(())
}

#[test]
fn data_are_brought_into_the_range_of_the_model() -> Result<()> {
    let x = Noise::of_step(4, 0, 8).normal((8, 2), DType::F64, &Device::Cpu)?;
    let trained = |from_zero: bool, x: &Tensor| -> Result<f64> {
        let spec = ModelSpec {
            from_zero,
            ..ModelSpec::denoiser([2])
                .net(MlpConfig { width: 8, layers: 1, dropout: 0. })
                .process(AnyProcess::named("ve").unwrap())
        };
        let model = Model::new(spec, 1, DType::F64, &Device::Cpu)?;
        let options = TrainOptions { batch: 8, ..TrainOptions::default() };
        let (level, optimiser) = (AnyLevel::default(), AnyOptimiser::default());
        let mut trainer = Trainer::new(
            model,
            Denoising { level, ..Denoising::default() },
            optimiser,
            WarmUp::default().into(),
            options,
        )?;
        Ok(trainer.step(&[Batch::new(x.clone(), None)])?.loss)
    };
    assert_eq!(trained(true, &x)?, trained(false, &x.affine(0.5, 0.5)?)?);
    assert_ne!(trained(true, &x)?, trained(false, &x)?);
    Ok(())
}

/// One model learns the data of either class and, where the class is hidden, those of both: N(a, s^2) and N(-a, s^2).
#[test]
fn with_label_dropout_a_model_knows_the_classes_and_none() -> Result<()> {
    let (a, s) = ([0.6, 0.3], 0.15);
    let centres = |labels: &[u32]| {
        labels.iter().flat_map(|l| a.map(|a| if *l == 0 { a as f32 } else { -a as f32 })).collect::<Vec<f32>>()
    };
    let batch = |n: u64| -> Result<Batch> {
        let mut z = Noise::of_step(5, n, 128);
        let labels: Vec<u32> = z.uniform(128)?.into_iter().map(|u| u32::from(u < 0.5)).collect();
        let x = z.normal((128, 2), DType::F32, &Device::Cpu)?.affine(s, 0.)?;
        let x = (x + Tensor::from_vec(centres(&labels), (128, 2), &Device::Cpu)?)?;
        Ok(Batch::new(x, Tensor::new(labels, &Device::Cpu)?))
    };
    let spec = ModelSpec::energy([2])
        .net(MlpConfig { width: 64, layers: 2, dropout: 0. })
        .sigma_data(f64::sqrt((0.36 + 0.09) / 2. + s * s))
        .classes(2)
        .null_class();
    assert_eq!((spec.labels(), spec.null_label()), (Some(3), Some(2)));
    let trainer = |spec: ModelSpec, label_dropout: f64| {
        let model = Model::new(spec, 0, DType::F32, &Device::Cpu)?;
        let options =
            TrainOptions { steps: 400, batch: 128, lr: 3e-3, warmup: 20, label_dropout, ..Default::default() };
        let optimiser = AnyOptimiser::named("adam").unwrap();
        Trainer::new(model, Denoising::default(), optimiser, WarmUp::default().into(), options)
    };
    let mut run = trainer(spec.clone(), 0.3)?;
    for n in 0..400 {
        run.step(&[batch(n)?])?;
    }
    // x0-hat where it was learnt: a class at its own data with noise, none at all
    let told = run.averaged_model()?;
    for (sigma, label) in [0.6, 1.2].into_iter().flat_map(|sigma| (0..3).map(move |label| (sigma, label))) {
        let labels: Vec<u32> = (0..128).map(|i| if label < 2 { label } else { i % 2 }).collect();
        let mut z = Noise::of_step(11, 0, 128);
        let spread = f64::hypot(s, sigma);
        let centre = Tensor::from_vec(centres(&labels), (128, 2), &Device::Cpu)?;
        let x = (z.normal_like(&centre)?.affine(spread, 0.)? + centre)?;
        let points = to_host(&x)?;
        let exact = |label: u32| -> Vec<f64> {
            let v = spread * spread;
            let towards = |x: &[f64]| match label {
                0 => 1.,
                1 => -1.,
                _ => ((x[0] * a[0] + x[1] * a[1]) / v).tanh(),
            };
            let x0 = |x: &[f64]| [0, 1].map(|i| (s * s * x[i] + sigma * sigma * a[i] * towards(x)) / v);
            points.chunks(2).flat_map(x0).collect()
        };
        let rms = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| (p - q).powi(2) / 256.).sum::<f64>().sqrt();
        let cond = Cond::class(Tensor::full(label, 128, &Device::Cpu)?);
        let off = rms(&to_host(&told.denoiser(cond)?.x0(&x, &[sigma])?)?, &exact(label));
        for other in (0..3).filter(|other| *other != label) {
            let apart = rms(&exact(label), &exact(other));
            assert!(off < 0.3 * apart, "sigma {sigma}, label {label}: off by {off}, and {other} is {apart} apart");
        }
    }
    let refused = |spec: ModelSpec, dropout: f64| trainer(spec, dropout).err().unwrap().to_string();
    let why = refused(ModelSpec { null_class: false, ..spec.clone() }, 0.1);
    assert!(why.contains("label_dropout") && why.contains("null_class"), "{why}");
    assert!(refused(spec.clone(), 1.).contains("from 0 to below 1"));
    assert!(refused(ModelSpec { classes: None, ..spec }, 0.1).contains("`null_class` goes with classes"));
    Ok(())
}
