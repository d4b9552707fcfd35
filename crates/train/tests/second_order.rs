//! The gradient of an energy's score loss: exact, recomputed and by differences are the same thing.

use candle_core::{DType, Device, Result, Tensor, Var};
use langevin_dynamics::Cond;
use langevin_models::{Head, Model, ModelSpec, unet::UNetConfig};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{norm_per_sample, to_host};
use langevin_ops::{grad, tape};

fn model(head: Head, net: UNetConfig, dtype: DType) -> Result<Model> {
    let spec = ModelSpec::energy([1, 8, 8]).head(head).net(net).sigma_data(0.6);
    Model::new(spec, 1, dtype, &Device::Cpu)
}

fn nets() -> [UNetConfig; 2] {
    let plain = UNetConfig { channels: vec![8, 16], attention: vec![1], dropout: 0.2, ..UNetConfig::default() };
    [UNetConfig { scale_shift: true, residual_resampling: true, ..plain.clone() }, plain]
}

/// The gradient of |F - target|^2, all weights in one.
fn gradient(model: &Model) -> Result<Vec<f64>> {
    let mut z = Noise::seeds(&[1, 2, 3]);
    let x = z.normal((3, 1, 8, 8), model.dtype(), &Device::Cpu)?;
    let target = z.normal_like(&x)?;
    let c_noise = Tensor::new(&[-0.5f64, 0.1, 0.7], &Device::Cpu)?.to_dtype(model.dtype())?;
    let vars: Vec<Var> = model.vars().iter().map(|(_, var)| var.clone()).collect();
    let cond = Cond { dropout: Some(7), ..Cond::default() };
    let loss = || (model.net().forward(&x, &c_noise, &cond)? - &target)?.sqr()?.mean_all();
    let (_, grads) = grad::value_and_grad(&vars, loss)?;
    grads.iter().map(to_host).collect::<Result<Vec<_>>>().map(|all| all.concat())
}

fn error(a: &[f64], b: &[f64]) -> Result<f64> {
    let of =
        |v: Vec<f64>| Ok::<_, candle_core::Error>(norm_per_sample(&Tensor::new(v, &Device::Cpu)?.unsqueeze(0)?)?[0]);
    Ok(of(a.iter().zip(b).map(|(a, b)| a - b).collect())? / of(b.to_vec())?)
}

#[test]
fn recomputed_gradients_are_the_same() -> Result<()> {
    for net in nets() {
        for head in [Head::Denoiser, Head::Energy] {
            let model = model(head, net.clone(), DType::F64)?;
            let again = tape::recompute(true, || gradient(&model))?;
            let e = error(&again, &gradient(&model)?)?;
            assert!(e < 1e-13, "{head:?}: {e}");
        }
    }
    Ok(())
}

#[test]
fn differences_agree_with_the_exact_gradient() -> Result<()> {
    for net in nets() {
        for dtype in [DType::F64, DType::F32] {
            let model = model(Head::Energy, net.clone(), dtype)?;
            let e = error(&grad::differences(true, || gradient(&model))?, &gradient(&model)?)?;
            assert!(e < 1e-2, "{dtype:?}: {e}");
        }
    }
    Ok(())
}
