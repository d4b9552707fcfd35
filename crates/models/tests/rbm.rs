//! The RBM against sums over all states: energies, gradients, log Z, and the chains that draw from it.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::{distance, worst};
use langevin_dynamics::density::Given;
use langevin_dynamics::ladder::{Annealed, Exchange};
use langevin_dynamics::mcmc::{Chains, Gibbs, Kernel, Mala};
use langevin_dynamics::{Conditionals, Density, Energy};
use langevin_models::rbm::binary;
use langevin_models::{Rbm, RbmLadder, RbmSpec, checkpoint};
use langevin_ops::grad;
use langevin_ops::noise::Noise;
use langevin_ops::shape::{scale, to_host};
use std::collections::BTreeMap;

const CPU: &Device = &Device::Cpu;

/// A machine of weights that are neither small nor such that chains are stuck.
fn machine(visible: usize, hidden: usize, strength: f64) -> Result<Rbm> {
    let mut noise = Noise::seeds(&[7]);
    let mut normal = |n: usize| noise.normal((1, n), DType::F64, CPU)?.squeeze(0);
    let weight = (normal(visible * hidden)?.reshape((visible, hidden))? * strength)?;
    Rbm::of(&[visible], &weight, &normal(visible)?, &(normal(hidden)? * 0.5)?)
}

#[test]
fn hidden_units_are_summed_out() -> Result<()> {
    let rbm = machine(4, 3, 1.)?;
    let (v, all) = (binary(0, 16, 4, CPU)?, binary(0, 8, 3, CPU)?);
    let free = to_host(&rbm.energy(&v)?)?;
    let p = rbm.hidden(&v)?;
    let (mut log_z, mut of_visible) = (0f64, vec![[0f64; 4]; 8]);
    for (i, free) in free.iter().enumerate() {
        let here = v.get(i)?.unsqueeze(0)?.repeat((8, 1))?;
        let weights: Vec<f64> = to_host(&rbm.joint_energy(&here, &all)?)?.iter().map(|e| (-e).exp()).collect();
        let total: f64 = weights.iter().sum();
        assert!((free + total.ln()).abs() < 1e-12);
        log_z += total;
        let on = |j: usize| weights.iter().enumerate().filter(|(s, _)| s >> j & 1 == 1).map(|(_, w)| w).sum::<f64>();
        let expected: Vec<f64> = (0..3).map(|j| on(j) / total).collect();
        assert!(distance(&p.get(i)?, &Tensor::new(expected, CPU)?)? < 1e-12);
        for (s, weight) in weights.iter().enumerate() {
            (0..4).for_each(|unit| of_visible[s][unit] += if i >> unit & 1 == 1 { *weight } else { 0. });
        }
    }
    assert!((rbm.log_z_exact()? - log_z.ln()).abs() < 1e-12);
    // p(v | h) from the same table: its sum over v of each h is that of the turned machine
    let totals = |s: usize| -> Result<f64> {
        let h = all.get(s)?.unsqueeze(0)?.repeat((16, 1))?;
        Ok(to_host(&rbm.joint_energy(&v, &h)?)?.iter().map(|e| (-e).exp()).sum())
    };
    for (s, on) in of_visible.iter().enumerate() {
        let total = totals(s)?;
        let expected = Tensor::new(on.map(|on| on / total).to_vec(), CPU)?;
        assert!(distance(&rbm.visible(&all.get(s)?.unsqueeze(0)?)?.squeeze(0)?, &expected)? < 1e-12);
    }
    Ok(())
}

#[test]
fn the_gradient_in_closed_form_is_that_of_the_energy() -> Result<()> {
    let rbm = machine(5, 4, 1.)?;
    let v = binary(3, 20, 5, CPU)?;
    let factors: Vec<f64> = (0..20).map(|i| (1.3 * f64::from(i)).sin()).collect();
    let vars: Vec<_> = rbm.vars().iter().map(|(_, var)| var.clone()).collect();
    let (_, by_graph) = grad::value_and_grad(&vars, || scale(&rbm.energy(&v)?, &factors)?.sum_all())?;
    let (energies, closed) = rbm.free_energy_grad(&v, &factors)?;
    assert!(worst(energies.iter().zip(to_host(&rbm.energy(&v)?)?).map(|(a, b)| (a - b).abs())) < 1e-12);
    for (a, b) in closed.iter().zip(&by_graph) {
        assert!(distance(a, b)? < 1e-12);
    }
    assert!(rbm.free_energy_grad(&v, &[1., 2.]).is_err());
    Ok(())
}

