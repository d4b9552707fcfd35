//! The RBM of real visible units against closed forms: p(v) is a mixture of 2^H normal densities of variance 1, one for each state h of
//! the hidden units, with mean b + W h and a weight in proportion to exp(h.c + (|b + W h|^2 - |b|^2) / 2).

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::{distance, worst};
use langevin_dynamics::density::{Given, Score};
use langevin_dynamics::ladder::{Annealed, Exchange};
use langevin_dynamics::likelihood::Annealing;
use langevin_dynamics::mcmc::{Chains, Gibbs, Kernel, Mala};
use langevin_dynamics::{Conditionals, Density, Differentiable, Energy, Ladder};
use langevin_models::family::{Ais, AnyFamily};
use langevin_models::rbm::binary;
use langevin_models::{
    DensityModel, DensitySpec, Rbm, RbmConfig, RbmLadder, RbmSpec, States, Unnormalised, Visible, checkpoint,
};
use langevin_ops::grad;
use langevin_ops::noise::Noise;
use langevin_ops::shape::{scale, to_host};
use std::collections::BTreeMap;
use std::f64::consts::TAU;

const CPU: &Device = &Device::Cpu;
const CHAINS: usize = 20_000;

/// A machine whose modes overlap, so that chains are not stuck.
fn machine(visible: usize, hidden: usize, strength: f64) -> Result<Rbm> {
    let mut noise = Noise::seeds(&[11]);
    let mut normal = |n: usize| noise.normal((1, n), DType::F64, CPU)?.squeeze(0);
    let weight = (normal(visible * hidden)?.reshape((visible, hidden))? * strength)?;
    Rbm::of(&[visible], &weight, &normal(visible)?, &(normal(hidden)? * 0.5)?)?.with(Visible::Gaussian)
}

fn states(n: usize, d: usize) -> Result<Tensor> {
    Noise::of_step(4, 0, n).normal((n, d), DType::F64, CPU)? * 1.5
}

/// The parameters as numbers: c, b, and W by rows.
fn numbers(rbm: &Rbm) -> Result<[Vec<f64>; 3]> {
    let all: Vec<Vec<f64>> = rbm.vars().iter().map(|(_, var)| to_host(var)).collect::<Result<_>>()?;
    Ok(all.try_into().expect("an RBM has three"))
}

/// The parts of the mixture: weights that sum to 1, means `b + W h`, and states h; and log Z.
struct Mixture {
    weights: Vec<f64>,
    means: Vec<Vec<f64>>,
    hidden: Vec<Vec<f64>>,
    log_z: f64,
}

impl Mixture {
    fn of(rbm: &Rbm) -> Result<Self> {
        let [c, b, w] = numbers(rbm)?;
        let (n, h) = (b.len(), c.len());
        let hidden: Vec<Vec<f64>> = (0..1 << h).map(|s| (0..h).map(|j| f64::from(s >> j & 1)).collect()).collect();
        let mean = |on: &Vec<f64>| (0..n).map(|i| b[i] + (0..h).map(|j| w[i * h + j] * on[j]).sum::<f64>()).collect();
        let means: Vec<Vec<f64>> = hidden.iter().map(mean).collect();
        let square = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>();
        let log = |(on, mean): (&Vec<f64>, &Vec<f64>)| {
            on.iter().zip(&c).map(|(h, c)| h * c).sum::<f64>() + (square(mean) - square(&b)) / 2.
        };
        let logs: Vec<f64> = hidden.iter().zip(&means).map(log).collect();
        let total: f64 = logs.iter().map(|log| log.exp()).sum();
        let weights = logs.iter().map(|log| log.exp() / total).collect();
        Ok(Self { weights, means, hidden, log_z: total.ln() + n as f64 / 2. * TAU.ln() })
    }

    /// Given that unit 0 is `at`: the weights change, and the other units do not know.
    fn given(mut self, at: f64) -> Self {
        for (weight, mean) in self.weights.iter_mut().zip(&self.means) {
            *weight *= (-(at - mean[0]).powi(2) / 2.).exp();
        }
        let total: f64 = self.weights.iter().sum();
        self.weights.iter_mut().for_each(|weight| *weight /= total);
        self
    }

