//! Snapshots in files: each a weights file of its own, whose metadata say which average it holds.

use super::posthoc::{self, Profile};
use crate::trainer::Trainer;
use candle_core::{Error, Result, Tensor, bail};
use langevin_models::{checkpoint, tensors};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The metadata key of the number of updates behind a weights file.
pub const STEP: &str = "langevin.step";
/// The metadata key of the relative width of the average that a weights file holds.
pub const WIDTH: &str = "langevin.sigma_rel";

/// Writes every track of averages as `step-N.safetensors`, `step-N-ema1.safetensors`, ... in `dir`, with the texts of
/// `about` in each.
pub fn save(dir: &Path, trainer: &Trainer, about: &BTreeMap<String, String>) -> Result<()> {
    let made = fs::create_dir_all(dir);
    made.map_err(|e| Error::Msg(format!("cannot make the folder `{}`: {e}", dir.display())))?;
    let step = trainer.step_number();
    for (track, width) in trainer.widths().into_iter().enumerate() {
        let mut about = about.clone();
        about.insert(STEP.into(), step.to_string());
        about.extend(width.map(|width| (WIDTH.into(), width.to_string())));
        let name = if track == 0 { format!("step-{step}") } else { format!("step-{step}-ema{track}") };
        let path = dir.join(format!("{name}.safetensors"));
        checkpoint::save(&path, &trainer.model().spec, &trainer.averaged_track(track)?, &about)?;
    }
    Ok(())
}

/// The snapshots of power-function averages in `dir`, in the order of their steps.
pub fn list(dir: &Path) -> Result<Vec<(Profile, PathBuf)>> {
    let entries = fs::read_dir(dir);
    let entries = entries.map_err(|e| Error::Msg(format!("cannot read the folder `{}`: {e}", dir.display())))?;
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|end| end == "safetensors") {
            let texts = metadata(&path)?;
            let step = texts.get(STEP).and_then(|s| s.parse().ok());
            let sigma_rel = texts.get(WIDTH).and_then(|s| s.parse().ok());
            if let (Some(step), Some(sigma_rel)) = (step, sigma_rel) {
                found.push((Profile { step, sigma_rel }, path));
            }
        }
    }
    found.sort_by(|(a, _), (b, _)| {
        (a.step, a.sigma_rel).partial_cmp(&(b.step, b.sigma_rel)).unwrap_or(a.step.cmp(&b.step))
    });
    Ok(found)
}

/// The average of relative width `sigma_rel` at `step` (by default the last), from the snapshots in `dir`: f32, by name.
pub fn rebuild(dir: &Path, step: Option<u64>, sigma_rel: f64) -> Result<Vec<(String, Tensor)>> {
    let (profiles, paths): (Vec<_>, Vec<_>) = list(dir)?.into_iter().unzip();
    let Some(last) = profiles.last() else {
        bail!("`{}` holds no snapshots of power-function averages; train with ema.name = \"power\"", dir.display());
    };
    let target = Profile { step: step.unwrap_or(last.step), sigma_rel };
    posthoc::rebuild(&profiles, target, |i| Ok(tensors::load(&paths[i])?.tensors.into_iter().collect()))
}

/// The texts of a weights file, without its tensors.
fn metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    let read = || -> std::io::Result<serde_json::Value> {
        let mut file = File::open(path)?;
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let mut header = Vec::new();
        file.take(u64::from_le_bytes(length).min(100_000_000)).read_to_end(&mut header)?;
        Ok(serde_json::from_slice(&header)?)
    };
    let header = read().map_err(|e| Error::Msg(format!("`{}` is no whole weights file: {e}", path.display())))?;
    let texts = header.get("__metadata__").and_then(|texts| texts.as_object());
    let text = |(key, value): (&String, &serde_json::Value)| Some((key.clone(), value.as_str()?.to_string()));
    Ok(texts.map(|texts| texts.iter().filter_map(text).collect()).unwrap_or_default())
}
