//! The RBM of Potts visible units against sums over all states, which are written out here number by number.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::{distance, worst};
use langevin_dynamics::density::Given;
use langevin_dynamics::mcmc::{Chains, Gibbs, Kernel, Mala};
use langevin_dynamics::{Conditionals, Density, Energy};
use langevin_models::rbm::numerals;
use langevin_models::{Rbm, RbmSpec, Unnormalised, Visible};
use langevin_ops::grad;
use langevin_ops::noise::Noise;
use langevin_ops::shape::{scale, to_host};

const CPU: &Device = &Device::Cpu;
const CHAINS: usize = 20_000;

fn spec(shape: &[usize], states: usize, hidden: usize) -> RbmSpec {
    RbmSpec { shape: shape.to_vec(), hidden, visible: Visible::Potts { states } }
}

/// A machine of `visible` units with `states` each, of weights that are neither small nor such that chains are stuck.
fn machine(visible: usize, states: usize, hidden: usize, strength: f64) -> Result<Rbm> {
    let mut noise = Noise::seeds(&[7]);
    let mut normal = |n: usize| noise.normal((1, n), DType::F64, CPU)?.squeeze(0);
    let rows = visible * states;
    let weight = (normal(rows * hidden)?.reshape((rows, hidden))? * strength)?;
    Rbm::of_weights(spec(&[visible], states, hidden), &weight, &normal(rows)?, &(normal(hidden)? * 0.5)?)
}

/// exp(-E(v, h)) of every v and h, with E(v, h) = -sum_i b_{i, v_i} - c.h - sum_ij W_{i, v_i, j} h_j.
struct All {
    v: Vec<Vec<usize>>,
    h: Vec<Vec<f64>>,
    weights: Vec<Vec<f64>>, // [v][h]
    z: f64,
}

impl All {
    fn of(rbm: &Rbm) -> Result<Self> {
        let (n, j) = (rbm.spec().units(), rbm.spec().hidden);
        let q = rbm.spec().numbers() / n;
        let [c, b, w]: [Vec<f64>; 3] =
            rbm.vars().iter().map(|(_, var)| to_host(var)).collect::<Result<Vec<_>>>()?.try_into().expect("three");
        let digits = |s: usize| (0..n).map(|i| s / q.pow(i as u32) % q).collect::<Vec<_>>();
        let v: Vec<Vec<usize>> = (0..q.pow(n as u32)).map(digits).collect();
        let h: Vec<Vec<f64>> = (0..1 << j).map(|s| (0..j).map(|j| f64::from(s >> j & 1)).collect()).collect();
        let energy = |v: &[usize], h: &[f64]| {
            let own: f64 = v.iter().enumerate().map(|(i, k)| b[i * q + k]).sum();
            let joint: f64 = (0..n * j).map(|ij| w[(ij / j * q + v[ij / j]) * j + ij % j] * h[ij % j]).sum();
            -own - joint - h.iter().zip(&c).map(|(h, c)| h * c).sum::<f64>()
        };
        let row = |v: &Vec<usize>| h.iter().map(|h| (-energy(v, h)).exp()).collect::<Vec<_>>();
        let weights: Vec<Vec<f64>> = v.iter().map(row).collect();
        let z = weights.iter().flatten().sum();
        Ok(Self { v, h, weights, z })
    }

    fn p(&self) -> Vec<f64> {
        self.weights.iter().map(|row| row.iter().sum::<f64>() / self.z).collect()
    }

    /// p(v' | v) of a step of block Gibbs sampling from state `v`: sum_h p(h | v) p(v' | h).
    fn step(&self, v: usize) -> Vec<f64> {
        let from: f64 = self.weights[v].iter().sum();
        let of_h: Vec<f64> = (0..self.h.len()).map(|h| self.weights.iter().map(|row| row[h]).sum()).collect();
        let to = |row: &Vec<f64>| (0..of_h.len()).map(|h| self.weights[v][h] / from * row[h] / of_h[h]).sum();
        self.weights.iter().map(to).collect()
    }
}

