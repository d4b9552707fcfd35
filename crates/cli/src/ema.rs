//! `langevin ema`: an average of the weights of any length, from the snapshots of a run.
//!
//! The combination of snapshots whose profile is nearest to the wanted one. [Karras24, section 3.2]

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use clap::Parser;
use langevin::error::{Usage, usage};
use langevin::keeps::{SIGMA_REL, STEP};
use langevin::models::checkpoint::{self, Loaded};
use langevin::open;
use langevin::output;
use langevin::train::ema::{exponent, posthoc};
use std::path::{Path, PathBuf};

/// Rebuild an average of the weights of any length from the snapshots of a run trained with ema.name=power
#[derive(Parser)]
#[command(after_long_help = "\
Example:
  langevin train digits ema.name=power train.snapshot_every=100 --out runs/power
  langevin ema runs/power --std 0.10 --out digits-ema-0.10.safetensors
  langevin sample digits-ema-0.10.safetensors")]
pub struct Ema {
    /// The run folder
    pub run: PathBuf,
    /// Width of the average relative to the training time, such as 0.1 [Karras24]
    #[arg(long)]
    pub std: f64,
    /// Step that the average ends at [default: that of the last snapshot]
    #[arg(long)]
    pub step: Option<u64>,
    /// Where the weights go [default: ema-STD.safetensors in the run folder]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Carries out `langevin ema`.
pub fn run(args: &Ema) -> Result<()> {
    if let Err(why) = exponent(args.std) {
        return usage(Usage::of("std", format!("{why}")).value(args.std));
    }
    let run = args.run.display();
    if !args.run.is_dir() {
        return usage(format!("there is no run folder {run}"));
    }
    let out = args.out.clone().unwrap_or_else(|| args.run.join(format!("ema-{}.safetensors", args.std)));
    output::writable(&out)?;
    let snapshots = snapshots(&args.run)?;
    let Some(last) = snapshots.iter().map(|(profile, _)| profile.step).max() else {
        bail!("{run} has no snapshots of power averages; train with ema.name=power and train.snapshot_every=100");
    };
    let target = posthoc::Profile { step: args.step.unwrap_or(last), sigma_rel: args.std };
    let profiles: Vec<_> = snapshots.iter().map(|(profile, _)| *profile).collect();
    let load = |i: usize| {
        let (model, _) = checkpoint::open(&snapshots[i].1, DType::F32, &Device::Cpu)?;
        Ok(model.weights())
    };
    let weights = posthoc::rebuild(&profiles, target, load).with_context(|| format!("the snapshots of {run}"))?;
    let (model, mut notes) = checkpoint::open(&snapshots[0].1, DType::F32, &Device::Cpu)?;
    notes.insert(STEP.into(), target.step.to_string());
    notes.insert(SIGMA_REL.into(), target.sigma_rel.to_string());
    match model {
        Loaded::Denoising(model) => checkpoint::save(&out, &model.spec, &weights, &notes)?,
        Loaded::Density(model) => checkpoint::save(&out, &model.spec, &weights, &notes)?,
    }
    crate::talk!("from {} snapshots, until step {}", snapshots.len(), target.step);
    crate::say!("{}", out.display())?;
    Ok(())
}

/// The snapshots that are averages of a known width, with what they are.
fn snapshots(run: &Path) -> Result<Vec<(posthoc::Profile, PathBuf)>> {
    let mut found = Vec::new();
    for (step, path) in open::tracks(run)? {
        let notes = checkpoint::texts(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if let Some(width) = notes.get(SIGMA_REL) {
            let sigma_rel = width.parse().with_context(|| format!("{}: {SIGMA_REL} = {width}", path.display()))?;
            found.push((posthoc::Profile { step, sigma_rel }, path));
        }
    }
    Ok(found)
}
