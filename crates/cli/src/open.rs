//! A model by the name that a user types: a run folder, RUN@STEP, a weights file; a network alone for `apply`.

use crate::run::{Run, usage};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use langevin_data::{Columns, Kind};
use langevin_models::{Model, checkpoint, diffusers};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Metadata key of a weights file: the resolved configuration of its run, as TOML.
pub const RUN: &str = "langevin.run";
/// Metadata key: the step of training that the weights are of.
pub const STEP: &str = "langevin.step";
/// Metadata key: how the columns of a table were scaled, as JSON of [`Columns`].
pub const COLUMNS: &str = "langevin.columns";
/// Metadata key: the relative width of the average that the weights are, where its profile has one.
pub const SIGMA_REL: &str = "langevin.sigma_rel";

/// A model with what its file says of it.
pub struct Opened {
    /// The model.
    pub model: Model,
    /// The run that trained it, if the file says so.
    pub run: Option<Run>,
    /// The file that it came from, for people.
    pub what: String,
    /// All else that the file says.
    pub notes: BTreeMap<String, String>,
}

impl Opened {
    /// What a sample is.
    pub fn kind(&self) -> Kind {
        kind(&self.model)
    }

    /// How the columns of the table were scaled, for a model of a table.
    pub fn columns(&self) -> Result<Option<Columns>> {
        let read = |text: &String| serde_json::from_str(text).with_context(|| format!("{}: {COLUMNS}", self.what));
        self.notes.get(COLUMNS).map(read).transpose()
    }
}

/// What a sample of `model` is, by its shape.
pub fn kind(model: &Model) -> Kind {
    match model.spec.shape.as_slice() {
        [_, _, _] => Kind::Image,
        [2] => Kind::Points,
        _ => Kind::Table,
    }
}

/// The model called `name`, in f32.
pub fn open(name: &str, device: &Device) -> Result<Opened> {
    open_as(name, DType::F32, device)
}

/// The model called `name`, its weights converted to `dtype`.
pub fn open_as(name: &str, dtype: DType, device: &Device) -> Result<Opened> {
    let file = find(name)?;
    let (model, mut notes) = checkpoint::load(&file, dtype, device)?;
    let what = file.display().to_string();
    let read = |text: String| Run::parse(&text, &[]).with_context(|| format!("{what}: the configuration inside it"));
    let run = notes.remove(RUN).map(read).transpose()?;
    Ok(Opened { model, run, what, notes })
}

/// The weights file that `name` means.
pub fn find(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.is_dir() {
        return weights_in(path);
    }
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    if let Some((run, step)) = name.rsplit_once('@')
        && Path::new(run).is_dir()
    {
        return snapshot(Path::new(run), step);
    }
    let parts: Vec<_> = name.split('/').collect();
    let word = |part: &&str| !part.is_empty() && !part.starts_with('.');
    if parts.len() == 2 && parts.iter().all(word) && !name.ends_with(".safetensors") {
        return usage(format!(
            "there is no folder {name}; if a model of the Hugging Face Hub is meant, loading from there comes later: \
             folders and files work now"
        ));
    }
    usage(format!("there is no run folder or weights file {name}"))
}

/// The weights in a run folder.
fn weights_in(folder: &Path) -> Result<PathBuf> {
    let (file, name) = (folder.join("model.safetensors"), folder.display());
    if file.is_file() {
        return Ok(file);
    }
    if folder.join("config.toml").is_file() {
        bail!(
            "{name} has no model.safetensors: its training has not reached a checkpoint; langevin train --resume {name}"
        );
    }
    if is_network(folder) {
        bail!(
            "{name} is a network of diffusers without a process: langevin apply evaluates it; sampling from it comes later"
        );
    }
    usage(format!("{name} is not a run folder: it has neither model.safetensors nor config.toml"))
}

/// The snapshot at `step` of a run.
fn snapshot(run: &Path, step: &str) -> Result<PathBuf> {
    let name = run.display();
    let Ok(number) = step.parse::<u64>() else {
        return usage(format!("{name}@{step}: `{step}` is not a step; write {name}@2000"));
    };
    let file = run.join("snapshots").join(format!("step-{number}.safetensors"));
    if file.is_file() {
        return Ok(file);
    }
    let mut steps: Vec<_> = snapshots(run)?.into_iter().map(|(step, _)| step).collect();
    steps.dedup();
    let steps: Vec<_> = steps.iter().map(u64::to_string).collect();
    match steps.is_empty() {
        true => usage(format!("{name} has no snapshots; train.snapshot_every=1000 makes them")),
        false => usage(format!("{name} has no snapshot at step {number}; it has {}", steps.join(", "))),
    }
}

/// Steps and files of the snapshots of a run, in order; `step-N.2.safetensors` is the second average at step N.
pub fn snapshots(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut all = tracks(run)?;
    all.retain(|(step, path)| path.file_name().is_some_and(|name| *name == *format!("step-{step}.safetensors")));
    Ok(all)
}

/// The same, and with each the other averages that were kept of that step: `step-N.2.safetensors`.
pub fn tracks(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let folder = run.join("snapshots");
    let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(vec![]) };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let step = name.strip_prefix("step-").and_then(|name| name.strip_suffix(".safetensors"));
        let step = step.and_then(|step| step.split('.').next());
        if let Some(step) = step.and_then(|step| step.split('.').next()?.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether `folder` holds a network of diffusers, at its root or in `unet`.
pub fn is_network(folder: &Path) -> bool {
    ["config.json", "unet/config.json"].iter().any(|file| folder.join(file).is_file())
}

/// The network of diffusers in `folder`.
pub fn network(folder: &Path, dtype: DType, device: &Device) -> Result<diffusers::Network> {
    Ok(diffusers::open(folder, dtype, device)?)
}
