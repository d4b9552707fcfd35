//! Chains that go back along a ladder: their mean weight is the density of annealing itself, by sums over all states.

mod common;
#[path = "common/machine.rs"]
mod machine;

use candle_core::{DType, Device, Result, Tensor};
use common::mixture;
use langevin_dynamics::ladder::{Base, Geometric, Ladder, NoiseLevels, Reverse};
use langevin_dynamics::mcmc::{AnyKernel, Gibbs, Hmc, Langevin, Mala};
use langevin_dynamics::process::AnyProcess;
use langevin_dynamics::{Density, Differentiable, Energy};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{sum_per_sample, to_host};
use langevin_ops::stats::{log_gaussian, mean_and_error};
use machine::{At, Cooling, MACHINE};

const CPU: &Device = &Device::Cpu;
const STATES: usize = 16;

fn back(kernel: &AnyKernel, steps: usize) -> Reverse<'_> {
    Reverse { kernel: kernel.get(), steps, chains: 1, at_once: 100_000, seed: 1 }
}

fn names(n: usize) -> Vec<u64> {
    (0..n as u64).collect()
}

fn quiet(_: usize, _: usize) -> Result<()> {
    Ok(())
}

/// The density after a step of Gibbs on the bits 0, 1, 2, 3 in turn, from `p`.
fn swept(p: &[f64], beta: f64) -> Vec<f64> {
    (0..4).fold(p.to_vec(), |p, bit| {
        let mut next = vec![0.; STATES];
        for (state, p) in p.iter().enumerate() {
            let x = [0, 1, 2, 3].map(|i| (state >> i & 1) as f64);
            let on = 1. / (1. + (-beta * MACHINE.field(bit, &x)).exp());
            next[state | 1 << bit] += p * on;
            next[state & !(1 << bit)] += p * (1. - on);
        }
        next
    })
}

/// E[w] = p_ann(v) at every state v, p_ann by the transition matrices. In some states the density of the last rung is far from
/// it, and so is that of annealing with the bits in reverse order, which a sweep that is not reversed would give.
#[test]
fn the_mean_weight_is_the_density_of_annealing() -> Result<()> {
    let (kernel, each) = (Gibbs {}.into(), 20_000);
    let states: Vec<f64> = (0..STATES).flat_map(|s| (0..4).map(move |i| (s >> i & 1) as f64)).collect();
    let states = Tensor::from_vec(states, (STATES, 4), CPU)?;
    for (betas, steps) in [(vec![0., 2.5], 1), (vec![0., 1.2, 2.5], 1), (vec![0., 0.3, 2.5], 2)] {
        let mut p = vec![1. / STATES as f64; STATES];
        for &beta in &betas[1..] {
            (0..steps).for_each(|_| p = swept(&p, beta));
        }
        let (ladder, way) = (Cooling(&MACHINE, betas.clone()), back(&kernel, steps));
        let x = states.repeat((each, 1))?;
        let w: Vec<f64> = way.log_p(&ladder, &x, &names(STATES * each), &mut quiet)?.iter().map(|w| w.exp()).collect();
        let (exact, _) = MACHINE.exact(betas[betas.len() - 1]);
        let (mut total, mut apart) = (vec![0.; each], 0f64);
        for (s, p) in p.iter().enumerate() {
            let here: Vec<f64> = w.iter().skip(s).step_by(STATES).copied().collect();
            let (mean, error) = mean_and_error(&here);
            assert!((mean - p).abs() < 5. * error, "{betas:?}: state {s}: {mean} +- {error} for {p}");
            apart = apart.max((exact[s].1 - p).abs() / error);
            total.iter_mut().zip(here).for_each(|(total, w)| *total += w);
        }
        let (total, error) = mean_and_error(&total);
        assert!((total - 1.).abs() < 4. * error && error < 0.02, "{betas:?}: {total} +- {error} for 1");
        assert!(apart > 5., "{betas:?}: annealing is as good as exact, which tests nothing");
    }
    Ok(())
}

/// N(0, v) in two dimensions, and E without the normaliser but where `normal`.
struct Bowl {
    v: f64,
    normal: bool,
}

