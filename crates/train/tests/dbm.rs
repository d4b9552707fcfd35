//! Training of deep Boltzmann machines so small that log p is a sum: pre-training of layers, then mean field against chains.

use candle_core::{DType, Device, Result, Tensor};
use langevin_data::Batch;
use langevin_models::rbm::binary;
use langevin_models::{DbmConfig, DensityModel, DensitySpec};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_train::ema::Constant;
use langevin_train::optim::Sgd;
use langevin_train::schedule::Decay;
use langevin_train::{Context, ContrastiveDivergence, Objective, TrainOptions, Trainer};

const CPU: &Device = &Device::Cpu;

fn model(layers: &[usize]) -> Result<DensityModel> {
    let config = DbmConfig { layers: layers.to_vec(), ..Default::default() };
    DensityModel::new(DensitySpec::new([6], config), 3, DType::F64, CPU)
}

/// Rows of two kinds, 110 and 011 three times over, of which one bit in ten is another.
fn rows(n: usize, seed: u64) -> Result<Tensor> {
    let u = Noise::of_step(seed, 0, 7 * n).uniform(7 * n)?;
    let bit = |row: usize, i: usize| {
        let kind = if u[7 * row + 6] < 0.5 { [1, 1, 0, 1, 1, 0] } else { [0, 1, 1, 0, 1, 1] };
        f64::from(if u[7 * row + i] < 0.1 { 1 - kind[i] } else { kind[i] })
    };
    Tensor::from_iter((0..n).flat_map(|row| (0..6).map(move |i| bit(row, i))).collect::<Vec<_>>(), CPU)?.reshape((n, 6))
}

/// The mean of ln p over rows as many as there can be.
fn mean_log_p(model: &DensityModel) -> Result<f64> {
    let log_z = model.body().log_z_exact()?.expect("it is small");
    let log_p = model.log_p(&rows(4000, 77)?, log_z)?;
    Ok(log_p.iter().sum::<f64>() / log_p.len() as f64)
}

/// The same of the distribution that the rows have.
fn best() -> f64 {
    let kinds = [[1., 1., 0., 1., 1., 0.], [0., 1., 1., 0., 1., 1.]];
    let p = |row: &[f64]| -> f64 {
        let of =
            |kind: &[f64; 6]| row.iter().zip(kind).map(|(a, b)| if a == b { 0.9f64 } else { 0.1 }).product::<f64>();
        kinds.iter().map(of).sum::<f64>() / 2.
    };
    let all = to_host(&binary(0, 64, 6, CPU).unwrap()).unwrap();
    all.chunks(6).map(|row| p(row) * p(row).ln()).sum()
}

fn trainer(loss: &ContrastiveDivergence, layers: &[usize], steps: u64) -> Result<Trainer<DensityModel>> {
    let options = TrainOptions {
        steps,
        batch: 50,
        lr: 0.05,
        warmup: 0,
        decay: Decay::Cosine,
        clip: 0.,
        ..TrainOptions::default()
    };
    let sgd = Sgd { momentum: 0.5, ..Default::default() };
    Trainer::new(model(layers)?, loss.clone(), sgd.into(), Constant { decay: 0.99 }.into(), options)
}

fn loss() -> ContrastiveDivergence {
    ContrastiveDivergence { k: 5, persistent: 50, centred: true, pretrain: Some(500), ..Default::default() }
}

#[test]
fn deep_machines_learn_what_can_be_known() -> Result<()> {
    for (layers, pretrain) in [(&[4, 3][..], Some(500)), (&[4, 3], None), (&[4, 3, 3], Some(400))] {
        let loss = ContrastiveDivergence { pretrain, ..loss() };
        let mut trainer = trainer(&loss, layers, 4000)?;
        let before = mean_log_p(trainer.model())?;
        for step in 0..4000 {
            trainer.step(&[Batch::new(rows(50, 1000 + step)?, None)])?;
        }
        let (after, best) = (mean_log_p(trainer.model())?, best());
        assert!(
            after > best - 0.06 && after < best + 0.06 && before < best - 0.5,
            "{layers:?}: {before}, {after}, {best}"
        );
    }
    Ok(())
}

/// Each phase moves its own layers alone, and none moves a layer beneath it.
#[test]
fn pairs_of_layers_are_trained_in_turn() -> Result<()> {
    let mut trainer = trainer(&loss(), &[4, 3, 2], 4000)?;
    let options = TrainOptions { steps: 4000, batch: 50, ..TrainOptions::default() };
    let names = ["bias.0", "bias.1", "bias.2", "bias.3", "weight.1", "weight.2", "weight.3"];
    let vars: Vec<_> = trainer.model().vars().iter().map(|(_, var)| var.clone()).collect();
    let mut run = Objective::<DensityModel>::start(&loss(), trainer.model())?;
    for (step, moved) in [(0, [0, 1, 4]), (500, [1, 2, 5]), (1000, [2, 3, 6])] {
        let part =
            run.part(trainer.model(), &Batch::new(rows(50, step)?, None), &Context::new(&options, step, 0, 50, &vars))?;
        run.updated();
        for (i, grad) in part.grads.iter().enumerate() {
            let zero = to_host(grad)?.iter().all(|g| *g == 0.);
            assert_eq!(zero, !moved.contains(&i), "step {step}: {}", names[i]);
        }
    }
    let part =
        run.part(trainer.model(), &Batch::new(rows(50, 9)?, None), &Context::new(&options, 1500, 0, 50, &vars))?;
    assert!(part.grads.iter().all(|grad| to_host(grad).is_ok_and(|g| g.iter().any(|g| *g != 0.))));
    assert!(part.series.iter().any(|series| series.name == "reconstruction_error"));
    trainer.step(&[Batch::new(rows(50, 1)?, None)])?;
    Ok(())
}

/// A run that stops in any phase goes on as one that did not.
#[test]
fn runs_go_on_in_every_phase() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let loss = ContrastiveDivergence { pretrain: Some(3), ..loss() };
    let mut whole = trainer(&loss, &[4, 3], 12)?;
    let batch = |step: u64| Ok::<_, candle_core::Error>([Batch::new(rows(50, step)?, None)]);
    for step in 0..12 {
        whole.step(&batch(step)?)?;
    }
    for stop in [2, 4, 6, 9] {
        let mut first = trainer(&loss, &[4, 3], 12)?;
        for step in 0..stop {
            first.step(&batch(step)?)?;
        }
        first.save_state(&dir.path().join("state"))?;
        let mut second = trainer(&loss, &[4, 3], 12)?;
        assert!(second.resume(&dir.path().join("state"))?.is_empty());
        for step in stop..12 {
            second.step(&batch(step)?)?;
        }
        for ((name, a), (_, b)) in whole.model().vars().iter().zip(second.model().vars()) {
            assert_eq!(to_host(a)?, to_host(b)?, "{name}, stopped after {stop}");
        }
    }
    Ok(())
}

#[test]
fn options_that_make_no_sense_are_refused() -> Result<()> {
    let why = |loss: ContrastiveDivergence, steps| {
        trainer(&loss, &[4, 3], steps).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(why(loss(), 400).contains("loss.pretrain is 500; give 1 to train.steps, which is 400"));
    let spec: DensitySpec = serde_json::from_str(r#"{"family":"rbm","shape":[6],"hidden":3}"#).unwrap();
    let rbm = DensityModel::new(spec, 3, DType::F64, CPU)?;
    let found = Objective::<DensityModel>::start(&loss(), &rbm).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(found.contains("loss.pretrain is for models with several layers"), "{found}");
    Ok(())
}
