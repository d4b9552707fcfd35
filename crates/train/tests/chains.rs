//! What makes the chains of contrastive divergence mix, and hidden units rare: parallel tempering, fast weights, sparsity. Machines are
//! so small that their densities are sums.

use candle_core::{DType, Device, Result, Tensor};
use langevin_data::Batch;
use langevin_models::rbm::binary;
use langevin_models::{DbmConfig, DensityModel, DensitySpec, RbmConfig};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_train::ema::Constant;
use langevin_train::optim::Sgd;
use langevin_train::schedule::Decay;
use langevin_train::{Context, ContrastiveDivergence, Objective, TrainOptions, Trainer, Training};
use std::collections::BTreeMap;

const CPU: &Device = &Device::Cpu;

/// A machine of 4 visible and 3 hidden units, with weights of this strength.
fn machine(strength: f64) -> Result<DensityModel> {
    let config = RbmConfig { hidden: 3, ..Default::default() };
    let model = DensityModel::new(DensitySpec::new([4], config), 0, DType::F64, CPU)?;
    let mut noise = Noise::seeds(&[7]);
    let mut draw = |(name, t): (String, Tensor)| {
        let row = noise.normal((1, t.elem_count()), DType::F64, CPU)?;
        Ok((name, (row.reshape(t.shape())? * strength)?))
    };
    let weights = model.weights().into_iter().map(&mut draw).collect::<Result<Vec<_>>>()?;
    model.with(weights)
}

/// Two modes, all units on or all off, that a chain alone does not leave: E = -4 sum_ij (v_i - 1/2) (h_j - 1/2).
fn two_modes() -> Result<DensityModel> {
    let weights = machine(1.)?.weights().into_iter().zip([-8., -6., 4.]);
    machine(1.)?.with(weights.map(|((name, t), all)| Ok((name, t.affine(0., all)?))).collect::<Result<Vec<_>>>()?)
}

fn probabilities(model: &DensityModel) -> Result<Vec<f64>> {
    let log_z = model.body().log_z_exact()?.expect("it is small");
    Ok(model.log_p(&binary(0, 16, 4, CPU)?, log_z)?.iter().map(|p| p.exp()).collect())
}

/// Independent draws of the machine.
fn draws(model: &DensityModel, n: usize, seed: u64) -> Result<Tensor> {
    let mut sums = probabilities(model)?;
    (1..16).for_each(|i| sums[i] += sums[i - 1]);
    let u = Noise::of_step(seed, 0, n).uniform(n)?;
    let state = |u: f64| sums.iter().filter(|sum| **sum <= u).count().min(15) as u32;
    binary(0, 16, 4, CPU)?.index_select(&Tensor::from_iter(u.into_iter().map(state), CPU)?, 0)
}

/// The run after so many steps on `data`, of which the first has but one state so that chains begin at it, without the model being
/// moved; and the gradients of its last step.
fn stepped(
    loss: &ContrastiveDivergence,
    model: &DensityModel,
    data: &Tensor,
    steps: u64,
) -> Result<(BTreeMap<String, Tensor>, Vec<Tensor>)> {
    let (options, vars) = (
        TrainOptions { steps: 1000, ..Default::default() },
        model.vars().iter().map(|(_, v)| v.clone()).collect::<Vec<_>>(),
    );
    let mut run: Box<dyn Training<DensityModel>> = loss.start(model)?;
    let (mut grads, one) = (vec![], binary(15, 1, 4, CPU)?.repeat((data.dim(0)?, 1))?);
    for step in 0..steps {
        let at = Context::new(&options, step, 0, data.dim(0)?, &vars);
        let x = if step == 0 { &one } else { data };
        grads = run.part(model, &Batch::new(x.clone(), None), &at)?.grads;
        run.updated();
    }
    Ok((run.state()?.into_iter().collect(), grads))
}

/// Where chains that all begin at one state are after so many steps on draws of the model: the share of each of the 16 states.
fn shares(loss: &ContrastiveDivergence, model: &DensityModel, steps: u64) -> Result<Vec<f64>> {
    let (state, _) = stepped(loss, model, &draws(model, 2000, 5)?, steps)?;
    let chains = &state["chains"];
    let n = loss.persistent;
    assert_eq!(chains.dims(), [n * loss.tempering.unwrap_or(1), 4]);
    let mut shares = vec![0.; 16];
    for row in to_host(&chains.narrow(0, chains.dim(0)? - n, n)?)?.chunks(4) {
        shares[row.iter().enumerate().map(|(i, x)| (*x as usize) << i).sum::<usize>()] += 1. / n as f64;
    }
    Ok(shares)
}

/// Half the sum of distances.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.
}

