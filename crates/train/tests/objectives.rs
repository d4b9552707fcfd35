//! Laws of every registered objective: at the exact model its gradient vanishes and its loss is least.

use candle_core::{DType, Device, Result, Tensor, Var};
use langevin_data::Batch;
use langevin_dynamics::process::Edm;
use langevin_dynamics::{Cond, Potential};
use langevin_models::{GradNet, Model, ModelSpec};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{sum_per_sample, to_host};
use langevin_train::{
    AnyEma, AnyObjective, AnyOptimiser, Context, Dual, Objective, Part, TrainOptions, Trainer, Training,
};

/// Mean and variance of the data, Gaussians in the plane.
const MEAN: [f64; 2] = [0.5, -0.3];
const VARIANCE: f64 = 0.4;

/// The energy of such data under noise, by parameters: the mean, the logarithm of the variance, and how far the normaliser is
/// off, a unit of ln(sigma/alpha). As langevin-models' `mixture`, of one component.
struct Gaussian {
    mean: Var,
    log_variance: Var,
    slope: Var,
    normalised: bool,
}

impl Potential for Gaussian {
    fn h(&self, x: &Tensor, c_noise: &Tensor, _: &Cond) -> Result<Tensor> {
        let rho = (c_noise * 4.)?.exp()?; // [B]
        let (s2, v) = (rho.sqr()?.affine(1., 1.)?, self.log_variance.exp()?);
        let w = rho.sqr()?.broadcast_add(&v)?;
        let own = sum_per_sample(&x.sqr()?)?.broadcast_mul(&v.affine(1., -1.)?)?;
        let cross = sum_per_sample(&x.broadcast_mul(&self.mean)?)?.mul(&s2.sqrt()?)?;
        let square = (self.mean.sqr()?.sum_all()? * 0.5)?;
        let log_ratio = ((own * 0.5)? + cross)?.broadcast_sub(&square)?.div(&w)?;
        rho * (log_ratio - w.div(&s2)?.log()?)? // D/2 = 1
    }

    fn normalised(&self) -> bool {
        self.normalised
    }

    fn log_normaliser(&self, c_noise: &Tensor) -> Result<Tensor> {
        c_noise.affine(4., 0.)?.broadcast_mul(&self.slope)
    }
}

/// The exact model, with every parameter `off` by so much.
fn model(normalised: bool, off: f64) -> Result<Model> {
    let var = |v: &[f64]| Var::from_tensor(&Tensor::new(v, &Device::Cpu)?);
    let (mean, log_variance) = (var(&MEAN.map(|m| m + off))?, var(&[VARIANCE.ln() + off])?);
    let potential = Gaussian { mean, log_variance, slope: var(&[off])?, normalised };
    let vars = [("log_variance", &potential.log_variance), ("mean", &potential.mean), ("slope", &potential.slope)];
    let vars = vars.into_iter().take(if normalised { 3 } else { 2 }).map(|(name, v)| (name.to_string(), v.clone()));
    let vars = vars.collect();
    let spec = ModelSpec {
        normalised,
        ..ModelSpec::energy([2]).process(Edm { sigma_min: 0.1, sigma_max: 10. }).sigma_data(1.)
    };
    Model::of_network(spec, Box::new(GradNet::new(potential)), vars, DType::F64, &Device::Cpu)
}

