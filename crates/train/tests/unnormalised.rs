//! Laws of every objective of densities: at the density of the data its gradient vanishes, and it is the gradient of its loss.

use candle_core::{DType, Device, Result, Tensor, Var};
use langevin_data::Batch;
use langevin_dynamics::mcmc::Mala;
use langevin_dynamics::{Density, Differentiable, Energy};
use langevin_models::{AnyFamily, DensityModel, DensitySpec, MlpEnergyConfig, States};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{sum_per_sample, to_host};
use langevin_train::ema::Constant;
use langevin_train::optim::Adam;
use langevin_train::schedule::Decay;
use langevin_train::{
    AnyDensityObjective, Context, ContrastiveDivergence, DenoisingScoreMatching, Divergence, EnergyDiscrepancy,
    EnergyGradient, Nce, NoiseDensity, Objective, ScoreMatching, TrainOptions, Trainable, Trainer, Values,
};
use std::f64::consts::TAU;

const CPU: &Device = &Device::Cpu;

/// Mean and variance of the data, Gaussians in the plane.
const MEAN: [f64; 2] = [0.5, -0.3];
const VARIANCE: f64 = 0.4;

/// E = |x - m|^2 / (2 v), by m and ln v.
struct Gaussian(Vec<(String, Var)>);

impl Gaussian {
    fn new(mean: [f64; 2], variance: f64) -> Result<Self> {
        let var = |v: &[f64]| Var::from_tensor(&Tensor::new(v, CPU)?);
        Ok(Self(vec![("log_v".into(), var(&[variance.ln()])?), ("m".into(), var(&mean)?)]))
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
        off.broadcast_div(&(self.0[0].1.exp()? * 2.)?)
    }
}

impl Differentiable for Gaussian {}

impl Density for Gaussian {
    fn as_differentiable(&self) -> Option<&dyn Differentiable> {
        Some(self)
    }
}

impl EnergyGradient for Gaussian {}

/// `n` draws of N(MEAN, variance I).
fn data(step: u64, n: usize, variance: f64) -> Result<Tensor> {
    let x = Noise::of_step(5, step, n).normal((n, 2), DType::F64, CPU)?.affine(variance.sqrt(), 0.)?;
    x.broadcast_add(&Tensor::new(&[MEAN], CPU)?)
}

/// Each objective, so that it can be exact: with the log Z of the data's density, and chains with a test of acceptance.
fn objectives() -> Vec<AnyDensityObjective> {
    let exact = |loss: AnyDensityObjective| match loss {
        AnyDensityObjective::ContrastiveDivergence(cd) => {
            let kernel = Mala { adapt: 0, ..Mala::default() }.into();
            ContrastiveDivergence { kernel, k: 3, ..cd }.into()
        }
        AnyDensityObjective::DenoisingScoreMatching(_) => DenoisingScoreMatching { sigma: 0.4 }.into(), // not all noise
        AnyDensityObjective::Nce(nce) => Nce { log_z: (TAU * VARIANCE).ln(), ratio: 2, ..nce }.into(),
        other => other,
    };
    let sliced = |divergence| ScoreMatching { divergence, slices: 2 }.into();
    let more = [sliced(Divergence::Sliced), sliced(Divergence::SlicedVarianceReduced)];
    AnyDensityObjective::defaults().into_iter().map(exact).chain(more).collect()
}

/// Its name and options.
fn description(loss: &AnyDensityObjective) -> String {
    Objective::<DensityModel>::description(loss).unwrap().to_string()
}

fn start<M: Trainable + Density + EnergyGradient>(
    loss: &AnyDensityObjective,
    model: &M,
) -> Result<Box<dyn langevin_train::Training<M>>> {
    match loss {
        AnyDensityObjective::ContrastiveDivergence(loss) => loss.start(model),
        AnyDensityObjective::ScoreMatching(loss) => loss.start(model),
        AnyDensityObjective::DenoisingScoreMatching(loss) => loss.start(model),
        AnyDensityObjective::Nce(loss) => loss.start(model),
        AnyDensityObjective::ConditionalNce(loss) => loss.start(model),
        AnyDensityObjective::InfoNce(loss) => loss.start(model),
        AnyDensityObjective::EnergyDiscrepancy(loss) => loss.start(model),
    }
}

