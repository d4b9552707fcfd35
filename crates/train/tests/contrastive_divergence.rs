//! Contrastive divergence of tiny RBMs, whose densities are sums: what it converges to, what it raises, and that runs go on.

use candle_core::{DType, Device, Result, Tensor, Var};
use langevin_data::Batch;
use langevin_dynamics::{Conditionals, Density, Energy};
use langevin_models::rbm::binary;
use langevin_models::{Rbm, RbmSpec};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_train::ema::Constant;
use langevin_train::optim::Sgd;
use langevin_train::schedule::Decay;
use langevin_train::{
    Context, ContrastiveDivergence, EnergyGradient, Objective, Series, TrainOptions, Trainable, Trainer, Values,
};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

const CPU: &Device = &Device::Cpu;

fn machine(strength: f64) -> Result<Rbm> {
    let mut noise = Noise::seeds(&[7]);
    let mut normal = |n: usize| noise.normal((1, n), DType::F64, CPU)?.squeeze(0);
    let weight = (normal(12)?.reshape((4, 3))? * strength)?;
    Rbm::of(&[4], &weight, &normal(4)?, &(normal(3)? * 0.5)?)
}

/// p of each of the 16 states.
fn probabilities(rbm: &Rbm) -> Result<Vec<f64>> {
    Ok(rbm.log_p(&binary(0, 16, 4, CPU)?, rbm.log_z_exact()?)?.iter().map(|p| p.exp()).collect())
}

/// Independent draws of the machine.
fn draws(rbm: &Rbm, n: usize, seed: u64) -> Result<Tensor> {
    let p = probabilities(rbm)?;
    let state = |u: f64| {
        p.iter()
            .scan(0., |sum, p| {
                *sum += p;
                Some(*sum)
            })
            .filter(|sum| *sum <= u)
            .count()
            .min(15)
    };
    let u = Noise::of_step(seed, 0, n).uniform(n)?;
    let index = Tensor::from_iter(u.into_iter().map(|u| state(u) as u32), CPU)?;
    binary(0, 16, 4, CPU)?.index_select(&index, 0)
}

/// How the gradients of steps lie about 0, in standard errors of their mean: the largest over all parameters.
fn bias(rbm: &Rbm, loss: &ContrastiveDivergence, data: &Rbm, steps: u64) -> Result<f64> {
    let (options, vars) = (TrainOptions::default(), rbm.vars().iter().map(|(_, var)| var.clone()).collect::<Vec<_>>());
    let mut run = loss.start(rbm)?;
    let mut all: Vec<Vec<f64>> = vec![];
    for step in 0..steps {
        let batch = Batch::new(draws(data, 50, 1000 + step)?, None);
        let part = run.part(rbm, &batch, &Context::new(&options, step, 0, 50, &vars))?;
        run.updated();
        all.push(part.grads.iter().map(to_host).collect::<Result<Vec<_>>>()?.concat());
    }
    let worst = (0..all[0].len()).map(|i| {
        let g: Vec<f64> = all.iter().map(|g| g[i]).collect();
        let mean = g.iter().sum::<f64>() / g.len() as f64;
        let variance = g.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / (g.len() - 1) as f64;
        mean.abs() / (variance / g.len() as f64).sqrt()
    });
    Ok(worst.fold(0., |worst, z| if z.is_nan() { f64::INFINITY } else { z.max(worst) }))
}

/// Chains that begin at draws of the model stay draws of it, so that each step's gradient is 0 in the mean.
#[test]
fn the_gradient_vanishes_where_model_and_data_agree() -> Result<()> {
    let (rbm, other) = (machine(1.)?, machine(0.3)?);
    for (k, centred) in [(1, false), (3, false), (1, true)] {
        let loss = ContrastiveDivergence { k, centred, ..Default::default() };
        assert!(bias(&rbm, &loss, &rbm, 2000)? < 4.5, "{loss:?}");
        assert!(bias(&rbm, &loss, &other, 2000)? > 20., "{loss:?}");
    }
    Ok(())
}

