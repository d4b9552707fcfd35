//! Densities of every family in the trainer, and contrastive divergence by kernels whose step sizes adapt.

use candle_core::{DType, Device, Result, Tensor, Var};
use langevin_data::Batch;
use langevin_dynamics::mcmc::{AnyKernel, Hmc, Langevin, Mala};
use langevin_dynamics::{Density, Differentiable, Energy};
use langevin_models::{AnyFamily, DensityModel, DensitySpec, Rbm, RbmSpec, States};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{sum_per_sample, to_host};
use langevin_train::ema::Constant;
use langevin_train::optim::Sgd;
use langevin_train::schedule::Decay;
use langevin_train::{
    AnyDensityObjective, Context, ContrastiveDivergence, EnergyGradient, Objective, Series, TrainOptions, Trainable,
    Trainer, Values,
};
use std::path::Path;

const CPU: &Device = &Device::Cpu;

fn density(family: AnyFamily) -> Result<DensityModel> {
    let mut json = serde_json::to_value(DensitySpec::new([4], family)).unwrap();
    for (key, small) in [("hidden", serde_json::json!(3)), ("widths", serde_json::json!([6, 5]))] {
        if json.get(key).is_some() {
            json[key] = small;
        }
    }
    DensityModel::new(serde_json::from_value(json).unwrap(), 1, DType::F32, CPU)
}

fn options(steps: u64) -> TrainOptions {
    let numbers = TrainOptions { steps, batch: 50, accumulate: 2, lr: 0.2, warmup: 0, ..TrainOptions::default() };
    TrainOptions { decay: Decay::Constant, clip: 0., ..numbers }
}

fn trainer<M: Trainable>(model: M, loss: impl Objective<M> + 'static, steps: u64) -> Result<Trainer<M>> {
    let momentum = Sgd { momentum: 0.5, ..Sgd::default() };
    Trainer::new(model, loss, momentum.into(), Constant { decay: 0.9 }.into(), options(steps))
}

/// Until step `to`, on two batches a step that `data` makes of noise.
fn go<M: Trainable>(run: &mut Trainer<M>, to: u64, data: fn(&mut Noise) -> Result<Tensor>) -> Result<Vec<Series>> {
    let mut told = vec![];
    while run.step_number() < to {
        let batch = |part: u64| -> Result<Batch> {
            let x = data(&mut Noise::of_step(9, 2 * run.step_number() + part, 50))?;
            Ok(Batch::new(x.to_dtype(run.model().dtype())?, None))
        };
        told = run.step(&[batch(0)?, batch(1)?])?.series;
    }
    Ok(told)
}

/// Bits that are mostly all alike.
fn bits(z: &mut Noise) -> Result<Tensor> {
    let all = z.bernoulli(&Tensor::zeros((50, 1), DType::F32, CPU)?)?;
    z.bernoulli(&all.affine(6., -3.)?.repeat((1, 4))?)
}

/// Real numbers.
fn reals(z: &mut Noise) -> Result<Tensor> {
    z.normal((50, 4), DType::F32, CPU)?.affine(0.5, 0.3)
}

fn state<M: Trainable>(run: &Trainer<M>, dir: &Path) -> Result<Vec<u8>> {
    run.save_state(dir)?;
    Ok(std::fs::read(dir.join(format!("step-{}.safetensors", run.step_number())))?)
}

/// A run of 12 steps, and one that stops after 5 and goes on, end with the same bits.
fn goes_on<M: Trainable>(
    begin: impl Fn() -> Result<Trainer<M>>,
    data: fn(&mut Noise) -> Result<Tensor>,
) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name);
    let (mut whole, mut first, mut second) = (begin()?, begin()?, begin()?);
    go(&mut whole, 12, data)?;
    go(&mut first, 5, data)?;
    first.save_state(&path("cut"))?;
    assert!(second.resume(&path("cut"))?.is_empty());
    go(&mut second, 12, data)?;
    let bytes = state(&whole, &path("whole"))?;
    assert!(bytes == state(&second, &path("second"))?, "the resumed run ended with other bits");
    Ok(bytes)
}

fn persistent(persistent: usize, kernel: impl Into<AnyKernel>) -> ContrastiveDivergence {
    ContrastiveDivergence { k: 3, persistent, kernel: kernel.into(), ..Default::default() }
}

