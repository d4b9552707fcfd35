//! The deep Boltzmann machine against sums over all states: energies, gradients, bounds, log Z, and the chains that draw from it.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::{distance, worst};
use langevin_dynamics::density::Given;
use langevin_dynamics::mcmc::{Chains, Gibbs, Kernel};
use langevin_dynamics::{Conditionals, Density, Energy};
use langevin_models::dbm::Greedy;
use langevin_models::family::{Ais, Raise};
use langevin_models::rbm::binary;
use langevin_models::{Dbm, DbmConfig, DensityModel, DensitySpec, Unnormalised};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_ops::stats::log_sum_exp;

const CPU: &Device = &Device::Cpu;

/// A machine of layers of these sizes, whose weights are neither small nor such that chains are stuck.
fn machine(sizes: &[usize], strength: f64) -> Result<Dbm> {
    let mut noise = Noise::seeds(&[11]);
    let mut normal = |n: usize| noise.normal((1, n), DType::F64, CPU)?.squeeze(0);
    let biases = sizes.iter().map(|&n| normal(n)? * 0.5).collect::<Result<Vec<_>>>()?;
    let weight = |pair: &[usize]| normal(pair[0] * pair[1])?.reshape((pair[0], pair[1]))? * strength;
    let weights = sizes.windows(2).map(weight).collect::<Result<Vec<_>>>()?;
    Dbm::of(&sizes[..1], &weights, &biases)
}

const SIZES: [&[usize]; 3] = [&[4, 3, 2], &[3, 2, 3, 2], &[3, 2, 2, 2, 2]];

/// All states of all layers, `[2^n, n_l]` each.
fn all(sizes: &[usize]) -> Result<Vec<Tensor>> {
    let n: usize = sizes.iter().sum();
    let (states, mut from) = (binary(0, 1 << n, n, CPU)?, 0);
    let layer = |&n: &usize| {
        from += n;
        states.narrow(1, from - n, n)?.contiguous()
    };
    sizes.iter().map(layer).collect()
}

/// -E of all layers by sums of products alone.
fn log_f(dbm: &DensityModel, sizes: &[usize], layers: &[Vec<f64>], state: usize) -> Result<f64> {
    let weights = dbm.weights();
    let get = |name: String| to_host(&weights.iter().find(|(own, _)| *own == name).expect("it has this one").1);
    let x = |l: usize| &layers[l][state * sizes[l]..][..sizes[l]];
    let mut sum = 0.;
    for l in 0..sizes.len() {
        sum += get(format!("bias.{l}"))?.iter().zip(x(l)).map(|(b, x)| b * x).sum::<f64>();
    }
    for l in 1..sizes.len() {
        let w = get(format!("weight.{l}"))?;
        let of = |i: usize, j: usize| w[i * sizes[l] + j] * x(l - 1)[i] * x(l)[j];
        sum += (0..sizes[l - 1]).flat_map(|i| (0..sizes[l]).map(move |j| (i, j))).map(|(i, j)| of(i, j)).sum::<f64>();
    }
    Ok(sum)
}

/// The machine as a model, with the same weights.
fn model(dbm: &Dbm, sizes: &[usize]) -> Result<DensityModel> {
    let config = DbmConfig { layers: sizes[1..].to_vec(), ..Default::default() };
    let fresh = DensityModel::new(DensitySpec::new(&sizes[..1], config), 0, DType::F64, CPU)?;
    let names = fresh.weights().into_iter().map(|(name, _)| name);
    fresh.with(names.zip(dbm.biases().iter().chain(dbm.weights()).cloned()).collect::<Vec<_>>())
}

/// ln p of each state of the visible units by the sum over all states of all layers, and ln Z.
fn enumerated(dbm: &DensityModel, sizes: &[usize]) -> Result<(Vec<f64>, f64)> {
    let layers = all(sizes)?.iter().map(to_host).collect::<Result<Vec<_>>>()?;
    let n: usize = sizes.iter().sum();
    let mut log_sums = vec![f64::NEG_INFINITY; 1 << sizes[0]];
    for state in 0..1 << n {
        let place = state & ((1 << sizes[0]) - 1); // the visible units are its lowest bits
        log_sums[place] = log_sum_exp(&[log_sums[place], log_f(dbm, sizes, &layers, state)?]);
    }
    let log_z = log_sum_exp(&log_sums);
    Ok((log_sums.iter().map(|sum| sum - log_z).collect(), log_z))
}