/// The same without chance: all states weighed by their probabilities, moved by the exact operator or not at all.
#[test]
fn the_gradient_of_all_states_is_that_of_log_p() -> Result<()> {
    let (rbm, all) = (machine(1.)?, binary(0, 16, 4, CPU)?);
    let (own, data) = (probabilities(&rbm)?, probabilities(&machine(0.3)?)?);
    let factors: Vec<f64> = data.iter().zip(&own).map(|(data, own)| data - own).collect();
    let (_, grads) = rbm.free_energy_grad(&all, &factors)?;
    let nll = || -> Result<f64> {
        let log_z = rbm.log_z_exact()?;
        Ok(rbm.log_p(&all, log_z)?.iter().zip(&data).map(|(log_p, p)| -p * log_p).sum())
    };
    for ((_, var), g) in rbm.vars().iter().zip(&grads) {
        let (before, g) = (var.as_detached_tensor().copy()?, to_host(g)?);
        for (i, g) in g.iter().enumerate() {
            let at = |step: f64| -> Result<f64> {
                let mut v = to_host(&before)?;
                v[i] += step;
                var.set(&Tensor::from_vec(v, before.dims(), CPU)?)?;
                nll()
            };
            let slope = (at(1e-5)? - at(-1e-5)?) / 2e-5;
            assert!((slope - g).abs() < 1e-8, "{slope} for {g}");
        }
        var.set(&before)?;
    }
    let same = rbm.free_energy_grad(&all, &[0.; 16])?.1;
    assert!(same.iter().all(|g| to_host(g).is_ok_and(|g| g.iter().all(|g| *g == 0.))));
    Ok(())
}

/// Calling 1 what was 0 changes the model's parameters, but not what it learns by centred gradients.
#[test]
fn centred_gradients_do_not_know_which_bit_is_which() -> Result<()> {
    let rbm = machine(1.)?;
    let (options, x) = (TrainOptions::default(), draws(&rbm, 40, 5)?);
    let of =
        |name: &str| rbm.vars().iter().find(|(own, _)| own == name).map(|(_, var)| var.as_detached_tensor()).unwrap();
    // v = 1 - v': W' = -W, b' = -b, c' = c + sum_i W_i
    let (w, b, c) = (of("weight"), of("visible_bias"), of("hidden_bias"));
    let turned = Rbm::of(&[4], &w.neg()?, &b.neg()?, &(c + w.sum(0)?)?)?;
    let grads = |rbm: &Rbm, x: &Tensor, y: &Tensor| -> Result<Vec<Tensor>> {
        let both = Tensor::cat(&[x, y], 0)?;
        let factors: Vec<f64> = (0..80).map(|i| if i < 40 { 1. / 40. } else { -1. / 40. }).collect();
        let at = Context::new(&options, 0, 0, 40, &[]);
        let (_, grads) = rbm.energy_gradient(&both, &factors, &at)?;
        rbm.centred(grads, &EnergyGradient::unit_means(rbm, x)?)
    };
    let y = draws(&machine(0.3)?, 40, 6)?;
    let plain = grads(&rbm, &x, &y)?;
    let other = grads(&turned, &x.affine(-1., 1.)?, &y.affine(-1., 1.)?)?;
    let near = |a: &Tensor, b: &Tensor| -> Result<()> {
        assert!(to_host(&(a - b)?)?.iter().all(|off| off.abs() < 1e-12), "{a} {b}");
        Ok(())
    };
    near(&plain[2], &other[2].neg()?)?;
    near(&plain[1], &other[1].neg()?)?;
    near(&(&plain[0] + plain[2].sum(0)?)?, &other[0])
}

