//! The RBM against enumeration by others: log Z, free energies, moments, gradients, and annealed importance sampling.
#![allow(clippy::print_stdout)]

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::{cases_with, distance, name, worst};
use langevin_dynamics::likelihood::Annealing;
use langevin_dynamics::mcmc::Gibbs;
use langevin_dynamics::{Density, Energy, Ladder};
use langevin_models::rbm::binary;
use langevin_models::{Dbm, Rbm, RbmLadder, Visible, plain, tensors};
use langevin_ops::linear::linear;
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use std::collections::BTreeMap;
use std::path::Path;

struct Case {
    name: String,
    says: serde_json::Value,
    tensors: BTreeMap<String, Tensor>,
}

impl Case {
    fn open(dir: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(dir.join("case.json"))?;
        let says = serde_json::from_str(&text).map_err(candle_core::Error::wrap)?;
        Ok(Self { name: name(dir), says, tensors: tensors::load(&dir.join("tensors.safetensors"))?.tensors })
    }

    fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.name))
    }

    fn number(&self, key: &str) -> f64 {
        self.says[key].as_f64().unwrap_or_else(|| panic!("{}: no number {key}", self.name))
    }

    /// Whether it is of a machine with several hidden layers.
    fn is_deep(&self) -> bool {
        self.says["what"].as_str().is_some_and(|what| what.starts_with("Deep Boltzmann machine"))
    }

    /// The machine of a case, if it is one of a kind that we have.
    fn rbm(&self) -> Result<Rbm> {
        let what = self.says["what"].as_str().unwrap_or_default();
        let visible = match what {
            _ if what.starts_with("Bernoulli-Bernoulli RBM") => Visible::Bernoulli,
            _ if what.starts_with("Gaussian-Bernoulli RBM, unit visible variance") => Visible::Gaussian,
            _ => candle_core::bail!("not supported: {what}"),
        };
        let [w, b, c] = ["W", "b", "c"].map(|name| self.tensor(name));
        Rbm::of(&b.dims()[..1], w, b, c)?.with(visible)
    }

    /// What is expected under the machine, given log Z.
    fn moments(&self, rbm: &Rbm, log_z: f64) -> Result<Moments> {
        let n = rbm.spec().units();
        if rbm.spec().visible == Visible::Gaussian {
            // p(h) = exp(-E(E[v|h], h)) (2 pi)^(V/2) / Z, over all h
            let hidden = rbm.spec().hidden;
            let h = binary(0, 1 << hidden, hidden, &Device::Cpu)?;
            let v = rbm.visible(&h)?;
            let log_normal = n as f64 / 2. * std::f64::consts::TAU.ln() - log_z;
            let p = to_host(&rbm.joint_energy(&v, &h)?)?.iter().map(|energy| (log_normal - energy).exp()).collect();
            return Moments::new(p, v, h);
        }
        let v = binary(0, 1 << n, n, &Device::Cpu)?;
        let p = rbm.log_p(&v, log_z)?.iter().map(|log_p| log_p.exp()).collect();
        let h = rbm.hidden(&v)?;
        Moments::new(p, v, h)
    }

    /// Prints the error of a number or tensor, and keeps it if it is too large.
    fn told(&self, what: &str, error: f64, wrong: &mut Vec<String>) {
        println!("{}: {what}: error {error:.1e}", self.name);
        if error.is_nan() || error > 1e-10 {
            wrong.push(format!("{} {what}: {error:.1e}", self.name));
        }
    }
}

/// Means of the units, of their products, and of the products of the visible ones, whose parts have these `weights`.
struct Moments {
    visible: Tensor,
    hidden: Tensor,
    correlation: Tensor,
    squares: Tensor,
}

impl Moments {
    fn new(weights: Vec<f64>, v: Tensor, h: Tensor) -> Result<Self> {
        let row = Tensor::new(weights, &Device::Cpu)?.unsqueeze(0)?;
        let mean = |x: &Tensor| linear(&row, &x.t()?, None)?.squeeze(0);
        let weighed = v.broadcast_mul(&row.t()?)?.t()?;
        let correlation = linear(&weighed, &h.t()?, None)?;
        Ok(Self { visible: mean(&v)?, hidden: mean(&h)?, correlation, squares: linear(&weighed, &v.t()?, None)? })
    }

    /// That of real units given the hidden ones has 1 on its diagonal more.
    fn covariance(&self) -> Result<Tensor> {
        let mean = self.visible.unsqueeze(1)?;
        (&self.squares - linear(&mean, &mean, None)?)? + Tensor::eye(mean.dim(0)?, DType::F64, &Device::Cpu)?
    }
}