    fn expected(&self, f: impl Fn(&[f64], &[f64]) -> f64) -> f64 {
        let parts = self.weights.iter().zip(self.means.iter().zip(&self.hidden));
        parts.map(|(weight, (mean, hidden))| weight * f(mean, hidden)).sum()
    }

    /// Chains at `x` `[N, V]` have the means of units from `from` on and of their products, all 5 standard errors or nearer.
    fn check(&self, x: &Tensor, from: usize, what: &str) -> Result<()> {
        let (n, d) = x.dims2()?;
        let x = to_host(x)?;
        let near = |expected: f64, f: &dyn Fn(&[f64]) -> f64, which: &str| {
            let all: Vec<f64> = x.chunks(d).map(f).collect();
            let mean = all.iter().sum::<f64>() / n as f64;
            let variance = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
            let error = (variance / n as f64).sqrt();
            assert!((mean - expected).abs() < 5. * error, "{what}: {which}: {mean} +- {error} for {expected}");
        };
        for i in from..d {
            near(self.expected(|mean, _| mean[i]), &|v| v[i], &format!("mean of {i}"));
            for j in i..d {
                let own = if i == j { 1. } else { 0. };
                let expected = self.expected(|mean, _| mean[i] * mean[j]) + own;
                near(expected, &|v| v[i] * v[j], &format!("product of {i} and {j}"));
            }
        }
        Ok(())
    }
}

#[test]
fn hidden_units_are_summed_out() -> Result<()> {
    let (rbm, v) = (machine(4, 3, 1.)?, states(9, 4)?);
    let [c, b, w] = numbers(&rbm)?;
    let (free, p) = (to_host(&rbm.energy(&v)?)?, to_host(&rbm.hidden(&v)?)?);
    let hidden = Mixture::of(&rbm)?.hidden;
    let all = binary(0, 8, 3, CPU)?;
    for (k, v) in to_host(&v)?.chunks(4).enumerate() {
        // E(v, h) = |v - b|^2 / 2 - h.c - v W h
        let energy = |h: &Vec<f64>| {
            let own = v.iter().zip(&b).map(|(v, b)| (v - b).powi(2) / 2.).sum::<f64>();
            let joint = (0..4).flat_map(|i| (0..3).map(move |j| (i, j))).map(|(i, j)| v[i] * w[i * 3 + j] * h[j]);
            own - h.iter().zip(&c).map(|(h, c)| h * c).sum::<f64>() - joint.sum::<f64>()
        };
        let energies: Vec<f64> = hidden.iter().map(energy).collect();
        let row = Tensor::new(v, CPU)?.unsqueeze(0)?.repeat((8, 1))?;
        let ours = to_host(&rbm.joint_energy(&row, &all)?)?;
        assert!(worst(ours.iter().zip(&energies).map(|(a, b)| (a - b).abs())) < 1e-12);
        let total: f64 = energies.iter().map(|e| (-e).exp()).sum();
        assert!((free[k] + total.ln()).abs() < 1e-12);
        for j in 0..3 {
            let on: f64 = energies.iter().zip(&hidden).map(|(e, h)| h[j] * (-e).exp()).sum();
            assert!((p[k * 3 + j] - on / total).abs() < 1e-12);
        }
    }
    Ok(())
}

