//! Effective sample size and R-hat of chains whose own are known.

use candle_core::{DType, Device, Tensor};
use langevin_dynamics::density::Evaluated;
use langevin_dynamics::mcmc::diagnostics::{LEAST, Trace, ess, ess_bulk, ess_tail, r_hat};
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

/// `f` of each draw of `small`, by chain and step.
fn change(f: impl Fn(usize, usize, f64) -> f64) -> Vec<Vec<f64>> {
    let one = |(n, chain): (usize, Vec<f64>)| chain.iter().enumerate().map(|(t, v)| f(n, t, *v)).collect();
    small().into_iter().enumerate().map(one).collect()
}

/// The figures of arviz 0.23.4: `ess` of the methods mean, bulk and tail, and `rhat` of the method rank.
#[test]
fn small_cases_are_those_of_arviz() {
    let first = |steps: usize| small().iter().map(|chain| chain[..steps].to_vec()).collect::<Vec<_>>();
    let turned = change(|_, t, v| if t % 2 == 0 { -v } else { v });
    let one_is_still = change(|n, _, v| if n == 2 { 0.1 } else { v });
    for (name, chains, [mean, bulk, tail, r]) in [
        ("plain", small(), [37.53345184665256, 37.67675530110268, 95.79309215910948, 1.1214809858339356]),
        ("turned", turned, [352.6591972249479, 352.6591972249479, 181.99526426305675, 1.0416774681365775]),
        (
            "heavy",
            change(|_, _, v| v.powi(3)),
            [65.93808083153498, 37.67675530110268, 95.79309215910948, 1.1214809858339356],
        ),
        ("odd", first(37), [27.510165507972886, 27.716223122743553, 89.40296400846856, 1.1483237450285082]),
        ("short", first(11), [14.827750316827641, 15.666513995699495, 28.450704225352105, 1.4425414709087678]),
        (
            "ties",
            change(|_, _, v| (2. * v).floor()),
            [44.422809972773834, 44.87521516008732, 64.84478621639319, 1.1038442070195431],
        ),
        ("still", one_is_still, [21.67137781468412, 22.926671120361537, 93.60953371190915, 1.5780568059711884]),
        ("one chain", small()[..1].to_vec(), [9.982449480071896, 12.968042006142774, 18.199233716475067, f64::NAN]),
    ] {
        let found = [ess, ess_bulk, ess_tail, r_hat].map(|f| f(&chains));
        for (found, theirs) in found.into_iter().zip([mean, bulk, tail, r]).filter(|(_, theirs)| !theirs.is_nan()) {
            assert!((found / theirs - 1.).abs() < 1e-10, "{name}: {found}, should be {theirs}");
        }
    }
}

/// A chain that never moves says nothing, whatever the number that it stays at.
#[test]
fn a_chain_that_never_moves_says_nothing() {
    for at in [0., 0.1, 0.3, 1., -7.7, 1e8 + 0.1, 1e-300, 1e300, f64::MIN_POSITIVE] {
        for (chains, steps) in [(1, 4), (1, 10), (2, 9), (3, 1000), (7, 33)] {
            let still = vec![vec![at; steps]; chains];
            let found = [ess, ess_bulk, ess_tail, r_hat].map(|f| f(&still));
            assert!(found.iter().all(|v| v.is_nan()), "{at}, {chains} chains of {steps}: {found:?}");
        }
    }
    // each at its own place: they have not mixed at all, and one draw of each is as good as all
    for places in [[0.1, 0.7, 1.3, 3.1], [1e8, 1e8 + 0.1, 1e8 + 0.2, 1e8 + 0.7], [-1., 0., 0., 0.]] {
        for steps in [LEAST, 12, 301] {
            let apart: Vec<Vec<f64>> = places.iter().map(|at| vec![*at; steps]).collect();
            let all = (places.len() * steps) as f64;
            assert_eq!(r_hat(&apart), f64::INFINITY, "{places:?} of {steps}");
            for ess in [ess(&apart), ess_bulk(&apart)] {
                assert!(ess > 0. && ess <= all.min(14.), "{places:?} of {steps}: {ess}");
            }
        }
    }
}