/// The number of the gradient that lies farthest from 0, in standard errors of its mean over many batches of this `variance`.
fn bias(loss: &AnyDensityObjective, model: &Gaussian, variance: f64) -> Result<f64> {
    let (batches, samples, options) = (400, 64, TrainOptions::default());
    let mut run = start(loss, model)?;
    let own = model.vars().iter().map(|(_, var)| var.clone());
    let vars: Vec<Var> = own.chain(run.vars().into_iter().map(|(_, var)| var)).collect();
    let mut sums: Vec<[f64; 2]> = vec![];
    for n in 0..batches {
        let at = Context::new(&options, n, 0, samples, &vars);
        let part = run.part(model, &Batch::new(data(n, samples, variance)?, None), &at)?;
        run.updated();
        let grads = part.grads.iter().map(to_host).collect::<Result<Vec<_>>>()?.concat();
        sums.resize(grads.len(), [0.; 2]);
        sums.iter_mut().zip(grads).for_each(|([sum, squares], g)| (*sum, *squares) = (*sum + g, *squares + g * g));
    }
    let n = batches as f64;
    let off = |[sum, squares]: [f64; 2]| (sum / n).abs() / ((squares / n - (sum / n).powi(2)) / (n - 1.)).sqrt();
    Ok(sums.into_iter().map(off).fold(0., |worst, off| if off.is_nan() { f64::INFINITY } else { off.max(worst) }))
}

#[test]
fn at_the_density_of_the_data_every_gradient_vanishes() -> Result<()> {
    for loss in objectives() {
        // what denoising learns is the density of the noisy data
        let noise = match &loss {
            AnyDensityObjective::DenoisingScoreMatching(loss) => loss.sigma.powi(2),
            _ => 0.,
        };
        let at = |mean, variance| bias(&loss, &Gaussian::new(mean, variance)?, VARIANCE - noise);
        let (there, wide, aside) = (at(MEAN, VARIANCE)?, at(MEAN, VARIANCE * 1.3)?, at([0.7, -0.3], VARIANCE)?);
        let told = description(&loss);
        assert!(there < 4.5, "{told}: {there} standard errors at the density itself");
        assert!(wide > 8. && aside > 8., "{told}: {wide} and {aside} standard errors beside it");
    }
    Ok(())
}

/// As the docs of the discrepancy say: w = 1 has no bias whatever M is, another has one that falls with M.
#[test]
fn the_discrepancy_is_without_bias_by_its_weight() -> Result<()> {
    let of = |w: f64, samples: usize| {
        let loss = EnergyDiscrepancy { w, samples, ..EnergyDiscrepancy::default() }.into();
        bias(&loss, &Gaussian::new(MEAN, VARIANCE)?, VARIANCE)
    };
    assert!(of(1., 1)? < 4.5 && of(1., 4)? < 4.5);
    let (few, many) = (of(0., 2)?, of(0., 64)?);
    assert!(few > 10. && many < few / 2., "{few} {many}");
    Ok(())
}

