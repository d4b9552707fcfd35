//! Contrastive divergence of RBMs of real visible units, whose densities are mixtures: what its gradient is, and what it learns.

use candle_core::{DType, Device, Result, Tensor};
use langevin_data::Batch;
use langevin_dynamics::mcmc::{AnyKernel, Gibbs, Mala};
use langevin_models::rbm::binary;
use langevin_models::{Rbm, RbmSpec, Visible};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_ops::stats::mean_and_error;
use langevin_train::ema::Constant;
use langevin_train::optim::Sgd;
use langevin_train::schedule::Decay;
use langevin_train::{Context, ContrastiveDivergence, Objective, TrainOptions, Trainer};
use std::f64::consts::TAU;

const CPU: &Device = &Device::Cpu;

/// A machine of 3 visible and 2 hidden units.
fn machine(strength: f64) -> Result<Rbm> {
    let weight = (Tensor::new(&[[1.1f64, -0.4], [0.9, 0.8], [-0.7, 1.2]], CPU)? * strength)?;
    let (b, c) = (Tensor::new(&[0.2f64, -0.5, 0.3], CPU)?, Tensor::new(&[-0.6f64, 0.1], CPU)?);
    Rbm::of(&[3], &weight, &b, &c)?.with(Visible::Gaussian)
}

/// Independent draws of the machine: a state of the hidden units by its weight in the mixture, and then visible ones.
fn draws(rbm: &Rbm, n: usize, seed: u64) -> Result<Tensor> {
    let all = binary(0, 4, 2, CPU)?;
    let log_z = rbm.log_z_exact()? - 1.5 * TAU.ln();
    let p: Vec<f64> =
        to_host(&rbm.joint_energy(&rbm.visible(&all)?, &all)?)?.iter().map(|e| (-e - log_z).exp()).collect();
    assert!((p.iter().sum::<f64>() - 1.).abs() < 1e-12);
    let mut noise = Noise::of_step(seed, 0, n);
    let state = |u: f64| (0..3).filter(|&last| p[..=last].iter().sum::<f64>() <= u).count() as u32;
    let states: Vec<u32> = noise.uniform(n)?.into_iter().map(state).collect();
    let mean = rbm.visible(&all.index_select(&Tensor::new(states, CPU)?, 0)?)?;
    &mean + noise.normal_like(&mean)?
}

/// How the gradients of steps on draws of `data` lie about 0, in standard errors of their mean: the largest over all parameters.
fn bias(rbm: &Rbm, loss: &ContrastiveDivergence, data: &Rbm) -> Result<f64> {
    let (options, vars) = (TrainOptions::default(), rbm.vars().iter().map(|(_, var)| var.clone()).collect::<Vec<_>>());
    let mut run = loss.start(rbm)?;
    let mut all: Vec<Vec<f64>> = vec![];
    for step in 0..2000 {
        let batch = Batch::new(draws(data, 50, 1000 + step)?, None);
        let part = run.part(rbm, &batch, &Context::new(&options, step, 0, 50, &vars))?;
        run.updated();
        all.push(part.grads.iter().map(to_host).collect::<Result<Vec<_>>>()?.concat());
    }
    let worst = (0..all[0].len()).map(|i| {
        let (mean, error) = mean_and_error(&all.iter().map(|g| g[i]).collect::<Vec<_>>());
        mean.abs() / error
    });
    Ok(worst.fold(0., |worst, z| if z.is_nan() { f64::INFINITY } else { z.max(worst) }))
}

/// Chains that begin at draws of the model stay draws of it, so that each step's gradient is 0 in the mean.
#[test]
fn the_gradient_vanishes_where_model_and_data_agree() -> Result<()> {
    let (rbm, other) = (machine(1.)?, machine(0.5)?);
    for (k, centred) in [(1, false), (3, true)] {
        let loss = ContrastiveDivergence { k, centred, ..Default::default() };
        assert!(bias(&rbm, &loss, &rbm)? < 4.5, "{loss:?}");
        assert!(bias(&rbm, &loss, &other)? > 15., "{loss:?}");
    }
    Ok(())
}

/// Persistent chains by blocks, or by the score, learn what the data were drawn of.
#[test]
fn what_is_learnt_is_as_likely_as_the_truth() -> Result<()> {
    let truth = machine(1.6)?;
    let held_out = draws(&truth, 20_000, 1)?;
    let mean = |rbm: &Rbm| -> Result<f64> { Ok(mean_and_error(&rbm.log_p(&held_out, rbm.log_z_exact()?)?).0) };
    let best = mean(&truth)?;
    for (kernel, centred) in [(AnyKernel::from(Gibbs {}), true), (Mala::default().into(), false)] {
        let loss = ContrastiveDivergence { persistent: 200, k: 2, kernel, centred, ..Default::default() };
        let rbm = Rbm::new(RbmSpec::new([3], 2), 3, DType::F64, CPU)?.with(Visible::Gaussian)?;
        let before = mean(&rbm)?;
        let numbers = TrainOptions { steps: 1500, batch: 200, lr: 0.1, warmup: 0, ..TrainOptions::default() };
        let options = TrainOptions { decay: Decay::Cosine, clip: 0., ..numbers };
        let sgd = Sgd { momentum: 0.5, ..Sgd::default() };
        let mut run = Trainer::new(rbm, loss.clone(), sgd.into(), Constant { decay: 0.9 }.into(), options)?;
        for step in 0..1500 {
            run.step(&[Batch::new(draws(&truth, 200, 10 + step)?, None)])?;
        }
        let after = mean(run.model())?;
        assert!(before < best - 0.3 && after > best - 0.02, "{loss:?}: {before}, then {after}, of {best}");
    }
    Ok(())
}