#[test]
fn log_z_and_log_p_are_sums_over_all_states() -> Result<()> {
    for sizes in SIZES {
        let dbm = machine(sizes, 1.)?;
        let model = model(&dbm, sizes)?;
        let (log_p, log_z) = enumerated(&model, sizes)?;
        let found = model.body().log_z_exact()?.expect("it is small");
        assert!((found - log_z).abs() < 1e-10, "{sizes:?}: {found} for {log_z}");
        let v = binary(0, 1 << sizes[0], sizes[0], CPU)?;
        let ours = model.log_sum(&v)?;
        assert!(ours.exact);
        let off = worst(ours.log_sum.iter().zip(&log_p).map(|(a, b)| (a - log_z - b).abs()));
        assert!(off < 1e-10, "{sizes:?}: {off}");
        // the bound is below, the nearer the weaker the machine
        let bound = dbm.bound(&v)?;
        let gaps: Vec<f64> = log_p.iter().zip(&bound).map(|(log_p, bound)| log_p - (bound - log_z)).collect();
        assert!(gaps.iter().all(|gap| (-1e-10..2.).contains(gap)) && gaps.iter().any(|gap| *gap > 1e-4), "{gaps:?}");
        // and is that of the same joint energy and entropies
        let hidden = dbm.mean_field(&v, 2000)?;
        let energy = to_host(&dbm.joint_energy(&[vec![v.clone()], hidden.clone()].concat())?)?;
        let entropy = |p: &f64| if *p > 0. && *p < 1. { -p * p.ln() - (1. - p) * (1. - p).ln() } else { 0. };
        for (i, (bound, energy)) in bound.iter().zip(energy).enumerate() {
            let rows = hidden.iter().map(|m| to_host(&m.get(i)?)).collect::<Result<Vec<_>>>()?;
            let entropies: f64 = rows.iter().flatten().map(entropy).sum();
            assert!((entropies - energy - bound).abs() < 1e-9, "{sizes:?}, {i}");
        }
    }
    Ok(())
}

/// States of the even layers weigh what the sum over the odd ones does, and what the joined machine says.
#[test]
fn odd_layers_are_summed_out() -> Result<()> {
    for sizes in SIZES {
        let dbm = machine(sizes, 1.)?;
        let even: usize = sizes.iter().step_by(2).sum();
        let x = binary(0, 1 << even, even, CPU)?;
        let ours = to_host(&dbm.energy(&x)?)?;
        let joined = to_host(&dbm.joined()?.energy(&x)?)?;
        assert!(worst(ours.iter().zip(joined).map(|(a, b)| (a - b).abs())) < 1e-12);
        let layers = all(sizes)?;
        let of_even = Tensor::cat(&layers.iter().step_by(2).collect::<Vec<_>>(), 1)?;
        let energies = to_host(&dbm.joint_energy(&layers)?)?;
        let mut sums = vec![f64::NEG_INFINITY; 1 << even];
        for (row, energy) in to_host(&of_even)?.chunks(even).zip(energies) {
            let place = row.iter().enumerate().map(|(i, x)| (*x as usize) << i).sum::<usize>();
            sums[place] = log_sum_exp(&[sums[place], -energy]);
        }
        assert!(worst(ours.iter().zip(sums).map(|(a, b)| (a + b).abs())) < 1e-10);
    }
    Ok(())
}

/// The mean-field equations hold, of each sample as if it were alone.
#[test]
fn mean_fields_settle() -> Result<()> {
    for sizes in SIZES {
        let dbm = machine(sizes, 1.)?;
        let v = binary(0, 1 << sizes[0], sizes[0], CPU)?;
        let settled = dbm.mean_field(&v, 3000)?;
        let again = dbm.mean_field(&v, 3001)?;
        for (a, b) in settled.iter().zip(&again) {
            assert!(distance(a, b)? < 1e-12);
        }
        let bound = dbm.bound(&v)?;
        for (i, bound) in bound.iter().enumerate() {
            assert_eq!(dbm.bound(&v.get(i)?.unsqueeze(0)?)?, [*bound]);
        }
    }
    Ok(())
}

