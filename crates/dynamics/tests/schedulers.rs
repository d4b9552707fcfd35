//! Samplers on the DDPM table against trajectories that diffusers recorded, with their timesteps and their noise.
//!
//! Every case folder below `$LANGEVIN_REFERENCE/schedulers`, else of the copies beside this file, is run.

#![allow(clippy::print_stdout)]

use candle_core::{DType, Device, Result, Tensor, bail, safetensors};
use langevin_dynamics::Denoiser;
use langevin_dynamics::process::{AnyProcess, Process};
use langevin_dynamics::sampler::{AnySampler, run};
use langevin_dynamics::wrap::Clip;
use langevin_ops::noise::Noise;
use langevin_ops::shape::{combine, to_host};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a case asks of us.
struct Plan {
    sampler: Value,
    times: Vec<f64>,
    /// Which recorded sample each of our steps ends at.
    ends: Vec<usize>,
    /// The scheduler's samples are x / alpha.
    scaled: bool,
}

/// The exact prediction for data ~ N(0.3, 0.5^2 I) at the recorded alpha_bar of each call, as the case describes it.
struct Recorded<'a> {
    process: &'a dyn Process,
    alpha_bar: Vec<f64>,
    v: bool,
    clip: Option<Clip>,
    calls: AtomicUsize,
}

impl Denoiser for Recorded<'_> {
    fn process(&self) -> &dyn Process {
        self.process
    }

    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let Some(&ab) = self.alpha_bar.get(call) else { bail!("the model was called more than {call} times") };
        let m = self.process.marginal(t[0]);
        let eps = ((x - ab.sqrt() * 0.3)? * ((1. - ab).sqrt() / (0.25 * ab + 1. - ab)))?;
        let x0 = if self.v {
            let x0 = if ab > 0. {
                combine(&[1. / ab.sqrt()], x, &[-((1. - ab) / ab).sqrt()], &eps)?
            } else {
                x.zeros_like()?.affine(1., 0.3)?
            };
            let v = combine(&[ab.sqrt()], &eps, &[-(1. - ab).sqrt()], &x0)?;
            combine(&[m.alpha], x, &[-m.sigma], &v)?
        } else {
            combine(&[1. / m.alpha], x, &[-m.sigma / m.alpha], &eps)?
        };
        self.clip.as_ref().map_or(Ok(x0.clone()), |clip| clip.apply(&x0))
    }
}

/// The score of the variance exploding case, tanh(x) - x / (1 + sigma^2), at the level that the model was told at each
/// time: the scheduler itself steps between levels that are rounded otherwise.
struct Tanh<'a> {
    process: &'a dyn Process,
    told: Vec<(f64, f64)>,
}

impl Denoiser for Tanh<'_> {
    fn process(&self) -> &dyn Process {
        self.process
    }

    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        let Some((_, sigma)) = self.told.iter().find(|(at, _)| *at == t[0]) else { bail!("no level at {}", t[0]) };
        let s2 = self.process.marginal(t[0]).sigma.powi(2);
        combine(&[s2], &x.tanh()?, &[1. - s2 / (1. + sigma * sigma)], x)
    }
}

fn folder() -> PathBuf {
    match std::env::var_os("LANGEVIN_REFERENCE") {
        Some(at) => Path::new(&at).join("schedulers"),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/schedulers"),
    }
}