/// By the mixture, and by a sum over a grid of the plane, which knows nothing of hidden units.
#[test]
fn log_z_is_an_integral() -> Result<()> {
    for (visible, hidden) in [(5, 4), (3, 6), (40, 2)] {
        let rbm = machine(visible, hidden, 0.8)?;
        assert!((rbm.log_z_exact()? - Mixture::of(&rbm)?.log_z).abs() < 1e-10);
    }
    let (rbm, step) = (machine(2, 3, 0.7)?, 0.05);
    let at = |i: usize| -15. + step * i as f64;
    let grid: Vec<f64> = (0..601).flat_map(|i| (0..601).flat_map(move |j| [at(i), at(j)])).collect();
    let p = rbm.log_p(&Tensor::from_vec(grid, (601 * 601, 2), CPU)?, rbm.log_z_exact()?)?;
    let total = p.iter().map(|log_p| log_p.exp()).sum::<f64>() * step * step;
    assert!((total - 1.).abs() < 1e-9, "{total}");
    assert!(machine(12, 3, 400.)?.log_z_exact()?.is_finite());
    let large = Rbm::new(RbmSpec::new([3], 26), 0, DType::F32, CPU)?.with(Visible::Gaussian)?;
    let why = large.log_z_exact().unwrap_err().to_string();
    assert!(why.contains("at most 25 hidden units") && why.contains("26") && why.contains("annealed"), "{why}");
    assert_eq!(Unnormalised::log_z_exact(&machine(3, 40, 0.1)?)?, None);
    Ok(())
}

/// -dE/dx of each number by differences.
fn slopes(energy: impl Fn(&Tensor) -> Result<Vec<f64>>, x: &Tensor) -> Result<Tensor> {
    let (n, d) = x.dims2()?;
    let mut columns = vec![];
    for i in 0..d {
        let unit: Vec<f64> = (0..d).map(|j| if i == j { 1e-5 } else { 0. }).collect();
        let unit = Tensor::new(unit, CPU)?;
        let (up, down) = (energy(&x.broadcast_add(&unit)?)?, energy(&x.broadcast_sub(&unit)?)?);
        let slope: Vec<f64> = up.iter().zip(&down).map(|(up, down)| (down - up) / 2e-5).collect();
        columns.push(Tensor::from_vec(slope, (n, 1), CPU)?);
    }
    Tensor::cat(&columns, 1)
}

#[test]
fn the_score_is_the_slope_of_the_energy() -> Result<()> {
    let (rbm, x) = (machine(4, 3, 1.)?, states(6, 4)?);
    let score = Score::score(&rbm, &x)?;
    assert!(distance(&score, &slopes(|x| to_host(&rbm.energy(x)?.detach()), &x)?)? < 1e-8);
    let (energy, by_graph) = grad::gradient(&x, |x| rbm.energy(x))?;
    let (own, closed) = rbm.energy_grad(&x)?;
    assert!(distance(&own, &energy)? < 1e-12 && distance(&closed, &by_graph)? < 1e-12);
    // at every rung of the ladder
    let ladder = RbmLadder::even(&rbm, &[0.3, -1., 2., 0.], 4)?;
    for rung in 0..4 {
        let density = ladder.density(rung);
        let found = density.evaluate(&x)?;
        let energy = |x: &Tensor| Ok(density.evaluate(x)?.energy()?.to_vec());
        assert!(distance(found.score()?, &slopes(energy, &x)?)? < 1e-8, "rung {rung}");
    }
    // images keep their shape, and bits have no score
    let image = Rbm::new(RbmSpec::new([1, 2, 2], 3), 1, DType::F32, CPU)?;
    let x = Tensor::ones((5, 1, 2, 2), DType::F32, CPU)?;
    assert!(image.as_differentiable().is_none() && image.as_score().is_none());
    assert_eq!(image.with(Visible::Gaussian)?.evaluate(&x)?.score()?.dims(), [5, 1, 2, 2]);
    Ok(())
}

