//! Kernels against the recorded trajectories of others, and their moments against exact ones.

#![allow(clippy::print_stdout)] // errors of the reference cases

mod common;
#[path = "common/targets.rs"]
mod targets;

use candle_core::{DType, Device, Tensor, safetensors};
use common::{cases, worst};
use langevin_dynamics::Density;
use langevin_dynamics::ladder::{Ladder, Tempered, sweep};
use langevin_dynamics::mcmc::diagnostics::{ess, r_hat};
use langevin_dynamics::mcmc::{AnyKernel, Chains, Hmc, Kernel, Langevin, Mala, Stats, hmc, mala};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use std::collections::HashMap;
use std::path::Path;
use targets::Target;

type Anyhow<T> = Result<T, Box<dyn std::error::Error>>;

struct Case {
    name: String,
    target: Target,
    says: serde_json::Value,
    tensors: HashMap<String, Tensor>,
    worst: f64,
}

impl Case {
    /// `None`, with a line about it, for a target that is not known.
    fn open(dir: &Path) -> Anyhow<Option<Self>> {
        let says: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(dir.join("case.json"))?)?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(target) = Target::of(&says["parameters"]) else {
            println!("{name}: no target with the parameters {}", says["parameters"]);
            return Ok(None);
        };
        let tensors = safetensors::load(dir.join("tensors.safetensors"), &Device::Cpu)?;
        Ok(Some(Self { name, target, says, tensors, worst: 0. }))
    }

    fn get(&self, name: &str) -> Tensor {
        self.tensors[name].clone()
    }

    fn number(&self, name: &str) -> f64 {
        self.says[name].as_f64().unwrap()
    }

    /// Compares with the tensor of that name, or a part of it.
    fn same(&mut self, ours: &[f64], theirs: &Tensor) -> Anyhow<()> {
        let theirs = to_host(theirs)?;
        assert_eq!(ours.len(), theirs.len());
        let top = theirs.iter().fold(1e-6, |top: f64, v| top.max(v.abs()));
        let errors = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs() / top);
        self.worst = worst(errors.chain([self.worst]));
        Ok(())
    }
}

fn verdict(found: Vec<(String, f64)>) {
    for (name, worst) in &found {
        println!("{name}: {worst:.1e}");
    }
    assert!(!found.is_empty());
    assert!(found.iter().all(|(_, worst)| *worst < 1e-6), "{found:?}");
}

#[test]
fn reference_ebm_mcmc() -> Anyhow<()> {
    let mut found = vec![];
    for dir in cases("ebm/mcmc") {
        let Some(mut case) = Case::open(&dir)? else { continue };
        let view = case.target.evaluate(&case.get("x"))?;
        let energies = view.energy.clone().unwrap();
        let log_z = case.number("log_z");
        case.same(&energies, &case.get("energy"))?;
        case.same(&energies.iter().map(|e| -e - log_z).collect::<Vec<_>>(), &case.get("log_density"))?;
        case.same(&to_host(&view.score()?.neg()?)?, &case.get("gradient"))?;
        for mass in ["unit", "diagonal"] {
            let of = |what: &str| case.get(&format!("hmc_{mass}_{what}"));
            let [q, p, potential] = ["position", "momentum", "potential"].map(of);
            let (inverse, log_accept) = (of("inverse_mass"), of("log_accept"));
            let (e, steps) = ([case.number("step_size")], case.says["leapfrog_steps"].as_u64().unwrap() as usize);
            let at = |v: &Tensor, i: usize| v.narrow(1, i, 1)?.squeeze(1)?.contiguous();
            let start = case.target.evaluate(&at(&q, 0)?)?;
            let kernel = Hmc { leapfrogs: steps, inverse_mass: to_host(&inverse)?, ..Hmc::default() };
            let whole = kernel.propose(&case.target, &start, &at(&p, 0)?, &e)?;
            case.same(&to_host(&whole.to.x)?, &at(&q, steps)?)?;
            case.same(&whole.log_ratio, &log_accept)?;
            let (mut here, mut momenta) = (start, at(&p, 0)?);
            for i in 1..=steps {
                let inverse = inverse.unsqueeze(0)?;
                (here, momenta) = hmc::leapfrog(&case.target, &here, &momenta, &e, Some(&inverse), 1)?;
                case.same(&to_host(&here.x)?, &at(&q, i)?)?;
                case.same(&to_host(&momenta)?, &at(&p, i)?)?;
                case.same(here.energy.as_deref().unwrap(), &at(&potential, i)?)?;
            }
        }
        found.push((case.name, case.worst));
    }
    verdict(found);
    Ok(())
}

