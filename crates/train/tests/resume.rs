//! A run that is stopped and goes on is the run that never stopped, to the bit; what is damaged is refused by name.

use candle_core::{DType, Device, Result, Tensor};
use langevin_data::Batch;
use langevin_models::mlp::MlpConfig;
use langevin_models::{Form, Model, ModelSpec, tensors};
use langevin_ops::noise::Noise;
use langevin_train::ema::{Constant, Power, WarmUp};
use langevin_train::level::{Importance, LogNormal};
use langevin_train::optim::{Adam, AdamW, Sgd};
use langevin_train::schedule::Decay;
use langevin_train::{AnyEma, AnyLevel, AnyOptimiser, Denoising, Dual, TrainOptions, Trainer, last_checkpoint};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn spec() -> ModelSpec {
    ModelSpec::energy([2]).net(MlpConfig { width: 16, layers: 1, dropout: 0.1 })
}

fn options() -> TrainOptions {
    TrainOptions { steps: 20, batch: 8, accumulate: 2, warmup: 3, decay: Decay::Cosine, ..TrainOptions::default() }
}

fn trainer(optimiser: AnyOptimiser, ema: AnyEma, level: AnyLevel, options: TrainOptions) -> Result<Trainer> {
    let model = Model::new(spec(), options.seed, DType::F32, &Device::Cpu)?;
    Trainer::new(model, Denoising { level, ..Denoising::default() }, optimiser, ema, options)
}

fn plain() -> Result<Trainer> {
    trainer(AnyOptimiser::default(), Power::default().into(), AnyLevel::default(), options())
}

/// Batch `n`, a function of `n`.
fn batch(n: u64) -> Result<Batch> {
    let x = Noise::of_step(99, n, 8).normal((8, 2), DType::F32, &Device::Cpu)?;
    Ok(Batch::new((x * 0.5)?, None))
}

fn go(trainer: &mut Trainer, to: u64) -> Result<()> {
    while trainer.step_number() < to {
        let n = 2 * trainer.step_number();
        trainer.step(&[batch(n)?, batch(n + 1)?])?;
    }
    Ok(())
}

/// As [`go`], of data with three classes.
fn go_with_classes(run: &mut Trainer, to: u64) -> Result<()> {
    while run.step_number() < to {
        let labels = Some(Tensor::new(&[0u32, 1, 2, 0, 1, 2, 0, 1], &Device::Cpu)?);
        let one = |n: u64| -> Result<Batch> { Ok(Batch::new(batch(n)?.x, labels.clone())) };
        let n = 2 * run.step_number();
        run.step(&[one(n)?, one(n + 1)?])?;
    }
    Ok(())
}

/// Every number of the state, bit by bit, by way of its file.
fn bits(trainer: &Trainer) -> Result<BTreeMap<String, Vec<u64>>> {
    let dir = tempfile::tempdir()?;
    trainer.save_state(dir.path())?;
    let file = dir.path().join(format!("step-{}.safetensors", trainer.step_number()));
    let of = |t: &Tensor| langevin_ops::shape::to_host(t).map(|v| v.into_iter().map(f64::to_bits).collect());
    tensors::load(&file)?.tensors.iter().map(|(name, t)| Ok((name.clone(), of(t)?))).collect()
}

#[test]
fn going_on_is_never_having_stopped() -> Result<()> {
    let importance = || {
        let mut level = Importance::default();
        (level.bins, level.history) = (4, 2);
        level
    };
    let (power, constant): (AnyEma, AnyEma) = (Power::default().into(), Constant { decay: 0.9 }.into());
    let momentum = Sgd { momentum: 0.9, ..Sgd::default() };
    let cases: Vec<(AnyOptimiser, AnyEma, AnyLevel)> = vec![
        (AdamW::default().into(), power.clone(), importance().into()),
        (Adam::default().into(), constant.clone(), LogNormal::default().into()),
        (momentum.into(), WarmUp::default().into(), importance().into()),
        (Sgd::default().into(), power, LogNormal::default().into()),
    ];
    for (optimiser, ema, level) in cases {
        let new = || trainer(optimiser.clone(), ema.clone(), level.clone(), options());
        let mut whole = new()?;
        go(&mut whole, 20)?;
        let dir = tempfile::tempdir()?;
        let mut first = new()?;
        go(&mut first, 7)?;
        first.save_state(dir.path())?;
        drop(first);
        let mut second = new()?;
        assert!(second.resume(dir.path())?.is_empty());
        assert_eq!(second.step_number(), 7);
        go(&mut second, 20)?;
        let (whole, second) = (bits(&whole)?, bits(&second)?);
        assert!(whole.keys().any(|name| name.starts_with("weights/")) && whole.keys().any(|n| n.starts_with("ema0/")));
        assert_eq!(whole.contains_key("loss/level"), matches!(level, AnyLevel::Importance(_)));
        for (name, numbers) in &whole {
            assert_eq!(numbers, &second[name], "{name} of {optimiser:?}, {ema:?}");
        }
        assert_ne!(whole, bits(&new()?)?);
    }
    Ok(())
}