fn every(rbm: &Rbm) -> Result<Tensor> {
    let n = rbm.spec().units();
    let q = rbm.spec().numbers() / n;
    numerals(q, 0, q.pow(n as u32), n, CPU)
}

#[test]
fn hidden_units_are_summed_out() -> Result<()> {
    let rbm = machine(3, 4, 3, 1.)?;
    let (all, v) = (All::of(&rbm)?, every(&rbm)?);
    let (free, p) = (to_host(&rbm.energy(&v)?)?, to_host(&rbm.hidden(&v)?)?);
    let h = Tensor::from_vec(all.h.concat(), (8, 3), CPU)?;
    for (i, row) in all.weights.iter().enumerate() {
        let here = v.get(i)?.unsqueeze(0)?.repeat((8, 1))?;
        let joint = to_host(&rbm.joint_energy(&here, &h)?)?;
        assert!(worst(joint.iter().zip(row).map(|(e, w)| (e + w.ln()).abs())) < 1e-12);
        let total: f64 = row.iter().sum();
        assert!((free[i] + total.ln()).abs() < 1e-12);
        for j in 0..3 {
            let on: f64 = row.iter().zip(&all.h).map(|(w, h)| w * h[j]).sum();
            assert!((p[i * 3 + j] - on / total).abs() < 1e-12);
        }
    }
    // the mean state of each unit given h
    let mean = to_host(&rbm.visible(&h)?)?;
    for s in 0..8 {
        let total: f64 = all.weights.iter().map(|row| row[s]).sum();
        for i in 0..3 {
            let sum: f64 = all.weights.iter().zip(&all.v).map(|(row, v)| row[s] * v[i] as f64).sum();
            assert!((mean[s * 3 + i] - sum / total).abs() < 1e-12);
        }
    }
    Ok(())
}

#[test]
fn log_z_is_a_sum_over_either_layer() -> Result<()> {
    // 8 hidden states of 4^3, and 9 visible ones of 2^5
    for (visible, states, hidden) in [(3, 4, 3), (2, 3, 5), (4, 2, 4), (1, 7, 2)] {
        let (rbm, what) = (machine(visible, states, hidden, 1.)?, format!("{visible} of {states}, {hidden}"));
        let all = All::of(&rbm)?;
        let log_z = rbm.log_z_exact()?;
        assert!((log_z - all.z.ln()).abs() < 1e-12, "{what}: {log_z} for {}", all.z.ln());
        assert_eq!(Unnormalised::log_z_exact(&rbm)?, Some(log_z));
        let log_p = rbm.log_p(&every(&rbm)?, log_z)?;
        assert!(worst(log_p.iter().zip(all.p()).map(|(a, p)| (a - p.ln()).abs())) < 1e-10, "{what}");
    }
    assert!(machine(4, 5, 3, 400.)?.log_z_exact()?.is_finite(), "far from what exp can hold");
    let large = Rbm::new(spec(&[9], 8, 26), 0, DType::F32, CPU)?;
    let why = large.log_z_exact().unwrap_err().to_string();
    assert!(why.contains("26 hidden units and 9 visible ones of 8 states") && why.contains("annealed"), "{why}");
    assert_eq!(Unnormalised::log_z_exact(&large)?, None);
    Ok(())
}

#[test]
fn the_gradient_in_closed_form_is_that_of_the_energy() -> Result<()> {
    let rbm = machine(4, 3, 4, 1.)?;
    let v = numerals(3, 11, 20, 4, CPU)?;
    let factors: Vec<f64> = (0..20).map(|i| (1.3 * f64::from(i)).sin()).collect();
    let vars: Vec<_> = rbm.vars().iter().map(|(_, var)| var.clone()).collect();
    let (_, by_graph) = grad::value_and_grad(&vars, || scale(&rbm.energy(&v)?, &factors)?.sum_all())?;
    let (energies, closed) = rbm.free_energy_grad(&v, &factors)?;
    assert!(worst(energies.iter().zip(to_host(&rbm.energy(&v)?)?).map(|(a, b)| (a - b).abs())) < 1e-12);
    for (a, b) in closed.iter().zip(&by_graph) {
        assert!(distance(a, b)? < 1e-12);
    }
    Ok(())
}

