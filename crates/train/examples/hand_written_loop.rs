//! A training loop written by hand: the model, the loss and the optimiser of the toolkit, without its trainer.
//!
//! `cargo run --release -p langevin-train --example hand_written_loop`

#![allow(clippy::print_stdout)] // an example talks

use candle_core::{DType, Device, Result, Var};
use langevin_data::{Loader, LoaderOptions, Options};
use langevin_dynamics::Cond;
use langevin_dynamics::process::Edm;
use langevin_models::mlp::MlpConfig;
use langevin_models::{Model, ModelSpec};
use langevin_ops::grad;
use langevin_ops::noise::Noise;
use langevin_train::Denoising;
use langevin_train::level::LogNormal;
use langevin_train::optim::{AdamW, Optim};
use langevin_train::weight::UnitEdm;

fn main() -> Result<()> {
    let data: std::sync::Arc<dyn langevin_data::Dataset> =
        langevin_data::open("toy:pinwheel", &Options::default())?.into();
    let sigma_data = langevin_data::std(data.as_ref())?;
    let options = LoaderOptions { batch: 128, seed: 0, flip: false, dequantise: false };
    let loader = Loader::new(data, options)?;

    let spec = ModelSpec::energy([2])
        .net(MlpConfig { width: 32, layers: 2, ..Default::default() })
        .process(Edm { sigma_min: 0.01, sigma_max: 10. })
        .sigma_data(sigma_data);
    let model = Model::new(spec, 0, DType::F32, &Device::Cpu)?;
    let vars: Vec<Var> = model.vars().iter().map(|(_, var)| var.clone()).collect();
    let loss = Denoising { weight: UnitEdm::default().into(), level: LogNormal::default().into() };
    let mut optim = Optim::new(AdamW::default().into(), model.vars())?;

    let mut losses = vec![];
    for step in 0..150 {
        let x0 = loader.batch(step)?.x;
        let mut noise = Noise::of_step(0, step, x0.dim(0)?);
        let denoiser = model.denoiser(Cond::default())?;
        let draws = loss.draws(model.spec.process.get(), x0.dim(0)?, &mut noise)?;
        let (value, grads) =
            grad::value_and_grad(&vars, || loss.losses(&denoiser, sigma_data, &x0, &draws, &mut noise)?.mean_all())?;
        optim.step(&grads, 2e-3, 1.)?;
        losses.push(value.to_scalar::<f32>()?);
    }
    let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
    println!("loss {:.3} -> {:.3}", mean(&losses[..20]), mean(&losses[130..]));
    assert!(mean(&losses[130..]) < mean(&losses[..20]));

    // the energy of a point in the data and of one far away, at little noise
    let points = candle_core::Tensor::new(&[[0.6f32, 0.], [4., 4.]], &Device::Cpu)?;
    let energy = model.energy(&points, &[0.2], &Cond::default())?.to_vec1::<f32>()?;
    println!("energy of a point among the data {:.2}, far away {:.2}", energy[0], energy[1]);
    assert!(energy[0] < energy[1]);
    Ok(())
}