/// Walkers stand where they stood, with their weights, and go on to the levels and classes that were theirs.
#[test]
fn walkers_are_where_they_were() -> Result<()> {
    let new = |walkers: usize| {
        let net = MlpConfig { width: 16, layers: 1, dropout: 0. }.into();
        let spec = ModelSpec { form: Form::NoiseNorm, normalised: true, classes: Some(3), net, ..spec() };
        let model = Model::new(spec, 0, DType::F32, &Device::Cpu)?;
        let loss = Dual { time: 0.1, fokker_planck: 0.1, walkers, ..Dual::default() };
        Trainer::new(model, loss, AnyOptimiser::default(), Power::default().into(), options())
    };
    let dir = tempfile::tempdir()?;
    let (mut whole, mut first, mut second) = (new(5)?, new(5)?, new(5)?);
    go_with_classes(&mut whole, 60)?;
    go_with_classes(&mut first, 7)?;
    first.save_state(dir.path())?;
    assert!(second.resume(dir.path())?.is_empty());
    go_with_classes(&mut second, 60)?;
    assert_eq!(bits(&whole)?, bits(&second)?);
    assert_eq!(bits(&whole)?["loss/walkers/x"].len(), 10);
    let other = new(6)?.resume(dir.path()).unwrap_err().to_string();
    assert!(other.contains("another `loss`"), "{other}");
    Ok(())
}

#[test]
fn hidden_classes_are_the_same_after_a_stop() -> Result<()> {
    let new = |label_dropout: f64| {
        let (options, spec) = (TrainOptions { label_dropout, ..options() }, spec());
        let spec = ModelSpec { classes: Some(3), null_class: true, ..spec };
        let model = Model::new(spec, options.seed, DType::F32, &Device::Cpu)?;
        let (optimiser, ema) = (AnyOptimiser::default(), Power::default().into());
        Trainer::new(model, Denoising::default(), optimiser, ema, options)
    };
    let dir = tempfile::tempdir()?;
    let (mut whole, mut first, mut second) = (new(0.4)?, new(0.4)?, new(0.4)?);
    go_with_classes(&mut whole, 12)?;
    go_with_classes(&mut first, 5)?;
    first.save_state(dir.path())?;
    second.resume(dir.path())?;
    go_with_classes(&mut second, 12)?;
    let numbers = bits(&whole)?;
    assert_eq!(numbers, bits(&second)?);
    let why = new(0.3)?.resume(dir.path()).unwrap_err().to_string();
    assert!(why.contains("another `train`"), "{why}");
    // what is drawn for the classes comes after all other noise: never hidden is as without
    let (mut never, mut without) = (new(1e-12)?, new(0.)?);
    go_with_classes(&mut never, 12)?;
    go_with_classes(&mut without, 12)?;
    assert_eq!(bits(&never)?, bits(&without)?);
    assert_ne!(numbers, bits(&without)?);
    Ok(())
}

#[test]
fn the_last_two_are_kept_and_the_damaged_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = |n: u64| dir.path().join(format!("step-{n}.safetensors"));
    let mut trainer = plain()?;
    for n in 1..=3 {
        go(&mut trainer, n)?;
        trainer.save_state(dir.path())?;
    }
    assert!(!file(1).exists() && file(2).exists() && file(3).exists());
    fs::write(dir.path().join(".step-4.safetensors.partial"), "half")?;
    let good = fs::read(file(3))?;

    // cut short; a bit of a number; a byte of the header; nothing left
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let step = good.windows(13).position(|w| w == b"langevin.step").unwrap() + 16;
    for bad in [good[..good.len() / 2].to_vec(), flipped(good.len() - 9), flipped(step), vec![]] {
        fs::write(file(3), bad)?;
        let mut again = plain()?;
        let refused = again.resume(dir.path())?;
        assert_eq!(again.step_number(), 2);
        assert!(refused.len() == 1 && refused[0].contains("step-3.safetensors"), "{refused:?}");
        assert_eq!(last_checkpoint(dir.path()), Some(2));
        assert!(!dir.path().join(".step-4.safetensors.partial").exists());
    }
    // the run goes on over the damaged one
    let mut again = plain()?;
    again.resume(dir.path())?;
    go(&mut again, 3)?;
    again.save_state(dir.path())?;
    assert_eq!(fs::read(file(3))?, good);

    fs::write(file(2), "x")?;
    fs::write(file(3), "y")?;
    let why = plain()?.resume(dir.path()).unwrap_err().to_string();
    assert!(why.contains("whole"), "{why}");
    Ok(())
}

