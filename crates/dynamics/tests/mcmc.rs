//! Langevin dynamics against what theory says of it.

use candle_core::{DType, Device, Result, Tensor};
use langevin_dynamics::Mixture;
use langevin_dynamics::mcmc::{Chain, Energy, Kernel, Langevin, Level, Score};
use langevin_dynamics::process::AnyProcess;
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
    let mut chain = Chain { x: Tensor::zeros((n, 2), DType::F64, &Device::Cpu).unwrap() };
    let mut kernel = Langevin { step: 0.5 };
    let stats = kernel.run(&bowl, &mut chain, 50, z).unwrap();
    assert_eq!((stats.proposed, stats.nan, stats.acceptance()), (50 * n as u64, 0, 1.));
    let mut squares = [0.; 2]; // mean over chains and 40 steps of (x - 3)^2
    for _ in 0..40 {
        kernel.step(&bowl, &mut chain, z).unwrap();
        for row in to_host(&chain.x).unwrap().chunks(2) {
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
    let start = Tensor::new(&[[0f64], [3.]], &Device::Cpu).unwrap();
    let mut chain = Chain { x: start.clone() };
    let stats = Langevin { step: 1e-4 }.run(&edge, &mut chain, 1, &mut Noise::seeds(&[0, 1])).unwrap();
    assert_eq!((stats.proposed, stats.nan), (2, 1));
    let (before, after) = (to_host(&start).unwrap(), to_host(&chain.x).unwrap());
    assert!(after[0] != before[0] && after[0].is_finite() && after[1] == before[1], "{after:?}");
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
    let mut chain = Chain { x };
    Langevin { step: 0.01 }.run(&Level { model: &model, t: &t }, &mut chain, 100, z).unwrap();
    let after = moments(&chain.x);
    assert!((before.0 - after.0).abs() < 0.05 && (before.1 - after.1).abs() < 0.08, "{before:?} {after:?}");
    assert!((before.2 - after.2).abs() < 0.03, "{before:?} {after:?}");
}
