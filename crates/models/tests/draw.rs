//! Every way to draw from a density against enumeration, free and with parts held, and log Z by annealed importance sampling.

use candle_core::{DType, Device, Result, Tensor};
use langevin_dynamics::likelihood::LogZ;
use langevin_models::draw::{Annealed, Mcmc, Tempering};
use langevin_models::rbm::binary;
use langevin_models::{Ais, AnyChainSampler, AnyFamily, DensityModel, DensitySpec, Held, States};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;

const CPU: &Device = &Device::Cpu;

/// A density of each family of bits, over 5 of them, of normal weights.
fn densities(dtype: DType) -> Result<Vec<DensityModel>> {
    let density = |family: &AnyFamily| {
        let mut json = serde_json::to_value(DensitySpec::new([5], family.clone())).unwrap();
        for (key, small) in [("hidden", serde_json::json!(4)), ("layers", serde_json::json!([4, 2]))] {
            if json.get(key).is_some() {
                json[key] = small;
            }
        }
        let fresh = DensityModel::new(serde_json::from_value(json).unwrap(), 0, dtype, CPU)?;
        let normal = |(seed, (name, t)): (usize, (String, Tensor))| {
            let row = Noise::seeds(&[7 + seed as u64]).normal((1, t.elem_count()), dtype, CPU)?;
            Ok((name, (row * 1.5)?.reshape(t.shape())?))
        };
        let weights: Vec<_> = fresh.weights().into_iter().enumerate().map(normal).collect::<Result<_>>()?;
        fresh.with(weights)
    };
    AnyFamily::defaults().iter().filter(|family| family.get().states() == States::Bits).map(density).collect()
}

/// p of each of the 32 states, and log Z, by enumeration.
fn enumerated(model: &DensityModel) -> Result<(Vec<f64>, f64)> {
    let all = model.log_p(&binary(0, 32, 5, CPU)?, 0.)?;
    let log_z = langevin_ops::stats::log_sum_exp(&all);
    Ok((all.iter().map(|log_p| (log_p - log_z).exp()).collect(), log_z))
}

/// Every way, so that it has time on small machines.
fn ways() -> Vec<AnyChainSampler> {
    let way = |way: AnyChainSampler| -> AnyChainSampler {
        match way {
            AnyChainSampler::Mcmc(_) => Mcmc { steps: 100, ..Default::default() }.into(),
            AnyChainSampler::Tempering(_) => Tempering { rungs: 4, sweeps: 40, ..Default::default() }.into(),
            AnyChainSampler::Annealed(_) => Annealed { rungs: 20, steps_per_rung: 5, ..Default::default() }.into(),
        }
    };
    AnyChainSampler::defaults().into_iter().map(way).collect()
}

const N: usize = 10_000;

fn seeds(from: u64) -> Vec<u64> {
    (from..from + N as u64).collect()
}

/// How often samples are at each state: all within 5 standard errors of p.
fn check_frequencies(x: &Tensor, p: &[f64], what: &str) -> Result<()> {
    let mut counts = vec![0f64; p.len()];
    for x in to_host(x)?.chunks(5) {
        counts[x.iter().enumerate().map(|(i, on)| (*on as usize) << i).sum::<usize>()] += 1.;
    }
    let n: f64 = counts.iter().sum();
    for (state, (count, p)) in counts.iter().zip(p).enumerate() {
        let error = (p * (1. - p) / n).sqrt();
        assert!((count / n - p).abs() <= 5. * error + 1e-12, "{what}: state {state}: {count} of {n} for p = {p}");
    }
    Ok(())
}

