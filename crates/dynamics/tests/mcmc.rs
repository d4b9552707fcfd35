//! Kernels against what theory says of them.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::Plain;
use langevin_dynamics::density::Evaluated;
use langevin_dynamics::ladder::{NoiseLevel, Tempered, swap, sweep};
use langevin_dynamics::mcmc::{AnyKernel, Chains, Hmc, Kernel, Langevin, Mala, Stats, difference, mala};
use langevin_dynamics::process::AnyProcess;
use langevin_dynamics::{Denoiser, Density, Differentiable, Mixture, Score};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{sum_per_sample, to_host};

fn seeds(n: usize) -> Vec<u64> {
    (0..n as u64).collect()
}

/// E = sum_i (x_i - m)^2 / (2 v_i) with variances 1 and 4.
fn bowl(x: &Tensor) -> Result<Tensor> {
    let precision = Tensor::new(&[[1f64, 0.25]], x.device())?.to_dtype(x.dtype())?;
    sum_per_sample(&((x - 3.)?.sqr()?.broadcast_mul(&precision)? * 0.5)?)
}

#[test]
fn a_closure_is_an_energy_and_its_score() {
    let x = Tensor::new(&[[1f64, 2.], [5., -1.]], &Device::Cpu).unwrap();
    let (energy, grad) = bowl.energy_grad(&x).unwrap();
    assert_eq!(energy.to_vec1::<f64>().unwrap(), [2.125, 4.]);
    assert_eq!(to_host(&grad).unwrap(), [-2., -0.25, 2., -1.]);
    assert_eq!(to_host(&bowl.score(&x).unwrap()).unwrap(), [2., 0.25, -2., 1.]);
}

/// Unadjusted, a normal of variance v becomes one of variance v / (1 - eps/(2v)).
#[test]
fn langevin_has_the_variance_that_its_step_gives() {
    let (n, z) = (10_000, &mut Noise::seeds(&seeds(10_000)));
    let mut chains = Chains::new(&bowl, &Tensor::zeros((n, 2), DType::F64, &Device::Cpu).unwrap()).unwrap();
    let kernel = Langevin { step: 0.5 };
    let stats = kernel.run(&bowl, &mut chains, 50, z).unwrap();
    assert_eq!((stats.proposed, stats.nan, stats.acceptance()), (50 * n as u64, 0, 1.));
    let mut squares = [0.; 2]; // mean over chains and 40 steps of (x - 3)^2
    for _ in 0..40 {
        kernel.step(&bowl, &mut chains, z).unwrap();
        for row in to_host(&chains.at.x).unwrap().chunks(2) {
            (0..2).for_each(|i| squares[i] += (row[i] - 3.).powi(2) / (40 * n) as f64);
        }
    }
    for (found, variance) in squares.into_iter().zip([1. / 0.75, 4. / (1. - 0.5 / 8.)]) {
        assert!((found / variance - 1.).abs() < 0.02, "variance {found}, should be {variance}");
    }
}

#[test]
fn a_chain_that_is_lost_stays_where_it_was() {
    // beyond 2 the energy has no gradient: the root of a negative number
    let edge = |x: &Tensor| sum_per_sample(&x.affine(-1., 2.)?.powf(1.5)?);
    let start = Tensor::new(&[[-200f64], [3.]], &Device::Cpu).unwrap();
    for kernel in AnyKernel::defaults().into_iter().filter(|kernel| kernel.check_by_score().is_ok()) {
        let mut chains = Chains::new(&edge, &start).unwrap();
        let stats = kernel.get().run(&edge, &mut chains, 1, &mut Noise::seeds(&[0, 1])).unwrap();
        assert_eq!((stats.proposed, stats.nan), (2, 1), "{kernel:?}");
        let (before, after) = (to_host(&start).unwrap(), to_host(&chains.at.x).unwrap());
        let moved = stats.accepted == 1 && after[0] != before[0];
        assert!(moved && after[0].is_finite() && after[1] == before[1], "{kernel:?} {after:?}");
    }
}