#[test]
fn log_z_is_a_sum_over_either_layer() -> Result<()> {
    let wide = machine(14, 3, 0.7)?;
    let log_z = wide.log_z_exact()?; // over 8 states of the hidden units
    let all = to_host(&wide.energy(&binary(0, 1 << 14, 14, CPU)?)?)?;
    assert!((log_z - all.iter().map(|e| (-e).exp()).sum::<f64>().ln()).abs() < 1e-10);
    let total: f64 = wide.log_p(&binary(0, 1 << 14, 14, CPU)?, log_z)?.iter().map(|p| p.exp()).sum();
    assert!((total - 1.).abs() < 1e-10);
    // far from what exp can hold
    let strong = machine(12, 3, 400.)?;
    assert!(strong.log_z_exact()?.is_finite());
    let large = Rbm::new(RbmSpec::new([26], 30), 0, DType::F32, CPU)?;
    let why = large.log_z_exact().unwrap_err().to_string();
    assert!(why.contains("at most 25") && why.contains("26 and 30"), "{why}");
    Ok(())
}

#[test]
fn images_keep_their_shape_and_other_shapes_are_refused() -> Result<()> {
    let rbm = Rbm::new(RbmSpec::new([1, 3, 2], 4), 3, DType::F32, CPU)?;
    let v = Tensor::zeros((5, 1, 3, 2), DType::F32, CPU)?;
    let mut noise = Noise::seeds(&[1, 2, 3, 4, 5]);
    assert_eq!(rbm.draw(0, &v, None, &mut noise)?.dims(), [5, 1, 3, 2]);
    assert_eq!(rbm.visible(&rbm.hidden(&v)?)?.dims(), [5, 1, 3, 2]);
    assert!(rbm.energy(&v.flatten_from(1)?).is_err());
    assert!(Rbm::new(RbmSpec::new([], 4), 3, DType::F32, CPU).is_err());
    assert!(Rbm::new(RbmSpec::new([2], 0), 3, DType::F32, CPU).is_err());
    let density: &dyn Density = &rbm;
    let why = Mala::default().run(density, &mut Chains::new(density, &v)?, 1, &mut noise).unwrap_err().to_string();
    assert!(why.contains("gibbs"), "{why}");
    Ok(())
}

#[test]
fn a_file_says_its_family_and_gives_the_machine_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("rbm.safetensors");
    let rbm = Rbm::new(RbmSpec::new([1, 2, 2], 3), 5, DType::F32, CPU)?;
    rbm.save(&path, &BTreeMap::from([("note".to_string(), "own".to_string())]))?;
    let (again, texts) = Rbm::load(&path, DType::F32, CPU)?;
    assert_eq!((again.spec(), texts.get("note").map(String::as_str)), (rbm.spec(), Some("own")));
    for ((name, a), (_, b)) in rbm.vars().iter().zip(again.vars()) {
        assert_eq!(to_host(a)?, to_host(b)?, "{name}");
    }
    let said = checkpoint::texts(&path).and_then(|mut texts| texts.remove(checkpoint::KEY)).unwrap_or_default();
    assert_eq!(checkpoint::family(&said).as_deref(), Some("rbm"));
    let why = checkpoint::load(&path, DType::F32, CPU).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(why.contains("family rbm"), "{why}");
    Ok(())
}

/// How often chains should be at each state: all 5 standard errors or nearer.
fn check_frequencies(x: &Tensor, p: &[f64], what: &str) -> Result<()> {
    let (n, units) = x.dims2()?;
    let mut counts = vec![0f64; p.len()];
    for x in to_host(x)?.chunks(units) {
        counts[x.iter().enumerate().map(|(i, on)| (*on as usize) << i).sum::<usize>()] += 1.;
    }
    for (state, (count, p)) in counts.iter().zip(p).enumerate() {
        let error = (p * (1. - p) / n as f64).sqrt();
        assert!(
            (count / n as f64 - p).abs() <= 5. * error + 1e-12,
            "{what}: state {state}: {count} of {n} for p = {p}"
        );
    }
    Ok(())
}

fn probabilities(rbm: &Rbm) -> Result<Vec<f64>> {
    let n = rbm.spec().units();
    Ok(rbm.log_p(&binary(0, 1 << n, n, CPU)?, rbm.log_z_exact()?)?.iter().map(|p| p.exp()).collect())
}

const CHAINS: usize = 20_000;

fn noise(seed: u64) -> Noise {
    Noise::of_step(seed, 0, CHAINS)
}