#[test]
fn every_way_draws_what_enumeration_says() -> Result<()> {
    for model in densities(DType::F32)? {
        let (p, _) = enumerated(&model)?;
        for (way, from) in ways().iter().zip([0, 50_000, 100_000]) {
            let (mut told, mut all) = (0, 0);
            let drawn = way.draw(&model, &seeds(from), None, &mut |done, of| {
                assert!(done == told + 1 && done <= of);
                (told, all) = (done, of);
                Ok(())
            })?;
            assert!(told == all && told > 0, "{told} of {all}");
            assert_eq!(drawn.states.dims()[1..], model.spec.state_shape());
            let data = model.spec.data_of(&drawn.states)?;
            assert_eq!((data.dims(), data.dtype()), (&[N, 5][..], DType::F32));
            check_frequencies(&data, &p, way.name())?;
            assert!(drawn.visits.iter().all(|(name, visit)| !name.is_empty() && visit.stats.acceptance() == 1.));
            let swaps = drawn.visits.iter().filter_map(|(_, visit)| visit.swaps);
            assert!(swaps.clone().all(|swaps| swaps.acceptance() > 0.1));
            assert_eq!(swaps.count(), if way.name() == "tempering" { 3 } else { 0 });
        }
    }
    Ok(())
}

#[test]
fn every_way_draws_the_rest_given_what_is_held() -> Result<()> {
    // the first bit held at 1, the fourth at 0
    let held = Held {
        states: Tensor::new(&[[1f32, 9., 9., 0., 9.]], CPU)?,
        mask: Tensor::new(&[[1f32, 0., 0., 1., 0.]], CPU)?,
    };
    for model in densities(DType::F32)? {
        let (p, _) = enumerated(&model)?;
        let is = |state: usize| state & 1 == 1 && state >> 3 & 1 == 0;
        let total: f64 = p.iter().enumerate().filter(|(state, _)| is(*state)).map(|(_, p)| p).sum();
        let given: Vec<f64> = p.iter().enumerate().map(|(state, p)| if is(state) { p / total } else { 0. }).collect();
        for way in ways() {
            let drawn = way.draw(&model, &seeds(7), Some(&held), &mut |_, _| Ok(()))?;
            check_frequencies(&model.spec.data_of(&drawn.states)?, &given, way.name())?;
        }
    }
    Ok(())
}

/// Each sample may be given something else, where nothing goes along a ladder.
#[test]
fn samples_may_hold_their_own() -> Result<()> {
    let n = 64;
    let drawn = binary(0, 32, 5, CPU)?.repeat((2, 1))?;
    let (states, mask) = (drawn.to_dtype(DType::F32)?, binary(3, n, 6, CPU)?.narrow(1, 0, 5)?);
    let held = Held { states, mask };
    let seeds: Vec<u64> = (0..n as u64).collect();
    for model in densities(DType::F32)? {
        let x = AnyChainSampler::from(Mcmc { steps: 3, ..Default::default() });
        let x = x.draw(&model, &seeds, Some(&held), &mut |_, _| Ok(()))?.states;
        let x = to_host(&model.spec.data_of(&x)?)?;
        let (kept, held_at) = (to_host(&held.states)?, to_host(&held.mask)?);
        assert!(x.iter().zip(kept.iter().zip(&held_at)).all(|(x, (kept, at))| *at == 0. || x == kept));
        assert!(x.iter().zip(kept.iter().zip(&held_at)).any(|(x, (kept, at))| *at == 0. && x != kept));
        let along = AnyChainSampler::from(Tempering { rungs: 3, sweeps: 3, ..Default::default() });
        let why = along.draw(&model, &seeds, Some(&held), &mut |_, _| Ok(())).unwrap_err().to_string();
        assert!(why.contains("masks"), "{why}");
    }
    Ok(())
}