/// By differences of the mean of log p, whose gradient is -<dF> over data and <dF> over all states.
#[test]
fn the_likelihood_rises_along_its_gradient() -> Result<()> {
    let (rbm, v) = (machine(2, 3, 2, 0.8)?, Tensor::new(&[[0f64, 2.], [1., 1.], [2., 0.], [0., 2.]], CPU)?);
    let (_, data) = rbm.free_energy_grad(&v, &[-0.25])?;
    let (_, of_model) = rbm.free_energy_grad(&every(&rbm)?, &All::of(&rbm)?.p())?;
    for (((name, var), data), of_model) in rbm.vars().iter().zip(&data).zip(&of_model) {
        let (before, slopes) = (var.as_detached_tensor().copy()?, to_host(&(data + of_model)?)?);
        for (i, expected) in slopes.iter().enumerate() {
            let at = |step: f64| -> Result<f64> {
                let mut w = to_host(&before)?;
                w[i] += step;
                var.set(&Tensor::from_vec(w, before.dims(), CPU)?)?;
                Ok(rbm.log_p(&v, rbm.log_z_exact()?)?.iter().sum::<f64>() / 4.)
            };
            let slope = (at(1e-5)? - at(-1e-5)?) / 2e-5;
            assert!((slope - expected).abs() < 1e-8, "{name} {i}: {slope} for {expected}");
        }
        var.set(&before)?;
    }
    Ok(())
}

/// The same number added to W, or b, at every state of a unit changes nothing but c: centred gradients do not go there.
#[test]
fn centred_gradients_leave_alone_what_changes_nothing() -> Result<()> {
    let rbm = machine(4, 3, 4, 1.)?;
    let (x, y) = (numerals(3, 5, 10, 4, CPU)?, numerals(3, 60, 10, 4, CPU)?);
    let factors: Vec<f64> = (0..20).map(|i| if i < 10 { 0.1 } else { -0.1 }).collect();
    let (_, grads) = rbm.free_energy_grad(&Tensor::cat(&[&x, &y], 0)?, &factors)?;
    let over_states = |g: &Tensor| g.reshape((4, 3, ()))?.sum(1)?.abs()?.max_all()?.to_scalar::<f64>();
    assert!(over_states(&grads[2])? > 0.1, "which others do");
    let offsets = rbm.unit_means(&x)?;
    assert_eq!((offsets[0].dims(), offsets[1].dims()), (&[12][..], &[4][..]));
    let centred = Unnormalised::centred(&rbm, grads, &offsets)?;
    assert!(over_states(&centred[2])? < 1e-12 && over_states(&centred[1])? < 1e-12);
    Ok(())
}

/// How often chains should be at each state: all 5 standard errors or nearer.
fn check_frequencies(x: &Tensor, q: usize, p: &[f64], what: &str) -> Result<()> {
    let (n, units) = x.dims2()?;
    let mut counts = vec![0f64; p.len()];
    for x in to_host(x)?.chunks(units) {
        counts[x.iter().rev().fold(0, |state, k| state * q + *k as usize)] += 1.;
    }
    for (state, (count, p)) in counts.iter().zip(p).enumerate() {
        let error = (p * (1. - p) / n as f64).sqrt();
        let off = (count / n as f64 - p).abs();
        assert!(off <= 5. * error + 1e-12, "{what}: state {state}: {count} of {n} for p = {p}");
    }
    Ok(())
}

fn noise(seed: u64) -> Noise {
    Noise::of_step(seed, 0, CHAINS)
}

