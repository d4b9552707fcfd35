//! Weights files that need nothing beside them: the model's description is in the file's metadata.
//!
//! It is that of a [`Model`], which denoises, or names the family of a [`DensityModel`]; [`open`] takes both.

pub use crate::atomic::write_atomic;
use crate::family::{DensityModel, described};
use crate::model::{Model, ModelSpec, plain};
use crate::params::Params;
use crate::prefix;
use crate::tensors;
use candle_core::{DType, Device, Error, Result, Tensor, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The metadata key under which a weights file describes its model, as JSON.
pub const KEY: &str = "langevin.model";

/// Writes `tensors` (as [`Model::vars`] names them) with the description of their model and any `extra` texts.
///
/// Errors in one sentence that names the file; a file that was there is then untouched.
pub fn save(
    path: &Path,
    spec: &impl Serialize,
    tensors: &[(String, Tensor)],
    extra: &BTreeMap<String, String>,
) -> Result<()> {
    let description = serde_json::to_string(spec).map_err(|e| Error::Msg(format!("the model's description: {e}")))?;
    let mut metadata = extra.clone();
    metadata.insert("format".into(), "pt".into()); // Python's readers ask for it
    metadata.insert(KEY.into(), description);
    tensors::save(path, tensors, &metadata)
}

/// The weights of a model, for [`save`].
pub fn weights(model: &Model) -> Vec<(String, Tensor)> {
    model.vars().iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
}

/// A weights file that describes its model.
pub(crate) struct Described {
    /// The model, as JSON.
    pub description: String,
    /// By name; types as they are in the file.
    pub tensors: BTreeMap<String, Tensor>,
    /// The `extra` texts of [`save`].
    pub texts: BTreeMap<String, String>,
}

/// What is in a weights file that describes its model; an error of one sentence for every other.
pub(crate) fn read(path: &Path) -> Result<Described> {
    let tensors::Contents { tensors, metadata: mut texts } = tensors::load(path)?;
    let Some(description) = texts.remove(KEY) else {
        bail!(
            "`{}` does not say what model it belongs to (metadata `{KEY}`), so it was not written by this program; \
             for weights of diffusers put their config.json beside the file",
            path.display()
        );
    };
    texts.remove("format");
    Ok(Described { description, tensors, texts })
}

/// A model and the `extra` texts that were saved with it. Weights of any float type are converted to `dtype`.
///
/// Every file that is not whole, not ours, or does not fit its own description is an error of one sentence.
pub fn load(path: &Path, dtype: DType, device: &Device) -> Result<(Model, BTreeMap<String, String>)> {
    denoising(path, read(path)?, dtype, device)
}

/// The same of a density, a model of a family.
pub fn load_density(path: &Path, dtype: DType, device: &Device) -> Result<(DensityModel, BTreeMap<String, String>)> {
    density(path, read(path)?, dtype, device)
}

/// What a weights file may hold.
#[allow(clippy::large_enum_variant)] // there is one at a time
pub enum Loaded {
    /// A model that denoises.
    Denoising(Model),
    /// A density of a family.
    Density(DensityModel),
}

impl Loaded {
    /// The weights, for [`save`].
    pub fn weights(&self) -> Vec<(String, Tensor)> {
        match self {
            Self::Denoising(model) => weights(model),
            Self::Density(model) => model.weights(),
        }
    }
}

/// As [`load`], of a model of either kind.
pub fn open(path: &Path, dtype: DType, device: &Device) -> Result<(Loaded, BTreeMap<String, String>)> {
    let file = read(path)?;
    if family(&file.description).is_some() {
        return density(path, file, dtype, device).map(|(model, texts)| (Loaded::Density(model), texts));
    }
    denoising(path, file, dtype, device).map(|(model, texts)| (Loaded::Denoising(model), texts))
}

type WithTexts<M> = (M, BTreeMap<String, String>);

fn density(path: &Path, file: Described, dtype: DType, device: &Device) -> Result<WithTexts<DensityModel>> {
    let Described { description, tensors, texts } = file;
    let file = path.display();
    if family(&description).is_none() {
        bail!("`{file}` holds a model that denoises, and this needs a density of a family");
    }
    let unreadable =
        |e| Error::Msg(format!("`{file}` describes its model in a way that this version cannot read: {e}"));
    let spec = described(&description).map_err(|e| unreadable(plain(&e)))?;
    let params = Params::loaded(tensors);
    let model = DensityModel::from_params(spec, &params, dtype, device);
    let model = model.map_err(|e| Error::Msg(format!("`{file}`: {}", plain(&e))))?;
    refuse_unused(&format!("`{file}`"), &params)?;
    Ok((model, texts))
}

fn denoising(path: &Path, file: Described, dtype: DType, device: &Device) -> Result<WithTexts<Model>> {
    let Described { description, tensors, texts } = file;
    let file = path.display();
    if let Some(family) = family(&description) {
        bail!("`{file}` holds a model of the family {family}, and this needs one that denoises");
    }
    let spec: ModelSpec = serde_json::from_str(&description).map_err(|e| {
        let e = e.to_string(); // its further lines, if any, are a backtrace
        let why = e.lines().next().unwrap_or_default();
        Error::Msg(format!("`{file}` describes its model in a way that this version cannot read: {why}"))
    })?;
    let within = |e: Error| Error::Msg(format!("`{file}`: {}", plain(&e)));
    let names = spec.names().map_err(within)?;
    let tensors = prefix::strip(tensors, &names).map_err(|e| Error::Msg(format!("`{file}` {}", plain(&e))))?;
    let params = Params::loaded(tensors);
    let model = Model::from_params(spec, &params, dtype, device).map_err(within)?;
    refuse_unused(&format!("`{file}`"), &params)?;
    Ok((model, texts))
}

/// The family that a description of a model names, such as `rbm`; those of models that denoise name none.
pub fn family(description: &str) -> Option<String> {
    let description: serde_json::Value = serde_json::from_str(description).ok()?;
    Some(description.get("family")?.as_str()?.to_string())
}

/// Whether `path` is a weights file that describes its model.
pub fn is_ours(path: &Path) -> bool {
    texts(path).is_some_and(|texts| texts.contains_key(KEY))
}

/// The texts that were saved in the weights file at `path`; none of its weights is read. `None` if it is no such file.
pub fn texts(path: &Path) -> Option<BTreeMap<String, String>> {
    let header = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let mut header = vec![];
        file.take(u64::from_le_bytes(length).min(100_000_000)).read_to_end(&mut header)?;
        Ok(header)
    };
    let mut header: serde_json::Value = serde_json::from_slice(&header().ok()?).ok()?;
    serde_json::from_value(header["__metadata__"].take()).ok()
}

/// An error if `source`, such as a file, holds tensors that no layer asked for: it belongs to another network.
pub(crate) fn refuse_unused(source: &str, params: &Params) -> Result<()> {
    let unused = params.unused();
    match unused.as_slice() {
        [] => Ok(()),
        [name] => bail!("{source} holds `{name}`, which the network has not: it belongs to another network"),
        [name, ..] => bail!(
            "{source} holds `{name}` and {} more tensors which the network has not: it belongs to another network",
            unused.len() - 1
        ),
    }
}