/// The same of updates whose loss has a weight decay: machines whose bits are turned over stay each other's mirror.
#[test]
fn nor_do_centred_updates_with_a_weight_decay() -> Result<()> {
    let x = draws(&machine(1.)?, 40, 5)?;
    let loss = ContrastiveDivergence { persistent: 40, centred: true, weight_decay: 0.1, ..Default::default() };
    let options = TrainOptions { steps: 1, batch: 40, warmup: 0, clip: 0., ..TrainOptions::default() };
    let grads = |rbm: &Rbm, x: &Tensor| -> Result<Vec<Tensor>> {
        // chains of k steps would draw other bits of the mirror: their states are given in their place
        let vars: Vec<Var> = rbm.vars().iter().map(|(_, var)| var.clone()).collect();
        let mirrored = Mirrored::of(rbm);
        let mut run = Objective::<Mirrored>::start(&loss, &mirrored)?;
        let part = run.part(&mirrored, &Batch::new(x.clone(), None), &Context::new(&options, 0, 0, 40, &vars))?;
        Ok(part.grads)
    };
    let rbm = machine(1.)?;
    let of =
        |name: &str| rbm.vars().iter().find(|(own, _)| own == name).map(|(_, var)| var.as_detached_tensor()).unwrap();
    let (w, b, c) = (of("weight"), of("visible_bias"), of("hidden_bias"));
    let turned = Rbm::of(&[4], &w.neg()?, &b.neg()?, &(c + w.sum(0)?)?)?;
    let (plain, other) = (grads(&rbm, &x)?, grads(&turned, &x.affine(-1., 1.)?)?);
    let near = |a: &Tensor, b: &Tensor| -> Result<()> {
        assert!(to_host(&(a - b)?)?.iter().all(|off| off.abs() < 1e-12), "{a} {b}");
        Ok(())
    };
    near(&plain[2], &other[2].neg()?)?;
    near(&plain[1], &other[1].neg()?)?;
    near(&(&plain[0] + plain[2].sum(0)?)?, &other[0])
}

/// A machine whose chains stay where they are, and the number of their steps.
struct Mirrored(Rbm, AtomicUsize);

impl Mirrored {
    fn of(rbm: &Rbm) -> Self {
        Self(rbm.clone(), AtomicUsize::new(0))
    }
}

impl Trainable for Mirrored {
    type Spec = RbmSpec;

    fn spec(&self) -> &RbmSpec {
        self.0.spec()
    }

    fn vars(&self) -> &[(String, Var)] {
        self.0.vars()
    }

    fn dtype(&self) -> DType {
        self.0.dtype()
    }

    fn device(&self) -> &Device {
        self.0.device()
    }
}

impl Conditionals for Mirrored {
    fn blocks(&self) -> usize {
        1
    }

    fn draw(&self, _: usize, x: &Tensor, _: Option<&Tensor>, _: &mut Noise) -> Result<Tensor> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(x.clone())
    }
}

impl Density for Mirrored {
    fn as_energy(&self) -> Option<&dyn Energy> {
        Some(&self.0)
    }

    fn as_conditionals(&self) -> Option<&dyn Conditionals> {
        Some(self)
    }
}

impl EnergyGradient for Mirrored {
    fn energy_gradient(&self, x: &Tensor, factors: &[f64], at: &Context) -> Result<(Vec<f64>, Vec<Tensor>)> {
        self.0.energy_gradient(x, factors, at)
    }

    fn unit_means(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        EnergyGradient::unit_means(&self.0, x)
    }

    fn centred(&self, grads: Vec<Tensor>, offsets: &[Tensor]) -> Result<Vec<Tensor>> {
        self.0.centred(grads, offsets)
    }
}

fn trainer(loss: &ContrastiveDivergence, dtype: DType, steps: u64) -> Result<Trainer<Rbm>> {
    let rbm = Rbm::new(RbmSpec::new([4], 6), 1, dtype, CPU)?;
    let options = TrainOptions {
        steps,
        batch: 50,
        accumulate: 2,
        lr: 0.5,
        warmup: 0,
        decay: Decay::Cosine,
        clip: 0.,
        ..TrainOptions::default()
    };
    let momentum = Sgd { momentum: 0.5, ..Sgd::default() };
    Trainer::new(rbm, loss.clone(), momentum.into(), Constant { decay: 0.9 }.into(), options)
}

