//! A model that begins by learning another's output.

use candle_core::{DType, Device, Result, Tensor};
use langevin_data::Batch;
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::process::AnyProcess;
use langevin_dynamics::{Cond, Denoiser};
use langevin_models::mlp::MlpConfig;
use langevin_models::model::plain;
use langevin_models::{Form, Head, Model, ModelSpec};
use langevin_ops::Conditions;
use langevin_ops::noise::Noise;
use langevin_ops::shape::{combine, scale, to_host};
use langevin_train::level::Importance;
use langevin_train::{AnyEma, AnyOptimiser, Denoising, Distillation, Noisy, Teacher, TrainOptions, Trainer};

fn spec(process: AnyProcess, predict: &str) -> ModelSpec {
    let predict = AnyParametrisation::named(predict).unwrap();
    let net = MlpConfig { width: 16, layers: 1, dropout: 0. };
    ModelSpec::denoiser([3]).net(net).process(process).predict(predict).sigma_data(0.6)
}

fn model(spec: ModelSpec, seed: u64) -> Result<Model> {
    Model::new(spec, seed, DType::F64, &Device::Cpu)
}

fn data(n: usize) -> Result<Tensor> {
    Noise::of_step(5, 0, n).normal((n, 3), DType::F64, &Device::Cpu)? * 0.6
}

fn off(a: &Tensor, b: &Tensor) -> Result<f64> {
    let worst = |top: f64, off: f64| if off.is_nan() { f64::INFINITY } else { top.max(off.abs()) };
    Ok(to_host(&(a - b)?)?.into_iter().fold(0., worst))
}

/// The least and the most noise that a process goes to.
fn narrower(name: &str) -> AnyProcess {
    let mut process = AnyProcess::named(name).unwrap();
    if let AnyProcess::Edm(edm) = &mut process {
        (edm.sigma_min, edm.sigma_max) = (0.05, 5.);
    }
    process
}

#[test]
fn the_target_gives_the_teachers_estimate_under_any_process_and_prediction() -> Result<()> {
    let mut pairs = 0;
    for (theirs, t) in
        [("vp", "eps"), ("table", "v"), ("ve", "edm"), ("flow", "velocity"), ("edm", "edm"), ("vp", "x0")]
    {
        for (ours, p) in [(theirs, t), ("edm", "edm"), ("edm", "eps")] {
            let same = ours == theirs;
            let process = if same { AnyProcess::named(ours).unwrap() } else { narrower(ours) };
            let student = model(spec(process, p), 2)?;
            let teacher = model(spec(AnyProcess::named(theirs).unwrap(), t), 1)?;
            let (own, asked) = (student.denoiser(Cond::default())?, Teacher::new(teacher, &student.spec)?);
            let (low, high) = own.process().span();
            let times: Vec<f64> = (0..6).map(|i| low + (high - low) * (0.02 + 0.9 * i as f64 / 5.)).collect();
            let noisy = Noisy::new(own.process(), &data(6)?, times.clone(), &mut Noise::of_step(6, 0, 6))?;
            let target = asked.target(&own, &noisy, &Conditions::default())?;
            // what the student would estimate if it gave the target
            let (skip, out): (Vec<_>, Vec<_>) =
                times.iter().map(|&t| own.coefficients(t)).map(|c| (c.c_skip, c.c_out)).unzip();
            let x0 = combine(&skip, &noisy.x, &out, &target)?;
            // the same sample x_t / alpha, seen by the teacher at its time of the same noise
            let expert = asked.model().denoiser(Cond::default())?;
            let at: Vec<f64> = times.iter().map(|&t| expert.process().t_at(own.process().log_snr(t))).collect();
            let gain = |(&a, &t): (&f64, &f64)| expert.process().marginal(a).alpha / own.process().marginal(t).alpha;
            let gains: Vec<f64> = at.iter().zip(&times).map(gain).collect();
            let expected = expert.x0(&scale(&noisy.x, &gains)?, &at)?;
            assert!(off(&x0, &expected)? < 1e-9, "{theirs} {t} to {ours} {p}: {}", off(&x0, &expected)?);
            if same && p == t {
                assert_eq!(off(&target, &expert.output(&noisy.x, &times)?)?, 0., "{theirs} {t}");
            }
            pairs += 1;
        }
    }
    assert_eq!(pairs, 18);
    Ok(())
}