#[test]
fn every_objective_trains_every_family_and_goes_on() -> Result<()> {
    for family in AnyFamily::defaults() {
        let real = family.get().states() == States::Real;
        for loss in AnyDensityObjective::defaults() {
            let loss = match loss {
                AnyDensityObjective::ContrastiveDivergence(cd) if real => {
                    ContrastiveDivergence { kernel: Langevin::default().into(), ..cd }.into()
                }
                loss => loss,
            };
            let described = loss.description()?;
            let again: AnyDensityObjective = serde_json::from_value(described.clone()).unwrap();
            assert_eq!(again.description()?, described);
            let begin = || trainer(density(family.clone())?, loss.clone(), 12);
            if let Some(why) = begin().err().map(|e| e.to_string()) {
                assert!(!real && why.contains(loss.name()) && why.contains("real numbers"), "{why}");
                continue;
            }
            goes_on(begin, if real { reals } else { bits })?;
        }
    }
    Ok(())
}

/// The machine in its family is trained as the machine alone.
#[test]
fn a_machine_learns_the_same_in_its_family() -> Result<()> {
    let loss = ContrastiveDivergence { persistent: 30, centred: true, weight_decay: 0.01, ..Default::default() };
    let rbm = Rbm::new(RbmSpec::new([4], 3), 1, DType::F32, CPU)?;
    let mut alone = trainer(rbm, loss.clone(), 20)?;
    let mut within = trainer(density(AnyFamily::default())?, AnyDensityObjective::from(loss), 20)?;
    go(&mut alone, 20, bits)?;
    go(&mut within, 20, bits)?;
    for ((_, a), (_, b)) in alone.model().vars().iter().zip(within.model().vars()) {
        assert_eq!(to_host(a)?, to_host(b)?);
    }
    Ok(())
}

#[test]
fn the_averaged_density_has_the_averaged_weights() -> Result<()> {
    let mut run = trainer(density(AnyFamily::default())?, AnyDensityObjective::default(), 10)?;
    go(&mut run, 10, bits)?;
    let averaged = run.averaged_model()?;
    for ((name, var), (other, t)) in averaged.vars().iter().zip(run.averaged()?) {
        assert!(*name == other && to_host(var)? == to_host(&t)?, "{name}");
    }
    let (own, x) = (run.model(), Tensor::ones((2, 4), DType::F32, CPU)?);
    let energy = |m: &DensityModel| to_host(&m.as_energy().unwrap().energy(&x)?.detach());
    let before = energy(&averaged)?;
    assert_ne!(before, energy(own)?);
    go(&mut run, 12, bits)?;
    assert_eq!(before, energy(&averaged)?, "it is a copy");
    Ok(())
}

/// E = s |x - m|^2 / 2, with s = exp(log_s).
struct Gaussian(Vec<(String, Var)>);

impl Gaussian {
    fn new() -> Result<Self> {
        let var = |v: &[f64]| Var::from_tensor(&Tensor::new(v, CPU)?);
        Ok(Self(vec![("log_s".into(), var(&[0.])?), ("m".into(), var(&[0., 0.])?)]))
    }
}

impl Trainable for Gaussian {
    type Spec = &'static str;

    fn spec(&self) -> &&'static str {
        &"gaussian"
    }

    fn vars(&self) -> &[(String, Var)] {
        &self.0
    }

    fn dtype(&self) -> DType {
        DType::F64
    }

    fn device(&self) -> &Device {
        CPU
    }
}

impl Energy for Gaussian {
    fn energy(&self, x: &Tensor) -> Result<Tensor> {
        let off = sum_per_sample(&x.broadcast_sub(&self.0[1].1)?.sqr()?)?;
        off.broadcast_mul(&(self.0[0].1.exp()? * 0.5)?)
    }
}

impl Differentiable for Gaussian {}

impl Density for Gaussian {
    fn as_differentiable(&self) -> Option<&dyn Differentiable> {
        Some(self)
    }
}

impl EnergyGradient for Gaussian {}

/// Draws of mean (1, -1) and variance 1/4.
fn points(z: &mut Noise) -> Result<Tensor> {
    let x = z.normal((50, 2), DType::F64, CPU)?;
    (x * 0.5)?.broadcast_add(&Tensor::new(&[[1f64, -1.]], CPU)?)
}