/// Until step `to`, each of two batches, on draws of `data`.
fn go(trainer: &mut Trainer<Rbm>, to: u64, data: &Rbm) -> Result<()> {
    while trainer.step_number() < to {
        let x = draws(data, 100, trainer.step_number())?.to_dtype(trainer.model().dtype())?;
        let batch = |from: usize, n: usize| Ok::<_, candle_core::Error>(Batch::new(x.narrow(0, from, n)?, None));
        let report = trainer.step(&[batch(0, 40)?, batch(40, 60)?])?;
        for name in ["energy_data", "energy_chains"] {
            let told = |s: &Series| s.name == name && matches!(s.values, Values::Mean(v) if v.is_finite());
            assert!(report.series.iter().any(told), "{name}");
        }
    }
    Ok(())
}

#[test]
fn training_raises_the_exact_log_likelihood() -> Result<()> {
    let data = machine(1.5)?;
    let p = probabilities(&data)?;
    let divergence =
        |rbm: &Rbm| -> Result<f64> { Ok(probabilities(rbm)?.iter().zip(&p).map(|(own, p)| p * (p / own).ln()).sum()) };
    // gradient descent by the exact gradient comes to 0.0017 in as many steps
    for loss in [
        ContrastiveDivergence::default(),
        ContrastiveDivergence { k: 5, ..Default::default() },
        ContrastiveDivergence { persistent: 200, ..Default::default() },
        ContrastiveDivergence { persistent: 200, centred: true, weight_decay: 1e-4, ..Default::default() },
    ] {
        let mut trainer = trainer(&loss, DType::F64, 1500)?;
        let before = divergence(trainer.model())?;
        go(&mut trainer, 1500, &data)?;
        let after = divergence(trainer.model())?;
        assert!(before > 0.15 && after < 0.003, "{loss:?}: from {before} to {after}");
    }
    Ok(())
}

#[test]
fn the_steps_of_the_chains_grow_over_the_run() -> Result<()> {
    let (x, options) = (draws(&machine(1.)?, 6, 5)?, TrainOptions { steps: 10, batch: 6, ..TrainOptions::default() });
    let steps = |k: usize, k_first: Option<usize>| -> Result<Vec<usize>> {
        let (loss, model) = (ContrastiveDivergence { k, k_first, ..Default::default() }, Mirrored::of(&machine(1.)?));
        let mut run = Objective::<Mirrored>::start(&loss, &model)?;
        let before = |step: u64| -> Result<usize> {
            run.part(&model, &Batch::new(x.clone(), None), &Context::new(&options, step, 0, 6, &[]))?;
            Ok(model.1.swap(0, Ordering::Relaxed))
        };
        (0..12).map(before).collect()
    };
    assert_eq!(steps(5, Some(1))?, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5]);
    assert_eq!(steps(4, Some(3))?, [3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4]);
    assert_eq!(steps(2, Some(2))?, [2; 12]);
    assert_eq!(steps(3, None)?, [3; 12]);
    Ok(())
}

fn state(trainer: &Trainer<Rbm>, dir: &Path) -> Result<Vec<u8>> {
    trainer.save_state(dir)?;
    Ok(std::fs::read(dir.join(format!("step-{}.safetensors", trainer.step_number())))?)
}

#[test]
fn a_run_that_goes_on_ends_with_the_same_bits() -> Result<()> {
    let data = machine(1.)?;
    for loss in [
        ContrastiveDivergence::default(),
        ContrastiveDivergence { persistent: 30, centred: true, k: 2, ..Default::default() },
    ] {
        let dir = tempfile::tempdir()?;
        let path = |name: &str| dir.path().join(name);
        let mut whole = trainer(&loss, DType::F32, 12)?;
        go(&mut whole, 12, &data)?;
        let mut first = trainer(&loss, DType::F32, 12)?;
        go(&mut first, 5, &data)?;
        first.save_state(&path("cut"))?;
        let mut second = trainer(&loss, DType::F32, 12)?;
        assert!(second.resume(&path("cut"))?.is_empty());
        go(&mut second, 12, &data)?;
        assert_eq!(state(&whole, &path("whole"))?, state(&second, &path("second"))?, "{loss:?}");
        let saved = langevin_models::tensors::parse(&state(&whole, &path("again"))?)?.tensors;
        assert_eq!(saved.get("loss/chains").map(|t| t.dims()[0]), (loss.persistent > 0).then_some(30));
        let other = ContrastiveDivergence { k: 7, ..loss.clone() };
        assert!(trainer(&other, DType::F32, 12)?.resume(&path("cut")).is_err());
    }
    Ok(())
}