#[test]
fn another_run_is_not_gone_on_with() -> Result<()> {
    let dir = tempfile::tempdir()?;
    assert!(plain()?.resume(&dir.path().join("nothing"))?.is_empty());
    let mut trainer = plain()?;
    go(&mut trainer, 2)?;
    trainer.save_state(dir.path())?;
    let mut longer = self::trainer(
        AnyOptimiser::default(),
        Power::default().into(),
        AnyLevel::default(),
        TrainOptions { steps: 50, checkpoint_every: 3, ..options() },
    )?;
    longer.resume(dir.path())?;
    assert_eq!(longer.step_number(), 2);
    let mut other = self::trainer(Adam::default().into(), Power::default().into(), AnyLevel::default(), options())?;
    let why = other.resume(dir.path()).unwrap_err().to_string();
    assert!(why.contains("optimiser"), "{why}");
    Ok(())
}

#[test]
fn nothing_is_lost_when_a_state_cannot_be_written() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut trainer = plain()?;
    go(&mut trainer, 1)?;
    trainer.save_state(dir.path())?;
    go(&mut trainer, 2)?;
    fs::create_dir(dir.path().join("step-2.safetensors"))?; // in the way of the rename
    fs::write(dir.path().join("step-2.safetensors").join("x"), "")?;
    assert!(trainer.save_state(dir.path()).unwrap_err().to_string().contains("step-2"));
    assert!(Path::new(&dir.path().join("step-1.safetensors")).exists());
    assert!(!dir.path().join(".step-2.safetensors.partial").exists());
    Ok(())
}

#[test]
fn what_is_not_finite_stops_with_step_and_level() -> Result<()> {
    let mut trainer = plain()?;
    go(&mut trainer, 3)?;
    let before = bits(&trainer)?;
    let mut bad = batch(1)?;
    bad.x = (bad.x * f64::NAN)?;
    let why = trainer.step(&[batch(0)?, bad]).unwrap_err().to_string();
    assert!(why.contains("step 4") && why.contains("sigma/alpha"), "{why}");
    assert_eq!(trainer.step_number(), 3);
    assert_eq!(bits(&trainer)?, before);
    Ok(())
}

#[test]
fn accumulated_batches_are_averaged() -> Result<()> {
    // plain gradient descent from the same weights: the move of both batches is the mean of the moves of each
    let descent = Sgd { momentum: 0., ..Sgd::default() };
    let run = |accumulate| {
        let decay = langevin_train::schedule::Decay::Constant;
        let options = TrainOptions { accumulate, lr: 1e-2, warmup: 0, clip: 0., decay, ..options() };
        trainer(descent.clone().into(), Constant::default().into(), AnyLevel::default(), options)
    };
    let weights = |run: &Trainer| -> Result<Vec<f64>> {
        let all =
            run.model().vars().iter().map(|(_, v)| langevin_ops::shape::to_host(v)).collect::<Result<Vec<_>>>()?;
        Ok(all.concat())
    };
    let moved = |run: &mut Trainer, batches: &[Batch]| -> Result<Vec<f64>> {
        let kept = run.model().vars().iter().map(|(_, v)| v.copy()).collect::<Result<Vec<_>>>()?;
        let before = weights(run)?;
        run.step(batches)?;
        let after = weights(run)?;
        for ((_, var), t) in run.model().vars().iter().zip(&kept) {
            var.set(t)?;
        }
        Ok(after.iter().zip(&before).map(|(after, before)| after - before).collect())
    };
    let (mut single, mut double) = (run(1)?, run(2)?);
    let (a, b) = (moved(&mut single, &[batch(0)?])?, moved(&mut single, &[batch(1)?])?);
    let both = moved(&mut double, &[batch(0)?, batch(1)?])?;
    let largest = both.iter().fold(0f64, |m, d| m.max(d.abs()));
    assert!(largest > 0.);
    for ((a, b), both) in a.iter().zip(&b).zip(&both) {
        assert!((both - 0.5 * (a + b)).abs() < 1e-3 * largest, "{both} is not the mean of {a} and {b}");
    }

    // a rate too small to change a weight: the two runs see the same losses one by one and together
    let with = |accumulate| {
        let options = TrainOptions { accumulate, lr: 1e-30, clip: 0., ..options() };
        trainer(Sgd::default().into(), Constant::default().into(), AnyLevel::default(), options)
    };
    let (mut single, mut double) = (with(1)?, with(2)?);
    let (a, b) = (single.step(&[batch(0)?])?, single.step(&[batch(1)?])?);
    let both = double.step(&[batch(0)?, batch(1)?])?;
    assert!((both.loss - 0.5 * (a.loss + b.loss)).abs() < 1e-6 * both.loss);
    assert!(both.grad_norm < 0.5 * (a.grad_norm + b.grad_norm) + 1e-6 && both.grad_norm > 0.);
    assert!((both.grad_norm - 0.5 * (a.grad_norm - b.grad_norm).abs()) > -1e-6);
    assert_eq!(both.series[0].points().iter().map(|bin| bin.samples).sum::<usize>(), 16);
    assert_eq!((both.step, both.lr), (1, 1e-30 / 3.));
    let why = double.step(&[batch(0)?]).unwrap_err().to_string();
    assert!(why.contains("accumulate"), "{why}");
    Ok(())
}