/// Any family of real numbers, small, of weights that are not near 0.
fn densities() -> Result<Vec<DensityModel>> {
    let json = |of: &str| serde_json::from_str::<DensitySpec>(of).unwrap();
    let specs = [
        json(r#"{"family": "mlp", "shape": [3], "widths": [6, 5]}"#),
        json(r#"{"family": "mlp", "shape": [3], "widths": [4], "activation": "softplus", "confine": 0}"#),
        json(r#"{"family": "rbm", "visible": "gaussian", "shape": [3], "hidden": 4}"#),
    ];
    let strong = |spec: &DensitySpec| {
        let fresh = DensityModel::new(spec.clone(), 2, DType::F64, CPU)?;
        let normal = |(seed, (name, t)): (usize, (String, Tensor))| {
            let row = Noise::seeds(&[seed as u64]).normal((1, t.elem_count()), DType::F64, CPU)?;
            Ok((name, (row * 0.7)?.reshape(t.shape())?))
        };
        fresh.with(fresh.weights().into_iter().enumerate().map(normal).collect::<Result<Vec<_>>>()?)
    };
    let named = |family: &AnyFamily| family.get().states() != States::Real || family.name() == "mlp";
    assert!(AnyFamily::defaults().iter().all(named), "a family of real numbers that is not tried here");
    specs.iter().map(strong).collect()
}

#[test]
fn gradients_are_those_of_the_losses() -> Result<()> {
    let (options, n) = (TrainOptions::default(), 5);
    let x = Noise::of_step(3, 0, n).normal((n, 3), DType::F64, CPU)?;
    for model in densities()? {
        for loss in objectives() {
            if matches!(loss, AnyDensityObjective::ContrastiveDivergence(_)) {
                continue; // whose chains do not follow its gradient
            }
            let mut run = loss.start(&model)?;
            let own = run.vars().into_iter().map(|(_, var)| var);
            let vars: Vec<Var> = model.vars().iter().map(|(_, var)| var.clone()).chain(own).collect();
            let mut part = || run.part(&model, &Batch::new(x.clone(), None), &Context::new(&options, 0, 0, n, &vars));
            let grads = part()?.grads;
            for (var, g) in vars.iter().zip(&grads) {
                let (before, g) = (var.as_detached_tensor().copy()?, to_host(g)?);
                for (i, g) in g.iter().enumerate() {
                    let mut at = |step: f64| -> Result<f64> {
                        let mut v = to_host(&before)?;
                        v[i] += step;
                        var.set(&Tensor::from_vec(v, before.dims(), CPU)?)?;
                        Ok(part()?.losses.iter().sum::<f64>() / n as f64)
                    };
                    let slope = (at(1e-5)? - at(-1e-5)?) / 2e-5;
                    let told = description(&loss);
                    assert!((slope - g).abs() < 1e-7 * (1. + g.abs()), "{told} {:?}: {slope} for {g}", model.spec);
                }
                var.set(&before)?;
            }
        }
    }
    Ok(())
}

fn options(steps: u64, lr: f64) -> TrainOptions {
    let numbers = TrainOptions { steps, batch: 128, lr, warmup: 0, clip: 0., ..TrainOptions::default() };
    TrainOptions { decay: Decay::Cosine, ..numbers }
}

fn trainer<M: Trainable>(model: M, loss: impl Objective<M> + 'static, steps: u64) -> Result<Trainer<M>> {
    Trainer::new(model, loss, Adam::default().into(), Constant { decay: 0. }.into(), options(steps, 0.02))
}

/// The log Z that a run of noise-contrastive estimation tells at its end.
fn told_log_z<M: Trainable>(run: &mut Trainer<M>, steps: u64) -> Result<f64> {
    let mut log_z = f64::NAN;
    for step in 0..steps {
        let batch = Batch::new(data(step, 128, VARIANCE)?.to_dtype(run.model().dtype())?, None);
        let report = run.step(&[batch])?;
        if let Some(Values::Mean(v)) = report.series.iter().find(|s| s.name == "log_z").map(|s| s.values.clone()) {
            log_z = v;
        }
    }
    Ok(log_z)
}

#[test]
fn noise_contrastive_estimation_finds_log_z() -> Result<()> {
    let loss = Nce { ratio: 4, ..Nce::default() };
    let mut run = trainer(Gaussian::new([0., 0.], 1.)?, loss.clone(), 600)?;
    let (found, exact) = (told_log_z(&mut run, 600)?, (TAU * VARIANCE).ln());
    assert!((found - exact).abs() < 0.05, "{found} for {exact}");
    // a network, whose own constant takes a part of it: that of the energy that it has come to
    let family = MlpEnergyConfig { widths: vec![16], ..MlpEnergyConfig::default() };
    let mut run = trainer(DensityModel::new(DensitySpec::new([2], family), 0, DType::F32, CPU)?, loss, 600)?;
    let found = told_log_z(&mut run, 600)?;
    let exact = run.model().body().log_z_exact()?.expect("of two numbers");
    assert!((found - exact).abs() < 0.1, "{found} for {exact}");
    Ok(())
}

#[test]
fn log_z_is_saved_and_moved_as_parameters_are() -> Result<()> {
    let loss = Nce::default();
    let dir = tempfile::tempdir()?;
    let begin = || trainer(Gaussian::new([0., 0.], 1.)?, loss.clone(), 20);
    let steps = |run: &mut Trainer<Gaussian>, from: u64, to: u64| -> Result<()> {
        for step in from..to {
            run.step(&[Batch::new(data(step, 16, VARIANCE)?, None)])?;
        }
        Ok(())
    };
    let state = |run: &Trainer<Gaussian>, name: &str| -> Result<Vec<u8>> {
        run.save_state(&dir.path().join(name))?;
        Ok(std::fs::read(dir.path().join(name).join("step-20.safetensors"))?)
    };
    let (mut whole, mut first, mut second) = (begin()?, begin()?, begin()?);
    steps(&mut whole, 0, 20)?;
    steps(&mut first, 0, 7)?;
    first.save_state(&dir.path().join("cut"))?;
    assert!(second.resume(&dir.path().join("cut"))?.is_empty());
    steps(&mut second, 7, 20)?;
    let bytes = state(&whole, "whole")?;
    assert!(bytes == state(&second, "second")?, "the resumed run ended with other bits");
    let saved = langevin_models::tensors::parse(&bytes)?.tensors;
    for name in ["loss/log_z", "loss/noise", "m/loss/log_z", "v/loss/log_z"] {
        assert!(saved.contains_key(name), "{name} of {:?}", saved.keys());
    }
    assert!(to_host(&saved["loss/log_z"])?[0] != 0. && !saved.contains_key("weights/log_z"));
    Ok(())
}

#[test]
fn options_that_make_no_sense_are_refused_by_name() -> Result<()> {
    for (json, name) in [
        (r#"{"name": "score-matching", "slices": 0}"#, "loss.slices"),
        (r#"{"name": "denoising-score-matching", "sigma": 0}"#, "loss.sigma"),
        (r#"{"name": "conditional-nce", "sigma": -1}"#, "loss.sigma"),
        (r#"{"name": "conditional-nce", "ratio": 0}"#, "loss.ratio"),
        (r#"{"name": "nce", "ratio": 5000}"#, "loss.ratio"),
        (r#"{"name": "nce", "noise": {"mean": [0], "deviation": [0]}}"#, "loss.noise.deviation"),
        (r#"{"name": "info-nce", "noise": {"mean": [], "deviation": [1]}}"#, "loss.noise.mean"),
        (r#"{"name": "info-nce", "ratio": 0}"#, "loss.ratio"),
        (r#"{"name": "energy-discrepancy", "t": 0}"#, "loss.t"),
        (r#"{"name": "energy-discrepancy", "samples": 0}"#, "loss.samples"),
        (r#"{"name": "energy-discrepancy", "w": -1}"#, "loss.w"),
    ] {
        let loss: AnyDensityObjective = serde_json::from_str(json).map_err(candle_core::Error::wrap)?;
        let spec = DensitySpec::new([2], MlpEnergyConfig::default());
        let why = loss.check(&spec, &TrainOptions::default()).unwrap_err().to_string();
        assert!(why.contains(name), "{json}: {why}");
    }
    for json in [r#"{"name": "score-matching", "divergence": "none"}"#, r#"{"name": "nce", "noise": {"mean": [0]}}"#] {
        assert!(serde_json::from_str::<AnyDensityObjective>(json).is_err(), "{json}");
    }
    // bits have no score
    let bits = DensityModel::new(DensitySpec::new([4], AnyFamily::default()), 0, DType::F32, CPU)?;
    for loss in AnyDensityObjective::defaults().into_iter().skip(1) {
        let why = loss.start(&bits).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(why.contains(loss.name()) && why.contains("real numbers"), "{why}");
    }
    Ok(())
}

#[test]
fn noise_that_does_not_fit_the_data_is_refused() -> Result<()> {
    let model = Gaussian::new(MEAN, VARIANCE)?;
    let (options, vars) = (TrainOptions::default(), vec![]);
    let at = Context::new(&options, 0, 0, 4, &vars);
    let why = |loss: Nce, x: Tensor| -> Result<String> {
        let told = loss.start(&model)?.part(&model, &Batch::new(x, None), &at).unwrap_err().to_string();
        Ok(told)
    };
    let constant = why(Nce::default(), Tensor::ones((4, 2), DType::F64, CPU)?)?;
    assert!(constant.contains("number 0") && constant.contains("loss.noise"), "{constant}");
    let noise = NoiseDensity { mean: vec![0.; 3], deviation: vec![1.] };
    let other = why(Nce { noise: Some(noise), ..Nce::default() }, data(0, 4, VARIANCE)?)?;
    assert!(other.contains("loss.noise.mean") && other.contains("3 numbers"), "{other}");
    Ok(())
}