fn json_of(path: PathBuf) -> Value {
    let text = std::fs::read_to_string(&path).unwrap().replace("-Infinity", "null").replace("Infinity", "null");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Options that no sampler or process here stands for.
fn unsupported(config: &Value) -> Option<String> {
    for key in ["use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas"] {
        if config[key] == true {
            return Some(key.into());
        }
    }
    if config["final_sigmas_type"] == "sigma_min" {
        return Some("final_sigmas_type = sigma_min".into());
    }
    if config["prediction_type"] == "sample" {
        return Some("prediction_type = sample".into());
    }
    None
}

/// The levels of rho = 7 over the whole table, as times.
fn karras(process: &dyn Process, steps: usize) -> Vec<f64> {
    let (low, high) = process.span();
    let root = |t: f64| (-0.5 * process.log_snr(t)).exp().powf(1. / 7.);
    let (from, to) = (root(high), root(low));
    let each = (0..steps).map(|i| from + (to - from) * i as f64 / (steps - 1) as f64);
    each.map(|r| process.t_at(-14. * r.ln())).collect()
}

fn plan(
    case: &Value,
    config: &Value,
    process: &dyn Process,
    timesteps: &[f64],
    alpha_bar: &[f64],
) -> std::result::Result<Plan, String> {
    if let Some(what) = unsupported(config) {
        return Err(what);
    }
    let class = case["scheduler"].as_str().unwrap_or_default();
    let n = timesteps.len();
    let entries: Vec<f64> = timesteps.iter().map(|t| t + 1.).collect();
    let levels: Vec<f64> = alpha_bar.iter().map(|ab| process.t_at((ab / (1. - ab)).ln())).collect();
    let order = config["solver_order"].as_u64().unwrap_or(2);
    let to_zero = |mut times: Vec<f64>| {
        times.push(0.);
        times
    };
    let last = |clean: bool| if clean { 0. } else { 1. };
    let own = if config["use_karras_sigmas"] == true { karras(process, n) } else { entries.clone() };
    let each: Vec<usize> = (1..=n).collect();
    let plan = |sampler: Value, times: Vec<f64>, ends: Vec<usize>, scaled: bool| Plan { sampler, times, ends, scaled };
    Ok(match class {
        "DDPMScheduler" => {
            let variance = match config["variance_type"].as_str() {
                Some("fixed_small" | "fixed_small_log") | None => "fixed-small",
                Some("fixed_large") => "fixed-large",
                Some(other) => return Err(format!("variance_type = {other}")),
            };
            plan(json!({"name": "ddpm", "variance": variance}), to_zero(entries), each, false)
        }
        "DDIMScheduler" => {
            let eta = case["step_args"]["eta"].as_f64().unwrap_or(0.);
            let mut times = entries;
            times.push(last(config["set_alpha_to_one"] == true));
            plan(json!({"name": "ddim", "eta": eta}), times, each, false)
        }
        "DPMSolverMultistepScheduler" => {
            let second = &config["solver_type"];
            let sampler = match (config["algorithm_type"].as_str(), order) {
                (Some("dpmsolver++"), 1) => json!({"name": "euler"}),
                (Some("dpmsolver++"), 2) => json!({"name": "dpmpp-2m", "second": second}),
                (Some("dpmsolver++"), 3) => json!({"name": "dpmpp-3m", "second": second}),
                (Some("sde-dpmsolver++"), 2) => json!({"name": "dpmpp-2m-sde", "second": second}),
                (algorithm, order) => return Err(format!("algorithm_type = {algorithm:?} of order {order}")),
            };
            plan(sampler, to_zero(own), each, false)
        }
        "UniPCMultistepScheduler" => {
            if config["predict_x0"] == false {
                return Err("predict_x0 = false".into());
            }
            plan(json!({"name": "unipc", "order": order, "bh": config["solver_type"]}), to_zero(own), each, false)
        }
        "EulerDiscreteScheduler" => plan(json!({"name": "euler"}), to_zero(levels), each, true),
        "EulerAncestralDiscreteScheduler" => plan(json!({"name": "ddpm"}), to_zero(levels), each, true),
        "HeunDiscreteScheduler" => {
            // a step is two calls, and two recorded samples, but the last
            let steps = n.div_ceil(2);
            let times = std::iter::once(levels[0]).chain(levels.iter().skip(1).step_by(2).copied()).collect::<Vec<_>>();
            let ends = (1..=steps).map(|k| (2 * k).min(n)).collect();
            plan(json!({"name": "heun"}), to_zero(times), ends, true)
        }
        "PNDMScheduler" => {
            let skip = config["skip_prk_steps"] == true;
            let (first, calls) = if skip { (1, 2) } else { (3, 4) };
            let ends: Vec<usize> = (1..)
                .map(|k: usize| if k <= first { k * calls } else { first * calls + k - first })
                .take_while(|&end| end <= n)
                .collect();
            // where each of our steps begins: at the first call that it makes
            let mut times: Vec<f64> = (0..ends.len()).map(|k| entries[if k == 0 { 0 } else { ends[k - 1] }]).collect();
            times.push(last(config["set_alpha_to_one"] == true));
            plan(json!({"name": "pndm", "skip_prk_steps": skip}), times, ends, false)
        }
        other => return Err(format!("{other} is no sampler here")),
    })
}

fn error(ours: &Tensor, theirs: &Tensor, top: f64) -> Result<f64> {
    let (ours, theirs) = (to_host(ours)?, to_host(theirs)?);
    let size = theirs.iter().fold(1e-6 * top, |top, v| top.max(v.abs()));
    Ok(ours
        .iter()
        .zip(&theirs)
        .fold(0f64, |worst, (a, b)| if (a - b).is_nan() { f64::NAN } else { worst.max((a - b).abs()) })
        / size)
}

fn recorded_noise(tensors: &HashMap<String, Tensor>) -> Result<Noise> {
    let Some(noise) = tensors.get("noise") else { return Ok(Noise::replay(vec![])) };
    Ok(Noise::replay((0..noise.dim(0)?).map(|i| noise.get(i)).collect::<Result<_>>()?))
}

/// The largest error of the case, or what of it is not supported.
fn case(dir: &Path) -> Result<std::result::Result<f64, String>> {
    let (case, config) = (json_of(dir.join("case.json")), json_of(dir.join("scheduler_config.json")));
    let tensors = safetensors::load(dir.join("trajectory.safetensors"), &Device::Cpu)?;
    let tensors: HashMap<String, Tensor> =
        tensors.into_iter().map(|(k, v)| Ok((k, v.to_dtype(DType::F64)?))).collect::<Result<_>>()?;
    let samples = &tensors["samples"];
    let top = to_host(samples)?.iter().fold(0f64, |top, v| top.max(v.abs()));
    let z = &mut recorded_noise(&tensors)?;
    if case["scheduler"] == "ScoreSdeVeScheduler" {
        return variance_exploding(&config, &tensors, z, top).map(Ok);
    }
    if !tensors.contains_key("model_alpha_bar") {
        return Ok(Err(format!("{} is no sampler here", case["scheduler"])));
    }
    let mut table = json!({"name": "table"});
    for key in
        ["num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas", "rescale_betas_zero_snr"]
    {
        if !config[key].is_null() {
            table[key] = config[key].clone();
        }
    }
    let process: AnyProcess = match serde_json::from_value(table) {
        Ok(process) => process,
        Err(e) => return Ok(Err(e.to_string())),
    };
    let process = process.get();
    let alpha_bar = to_host(&tensors["model_alpha_bar"])?;
    let plan = match plan(&case, &config, process, &to_host(&tensors["timesteps"])?, &alpha_bar) {
        Ok(plan) => plan,
        Err(what) => return Ok(Err(what)),
    };
    let number = |key: &str, default: f64| config[key].as_f64().unwrap_or(default);
    let clip = if config["thresholding"] == true {
        let (quantile, most) = (number("dynamic_thresholding_ratio", 0.995), number("sample_max_value", 1.));
        Some(Clip { range: 1., quantile: Some(quantile), max_threshold: Some(most) })
    } else {
        (config["clip_sample"] == true).then(|| Clip { range: number("clip_sample_range", 1.), ..Default::default() })
    };
    let v = config["prediction_type"] == "v_prediction";
    let m = Recorded { process, alpha_bar, v, clip, calls: AtomicUsize::new(0) };
    let mut sampler: AnySampler = serde_json::from_value(plan.sampler).map_err(candle_core::Error::wrap)?;
    let size = |t: f64| if plan.scaled { process.marginal(t).alpha } else { 1. };
    let start = (samples.get(0)? * size(plan.times[0]))?;
    let mut worst = 0f64;
    run(&m, sampler.get_mut(), &plan.times, &start, z, |at| {
        let theirs = (samples.get(plan.ends[at.step - 1])? * size(at.t))?;
        let e = error(at.x, &theirs, top)?;
        worst = if e.is_nan() { f64::INFINITY } else { worst.max(e) };
        Ok(())
    })?;
    Ok(Ok(worst))
}

fn variance_exploding(config: &Value, tensors: &HashMap<String, Tensor>, z: &mut Noise, top: f64) -> Result<f64> {
    let process: AnyProcess = serde_json::from_value(json!({"name": "edm", "sigma_min": 1e-4, "sigma_max": 1e6}))
        .map_err(candle_core::Error::wrap)?;
    let mut times: Vec<f64> = to_host(&tensors["discrete_sigmas"])?.into_iter().rev().collect();
    let told = times.iter().copied().zip(to_host(&tensors["sigmas"])?).collect();
    times.push(0.);
    let sampler =
        json!({"name": "pc", "snr": config["snr"], "corrector_steps": config["correct_steps"], "norms": "batch"});
    let mut sampler: AnySampler = serde_json::from_value(sampler).map_err(candle_core::Error::wrap)?;
    let samples = &tensors["samples"];
    let mut worst = 0f64;
    run(&Tanh { process: process.get(), told }, sampler.get_mut(), &times, &samples.get(0)?, z, |at| {
        // the last step is recorded with its noise; its mean, the denoised sample, beside it
        let theirs = if at.step == at.steps { tensors["last_mean"].clone() } else { samples.get(at.step)? };
        worst = worst.max(error(at.x, &theirs, top)?);
        Ok(())
    })?;
    Ok(worst)
}

#[test]
fn reference_schedulers() {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap_or_else(|e| panic!("{}: {e}", folder().display()))
        .map(|entry| entry.unwrap().path())
        .filter(|dir| dir.join("trajectory.safetensors").is_file())
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "no cases in {}", folder().display());
    let (mut failed, mut ran) = (vec![], 0);
    for dir in &cases {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        match case(dir) {
            Ok(Err(what)) => println!("{name}: not supported yet: {what}"),
            Ok(Ok(worst)) => {
                println!("{name}: largest error {worst:.1e}");
                ran += 1;
                if worst.is_nan() || worst > 1e-4 {
                    failed.push(format!("{name}: {worst:.1e}"));
                }
            }
            Err(e) => failed.push(format!("{name}: {e}")),
        }
    }
    assert!(failed.is_empty(), "off by more than 1e-4: {failed:?}");
    assert!(ran > 0, "none of the {} cases is supported", cases.len());
}
