//! A restricted Boltzmann machine of handwritten digits: persistent chains, log Z by annealed importance sampling, and a sample.
//!
//! `cargo run --release -p langevin-train --example rbm_digits`
//!
//! In half a minute; 500 hidden units and 8,000 steps with a weight decay of 5e-4 come to a mean ln p of -91 of digits not seen.

#![allow(clippy::print_stdout)] // an example talks

use candle_core::{DType, Device, Result, Tensor};
use langevin_data::{Binarise, Dataset, Loader, LoaderOptions, Options, open};
use langevin_models::draw::Mcmc;
use langevin_models::{Ais, AnyChainSampler, DensityModel, DensitySpec, RbmConfig};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_train::ema::Constant;
use langevin_train::optim::Sgd;
use langevin_train::{ContrastiveDivergence, TrainOptions, Trainer};
use std::sync::Arc;

const STEPS: u64 = 1500;

/// Some images as bits, each pixel 1 with its grey level as probability.
fn bits(data: &dyn Dataset, n: usize) -> Result<Tensor> {
    let x = data.get(&langevin_data::spread(data.len(), n, 1))?.x;
    Binarise::Sample.bits(&x, &mut Noise::of_step(1, 0, n))
}

fn main() -> Result<()> {
    let data: Arc<dyn Dataset> = open("digits", &Options::default())?.into();
    let options = LoaderOptions { batch: 100, seed: 0, flip: false, dequantise: false };
    let loader = Loader::new(data.clone(), options)?.binarised(Binarise::Sample)?;

    let spec = DensitySpec::new([1, 28, 28], RbmConfig { hidden: 200, ..RbmConfig::default() });
    let model = DensityModel::new(spec, 0, DType::F32, &Device::Cpu)?;
    let loss = ContrastiveDivergence { persistent: 100, centred: true, weight_decay: 1e-4, ..Default::default() };
    let optimiser = Sgd { momentum: 0.5, ..Sgd::default() };
    let train = TrainOptions { steps: STEPS, batch: 100, lr: 0.1, warmup: 0, clip: 0., ..TrainOptions::default() };
    let mut run = Trainer::new(model, loss, optimiser.into(), Constant { decay: 0.99 }.into(), train)?;
    for step in 0..STEPS {
        run.step(&[loader.batch(step)?])?;
    }
    let model = run.averaged_model()?;

    let means = to_host(&bits(data.as_ref(), 5000)?.mean(0)?)?;
    let way = Ais { rungs: 300, particles: 50, ..Ais::default() };
    let log_z = way.log_z(&model, Some(&means), 0, &mut |_, _| Ok(()))?;
    let unseen = bits(open("digits:test", &Options::default())?.as_ref(), 1000)?;
    let [mean, error] = model.mean_log_p(&unseen, &log_z)?;
    println!("ln p of digits not seen: {mean:.1} +- {error:.1}, with log Z {:.1} +- {:.1}", log_z.value, log_z.error);
    assert!(mean > -150., "independent pixels come to -205");

    let way = AnyChainSampler::from(Mcmc { steps: 300, ..Mcmc::default() });
    let drawn = way.draw(&model, &[7], None, &mut |_, _| Ok(()))?;
    for row in to_host(&drawn.states)?.chunks(28) {
        println!("{}", row.iter().map(|&on| if on == 1. { "##" } else { "  " }).collect::<String>());
    }
    Ok(())
}
