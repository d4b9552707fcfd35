//! The score of the denoiser is exactly -grad_x E, for every form, parametrisation, process and network.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::largest;
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::process::AnyProcess;
use langevin_dynamics::{Cond, Denoiser};
use langevin_models::{AnyNet, Form, Head, Model, ModelSpec, mlp::MlpConfig, unet::UNetConfig};
use langevin_ops::grad;
use langevin_ops::noise::Noise;

const FORMS: [Form; 5] = [Form::Residual, Form::InnerProduct, Form::SquaredNorm, Form::Scalar, Form::NoiseNorm];

fn spec(net: AnyNet, shape: &[usize]) -> ModelSpec {
    ModelSpec::energy(shape).net(net).sigma_data(0.6)
}

fn small_unet() -> UNetConfig {
    UNetConfig { channels: vec![8, 8], attention: vec![1], ..UNetConfig::default() }
}

fn mlp() -> AnyNet {
    MlpConfig { width: 16, layers: 2, dropout: 0. }.into()
}

fn error(a: &Tensor, b: &Tensor) -> Result<f64> {
    Ok(largest(&(a - b)?)? / largest(b)?)
}

/// The error of -grad_x E against the denoiser's score, and the part of it that is the rounding of the score itself:
/// (alpha x0 - x) / sigma^2 cancels close to the data.
fn law(model: &Model, x: &Tensor, t: &[f64], cond: &Cond) -> Result<(f64, f64)> {
    let (_, gradient) = grad::gradient(x, |x| model.energy(x, t, cond))?;
    let m = model.denoiser(cond.clone())?;
    let score = m.score(x, t)?;
    let sigma = t.iter().map(|&t| m.process().marginal(t).sigma).fold(f64::INFINITY, f64::min);
    let rounding = 4. * f64::EPSILON * largest(x)? / (sigma * sigma * largest(&score)?);
    Ok((error(&gradient.neg()?, &score)?, rounding))
}

#[test]
fn score_is_minus_the_gradient_of_the_energy() -> Result<()> {
    let x = Noise::seeds(&[1, 2]).normal((2, 3), DType::F64, &Device::Cpu)?;
    let mut cases = 0;
    for process in AnyProcess::defaults() {
        for predict in AnyParametrisation::defaults() {
            for form in FORMS {
                let spec = ModelSpec { form, process: process.clone(), predict: predict.clone(), ..spec(mlp(), &[3]) };
                let Ok(model) = Model::new(spec, 5, DType::F64, &Device::Cpu) else {
                    // the only reasons to refuse
                    assert!(!predict.get().reaches_pure_noise() || form == Form::NoiseNorm && predict.name() != "edm");
                    continue;
                };
                let (low, high) = process.get().span();
                // the ends too, and a time for each sample; sigma = 0 and alpha = 0 are outside
                for t in [[low, 0.5 * high], [0.1 * high, 0.9 * high]] {
                    if predict.name() == "consistency" && t[0] == low {
                        continue; // there it is x itself, whose score and energy are 0
                    }
                    let (error, rounding) = law(&model, &x, &t, &Cond::default())?;
                    assert!(error < rounding.max(1e-8), "{process:?} {predict:?} {form:?} at {t:?}: error {error:.1e}");
                    cases += 1;
                }
            }
        }
    }
    assert!(cases >= 48);
    Ok(())
}

#[test]
fn the_unet_obeys_it_too_with_classes_and_dropout() -> Result<()> {
    let x = Noise::seeds(&[1, 2]).normal((2, 1, 6, 4), DType::F64, &Device::Cpu)?;
    let labels = Tensor::new(&[2u32, 0], &Device::Cpu)?;
    let cond = Cond { dropout: Some(7), ..Cond::class(labels) };
    for form in FORMS {
        let net = UNetConfig { dropout: 0.3, ..small_unet() };
        let spec = ModelSpec { form, classes: Some(3), ..spec(net.into(), &[1, 6, 4]) };
        let model = Model::new(spec, 5, DType::F64, &Device::Cpu)?;
        let (error, _) = law(&model, &x, &[0.5], &cond)?;
        assert!(error < 1e-8, "{form:?}: {error:.1e}");
    }
    Ok(())
}