#[test]
fn the_gradient_in_closed_form_is_that_of_the_energy() -> Result<()> {
    let (rbm, v) = (machine(5, 4, 1.)?, states(20, 5)?);
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

/// The mean of log p rises along -<dF> over data plus <dF> over the model, which is E[h], E[v] - b and E[v h^T] with a minus.
#[test]
fn the_likelihood_rises_along_its_gradient() -> Result<()> {
    let (rbm, v) = (machine(3, 3, 0.8)?, states(7, 3)?);
    let (model, [_, b, _]) = (Mixture::of(&rbm)?, numbers(&rbm)?);
    let (_, data) = rbm.free_energy_grad(&v, &[-1. / 7.])?;
    let of_model: [Vec<f64>; 3] = [
        (0..3).map(|j| model.expected(|_, h| h[j])).collect(),
        (0..3).map(|i| model.expected(|v, _| v[i] - b[i])).collect(),
        (0..9).map(|k| model.expected(|v, h| v[k / 3] * h[k % 3])).collect(),
    ];
    for (((name, var), data), of_model) in rbm.vars().iter().zip(&data).zip(of_model) {
        let before = var.as_detached_tensor().copy()?;
        for (i, (data, of_model)) in to_host(data)?.iter().zip(&of_model).enumerate() {
            let at = |step: f64| -> Result<f64> {
                let mut w = to_host(&before)?;
                w[i] += step;
                var.set(&Tensor::from_vec(w, before.dims(), CPU)?)?;
                Ok(rbm.log_p(&v, rbm.log_z_exact()?)?.iter().sum::<f64>() / 7.)
            };
            let slope = (at(1e-5)? - at(-1e-5)?) / 2e-5;
            assert!((slope - (data - of_model)).abs() < 1e-8, "{name} {i}: {slope} for {}", data - of_model);
        }
        var.set(&before)?;
    }
    Ok(())
}

/// Real numbers counted from another 0 change the biases, but not what is learnt by centred gradients.
#[test]
fn centred_gradients_do_not_know_where_0_is() -> Result<()> {
    let (rbm, x) = (machine(4, 3, 1.)?, states(40, 4)?);
    let y = (states(40, 4)?.sin()? * 2.)?;
    let by = Tensor::new(&[1.5f64, -0.7, 0.2, 3.], CPU)?;
    let [c, b, w] = [0, 1, 2].map(|i| rbm.vars()[i].1.as_detached_tensor());
    // v' = v + s: b' = b + s, c' = c - W^T s
    let along = by.unsqueeze(0)?.matmul(&w)?.squeeze(0)?;
    let moved = Rbm::of(&[4], &w, &(b + &by)?, &(c - along)?)?.with(Visible::Gaussian)?;
    let grads = |rbm: &Rbm, x: &Tensor, y: &Tensor| -> Result<Vec<Tensor>> {
        let factors: Vec<f64> = (0..80).map(|i| if i < 40 { 1. / 40. } else { -1. / 40. }).collect();
        let (_, grads) = rbm.free_energy_grad(&Tensor::cat(&[x, y], 0)?, &factors)?;
        Unnormalised::centred(rbm, grads, &rbm.unit_means(x)?)
    };
    let (plain, other) = (grads(&rbm, &x, &y)?, grads(&moved, &x.broadcast_add(&by)?, &y.broadcast_add(&by)?)?);
    assert!(distance(&plain[2], &other[2])? < 1e-12 && distance(&plain[1], &other[1])? < 1e-12);
    // c' - c = -W^T s, of the gradients too
    let along = by.unsqueeze(0)?.matmul(&plain[2])?.squeeze(0)?;
    assert!(distance(&(&plain[0] - along)?, &other[0])? < 1e-12);
    Ok(())
}

fn noise(seed: u64) -> Noise {
    Noise::of_step(seed, 0, CHAINS)
}

#[test]
fn chains_draw_what_the_mixture_says() -> Result<()> {
    let rbm = machine(4, 3, 0.7)?;
    let zeros = Tensor::zeros((CHAINS, 4), DType::F64, CPU)?;
    let mut chains = Chains::new(&rbm, &zeros)?;
    Gibbs {}.run(&rbm, &mut chains, 60, &mut noise(1))?;
    Mixture::of(&rbm)?.check(&chains.at.x, 0, "gibbs")?;
    // the score and the energy lead to the same
    let (density, kernel): (&dyn Density, _) = (&rbm, Mala::default());
    let mut chains = Chains::new(density, &zeros)?;
    chains.adapt(density, &kernel, 100, &mut noise(2))?;
    kernel.run(density, &mut chains, 150, &mut noise(3))?;
    Mixture::of(&rbm)?.check(&chains.at.x, 0, "mala")?;
    // with unit 0 held
    let start = zeros.broadcast_add(&Tensor::new(&[[0.4f64, 0., 0., 0.]], CPU)?)?;
    let mask = Tensor::new(&[[1f64, 0., 0., 0.]], CPU)?;
    let given = Given::new(Box::new(&rbm as &dyn Density), mask)?;
    let mut chains = Chains::new(&given, &start)?;
    Gibbs {}.run(&given, &mut chains, 60, &mut noise(4))?;
    assert!(to_host(&chains.at.x)?.chunks(4).all(|x| x[0] == 0.4));
    Mixture::of(&rbm)?.given(0.4).check(&chains.at.x, 1, "held")
}

#[test]
fn ladders_lead_to_the_machine() -> Result<()> {
    let rbm = machine(4, 3, 1.)?;
    let (model, zeros) = (Mixture::of(&rbm)?, Tensor::zeros((CHAINS, 4), DType::F64, CPU)?);
    let ladder = RbmLadder::even(&rbm, &[0.5, -0.5, 0., 1.], 6)?;
    let kernel = Gibbs {};
    let (x, _) = Annealed::new(&kernel, 0, 30).run(&ladder, &zeros, &mut noise(5))?;
    model.check(&x, 0, "annealed")?;
    let (x, visits) = Exchange::new(&kernel, 0).run(&ladder, &zeros, 20, 6, &mut noise(6))?;
    model.check(&x, 0, "exchange")?;
    assert!(visits.iter().skip(1).all(|visit| visit.swaps.is_some_and(|swaps| swaps.acceptance() > 0.1)));
    for (means, words) in [(vec![0.5; 3], "a mean of each"), (vec![f64::NAN; 4], "unit 0 is NaN")] {
        let why = RbmLadder::even(&rbm, &means, 3).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(why.contains(words), "{why}");
    }
    Ok(())
}

#[test]
fn annealing_finds_log_z() -> Result<()> {
    let rbm = machine(6, 5, 0.8)?;
    let (exact, means) = (Mixture::of(&rbm)?.log_z, [1., -0.5, 0., 2., 0.3, -2.]);
    let ladder = RbmLadder::even(&rbm, &means, 200)?;
    assert!((ladder.log_z_base()? - (3. * TAU.ln() + 5. * 2f64.ln())).abs() < 1e-12);
    // the first rung is normal about the means
    let log_start = ladder.log_start(&Tensor::new(&[means], CPU)?, 0.)?[0];
    assert!((log_start + 3. * TAU.ln()).abs() < 1e-12, "{log_start}");
    for (i, kernel) in [Gibbs {}.into(), Mala::default().into()].into_iter().enumerate() {
        let way = Annealing { resample: 0., kernel, steps_per_level: 1, ..Annealing::default() };
        let found =
            way.along(&ladder, (&[400, 6], DType::F64, CPU), &mut Noise::of_step(i as u64, 0, 400), &mut || Ok(()))?;
        let top = found.log_w.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let w: Vec<f64> = found.log_w.iter().map(|log_w| (log_w - top).exp()).collect();
        let (mean, error) = langevin_ops::stats::mean_and_error(&w);
        let (off, error) = ((found.log_z - exact).abs(), error / mean);
        assert!(off < 3. * error && error < 0.1, "{off} for an error of {error}");
    }
    // of the family, with means of data and without
    let model = family(&rbm)?;
    let ais = Ais { rungs: 500, particles: 200, ..Ais::default() };
    for (means, seed) in [(Some(&means[..]), 1), (None, 2)] {
        let found = ais.log_z(&model, means, seed, &mut |_, _| Ok(()))?;
        assert!((found.value - exact).abs() < 3. * found.error && found.error < 0.1, "{found:?} for {exact}");
    }
    Ok(())
}

/// The machine in its family.
fn family(rbm: &Rbm) -> Result<DensityModel> {
    let config = RbmConfig { hidden: rbm.spec().hidden, visible: rbm.spec().visible };
    let weights = rbm.vars().iter().map(|(name, var)| (name.clone(), var.as_detached_tensor()));
    DensityModel::of(DensitySpec::new(rbm.spec().shape.clone(), config), weights, rbm.dtype(), CPU)
}

#[test]
fn a_chain_is_that_of_its_seed_in_any_batch() -> Result<()> {
    let rbm = Rbm::new(RbmSpec::new([40], 30), 1, DType::F32, CPU)?.with(Visible::Gaussian)?;
    let run = |seeds: &[u64]| -> Result<Vec<f64>> {
        let mut z = Noise::seeds(seeds);
        let start = Unnormalised::begin(&rbm, seeds.len(), &mut z)?;
        let mut chains = Chains::new(&rbm, &start)?;
        Gibbs {}.run(&rbm, &mut chains, 5, &mut z)?;
        to_host(&chains.at.x)
    };
    assert_eq!(run(&[4, 5, 6])?[40..80], run(&[5])?);
    Ok(())
}

/// To the bit, since rows are computed alike in any batch.
#[test]
fn contrast_is_gibbs_steps_and_the_gradient_of_both_ends() -> Result<()> {
    for (dtype, k) in [(DType::F64, 1), (DType::F32, 1), (DType::F32, 3)] {
        let rbm = machine(70, 33, 0.1)?.to_dtype(dtype)?;
        assert_eq!(rbm.spec().visible, Visible::Gaussian);
        let v = Noise::seeds(&[1, 2, 3, 4, 5, 6]).normal((6, 70), dtype, CPU)?;
        let factors: Vec<f64> = (0..12).map(|i| f64::from(i).sin()).collect();
        let (walked, energies, grads) = rbm.contrast(&v, k, &factors, &mut Noise::of_step(3, 1, 6))?;
        let (mut by_parts, mut noise) = (v.clone(), Noise::of_step(3, 1, 6));
        for _ in 0..k {
            by_parts = rbm.draw(0, &by_parts, None, &mut noise)?;
        }
        assert_eq!(to_host(&walked)?, to_host(&by_parts)?);
        let (expected, of_both) = rbm.free_energy_grad(&Tensor::cat(&[&v, &by_parts], 0)?, &factors)?;
        assert_eq!(energies, expected);
        for (g, expected) in grads.iter().zip(&of_both) {
            assert_eq!(to_host(g)?, to_host(expected)?);
        }
    }
    Ok(())
}

#[test]
fn files_say_what_the_visible_units_are() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("rbm.safetensors");
    let rbm = machine(4, 3, 1.)?;
    rbm.save(&path, &BTreeMap::new())?;
    let (again, _) = Rbm::load(&path, DType::F64, CPU)?;
    assert_eq!(again.spec(), rbm.spec());
    let x = states(5, 4)?;
    assert_eq!(to_host(&again.energy(&x)?)?, to_host(&rbm.energy(&x)?)?);
    let said = checkpoint::texts(&path).and_then(|mut texts| texts.remove(checkpoint::KEY)).unwrap_or_default();
    let spec: DensitySpec = serde_json::from_str(&said).unwrap();
    assert_eq!(said, r#"{"family":"rbm","hidden":3,"shape":[4],"visible":"gaussian"}"#);
    assert_eq!(spec.states(), States::Real);
    let x = Tensor::new(&[[0.3f32, -2., 0.5, 7.]], CPU)?;
    assert_eq!(to_host(&spec.shown(&spec.states_of(&x)?)?)?, to_host(&x)?);
    // bits are not spoken of, as in files from before there were other kinds
    let bits = DensitySpec::new([4], RbmConfig { hidden: 3, visible: Visible::Bernoulli });
    assert_eq!(serde_json::to_string(&bits).unwrap(), r#"{"family":"rbm","hidden":3,"shape":[4]}"#);
    let why = serde_json::from_str::<DensitySpec>(r#"{"family":"rbm","shape":[4],"visible":"poisson"}"#);
    let why = why.unwrap_err().to_string();
    assert!(why.contains("poisson") && why.contains("bernoulli") && why.contains("gaussian"), "{why}");
    let model = family(&rbm)?;
    assert!(matches!(&model.spec.family, AnyFamily::RbmConfig(config) if config.visible == Visible::Gaussian));
    assert!(model.as_differentiable().is_some() && model.with(model.weights())?.as_score().is_some());
    Ok(())
}
