//! Potts visible units in their family: files, data, ladders, and log Z from both sides against enumeration.

use candle_core::{DType, Device, Result, Tensor};
use langevin_dynamics::mcmc::Gibbs;
use langevin_dynamics::{Ladder, ladder};
use langevin_models::draw::Mcmc;
use langevin_models::family::{Ais, Raise};
use langevin_models::rbm::numerals;
use langevin_models::{
    AnyChainSampler, DensityModel, DensitySpec, Held, Rbm, RbmConfig, RbmLadder, RbmSpec, States, Visible, checkpoint,
};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_ops::stats::mean_and_error;
use std::collections::BTreeMap;

const CPU: &Device = &Device::Cpu;
const CHAINS: usize = 20_000;

fn config(states: usize, hidden: usize) -> RbmConfig {
    RbmConfig { hidden, visible: Visible::Potts { states } }
}

/// 4 units of 3 states beside 4 hidden ones.
fn model(strength: f64) -> Result<DensityModel> {
    let spec = DensitySpec::new([4], config(3, 4));
    let fresh = DensityModel::new(spec, 0, DType::F64, CPU)?;
    let normal = |(seed, (name, t)): (usize, (String, Tensor))| {
        let row = Noise::seeds(&[17 + seed as u64]).normal((1, t.elem_count()), DType::F64, CPU)?;
        Ok((name, (row * strength)?.reshape(t.shape())?))
    };
    let weights: Vec<_> = fresh.weights().into_iter().enumerate().map(normal).collect::<Result<_>>()?;
    fresh.with(weights)
}

fn machine(model: &DensityModel) -> Result<Rbm> {
    let [c, b, w] = [0, 1, 2].map(|i| model.vars()[i].1.as_detached_tensor());
    let spec = RbmSpec { shape: vec![4], hidden: 4, visible: Visible::Potts { states: 3 } };
    Rbm::of_weights(spec, &w, &b, &c)
}

/// p of each of the 81 states, and ln Z.
fn enumerated(model: &DensityModel) -> Result<(Vec<f64>, f64)> {
    let log_f = model.log_p(&numerals(3, 0, 81, 4, CPU)?, 0.)?;
    let z: f64 = log_f.iter().map(|log_f| log_f.exp()).sum();
    assert!((model.body().log_z_exact()?.unwrap_or(f64::NAN) - z.ln()).abs() < 1e-10);
    Ok((log_f.iter().map(|log_f| log_f.exp() / z).collect(), z.ln()))
}

fn check_frequencies(x: &Tensor, p: &[f64], what: &str) -> Result<()> {
    let n = x.dim(0)? as f64;
    let mut counts = vec![0f64; p.len()];
    for x in to_host(x)?.chunks(4) {
        counts[x.iter().rev().fold(0, |state, k| state * 3 + *k as usize)] += 1.;
    }
    for (state, (count, p)) in counts.iter().zip(p).enumerate() {
        let error = (p * (1. - p) / n).sqrt();
        assert!((count / n - p).abs() <= 5. * error + 1e-12, "{what}: state {state}: {count} of {n} for p = {p}");
    }
    Ok(())
}

/// Shares of the states of each unit.
const SHARES: [f64; 12] = [0.2, 0.3, 0.5, 0.9, 0., 0.1, 0.4, 0.4, 0.2, 1., 0., 0.];

#[test]
fn ladders_begin_at_shares_and_lead_to_the_machine() -> Result<()> {
    let model = model(1.2)?;
    let (rbm, (p, _)) = (machine(&model)?, enumerated(&model)?);
    let ladder = RbmLadder::even(&rbm, &SHARES, 6)?;
    let zeros = Tensor::zeros((CHAINS, 4), DType::F64, CPU)?;
    let noise = |seed| Noise::of_step(seed, 0, CHAINS);
    // shares are mixed with a tenth of equal ones, and sum to 1, so that the base is of free hidden units
    let own: Vec<f64> = SHARES.iter().map(|share| 0.9 * share + 0.1 / 3.).collect();
    assert!((ladder.log_z_base()? - 4. * 2f64.ln()).abs() < 1e-12);
    let base = |s: usize| (0..4).map(|i| own[3 * i + s / 3usize.pow(i as u32) % 3]).product::<f64>();
    let base: Vec<f64> = (0..81).map(base).collect();
    check_frequencies(&ladder.start(&zeros, 0., &mut noise(1))?, &base, "base")?;
    let log_start = ladder.log_start(&numerals(3, 0, 81, 4, CPU)?, 0.)?;
    assert!(log_start.iter().zip(&base).all(|(log, p)| (log - p.ln()).abs() < 1e-12));
    let kernel = Gibbs {};
    let (x, _) = ladder::Annealed::new(&kernel, 0, 40).run(&ladder, &zeros, &mut noise(2))?;
    check_frequencies(&x, &p, "annealed")?;
    let (x, _) = ladder::Exchange::new(&kernel, 0).run(&ladder, &zeros, 20, 6, &mut noise(3))?;
    check_frequencies(&x, &p, "exchange")?;
    for (means, words) in
        [(vec![0.5; 4], "the shares of the 3 states of each, 12"), (vec![1.5; 12], "state 0 of visible unit 0 is 1.5")]
    {
        let why = RbmLadder::even(&rbm, &means, 3).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(why.contains(words), "{why}");
    }
    assert!(ladder.start(&Tensor::zeros((2, 2, 2), DType::F64, CPU)?, 0., &mut Noise::seeds(&[1, 2])).is_err());
    Ok(())
}