/// Over many batches: the mean loss, and each number of the gradient with its standard error.
fn trained(objective: &AnyObjective, model: &Model) -> Result<(f64, Vec<[f64; 2]>)> {
    let (batches, samples, options) = (400, 64, TrainOptions::default());
    let vars: Vec<Var> = model.vars().iter().map(|(_, var)| var.clone()).collect();
    let mut run = objective.start(model)?;
    let (mut loss, mut sums) = (0., vec![]);
    for n in 0..batches {
        let mut z = Noise::of_step(5, n, samples);
        let x = z.normal((samples, 2), DType::F64, &Device::Cpu)?.affine(VARIANCE.sqrt(), 0.)?;
        let x = x.broadcast_add(&Tensor::new(&[MEAN], &Device::Cpu)?)?;
        let at = Context::new(&options, n, 0, samples, &vars);
        let part = run.part(model, &Batch::new(x, None), &at)?;
        run.updated();
        loss += part.losses.iter().sum::<f64>() / (samples as u64 * batches) as f64;
        let grads = part.grads.iter().map(to_host).collect::<Result<Vec<_>>>()?.concat();
        sums.resize(grads.len(), [0.; 2]);
        sums.iter_mut().zip(grads).for_each(|([sum, squares], g)| (*sum, *squares) = (*sum + g, *squares + g * g));
    }
    let n = batches as f64;
    let moments = |[sum, squares]: [f64; 2]| [sum / n, ((squares / n - (sum / n).powi(2)) / (n - 1.)).sqrt()];
    Ok((loss, sums.into_iter().map(moments).collect()))
}

#[test]
fn the_exact_model_is_the_minimum_of_every_objective() -> Result<()> {
    let flow = Dual { fokker_planck: 0.01, walkers: 16, ..Dual::default() };
    for objective in AnyObjective::defaults().into_iter().chain([flow.into()]) {
        // what it is for: energies that learn their normaliser, or others
        let goes = |normalised: &bool| {
            let spec = model(*normalised, 0.).map(|model| model.spec);
            spec.and_then(|spec| objective.check(&spec, &TrainOptions::default())).is_ok()
        };
        let normalised = [false, true].into_iter().find(goes).expect("it trains one of them");
        let (least, grads) = trained(&objective, &model(normalised, 0.)?)?;
        for [mean, error] in grads {
            assert!(mean.abs() < 4.5 * error, "{objective:?}: a gradient of {mean} +- {error} at the exact model");
        }
        let (more, grads) = trained(&objective, &model(normalised, 0.2)?)?;
        assert!(more > least, "{objective:?}: {least} at the exact model, {more} off it");
        let seen = grads.iter().filter(|[mean, error]| mean.abs() > 4.5 * error).count();
        assert!(seen == grads.len(), "{objective:?}: {grads:?} off the exact model");
    }
    Ok(())
}

#[test]
fn every_objective_says_what_it_is() -> Result<()> {
    for objective in AnyObjective::defaults() {
        let described = objective.description()?;
        assert_eq!(described["name"], objective.name());
        let again: AnyObjective = serde_json::from_value(described.clone()).unwrap();
        assert_eq!(again.description()?, described);
    }
    Ok(())
}

/// A loss that takes the mean over the batch itself.
#[derive(Debug)]
struct Averaged;

impl Objective<Model> for Averaged {
    fn description(&self) -> Result<serde_json::Value> {
        Ok("averaged".into())
    }

    fn start(&self, _: &Model) -> Result<Box<dyn Training<Model>>> {
        Ok(Box::new(Self))
    }
}

impl Training<Model> for Averaged {
    fn part(&mut self, model: &Model, batch: &Batch, at: &Context) -> Result<Part> {
        at.mean(|| model.energy(&batch.x, &[1.], &Cond::default())?.mean_all()?.reshape(1))
    }
}

/// Its gradient would be as many times too small as there are samples. Objectives may be chosen while the program runs.
#[test]
fn a_loss_is_one_number_a_sample() -> Result<()> {
    let step = |objective: Box<dyn Objective<Model>>| -> Result<()> {
        let options = TrainOptions { batch: 8, ..TrainOptions::default() };
        let ema = AnyEma::named("warm-up").unwrap();
        let mut trainer = Trainer::new(model(false, 0.1)?, objective, AnyOptimiser::default(), ema, options)?;
        let x = Noise::of_step(5, 0, 8).normal((8, 2), DType::F64, &Device::Cpu)?;
        trainer.step(&[Batch::new(x, None)]).map(drop)
    };
    step(Box::<AnyObjective>::default())?;
    let why = step(Box::new(Averaged)).unwrap_err().to_string();
    assert!(why.contains("1 numbers for 8 samples"), "{why}");
    Ok(())
}
