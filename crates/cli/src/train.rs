//! `langevin train`: a new run, or one that goes on, and what people see of it.

mod shown;

use crate::machine::Machine;
use anyhow::Result;
use clap::Parser;
use langevin::error::{Usage, usage};
use langevin::run::{GoOn, New};
use shown::Shown;
use std::path::{Path, PathBuf};

/// Train a model: a preset, or a configuration file, changed by key=value
#[derive(Parser)]
#[command(after_long_help = "\
Examples:
  langevin train digits
  langevin train digits train.steps=3000 optimiser.name=adam --out runs/longer
  langevin train digits model.head=denoiser process.name=flow model.predict=velocity \\
      loss.level=logit-normal loss.weight=unit-velocity
  langevin train toy:checkerboard
  # for classifier-free guidance
  langevin train digits model.conditional=true train.label_dropout=0.1 --out runs/classes
  langevin train mnist --data ~/mnist        a folder with the IDX files
  # start from a model of the Hub: an energy first learns its score
  langevin train cifar10 model.from=google/ddpm-cifar10-32
  langevin train --resume runs/digits        go on exactly where it stopped
  langevin train --resume runs/digits train.steps=20000 train.sample_every=500
  langevin train --resume runs/cats --data /new/place/of/cats
  langevin train digits --dry-run            show the whole configuration, do nothing")]
pub struct Train {
    /// A preset (see `langevin list presets`), toy:NAME, or a configuration FILE.toml
    #[arg(required_unless_present = "resume")]
    pub preset: Option<String>,
    /// Changes of the configuration, such as train.steps=2000, in any order
    #[arg(value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    /// Data to train on: NAME[:SPLIT], NAME=DIR, a folder of images, FILE.csv, FILE.npz, toy:NAME; a folder of the preset's data set
    #[arg(long, value_name = "SPEC")]
    pub data: Option<String>,
    /// Folder of the run [default: runs/PRESET, numbered if taken]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with the run in this folder. train.steps may change, and what changes no weights: train.log_every,
    /// train.sample_every, train.checkpoint_every, train.snapshot_every and sampler.KEY; and --data where the same data have
    /// moved
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pub resume: Option<PathBuf>,
    /// Go on with other data than the run began with: columns and classes are matched by name, and scaled as before
    #[arg(long)]
    pub new_data: bool,
    /// Seed of everything random in the run (train.seed)
    #[arg(long)]
    pub seed: Option<u64>,
    /// Show the resolved configuration and stop
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin train`.
pub fn run(args: Train) -> Result<()> {
    let device = args.machine.open()?;
    match &args.resume {
        Some(dir) => {
            let asked = args.go_on(dir)?;
            if args.dry_run {
                return show(&asked.config(&device)?);
            }
            warn_of_debug();
            asked.begin(&device)?.train(&mut Shown::default())?;
        }
        None => {
            let asked = args.begin()?;
            if args.dry_run {
                return show(&asked.config(&device)?);
            }
            warn_of_debug();
            asked.begin(&device)?.train(&mut Shown::default())?;
        }
    }
    Ok(())
}

/// The whole configuration, for --dry-run.
fn show(config: &str) -> Result<()> {
    crate::say!("{}", config.trim_end())
}

fn warn_of_debug() {
    if cfg!(debug_assertions) {
        crate::talk!("warning: this is a build without optimisation, many times slower; use cargo run --release");
    }
}

impl Train {
    fn begin(&self) -> Result<New> {
        if self.new_data {
            let why = "it is for a run that goes on, with --resume DIR; a new run takes any data";
            return usage(Usage::of("new-data", why));
        }
        Ok(New {
            preset: self.preset.clone().unwrap_or_default(),
            changes: self.changes.clone(),
            data: self.data.clone(),
            seed: self.seed,
            out: self.out.clone(),
        })
    }

    fn go_on(&self, dir: &Path) -> Result<GoOn> {
        let mut changes = self.changes.clone();
        match &self.preset {
            Some(preset) if !preset.contains('=') => {
                let dir = dir.display();
                return usage(format!(
                    "{preset}: a run goes on with the preset that it was started with; leave it out: langevin train \
                         --resume {dir}"
                ));
            }
            preset => changes.extend(preset.clone()), // the first word is a change too
        }
        if self.seed.is_some() {
            return usage(Usage::of("seed", "a run goes on with the seed that it was started with"));
        }
        let (dir, data, new_data) = (dir.into(), self.data.clone(), self.new_data);
        Ok(GoOn { dir, changes, data, new_data })
    }
}
