//! Contrastive divergence of RBMs of Potts visible units against sums over all states: what its gradient is, and what it learns.

use candle_core::{DType, Device, Result, Tensor};
use langevin_data::Batch;
use langevin_models::rbm::numerals;
use langevin_models::{Rbm, RbmSpec, Visible};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_ops::stats::mean_and_error;
use langevin_train::ema::Constant;
use langevin_train::optim::Sgd;
use langevin_train::schedule::Decay;
use langevin_train::{Context, ContrastiveDivergence, Objective, TrainOptions, Trainer};

const CPU: &Device = &Device::Cpu;

fn spec(hidden: usize) -> RbmSpec {
    RbmSpec { shape: vec![3], hidden, visible: Visible::Potts { states: 3 } }
}

/// A machine of 3 visible units with 3 states each and 2 hidden units.
fn machine(strength: f64) -> Result<Rbm> {
    let numbers = (0..18).map(|i| (1.7 * f64::from(i)).sin() * strength).collect::<Vec<_>>();
    let bias = (0..9).map(|i| 0.5 * (0.9 * f64::from(i)).cos()).collect::<Vec<_>>();
    let (weight, b) = (Tensor::from_vec(numbers, (9, 2), CPU)?, Tensor::new(bias, CPU)?);
    Rbm::of_weights(spec(2), &weight, &b, &Tensor::new(&[-0.6f64, 0.1], CPU)?)
}

/// All 27 states and how likely each is.
fn all(rbm: &Rbm) -> Result<(Tensor, Vec<f64>)> {
    let v = numerals(3, 0, 27, 3, CPU)?;
    let p: Vec<f64> = rbm.log_p(&v, rbm.log_z_exact()?)?.iter().map(|log_p| log_p.exp()).collect();
    assert!((p.iter().sum::<f64>() - 1.).abs() < 1e-12);
    Ok((v, p))
}

/// Independent draws.
fn draws(rbm: &Rbm, n: usize, seed: u64) -> Result<Tensor> {
    let (v, p) = all(rbm)?;
    let state = |u: f64| (0..26).filter(|&last| p[..=last].iter().sum::<f64>() <= u).count() as u32;
    let states: Vec<u32> = Noise::of_step(seed, 0, n).uniform(n)?.into_iter().map(state).collect();
    v.index_select(&Tensor::new(states, CPU)?, 0)
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

/// Persistent chains learn what the data were drawn of.
#[test]
fn what_is_learnt_is_as_likely_as_the_truth() -> Result<()> {
    let truth = machine(2.)?;
    let (v, p) = all(&truth)?;
    // the mean of log p over the truth, without noise
    let mean = |rbm: &Rbm| -> Result<f64> {
        Ok(rbm.log_p(&v, rbm.log_z_exact()?)?.iter().zip(&p).map(|(log_p, p)| p * log_p).sum())
    };
    let best = mean(&truth)?;
    for centred in [true, false] {
        let loss = ContrastiveDivergence { persistent: 200, k: 2, centred, ..Default::default() };
        let rbm = Rbm::new(spec(4), 3, DType::F64, CPU)?;
        let before = mean(&rbm)?;
        let numbers = TrainOptions { steps: 2500, batch: 200, lr: 0.5, warmup: 0, ..TrainOptions::default() };
        let options = TrainOptions { decay: Decay::Cosine, clip: 0., ..numbers };
        let sgd = Sgd { momentum: 0.5, ..Sgd::default() };
        let mut run = Trainer::new(rbm, loss.clone(), sgd.into(), Constant { decay: 0.9 }.into(), options)?;
        for step in 0..2500 {
            run.step(&[Batch::new(draws(&truth, 200, 10 + step)?, None)])?;
        }
        let after = mean(run.model())?;
        assert!(before < best - 0.3 && after > best - 0.02, "{loss:?}: {before}, then {after}, of {best}");
    }
    Ok(())
}
