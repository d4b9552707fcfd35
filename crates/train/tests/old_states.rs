//! States that were written before objectives had names: runs go on from them as they stood, and from no other's.
//!
//! Each was written after 7 steps of the run that is built here.

use candle_core::{DType, Device, Result, Tensor};
use langevin_data::Batch;
use langevin_models::mlp::MlpConfig;
use langevin_models::{Form, Model, ModelSpec, tensors};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_train::ema::{Constant, Power, WarmUp};
use langevin_train::level::Importance;
use langevin_train::schedule::Decay;
use langevin_train::weight::MinSnr;
use langevin_train::{AnyLevel, AnyOptimiser, Denoising, Distillation, Dual, Teacher, TrainOptions, Trainer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn spec() -> ModelSpec {
    ModelSpec::energy([2]).net(MlpConfig { width: 8, layers: 1, dropout: 0. }).classes(3)
}

fn options() -> TrainOptions {
    let decay = Decay::Cosine;
    TrainOptions { steps: 20, batch: 8, accumulate: 2, warmup: 3, lr: 0.0123, decay, ..TrainOptions::default() }
}

fn model(spec: ModelSpec) -> Result<Model> {
    Model::new(spec, 0, DType::F32, &Device::Cpu)
}

fn denoising() -> Denoising {
    let mut level = Importance::default();
    (level.bins, level.history) = (4, 2);
    Denoising { weight: MinSnr { gamma: 4.7, soft: true }.into(), level: AnyLevel::from(level) }
}

fn dual() -> Dual {
    Dual { time: 0.1, fokker_planck: 0.0123, walkers: 5, ..Dual::default() }
}

fn of_denoising(loss: Denoising, label_dropout: f64) -> Result<Trainer> {
    let options = TrainOptions { label_dropout, ..options() };
    let spec = ModelSpec { null_class: true, ..spec() };
    Trainer::new(model(spec)?, loss, AnyOptimiser::default(), Power::default().into(), options)
}

fn of_dual(loss: Dual) -> Result<Trainer> {
    let spec = ModelSpec { form: Form::NoiseNorm, normalised: true, ..spec() };
    Trainer::new(model(spec)?, loss, AnyOptimiser::named("sgd").unwrap(), Constant::default().into(), options())
}

fn of_distillation(steps: u64) -> Result<Trainer> {
    let options = TrainOptions { distil: Some(steps), ..options() };
    let teacher = Teacher::new(model(ModelSpec { form: Form::InnerProduct, ..spec() })?, &spec())?;
    let (optimiser, ema) = (AnyOptimiser::named("adam").unwrap(), WarmUp::default().into());
    let mut trainer = Trainer::new(model(spec())?, denoising(), optimiser, ema, options)?;
    trainer.begin_with(Distillation::before(&denoising().into(), teacher))?;
    Ok(trainer)
}

fn batch(n: u64) -> Result<Batch> {
    let x = Noise::of_step(99, n, 8).normal((8, 2), DType::F32, &Device::Cpu)?;
    Ok(Batch::new((x * 0.5)?, Tensor::new(&[0u32, 1, 2, 0, 1, 2, 0, 1], &Device::Cpu)?))
}

fn old(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old").join(name)
}

fn bits(dir: &Path) -> Result<BTreeMap<String, Vec<u64>>> {
    let all = tensors::load(&dir.join("step-7.safetensors"))?.tensors;
    all.iter().map(|(name, t)| Ok((name.clone(), to_host(t)?.into_iter().map(f64::to_bits).collect()))).collect()
}

#[test]
fn runs_go_on_from_old_states() -> Result<()> {
    for (name, trainer) in [
        ("denoising", of_denoising(denoising(), 0.4)?),
        ("dual", of_dual(dual())?),
        ("distillation", of_distillation(8)?),
    ] {
        let (mut trainer, dir) = (trainer, tempfile::tempdir()?);
        assert!(trainer.resume(&old(name))?.is_empty());
        assert_eq!(trainer.step_number(), 7);
        trainer.save_state(dir.path())?;
        let (before, now) = (bits(&old(name))?, bits(dir.path())?);
        assert_eq!(before.len(), now.len());
        for (key, numbers) in before {
            let remembered = ["level", "walkers/x", "walkers/numbers"].contains(&key.as_str());
            let today = if remembered { format!("loss/{key}") } else { key };
            assert_eq!(now.get(&today), Some(&numbers), "{today} of {name}");
        }
        for n in 7..10 {
            trainer.step(&[batch(2 * n)?, batch(2 * n + 1)?])?;
        }
    }
    Ok(())
}

#[test]
fn old_states_of_other_runs_are_refused() -> Result<()> {
    for (name, trainer, key) in [
        ("denoising", of_denoising(Denoising { level: AnyLevel::default(), ..denoising() }, 0.4), "loss"),
        ("denoising", of_denoising(denoising(), 0.3), "train"),
        ("dual", of_dual(Dual { time: 0.2, ..dual() }), "loss"),
        ("dual", of_dual(Dual { walkers: 6, ..dual() }), "loss"),
        ("distillation", of_distillation(9), "train"),
    ] {
        let why = trainer?.resume(&old(name)).unwrap_err().to_string();
        assert!(why.contains(&format!("another `{key}`")), "{why}");
    }
    Ok(())
}