impl Energy for Bowl {
    fn energy(&self, x: &Tensor) -> Result<Tensor> {
        let constant = if self.normal { (2. * std::f64::consts::PI * self.v).ln() } else { 0. };
        sum_per_sample(&(x.sqr()? * (0.5 / self.v))?)? + constant
    }
}

impl Differentiable for Bowl {}

impl Density for Bowl {
    fn as_differentiable(&self) -> Option<&dyn Differentiable> {
        Some(self)
    }
}

impl Base for Bowl {
    fn draw(&self, like: &Tensor, z: &mut Noise) -> Result<Tensor> {
        z.normal_like(like)? * self.v.sqrt()
    }
}

/// The integral of E[w] is 1, by draws of a wider Gaussian; for draws of the target itself the mean of w / f is 1 / Z, and that of
/// ln f - ln w is above ln Z, the nearer the more rungs there are.
#[test]
fn kernels_with_a_test_of_acceptance_go_back() -> Result<()> {
    let (base, target, n) = (Bowl { v: 1., normal: true }, Bowl { v: 0.5, normal: false }, 40_000);
    let log_z = (2. * std::f64::consts::PI * target.v).ln();
    let normal = Noise::of_step(5, 0, n).normal((n, 2), DType::F64, CPU)?;
    for kernel in [AnyKernel::from(Mala::default()), Hmc::default().into()] {
        let mut gaps = vec![];
        for rungs in [3, 24] {
            let path =
                Geometric::new(&base, &target, (0..rungs).map(|i| f64::from(i) / f64::from(rungs - 1)).collect())?;
            let log_w = |x: &Tensor| back(&kernel, 1).log_p(&path, x, &names(n), &mut quiet);
            let x = (&normal * 1.2)?;
            let q = log_gaussian(&x, 1.2)?;
            let (total, error) =
                mean_and_error(&log_w(&x)?.iter().zip(q).map(|(w, q)| (w - q).exp()).collect::<Vec<_>>());
            assert!((total - 1.).abs() < 4. * error && error < 0.05, "{kernel:?}: {total} +- {error} for 1");
            let x = (&normal * target.v.sqrt())?;
            let log_f = to_host(&target.energy(&x)?.neg()?)?;
            let at: Vec<f64> = log_w(&x)?.iter().zip(log_f).map(|(w, f)| f - w).collect();
            let (mean, error) = mean_and_error(&at.iter().map(|l| (log_z - l).exp()).collect::<Vec<_>>());
            assert!((mean - 1.).abs() < 4. * error && error < 0.05, "{kernel:?}: {mean} +- {error} for 1");
            let (mean, error) = mean_and_error(&at);
            assert!(mean > log_z - 3. * error, "{kernel:?}: {mean} +- {error} is below {log_z}");
            gaps.push(mean - log_z);
        }
        assert!(gaps[1] < 0.5 * gaps[0], "{kernel:?}: {gaps:?}");
    }
    Ok(())
}

