//! Schedulers of diffusers against trajectories that it recorded, with its timesteps and its noise.
//!
//! Every case folder below `$LANGEVIN_REFERENCE/schedulers`, else of the copies beside this file, is run.

#![allow(clippy::print_stdout)]

mod common;

use candle_core::{DType, Device, Result, Tensor, bail, safetensors};
use langevin_dynamics::sampler::{AnySampler, follow};
use langevin_dynamics::{Clamped, Cond, Denoiser, Net, Preconditioned};
use langevin_models::diffusers::Scheduler;
use langevin_ops::noise::Noise;
use langevin_ops::shape::{combine, to_host};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The network of a case: it checks that it is told the recorded timesteps.
struct Recorded {
    /// alpha_bar of each call, where the case has it: then it predicts exactly for data ~ N(0.3, 0.5^2 I).
    alpha_bar: Option<Vec<f64>>,
    predicts: String,
    score: bool,
    told: Vec<f64>,
    calls: AtomicUsize,
}

impl Net for Recorded {
    fn forward(&self, x: &Tensor, c_noise: &Tensor, _: &Cond) -> Result<Tensor> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let told = to_host(c_noise)?[0];
        let Some(&theirs) = self.told.get(call) else { bail!("the model was called more than {call} times") };
        if (told - theirs).abs() > 1e-3 * (1. + 0.01 * theirs.abs()) {
            bail!("call {call} is told {told}, not {theirs}");
        }
        if self.score {
            return combine(&[1.], &x.tanh()?, &[-1. / (1. + told * told)], x);
        }
        let Some(alpha_bar) = &self.alpha_bar else { return x.tanh() };
        let ab = alpha_bar[call];
        let eps = ((x - ab.sqrt() * 0.3)? * ((1. - ab).sqrt() / (0.25 * ab + 1. - ab)))?;
        let x0 = if ab > 0. {
            combine(&[1. / ab.sqrt()], x, &[-((1. - ab) / ab).sqrt()], &eps)?
        } else {
            x.zeros_like()?.affine(1., 0.3)?
        };
        match self.predicts.as_str() {
            "v_prediction" => combine(&[ab.sqrt()], &eps, &[-(1. - ab).sqrt()], &x0),
            "flow_prediction" => combine(&[1.], &eps, &[-1.], &x0),
            "sample" => Ok(x0),
            _ => Ok(eps),
        }
    }
}

fn error(ours: &Tensor, theirs: &Tensor, top: f64) -> Result<f64> {
    let (ours, theirs) = (to_host(ours)?, to_host(theirs)?);
    let size = theirs.iter().fold(1e-6 * top, |top, v| top.max(v.abs()));
    Ok(common::worst(ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs())) / size)
}

fn recorded_noise(tensors: &HashMap<String, Tensor>) -> Result<Noise> {
    let Some(noise) = tensors.get("noise") else { return Ok(Noise::replay(vec![])) };
    Ok(Noise::replay((0..noise.dim(0)?).map(|i| noise.get(i)).collect::<Result<_>>()?))
}

/// The largest error of the case, or what of it is not supported.
fn case(dir: &Path) -> Result<std::result::Result<f64, String>> {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).map_err(candle_core::Error::wrap);
    let case: Value = serde_json::from_str(&read("case.json")?).map_err(candle_core::Error::wrap)?;
    let tensors = safetensors::load(dir.join("trajectory.safetensors"), &Device::Cpu)?;
    let tensors: HashMap<String, Tensor> =
        tensors.into_iter().map(|(k, v)| Ok((k, v.to_dtype(DType::F64)?))).collect::<Result<_>>()?;
    let mut scheduler = match Scheduler::from_json(&read("scheduler_config.json")?) {
        Ok(scheduler) => scheduler,
        Err(e) => return Ok(Err(e.to_string())),
    };
    for (key, value) in case["step_args"].as_object().into_iter().flatten() {
        match (&mut scheduler.sampler, key.as_str()) {
            (AnySampler::Ddim(ddim), "eta") => ddim.eta = value.as_f64().unwrap_or(f64::NAN),
            (AnySampler::Ddim(ddim), "use_clipped_model_output") => ddim.use_clipped_model_output = value == true,
            _ => return Ok(Err(format!("{key} of a step"))),
        }
    }
    let plan = match scheduler.plan(case["steps"].as_u64().unwrap_or(0) as usize) {
        Ok(plan) => plan,
        Err(e) => return Ok(Err(e.to_string())),
    };
    let ve = scheduler.class == "ScoreSdeVeScheduler";
    let alpha_bar = tensors.get("model_alpha_bar").map(to_host).transpose()?;
    let mut told = to_host(&tensors[if ve { "sigmas" } else { "timesteps" }])?;
    let config: Value = serde_json::from_str(&read("scheduler_config.json")?.replace("-Infinity", "null"))
        .map_err(candle_core::Error::wrap)?;
    if let (true, AnySampler::Pc(pc)) = (ve, &scheduler.sampler) {
        told = told.iter().flat_map(|sigma| vec![*sigma; pc.corrector_steps + 1]).collect();
    }
    let predicts = config["prediction_type"].as_str().unwrap_or("").to_string();
    let net = Recorded { alpha_bar, predicts, score: ve, told, calls: AtomicUsize::new(0) };
    let process = scheduler.process.get();
    let model = Preconditioned::new(&net, process, scheduler.predict.get(), scheduler.sigma_data, Cond::default());
    let model = match model {
        Ok(model) => model.with_timesteps(plan.timesteps.clone()),
        Err(e) => return Ok(Err(e.to_string())),
    };
    let clamped;
    let model: &dyn Denoiser = match scheduler.clip.clone() {
        Some(clip) => {
            clamped = Clamped::new(&model, clip)?;
            &clamped
        }
        None => &model,
    };
    // the Euler family's samples are x / alpha
    let scaled = ["Euler", "Heun"].iter().any(|name| scheduler.class.starts_with(name));
    let size = |t: f64| if scaled { process.marginal(t).alpha } else { 1. };
    let begin = size(plan.steps[0].0);
    let std = case["init_noise_sigma"].as_f64().unwrap_or(f64::NAN) * begin;
    let apart = (plan.start / std - 1.).abs();
    if apart.is_nan() || apart > 1e-4 {
        bail!("the start has standard deviation {}, not {std}", plan.start);
    }
    let samples = &tensors["samples"];
    let top = to_host(samples)?.iter().fold(0f64, |top, v| top.max(v.abs()));
    let z = &mut recorded_noise(&tensors)?;
    let sampler = scheduler.sampler.clone();
    let mut worst = 0f64;
    follow(model, sampler.get(), &plan.steps, &(samples.get(0)? * begin)?, z, |at| {
        let theirs = match ve {
            // the last step is recorded with its noise; its mean, the denoised sample, beside it
            true if at.step == at.steps => tensors["last_mean"].clone(),
            true => samples.get(at.step)?,
            // one recorded sample a call, of which our step may make several
            false => samples.get(net.calls.load(Ordering::Relaxed))?,
        };
        worst = worst.max(error(at.x, &(theirs * size(at.t))?, top)?);
        Ok(())
    })?;
    let calls = net.calls.load(Ordering::Relaxed);
    if calls != net.told.len() {
        bail!("the model was called {calls} times, not {}", net.told.len());
    }
    Ok(Ok(worst))
}

#[test]
fn reference_schedulers() {
    let cases = common::cases_with("schedulers", "case.json");
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
    assert!(failed.is_empty(), "off by more than 1e-4: {failed:#?}");
    assert!(ran > 0, "none of the {} cases is supported", cases.len());
}