#[test]
fn weights_decay_and_biases_do_not() -> Result<()> {
    let rbm = machine(1.)?;
    let options = TrainOptions::default();
    let part = |weight_decay: f64| -> Result<Vec<Tensor>> {
        let mut run = ContrastiveDivergence { weight_decay, ..Default::default() }.start(&rbm)?;
        let batch = Batch::new(draws(&rbm, 10, 1)?, None);
        Ok(run.part(&rbm, &batch, &Context::new(&options, 0, 0, 20, &[]))?.grads)
    };
    let (plain, decayed) = (part(0.)?, part(0.3)?);
    for (((name, var), plain), decayed) in rbm.vars().iter().zip(&plain).zip(&decayed) {
        let factor = if name == "weight" { 0.3 * 0.5 } else { 0. }; // half of the step's samples
        let off = to_host(&((decayed - plain)? - (var.as_detached_tensor() * factor)?)?)?;
        assert!(off.iter().all(|off| off.abs() < 1e-12), "{name}: {off:?}");
    }
    Ok(())
}

#[test]
fn options_that_make_no_sense_are_refused_by_name() -> Result<()> {
    for (json, name) in [
        (r#"{"k": 0}"#, "loss.k"),
        (r#"{"k": 3, "k_first": 4}"#, "loss.k_first"),
        (r#"{"k": 3, "k_first": 0}"#, "loss.k_first"),
        (r#"{"weight_decay": -1}"#, "loss.weight_decay"),
        (r#"{"kernel": {"name": "hmc"}}"#, "loss.kernel hmc"),
        (r#"{"persistent": 2000000}"#, "loss.persistent"),
        (r#"{"kernel": {"name": "langevin"}}"#, "gibbs"), // for states that have a score
    ] {
        let loss: ContrastiveDivergence = serde_json::from_str(json).map_err(candle_core::Error::wrap)?;
        let why = trainer(&loss, DType::F32, 1).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(why.contains(name), "{json}: {why}");
    }
    assert!(serde_json::from_str::<ContrastiveDivergence>(r#"{"steps": 3}"#).is_err());
    Ok(())
}

/// An energy that nothing more is known of.
struct Plain(Rbm);

impl Trainable for Plain {
    type Spec = RbmSpec;

    fn spec(&self) -> &RbmSpec {
        self.0.spec()
    }

    fn vars(&self) -> &[(String, Var)] {
        self.0.vars()
    }

    fn dtype(&self) -> DType {
        self.0.dtype()
    }

    fn device(&self) -> &Device {
        self.0.device()
    }
}

impl Density for Plain {
    fn as_energy(&self) -> Option<&dyn Energy> {
        Some(&self.0)
    }

    fn as_conditionals(&self) -> Option<&dyn Conditionals> {
        Some(&self.0)
    }
}

impl EnergyGradient for Plain {}

#[test]
fn any_energy_is_differentiated_and_only_layers_are_centred() -> Result<()> {
    let model = Plain(machine(1.)?);
    let (options, x) = (TrainOptions::default(), draws(&model.0, 30, 2)?);
    let vars: Vec<Var> = model.vars().iter().map(|(_, var)| var.clone()).collect();
    let at = Context::new(&options, 0, 0, 30, &vars);
    let factors: Vec<f64> = (0..30).map(|i| f64::from(i).sin()).collect();
    let (a, b) = (model.energy_gradient(&x, &factors, &at)?, model.0.free_energy_grad(&x, &factors)?);
    for (a, b) in a.1.iter().zip(&b.1) {
        assert!(to_host(&(a - b)?)?.iter().all(|off| off.abs() < 1e-12));
    }
    let batch = Batch::new(x, None);
    ContrastiveDivergence::default().start(&model)?.part(&model, &batch, &at)?;
    let mut centred = ContrastiveDivergence { centred: true, ..Default::default() }.start(&model)?;
    let why = centred.part(&model, &batch, &at).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(why.contains("loss.centred"), "{why}");
    Ok(())
}