#[test]
fn gibbs_draws_what_enumeration_says() -> Result<()> {
    let rbm = machine(5, 4, 1.)?;
    let (p, zeros) = (probabilities(&rbm)?, Tensor::zeros((CHAINS, 5), DType::F64, CPU)?);
    let mut chains = Chains::new(&rbm, &zeros)?;
    let stats = Gibbs {}.run(&rbm, &mut chains, 60, &mut noise(1))?;
    assert_eq!((stats.proposed, stats.nan), (60 * CHAINS as u64, 0));
    check_frequencies(&chains.at.x, &p, "free")?;

    // the first unit held at 1, the fourth at 0
    let mask = Tensor::new(&[[1f64, 0., 0., 1., 0.]], CPU)?;
    let start = Tensor::new(&[[1f64, 0., 0., 0., 0.]], CPU)?.repeat((CHAINS, 1))?;
    let held = |state: usize| state & 1 == 1 && state >> 3 & 1 == 0;
    let total: f64 = p.iter().enumerate().filter(|(state, _)| held(*state)).map(|(_, p)| p).sum();
    let given: Vec<f64> = p.iter().enumerate().map(|(state, p)| if held(state) { p / total } else { 0. }).collect();
    let clamped = Given::new(Box::new(&rbm as &dyn Density), mask)?;
    let mut chains = Chains::new(&clamped, &start)?;
    Gibbs {}.run(&clamped, &mut chains, 60, &mut noise(2))?;
    check_frequencies(&chains.at.x, &given, "clamped")
}

#[test]
fn a_chain_is_that_of_its_seed_in_any_batch() -> Result<()> {
    let rbm = Rbm::new(RbmSpec::new([40], 30), 1, DType::F32, CPU)?;
    let run = |seeds: &[u64]| -> Result<Vec<f64>> {
        let mut chains = Chains::new(&rbm, &Tensor::zeros((seeds.len(), 40), DType::F32, CPU)?)?;
        Gibbs {}.run(&rbm, &mut chains, 5, &mut Noise::seeds(seeds))?;
        to_host(&chains.at.x)
    };
    assert_eq!(run(&[4, 5, 6])?[40..80], run(&[5])?);
    Ok(())
}

#[test]
fn ladders_lead_to_the_machine() -> Result<()> {
    let rbm = machine(5, 4, 2.5)?;
    let p = probabilities(&rbm)?;
    let ladder = RbmLadder::even(&rbm, &[0.5; 5], 6)?;
    let zeros = Tensor::zeros((CHAINS, 5), DType::F64, CPU)?;
    let kernel = Gibbs {};
    let (x, visits) = Annealed::new(&kernel, 0, 40).run(&ladder, &zeros, &mut noise(3))?;
    check_frequencies(&x, &p, "annealed")?;
    assert_eq!(visits.len(), 6);
    let (x, visits) = Exchange::new(&kernel, 0).run(&ladder, &zeros, 20, 6, &mut noise(4))?;
    check_frequencies(&x, &p, "exchange")?;
    assert!(visits.iter().skip(1).all(|visit| visit.swaps.is_some_and(|swaps| swaps.acceptance() > 0.1)));
    Ok(())
}

#[test]
fn a_ladder_that_makes_no_sense_is_refused() -> Result<()> {
    let rbm = machine(5, 4, 1.)?;
    for (means, betas) in [(vec![0.5; 4], vec![0., 1.]), (vec![2.; 5], vec![0., 1.]), (vec![0.5; 5], vec![0., 0.5])] {
        assert!(RbmLadder::new(&rbm, &means, betas).is_err());
    }
    assert!(RbmLadder::even(&rbm, &[0.5; 5], 1).is_err());
    Ok(())
}

/// To the bit, since rows are computed alike in any batch.
#[test]
fn contrast_is_gibbs_steps_and_the_gradient_of_both_ends() -> Result<()> {
    for (dtype, k) in [(DType::F64, 1), (DType::F32, 1), (DType::F32, 3)] {
        let rbm = machine(70, 33, 0.3)?.to_dtype(dtype)?;
        let v = Noise::seeds(&[1, 2, 3, 4, 5, 6]).bernoulli(&Tensor::zeros((6, 70), dtype, CPU)?)?;
        let factors: Vec<f64> = (0..12).map(|i| f64::from(i).sin()).collect();
        let (walked, energies, grads) = rbm.contrast(&v, k, &factors, &mut Noise::of_step(3, 1, 6))?;
        let (mut by_parts, mut noise) = (v.clone(), Noise::of_step(3, 1, 6));
        for _ in 0..k {
            by_parts = rbm.draw(0, &by_parts, None, &mut noise)?;
        }
        assert_eq!(to_host(&walked)?, to_host(&by_parts)?);
        assert!(to_host(&walked)? != to_host(&v)?);
        let (expected, of_both) = rbm.free_energy_grad(&Tensor::cat(&[&v, &by_parts], 0)?, &factors)?;
        assert_eq!(energies, expected);
        for (g, expected) in grads.iter().zip(&of_both) {
            assert_eq!((g.dims(), to_host(g)?), (expected.dims(), to_host(expected)?));
        }
    }
    Ok(())
}
