//! Dual score matching: its gradient, and that it learns log p at every noise level up to one constant.

use candle_core::{DType, Device, Result, Tensor};
use langevin_data::Batch;
use langevin_dynamics::process::{AnyProcess, Edm, Vp};
use langevin_dynamics::{Cond, Denoiser, Mixture};
use langevin_models::mixture::MixtureConfig;
use langevin_models::{Form, Model, ModelSpec, mlp::MlpConfig};
use langevin_ops::grad;
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_train::level::{Level, LogSnr};
use langevin_train::{AnyEma, AnyObjective, AnyOptimiser, Denoising, Dual, Noisy, SecondOrder, TrainOptions, Trainer};

fn spec(process: AnyProcess, width: usize) -> ModelSpec {
    let net = MlpConfig { width, layers: 2, dropout: 0. };
    ModelSpec::energy([2]).net(net).process(process).sigma_data(1.).normalised()
}

fn loss() -> Dual {
    Dual { level: LogSnr {}.into(), time: 1., ..Dual::default() }
}

#[test]
fn the_gradient_is_that_of_the_loss() -> Result<()> {
    let processes: [AnyProcess; 2] = [Edm { sigma_min: 0.05, sigma_max: 5. }.into(), Vp::default().into()];
    for process in processes {
        let model = Model::new(spec(process, 8), 3, DType::F64, &Device::Cpu)?;
        let mut z = Noise::seeds(&[1, 2, 3]);
        let x0 = z.normal((3, 2), DType::F64, &Device::Cpu)?;
        let noisy = Noisy::new(model.spec.process.get(), &x0, vec![0.1, 0.4, 0.9], &mut z)?;
        let (loss, signs) = (Dual { fokker_planck: 1., ..loss() }, z.rademacher_like(&x0)?);
        let value = || -> Result<Tensor> {
            let denoiser = model.denoiser(Cond::default())?;
            let own = loss.flow_errors(&denoiser, 1., &x0, &[0.2, 0.3, 0.5], &signs)?;
            loss.errors(&denoiser, 1., &noisy, Some(&signs))?.sum_all()? + own.sum_all()?
        };
        let vars: Vec<_> = model.vars().iter().map(|(_, var)| var.clone()).collect();
        let (_, grads) = grad::value_and_grad(&vars, value)?;
        for ((name, var), g) in model.vars().iter().zip(grads) {
            let (before, step) = (var.as_tensor().copy()?, 1e-5);
            let along =
                Noise::seeds(&[9]).normal((1, var.elem_count()), DType::F64, &Device::Cpu)?.reshape(var.shape())?;
            let at = |by: f64| -> Result<f64> {
                var.set(&(&before + (&along * by)?)?)?;
                value()?.to_scalar()
            };
            let slope = (at(step)? - at(-step)?) / (2. * step);
            var.set(&before)?;
            let exact: f64 = (g * along)?.sum_all()?.to_scalar()?;
            assert!((slope - exact).abs() < 1e-6 * exact.abs().max(1.), "{name}: {exact} {slope}");
        }
    }
    Ok(())
}

/// -log p_t of a mixture on the line, where the signs of the Laplacian do not matter, satisfies the Fokker-Planck equation under
/// every process with continuous time; what an energy lacks of it is seen.
#[test]
fn exact_densities_satisfy_the_fokker_planck_equation() -> Result<()> {
    let net = MixtureConfig { means: vec![vec![-1.], vec![0.7]], weights: vec![0.4, 0.6], variances: vec![0.09, 0.25] };
    for name in ["edm", "ve", "vp", "subvp", "cosine", "flow"] {
        let process = AnyProcess::named(name).unwrap();
        let mixture = ModelSpec { shape: vec![1], net: net.clone().into(), process, ..spec(Vp::default().into(), 8) };
        let mixture = ModelSpec { form: Form::default(), ..mixture };
        let times: Vec<f64> = (0..6).map(|i| LogSnr {}.time(mixture.process.get(), 0.3 + 0.1 * f64::from(i))).collect();
        let mut z = Noise::seeds(&[0, 1, 2, 3, 4, 5]);
        let x = z.normal((6, 1), DType::F64, &Device::Cpu)?;
        let loss = Dual { fokker_planck: 1., ..loss() };
        let loss = Dual { weight: langevin_train::weight::UnitEps::default().into(), ..loss };
        let errors = |spec: ModelSpec| -> Result<Vec<f64>> {
            let model = Model::new(spec, 0, DType::F64, &Device::Cpu)?;
            to_host(&loss.flow_errors(&model.denoiser(Cond::default())?, 1., &x, &times, &x.ones_like()?)?)
        };
        let exact = errors(mixture.clone())?;
        assert!(exact.iter().all(|e| *e < 1e-5), "{name}: {exact:?}");
        let other = ModelSpec { net: MlpConfig { width: 8, layers: 1, dropout: 0. }.into(), ..mixture };
        let other = errors(ModelSpec { form: Form::NoiseNorm, ..other })?;
        assert!(other.iter().any(|e| *e > 1e-3), "{name}: {other:?}");
    }
    Ok(())
}