#[test]
fn gibbs_leaves_the_density_as_it_is() -> Result<()> {
    let sizes: &[usize] = &[3, 2, 2];
    let dbm = machine(sizes, 1.)?;
    let n = 100_000;
    let mut noise = Noise::of_step(3, 0, n);
    let mut chains = Chains::new(&dbm, &dbm.begin(n, &mut noise)?)?;
    Gibbs {}.run(&dbm, &mut chains, 60, &mut noise)?;
    let (log_p, _) = enumerated(&model(&dbm, sizes)?, sizes)?;
    let mut counts = [0f64; 8];
    for row in to_host(&chains.at.x)?.chunks(5) {
        counts[row[..3].iter().enumerate().map(|(i, x)| (*x as usize) << i).sum::<usize>()] += 1.;
    }
    for (count, log_p) in counts.iter().zip(log_p) {
        let p = log_p.exp();
        let error = (p * (1. - p) / n as f64).sqrt();
        assert!((count / n as f64 - p).abs() < 5. * error, "{} for {p}", count / n as f64);
    }
    // with the visible units held, the others are drawn given them
    let v = Tensor::new(&[[1f64, 0., 1.]], CPU)?;
    let start = Tensor::cat(&[&v.repeat((n, 1))?, &Tensor::zeros((n, 2), DType::F64, CPU)?], 1)?;
    let mask = Tensor::new(&[[1f64, 1., 1., 0., 0.]], CPU)?;
    let given = Given::new(Box::new(&dbm as &dyn Density), mask)?;
    let mut x = start;
    for _ in 0..40 {
        x = given.draw(0, &x, None, &mut noise)?;
    }
    let states = Tensor::cat(&[&v.repeat((4, 1))?, &binary(0, 4, 2, CPU)?], 1)?;
    let weights: Vec<f64> = to_host(&dbm.energy(&states)?)?.iter().map(|e| (-e).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut counts = [0f64; 4];
    for row in to_host(&x)?.chunks(5) {
        assert_eq!(row[..3], [1., 0., 1.]);
        counts[row[3] as usize + 2 * row[4] as usize] += 1.;
    }
    for (count, weight) in counts.iter().zip(weights) {
        let p = weight / total;
        assert!((count / n as f64 - p).abs() < 5. * (p * (1. - p) / n as f64).sqrt());
    }
    Ok(())
}

/// log Z by particles and by chains that go back lie on both sides of the sum, or on it, at two budgets.
#[test]
fn annealing_finds_log_z_from_both_sides() -> Result<()> {
    let sizes: &[usize] = &[6, 5, 4];
    let dbm = machine(sizes, 0.7)?;
    let model = model(&dbm, sizes)?;
    let log_z = model.body().log_z_exact()?.expect("it is small");
    for rungs in [100, 1000] {
        let ais = Ais { rungs, particles: 400, ..Default::default() };
        let found = ais.log_z(&model, None, 5, &mut |_, _| Ok(()))?;
        assert!((found.value - log_z).abs() < 5. * found.error && found.error < 0.1, "{found:?} for {log_z}");
        // from draws of the machine itself the mean of ln f - ln p is ln Z, or above
        let n = 400;
        let mut noise = Noise::of_step(8, 0, n);
        let mut chains = Chains::new(&model, &model.body().begin(n, &mut noise)?)?;
        Gibbs {}.run(&model, &mut chains, 100, &mut noise)?;
        let names: Vec<u64> = (0..n as u64).collect();
        let raise = Raise { reverse: n, chains: 5 };
        let log_p = raise.log_p((&ais, None), &model, (&chains.at.x, &names), 5, &mut |_, _| Ok(()))?;
        let back: Vec<f64> = model.log_f(&chains.at.x)?.iter().zip(log_p).map(|(f, p)| f - p).collect();
        let (mean, error) = langevin_ops::stats::mean_and_error(&back);
        assert!((mean - log_z).abs() < 0.1 + 5. * error, "{mean} +- {error} for {log_z}");
    }
    Ok(())
}

#[test]
fn layers_that_cannot_be_are_refused() -> Result<()> {
    for (layers, words) in
        [(vec![], "`layers`"), (vec![5], "family rbm"), (vec![3, 0], "at least 1"), (vec![2; 12], "2 to 9")]
    {
        let config = DbmConfig { layers, ..Default::default() };
        let why = DensitySpec::new([4], config).validate().unwrap_err().to_string();
        assert!(why.contains(words), "{why}");
    }
    let config = DbmConfig { mean_field: 0, ..Default::default() };
    assert!(DensitySpec::new([4], config).validate().unwrap_err().to_string().contains("`mean_field`"));
    let dbm = machine(&[4, 3, 2], 1.)?;
    let why = Dbm::of(&[4], &dbm.weights()[..1], dbm.biases()).unwrap_err().to_string();
    assert!(why.contains("[4, 3]"), "{why}");
    assert!(dbm.energy(&Tensor::zeros((2, 4), DType::F64, CPU)?).unwrap_err().to_string().contains("[B, 6]"));
    let frozen = &mut vec![];
    let greedy = Greedy { layer: 3, k: 1, factor: 1., frozen };
    assert!(dbm.greedy(greedy, &Tensor::zeros((2, 4), DType::F64, CPU)?, &mut Noise::of_step(0, 0, 2)).is_err());
    Ok(())
}

/// What a pair of layers learns alone: its mean over the draws below, by sums over these and over one step of the chains.
#[test]
fn pairs_of_layers_learn_by_contrast() -> Result<()> {
    let (dbm, each) = (machine(&[3, 2, 2], 1.)?, 40_000);
    let host = |all: &[Tensor]| all.iter().map(to_host).collect::<Result<Vec<_>>>();
    let (b, w) = (host(dbm.biases())?, host(dbm.weights())?);
    let sigmoid = |x: f64| 1. / (1. + (-x).exp());
    let v = [1., 0., 1.];
    // p of bits with these means
    let p_of =
        |bits: &[f64], p: &[f64]| bits.iter().zip(p).map(|(x, p)| if *x == 1. { *p } else { 1. - p }).product::<f64>();
    let states = |n: usize| (0..1usize << n).map(move |s| (0..n).map(|i| (s >> i & 1) as f64).collect::<Vec<f64>>());
    let frozen_bias = [0.3, -0.2]; // that of h1 when its pair was done; it has moved since
    for (layer, lower, upper) in [(1, 3, 2), (2, 2, 2)] {
        let weight = &w[layer - 1];
        let up = |x: &[f64], copies: f64| -> Vec<f64> {
            let sum = |j: usize| (0..lower).map(|i| x[i] * weight[i * upper + j]).sum::<f64>();
            (0..upper).map(|j| sigmoid(b[layer][j] + copies * sum(j))).collect()
        };
        let down = |h: &[f64]| -> Vec<f64> {
            let sum = |i: usize| (0..upper).map(|j| h[j] * weight[i * upper + j]).sum::<f64>();
            let (bias, copies) = (&b[layer - 1], if layer == 1 { 1. } else { 2. });
            let own = |i: usize| if layer == 1 { bias[i] } else { 2. * bias[i] - frozen_bias[i] };
            (0..lower).map(|i| sigmoid(own(i) + copies * sum(i))).collect()
        };
        let copies = if layer == 1 { 2. } else { 1. };
        let starts: Vec<(Vec<f64>, f64)> = match layer {
            1 => vec![(v.to_vec(), 1.)],
            _ => {
                let sum = |j: usize| (0..3).map(|i| v[i] * w[0][i * 2 + j]).sum::<f64>();
                let p: Vec<f64> = (0..2).map(|j| sigmoid(frozen_bias[j] + 2. * sum(j))).collect();
                states(2).map(|x| (x.clone(), p_of(&x, &p))).collect()
            }
        };
        let mut expected = [vec![0.; lower], vec![0.; upper], vec![0.; lower * upper]]; // of the data less of the chains
        let mut add = |x: &[f64], weight: f64| {
            let p = up(x, copies);
            (0..lower).for_each(|i| expected[0][i] += weight * x[i]);
            (0..upper).for_each(|j| expected[1][j] += weight * p[j]);
            (0..lower * upper).for_each(|at| expected[2][at] += weight * x[at / upper] * p[at % upper]);
        };
        for (x, p_x) in &starts {
            add(x, *p_x);
            for h in states(upper) {
                let p_h = p_x * p_of(&h, &up(x, copies));
                states(lower).for_each(|y| add(&y, -p_h * p_of(&y, &down(&h))));
            }
        }
        let mut frozen = match layer {
            1 => vec![],
            _ => vec![Tensor::new(&frozen_bias, CPU)?],
        };
        let x = Tensor::new(&[v], CPU)?.repeat((each, 1))?;
        let greedy = Greedy { layer, k: 1, factor: 1. / each as f64, frozen: &mut frozen };
        let grads = dbm.greedy(greedy, &x, &mut Noise::of_step(1, layer as u64, each))?.grads(None)?;
        let share = if layer == 1 { 1. } else { 0.5 };
        let near = |grad: &Tensor, expected: &[f64], share: f64| -> Result<bool> {
            let off = to_host(grad)?.into_iter().zip(expected).map(|(g, e)| (g + share * e).abs());
            Ok(worst(off) < 5. / (each as f64).sqrt())
        };
        assert!(near(&grads[layer - 1], &expected[0], share)? && near(&grads[layer], &expected[1], 1.)?, "{layer}");
        assert!(near(&grads[2 + layer], &expected[2], 1.)?, "{layer}: {} for {:?}", grads[2 + layer], expected[2]);
        // and nothing else
        for (i, grad) in grads.iter().enumerate().filter(|(i, _)| ![layer - 1, layer, 2 + layer].contains(i)) {
            assert!(to_host(grad)?.iter().all(|g| *g == 0.), "{layer}: {i}");
        }
        assert_eq!(frozen.len(), layer - 1);
    }
    Ok(())
}