#[test]
fn averages_come_and_go() -> Result<()> {
    let mut trainer = plain()?;
    go(&mut trainer, 5)?;
    let before = bits(&trainer)?;
    let x = batch(0)?.x;
    let energy = |m: &Model| langevin_ops::shape::to_host(&m.energy(&x, &[1.], &Default::default())?);
    let inside = trainer.with_averaged(energy)?;
    assert_eq!(inside, energy(&trainer.averaged_model()?)?);
    assert_ne!(inside, energy(trainer.model())?);
    assert_eq!(bits(&trainer)?, before);
    assert!(trainer.with_averaged::<()>(|_| candle_core::bail!("no")).is_err());
    assert_eq!(bits(&trainer)?, before);
    Ok(())
}

#[test]
fn any_average_is_rebuilt_from_the_files_of_a_run() -> Result<()> {
    use langevin_train::ema::snapshots;
    let dir = tempfile::tempdir()?;
    let widths = |sigma_rel: Vec<f64>| {
        trainer(AnyOptimiser::default(), Power { sigma_rel }.into(), AnyLevel::default(), options())
    };
    // the third is only tracked, to compare with
    let mut run = widths(vec![0.05, 0.10, 0.13])?;
    for n in 1..=20 {
        go(&mut run, n)?;
        if n % 2 == 0 {
            snapshots::save(dir.path(), &run, &BTreeMap::from([("a".into(), "b".into())]))?;
            fs::remove_file(dir.path().join(format!("step-{n}-ema2.safetensors")))?;
        }
    }
    assert_eq!(snapshots::list(dir.path())?.len(), 20);
    let far = |a: &[(String, Tensor)], b: &[(String, Tensor)]| -> Result<f64> {
        let mut sum = 0.;
        for ((name, a), (other, b)) in a.iter().zip(b) {
            assert_eq!(name, other);
            sum += langevin_ops::shape::to_host(&(a - b)?.sqr()?.sum_all()?)?[0];
        }
        Ok(sum.sqrt())
    };
    let track = snapshots::rebuild(dir.path(), None, 0.10)?;
    assert_eq!(far(&track, &run.averaged_track(1)?)?, 0.);
    let (rebuilt, direct) = (snapshots::rebuild(dir.path(), Some(20), 0.13)?, run.averaged_track(2)?);
    let (off, moved) = (far(&rebuilt, &direct)?, far(&direct, &run.averaged_track(0)?)?);
    assert!(off < 0.1 * moved, "off by {off}, the tracks are {moved} apart"); // 20 steps: profiles are coarse
    let model =
        langevin_models::checkpoint::load(&dir.path().join("step-20-ema1.safetensors"), DType::F32, &Device::Cpu)?;
    assert_eq!(model.1["a"], "b");
    let why = snapshots::rebuild(dir.path(), None, 0.5).unwrap_err().to_string();
    assert!(why.contains("0.5"), "{why}");
    Ok(())
}
