//! `langevin bench`: the time and memory of one network under one kind of work.
//!
//! Networks, batches and work are those of scripts/peers/torch_unet.py; scripts/bench_vs_pytorch.sh runs both. That of the RBM,
//! an epoch of CD-1, is what scikit-learn's BernoulliRBM does in `fit` with `n_iter=1`.

use crate::machine::Machine;
use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use clap::Parser;
use langevin::data::Batch;
use langevin::dynamics::Cond;
use langevin::dynamics::predict::AnyParametrisation;
use langevin::dynamics::process::AnyProcess;
use langevin::error::{Usage, usage};
use langevin::models::unet::UNetConfig;
use langevin::models::{Head, Model, ModelSpec, Rbm, RbmSpec};
use langevin::ops::noise::Noise;
use langevin::ops::{grad, tape};
use langevin::train::ema::{Constant, Ema};
use langevin::train::optim::{AdamW, Optim, Sgd};
use langevin::train::schedule::Decay;
use langevin::train::{ContrastiveDivergence, TrainOptions, Trainer};
use langevin::watch::Progress;
use std::time::Instant;

/// Learning rate of the optimiser.
const LR: f64 = 2e-4;

/// Runs before those that are timed.
const WARM: u64 = 2;

/// Time a network: forward, train, energy-score or energy-train
#[derive(Parser)]
#[command(after_long_help = "\
Prints NET/CASE batch=B params=P median_ms=M min_ms=m peak_mib=R, the last the peak resident memory of the whole \
process; on a GPU it is n/a.

f32 runs everywhere, f64 everywhere but on Metal. bf16 runs on CUDA and Metal, and is all of it: weights, moments and \
averages too. tf32 runs on CUDA: matrix products of f32 may round their factors to 10 bits of fraction. Convolutions \
by cuDNN may do so under f32 too; NVIDIA_TF32_OVERRIDE=0 in the environment forbids both.

Examples:
  langevin bench --net mnist --case energy-train
  langevin bench --net cifar --device cuda --dtype tf32")]