#[test]
fn gibbs_draws_what_enumeration_says() -> Result<()> {
    let rbm = machine(3, 3, 3, 1.)?;
    let (all, zeros) = (All::of(&rbm)?, Tensor::zeros((CHAINS, 3), DType::F64, CPU)?);
    // one step from one state
    let start = every(&rbm)?.get(14)?.unsqueeze(0)?.repeat((CHAINS, 1))?;
    check_frequencies(&rbm.draw(0, &start, None, &mut noise(5))?, 3, &all.step(14), "a step")?;
    // the law of the machine, to which many lead, and which one more keeps
    let mut chains = Chains::new(&rbm, &zeros)?;
    Gibbs {}.run(&rbm, &mut chains, 60, &mut noise(1))?;
    check_frequencies(&chains.at.x, 3, &all.p(), "free")?;
    let kept: Vec<f64> =
        (0..27).map(|to| all.p().iter().enumerate().map(|(from, p)| p * all.step(from)[to]).sum()).collect();
    assert!(worst(kept.iter().zip(all.p()).map(|(a, b)| (a - b).abs())) < 1e-12);
    // the first unit held at 2
    let mask = Tensor::new(&[[1f64, 0., 0.]], CPU)?;
    let start = zeros.broadcast_add(&Tensor::new(&[[2f64, 0., 0.]], CPU)?)?;
    let total: f64 = all.p().iter().skip(2).step_by(3).sum();
    let given: Vec<f64> = all.p().iter().enumerate().map(|(s, p)| if s % 3 == 2 { p / total } else { 0. }).collect();
    let clamped = Given::new(Box::new(&rbm as &dyn Density), mask)?;
    let mut chains = Chains::new(&clamped, &start)?;
    Gibbs {}.run(&clamped, &mut chains, 60, &mut noise(2))?;
    check_frequencies(&chains.at.x, 3, &given, "held")
}

/// Differences of its parameters make the machine of bits, with an energy that is off by a constant.
#[test]
fn two_states_are_a_bit() -> Result<()> {
    let rbm = machine(4, 2, 3, 1.)?;
    let [c, b, w] = [0, 1, 2].map(|i| rbm.vars()[i].1.as_detached_tensor());
    let (b, w) = (b.reshape((4, 2))?, w.reshape((4, 2, 3))?);
    let at = |t: &Tensor, k: usize| t.narrow(1, k, 1)?.squeeze(1);
    let (b0, w0) = (at(&b, 0)?, at(&w, 0)?);
    let bits = Rbm::of(&[4], &(at(&w, 1)? - &w0)?, &(at(&b, 1)? - &b0)?, &(c + w0.sum(0)?)?)?;
    let (v, off) = (every(&rbm)?, to_host(&b0)?.iter().sum::<f64>());
    let energies = to_host(&rbm.energy(&v)?)?;
    assert!(worst(energies.iter().zip(to_host(&bits.energy(&v)?)?).map(|(a, b)| (a + off - b).abs())) < 1e-12);
    assert!((rbm.log_z_exact()? - off - bits.log_z_exact()?).abs() < 1e-12);
    assert!(distance(&rbm.hidden(&v)?, &bits.hidden(&v)?)? < 1e-12);
    assert!(distance(&rbm.visible(&rbm.hidden(&v)?)?, &bits.visible(&bits.hidden(&v)?)?)? < 1e-12);
    let filters = |rbm: &Rbm| Ok::<_, candle_core::Error>(Unnormalised::filters(rbm)?.expect("it has some"));
    assert!(distance(&filters(&rbm)?, &filters(&bits)?)? < 1e-12);
    Ok(())
}

/// A hidden unit that is on the more the larger the state has that as its filter, whatever is added at all states.
#[test]
fn filters_are_slopes_over_states() -> Result<()> {
    let weight = Tensor::from_vec(vec![5f64, 5.5, 6., 6.5, 1., 0., 0., 1.], (8, 1), CPU)?;
    let zeros = |n: usize| Tensor::zeros(n, DType::F64, CPU);
    let rbm = Rbm::of_weights(spec(&[2], 4, 1), &weight, &zeros(8)?, &zeros(1)?)?;
    assert_eq!(Unnormalised::filters(&rbm)?.map(|f| to_host(&f)).transpose()?, Some(vec![0.5, 0.]));
    Ok(())
}

