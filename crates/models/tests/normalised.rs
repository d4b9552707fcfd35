//! The derivatives of an energy in x and in t, for every form and process, with and without a normaliser.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::{distance, largest, worst};
use langevin_dynamics::process::AnyProcess;
use langevin_dynamics::{Cond, Denoiser};
use langevin_models::{AnyNet, Form, Model, ModelSpec, mlp::MlpConfig, unet::UNetConfig};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{PerSample, to_host};

fn spec(form: Form, process: AnyProcess, net: AnyNet, shape: &[usize]) -> ModelSpec {
    ModelSpec::energy(shape).net(net).process(process).sigma_data(0.6).normalised().form(form)
}

fn mlp() -> AnyNet {
    MlpConfig { width: 16, layers: 2, dropout: 0. }.into()
}

/// A model whose normaliser is not at its initial 0.
fn stirred(spec: ModelSpec) -> Result<Model> {
    let model = Model::new(spec, 5, DType::F64, &Device::Cpu)?;
    for (name, var) in model.vars().iter().filter(|(name, _)| name.starts_with("log_normaliser")) {
        let noise = Noise::seeds(&[name.len() as u64]).normal((1, var.elem_count()), DType::F64, &Device::Cpu)?;
        var.set(&(noise.reshape(var.shape())? * 0.3)?)?;
    }
    Ok(model)
}

fn check(model: &Model, x: &Tensor, t: &[f64]) -> Result<f64> {
    let denoiser = model.denoiser(Cond::default())?;
    let energy = denoiser.noisy_energy().unwrap();
    let jet = energy.jet(x, t)?;
    let at =
        |by: f64| energy.energy_at(x, &t.iter().map(|t| t * (1. + by)).collect::<Vec<_>>()).and_then(|e| to_host(&e));
    let h = 1e-5;
    let (up, down, here) = (at(h)?, at(-h)?, at(0.)?);
    let (value, dt) = (to_host(&jet.energy)?, to_host(&jet.dt)?);
    let score = denoiser.score(x, t)?;
    let mut errors = vec![distance(&jet.gradient.neg()?, &score)? / largest(&score)?];
    for i in 0..value.len() {
        let slope = (up[i] - down[i]) / (2. * h * t.at(i));
        let size = slope.abs().max(here[i].abs() / t.at(i));
        errors.extend([(value[i] - here[i]).abs() / here[i].abs(), (dt[i] - slope).abs() / size]);
    }
    Ok(worst(errors))
}

#[test]
fn derivatives_are_those_of_the_energy() -> Result<()> {
    let x = Noise::seeds(&[1, 2]).normal((2, 3), DType::F64, &Device::Cpu)?;
    let mut cases = 0;
    for process in AnyProcess::defaults().into_iter().filter(|p| p.get().discrete().is_none()) {
        for form in [Form::Residual, Form::InnerProduct, Form::SquaredNorm, Form::Scalar, Form::NoiseNorm] {
            let model = stirred(spec(form, process.clone(), mlp(), &[3]))?;
            let (low, high) = process.get().span();
            for t in [vec![1.1 * low, 0.6 * high], vec![0.2 * high]] {
                let error = check(&model, &x, &t)?;
                assert!(error < 1e-7, "{process:?} {form:?} at {t:?}: {error:.1e}");
                cases += 1;
            }
        }
    }
    assert!(cases >= 50);
    let images = Noise::seeds(&[1, 2]).normal((2, 1, 8, 8), DType::F64, &Device::Cpu)?;
    let unet = UNetConfig { channels: vec![8, 8], attention: vec![1], sines: vec![0, 2], ..UNetConfig::default() };
    let model = stirred(spec(Form::NoiseNorm, AnyProcess::named("edm").unwrap(), unet.into(), &[1, 8, 8]))?;
    let error = check(&model, &images, &[0.3])?;
    assert!(error < 1e-7, "U-Net: {error:.1e}");
    Ok(())
}

/// Where the network gives nothing, the noise-norm of data that are N(0, sigma_data^2) at large noise is that Gaussian's.
#[test]
fn at_large_noise_the_energy_is_a_gaussians() -> Result<()> {
    let model =
        Model::new(spec(Form::NoiseNorm, AnyProcess::named("edm").unwrap(), mlp(), &[3]), 1, DType::F64, &Device::Cpu)?;
    model
        .vars()
        .iter()
        .filter(|(name, _)| name.contains("linear_out"))
        .try_for_each(|(_, v)| v.set(&v.zeros_like()?))?;
    let (t, x) = (80., (Noise::seeds(&[1, 2]).normal((2, 3), DType::F64, &Device::Cpu)? * 80.)?);
    let energy = to_host(&model.energy(&x, &[t], &Cond::default())?)?;
    for (i, row) in x.to_vec2::<f64>()?.iter().enumerate() {
        let v = t * t + 0.36;
        let exact = row.iter().map(|x| x * x).sum::<f64>() / (2. * v) + 1.5 * (2. * std::f64::consts::PI * v).ln();
        assert!((energy[i] - exact).abs() < 3e-4 * exact.abs(), "{} {exact}", energy[i]);
    }
    Ok(())
}