/// A small motion far from 0 is told as that around 0.
#[test]
fn figures_do_not_depend_on_where_the_origin_is() {
    let grid = |v: f64| (v * 1024.).round() / 1024.; // so that the far numbers hold it exactly
    let near = change(|_, _, v| grid(v));
    for far in [1e8, -1e11, 4e12] {
        let moved = change(|_, _, v| far + grid(v));
        for (f, name) in
            [(ess as fn(&[Vec<f64>]) -> f64, "ess"), (ess_bulk, "bulk"), (ess_tail, "tail"), (r_hat, "R-hat")]
        {
            assert!((f(&moved) / f(&near) - 1.).abs() < 1e-9, "{name} at {far}: {} {}", f(&moved), f(&near));
        }
    }
    // and of any unit
    let tiny = change(|_, _, v| 1e-20 * v);
    assert!((ess(&tiny) / ess(&small()) - 1.).abs() < 1e-9, "{}", ess(&tiny));
}

/// Chains of so few steps that nothing is known of more than one lag are not taken for independent draws.
#[test]
fn short_chains_are_not_taken_for_free_of_correlation() {
    let slow = autoregressive(0.95);
    for steps in 4..10 {
        let short: Vec<Vec<f64>> = slow.iter().map(|chain| chain[..steps].to_vec()).collect();
        let found = ess(&short);
        assert!(found < 0.6 * (CHAINS * steps) as f64, "{steps} steps: {found} of {}", CHAINS * steps);
    }
}

/// What a trace says of chains none of which moves, of one among others, and of one of a single step.
#[test]
fn a_trace_counts_the_chains_that_are_stuck() {
    let trace = |x: &dyn Fn(usize, usize) -> f64, steps: usize| {
        let mut trace = Trace::default();
        for t in 0..steps {
            let x = Tensor::from_vec((0..4).map(|n| x(n, t)).collect::<Vec<f64>>(), (4, 1), &Device::Cpu).unwrap();
            trace.record(&Evaluated { score: Some(x.clone()), x, energy: Some(vec![0.5; 4]) }).unwrap();
        }
        trace
    };
    let moved = small();
    let none = trace(&|n, _| 0.1 + n as f64, 40);
    assert!(none.stuck() == 4 && none.ess().is_nan() && none.ess_bulk().is_nan() && none.ess_tail().is_nan());
    assert_eq!(none.r_hat(), f64::INFINITY);
    assert!(trace(&|_, _| 0.1, 40).r_hat().is_nan());
    let one = trace(&|n, t| if n == 2 { 0.1 } else { moved[n][t] }, 40);
    assert!(one.stuck() == 1 && one.ess() > 1. && one.r_hat() > 1.1, "{} {}", one.ess(), one.r_hat());
    assert_eq!((trace(&|n, t| moved[n][t], 40).stuck(), trace(&|_, _| 0.1, 1).stuck()), (0, 0));
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
            trace.record(&Evaluated { score: Some(x.clone()), x, energy: None }).unwrap();
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
        for f in [ess, ess_bulk, ess_tail, r_hat] {
            assert!(f(&chains).is_nan(), "{chains:?}");
        }
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
        trace.record(&Evaluated { score: Some(x.clone()), x, energy: Some(energy) }).unwrap();
    }
    assert_eq!((trace.chains(), trace.ess()), (CHAINS, ess(&slow)));
    let mut more = trace.clone();
    more.append(trace.clone());
    assert_eq!(more.chains(), 2 * CHAINS);
    let few = Tensor::zeros((2, 1), DType::F64, &Device::Cpu).unwrap();
    assert!(trace.record(&Evaluated { score: Some(few.clone()), x: few, energy: None }).is_err());
}
