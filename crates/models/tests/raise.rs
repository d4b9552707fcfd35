//! Reverse annealing of an RBM against sums over all states, and against annealed importance sampling from the other side.
#![allow(clippy::print_stdout)]

use candle_core::{DType, Device, Result, Tensor};
use langevin_dynamics::ladder::Reverse;
use langevin_dynamics::mcmc::Gibbs;
use langevin_models::family::{Ais, Raise};
use langevin_models::rbm::binary;
use langevin_models::{DensityModel, DensitySpec, Rbm, RbmConfig, RbmLadder, RbmSpec};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_ops::stats::mean_and_error;

const CPU: &Device = &Device::Cpu;
const VISIBLE: usize = 8;
const HIDDEN: usize = 6;
const STATES: usize = 1 << VISIBLE;

/// W as rows, b and c.
struct Weights {
    w: Vec<f64>,
    b: Vec<f64>,
    c: Vec<f64>,
}

impl Weights {
    fn normal(strength: f64) -> Result<Self> {
        let mut z = Noise::seeds(&[11]);
        let mut draw = |n: usize, by: f64| to_host(&(z.normal((1, n), DType::F64, CPU)? * by)?);
        Ok(Self { w: draw(VISIBLE * HIDDEN, strength)?, b: draw(VISIBLE, 1.)?, c: draw(HIDDEN, 1.)? })
    }

    fn model(&self) -> Result<DensityModel> {
        let weight = Tensor::from_slice(&self.w, (VISIBLE, HIDDEN), CPU)?;
        let [b, c] = [&self.b, &self.c].map(|v| Tensor::new(v.as_slice(), CPU));
        let named = [("weight", weight), ("visible_bias", b?), ("hidden_bias", c?)];
        let spec = DensitySpec::new([VISIBLE], RbmConfig { hidden: HIDDEN, ..RbmConfig::default() });
        DensityModel::of(spec, named.map(|(name, t)| (name.to_string(), t)), DType::F64, CPU)
    }

    /// p(v' | v) of block Gibbs at t, with the logits `a` of the base: sum_h p(h | v) p(v' | h), row by row.
    fn transition(&self, a: &[f64], t: f64) -> Vec<f64> {
        let on = |s: usize, i: usize| (s >> i & 1) as f64;
        let bernoulli = |state: usize, logits: &[f64]| -> f64 {
            let each = logits.iter().enumerate();
            each.map(|(i, x)| 1. / (1. + if state >> i & 1 == 1 { (-x).exp() } else { x.exp() })).product()
        };
        let of_hidden: Vec<Vec<f64>> = (0..1 << HIDDEN)
            .map(|h| {
                let field = |i: usize| self.b[i] + (0..HIDDEN).map(|j| self.w[i * HIDDEN + j] * on(h, j)).sum::<f64>();
                let logits: Vec<f64> = (0..VISIBLE).map(|i| t * field(i) + (1. - t) * a[i]).collect();
                (0..STATES).map(|v| bernoulli(v, &logits)).collect()
            })
            .collect();
        let mut to = vec![0.; STATES * STATES];
        for (v, row) in to.chunks_mut(STATES).enumerate() {
            let field = |j: usize| self.c[j] + (0..VISIBLE).map(|i| self.w[i * HIDDEN + j] * on(v, i)).sum::<f64>();
            let logits: Vec<f64> = (0..HIDDEN).map(|j| t * field(j)).collect();
            for (h, of_hidden) in of_hidden.iter().enumerate() {
                let p = bernoulli(h, &logits);
                row.iter_mut().zip(of_hidden).for_each(|(to, q)| *to += p * q);
            }
        }
        to
    }

    /// The density of annealing along `rungs` even rungs from the `means`.
    fn annealed(&self, means: &[f64], rungs: usize) -> Vec<f64> {
        let a: Vec<f64> = means.iter().map(|m| (m / (1. - m)).ln()).collect();
        let base = |v: usize| (0..VISIBLE).map(|i| if v >> i & 1 == 1 { means[i] } else { 1. - means[i] }).product();
        (1..rungs).fold((0..STATES).map(base).collect(), |p: Vec<f64>, k| {
            let to = self.transition(&a, k as f64 / (rungs - 1) as f64);
            let into = |v: usize| p.iter().enumerate().map(|(u, p)| p * to[u * STATES + v]).sum();
            (0..STATES).map(into).collect()
        })
    }
}