#[test]
fn it_learns_the_density_at_every_level_up_to_one_constant() -> Result<()> {
    let mixture = Mixture::isotropic(&[0.3, 0.7], &[vec![1.2, 0.], vec![-0.8, 0.5]], &[0.15, 0.3])?;
    let process: AnyProcess = Edm { sigma_min: 0.3, sigma_max: 10. }.into();
    let model = Model::new(spec(process.clone(), 32), 1, DType::F32, &Device::Cpu)?;
    let options = TrainOptions { steps: 700, batch: 256, lr: 5e-3, warmup: 20, ..TrainOptions::default() };
    let steps = options.steps;
    let mut trainer = Trainer::new(model, loss(), AnyOptimiser::default(), AnyEma::named("warm-up").unwrap(), options)?;
    for step in 0..steps {
        let x = mixture.sample(256, &mut Noise::of_step(5, step, 256))?.to_dtype(DType::F32)?;
        trainer.step(&[Batch::new(x, None)])?;
    }
    let model = trainer.averaged_model()?;
    let denoiser = model.denoiser(Cond::default())?;
    let energy = denoiser.noisy_energy().unwrap();
    let exact = mixture.under(process.get());
    // E + log p is one number everywhere, whatever the level: of points as they come there
    let mut rests = vec![];
    for t in [0.3, 0.6, 1., 3., 10.] {
        let mut z = Noise::of_step(6, 0, 100);
        let x = (mixture.sample(100, &mut z)? + (z.normal((100, 2), DType::F64, &Device::Cpu)? * t)?)?;
        let log_p = to_host(&exact.log_p(&x, &[t])?)?;
        let e = to_host(&energy.energy_at(&x.to_dtype(DType::F32)?, &[t])?)?;
        rests.push(e.iter().zip(log_p).map(|(e, log_p)| e + log_p).collect::<Vec<_>>());
    }
    let means: Vec<f64> = rests.iter().map(|r| r.iter().sum::<f64>() / r.len() as f64).collect();
    let spread = means.iter().fold(f64::MIN, |a, &b| a.max(b)) - means.iter().fold(f64::MAX, |a, &b| a.min(b));
    assert!(spread < 0.15, "the constant drifts over the levels: {means:?}");
    for (rest, mean) in rests.iter().zip(&means) {
        let std = (rest.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / rest.len() as f64).sqrt();
        assert!(std < 0.35, "log p is off by {std} about its mean");
    }
    Ok(())
}

#[test]
fn what_does_not_go_together_is_refused() {
    let build = |spec: ModelSpec, loss: AnyObjective, options: TrainOptions| {
        let model = Model::new(spec, 1, DType::F32, &Device::Cpu).unwrap();
        Trainer::new(model, loss, AnyOptimiser::default(), AnyEma::named("warm-up").unwrap(), options).err()
    };
    let edm = || AnyProcess::named("edm").unwrap();
    assert!(build(spec(edm(), 8), loss().into(), TrainOptions::default()).is_none());
    let says = |e: Option<candle_core::Error>, text: &str| {
        let e = e.map(|e| e.to_string()).unwrap_or_default();
        assert!(e.contains(text), "{e:?} lacks {text:?}");
    };
    says(build(spec(edm(), 8), Denoising::default().into(), TrainOptions::default()), "model.normalised = true");
    let plain = ModelSpec { normalised: false, ..spec(edm(), 8) };
    says(build(plain, loss().into(), TrainOptions::default()), "model.normalised = false");
    says(
        build(spec(AnyProcess::named("table").unwrap(), 8), loss().into(), TrainOptions::default()),
        "no continuous time",
    );
    let by_differences = TrainOptions { second_order: SecondOrder::FiniteDifference, ..TrainOptions::default() };
    says(build(spec(edm(), 8), loss().into(), by_differences), "second_order");
    let lone = Dual { fokker_planck: 0.1, time: 0., ..loss() };
    says(build(spec(edm(), 8), lone.into(), TrainOptions::default()), "loss.fokker_planck goes with loss.time");
    let negative = Dual { fokker_planck: f64::NAN, ..loss() };
    says(build(spec(edm(), 8), negative.into(), TrainOptions::default()), "loss.fokker_planck is NaN");
    let idle = Dual { walkers: 4, ..loss() };
    says(build(spec(edm(), 8), idle.into(), TrainOptions::default()), "loss.walkers is 4");
    let lone = Dual { fokker_planck: 0.1, walkers: 1, ..loss() };
    says(build(spec(edm(), 8), lone.into(), TrainOptions::default()), "loss.walkers is 1");
    says(build(spec(edm(), 8), Dual { time: -1., ..loss() }.into(), TrainOptions::default()), "loss.time is -1");
}
