//! Losses of a small energy network and their gradients in every parameter, against PyTorch in f64.
#![allow(clippy::print_stdout)]

use candle_core::{DType, Device, Result, Tensor, Var};
use langevin_dynamics::{Density, Differentiable};
use langevin_models::family::Activation;
use langevin_models::{DensityModel, DensitySpec, MlpEnergyConfig, tensors};
use langevin_ops::grad;
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use langevin_train::{
    Context, DenoisingScoreMatching, Divergence, EnergyGradient, Losses, Nce, NoiseDensity, ScoreMatching, TrainOptions,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every case under `$LANGEVIN_REFERENCE`, or the copies beside the tests.
fn cases() -> Vec<PathBuf> {
    let copies = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
    let root = std::env::var_os("LANGEVIN_REFERENCE").map_or(copies, PathBuf::from).join("ebm/sm-losses");
    let entries = std::fs::read_dir(&root).unwrap_or_else(|e| panic!("cannot read {}: {e}", root.display()));
    let mut cases: Vec<_> = entries.map(|e| e.unwrap().path()).filter(|p| p.join("case.json").exists()).collect();
    cases.sort();
    assert!(!cases.is_empty(), "no cases under {}", root.display());
    cases
}

struct Case {
    says: serde_json::Value,
    tensors: BTreeMap<String, Tensor>,
    model: DensityModel,
    wrong: Vec<String>,
}

impl Case {
    fn open(dir: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(dir.join("case.json"))?;
        let says: serde_json::Value = serde_json::from_str(&text).map_err(candle_core::Error::wrap)?;
        let tensors = tensors::load(&dir.join("tensors.safetensors"))?.tensors;
        let softplus = says["network"].as_str().unwrap_or_default().contains("f = softplus");
        let activation = if softplus { Activation::Softplus } else { Activation::Silu };
        let family = MlpEnergyConfig { widths: vec![16, 16], activation, confine: 0. };
        let weights = tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix("param.")?.into(), t.clone())));
        let model = DensityModel::of(DensitySpec::new([2], family), weights, DType::F64, &Device::Cpu)?;
        Ok(Self { says, tensors, model, wrong: vec![] })
    }

    fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    fn setting(&self, key: &str) -> f64 {
        self.says["settings"][key].as_f64().unwrap_or_else(|| panic!("no setting {key}"))
    }

    fn check(&mut self, what: &str, ours: &[f64], theirs: &[f64]) {
        assert_eq!(ours.len(), theirs.len(), "{what}");
        let off = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
        let worst = off.fold(0., |worst: f64, e| if e.is_nan() { f64::INFINITY } else { worst.max(e) });
        println!("{what}: error {worst:.1e}");
        if worst > 1e-10 {
            self.wrong.push(format!("{what}: {worst:.1e}"));
        }
    }

    /// A loss by its value and its gradient in the parameters, and in more of them.
    fn check_loss(&mut self, name: &str, value: f64, grads: &[Tensor], more: &[&str]) -> Result<()> {
        self.check(name, &[value], &[self.says["values"][name].as_f64().expect("a value")]);
        let names: Vec<String> = self.model.vars().iter().map(|(name, _)| name.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).chain(more.iter().copied()).collect();
        assert_eq!(names.len(), grads.len());
        for (parameter, g) in names.iter().zip(grads) {
            let what = format!("grad.{name}.{parameter}");
            let theirs = to_host(self.tensor(&what))?;
            self.check(&what, &to_host(g)?, &theirs);
        }
        Ok(())
    }

    fn vars(&self) -> Vec<Var> {
        self.model.vars().iter().map(|(_, var)| var.clone()).collect()
    }

    fn check_losses(&mut self, name: &str, loss: &impl Losses, noise: &str) -> Result<()> {
        let (options, vars, x) = (TrainOptions::default(), self.vars(), self.tensor("x").clone());
        let at = Context::new(&options, 0, 0, x.dim(0)?, &vars);
        let mut z = Noise::replay(vec![self.tensor(noise).clone()]);
        let part = at.mean(|| loss.losses(energy(&self.model), &x, &mut z))?;
        let value = part.losses.iter().sum::<f64>() / part.losses.len() as f64;
        self.check_loss(name, value, &part.grads, &[])
    }
}