#[test]
fn reference_ebm_langevin() -> Anyhow<()> {
    let mut found = vec![];
    for dir in cases("ebm/langevin") {
        let Some(mut case) = Case::open(&dir)? else { continue };
        let (x, h) = (case.get("x"), case.number("step_size"));
        let proposal = mala::propose(&case.target, &case.target.evaluate(&x)?, &[h], &case.get("noise"))?;
        case.same(&to_host(&proposal.to.x)?, &case.get("proposal"))?;
        case.same(&proposal.log_ratio, &case.get("log_ratio"))?;
        let rates: Vec<f64> = proposal.log_ratio.iter().map(|ratio| ratio.exp().min(1.)).collect();
        case.same(&rates, &case.get("acceptance_blackjax"))?;
        let (noise, uniform) = (case.get("chain_noise"), case.get("chain_uniform"));
        let (steps, adjusted) = (noise.dim(0)?, Mala { step: h, ..Mala::default() });
        let replay = |i: usize| Ok::<_, candle_core::Error>(vec![noise.get(i)?, uniform.get(i)?]);
        let (mut ula, mut mala) = (Chains::new(&case.target, &x)?, Chains::new(&case.target, &x)?);
        for i in 0..steps {
            Langevin { step: h }.step(&case.target, &mut ula, &mut Noise::replay(replay(i)?))?;
            case.same(&to_host(&ula.at.x)?, &case.get("ula").get(i + 1)?)?;
            let stats = adjusted.step(&case.target, &mut mala, &mut Noise::replay(replay(i)?))?;
            case.same(&to_host(&mala.at.x)?, &case.get("mala").get(i + 1)?)?;
            let accepted = to_host(&case.get("mala_accepted").get(i)?)?;
            assert_eq!(stats.accepted as f64, accepted.iter().sum::<f64>());
        }
        found.push((case.name, case.worst));
    }
    verdict(found);
    Ok(())
}

/// What chains found: of each function of the state, its draws `[chains][steps]`.
fn draws(views: &[Vec<f64>], f: impl Fn(&[f64]) -> f64) -> Vec<Vec<f64>> {
    let chains = views[0].len() / 2;
    (0..chains).map(|n| views.iter().map(|x| f(&x[2 * n..2 * n + 2])).collect()).collect()
}

/// The mean of `draws` is `truth` within 5 standard errors, by their effective number; R-hat is 1.
fn agrees(name: &str, draws: &[Vec<f64>], truth: f64) {
    let all: Vec<f64> = draws.concat();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let sd = (all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64).sqrt();
    let (n, r) = (ess(draws), r_hat(draws));
    let off = (mean - truth) / (sd / n.sqrt());
    println!(
        "{name}: {mean:.4}, exact {truth:.4}: {off:.1} standard errors, ESS {n:.0} of {}, R-hat {r:.4}",
        all.len()
    );
    assert!(off.abs() < 5. && n > 200. && r < 1.05, "{name}: {off} {n} {r}");
}

fn moments(name: &str, views: &[Vec<f64>], case: &Case) -> Anyhow<()> {
    let (mean, cov) = (to_host(&case.get("mean"))?, to_host(&case.get("covariance"))?);
    for i in 0..2 {
        agrees(&format!("{name} mean {i}"), &draws(views, |x| x[i]), mean[i]);
        for j in i..2 {
            let product = |x: &[f64]| (x[i] - mean[i]) * (x[j] - mean[j]);
            agrees(&format!("{name} covariance {i}{j}"), &draws(views, product), cov[2 * i + j]);
        }
    }
    Ok(())
}

const CHAINS: usize = 64;

/// `steps` steps of 64 chains after `warm` of them, every so many of the places on the host.
fn chains(
    kernel: &dyn Kernel,
    target: &Target,
    warm: usize,
    steps: usize,
    every: usize,
) -> Anyhow<(Vec<Vec<f64>>, Stats)> {
    let mut z = Noise::seeds(&(0..CHAINS as u64).collect::<Vec<_>>());
    let mut chains = Chains::new(target, &z.normal((CHAINS, 2), DType::F64, &Device::Cpu)?)?;
    let (mut views, mut stats) = (vec![], Stats::default());
    for i in 0..warm + steps {
        let more = kernel.step(target, &mut chains, &mut z)?;
        if i >= warm {
            stats += more;
            if i % every == 0 {
                views.push(to_host(&chains.at.x)?);
            }
        }
    }
    Ok((views, stats))
}

