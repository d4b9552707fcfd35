//! A model by the name that a user types: a run folder, RUN@STEP, a weights file, a folder of diffusers, an id of the
//! Hugging Face Hub, exact:NAME; a network alone for `apply`.

use crate::config::{Config, DensityConfig};
use crate::error::{Usage, usage};
use crate::keeps::{COLUMNS, DATA, RUN};
use crate::{download, keeps};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use langevin_data::{Columns, Dataset, Facts, Kind, Scaling};
use langevin_dynamics::process::AnyProcess;
use langevin_models::diffusers::{self, Pipeline, Scheduler, pipeline};
use langevin_models::{DensityModel, Model, ModelSpec, checkpoint, mixture};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A model with what its file says of it.
pub struct Opened {
    /// The model.
    pub model: Model,
    /// The run that trained it, if the file says so.
    pub run: Option<Config>,
    /// How diffusers samples from it, if it came from there.
    pub scheduler: Option<Scheduler>,
    /// What it keeps of the data that it learnt, if it does.
    pub facts: Option<Facts>,
    /// The names of the classes of those data.
    class_names: Option<Vec<String>>,
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

    /// The data that it learnt, or of which it is the exact density; `None` if it does not say.
    pub fn learnt(&self) -> Option<String> {
        match (&self.run, self.what.strip_prefix("exact:")) {
            (Some(run), _) => Some(run.data.spec.clone()),
            (None, Some(rest)) => {
                let toy = format!("toy:{}", rest.split(':').next().unwrap_or(rest));
                langevin_data::ALL.iter().any(|(name, _)| *name == toy).then_some(toy)
            }
            (None, None) => None,
        }
    }

    /// Whether it was trained on images with uniform noise within their grey levels.
    pub fn dequantised(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.data.dequantise)
    }

    /// The names of its classes in the order of their numbers, if it is told classes and they have names.
    pub fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref().filter(|names| self.model.spec.classes == Some(names.len()))
    }

    /// How the columns of the table were scaled, for a model of a table.
    pub fn columns(&self) -> Result<Option<Columns>> {
        if let Some(facts) = &self.facts {
            return Ok(facts.columns.clone());
        }
        let read = |text: &String| serde_json::from_str(text).with_context(|| format!("{}: {COLUMNS}", self.what));
        self.notes.get(COLUMNS).map(read).transpose()
    }

    /// In what `data`, read from where the model's data were, differ from what it learnt, in words; `None` if in nothing, or
    /// nobody knows.
    pub fn changed(&self, data: &dyn Dataset) -> Result<Option<String>> {
        let Some(kept) = &self.facts else {
            let before = self.run.as_ref().and_then(|run| run.data.samples);
            return Ok(before.filter(|&n| n != data.len()).map(|n| format!("{} samples, not {n}", data.len())));
        };
        let now = Facts::of(data)?;
        // the same contents under classes that the model numbers in another way
        let now = Facts { classes: kept.classes, class_names: kept.class_names.clone(), ..now };
        Ok(kept.difference(&now))
    }

    /// How tables are scaled for this model: as the one that it learnt, and not at all if it learnt none.
    pub fn scaling(&self) -> Result<Scaling> {
        Ok(self.columns()?.map_or(Scaling::No, Scaling::Like))
    }
}

/// A density with what its file says of it.
pub struct OpenedDensity {
    /// The density.
    pub model: DensityModel,
    /// The run that trained it, if the file says so.
    pub run: Option<DensityConfig>,
    /// What it keeps of the data that it learnt, if it does.
    pub facts: Option<Facts>,
    /// The file that it came from, for people.
    pub what: String,
    /// All else that the file says.
    pub notes: BTreeMap<String, String>,
}

impl OpenedDensity {
    /// Of a weights file.
    pub(crate) fn of(model: DensityModel, mut notes: BTreeMap<String, String>, what: String) -> Result<Self> {
        let read = |text: String| -> Result<DensityConfig> {
            DensityConfig::of(Config::table(&text)?, &[] as &[&str])
                .with_context(|| format!("{what}: the configuration inside it"))
        };
        let run = notes.remove(RUN).map(read).transpose()?;
        let facts = notes.get(DATA).map(|text| keeps::facts(text, &what)).transpose()?;
        Ok(Self { model, run, facts, what, notes })
    }

    /// What a sample is.
    pub fn kind(&self) -> Kind {
        density_kind(&self.model)
    }

    /// In what `data`, read from where those were that it learnt, differ from them, in words; `None` if in nothing, or nobody knows.
    pub fn changed(&self, data: &dyn Dataset) -> Result<Option<String>> {
        let Some(kept) = &self.facts else { return Ok(None) };
        let now = Facts { classes: kept.classes, class_names: kept.class_names.clone(), ..Facts::of(data)? };
        Ok(kept.difference(&now))
    }

    /// How the columns of the table that it learnt are called.
    pub fn columns(&self) -> Option<&Columns> {
        self.facts.as_ref().and_then(|facts| facts.columns.as_ref())
    }
}

