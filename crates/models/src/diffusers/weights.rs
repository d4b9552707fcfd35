//! Weights files of diffusers: which there are in a folder, and what they hold.
//!
//! safetensors before PyTorch's own format, whole before sharded, the plain file before a variant such as fp16.

use crate::model::plain;
use crate::{prefix, tensors, torch};
use candle_core::{DType, Error, Result, Tensor, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// How the names of all weights files begin.
pub(super) const NAME: &str = "diffusion_pytorch_model";
const ENDINGS: [&str; 4] = ["safetensors", "safetensors.index.json", "bin", "bin.index.json"];

/// A weights file, or the index of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// The file.
    pub file: PathBuf,
    /// The variant that it is, such as "fp16", where there is no plain one.
    pub variant: Option<String>,
}

/// The weights in `dir`, without reading them.
pub fn find(dir: &Path) -> Result<Weights> {
    for ending in ENDINGS {
        let file = dir.join(format!("{NAME}.{ending}"));
        if file.is_file() {
            return Ok(Weights { file, variant: None });
        }
    }
    let entries =
        fs::read_dir(dir).map_err(|e| Error::Msg(format!("cannot read the folder `{}`: {e}", dir.display())))?;
    let names: BTreeSet<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    for ending in ENDINGS {
        for name in &names {
            if let Some(variant) = variant(name, ending) {
                return Ok(Weights { file: dir.join(name), variant: Some(variant.to_string()) });
            }
        }
    }
    bail!(
        "`{}` has no weights: neither {NAME}.safetensors nor {NAME}.bin, nor their index files or variants",
        dir.display()
    )
}

/// "fp16" of "diffusion_pytorch_model.fp16.safetensors", and of "diffusion_pytorch_model.safetensors.index.fp16.json".
fn variant<'a>(name: &'a str, ending: &str) -> Option<&'a str> {
    let rest = name.strip_prefix(NAME)?.strip_prefix('.')?;
    let before = || rest.strip_suffix(ending)?.strip_suffix('.');
    let within = || rest.strip_prefix(ending.strip_suffix("json")?)?.strip_suffix(".json");
    before().or_else(within).filter(|variant| !variant.is_empty() && !variant.contains(['.', '-']))
}

/// The tensors of `file` by name, on the CPU, types as they are there: `.safetensors`, what `torch.save` wrote, or the
/// index of such files beside it. Unless `any_number`, a number that is not finite is an error.
///
/// Errors in one sentence that names the file and the tensor.
pub fn read(file: &Path, any_number: bool) -> Result<BTreeMap<String, Tensor>> {
    let index = file.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.contains(".index.") && name.ends_with(".json")
    });
    let tensors = if index { shards(file)? } else { whole(file)? };
    for (name, t) in &tensors {
        if !any_number && !tensors::is_finite(t)? {
            bail!(
                "`{}` holds a number that is not finite in `{name}`: training went wrong, or the file is damaged",
                file.display()
            );
        }
    }
    Ok(tensors)
}

fn whole(file: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = fs::read(file).map_err(|e| Error::Msg(format!("cannot read `{}`: {e}", file.display())))?;
    parse(&bytes).map_err(|e| Error::Msg(format!("`{}` {}", file.display(), plain(&e))))
}

/// The tensors in the bytes of one file of either format, whatever their numbers; errors lack the name of the file in
/// front.
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>> {
    if bytes.starts_with(b"version https://git-lfs") {
        bail!("is a pointer of Git LFS and not the weights; run `git lfs pull` where it came from");
    }
    match torch::recognises(bytes) {
        true => torch::parse(bytes),
        false => Ok(tensors::parse_any(bytes)?.tensors),
    }
}

/// All shards that an index lists, which must hold what it says.
fn shards(index: &Path) -> Result<BTreeMap<String, Tensor>> {
    let name = index.display();
    let text = super::network::read_text(index)?;
    let json: Value = serde_json::from_str(&text).map_err(|e| Error::Msg(format!("`{name}` is not JSON: {e}")))?;
    let Some(map) = json.get("weight_map").and_then(Value::as_object) else {
        bail!("`{name}` has no `weight_map`, which says what file holds which tensor");
    };
    let mut files: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for (tensor, file) in map {
        let plain =
            |file: &&str| matches!(Path::new(file).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
        let Some(file) = file.as_str().filter(plain).filter(|file| !file.contains(['/', '\\'])) else {
            bail!("`{name}` says that `{tensor}` is in {file}, which is not the name of a file beside it");
        };
        files.entry(file).or_default().push(tensor);
    }
    let mut all = BTreeMap::new();
    for (file, listed) in files {
        let path = index.with_file_name(file);
        let mut tensors = whole(&path)?;
        for tensor in listed {
            let Some(t) = tensors.remove(tensor) else {
                bail!("`{}` lacks `{tensor}`, which `{name}` says is in it", path.display());
            };
            all.insert(tensor.clone(), t);
        }
        if let Some(tensor) = tensors.keys().next() {
            bail!(
                "`{}` holds `{tensor}`, which `{name}` does not say; the files do not belong together",
                path.display()
            );
        }
    }
    Ok(all)
}

/// `tensors` as `dtype`, with the names that they have today, of which a network `needs` some: without what a wrapper put
/// before them.
///
/// An error if a number is too large for `dtype`, unless `any_number`.
pub(super) fn prepare(
    tensors: BTreeMap<String, Tensor>,
    needs: &BTreeSet<String>,
    dtype: DType,
    any_number: bool,
) -> Result<BTreeMap<String, Tensor>> {
    let mut out = BTreeMap::new();
    for (old, t) in tensors {
        let name = present_name(&old);
        let converted = t.to_dtype(dtype)?;
        let narrower = matches!((t.dtype(), dtype), (DType::F64, _) | (DType::F32 | DType::BF16, DType::F16))
            || (t.dtype() == DType::F32 && dtype == DType::BF16);
        if !any_number && narrower && t.dtype() != dtype && !tensors::is_finite(&converted)? {
            bail!("holds a number in `{old}` that is too large for {dtype:?}; load it as {:?}", t.dtype());
        }
        if out.insert(name.clone(), converted).is_some() {
            bail!("holds `{name}` twice, under an old name and today's");
        }
    }
    // written beside `weight`, and the same, by the first versions
    let first: Vec<String> = out.keys().filter(|name| name.ends_with("time_proj.W")).cloned().collect();
    for name in first {
        if let Some(t) = out.remove(&name) {
            out.entry(name.trim_end_matches('W').to_string() + "weight").or_insert(t);
        }
    }
    prefix::strip(out, needs)
}

/// Attention had other names before diffusers 0.18.
fn present_name(name: &str) -> String {
    if !name.contains(".attentions.") {
        return name.to_string();
    }
    [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")]
        .iter()
        .fold(name.to_string(), |name, (old, new)| name.replace(old, new))
}