const MEANS: [f64; VISIBLE] = [0.5, 0.3, 0.8, 0.6, 0.2, 0.5, 0.4, 0.9];

/// p of each state, and ln Z.
fn enumerated(model: &DensityModel) -> Result<(Vec<f64>, f64)> {
    let log_z = model.body().log_z_exact()?.unwrap_or(f64::NAN);
    let log_p = model.log_p(&binary(0, STATES, VISIBLE, CPU)?, log_z)?;
    Ok((log_p.iter().map(|log_p| log_p.exp()).collect(), log_z))
}

/// `n` independent draws of the states with these probabilities.
fn exact_draws(p: &[f64], n: usize) -> Result<Tensor> {
    let mut states = vec![];
    for mut u in Noise::of_step(101, 0, n).uniform(n)? {
        let state = p.iter().position(|p| {
            u -= p;
            u < 0.
        });
        states.push(binary(state.unwrap_or(p.len() - 1), 1, VISIBLE, CPU)?);
    }
    Tensor::cat(&states, 0)
}

fn back(ais: &Ais, chains: usize, model: &DensityModel, v: &Tensor) -> Result<Vec<f64>> {
    let names: Vec<u64> = (0..v.dim(0)? as u64).collect();
    let raise = Raise { chains, ..Raise::default() };
    raise.log_p((ais, Some(&MEANS)), model, (v, &names), 2, &mut |_, _| Ok(()))
}

/// E[w] is the density of annealing at each of all states, and so sums to 1, however few the rungs are.
#[test]
fn the_mean_weight_is_the_density_of_annealing() -> Result<()> {
    let weights = Weights::normal(1.5)?;
    let model = weights.model()?;
    let (exact, _) = enumerated(&model)?;
    let each = 2000;
    let v = binary(0, STATES, VISIBLE, CPU)?.repeat((each, 1))?;
    for rungs in [4, 8] {
        let p = weights.annealed(&MEANS, rungs);
        assert!((p.iter().sum::<f64>() - 1.).abs() < 1e-10);
        let w: Vec<f64> = back(&Ais { rungs, ..Ais::default() }, 1, &model, &v)?.iter().map(|w| w.exp()).collect();
        let (mut far, mut apart, mut total) = (vec![], 0, vec![0.; each]);
        for (s, p) in p.iter().enumerate() {
            let here: Vec<f64> = w.iter().skip(s).step_by(STATES).copied().collect();
            let (mean, error) = mean_and_error(&here);
            far.push((mean - p) / error);
            apart += usize::from((mean - exact[s]).abs() > 5. * error);
            total.iter_mut().zip(here).for_each(|(total, w)| *total += w);
        }
        let (total, error) = mean_and_error(&total);
        assert!((total - 1.).abs() < 3. * error && error < 0.02, "{rungs} rungs: {total} +- {error} for 1");
        println!("{rungs} rungs: {total} +- {error}, {apart} states apart from exact");
        let chi = far.iter().map(|far| far * far).sum::<f64>() / STATES as f64;
        assert!(far.iter().all(|far| far.abs() < 6.) && chi < 1.5, "{rungs} rungs: {chi} of {far:?}");
        assert!(apart > STATES / 4, "{rungs} rungs: annealing is as good as exact, which tests nothing: {apart}");
    }
    Ok(())
}

/// Where every rung is the density itself a weight is p(v), without noise.
#[test]
fn a_ladder_of_one_density_weighs_exactly() -> Result<()> {
    let mut weights = Weights::normal(0.)?;
    weights.b = MEANS.iter().map(|m| (m / (1. - m)).ln()).collect();
    let (model, v) = (weights.model()?, binary(0, STATES, VISIBLE, CPU)?);
    let (p, log_z) = enumerated(&model)?;
    let (log_p, log_f) = (back(&Ais { rungs: 7, ..Ais::default() }, 3, &model, &v)?, model.log_p(&v, 0.)?);
    for ((log_p, p), log_f) in log_p.iter().zip(p).zip(log_f) {
        assert!((log_p - p.ln()).abs() < 1e-10 && (log_f - log_p - log_z).abs() < 1e-10);
    }
    Ok(())
}