#[test]
fn reference_ebm_rbm_exact() -> Result<()> {
    let (mut done, mut wrong) = (0, vec![]);
    for dir in cases_with("ebm/rbm-exact", "case.json") {
        let case = Case::open(&dir)?;
        if case.is_deep() {
            continue;
        }
        let rbm = match case.rbm() {
            Err(e) if plain(&e).contains("not supported") => {
                println!("{}: UNSUPPORTED: {}", case.name, plain(&e));
                continue;
            }
            rbm => rbm?,
        };
        done += 1;
        let (v, log_z) = (case.tensor("v"), rbm.log_z_exact()?);
        let energy = rbm.evaluate(v)?.energy.unwrap_or_default();
        let off = |ours: &[f64], theirs: &str| -> Result<f64> {
            let theirs = to_host(case.tensor(theirs))?;
            assert_eq!(ours.len(), theirs.len());
            Ok(worst(ours.iter().zip(theirs).map(|(a, b)| (a - b).abs())))
        };
        case.told("log_z", (log_z - case.number("log_z")).abs(), &mut wrong);
        case.told("free_energy", off(&energy, "free_energy")?, &mut wrong);
        let log_p = rbm.log_p(v, log_z)?;
        case.told("log_p", off(&log_p, "log_p")?, &mut wrong);
        let mean = log_p.iter().sum::<f64>() / log_p.len() as f64;
        case.told("mean_log_likelihood", (mean - case.number("mean_log_likelihood")).abs(), &mut wrong);
        case.told("p_h_given_v", distance(&rbm.hidden(v)?, case.tensor("p_h_given_v"))?, &mut wrong);

        let moments = case.moments(&rbm, log_z)?;
        let gaussian = rbm.spec().visible == Visible::Gaussian;
        let mean = if gaussian { "mean_v" } else { "marginal_v" };
        case.told(mean, distance(&moments.visible, case.tensor(mean))?, &mut wrong);
        case.told("marginal_h", distance(&moments.hidden, case.tensor("marginal_h"))?, &mut wrong);
        case.told("correlation", distance(&moments.correlation, case.tensor("correlation"))?, &mut wrong);
        if gaussian {
            case.told("cov_v", distance(&moments.covariance()?, case.tensor("cov_v"))?, &mut wrong);
            case.told("score", distance(rbm.evaluate(v)?.score()?, case.tensor("score"))?, &mut wrong);
        }

        // the mean of log p rises along -<dF> over the data plus <dF> over the machine
        let (_, data) = rbm.free_energy_grad(v, &[-1. / v.dim(0)? as f64])?;
        let visible = if gaussian { (&moments.visible - case.tensor("b"))? } else { moments.visible.clone() };
        let model = [&moments.hidden, &visible, &moments.correlation];
        for (i, theirs) in ["grad_c", "grad_b", "grad_W"].into_iter().enumerate() {
            case.told(theirs, distance(&(&data[i] - model[i])?, case.tensor(theirs))?, &mut wrong);
        }
    }
    assert!(done > 0, "every case is unsupported");
    assert!(wrong.is_empty(), "too far off: {wrong:?}");
    Ok(())
}

#[test]
fn reference_ebm_rbm_ais() -> Result<()> {
    let mut wrong = vec![];
    for dir in cases_with("ebm", "case.json") {
        if name(&dir) != "rbm-ais" {
            continue;
        }
        let (case, machine) = (Case::open(&dir)?, Case::open(&dir.with_file_name("rbm-exact").join("bernoulli"))?);
        let rbm = machine.rbm()?;
        let means = to_host(&machine.tensor("v").mean(0)?)?;
        let ladder = RbmLadder::new(&rbm, &means, to_host(case.tensor("short_betas"))?)?;
        case.told("log_z_base", (ladder.log_z_base()? - case.number("log_z_base")).abs(), &mut wrong);
        let (v, increments) = (case.tensor("short_v"), case.tensor("short_increments"));
        for k in 0..increments.dim(0)? {
            let energy = |rung: usize| ladder.density(rung).evaluate(&v.get(k)?);
            let (before, after) = (energy(k)?, energy(k + 1)?);
            let theirs = to_host(&increments.get(k)?)?;
            let ours = before.energy()?.iter().zip(after.energy()?).map(|(a, b)| a - b);
            case.told(&format!("increment {k}"), worst(ours.zip(theirs).map(|(a, b)| (a - b).abs())), &mut wrong);
        }
        let chains = 500;
        let ladder = RbmLadder::even(&rbm, &means, 501)?;
        let way = Annealing { resample: 0., kernel: Gibbs {}.into(), steps_per_level: 1, ..Annealing::default() };
        let mut noise = Noise::seeds(&(0..chains).collect::<Vec<_>>());
        let to = (&[chains as usize, 12][..], DType::F64, &Device::Cpu);
        let found = way.along(&ladder, to, &mut noise, &mut || Ok(()))?;
        // the spread of the weights says how far off the mean of them may be
        let top = found.log_w.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let w: Vec<f64> = found.log_w.iter().map(|log_w| (log_w - top).exp()).collect();
        let (mean, error) = langevin_ops::stats::mean_and_error(&w);
        let off = (found.log_z - case.number("exact_log_z")).abs();
        println!(
            "{}: log Z {:.4} +- {:.4}, exact {:.4}",
            case.name,
            found.log_z,
            error / mean,
            case.number("exact_log_z")
        );
        assert!(off < 5. * error / mean, "{off} for an error of {}", error / mean);
        assert!(error / mean < 0.02, "{}", error / mean);
    }
    assert!(wrong.is_empty(), "too far off: {wrong:?}");
    Ok(())
}