#[test]
fn the_error_of_the_score_is_that_of_a_scaled_output() -> Result<()> {
    let teacher = model(spec(AnyProcess::named("vp").unwrap(), "eps"), 1)?;
    let student = model(teacher.spec.clone(), 1)?;
    let asked = Teacher::new(teacher, &student.spec)?;
    let errors = |student: &Model| {
        asked.score_errors(
            &student.denoiser(Cond::default())?,
            &data(50)?,
            &Conditions::default(),
            &mut Noise::of_step(1, 0, 50),
        )
    };
    let levels = errors(&student)?;
    assert_eq!(levels.len(), 8);
    assert!(levels.iter().all(|&(_, error)| error == 0.), "the same weights: {levels:?}");
    assert!(levels.windows(2).all(|pair| pair[0].0 < pair[1].0));
    for (name, var) in student.vars() {
        if name.starts_with("linear_out") {
            var.set(&(var.as_tensor() * 1.1)?)?;
        }
    }
    for (level, error) in errors(&student)? {
        assert!((error - 0.1).abs() < 1e-9, "the score is -eps / sigma: {error} at {level}");
    }
    Ok(())
}

fn options() -> TrainOptions {
    TrainOptions { steps: 600, batch: 64, warmup: 10, lr: 3e-3, distil: Some(500), ..TrainOptions::default() }
}

/// An energy with the weights of one of another form, whose score is the gradient of something, so that it can be learnt.
fn energy(options: TrainOptions) -> Result<Trainer> {
    let of = |form: Form| ModelSpec { head: Head::Energy, form, ..spec(narrower("edm"), "edm") };
    let (teacher, student) = (model(of(Form::InnerProduct), 1)?, model(of(Form::Residual), 2)?);
    assert!(student.take_weights(&teacher)?.is_empty());
    let mut level = Importance::default();
    (level.bins, level.history) = (4, 2);
    let (optimiser, ema) = (AnyOptimiser::default(), AnyEma::named("power").unwrap());
    let teacher = Teacher::new(teacher, &student.spec)?;
    let loss = Denoising { level: level.into(), ..Denoising::default() };
    let mut trainer = Trainer::new(student, loss.clone(), optimiser, ema, options)?;
    trainer.begin_with(Distillation::before(&loss.into(), teacher))?;
    Ok(trainer)
}

fn batch(n: u64) -> Result<Batch> {
    Ok(Batch::new((Noise::of_step(9, n, 64).normal((64, 3), DType::F64, &Device::Cpu)? * 0.6)?, None))
}

fn go(trainer: &mut Trainer, to: u64) -> Result<Vec<f64>> {
    (trainer.step_number()..to).map(|n| Ok(trainer.step(&[batch(n)?])?.loss)).collect()
}

/// A run that is under way has begun already: what it was given later would never end.
#[test]
fn what_a_run_begins_with_is_said_first() -> Result<()> {
    let mut trainer = energy(options())?;
    go(&mut trainer, 1)?;
    let teacher = Teacher::new(model(spec(narrower("edm"), "edm"), 1)?, &spec(narrower("edm"), "edm"))?;
    let late = Distillation::before(&Denoising::default().into(), teacher);
    let why = trainer.begin_with(late).unwrap_err().to_string();
    assert!(why.contains("step 1 already"), "{why}");
    Ok(())
}

#[test]
fn an_energy_learns_the_score_and_then_the_data() -> Result<()> {
    let mut trainer = energy(options())?;
    let before = trainer.measure(&batch(0)?)?;
    go(&mut trainer, 500)?;
    let after = trainer.measure(&batch(0)?)?;
    assert_eq!((before.len(), after[0].points().len()), (1, 8));
    for (before, after) in before[0].points().iter().zip(after[0].points()) {
        assert!(after.mean < 0.5 * before.mean, "{before:?} to {after:?}");
    }
    let losses = go(&mut trainer, 600)?;
    // the teacher's weights are random: its output is no denoiser, and the data have another loss
    assert!(trainer.measure(&batch(0)?)?.is_empty());
    let mean = |some: &[f64]| some.iter().sum::<f64>() / some.len() as f64;
    assert!(mean(&losses[80..]) < mean(&losses[..10]), "{losses:?}");
    Ok(())
}