/// At one noise level of a mixture, Langevin leaves exact draws of p_t what they are.
#[test]
fn langevin_leaves_a_level_as_it_is() {
    let n = 5000;
    let mixture = Mixture::isotropic(&[0.6, 0.4], &[vec![-1.5], vec![1.5]], &[0.1, 0.2]).unwrap();
    let process = AnyProcess::named("vp").unwrap();
    let t = [0.2];
    let m = process.get().marginal(t[0]);
    let model = mixture.under(process.get());
    let z = &mut Noise::seeds(&seeds(n));
    let x0 = mixture.sample(n, z).unwrap();
    let x = ((x0 * m.alpha).unwrap()
        + (z.normal_like(&Tensor::zeros((n, 1), DType::F64, &Device::Cpu).unwrap()).unwrap() * m.sigma).unwrap())
    .unwrap();
    let moments = |x: &Tensor| {
        let x = to_host(x).unwrap();
        let mean = x.iter().sum::<f64>() / n as f64;
        (
            mean,
            x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64,
            x.iter().filter(|x| **x < 0.).count() as f64 / n as f64,
        )
    };
    let before = moments(&x);
    let level = NoiseLevel { model: &model, t: &t };
    let mut chains = Chains::new(&level, &x).unwrap();
    Langevin { step: 0.01 }.run(&level, &mut chains, 100, z).unwrap();
    let after = moments(&chains.at.x);
    // each of both is within a standard error of the truth, so they differ by sqrt(2) of it: of the mean, of the variance
    // (whose own variance is at most that of a normal, for two modes apart), of a share
    let n = n as f64;
    let bounds = [(before.1 / n).sqrt(), before.1 * (2. / n).sqrt(), (before.2 * (1. - before.2) / n).sqrt()];
    let off = [before.0 - after.0, before.1 - after.1, before.2 - after.2];
    for (off, bound) in off.iter().zip(bounds) {
        assert!(off.abs() < 5. * std::f64::consts::SQRT_2 * bound, "{before:?} {after:?}");
    }
}

/// A step that leaves Langevin dynamics with a third too much variance: the test of acceptance puts it right, and so it does
/// with any mass. Within 5 standard errors of n independent chains.
#[test]
fn a_test_of_acceptance_leaves_no_bias() {
    let n = 20_000;
    let masses = Hmc { step: 0.8, leapfrogs: 3, inverse_mass: vec![1., 4.], ..Hmc::default() };
    let kernels: [AnyKernel; 3] = [
        Mala { step: 0.5, ..Mala::default() }.into(),
        Hmc { step: 0.8, leapfrogs: 3, ..Hmc::default() }.into(),
        masses.into(),
    ];
    for kernel in kernels {
        let z = &mut Noise::seeds(&seeds(n));
        let mut chains = Chains::new(&bowl, &Tensor::zeros((n, 2), DType::F64, &Device::Cpu).unwrap()).unwrap();
        let stats = kernel.get().run(&bowl, &mut chains, 60, z).unwrap();
        assert!((0.5..0.999).contains(&stats.acceptance()), "{kernel:?} {stats:?}");
        let x = to_host(&chains.at.x).unwrap();
        for (i, variance) in [1., 4.].into_iter().enumerate() {
            let mean = x.iter().skip(i).step_by(2).map(|x| x - 3.).sum::<f64>() / n as f64;
            let square = x.iter().skip(i).step_by(2).map(|x| (x - 3.).powi(2)).sum::<f64>() / n as f64;
            let (mean_error, square_error) = ((variance / n as f64).sqrt(), variance * (2. / n as f64).sqrt());
            assert!(mean.abs() < 5. * mean_error, "{kernel:?}: mean {mean}");
            assert!((square - variance).abs() < 5. * square_error, "{kernel:?}: variance {square}, exact {variance}");
        }
    }
}

/// The line integral of a score: exact for what the quadrature is exact for, and elsewhere within the error that it tells.
#[test]
fn a_score_alone_tells_differences_of_energy() {
    struct Power(i32);
    impl Score for Power {
        fn score(&self, x: &Tensor) -> Result<Tensor> {
            x.powf(f64::from(self.0 - 1))?.affine(-f64::from(self.0), 0.) // of E = x^n
        }
    }
    impl Density for Power {
        fn as_score(&self) -> Option<&dyn Score> {
            Some(self)
        }
    }
    let (from, to) = (-0.7f64, 1.2f64);
    let at = |x: f64| Tensor::new(&[[x]], &Device::Cpu).unwrap();
    let rise = |n: i32| {
        let (a, b) = (Power(n).evaluate(&at(from)).unwrap(), Power(n).evaluate(&at(to)).unwrap());
        let found = difference(&Power(n), &a, &b).unwrap();
        ((found.value[0] - (to.powi(n) - from.powi(n))).abs(), found.error[0])
    };
    assert!(rise(6).0 < 1e-12 && rise(6).1 < 1e-12, "{:?}", rise(6));
    assert!(rise(10).0 < 1e-12 && rise(10).1 > 1e-3, "{:?}", rise(10));
    assert!(rise(14).0 > 1e-6 && rise(14).0 < rise(14).1, "{:?}", rise(14));

    let n = 500;
    let mixture = Mixture::isotropic(&[0.6, 0.4], &[vec![-1.5, 0.], vec![1.5, 0.5]], &[0.1, 0.2]).unwrap();
    let process = AnyProcess::named("vp").unwrap();
    let exact = mixture.under(process.get());
    let (t, z) = ([0.2], &mut Noise::seeds(&seeds(n)));
    let x = mixture.sample(n, z).unwrap();
    let xi = z.normal_like(&x).unwrap();
    let propose = |model: &dyn Denoiser| {
        let level = NoiseLevel { model, t: &t };
        mala::propose(&level, &level.evaluate(&x).unwrap(), &[0.05], &xi).unwrap()
    };
    let (truth, line) = (propose(&exact), propose(&Plain(&exact)));
    assert!(truth.to.energy.is_some() && line.to.energy.is_none());
    let mut off = 0f64;
    for ((a, b), error) in truth.log_ratio.iter().zip(&line.log_ratio).zip(&line.error) {
        assert!((a - b).abs() < error + 1e-9, "{a} {b} {error}");
        off = off.max((a - b).abs());
    }
    assert!(off > 1e-9 && off < 1e-2, "{off}");
}