/// With shares of the data and with what the machine says of itself; from draws of the machine, back.
#[test]
fn both_sides_find_log_z() -> Result<()> {
    let model = model(1.5)?;
    let (p, exact) = enumerated(&model)?;
    let ais = Ais { rungs: 500, particles: 300, ..Ais::default() };
    for (means, seed) in [(Some(&SHARES[..]), 1), (None, 2)] {
        let found = ais.log_z(&model, means, seed, &mut |_, _| Ok(()))?;
        assert!((found.value - exact).abs() < 3.5 * found.error && found.error < 0.1, "{found:?} for {exact}");
    }
    let draws = Noise::of_step(101, 0, 300).uniform(300)?.into_iter().map(|mut u| {
        let state = p.iter().position(|p| {
            u -= p;
            u < 0.
        });
        numerals(3, state.unwrap_or(80), 1, 4, CPU)
    });
    let v = Tensor::cat(&draws.collect::<Result<Vec<_>>>()?, 0)?;
    let (names, raise) = ((0..300).collect::<Vec<u64>>(), Raise { chains: 2, ..Raise::default() });
    let log_p = raise.log_p((&ais, Some(&SHARES)), &model, (&v, &names), 3, &mut |_, _| Ok(()))?;
    let log_z: Vec<f64> = model.log_p(&v, 0.)?.iter().zip(&log_p).map(|(log_f, log_p)| log_f - log_p).collect();
    let (above, error) = mean_and_error(&log_z);
    assert!(above >= exact - 3. * error && above < exact + 0.2, "{above} +- {error} for {exact}");
    let (inverse, error) = mean_and_error(&log_z.iter().map(|l| (exact - l).exp()).collect::<Vec<_>>());
    assert!((inverse - 1.).abs() < 3.5 * error, "the mean of w / f is 1 / Z: {inverse} +- {error}");
    Ok(())
}

#[test]
fn parts_are_held_by_every_way() -> Result<()> {
    let model = model(1.)?;
    let (p, _) = enumerated(&model)?;
    let held = |value: f64| -> Result<Held> {
        let (states, mask) = ([[0., 0., value, 0.]], [[0f64, 0., 1., 0.]]);
        Ok(Held { states: Tensor::new(&states, CPU)?, mask: Tensor::new(&mask, CPU)? })
    };
    let known = |s: usize| s / 9 % 3 == 1;
    let total: f64 = (0..81).filter(|&s| known(s)).map(|s| p[s]).sum();
    let given: Vec<f64> = (0..81).map(|s| if known(s) { p[s] / total } else { 0. }).collect();
    let seeds: Vec<u64> = (0..10_000).collect();
    for way in AnyChainSampler::defaults() {
        let way = match way {
            AnyChainSampler::Mcmc(_) => Mcmc { steps: 100, ..Mcmc::default() }.into(),
            other => other,
        };
        let small = matches!(way, AnyChainSampler::Mcmc(_));
        let seeds = if small { &seeds[..] } else { &seeds[..20] };
        let x = way.draw(&model, seeds, Some(&held(1.)?), &mut |_, _| Ok(()))?.states;
        assert!(to_host(&x)?.chunks(4).all(|x| x[2] == 1.), "{}", way.name());
        if small {
            check_frequencies(&x, &given, "held")?;
        }
        let why = way.draw(&model, &[1], Some(&held(3.)?), &mut |_, _| Ok(())).unwrap_err().to_string();
        assert!(why.contains("held is 3") && why.contains("integers 0 to 2"), "{why}");
    }
    Ok(())
}