#[test]
fn a_run_stopped_in_or_after_the_distillation_goes_on_as_if_it_had_not() -> Result<()> {
    let options = || TrainOptions { steps: 9, distil: Some(4), warmup: 2, ..options() };
    let weights = |trainer: &Trainer| -> Result<Vec<Vec<f64>>> {
        trainer.model().vars().iter().map(|(_, v)| to_host(v)).collect()
    };
    let mut whole = energy(options())?;
    go(&mut whole, 9)?;
    for stop in 1..9 {
        let dir = tempfile::tempdir()?;
        let mut first = energy(options())?;
        go(&mut first, stop)?;
        first.save_state(dir.path())?;
        let mut second = energy(options())?;
        second.resume(dir.path())?;
        go(&mut second, 9)?;
        assert_eq!(weights(&whole)?, weights(&second)?, "stopped at {stop}");
    }
    // what follows the distillation is a run of its own from there: its rate warms up again
    let rates: Vec<f64> = (0..9).map(|n| options().lr_at(n) / options().lr).collect();
    assert_eq!((rates[0], rates[1], rates[4], rates[5]), (0.5, 1., 0.5, 1.));
    assert!(rates[3] < 1. && rates[8] < 1.);
    Ok(())
}

#[test]
fn classes_beyond_the_teachers_are_its_null_class() -> Result<()> {
    let told = |n| ModelSpec { classes: Some(n), null_class: true, ..spec(AnyProcess::named("edm").unwrap(), "edm") };
    let (theirs, ours) = (model(told(3), 1)?, model(told(5), 2)?);
    // two that the teacher knows, two that it does not, and the student's null class
    let labels = Tensor::new(&[0u32, 2, 3, 4, 5], &Device::Cpu)?;
    let noisy = Noisy::new(ours.spec.process.get(), &data(5)?, vec![0.7; 5], &mut Noise::of_step(1, 0, 5))?;
    let cond = |labels: &Tensor| Cond::class(labels.clone());
    let known = cond(&Tensor::new(&[0u32, 2, 3, 3, 3], &Device::Cpu)?);
    let want = theirs.denoiser(known)?.x0(&noisy.x, &[0.7])?;
    let student = ours.denoiser(cond(&labels))?;
    let target = Teacher::new(theirs, &ours.spec)?.target(&student, &noisy, &Conditions::class(labels))?;
    let c = student.coefficients(0.7);
    assert!(off(&combine(&[c.c_skip], &noisy.x, &[c.c_out], &target)?, &want)? < 1e-12);
    Ok(())
}

#[test]
fn what_a_teacher_does_not_know_is_said() -> Result<()> {
    let said = |teacher: ModelSpec, student: ModelSpec| {
        plain(&Teacher::new(model(teacher, 1).unwrap(), &student).err().unwrap())
    };
    let edm = || spec(AnyProcess::named("edm").unwrap(), "edm");
    let narrow = || spec(narrower("edm"), "edm");
    for (teacher, student, words) in [
        (spec(AnyProcess::named("edm").unwrap(), "consistency"), edm(), "consistency model"),
        (narrow(), edm(), "from 0.0500 to 5.0000"),
        (ModelSpec { shape: vec![2], ..edm() }, edm(), "[2]"),
        (ModelSpec { from_zero: true, ..edm() }, edm(), "from_zero"),
        (ModelSpec { classes: Some(3), ..edm() }, edm(), "model.conditional=true"),
        (
            ModelSpec { classes: Some(3), ..edm() },
            ModelSpec { classes: Some(4), ..edm() },
            "3 classes, the data have 4",
        ),
    ] {
        let said = said(teacher, student);
        assert!(said.contains(words) && !said.contains('\n'), "no {words:?} in {said}");
    }
    // one without a teacher does not begin
    let mut trainer = energy(options())?;
    let model = Model::new(trainer.model().spec.clone(), 0, DType::F64, &Device::Cpu)?;
    assert!(Teacher::new(model, &trainer.model().spec).is_ok(), "energies teach too");
    let model = Model::new(trainer.model().spec.clone(), 0, DType::F64, &Device::Cpu)?;
    let level = Importance::default().into();
    trainer = Trainer::new(
        model,
        Denoising { level, ..Denoising::default() },
        AnyOptimiser::default(),
        AnyEma::named("power").unwrap(),
        options(),
    )?;
    assert!(trainer.step(&[batch(0)?]).is_err());
    Ok(())
}