#[test]
fn tempered_chains_come_to_every_mode() -> Result<()> {
    let (model, n) = (two_modes()?, 4_000);
    let p = probabilities(&model)?;
    let alone = ContrastiveDivergence { k: 2, persistent: n, ..Default::default() };
    let tempered = ContrastiveDivergence { tempering: Some(6), ..alone.clone() };
    let [stuck, mixed] = [&alone, &tempered].map(|loss| shares(loss, &model, 150));
    let (stuck, mixed) = (apart(&stuck?, &p), apart(&mixed?, &p));
    assert!(mixed < 0.05 && stuck > 0.3, "{mixed} by tempering, {stuck} alone");
    Ok(())
}

/// Fast weights are minus the rate times the gradients so far, of which each step leaves 95%; chains alone feel them.
#[test]
fn fast_weights_fade() -> Result<()> {
    let (model, rate) = (machine(1.)?, 0.3);
    let plain = ContrastiveDivergence { persistent: 30, ..Default::default() };
    let loss = ContrastiveDivergence { fast_rate: Some(rate), ..plain.clone() };
    let data = draws(&machine(0.3)?, 50, 3)?;
    let (mut expected, mut last) = (vec![], BTreeMap::new());
    for steps in 1..4 {
        let (state, grads) = stepped(&loss, &model, &data, steps)?;
        expected = grads
            .iter()
            .enumerate()
            .map(|(i, g)| {
                let before = expected.get(i).map_or_else(|| g.zeros_like(), |t: &Tensor| t * 0.95)?;
                before - (g * rate)?
            })
            .collect::<Result<Vec<_>>>()?;
        for (i, fast) in expected.iter().enumerate() {
            let off = to_host(&(fast - &state[&format!("fast/{i}")])?)?;
            assert!(off.iter().all(|off| off.abs() < 1e-12), "{steps}: {off:?}");
        }
        last = state;
    }
    let (same, _) = stepped(&plain, &model, &data, 3)?;
    assert!(to_host(&same["chains"])? != to_host(&last["chains"])?, "the chains move otherwise");
    // with a rate of 0 nothing does
    let (none, _) = stepped(&ContrastiveDivergence { fast_rate: Some(0.), ..plain }, &model, &data, 3)?;
    assert_eq!(to_host(&same["chains"])?, to_host(&none["chains"])?);
    Ok(())
}

/// Fast weights make chains leave the mode that they have been at.
#[test]
fn fast_weights_make_chains_mix() -> Result<()> {
    let (model, n) = (two_modes()?, 2_000);
    let p = probabilities(&model)?;
    let alone = ContrastiveDivergence { persistent: n, ..Default::default() };
    let off = |loss: &ContrastiveDivergence| Ok::<_, candle_core::Error>(apart(&shares(loss, &model, 100)?, &p));
    let (stuck, pushed) = (off(&alone)?, off(&ContrastiveDivergence { fast_rate: Some(1.), ..alone.clone() })?);
    assert!(pushed < 0.2 && stuck > 0.3, "{pushed} with fast weights, {stuck} alone");
    Ok(())
}

/// The gradient of the cost of sparsity is that of a cross entropy whose means are those of the batch.
#[test]
fn sparsity_is_a_cross_entropy() -> Result<()> {
    let data = draws(&machine(0.3)?, 50, 3)?;
    let (p, cost) = (0.2, 0.7);
    let plain = ContrastiveDivergence { persistent: 30, ..Default::default() };
    let loss = ContrastiveDivergence { sparsity: Some(p), sparsity_cost: Some(cost), ..plain.clone() };
    let model = machine(1.)?;
    // the first step is on one state alone
    let x = binary(15, 1, 4, CPU)?;
    let ((_, with), (_, without)) = (stepped(&loss, &model, &data, 1)?, stepped(&plain, &model, &data, 1)?);
    let (q, v) = (to_host(&model.features(&x)?.mean(0)?)?, to_host(&x.mean(0)?)?);
    let more: Vec<Vec<f64>> = with.iter().zip(&without).map(|(a, b)| to_host(&(a - b)?)).collect::<Result<_>>()?;
    for (j, q) in q.iter().enumerate() {
        assert!((more[0][j] - cost * (q - p)).abs() < 1e-12);
        (0..4).for_each(|i| assert!((more[2][i * 3 + j] - v[i] * cost * (q - p)).abs() < 1e-12));
    }
    assert!(more[1].iter().all(|b| *b == 0.), "visible units are not asked");
    // a deep machine has its layers driven alike
    let config = DbmConfig { layers: vec![3, 2], ..Default::default() };
    let deep = DensityModel::new(DensitySpec::new([4], config), 1, DType::F64, CPU)?;
    let ((_, with), (_, without)) = (stepped(&loss, &deep, &data, 1)?, stepped(&plain, &deep, &data, 1)?);
    let changed = with.iter().zip(&without).map(|(a, b)| Ok(to_host(&(a - b)?)?.iter().any(|d| d.abs() > 1e-3)));
    assert_eq!(changed.collect::<Result<Vec<_>>>()?, [false, true, true, true, true]);
    Ok(())
}

