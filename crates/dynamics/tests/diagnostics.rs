//! Effective sample size and R-hat of chains whose own are known.

use candle_core::{DType, Device, Tensor};
use langevin_dynamics::mcmc::View;
use langevin_dynamics::mcmc::diagnostics::{Trace, ess, r_hat};
use langevin_ops::noise::Noise;

const CHAINS: usize = 8;
const STEPS: usize = 4000;

/// x_t = phi x_(t-1) + sqrt(1 - phi^2) z: standard normal, with correlation phi^t at lag t.
fn autoregressive(phi: f64) -> Vec<Vec<f64>> {
    let mut z = Noise::seeds(&(0..CHAINS as u64).collect::<Vec<_>>());
    let mut x = z.gaussian(CHAINS).unwrap();
    let mut chains = vec![vec![]; CHAINS];
    for _ in 0..STEPS {
        let noise = z.gaussian(CHAINS).unwrap();
        x.iter_mut().zip(noise).for_each(|(x, z)| *x = phi * *x + (1. - phi * phi).sqrt() * z);
        chains.iter_mut().zip(&x).for_each(|(chain, x)| chain.push(*x));
    }
    chains
}

/// N (1 - phi) / (1 + phi): the sum of the correlations in closed form.
#[test]
fn the_effective_number_is_that_of_the_correlations() {
    for phi in [0., 0.5, 0.9, -0.5] {
        let truth = (CHAINS * STEPS) as f64 * (1. - phi) / (1. + phi);
        let found = ess(&autoregressive(phi));
        assert!((found / truth - 1.).abs() < 0.15, "phi {phi}: {found}, exact {truth}");
    }
}

/// Four chains of forty draws that any program can make again: v = 0.6 v + the sum of three uniform numbers of a linear
/// congruence - 1.5 + 0.1 c, in chain c.
fn small() -> Vec<Vec<f64>> {
    let mut state = 12_345u64;
    let mut uniform = || {
        state = (state * 1_103_515_245 + 12_345) % (1 << 31);
        state as f64 / f64::from(1u32 << 31)
    };
    let mut chain = |c: u32| {
        let mut v = 0.;
        let mut next = || {
            v = 0.6 * v + uniform() + uniform() + uniform() - 1.5 + 0.1 * f64::from(c);
            v
        };
        (0..40).map(|_| next()).collect()
    };
    (0..4).map(&mut chain).collect()
}

/// R-hat is that of arviz 0.23.4 (`rhat`, method rank), and so is the effective number where Geyer's sum is cut off at once.
/// Elsewhere arviz adds one more correlation to the sum (37.5335, `ess`, method mean): ours is the paper's, in numpy.
#[test]
fn a_small_case_is_that_of_other_programs() {
    let chains = small();
    let turned: Vec<Vec<f64>> = chains
        .iter()
        .map(|chain| chain.iter().enumerate().map(|(t, x)| if t % 2 == 0 { -x } else { *x }).collect())
        .collect();
    for (chains, r, n) in
        [(&chains, 1.1214809858339356, 38.30518745281593), (&turned, 1.0416774681365775, 352.6591972249479)]
    {
        assert!((r_hat(chains) - r).abs() < 1e-9, "{}, should be {r}", r_hat(chains));
        assert!((ess(chains) / n - 1.).abs() < 1e-9, "{}, should be {n}", ess(chains));
    }
}

/// Chains that stay in the modes (2, -2) and (-2, 2): no mean of numbers or squares tells them apart, coordinates do, and so
/// do directions where there are many numbers.
#[test]
fn modes_that_only_coordinates_tell_apart_are_seen() {
    let n = 64;
    for numbers in [2, 40] {
        let mut z = Noise::seeds(&(0..n as u64).collect::<Vec<_>>());
        let mut trace = Trace::default();
        for _ in 0..50 {
            let noise =
                langevin_ops::shape::to_host(&z.normal((n, numbers), DType::F64, &Device::Cpu).unwrap()).unwrap();
            let sign = |i: usize| if (i / numbers + i % numbers).is_multiple_of(2) { 2. } else { -2. };
            let x: Vec<f64> = noise.iter().enumerate().map(|(i, z)| sign(i) + 0.2 * z).collect();
            let x = Tensor::from_vec(x, (n, numbers), &Device::Cpu).unwrap();
            trace.record(&View { score: x.clone(), x, energy: None }).unwrap();
        }
        assert!(trace.r_hat() > 1.5 && trace.ess() < 5. * n as f64, "{numbers}: {} {}", trace.r_hat(), trace.ess());
    }
}

#[test]
fn r_hat_sees_what_has_not_mixed() {
    let good = autoregressive(0.5);
    assert!((0.99..1.01).contains(&r_hat(&good)), "{}", r_hat(&good));
    let change = |f: &dyn Fn(usize, usize, f64) -> f64| {
        let one = |(n, chain): (usize, &Vec<f64>)| chain.iter().enumerate().map(|(t, x)| f(n, t, *x)).collect();
        r_hat(&good.iter().enumerate().map(one).collect::<Vec<Vec<f64>>>())
    };
    let elsewhere = change(&|n, _, x| if n == 0 { x + 2. } else { x });
    let wider = change(&|n, _, x| if n == 0 { 4. * x } else { x });
    let drifting = change(&|_, t, x| x + 2. * t as f64 / STEPS as f64);
    assert!(elsewhere > 1.05 && wider > 1.05 && drifting > 1.05, "{elsewhere} {wider} {drifting}");
    // ranks do not care what scale the draws are on
    let bent = change(&|_, _, x| (5. * x).exp());
    assert!((0.99..1.01).contains(&bent), "{bent}");
}

#[test]
fn where_nothing_can_be_said_nothing_is() {
    for chains in [vec![], vec![vec![1., 2., 3.]], vec![vec![1.; 9]; 2], vec![vec![0., f64::NAN, 1., 2., 3.]]] {
        assert!(ess(&chains).is_nan() && r_hat(&chains).is_nan(), "{chains:?}");
    }
    let uneven = [vec![1., 2., 3., 4., 5.], vec![1., 2., 3., 4.]];
    assert!(ess(&uneven).is_nan() && r_hat(&uneven).is_nan());
}

/// A trace is as bad as the worst that is watched: here the energy.
#[test]
fn a_trace_is_as_bad_as_its_worst() {
    let (fast, slow) = (autoregressive(0.), autoregressive(0.9));
    let mut trace = Trace::default();
    for t in 0..STEPS {
        let x: Vec<f64> = fast.iter().map(|chain| chain[t]).collect();
        let x = Tensor::from_vec(x, (CHAINS, 1), &Device::Cpu).unwrap();
        let energy = slow.iter().map(|chain| chain[t]).collect();
        trace.record(&View { score: x.clone(), x, energy: Some(energy) }).unwrap();
    }
    assert_eq!((trace.chains(), trace.ess()), (CHAINS, ess(&slow)));
    let mut more = trace.clone();
    more.append(trace.clone());
    assert_eq!(more.chains(), 2 * CHAINS);
    let few = Tensor::zeros((2, 1), DType::F64, &Device::Cpu).unwrap();
    assert!(trace.record(&View { score: few.clone(), x: few, energy: None }).is_err());
}