#[test]
fn persistent_chains_keep_the_step_sizes_that_they_found() -> Result<()> {
    // steps 5 to 12 of the run are before, at and after the end of adaptation; 3 steps in each of 2 batches
    let sizes = |kernel: AnyKernel| -> Result<(Vec<u8>, Option<Vec<usize>>)> {
        let bytes = goes_on(|| trainer(Gaussian::new()?, persistent(20, kernel.clone()), 12), points)?;
        let saved = langevin_models::tensors::parse(&bytes)?.tensors;
        Ok((bytes, saved.get("loss/sizes").map(|t| t.dims().to_vec())))
    };
    for adapt in [20, 50, 1000] {
        assert_eq!(sizes(Mala { adapt, ..Mala::default() }.into())?.1, Some(vec![21, 4]));
        assert_eq!(sizes(Hmc { adapt, leapfrogs: 3, ..Hmc::default() }.into())?.1, Some(vec![21, 4]));
    }
    // a kernel that is not asked to adapt has nothing to keep
    assert_eq!(sizes(Mala { adapt: 0, ..Mala::default() }.into())?.1, None);
    // what is kept matters
    let (a, b) =
        (sizes(Mala { adapt: 20, ..Mala::default() }.into())?.0, sizes(Mala { adapt: 0, ..Mala::default() }.into())?.0);
    assert_ne!(
        langevin_models::tensors::parse(&a)?.tensors["weights/m"].to_vec1::<f64>()?,
        langevin_models::tensors::parse(&b)?.tensors["weights/m"].to_vec1::<f64>()?
    );
    Ok(())
}

#[test]
fn adapting_chains_learn_a_gaussian() -> Result<()> {
    let mut run = trainer(Gaussian::new()?, persistent(200, Hmc { adapt: 100, leapfrogs: 3, ..Hmc::default() }), 300)?;
    go(&mut run, 300, points)?;
    let [log_s, m] = [0, 1].map(|i| run.averaged().and_then(|all| to_host(&all[i].1)));
    let (log_s, m) = (log_s?[0], m?);
    assert!((log_s - 4f64.ln()).abs() < 0.15 && (m[0] - 1.).abs() < 0.1 && (m[1] + 1.).abs() < 0.1, "{log_s} {m:?}");
    Ok(())
}

fn adapting() -> Mala {
    Mala { adapt: 20, ..Mala::default() }
}

#[test]
fn chains_of_a_state_of_another_size_are_refused() -> Result<()> {
    let loss = persistent(20, Mala { adapt: 20, ..Mala::default() });
    let mut run = loss.start(&Gaussian::new()?)?;
    let (model, options) = (Gaussian::new()?, options(1));
    let vars: Vec<Var> = model.vars().iter().map(|(_, var)| var.clone()).collect();
    let batch = Batch::new(points(&mut Noise::of_step(9, 0, 50))?, None);
    run.part(&model, &batch, &Context::new(&options, 0, 0, 50, &vars))?;
    run.updated();
    let mut saved: std::collections::BTreeMap<String, Tensor> = run.state()?.into_iter().collect();
    loss.start(&model)?.restore(&model, &saved)?;
    let sizes = saved["sizes"].narrow(0, 0, 20)?;
    saved.insert("sizes".into(), sizes);
    let why = loss.start(&model)?.restore(&model, &saved).unwrap_err().to_string();
    assert!(why.contains("step sizes") && why.contains("20 chains"), "{why}");
    // chains that begin anew with each batch cannot keep any
    let why = trainer(Gaussian::new()?, persistent(0, adapting()), 1).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(why.contains("loss.persistent"), "{why}");
    assert!(trainer(Gaussian::new()?, persistent(0, Mala { adapt: 0, ..adapting() }), 1).is_ok());
    Ok(())
}

/// Persistent chains begin at no data, and yet the run says how well these are reconstructed.
#[test]
fn persistent_chains_tell_of_reconstructions() -> Result<()> {
    let mut run = trainer(density(AnyFamily::default())?, persistent(30, langevin_dynamics::mcmc::Gibbs {}), 300)?;
    let error = |told: Vec<Series>| -> f64 {
        let found = told.into_iter().find(|s| s.name == "reconstruction_error").map(|s| s.values);
        match found {
            Some(Values::Mean(v)) => v,
            other => panic!("{other:?}"),
        }
    };
    let first = error(go(&mut run, 1, bits)?);
    // fair bits are off by 1/2; these are mostly alike, and a machine that knows it does better
    assert!((0.3..0.7).contains(&first), "{first}");
    go(&mut run, 280, bits)?;
    let last: f64 = (281..301).map(|to| go(&mut run, to, bits).map(error)).sum::<Result<f64>>()? / 20.;
    assert!(last < 0.2, "{first} to {last}");
    Ok(())
}
