//! Tensors in `.safetensors` files, written so that a kill at any instant leaves the old file or the new one.
//!
//! 8 bytes of header length, a JSON header (names, types, shapes, offsets, metadata), then the numbers, little-endian.
//! The header is written in a fixed order: equal contents are equal bytes.

use crate::atomic::write_atomic;
use crate::model::plain;
use candle_core::{DType, Device, Result, Tensor, bail};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

fn bytes(t: &Tensor) -> Result<Vec<u8>> {
    let t = t.flatten_all()?.to_device(&Device::Cpu)?;
    Ok(match t.dtype() {
        DType::F64 => t.to_vec1::<f64>()?.into_iter().flat_map(f64::to_le_bytes).collect(),
        DType::F32 => t.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect(),
        DType::I64 => t.to_vec1::<i64>()?.into_iter().flat_map(i64::to_le_bytes).collect(),
        DType::U32 => t.to_vec1::<u32>()?.into_iter().flat_map(u32::to_le_bytes).collect(),
        DType::U8 => t.to_vec1::<u8>()?,
        other => bail!("tensors of type {other:?} cannot be written; convert them to f32"),
    })
}

/// Writes `tensors` and `metadata` to `path`, as [`write_atomic`] does.
pub fn save(path: &Path, tensors: &[(String, Tensor)], metadata: &BTreeMap<String, String>) -> Result<()> {
    let mut sorted: Vec<_> = tensors.iter().collect();
    // wide types first, so that every tensor is aligned
    sorted.sort_by_key(|(name, t)| (std::cmp::Reverse(t.dtype().size_in_bytes()), name));
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut offset = 0;
    for (name, t) in &sorted {
        let end = offset + t.elem_count() * t.dtype().size_in_bytes();
        let dtype = t.dtype().as_str().to_uppercase();
        let entry = json!({ "dtype": dtype, "shape": t.dims(), "data_offsets": [offset, end] });
        if header.insert(name.clone(), entry).is_some() {
            bail!("two tensors named `{name}` for `{}`", path.display());
        }
        offset = end;
    }
    let mut header = Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let data = sorted.iter().map(|(_, t)| bytes(t)).collect::<Result<Vec<_>>>()?;
    write_atomic(path, |file| {
        let mut out = BufWriter::new(file);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        data.iter().try_for_each(|bytes| out.write_all(bytes))?;
        out.flush()
    })
}

/// The contents of a `.safetensors` file.
pub struct Contents {
    /// By name; types as they are in the file.
    pub tensors: BTreeMap<String, Tensor>,
    /// Free text beside them.
    pub metadata: BTreeMap<String, String>,
}

/// Reads all of a `.safetensors` file to the CPU.
///
/// A file that is missing, cut short, of another kind, inconsistent, or with a number that is not finite, is an error of
/// one sentence that names it.
pub fn load(path: &Path) -> Result<Contents> {
    let read = fs::read(path);
    let bytes = read.map_err(|e| candle_core::Error::Msg(format!("cannot read `{}`: {e}", path.display())))?;
    parse(&bytes).map_err(|e| candle_core::Error::Msg(format!("`{}` {}", path.display(), plain(&e))))
}

/// As [`load`], for bytes; the errors lack the name of the file in front.
pub fn parse(bytes: &[u8]) -> Result<Contents> {
    let contents = parse_any(bytes)?;
    for (name, t) in &contents.tensors {
        if !is_finite(t)? {
            bail!("holds a number that is not finite in `{name}`: training went wrong, or the file is damaged");
        }
    }
    Ok(contents)
}

/// A header up to this length is read in any case; a longer one must not be longer than the numbers. Reading one takes about
/// ten times its length.
const HEADER: u64 = 16 << 20;

