//! A network energy learns by contrastive divergence with every kernel that moves by a score.

use candle_core::{DType, Device, Result, Tensor};
use langevin_data::Batch;
use langevin_dynamics::mcmc::{AnyKernel, Hmc, Langevin, Mala};
use langevin_models::{DensityModel, DensitySpec, MlpEnergyConfig};
use langevin_ops::noise::Noise;
use langevin_train::ema::Constant;
use langevin_train::optim::Adam;
use langevin_train::{AnyDensityObjective, ContrastiveDivergence, TrainOptions, Trainer};
use std::f64::consts::TAU;

const CPU: &Device = &Device::Cpu;

/// Draws of two normals of standard deviation 0.3 around (-0.6, 0) and (0.6, 0.2).
fn data(step: u64, n: usize) -> Result<Tensor> {
    let mut z = Noise::of_step(3, step, n);
    let side = z.bernoulli(&Tensor::zeros((n, 1), DType::F32, CPU)?)?;
    let middle = side.broadcast_mul(&Tensor::new(&[[1.2f32, 0.2]], CPU)?)?;
    let at = middle.broadcast_add(&Tensor::new(&[[-0.6f32, 0.]], CPU)?)?;
    at + (z.normal((n, 2), DType::F32, CPU)? * 0.3)?
}

/// The mean of ln p over fresh data.
fn mean_log_p(model: &DensityModel) -> Result<f64> {
    let log_z = model.body().log_z_exact()?.expect("of two numbers");
    let log_p = model.log_p(&data(1 << 20, 2000)?, log_z)?;
    Ok(log_p.iter().sum::<f64>() / log_p.len() as f64)
}

#[test]
fn contrastive_divergence_learns_two_normals_by_every_kernel() -> Result<()> {
    // ln 2 less the entropy of one normal, and what lies between them
    let best = -(TAU * 0.09).ln() - 1. - 2f64.ln() + 0.02;
    for (persistent, kernel) in [
        (0, AnyKernel::from(Langevin { step: 0.02 })),
        (128, Langevin { step: 0.02 }.into()),
        (0, Mala { step: 0.05, ..Mala::default() }.into()),
        (128, Mala { step: 0.05, ..Mala::default() }.into()),
        (0, Hmc { step: 0.1, ..Hmc::default() }.into()),
        (128, Hmc { step: 0.1, ..Hmc::default() }.into()),
    ] {
        let loss = ContrastiveDivergence { k: 5, persistent, kernel, ..ContrastiveDivergence::default() };
        let family = MlpEnergyConfig { widths: vec![32, 32], confine: 1., ..MlpEnergyConfig::default() };
        let model = DensityModel::new(DensitySpec::new([2], family), 0, DType::F32, CPU)?;
        let options = TrainOptions { steps: 400, batch: 128, lr: 5e-3, warmup: 10, ..TrainOptions::default() };
        let told = format!("{loss:?}");
        let loss = AnyDensityObjective::from(loss);
        let mut run = Trainer::new(model, loss, Adam::default().into(), Constant { decay: 0. }.into(), options)?;
        let before = mean_log_p(run.model())?;
        for step in 0..400 {
            run.step(&[Batch::new(data(step, 128)?, None)])?;
        }
        let after = mean_log_p(run.model())?;
        assert!(before < best - 0.8 && after > best - 0.25, "{told}: from {before} to {after}, at best {best}");
    }
    Ok(())
}