/// A chain is that of its state's number and its own, to the bit.
#[test]
fn the_numbers_are_those_of_any_batch() -> Result<()> {
    let (kernel, ladder) = (Gibbs {}.into(), Cooling(&MACHINE, vec![0., 0.5, 1.]));
    let x = Noise::of_step(2, 0, 7).bernoulli(&Tensor::zeros((7, 4), DType::F64, CPU)?)?;
    let way = Reverse { chains: 5, ..back(&kernel, 1) };
    let mut told = vec![];
    let all = way.log_p(&ladder, &x, &[3, 1, 4, 15, 9, 2, 6], &mut |done, of| {
        told.push((done, of));
        Ok(())
    })?;
    assert_eq!(told, [(1, 2), (2, 2)]);
    for at_once in [1, 3, 34] {
        let other = Reverse { at_once, ..way }.log_p(&ladder, &x, &[3, 1, 4, 15, 9, 2, 6], &mut quiet)?;
        assert_eq!(all, other, "{at_once} at once");
    }
    assert_eq!(way.log_p(&ladder, &x.narrow(0, 3, 2)?, &[15, 9], &mut quiet)?, all[3..5]);
    assert_ne!(way.log_p(&ladder, &x.narrow(0, 3, 2)?, &[15, 8], &mut quiet)?, all[3..5]);
    assert_ne!(Reverse { seed: 2, ..way }.log_p(&ladder, &x.narrow(0, 3, 2)?, &[15, 9], &mut quiet)?, all[3..5]);
    // ln of the mean of the chains' weights: with one chain each that of it alone
    let single = |chain: usize| {
        let rows = Tensor::cat(&vec![x.narrow(0, 3, 1)?; chain + 1], 0)?;
        Reverse { chains: 1, ..way }.log_p(&ladder, &rows, &vec![15; chain + 1], &mut quiet)
    };
    assert!(single(1)?.windows(2).all(|pair| pair[0] == pair[1]), "one number, one chain");
    // without steps a chain stays, and weighs what the start says
    let idle = back(&kernel, 0).log_p(&Cooling(&MACHINE, vec![1.]), &x, &names(7), &mut quiet)?;
    assert!(idle.iter().all(|log_p| (log_p + 4. * 2f64.ln()).abs() < 1e-12));
    assert_eq!(way.log_p(&ladder, &x.narrow(0, 0, 0)?, &[], &mut quiet)?, [0f64; 0]);
    Ok(())
}

/// A ladder that cannot be drawn from.
struct Alone;

impl Ladder for Alone {
    fn rungs(&self) -> usize {
        2
    }

    fn density(&self, _rung: usize) -> Box<dyn Density + '_> {
        Box::new(At(&MACHINE, 1.))
    }
}

#[test]
fn what_has_no_way_back_is_refused() -> Result<()> {
    let (gibbs, x) = (AnyKernel::from(Gibbs {}), Tensor::zeros((3, 4), DType::F64, CPU)?);
    let cooling = Cooling(&MACHINE, vec![0., 1.]);
    let bases = [Bowl { v: 1., normal: true }, Bowl { v: 0.5, normal: false }];
    let path = Geometric::new(&bases[0], &bases[1], vec![0., 1.])?;
    let why = |way: Reverse, ladder: &dyn Ladder| {
        way.log_p(ladder, &x, &names(3), &mut quiet).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let adapting = [AnyKernel::from(Mala { adapt: 5, ..Mala::default() }), Hmc { adapt: 5, ..Hmc::default() }.into()];
    for kernel in &adapting {
        assert!(why(back(kernel, 1), &path).contains("adapt is 5"), "{}", why(back(kernel, 1), &path));
    }
    assert!(why(back(&Langevin::default().into(), 1), &path).contains("changes the density"));
    assert!(why(back(&gibbs, 1), &path).contains("no blocks"));
    assert!(why(back(&Mala::default().into(), 1), &cooling).contains("no score"));
    assert!(why(back(&gibbs, 1), &Alone).contains("no density to begin at"));
    assert!(why(back(&gibbs, 1), &Cooling(&MACHINE, vec![])).contains("no rungs"));
    assert!(why(Reverse { chains: 0, ..back(&gibbs, 1) }, &cooling).contains("0 chains"));
    assert!(why(Reverse { at_once: 0, ..back(&gibbs, 1) }, &cooling).contains("0 at once"));
    assert!(back(&gibbs, 1).log_p(&cooling, &x, &names(2), &mut quiet).is_err());
    let (process, mixture, times) = (AnyProcess::named("vp").unwrap(), mixture(), [0.9, 0.5]);
    let exact = mixture.under(process.get());
    let levels = NoiseLevels::new(&exact, times.chunks(1));
    let flat = Tensor::zeros((3, 2), DType::F64, CPU)?;
    let moves = back(&Mala::default().into(), 1).log_p(&levels, &flat, &names(3), &mut quiet).unwrap_err().to_string();
    assert!(moves.contains("moves states"), "{moves}");
    let stop = back(&gibbs, 1).log_p(&cooling, &x, &names(3), &mut |_, _| Err(candle_core::Error::Msg("stop".into())));
    assert!(stop.is_err());
    Ok(())
}