pub struct Bench {
    /// The network
    #[arg(long, default_value = "mnist", value_parser = ["mnist", "cifar", "rbm"])]
    pub net: String,
    /// The work that is timed; cd1, of rbm alone, is an epoch on 60000 x 784 random bits
    #[arg(long, default_value = "train", value_parser = ["forward", "train", "energy-score", "energy-train", "cd1"])]
    pub case: String,
    /// Samples at a time [default: 64 for mnist, 8 for cifar, 100 for rbm]
    #[arg(long)]
    pub batch: Option<usize>,
    /// Timed runs, after two to warm up
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Type of numbers
    #[arg(long, default_value = "f32", value_parser = ["f32", "f64", "bf16", "tf32"])]
    pub dtype: String,
    /// Compute the inside of blocks again in the backward pass, as train.recompute
    #[arg(long)]
    pub recompute: bool,
    /// Take energy-train's gradient by differences, as train.second_order = "finite-difference"
    #[arg(long)]
    pub differences: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin bench`.
pub fn run(args: &Bench) -> Result<()> {
    let device = args.machine.open()?;
    if cfg!(debug_assertions) {
        crate::talk!("warning: this is a build without optimisation, many times slower; use cargo run --release");
    }
    let dtype = dtype(&args.dtype, &device)?;
    if args.batch == Some(0) || args.runs == 0 {
        return usage("--batch and --runs: give at least 1");
    }
    if (args.net == "rbm") != (args.case == "cd1") {
        return usage("--net rbm goes with --case cd1, and with no other");
    }
    if args.differences && args.case != "energy-train" {
        return usage("--differences is of --case energy-train");
    }
    if args.recompute && ["forward", "cd1"].contains(&args.case.as_str()) {
        return usage(Usage::of("recompute", format!("--case {} has no backward pass", args.case)));
    }
    if args.net == "rbm" {
        let batch = args.batch.unwrap_or(100);
        let mut epochs = Epochs::new(batch, dtype, &device)?;
        let parameters = epochs.trainer.model().vars().iter().map(|(_, var)| var.elem_count()).sum();
        return timed(args, batch, parameters, &device, || epochs.run());
    }
    let (net, shape, usual) = network(&args.net)?;
    let batch = args.batch.unwrap_or(usual);
    let spec = ModelSpec::energy(shape)
        .head(if args.case.starts_with("energy") { Head::Energy } else { Head::Denoiser })
        .net(net)
        .process(AnyProcess::named("vp").map_err(anyhow::Error::msg)?)
        .predict(AnyParametrisation::named("eps").map_err(anyhow::Error::msg)?)
        .sigma_data(1.);
    let mut work = Work::new(Model::new(spec, 0, dtype, &device)?, batch)?;
    let parameters = work.model.parameters();
    timed(args, batch, parameters, &device, || {
        tape::recompute(args.recompute, || grad::differences(args.differences, || work.step(&args.case)))
    })
}

/// Runs `work` as often as is asked, and prints the line about it.
fn timed(
    args: &Bench,
    batch: usize,
    parameters: usize,
    device: &Device,
    mut work: impl FnMut() -> candle_core::Result<()>,
) -> Result<()> {
    let mut step = || {
        work()?;
        device.synchronize()
    };
    let mut progress = Progress::new(args.runs as u64 + WARM, "runs");
    for _ in 0..WARM {
        step()?; // the first fills what is kept between steps
        progress.step();
    }
    let mut times = Vec::with_capacity(args.runs);
    for _ in 0..args.runs {
        let start = Instant::now();
        step()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        progress.step();
    }
    progress.done();
    times.sort_by(f64::total_cmp);
    let median = 0.5 * (times[(times.len() - 1) / 2] + times[times.len() / 2]);
    let peak = peak_mib().filter(|_| device.is_cpu()).map_or("n/a".into(), |mib| format!("{mib:.0}"));
    crate::say!(
        "{}/{} batch={batch} params={parameters} median_ms={median:.1} min_ms={:.1} peak_mib={peak}",
        args.net,
        args.case,
        times[0]
    )?;
    Ok(())
}

/// The type of numbers called `name`, if `device` computes with it; `tf32` is f32 whose products may be rounded.
fn dtype(name: &str, device: &Device) -> Result<DType> {
    let where_it_is = match (name, device) {
        ("tf32", Device::Cpu | Device::Metal(_)) => "a mode of CUDA devices; use --device cuda",
        ("bf16", Device::Cpu) => "for GPUs, the CPU has kernels for f32 and f64 alone; use --device cuda or metal",
        ("f64", Device::Metal(_)) => "not there on Metal; use --device cpu or cuda",
        _ => {
            candle_core::cuda::set_gemm_reduced_precision_f32(name == "tf32");
            return Ok(match name {
                "f64" => DType::F64,
                "bf16" => DType::BF16,
                _ => DType::F32,
            });
        }
    };
    usage(format!("--dtype {name} is {where_it_is}"))
}

/// The U-Net, its samples, and the usual batch.
fn network(name: &str) -> Result<(UNetConfig, [usize; 3], usize)> {
    Ok(match name {
        // 3 levels, attention at 7x7
        "mnist" => {
            let net = UNetConfig {
                channels: vec![32, 64, 64],
                layers: 1,
                attention: vec![2],
                groups: Some(8),
                ..UNetConfig::default()
            };
            (net, [1, 28, 28], 64)
        }
        // google/ddpm-cifar10-32: 35.7 M parameters
        "cifar" => {
            let net = UNetConfig {
                channels: vec![128, 256, 256, 256],
                layers: 2,
                attention: vec![1],
                groups: Some(32),
                eps: 1e-6,
                downsample_padding: 0,
                cos_first: false,
                freq_shift: 1.,
                ..UNetConfig::default()
            };
            (net, [3, 32, 32], 8)
        }
        other => bail!("no network {other}; use mnist or cifar"),
    })
}

/// One model and what a step of work needs.
struct Work {
    model: Model,
    vars: Vec<Var>,
    /// The optimiser and the average, once a step has been trained.
    trained: Option<(Optim, Ema)>,
    steps: u64,
    x: Tensor,
    eps: Tensor,
    t: Tensor,
}

impl Work {
    fn new(model: Model, batch: usize) -> Result<Self> {
        let (dtype, device) = (model.dtype(), model.device().clone());
        let mut shape = vec![batch];
        shape.extend_from_slice(&model.spec.shape);
        let mut noise = Noise::seeds(&(0..batch as u64).collect::<Vec<_>>());
        let x = noise.normal(shape, dtype, &device)?;
        let eps = noise.normal_like(&x)?;
        let t: Vec<f64> = noise.uniform(batch)?.into_iter().map(|u| (1000. * u).floor()).collect();
        Ok(Self {
            vars: model.vars().iter().map(|(_, var)| var.clone()).collect(),
            trained: None,
            steps: 0,
            t: Tensor::new(t, &device)?.to_dtype(dtype)?,
            model,
            x,
            eps,
        })
    }

    /// f(x, t) of a denoiser; of an energy its score -grad_x 1/2 |x - f(x, t)|^2.
    fn output(&self) -> candle_core::Result<Tensor> {
        let y = self.model.net().forward(&self.x, &self.t, &Cond::default())?;
        if self.model.spec.head == Head::Energy { y - &self.x } else { Ok(y) }
    }

    fn step(&mut self, case: &str) -> candle_core::Result<()> {
        match case {
            "forward" | "energy-score" => self.output().map(drop),
            "train" => self.update(|w| (w.output()? - &w.eps)?.sqr()?.mean_all()),
            _ => self.update(|w| (w.output()? + &w.eps)?.sqr()?.mean_all()),
        }
    }

    /// Gradients of `loss`, a step of AdamW, and the average.
    fn update(&mut self, loss: impl FnOnce(&Self) -> candle_core::Result<Tensor>) -> candle_core::Result<()> {
        let (_, grads) = grad::value_and_grad(&self.vars, || loss(self))?;
        self.steps += 1;
        let vars = self.model.vars();
        let (optimiser, ema) = match &mut self.trained {
            Some(trained) => trained,
            None => self.trained.insert((
                Optim::new(AdamW::default().into(), vars)?,
                Ema::new(Constant { decay: 0.999 }.into(), vars)?,
            )),
        };
        optimiser.step(&grads, LR, 1.)?;
        ema.update(vars, self.steps)?;
        Ok(())
    }
}

/// Training of an RBM on random bits of the size of MNIST by CD-1: an epoch is one run.
struct Epochs {
    trainer: Trainer<Rbm>,
    bits: Tensor, // [60000, 784] of u8
    batch: usize,
}

impl Epochs {
    fn new(batch: usize, dtype: DType, device: &Device) -> candle_core::Result<Self> {
        let (samples, visible, part) = (60_000, 784, 1000);
        let even = Tensor::zeros((part, visible), DType::F32, device)?;
        let parts =
            (0..samples / part).map(|k| Noise::of_step(0, k as u64, part).bernoulli(&even)?.to_dtype(DType::U8));
        let bits = Tensor::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        let rbm = Rbm::new(RbmSpec::new([visible], 500), 0, dtype, device)?;
        let options =
            TrainOptions { batch, lr: 0.05, warmup: 0, decay: Decay::Constant, clip: 0., ..Default::default() };
        let loss = ContrastiveDivergence::default();
        Ok(Self {
            trainer: Trainer::new(rbm, loss, Sgd::default().into(), Constant { decay: 0.999 }.into(), options)?,
            bits,
            batch,
        })
    }

    fn run(&mut self) -> candle_core::Result<()> {
        let samples = self.bits.dim(0)?;
        for from in (0..samples).step_by(self.batch) {
            let x = self.bits.narrow(0, from, self.batch.min(samples - from))?;
            let x = x.to_dtype(self.trainer.model().dtype())?;
            self.trainer.step(&[Batch::new(x, None)])?;
        }
        Ok(())
    }
}

/// Peak resident memory of this process in MiB, where the system tells.
fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_refuses_what_it_does_not_compute() -> Result<()> {
        assert_eq!(dtype("f32", &Device::Cpu)?, DType::F32);
        assert_eq!(dtype("f64", &Device::Cpu)?, DType::F64);
        for (name, cure) in [("tf32", "--device cuda"), ("bf16", "--device cuda or metal")] {
            let refused = dtype(name, &Device::Cpu).err().and_then(|e| e.downcast::<Usage>().ok());
            assert!(refused.is_some_and(|e| e.to_string().contains(name) && e.why.contains(cure)), "{name}");
        }
        Ok(())
    }
}
