//! What a model says of a sample has the same bits in every batch: x0, scores, energies and their derivatives.

use candle_core::{DType, Device, Result, Tensor};
use langevin_dynamics::predict::{Score, Tell, Unscaled};
use langevin_dynamics::process::AnyProcess;
use langevin_dynamics::{Cond, Denoiser};
use langevin_models::unet::{Activation, Kind, Time, UNetConfig};
use langevin_models::{AnyNet, Form, Head, Model, ModelSpec, mlp::MlpConfig};
use langevin_ops::grad;
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;

const CPU: &Device = &Device::Cpu;
/// Samples in all, and how many of them are asked about at a time.
const ALL: usize = 65;
const BATCHES: [usize; 4] = [1, 2, 8, 9];

fn spec(net: AnyNet, shape: &[usize], classes: Option<usize>, form: Form) -> ModelSpec {
    ModelSpec {
        normalised: form == Form::NoiseNorm,
        ..ModelSpec::energy(shape).net(net).classes(classes).form(form).sigma_data(0.6)
    }
}

/// Asks `model` about `x` `[B, ...]`: everything that depends on a sample, each `[B, ...]`, with a name.
fn asked(model: &Model, x: &Tensor, t: &[f64], labels: Option<Tensor>) -> Result<Vec<(&'static str, Tensor)>> {
    let m = model.denoiser(Cond::class(labels))?;
    let v = (x * 0.3)?.sin()?;
    let mut all = vec![("x0", m.x0(x, t)?), ("score", m.score(x, t)?), ("x0_vjp", m.x0_vjp(x, t, &v)?.1)];
    if let Some(energy) = m.noisy_energy() {
        let jet = energy.jet(x, t)?;
        all.extend([
            ("energy", energy.energy_at(x, t)?),
            ("gradient", energy.energy_grad(x, t)?.1),
            ("jet gradient", jet.gradient),
            ("jet dt", jet.dt),
            ("hvp", grad::hvp(x, &v, |x| energy.energy_at(x, t))?),
        ]);
    }
    all.into_iter().map(|(name, t)| Ok((name, t.detach()))).collect()
}

fn bits(t: &Tensor) -> Vec<u64> {
    to_host(t).unwrap().into_iter().map(f64::to_bits).collect()
}

/// The answers about each batch are those about all samples at once.
fn same_in_every_batch(what: &str, spec: &ModelSpec, dtype: DType) -> Result<()> {
    let model = Model::new(spec.clone(), 3, dtype, CPU)?;
    for (i, (_, var)) in model.vars().iter().enumerate() {
        let noise = Noise::seeds(&[i as u64]).normal((1, var.elem_count()), dtype, CPU)?; // zero layers say something too
        var.set(&(var.as_tensor() + (noise * 0.1)?.reshape(var.shape())?)?)?;
    }
    let mut dims = vec![ALL];
    dims.extend_from_slice(&spec.shape);
    let x = Noise::of_step(7, 0, ALL).normal(dims.as_slice(), dtype, CPU)?;
    let own: Vec<f64> = (0..ALL).map(|i| 0.05 * 1.1f64.powi(i as i32)).collect();
    let labels = spec.classes.map(|n| Tensor::from_iter((0..ALL).map(|i| (i % n) as u32), CPU)).transpose()?;
    let of = |times: &[f64], first: usize, n: usize| -> Result<Vec<(&'static str, Tensor)>> {
        let times = if times.len() == 1 { times } else { &times[first..first + n] };
        let labels = labels.as_ref().map(|labels| labels.narrow(0, first, n)).transpose()?;
        asked(&model, &x.narrow(0, first, n)?, times, labels)
    };
    for times in [&[0.7][..], &own] {
        let whole = of(times, 0, ALL)?;
        for n in BATCHES {
            for first in [0, ALL - n] {
                for ((name, part), (_, whole)) in of(times, first, n)?.iter().zip(&whole) {
                    let whole = whole.narrow(0, first, n)?;
                    let off = bits(part).iter().zip(bits(&whole)).filter(|(a, b)| *a != b).count();
                    let (all, times) = (part.elem_count(), times.len());
                    assert_eq!(off, 0, "{what} {dtype:?}, {name} of {n} samples from {first}, {times} times: of {all}");
                    assert!(to_host(part)?.iter().all(|v| v.is_finite()), "{what} {name}");
                }
            }
        }
    }
    Ok(())
}

fn mlp(width: usize) -> AnyNet {
    MlpConfig { width, layers: 2, dropout: 0. }.into()
}

#[test]
fn mlps() -> Result<()> {
    for dtype in [DType::F32, DType::F64] {
        same_in_every_batch("residual", &spec(mlp(24), &[2], None, Form::Residual), dtype)?;
        same_in_every_batch("one output", &spec(mlp(128), &[3], Some(4), Form::Scalar), dtype)?;
        same_in_every_batch("normalised", &spec(mlp(37), &[20], None, Form::NoiseNorm), dtype)?;
        // more terms than are summed at once
        same_in_every_batch("wide", &spec(mlp(300), &[310], None, Form::InnerProduct), dtype)?;
    }
    Ok(())
}

/// U-Nets of every kind: convolutions by Winograd's method, direct ones of stride 2 and of few channels, 1x1, filters;
/// attention of several heads over 16 and over 4 pixels.
#[test]
fn unets() -> Result<()> {
    let small = UNetConfig { channels: vec![8, 32], attention: vec![1], ..UNetConfig::default() };
    let adm = UNetConfig { scale_shift: true, residual_resampling: true, head_dim: Some(4), ..small.clone() };
    let ncsn = UNetConfig {
        attention: vec![],
        down: Some(vec![Kind::Skip; 2]),
        up: Some(vec![Kind::Skip; 2]),
        time: Time::Fourier,
        activation: Activation::Mish,
        ..small.clone()
    };
    let odd =
        UNetConfig { channels: vec![6, 40], groups: Some(2), downsample_padding: 0, sines: vec![1], ..small.clone() };
    for (what, net, shape, classes) in [
        ("ddpm", small, [3, 8, 8], Some(3)),
        ("adm", adm, [1, 8, 8], None),
        ("ncsn++", ncsn, [3, 8, 8], None),
        ("odd", odd, [1, 4, 4], None),
    ] {
        let mut spec = spec(net.into(), &shape, classes, Form::Residual);
        if what == "ncsn++" {
            spec.predict = Unscaled { of: Box::new(Score {}.into()), tell: Tell::Sigma }.into();
            spec.head = Head::Denoiser;
        }
        for dtype in [DType::F32, DType::F64] {
            same_in_every_batch(what, &spec, dtype)?;
        }
    }
    Ok(())
}

#[test]
fn the_exact_mixture() -> Result<()> {
    let spec = langevin_models::mixture::exact("exact:8-gaussians", AnyProcess::named("edm").unwrap()).unwrap();
    for dtype in [DType::F32, DType::F64] {
        same_in_every_batch("mixture", &spec, dtype)?;
    }
    Ok(())
}