fn energy(model: &DensityModel) -> &dyn Differentiable {
    model.as_differentiable().expect("a network can be differentiated")
}

#[test]
fn reference_sm_losses() -> Result<()> {
    let mut wrong = vec![];
    for dir in cases() {
        println!("{}", dir.display());
        let mut case = Case::open(&dir)?;
        let x = case.tensor("x").clone();
        let found = case.model.evaluate(&x)?;
        let theirs = to_host(case.tensor("energy"))?;
        case.check("energy", found.energy()?, &theirs);
        for (name, at) in
            [("score", x.clone()), ("noised_score", { (&x + (case.tensor("noise") * case.setting("sigma"))?)? })]
        {
            let (ours, theirs) = (to_host(case.model.evaluate(&at)?.score()?)?, to_host(case.tensor(name))?);
            case.check(name, &ours, &theirs);
        }
        let slices = case.tensor("projections").clone();
        let mut curvature = vec![];
        for m in 0..slices.dim(1)? {
            let v = slices.narrow(1, m, 1)?.squeeze(1)?.contiguous()?;
            let bent = grad::hvp(&x, &v, |x| energy(&case.model).energy(x))?;
            curvature.push((bent * v)?.sum(1)?.neg()?);
        }
        let theirs = to_host(case.tensor("projected_curvature"))?;
        case.check("projected_curvature", &to_host(&Tensor::stack(&curvature, 1)?)?, &theirs);

        for (name, divergence) in [
            ("score_matching", Divergence::Exact),
            ("sliced", Divergence::Sliced),
            ("sliced_variance_reduced", Divergence::SlicedVarianceReduced),
        ] {
            case.check_losses(name, &ScoreMatching { divergence, slices: slices.dim(1)? }, "projections")?;
        }
        case.check_losses("denoising", &DenoisingScoreMatching { sigma: case.setting("sigma") }, "noise")?;
        nce(&mut case)?;
        contrastive_divergence(&mut case)?;
        wrong.append(&mut case.wrong);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

fn nce(case: &mut Case) -> Result<()> {
    let (options, x, noise) = (TrainOptions::default(), case.tensor("x").clone(), case.tensor("nce_noise").clone());
    let mean = case.says["settings"]["noise_mean"].as_array().expect("a mean");
    let mean = mean.iter().filter_map(serde_json::Value::as_f64).collect();
    let q = NoiseDensity { mean, deviation: vec![case.setting("noise_std")] };
    assert_eq!(noise.dim(0)?, x.dim(0)? * case.setting("ratio") as usize);
    let log_z = Var::new(&[case.setting("log_z")], &Device::Cpu)?;
    let vars = [case.vars(), vec![log_z.clone()]].concat();
    let at = Context::new(&options, 0, 0, x.dim(0)?, &vars);
    let part = at.mean(|| Nce::losses(energy(&case.model), &log_z, &x, (&noise, &q)))?;
    let value = part.losses.iter().sum::<f64>() / part.losses.len() as f64;
    case.check_loss("nce", value, &part.grads, &["log_z"])
}

/// By the gradient of the energy that the loss is made of; with the squares of energies as others add them.
fn contrastive_divergence(case: &mut Case) -> Result<()> {
    let (options, vars) = (TrainOptions::default(), case.vars());
    let both = Tensor::cat(&[case.tensor("x"), case.tensor("negatives")], 0)?;
    let n = both.dim(0)? / 2;
    let at = Context::new(&options, 0, 0, n, &vars);
    let sign = |i: usize| if i < n { 1. } else { -1. };
    let plain: Vec<f64> = (0..2 * n).map(|i| sign(i) / n as f64).collect();
    let (energies, grads) = case.model.energy_gradient(&both, &plain, &at)?;
    let value = energies.iter().zip(&plain).map(|(e, f)| e * f).sum();
    case.check_loss("contrastive_divergence", value, &grads, &[])?;
    let alpha = case.setting("alpha");
    let factors: Vec<f64> = energies.iter().enumerate().map(|(i, e)| (sign(i) + 2. * alpha * e) / n as f64).collect();
    let squares = energies.iter().map(|e| alpha * e * e / n as f64).sum::<f64>();
    let (_, grads) = case.model.energy_gradient(&both, &factors, &at)?;
    case.check_loss("contrastive_divergence_regularised", value + squares, &grads, &[])
}