/// The deep machine of a case against sums over all of its states.
#[test]
fn reference_ebm_dbm_exact() -> Result<()> {
    let mut wrong = vec![];
    for dir in cases_with("ebm/rbm-exact", "case.json") {
        let case = Case::open(&dir)?;
        if !case.is_deep() {
            continue;
        }
        let of = |names: &[&str]| names.iter().map(|name| case.tensor(name).clone()).collect::<Vec<_>>();
        let (weights, biases) = (of(&["W1", "W2"]), of(&["b", "c1", "c2"]));
        let dbm = Dbm::of(biases[0].dims(), &weights, &biases)?;
        let (v, log_z) = (case.tensor("v"), dbm.joined()?.log_z_exact()?);
        case.told("log_z", (log_z - case.number("log_z")).abs(), &mut wrong);
        let off = |ours: Vec<f64>, theirs: &str| -> Result<f64> {
            let theirs = to_host(case.tensor(theirs))?;
            assert_eq!(ours.len(), theirs.len());
            Ok(worst(ours.iter().zip(theirs).map(|(a, b)| (a - log_z - b).abs())))
        };
        let log_sum = dbm.log_sum_hidden(v)?.expect("it is small");
        let mean = log_sum.iter().sum::<f64>() / log_sum.len() as f64 - log_z;
        case.told("mean_log_likelihood", (mean - case.number("mean_log_likelihood")).abs(), &mut wrong);
        case.told("log_p", off(log_sum, "log_p")?, &mut wrong);
        case.told("bound", off(dbm.bound(v)?, "bound")?, &mut wrong);
        for (hidden, name) in dbm.mean_field(v, 200)?.iter().zip(["mean_field_h1", "mean_field_h2"]) {
            case.told(name, distance(hidden, case.tensor(name))?, &mut wrong);
        }
        // minus the gradient of E over the machine is what is expected of it; over the data, latent states weighed, the rest
        let n = biases[0].elem_count() + biases[2].elem_count();
        let states = binary(0, 1 << n, n, &Device::Cpu)?;
        let log_f: Vec<f64> = to_host(&dbm.energy(&states)?)?.iter().map(|energy| -energy).collect();
        let down: Vec<f64> = log_f.iter().map(|log_f| -(log_f - log_z).exp()).collect();
        let (_, model) = dbm.energy_grad(&states, &down)?;
        let (rows, latent) = (v.dim(0)?, biases[2].elem_count());
        let h2 = binary(0, 1 << latent, latent, &Device::Cpu)?;
        let mut data: Vec<Tensor> = model.iter().map(Tensor::zeros_like).collect::<Result<_>>()?;
        for i in 0..rows {
            let x = Tensor::cat(&[&v.narrow(0, i, 1)?.repeat((1 << latent, 1))?, &h2], 1)?;
            let log_f: Vec<f64> = to_host(&dbm.energy(&x)?)?.iter().map(|energy| -energy).collect();
            let total = langevin_ops::stats::log_sum_exp(&log_f);
            let down: Vec<f64> = log_f.iter().map(|log_f| -(log_f - total).exp() / rows as f64).collect();
            let (_, grads) = dbm.energy_grad(&x, &down)?;
            data = data.iter().zip(&grads).map(|(sum, grad)| sum + grad).collect::<Result<_>>()?;
        }
        for (i, name) in ["b", "c1", "c2", "W1", "W2"].into_iter().enumerate() {
            let expected = format!("expected_{name}");
            case.told(&expected, distance(&model[i], case.tensor(&expected))?, &mut wrong);
            let grad = format!("grad_{name}");
            case.told(&grad, distance(&(&data[i] - &model[i])?, case.tensor(&grad))?, &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "too far off: {wrong:?}");
    Ok(())
}