/// To the bit, since rows are computed alike in any batch.
#[test]
fn contrast_is_gibbs_steps_and_the_gradient_of_both_ends() -> Result<()> {
    for (dtype, k) in [(DType::F64, 1), (DType::F32, 1), (DType::F32, 3)] {
        let rbm = machine(30, 5, 33, 0.3)?.to_dtype(dtype)?;
        let v = Unnormalised::begin(&rbm, 6, &mut Noise::seeds(&[1, 2, 3, 4, 5, 6]))?;
        let factors: Vec<f64> = (0..12).map(|i| f64::from(i).sin()).collect();
        let (walked, energies, grads) = rbm.contrast(&v, k, &factors, &mut Noise::of_step(3, 1, 6))?;
        let (mut by_parts, mut noise) = (v.clone(), Noise::of_step(3, 1, 6));
        for _ in 0..k {
            by_parts = rbm.draw(0, &by_parts, None, &mut noise)?;
        }
        assert_eq!(to_host(&walked)?, to_host(&by_parts)?);
        assert!(to_host(&walked)? != to_host(&v)?);
        assert!(to_host(&walked)?.iter().all(|k| (0. ..5.).contains(k) && k.fract() == 0.));
        let (expected, of_both) = rbm.free_energy_grad(&Tensor::cat(&[&v, &by_parts], 0)?, &factors)?;
        assert_eq!(energies, expected);
        for (g, expected) in grads.iter().zip(&of_both) {
            assert_eq!((g.dims(), to_host(g)?), (expected.dims(), to_host(expected)?));
        }
    }
    Ok(())
}

#[test]
fn a_chain_is_that_of_its_seed_in_any_batch() -> Result<()> {
    let rbm = Rbm::new(spec(&[1, 5, 8], 6, 30), 1, DType::F32, CPU)?;
    let run = |seeds: &[u64]| -> Result<Vec<f64>> {
        let mut z = Noise::seeds(seeds);
        let start = Unnormalised::begin(&rbm, seeds.len(), &mut z)?;
        assert_eq!(start.dims(), [seeds.len(), 1, 5, 8]);
        let mut chains = Chains::new(&rbm, &start)?;
        Gibbs {}.run(&rbm, &mut chains, 5, &mut z)?;
        to_host(&chains.at.x)
    };
    assert_eq!(run(&[4, 5, 6])?[40..80], run(&[5])?);
    Ok(())
}

#[test]
fn what_is_no_state_is_refused() -> Result<()> {
    let rbm = machine(3, 4, 2, 1.)?;
    for (bad, words) in [(4., "is 4"), (-1., "is -1"), (0.5, "is 0.5"), (f64::NAN, "is NaN")] {
        let why = rbm.energy(&Tensor::new(&[[0f64, bad, 3.]], CPU)?).unwrap_err().to_string();
        assert!(why.contains(words) && why.contains("integers 0 to 3"), "{why}");
    }
    assert!(rbm.energy(&Tensor::zeros((2, 12), DType::F64, CPU)?).is_err(), "rows are no states");
    let density: &dyn Density = &rbm;
    assert!(density.as_differentiable().is_none() && density.as_score().is_none());
    let mut chains = Chains::new(density, &Tensor::zeros((1, 3), DType::F64, CPU)?)?;
    let why = Mala::default().run(density, &mut chains, 1, &mut Noise::seeds(&[1])).unwrap_err().to_string();
    assert!(why.contains("gibbs"), "{why}");
    for states in [0, 1, 257] {
        let why = Rbm::new(spec(&[3], states, 2), 0, DType::F32, CPU).unwrap_err().to_string();
        assert!(why.contains(&format!("`states` is {states}; give 2 to 256")), "{why}");
    }
    assert!(Rbm::new(spec(&[1 << 21], 256, 2), 0, DType::F32, CPU).is_err());
    // weights of bits are too few
    let bits = Rbm::new(RbmSpec::new([3], 2), 0, DType::F32, CPU)?;
    assert!(bits.with(Visible::Potts { states: 3 }).is_err());
    Ok(())
}