#[test]
fn a_sample_is_that_of_its_seed_in_any_batch() -> Result<()> {
    for model in densities(DType::F32)? {
        for way in ways() {
            let draw = |seeds: &[u64]| {
                let drawn = way.draw(&model, seeds, None, &mut |_, _| Ok(()))?;
                to_host(&model.spec.data_of(&drawn.states)?)
            };
            let many: Vec<u64> = (0..40).collect();
            let all = draw(&many)?;
            assert_eq!(all[5 * 11..5 * 14], draw(&[11, 12, 13])?, "{}", way.name());
            assert_ne!(all[..100], all[100..]);
        }
    }
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused_by_name() -> Result<()> {
    let model = densities(DType::F32)?.remove(0);
    let why = |way: AnyChainSampler, held: Option<&Held>| {
        way.draw(&model, &[1, 2], held, &mut |_, _| Ok(())).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(why(Mcmc { steps: 0, ..Default::default() }.into(), None).contains("sampler.steps"));
    assert!(why(Tempering { rungs: 1, ..Default::default() }.into(), None).contains("sampler.rungs"));
    assert!(why(Annealed { steps_per_rung: 0, ..Default::default() }.into(), None).contains("sampler.steps_per_rung"));
    let mala = langevin_dynamics::mcmc::Mala::default();
    assert!(why(Mcmc { kernel: mala.into(), ..Default::default() }.into(), None).contains("gibbs"));
    let (one, other) = (Tensor::zeros((1, 5), DType::F32, CPU)?, Tensor::zeros((3, 5), DType::F32, CPU)?);
    for (states, mask, name) in [(&other, &one, "states"), (&one, &other, "mask")] {
        let held = Held { states: states.clone(), mask: mask.clone() };
        assert!(ways().into_iter().all(|way| why(way, Some(&held)).contains(name)));
    }
    assert!(AnyChainSampler::default().draw(&model, &[], None, &mut |_, _| Ok(())).is_err());
    let stop = |_, _| Err(candle_core::Error::Msg("asked to stop".into()));
    for way in ways() {
        assert!(way.draw(&model, &[1], None, &mut { stop }).is_err_and(|e| e.to_string().contains("asked to stop")));
    }
    for json in [r#"{"name":"mcmc","step":3}"#, r#"{"name":"mcmc","steps":0}"#, r#"{"name":"gibs"}"#] {
        assert!(serde_json::from_str::<AnyChainSampler>(json).is_err(), "{json}");
    }
    Ok(())
}

#[test]
fn annealed_importance_sampling_agrees_with_enumeration() -> Result<()> {
    for model in densities(DType::F32)? {
        let (p, exact) = enumerated(&model)?;
        let data = binary(0, 32, 5, CPU)?;
        let entropy: f64 = p.iter().map(|p| p.ln()).sum::<f64>() / 32.;
        for (rungs, means) in [(2, None), (50, None), (50, Some(&[0.2, 0.9, 0.5, 0.5, 0.01][..]))] {
            // those of latent units too
            let means = means.map(|means: &[f64]| [means, &vec![0.5; model.spec.latent()]].concat());
            let way = Ais { rungs, particles: 1050, ..Ais::default() };
            let mut off = vec![];
            for seed in 0..6 {
                let (mut last, mut of) = (0, 0);
                let found = way.log_z(&model, means.as_deref(), seed, &mut |done, all| {
                    (last, of) = (done, all);
                    Ok(())
                })?;
                assert!(last == of && of > 0 && found.runs == 1050);
                off.push((found.value - exact) / found.error);
                let [mean, error] = model.mean_log_p(&data, &found)?;
                assert!((mean + found.value - entropy - exact).abs() < 1e-10 && error > found.error);
            }
            assert!(off.iter().all(|z| z.abs() < 4.), "{rungs} rungs: off by {off:?} standard errors");
            // and the errors are not larger than they have to be
            assert!(off.iter().map(|z| z * z).sum::<f64>() > 0.6, "{rungs} rungs: off by {off:?} standard errors");
        }
        if let Some(known) = model.body().log_z_exact()? {
            assert!((known - exact).abs() < 1e-10);
        }
    }
    Ok(())
}

#[test]
fn options_of_ais_are_checked() -> Result<()> {
    let model = densities(DType::F32)?.remove(0);
    let why =
        |way: Ais| way.log_z(&model, None, 0, &mut |_, _| Ok(())).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(why(Ais { rungs: 1, ..Ais::default() }).contains("rungs"));
    assert!(why(Ais { particles: 1, ..Ais::default() }).contains("particles"));
    let stop = Ais::default().log_z(&model, None, 0, &mut |_, _| Err(candle_core::Error::Msg("stop".into())));
    assert!(stop.is_err());
    let none = LogZ::of(&[3., 3.]);
    assert_eq!(none.value, 3.);
    Ok(())
}