/// The cases with one mode, by MALA and HMC that adapt their step sizes to their rate of acceptance.
#[test]
fn moments_of_one_mode() -> Anyhow<()> {
    for dir in cases("ebm/mcmc") {
        let Some(case) = Case::open(&dir)? else { continue };
        let (mala, hmc) = (Mala::default(), Hmc { leapfrogs: 12, ..Hmc::default() });
        // each with its rate of acceptance and its steps, of which every so many count
        let kernels = match case.target {
            Target::Gaussian { .. } => [
                (AnyKernel::from(Mala { adapt: 500, ..mala }), 0.574, 3000, 1),
                (Hmc { adapt: 500, ..hmc }.into(), 0.8, 1500, 1),
            ],
            // its arms are so thin that steps as the rate in the middle wants are too large there
            Target::Banana { .. } => [
                (Mala { step: 0.04, ..mala }.into(), 0.84, 24_000, 24),
                (Hmc { step: 0.1, ..hmc }.into(), 0.95, 2000, 2),
            ],
            Target::Ring { .. } => continue,
        };
        for (kernel, target, steps, every) in kernels {
            let name = format!("{} {}", case.name, kernel.name());
            let (views, stats) = chains(kernel.get(), &case.target, 500, steps, every)?;
            println!("{name}: {:.3} accepted, {target} wanted", stats.acceptance());
            assert!((stats.acceptance() - target).abs() < 0.1, "{name}: {stats:?}");
            assert!(stats.nan + stats.diverged < stats.proposed / 20, "{name}: {stats:?}");
            moments(&name, &views, &case)?;
        }
    }
    Ok(())
}

/// Modes that no single chain leaves, by replica exchange over temperatures, from a start in one mode.
#[test]
fn the_modes_of_a_ring_by_replica_exchange() -> Anyhow<()> {
    let temperatures = [16., 8., 4., 2., 1.];
    for dir in cases("ebm/mcmc") {
        let Some(case) = Case::open(&dir)? else { continue };
        let Target::Ring { centres, .. } = &case.target else { continue };
        let modes = to_host(centres)?;
        let ladder = Tempered::new(&case.target, temperatures.map(|t: f64| 1. / t).to_vec())?;
        let start = Tensor::new(&modes[..2], &Device::Cpu)?.reshape((1, 2))?.broadcast_as((CHAINS, 2))?.contiguous()?;
        let kernel = Mala { step: 0.5, ..Mala::default() };
        let rung = |(i, t): (usize, &f64)| {
            Ok(Chains::new(ladder.density(i).as_ref(), &start)?.in_units(vec![0.35 * t.sqrt()]))
        };
        let mut rungs = temperatures.iter().enumerate().map(rung).collect::<candle_core::Result<Vec<_>>>()?;
        let mut z = Noise::seeds(&(0..CHAINS as u64).collect::<Vec<_>>());
        let (mut views, mut swaps) = (vec![], [Stats::default(); 5]);
        for turn in 0..1500 {
            let swept = sweep(&kernel, &ladder, 0, &mut rungs, turn, &mut z)?;
            swaps.iter_mut().zip(swept).for_each(|(all, swept)| *all += swept.swapped.unwrap_or_default());
            if turn >= 300 {
                views.push(to_host(&rungs[4].at.x)?);
            }
        }
        let rates: Vec<f64> = swaps[1..].iter().map(Stats::acceptance).collect();
        println!("{}: swaps {rates:.2?}", case.name);
        assert!(rates.iter().all(|rate| (0.3..1.).contains(rate)), "{rates:?}");
        moments(&case.name, &views, &case)?;
        let far = |x: &[f64], k: usize| (x[0] - modes[2 * k]).powi(2) + (x[1] - modes[2 * k + 1]).powi(2);
        let nearest = |x: &[f64]| (0..modes.len() / 2).min_by(|&a, &b| far(x, a).total_cmp(&far(x, b)));
        for k in 0..modes.len() / 2 {
            let inside = draws(&views, |x| f64::from(u8::from(nearest(x) == Some(k))));
            agrees(&format!("{} mode {k}", case.name), &inside, 2. / modes.len() as f64);
        }
    }
    Ok(())
}