/// What a state is, by its shape.
pub fn density_kind(model: &DensityModel) -> Kind {
    match model.spec.shape.as_slice() {
        [_, _, _] => Kind::Image,
        _ => Kind::Table,
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
    open_as(name, None, DType::F32, device)
}

/// A model of either kind.
#[allow(clippy::large_enum_variant)] // there is one at a time
pub enum AnyOpened {
    /// One that denoises.
    Denoising(Opened),
    /// A density of a family.
    Density(OpenedDensity),
}

/// As [`open`], of a model of either kind.
pub fn open_any(name: &str, device: &Device) -> Result<AnyOpened> {
    open_any_as(name, None, device)
}

/// As [`open_any`]; one of diffusers with another scheduler than its own if one is `chosen`.
pub fn open_any_as(name: &str, chosen: Option<&str>, device: &Device) -> Result<AnyOpened> {
    if exact(name)?.is_none() {
        let found = find(name)?;
        if family(&found).is_some() {
            let what = found.display().to_string();
            if let Some(chosen) = chosen {
                let why = format!("{what} is a density and has no scheduler; leave it out");
                return usage(Usage::of("scheduler", why).value(chosen));
            }
            let (model, notes) = checkpoint::load_density(&found, DType::F32, device)?;
            return Ok(AnyOpened::Density(OpenedDensity::of(model, notes, what)?));
        }
    }
    open_as(name, chosen, DType::F32, device).map(AnyOpened::Denoising)
}

/// The family of the density in the weights file at `path`, if it holds one.
fn family(path: &Path) -> Option<String> {
    checkpoint::family(checkpoint::texts(path)?.get(checkpoint::KEY)?)
}

/// The model called `name`, its weights converted to `dtype`; one of diffusers with another scheduler than its own if one is
/// `chosen`: a class or a file.
pub fn open_as(name: &str, chosen: Option<&str>, dtype: DType, device: &Device) -> Result<Opened> {
    if let Some(spec) = exact(name)? {
        if let Some(chosen) = chosen {
            return usage(
                Usage::of("scheduler", format!("{name} is no model of diffusers; choose with sampler.name"))
                    .value(chosen),
            );
        }
        let model = Model::new(spec, 0, dtype, device)?;
        return Ok(Opened {
            model,
            run: None,
            scheduler: None,
            facts: None,
            class_names: None,
            what: name.into(),
            notes: BTreeMap::new(),
        });
    }
    let found = find(name)?;
    let what = found.display().to_string();
    if found.is_dir() || !checkpoint::is_ours(&found) && found.with_file_name("config.json").is_file() {
        let Pipeline { model, scheduler, note } = pipeline::open(&found, chosen, dtype, device)?;
        note.into_iter().for_each(|note| crate::note!("{note}"));
        return Ok(Opened {
            model,
            run: None,
            scheduler: Some(scheduler),
            facts: None,
            class_names: None,
            what,
            notes: BTreeMap::new(),
        });
    }
    if let Some(chosen) = chosen {
        return usage(
            Usage::of("scheduler", format!("{what} is a model of ours; choose with sampler.name and sampler.grid"))
                .value(chosen),
        );
    }
    if let Some(family) = family(&found) {
        return usage(format!(
            "{what} is a density of the family {family}, and this needs a model that denoises; for such a density there are \
             sample, inpaint, detect, eval ood, eval ais and look filters"
        ));
    }
    let (model, mut notes) = checkpoint::load(&found, dtype, device)?;
    let read = |text: String| Config::parse(&text, &[]).with_context(|| format!("{what}: the configuration inside it"));
    let run = notes.remove(RUN).map(read).transpose()?;
    let facts = notes.get(DATA).map(|text| keeps::facts(text, &what)).transpose()?;
    let class_names = match (&facts, &run) {
        (Some(facts), _) => facts.class_names.clone(),
        (None, Some(run)) => langevin_data::class_names(&run.data.spec),
        (None, None) => None,
    };
    Ok(Opened { model, run, scheduler: None, facts, class_names, what, notes })
}

/// The model that `name` means if it is exact:NAME, or exact:NAME:PROCESS for another process than edm.
fn exact(name: &str) -> Result<Option<ModelSpec>> {
    let Some(rest) = name.strip_prefix("exact:").filter(|_| !Path::new(name).exists()) else { return Ok(None) };
    let (of, process) = rest.split_once(':').unwrap_or((rest, "edm"));
    let process = AnyProcess::named(process).map_err(|why| Usage::new(format!("{name}: {why}")))?;
    match mixture::exact(&format!("exact:{of}"), process) {
        Some(spec) => Ok(Some(spec)),
        None => {
            let names: Vec<_> = mixture::EXACT.iter().map(|(name, _)| *name).collect();
            usage(format!("no exact model {name}; one of: {}, each with :PROCESS if not edm", names.join(", ")))
        }
    }
}

/// The name of a model as it names the same model in every working directory: paths are made absolute, ids of the Hub and
/// exact models stay as they are.
pub fn absolute(name: &str) -> Result<String> {
    let whole = |path: &str| -> Result<String> {
        let whole = std::path::absolute(path).with_context(|| format!("the path {path}"))?;
        let whole: PathBuf = whole.components().collect(); // without a slash at the end
        whole.to_str().map(String::from).with_context(|| format!("the path {} is not text", whole.display()))
    };
    match name.rsplit_once('@') {
        _ if Path::new(name).exists() => whole(name),
        Some((run, step)) if Path::new(run).is_dir() => Ok(format!("{}@{step}", whole(run)?)),
        _ => Ok(name.into()),
    }
}

/// The weights file, or the folder of diffusers, that `name` means.
fn find(name: &str) -> Result<PathBuf> {
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
    runs_beside(path)?;
    if is_id(name) {
        return weights_in(&downloaded(name)?);
    }
    usage(format!("there is no run folder or weights file {name}, and it is no id of the Hub, which is OWNER/NAME"))
}

/// Errors, naming what is there, if `path` is none of the runs of a folder: that is a slip, and not asked of the Hub.
fn runs_beside(path: &Path) -> Result<()> {
    let Some(folder) = path.parent().filter(|folder| folder.is_dir() && !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    let is = |run: &Path| {
        ["config.toml", "model.safetensors", "model_index.json"].iter().any(|file| run.join(file).is_file())
    };
    let entries = folder.read_dir().with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let runs = entries.flatten().filter(|entry| is(&entry.path()));
    let mut runs: Vec<_> = runs.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    if runs.is_empty() && !folder.ends_with("runs") {
        return Ok(());
    }
    runs.sort();
    let some = match runs.len() {
        0 => "none".into(),
        n if n > 8 => format!("{} and {} more", runs[..8].join(", "), n - 8),
        _ => runs.join(", "),
    };
    usage(format!("there is no run {}; {} holds {some}", path.display(), folder.display()))
}

/// Whether `name` looks like OWNER/NAME or OWNER/NAME@REVISION.
fn is_id(name: &str) -> bool {
    let parts: Vec<_> = name.split('@').next().unwrap_or_default().split('/').collect();
    let word = |part: &&str| !part.is_empty() && !part.starts_with('.');
    parts.len() == 2 && parts.iter().all(word) && !name.ends_with(".safetensors")
}

/// The folder with the files of a model of the Hub, downloaded if they are not cached yet.
fn downloaded(id: &str) -> Result<PathBuf> {
    let repo = download::repo(id).with_context(|| format!("there is no folder {id}"))?;
    let files = repo.files().with_context(|| format!("there is no folder {id}, and on the Hub"))?;
    let files: Vec<String> = files.into_iter().map(|file| file.path).collect();
    let mut folder = None;
    let own = files.iter().map(String::as_str).filter(|file| *file == "model.safetensors");
    for path in own.chain(pipeline::wanted(&files)) {
        let file = repo.file(path)?;
        folder = file.ancestors().nth(path.split('/').count()).map(Path::to_path_buf);
    }
    folder.with_context(|| {
        format!(
            "{id} on the Hub holds neither a model of ours nor one of diffusers: no model.safetensors, no config.json"
        )
    })
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
    // what we exported says more of itself than diffusers' files do
    let exported = folder.join(diffusers::WEIGHTS);
    if checkpoint::is_ours(&exported) {
        return Ok(exported);
    }
    if diffusers::is_network(folder) {
        return Ok(folder.to_path_buf());
    }
    usage(format!(
        "{name} is not a run folder, nor one of diffusers: it has neither model.safetensors, config.toml nor \
             config.json"
    ))
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

/// The folder or weights file that `name` means, if what it holds is a network of diffusers and no model of ours.
pub fn network_folder(name: &str) -> Result<Option<PathBuf>> {
    let path = Path::new(name);
    if exact(name)?.is_some() {
        return Ok(None);
    }
    let folder = match path.exists() || !is_id(name) {
        true => path.to_path_buf(),
        false => {
            runs_beside(path)?;
            downloaded(name)?
        }
    };
    let theirs = match folder.is_dir() {
        true => {
            let ours =
                folder.join("model.safetensors").exists() || checkpoint::is_ours(&folder.join(diffusers::WEIGHTS));
            !ours && diffusers::is_network(&folder)
        }
        false => folder.with_file_name("config.json").is_file() && !checkpoint::is_ours(&folder),
    };
    Ok(theirs.then_some(folder))
}

/// The network of diffusers in `folder`, whatever its scheduler.
pub fn network(folder: &Path, dtype: DType, device: &Device) -> Result<diffusers::Network> {
    Ok(diffusers::open(folder, dtype, device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        for id in ["google/ddpm-cifar10-32", "google/ddpm-cifar10-32@main"] {
            assert!(is_id(id), "{id}");
        }
        for path in ["runs", "runs/a/b", "/runs", "./runs", "../runs", "runs/", "a/b.safetensors"] {
            assert!(!is_id(path), "{path}");
        }
    }
}
