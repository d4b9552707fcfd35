//! `langevin export`: a model as a folder that diffusers opens.

use crate::machine::Machine;
use anyhow::Result;
use clap::Parser;
use langevin::config::{Changes, Drawing};
use langevin::error::{Usage, usage};
use langevin::keeps::{RUN, STEP};
use langevin::models::diffusers::{self, Trained};
use langevin::models::plain;
use langevin::open::{Opened, open};
use std::fs;
use std::path::PathBuf;

/// Write a model as a folder that diffusers opens in Python
#[derive(Parser)]
#[command(after_long_help = "\
A denoiser trained with process.name=table, model.sigma_data=1, model.predict=eps (or v, or x0) and no classes becomes \
a DDPMPipeline; where it does not, the keys that would have to be others are told. What has no scheduler in diffusers, energies among it, \
comes with a short pipeline.py of its own and the noise levels of the run's sampler (heun or euler).

Examples:
  langevin export runs/digits digits-diffusers
  langevin export runs/digits@2000 digits-diffusers sampler.name=heun sampler.steps=32")]
pub struct Export {
    /// A run folder, RUN@STEP, or a weights file
    pub model: String,
    /// The new folder
    pub dir: PathBuf,
    /// Changes of the sampler whose noise levels go along, such as sampler.steps=32
    #[arg(value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin export`.
pub fn run(args: &Export) -> Result<()> {
    let opened = open(&args.model, &args.machine.open()?)?;
    if opened.scheduler.is_some() {
        return usage(format!("{} is a model of diffusers already: {}", args.model, opened.what));
    }
    let export = diffusers::Export::of(&opened.model)?;
    let dir = &args.dir;
    if dir.exists() && fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_some()) {
        return usage(format!("{} is there already; name a new folder", dir.display()));
    }
    if dir.file_name().is_none() {
        return usage(format!("{} is not the name of a folder", dir.display()));
    }
    let drawing = drawing(&opened, &export, &args.changes)?;
    let mut notes = opened.notes.clone();
    if let Some(run) = &opened.run {
        notes.insert(RUN.into(), run.to_toml()?);
    }
    export.write(dir, &drawing, trained(&opened)?.as_ref(), &notes)?;
    if !export.lacks().is_empty() {
        crate::talk!(
            "no DDPMPipeline means the same, so that samples come from a pipeline.py beside the network; a model \
             trained with {} as well becomes one",
            export.lacks().join(", ")
        );
    }
    crate::say!("{}", dir.display())
}

/// How the folder draws samples: as the run does, with `changes`.
fn drawing(opened: &Opened, export: &diffusers::Export, changes: &[String]) -> Result<diffusers::Drawing> {
    if export.lacks().is_empty() && !changes.is_empty() {
        return usage("sampler.KEY=value: this model has a scheduler of diffusers, whose steps are chosen there");
    }
    let changes = Changes::typed(changes)?;
    if let Some(change) = changes.first(|key| key == "noise") {
        return usage(format!("`{change}`: the noise of an exported model is that of its user; leave it out"));
    }
    let mut drawing = Drawing::of(opened.run.as_ref());
    if !export.lacks().is_empty() {
        drawing = drawing.changed(&changes)?;
    }
    let sampler = drawing.sampler;
    export.suits(&sampler.sampler).map_err(|why| Usage::new(plain(&why)))?;
    Ok(diffusers::Drawing { sampler: sampler.sampler, grid: sampler.grid, steps: sampler.steps, clip: sampler.clip })
}

/// What the run says of itself on the model card.
fn trained(opened: &Opened) -> Result<Option<Trained>> {
    let Some(run) = &opened.run else { return Ok(None) };
    let run = run.clone().without_folders();
    Ok(Some(Trained {
        steps: opened.notes.get(STEP).cloned(),
        samples: run.train.batch * run.train.accumulate,
        from: run.model.from.clone(),
        config: run.to_toml()?,
        data: run.data.spec,
    }))
}