#[test]
fn one_label_is_that_of_all_samples() -> Result<()> {
    let x = Noise::seeds(&[1, 2, 3]).normal((3, 3), DType::F64, &Device::Cpu)?;
    let model = Model::new(ModelSpec { classes: Some(4), ..spec(mlp(), &[3]) }, 5, DType::F64, &Device::Cpu)?;
    let told = |labels: &[u32]| model.denoiser(Cond::class(Tensor::new(labels, &Device::Cpu)?));
    let (one, each, other) = (told(&[2])?, told(&[2, 2, 2])?, told(&[2, 1, 2])?);
    let x0 = one.x0(&x, &[0.5])?;
    assert_eq!(error(&x0, &each.x0(&x, &[0.5])?)?, 0.);
    assert!(error(&x0, &other.x0(&x, &[0.5])?)? > 1e-6);
    // it can be asked of a part of a batch, and labels of each cannot
    assert!(!one.whole_batch() && each.whole_batch());
    assert_eq!(error(&x0.narrow(0, 1, 2)?, &one.x0(&x.narrow(0, 1, 2)?, &[0.5])?)?, 0.);
    assert!(each.x0(&x.narrow(0, 1, 2)?, &[0.5]).is_err());
    Ok(())
}

#[test]
fn an_energy_is_differentiated_through_by_training_and_by_hvp() -> Result<()> {
    let model = Model::new(spec(mlp(), &[3]), 5, DType::F64, &Device::Cpu)?;
    let x = Noise::seeds(&[1, 2]).normal((2, 3), DType::F64, &Device::Cpu)?;
    let (cond, t) = (Cond::default(), [0.7]);

    // parameter gradients of a loss on the score, against central differences
    let vars: Vec<_> = model.vars().iter().map(|(_, var)| var.clone()).collect();
    let loss = || model.denoiser(cond.clone())?.score(&x, &t)?.sqr()?.sum_all();
    let (_, gradients) = grad::value_and_grad(&vars, loss)?;
    let at = model.vars().iter().position(|(name, _)| name == "layers.1.linear_1.weight").unwrap();
    let (var, gradient) = (&vars[at], &gradients[at]);
    let (value, v, step) = (var.as_tensor().copy()?, gradient.clone(), 1e-5);
    var.set(&(&value + (&v * step)?)?)?;
    let up = loss()?.to_scalar::<f64>()?;
    var.set(&(&value - (&v * step)?)?)?;
    let down = loss()?.to_scalar::<f64>()?;
    var.set(&value)?;
    let expected = v.sqr()?.sum_all()?.to_scalar::<f64>()?;
    assert!(((up - down) / (2. * step) / expected - 1.).abs() < 1e-6);

    // the Hessian through the denoiser, whose input is computed from x, equals the Hessian of E
    let v = Noise::seeds(&[3, 4]).normal_like(&x)?;
    let through = grad::vjp(&x, &v, |x| model.denoiser(cond.clone())?.score(x, &t)?.neg())?;
    let direct = grad::hvp(&x, &v, |x| model.energy(x, &t, &cond)?.sum_all())?;
    assert!(error(&through, &direct)? < 1e-10);
    Ok(())
}

#[test]
fn a_plain_denoiser_says_why_it_has_no_energy() -> Result<()> {
    let model = Model::new(ModelSpec { head: Head::Denoiser, ..spec(mlp(), &[3]) }, 5, DType::F32, &Device::Cpu)?;
    let x = Tensor::zeros((1, 3), DType::F32, &Device::Cpu)?;
    let message = model.energy(&x, &[1.], &Cond::default()).unwrap_err().to_string();
    assert!(message.contains("not the gradient of a scalar"), "{message}");
    assert_eq!(model.net().forward(&x, &Tensor::zeros(1, DType::F32, &Device::Cpu)?, &Cond::default())?.dims(), [1, 3]);
    Ok(())
}
