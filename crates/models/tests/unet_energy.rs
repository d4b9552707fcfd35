//! Every kind of U-Net may be trained as an energy: the second-order gradients agree with finite differences.

mod common;

use candle_core::{DType, Device, Result};
use langevin_dynamics::{Cond, Net};
use langevin_models::{diffusers, tensors};
use langevin_ops::grad;

/// The loss |grad_x E|^2 with E = <x, f(x)>: its gradient for all weights, against a step along it.
#[test]
fn gradients_of_a_loss_on_the_score_are_exact() -> Result<()> {
    for case in common::cases("unet") {
        let name = common::name(&case);
        let network = diffusers::open(&case, DType::F64, &Device::Cpu)?;
        if network.config.inputs != network.config.outputs || name == "mnist" {
            continue; // mnist is ddpm with larger images
        }
        let io = tensors::load(&case.join("io.safetensors"))?.tensors;
        let x = io["sample"].narrow(0, 0, 1)?.to_dtype(DType::F64)?;
        let t = io["timestep"].narrow(0, 0, 1)?.to_dtype(DType::F64)?;
        let labels = io.get("class_labels").map(|labels| labels.narrow(0, 0, 1)).transpose()?;
        let cond = Cond::class(labels);
        let vars: Vec<_> = network.vars.iter().map(|(_, var)| var.clone()).collect();
        let loss = || {
            let energy = |x: &candle_core::Tensor| (x * network.net.forward(x, &t, &cond)?)?.sum_all();
            grad::gradient(&x, energy)?.1.sqr()?.sum_all()
        };
        let (_, gradients) = grad::value_and_grad(&vars, loss)?;
        let values = vars.iter().map(|var| var.as_tensor().copy()).collect::<Result<Vec<_>>>()?;
        let mut slope = 0.;
        for g in &gradients {
            slope += g.sqr()?.sum_all()?.to_scalar::<f64>()?;
        }
        let step = 1e-6 / slope.sqrt();
        let at = |step: f64| {
            for ((var, value), g) in vars.iter().zip(&values).zip(&gradients) {
                var.set(&(value + (g * step)?)?)?;
            }
            loss()?.to_scalar::<f64>()
        };
        let difference = (at(step)? - at(-step)?) / (2. * step);
        assert!((difference / slope - 1.).abs() < 1e-5, "{name}: {difference} and {slope}");
    }
    Ok(())
}

/// The frequencies of a Fourier time are part of the weights, but not trained.
#[test]
fn fixed_frequencies_have_no_gradient() -> Result<()> {
    let case = common::cases("unet").into_iter().find(|case| common::name(case) == "ncsnpp-small");
    let Some(case) = case else { return Ok(()) }; // other cases were asked for
    let network = diffusers::open(&case, DType::F32, &Device::Cpu)?;
    let io = tensors::load(&case.join("io.safetensors"))?.tensors;
    let vars: Vec<_> = network.vars.iter().map(|(_, var)| var.clone()).collect();
    let loss = || network.net.forward(&io["sample"], &io["timestep"], &Cond::default())?.sqr()?.sum_all();
    let (_, gradients) = grad::value_and_grad(&vars, loss)?;
    for ((name, _), g) in network.vars.iter().zip(&gradients) {
        // what is added to every key changes no attention
        let still = name == "time_proj.weight" || name.ends_with("to_k.bias");
        assert_eq!(common::largest(g)? == 0., still, "{name}");
    }
    Ok(())
}