/// As [`parse`], but numbers that are not finite are taken as they are.
pub fn parse_any(bytes: &[u8]) -> Result<Contents> {
    let header = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    let numbers = (bytes.len() as u64).saturating_sub(8).checked_sub(header);
    if header > HEADER && numbers.is_some_and(|numbers| header > numbers) {
        bail!("is no file of weights, or damaged: its header is longer than its numbers");
    }
    let file = SafeTensors::deserialize(bytes).or_else(|e| bail!("{}", what_is_wrong(bytes, &e)))?;
    let (length, header) = SafeTensors::read_metadata(bytes).or_else(|e| bail!("{}", what_is_wrong(bytes, &e)))?;
    if let Some(name) = bytes.get(8..8 + length).and_then(twice) {
        bail!("is damaged: it has two tensors named `{name}`");
    }
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let dtype = match view.dtype() {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::I64 => DType::I64,
            Dtype::U32 => DType::U32,
            Dtype::U8 => DType::U8,
            other => bail!("holds `{name}` as {other:?}, a type that is not supported; convert it to F32"),
        };
        // strides of a shape like [0, 2^40, 2^40] overflow though it holds nothing
        if view.shape().iter().fold(1u64, |n, &d| n.saturating_mul(d.max(1) as u64)) > 1 << 48 {
            bail!("is damaged: `{name}` has the shape {:?}", view.shape());
        }
        let t = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
        tensors.insert(name.to_string(), t);
    }
    Ok(Contents { tensors, metadata })
}

/// Whether no number in `t` is infinite or NaN.
pub fn is_finite(t: &Tensor) -> Result<bool> {
    if !t.dtype().is_float() || t.elem_count() == 0 {
        return Ok(true);
    }
    // 0 x is 0 for every finite x
    let wide = t.to_dtype(if t.dtype() == DType::F64 { DType::F64 } else { DType::F32 })?;
    Ok(wide.affine(0., 0.)?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()? == 0.)
}

/// The first name that stands twice in a header, which maps keep only once.
fn twice(header: &[u8]) -> Option<String> {
    struct Names(Option<String>);
    impl<'de> Visitor<'de> for Names {
        type Value = Option<String>;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("a JSON object")
        }
        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
            let mut seen = BTreeSet::new();
            while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
                if !seen.insert(name.clone()) && self.0.is_none() {
                    self.0 = Some(name);
                }
            }
            Ok(self.0)
        }
    }
    serde_json::Deserializer::from_slice(header).deserialize_map(Names(None)).ok().flatten()
}

fn what_is_wrong(bytes: &[u8], e: &SafeTensorError) -> String {
    let again = "get it again from where it came";
    let cut = |needs: u64| format!("is cut short: it has {} of {needs} bytes; {again}", bytes.len());
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return format!("is not a safetensors file: it has {} bytes", bytes.len());
    };
    let header = u64::from_le_bytes(*length);
    let looks_right = rest.first().is_none_or(|&b| b == b'{') && header <= 100_000_000;
    if !looks_right {
        return "is not a safetensors file".into();
    }
    match e {
        SafeTensorError::InvalidHeaderLength | SafeTensorError::HeaderTooSmall => cut(8 + header),
        SafeTensorError::MetadataIncompleteBuffer => {
            let end = rest.get(..header as usize).and_then(|h| serde_json::from_slice::<Value>(h).ok()).and_then(|h| {
                let ends = h.as_object()?.values().filter_map(|t| t.get("data_offsets")?.get(1)?.as_u64());
                ends.max()
            });
            match end.map(|end| end.saturating_add(8 + header)) {
                Some(end) if end > bytes.len() as u64 => cut(end),
                _ => format!("is damaged: it has bytes that belong to no tensor; {again}"),
            }
        }
        _ if rest.get(..header as usize).and_then(twice).is_some() => {
            let name = rest.get(..header as usize).and_then(twice).unwrap_or_default();
            format!("is damaged: it has two tensors named `{name}`")
        }
        SafeTensorError::InvalidOffset(name) => {
            format!("is damaged: the offsets of `{name}` overlap others or leave a gap; {again}")
        }
        other => format!("is damaged: {other}; {again}"),
    }
}