/// The same chains whether the model tells its energy in f32 or f64, or a score alone.
#[test]
fn the_error_of_energies_is_their_rounding() {
    let far = |x: &Tensor| sum_per_sample(&(x.sqr()? * 0.5)?)? + 1e6;
    for (dtype, most) in [(DType::F64, 1e-9), (DType::F32, 0.2)] {
        let at = |v: f64| far.evaluate(&Tensor::new(&[[v]], &Device::Cpu).unwrap().to_dtype(dtype).unwrap()).unwrap();
        let found = difference(&far, &at(1.), &at(2.)).unwrap();
        assert!((found.value[0] - 1.5).abs() <= found.error[0] && found.error[0] < most, "{found:?}");
    }
}

/// Constants of the two densities cancel, and the swap of two equal densities is always accepted.
#[test]
fn swaps_need_no_normaliser() {
    let shifted = |by: f64| move |x: &Tensor| (bowl(x)? * 0.3)? + by;
    let n = 300;
    let z = &mut Noise::seeds(&seeds(n));
    let x = z.normal((2 * n, 2), DType::F64, &Device::Cpu);
    assert!(x.is_err(), "noise is one stream a chain");
    let (a, b) = (Tensor::zeros((n, 2), DType::F64, &Device::Cpu).unwrap(), z.normal((n, 2), DType::F64, &Device::Cpu));
    let (a, b) = ((a + 3.).unwrap(), (b.unwrap() + 3.).unwrap());
    let of = |by: f64| {
        let hot = shifted(by);
        let z = &mut Noise::seeds(&seeds(n));
        let (at_a, at_b) = (bowl.evaluate(&a).unwrap(), hot.evaluate(&b).unwrap());
        let (low, high, stats) = swap(&bowl, &hot, &at_a, &at_b, z).unwrap();
        (to_host(&low.x).unwrap(), to_host(&high.x).unwrap(), low.energy.unwrap(), stats.accepted)
    };
    let (low, high, energy, accepted) = of(0.);
    assert_eq!((&low, &high, accepted), (&of(1e3).0, &of(1e3).1, of(1e3).3));
    assert!(accepted > 0 && accepted < n as u64, "{accepted}");
    let fresh: Evaluated = bowl.evaluate(&Tensor::from_vec(low.clone(), (n, 2), &Device::Cpu).unwrap()).unwrap();
    assert_eq!(energy, fresh.energy.unwrap());
    // what is at one is what was at either
    let pairs = low.iter().zip(&high).zip(to_host(&a).unwrap().into_iter().zip(to_host(&b).unwrap()));
    pairs.for_each(|((low, high), (a, b))| assert!((*low, *high) == (a, b) || (*low, *high) == (b, a)));
    let (at_a, at_b) = (bowl.evaluate(&a).unwrap(), bowl.evaluate(&b).unwrap());
    assert_eq!(swap(&bowl, &bowl, &at_a, &at_b, z).unwrap().2.acceptance(), 1.);
}

