//! `langevin apply`: what a model says of given tensors.

use crate::machine::Machine;
use anyhow::Result;
use candle_core::Tensor;
use clap::Parser;
use langevin::apply::{Input, Source, WHAT, form};
use langevin::error::{Usage, usage};
use langevin::output;
use std::collections::HashMap;
use std::path::PathBuf;

/// Evaluate a model on given tensors: output, x0, eps, score, energy, logp
#[derive(Parser)]
#[command(after_long_help = "\
The input file holds `sample` f32 [B, C, H, W], and `timestep` [B] and `class_labels` [B] where the model needs them. \
For output, and with --energy, they are the network's own inputs, as diffusers passes them; for x0, eps, score, energy \
and logp of a model with a process they are x_t and the process's time t, in the range of the model: of a table \
(value - mean) / deviation of each column, which `langevin info` tells. logp, in nats, is by the energy \
where this is normalised, else along the probability-flow ODE; without `timestep` it is that of the least noisy time.

Examples:
  langevin apply runs/digits --input x.safetensors --output y.safetensors --what x0,score,energy
  langevin apply exact:8-gaussians --input points.safetensors --output y.safetensors --what logp
  langevin apply unet-folder --input io.safetensors --output y.safetensors --what output
  langevin apply unet-folder --input io.safetensors --output y.safetensors --what energy,score \\
      --energy residual")]
pub struct Apply {
    /// A model, or a folder with config.json and weights of a UNet2DModel
    pub model: String,
    /// Tensors to evaluate the model on
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where the results go, under the names of --what
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// What to compute: output, x0, eps, score, energy, logp
    #[arg(long, value_delimiter = ',', default_value = "output")]
    pub what: Vec<String>,
    /// Make an energy of a plain network's output: residual, inner-product, squared-norm
    #[arg(long, value_name = "FORM")]
    pub energy: Option<String>,
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin apply`.
pub fn run(args: &Apply) -> Result<()> {
    let device = args.machine.open()?;
    for what in &args.what {
        if !WHAT.contains(&what.as_str()) {
            return usage(Usage::of("what", format!("use {}", WHAT.join(", "))).value(what));
        }
    }
    if args.energy.is_some() && !args.what.iter().any(|what| what == "energy" || what == "score") {
        return usage(Usage::of(
            "energy",
            format!(
                "it makes an energy and its score, and --what {} asks for neither; add one of them, or leave it out",
                args.what.join(",")
            ),
        ));
    }
    let form = args.energy.as_deref().map(form).transpose()?;
    output::writable(&args.output)?;
    let input = Input::read(&args.input, &device)?;
    let results = Source::open(&args.model, input.x.dtype(), &device)?.answer(&args.what, form, &input)?;
    let named: HashMap<String, Tensor> = args.what.iter().cloned().zip(results).collect();
    let bytes = safetensors::serialize(named.iter().map(|(name, t)| (name.clone(), t)), None)?;
    output::save(&args.output, &bytes)?;
    crate::say!("{}", args.output.display())?;
    Ok(())
}