#[test]
fn files_say_the_states_and_errors_name_the_key() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("rbm.safetensors");
    let rbm = machine(&model(1.)?)?;
    rbm.save(&path, &BTreeMap::new())?;
    let (again, _) = Rbm::load(&path, DType::F64, CPU)?;
    assert_eq!(again.spec(), rbm.spec());
    let said = checkpoint::texts(&path).and_then(|mut texts| texts.remove(checkpoint::KEY)).unwrap_or_default();
    assert_eq!(said, r#"{"family":"rbm","hidden":4,"shape":[4],"states":3,"visible":"potts"}"#);
    assert_eq!(serde_json::to_string(rbm.spec()).unwrap(), r#"{"shape":[4],"hidden":4,"visible":"potts","states":3}"#);
    let (loaded, _) = checkpoint::load_density(&path, DType::F64, CPU)?;
    let x = numerals(3, 0, 81, 4, CPU)?;
    for (a, b) in [(again.log_p(&x, 0.)?, loaded.log_p(&x, 0.)?), (rbm.log_p(&x, 0.)?, loaded.log_p(&x, 0.)?)] {
        assert_eq!(a, b);
    }
    for (options, words) in [
        (r#""visible":"potts""#, &["`states` is missing", "2 to 256"][..]),
        (r#""visible":"gaussian","states":3"#, &["`states` is 3", "gaussian"]),
        (r#""states":3"#, &["`states` is 3", "bernoulli"]),
        (r#""visible":"poisson","states":3"#, &["`visible` is poisson", "bernoulli, gaussian or potts"]),
        (r#""visible":7,"states":3"#, &["visible: invalid type"]),
        (r#""visible":"potts","states":"many""#, &["states: invalid type"]),
        (r#""visible":"potts","states":3,"levels":3"#, &["unknown field `levels`"]),
        (r#""visible":"potts","states":3,"zeal":3"#, &["unknown field `zeal`"]),
        (r#""visible":"potts","states":3,"hidden":"many""#, &["hidden: invalid type"]),
    ] {
        let json = format!(r#"{{"family":"rbm","shape":[4],{options}}}"#);
        let why = serde_json::from_str::<DensitySpec>(&json).unwrap_err().to_string();
        assert!(words.iter().all(|word| why.contains(word)), "{json}: {why}");
    }
    let spec: DensitySpec =
        serde_json::from_str(r#"{"family":"rbm","shape":[4],"visible":"potts","states":1}"#).unwrap();
    assert!(spec.validate().is_err_and(|e| e.to_string().contains("`states` is 1")));
    Ok(())
}

#[test]
fn greys_become_levels_and_rows_hold_integers() -> Result<()> {
    let images = DensitySpec::new([1, 1, 5], config(3, 4));
    assert_eq!((images.states(), images.states().to_string().as_str()), (States::Integers(3), "integers 0 to 2"));
    let x = Tensor::new(&[[[[-1f32, -0.6, -0.1, 0.55, 1.]]]], CPU)?;
    let levels = images.states_of(&x)?;
    assert_eq!(to_host(&levels)?, [0., 0., 1., 2., 2.]);
    assert_eq!(to_host(&images.shown(&levels)?)?, [-1., -1., 0., 1., 1.]);
    assert_eq!(to_host(&images.states_of(&images.shown(&levels)?)?)?, to_host(&levels)?);
    // all 256 grey levels of a file are states of their own
    let all = DensitySpec::new([1, 16, 16], config(256, 4));
    let grey = Tensor::arange(0f32, 256., CPU)?.reshape((1, 1, 16, 16))?;
    let x = grey.affine(1. / 127.5, -1.)?;
    assert_eq!(to_host(&all.states_of(&x)?)?, to_host(&grey)?);
    let rows = DensitySpec::new([3], config(3, 4));
    let x = Tensor::new(&[[0f32, 1., 2.], [2., 0., 0.]], CPU)?;
    assert_eq!(to_host(&rows.shown(&rows.states_of(&x)?)?)?, to_host(&x)?);
    let why = rows.states_of(&Tensor::new(&[[0f32, 1., 2.], [1., 3., 0.]], CPU)?).unwrap_err().to_string();
    assert!(why.contains("row 2, column 2 is 3") && why.contains("integers 0 to 2"), "{why}");
    // as rows and back, and means of rows as means of states
    let one_hot = rows.states().rows(&x)?;
    assert_eq!(to_host(&one_hot)?, [1., 0., 0., 0., 1., 0., 0., 0., 1., 0., 0., 1., 1., 0., 0., 1., 0., 0.]);
    assert_eq!(to_host(&rows.states().of_rows(&one_hot)?)?, to_host(&x)?);
    assert_eq!(to_host(&rows.states().of_rows(&one_hot.mean_keepdim(0)?)?)?, [1., 0.5, 1.]);
    for (other, n) in [(States::Bits, 1), (States::Real, 1)] {
        assert_eq!((to_host(&other.rows(&x)?)?, other.width()), (to_host(&x)?, n));
    }
    Ok(())
}