/// What does not go together is named; nothing at all is no error.
#[test]
fn rungs_go_with_densities() {
    let z = &mut Noise::seeds(&seeds(3));
    let kernel = AnyKernel::from(Mala::default());
    let (kernel, ladder) = (kernel.get(), |n: usize| Tempered::new(&bowl, vec![1.; n]).unwrap());
    let rung = |n: usize| Chains::new(&bowl, &Tensor::zeros((n, 2), DType::F64, &Device::Cpu).unwrap()).unwrap();
    let fails = |rungs: &mut [Chains], of: usize, z: &mut Noise| {
        sweep(kernel, &ladder(of), 0, rungs, 0, z).unwrap_err().to_string()
    };
    let why = fails(&mut [rung(3), rung(3)], 1, z);
    assert!(why.contains("rungs 0 to 2 of a ladder of 1"), "{why}");
    let why = fails(&mut [rung(3), rung(2)], 2, z);
    assert!(why.contains("[3, 2] and [2, 2]"), "{why}");
    assert!(sweep(kernel, &ladder(0), 0, &mut [], 0, z).unwrap().is_empty());
    // the last pair, then the one before
    let mut rungs = [rung(3), rung(3), rung(3)];
    let mut turns = [0, 1].map(|turn| {
        let swept = sweep(kernel, &ladder(3), 0, &mut rungs, turn, z).unwrap();
        swept.iter().map(|at| at.swapped.is_some()).collect::<Vec<_>>()
    });
    turns.iter_mut().for_each(|turn| assert!(!turn.remove(0)));
    assert_eq!(turns, [[false, true], [true, false]]);
}

/// Step sizes adapt chain by chain: a chain is its seed's own, whatever runs beside it.
#[test]
fn chains_adapt_by_themselves() {
    let go = |kernel: &AnyKernel, seeds: &[u64]| {
        let start = Tensor::zeros((seeds.len(), 2), DType::F64, &Device::Cpu).unwrap();
        let mut chains = Chains::new(&bowl, &start).unwrap();
        kernel.get().run(&bowl, &mut chains, 60, &mut Noise::seeds(seeds)).unwrap();
        to_host(&chains.at.x).unwrap()
    };
    for kernel in [Mala { adapt: 50, ..Mala::default() }.into(), Hmc { adapt: 50, ..Hmc::default() }.into()] {
        let (all, parts) = (go(&kernel, &[0, 1, 2]), [go(&kernel, &[0]), go(&kernel, &[1, 2])].concat());
        assert_eq!(all, parts, "{kernel:?}");
    }
}

/// At another density chains go on from the sizes that they have, and what they find belongs to each alone.
#[test]
fn step_sizes_follow_a_density_that_grows() {
    let n = 50;
    let wide = |by: f64| move |x: &Tensor| bowl(&(((x - 3.)? / by)? + 3.)?);
    for kernel in [AnyKernel::from(Mala::default()), Hmc::default().into()] {
        let z = &mut Noise::seeds(&seeds(n));
        let mut chains = Chains::new(&bowl, &Tensor::full(3., (n, 2), &Device::Cpu).unwrap()).unwrap();
        let mut acceptance = vec![];
        for by in [1., 5., 25., 125.] {
            let (kernel, wide) = (kernel.get(), wide(by));
            chains.at = wide.evaluate(&chains.at.x).unwrap();
            chains.adapt(&wide, kernel, 20, z).unwrap();
            acceptance.push(kernel.run(&wide, &mut chains, 40, z).unwrap().acceptance());
        }
        // with sizes that stay all would be accepted at last, and nothing would move
        assert!(acceptance.iter().all(|rate| (0.4..0.985).contains(rate)), "{kernel:?}: {acceptance:?}");
    }
}

/// Proposals that ran away or are lost have no energy to be off by.
#[test]
fn the_mean_error_is_of_proposals_that_have_one() {
    let stats = Stats { proposed: 10, accepted: 4, diverged: 3, nan: 2, error: 0.5 };
    assert_eq!(stats.mean_error(), 0.1);
}

#[test]
fn wrong_options_are_named() {
    for (text, word) in [
        (r#"{"name": "hmc", "leapfrogs": 0}"#, "leapfrogs"),
        (r#"{"name": "hmc", "jitter": 1.5}"#, "jitter"),
        (r#"{"name": "hmc", "inverse_mass": [1, -1]}"#, "inverse_mass"),
        (r#"{"name": "mala", "step": 0}"#, "step"),
        (r#"{"name": "mala", "target": 1}"#, "target"),
        (r#"{"name": "langevin", "step": -1}"#, "step"),
        (r#"{"name": "langevin", "adapt": 1}"#, "adapt"),
    ] {
        let why = serde_json::from_str::<AnyKernel>(text).unwrap_err().to_string();
        assert!(why.contains(word), "{text}: {why}");
    }
    let mut chains = Chains::new(&bowl, &Tensor::zeros((1, 2), DType::F64, &Device::Cpu).unwrap()).unwrap();
    let three = Hmc { inverse_mass: vec![1.; 3], ..Hmc::default() };
    let why = three.run(&bowl, &mut chains, 1, &mut Noise::seeds(&[0])).unwrap_err().to_string();
    assert!(why.contains("inverse_mass has 3 numbers and a sample 2"), "{why}");
}