/// From draws of the machine itself: reverse annealing gives log Z from above, annealed importance sampling from below. The more
/// rungs, the nearer, until both are exact.
#[test]
fn log_z_lies_between_both() -> Result<()> {
    for strength in [1., 2.] {
        let model = Weights::normal(strength)?.model()?;
        let (p, exact) = enumerated(&model)?;
        let v = exact_draws(&p, 300)?;
        let log_f = model.log_p(&v, 0.)?;
        let (mut gaps, mut last) = (vec![], None::<[f64; 4]>);
        for (rungs, chains) in [(5, 1), (50, 1), (1000, 2), (2000, 2)] {
            let ais = Ais { rungs, particles: 500, ..Ais::default() };
            let below = ais.log_z(&model, Some(&MEANS), 3, &mut |_, _| Ok(()))?;
            let log_z = back(&ais, chains, &model, &v)?
                .iter()
                .zip(&log_f)
                .map(|(log_p, log_f)| log_f - log_p)
                .collect::<Vec<_>>();
            let (above, error) = mean_and_error(&log_z);
            let told = format!("W of {strength}, {rungs} rungs: {below:?}, {above} +- {error} for {exact}");
            println!("{told}");
            // without bias: the mean of w / f is 1 / Z
            let (inverse, of_inverse) = mean_and_error(&log_z.iter().map(|l| (exact - l).exp()).collect::<Vec<_>>());
            assert!((inverse - 1.).abs() < 3.5 * of_inverse, "{told}: 1 / Z off by {inverse} +- {of_inverse}");
            assert!(above >= exact - 3. * error && below.value <= exact + 3. * below.error, "{told}");
            if let Some([b, b_error, a, a_error]) = last.filter(|_| rungs == 2000) {
                assert!((below.value - exact).abs() < 3. * below.error && (above - exact).abs() < 3. * error, "{told}");
                assert!((above - below.value).abs() < 1., "{told}");
                // twice the rungs move neither by more than chance does
                assert!((below.value - b).abs() < 3. * below.error.hypot(b_error), "{told}");
                assert!((above - a).abs() < 3. * error.hypot(a_error), "{told}");
            }
            last = Some([below.value, below.error, above, error]);
            gaps.push(above - exact);
        }
        assert!(gaps[1] < 0.5 * gaps[0] && gaps[3] < 0.5 * gaps[1], "W of {strength}: {gaps:?}");
    }
    Ok(())
}

/// To the bit, for a machine whose rows are computed by the kernels of large ones.
#[test]
fn the_numbers_are_those_of_any_batch() -> Result<()> {
    let rbm = Rbm::new(RbmSpec::new([1, 10, 7], 40), 1, DType::F32, CPU)?;
    let ladder = RbmLadder::even(&rbm, &[0.3; 70], 6)?;
    let v = Noise::of_step(1, 0, 30).bernoulli(&Tensor::zeros((30, 1, 10, 7), DType::F64, CPU)?)?;
    let names: Vec<u64> = (0..30).map(|i| 7 * i).collect();
    let way = Reverse { kernel: &Gibbs {}, steps: 2, chains: 4, at_once: 120, seed: 9 };
    let all = way.log_p(&ladder, &v, &names, &mut |_, _| Ok(()))?;
    for at_once in [1, 7, 64] {
        assert_eq!(all, Reverse { at_once, ..way }.log_p(&ladder, &v, &names, &mut |_, _| Ok(()))?, "{at_once}");
    }
    let some = way.log_p(&ladder, &v.narrow(0, 11, 5)?, &names[11..16], &mut |_, _| Ok(()))?;
    assert_eq!(all[11..16], some);
    Ok(())
}

#[test]
fn options_are_checked() -> Result<()> {
    let (model, v) = (Weights::normal(1.)?.model()?, binary(0, 3, VISIBLE, CPU)?);
    let why = |raise: Raise, ais: Ais| {
        let found = raise.log_p((&ais, None), &model, (&v, &[0, 1, 2]), 0, &mut |_, _| Ok(()));
        found.err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(why(Raise { reverse: 1, ..Raise::default() }, Ais::default()).contains("reverse is 1"));
    assert!(why(Raise { chains: 0, ..Raise::default() }, Ais::default()).contains("chains is 0"));
    assert!(why(Raise { chains: 1 << 21, ..Raise::default() }, Ais::default()).contains("chains is 2097152"));
    assert!(why(Raise::default(), Ais { rungs: 1, ..Ais::default() }).contains("rungs is 1"));
    assert_eq!(why(Raise::default(), Ais { rungs: 2, ..Ais::default() }), "");
    Ok(())
}