fn trainer(loss: &ContrastiveDivergence, steps: u64) -> Result<Trainer<DensityModel>> {
    let config = RbmConfig { hidden: 6, ..Default::default() };
    let model = DensityModel::new(DensitySpec::new([4], config), 1, DType::F64, CPU)?;
    let options = TrainOptions {
        steps,
        batch: 50,
        accumulate: 2,
        lr: 0.2,
        warmup: 0,
        decay: Decay::Cosine,
        clip: 0.,
        ..Default::default()
    };
    let sgd = Sgd { momentum: 0.5, ..Default::default() };
    Trainer::new(model, loss.clone(), sgd.into(), Constant { decay: 0.9 }.into(), options)
}

fn go(trainer: &mut Trainer<DensityModel>, to: u64, data: &DensityModel) -> Result<()> {
    while trainer.step_number() < to {
        let x = draws(data, 100, trainer.step_number())?;
        let half = |from: usize| Ok::<_, candle_core::Error>(Batch::new(x.narrow(0, from, 50)?, None));
        trainer.step(&[half(0)?, half(50)?])?;
    }
    Ok(())
}

fn ways() -> [ContrastiveDivergence; 4] {
    let persistent = ContrastiveDivergence { persistent: 100, centred: true, ..Default::default() };
    [
        ContrastiveDivergence { tempering: Some(4), ..persistent.clone() },
        ContrastiveDivergence { fast_rate: Some(0.05), ..persistent.clone() },
        ContrastiveDivergence { sparsity: Some(0.3), sparsity_cost: Some(0.01), ..persistent.clone() },
        persistent,
    ]
}

#[test]
fn all_ways_learn() -> Result<()> {
    let data = machine(1.5)?;
    let p = probabilities(&data)?;
    for loss in ways() {
        let mut trainer = trainer(&loss, 3000)?;
        go(&mut trainer, 3000, &data)?;
        let q = probabilities(trainer.model())?;
        let kl: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        assert!(kl < 0.02, "{kl} nats by {loss:?}");
    }
    // what is asked of hidden units comes about where it costs enough
    let rare =
        ContrastiveDivergence { sparsity: Some(0.1), sparsity_cost: Some(2.), persistent: 100, ..Default::default() };
    let mut trainer = trainer(&rare, 1500)?;
    go(&mut trainer, 1500, &data)?;
    let q = to_host(&trainer.model().features(&draws(&data, 2000, 9)?)?.mean(0)?)?;
    assert!(q.iter().all(|q| (q - 0.1).abs() < 0.06), "{q:?}");
    Ok(())
}

#[test]
fn runs_of_all_ways_go_on_with_the_same_bits() -> Result<()> {
    let (data, dir) = (machine(1.)?, tempfile::tempdir()?);
    for loss in ways() {
        let (mut whole, mut first, mut second) = (trainer(&loss, 9)?, trainer(&loss, 9)?, trainer(&loss, 9)?);
        go(&mut whole, 9, &data)?;
        go(&mut first, 4, &data)?;
        first.save_state(&dir.path().join("cut"))?;
        assert!(second.resume(&dir.path().join("cut"))?.is_empty());
        go(&mut second, 9, &data)?;
        for ((name, a), (_, b)) in whole.model().vars().iter().zip(second.model().vars()) {
            assert_eq!(to_host(a)?, to_host(b)?, "{name} by {loss:?}");
        }
    }
    Ok(())
}

#[test]
fn options_that_do_not_fit_are_named() -> Result<()> {
    let none = ContrastiveDivergence::default();
    let some = ContrastiveDivergence { persistent: 10, ..none.clone() };
    for (loss, words) in [
        (ContrastiveDivergence { tempering: Some(4), ..none.clone() }, "loss.tempering is for chains that go on"),
        (ContrastiveDivergence { fast_rate: Some(0.1), ..none.clone() }, "loss.fast_rate is for chains that go on"),
        (ContrastiveDivergence { tempering: Some(1), ..some.clone() }, "loss.tempering is 1; give at least 2"),
        (ContrastiveDivergence { tempering: Some(1 << 20), ..some.clone() }, "2^20"),
        (
            ContrastiveDivergence { tempering: Some(3), fast_rate: Some(0.1), ..some.clone() },
            "leave one of the two out",
        ),
        (ContrastiveDivergence { fast_rate: Some(-1.), ..some.clone() }, "loss.fast_rate"),
        (ContrastiveDivergence { sparsity: Some(1.), ..some.clone() }, "loss.sparsity is 1; give a number above 0"),
        (ContrastiveDivergence { sparsity_cost: Some(1.), ..some.clone() }, "loss.sparsity_cost is of loss.sparsity"),
        (
            ContrastiveDivergence { sparsity: Some(0.1), sparsity_cost: Some(f64::NAN), ..some },
            "loss.sparsity_cost is NaN",
        ),
    ] {
        let why = trainer(&loss, 9).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(why.contains(words), "{words} in: {why}");
    }
    Ok(())
}
