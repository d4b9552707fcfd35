//! Weights as `torch.save` writes them: a zip of a pickle, which says what tensors there are, and the numbers of each storage.
//!
//! Nothing in the pickle is run. A tensor is a view of a storage: offset, sizes and strides, in elements.

use crate::model::plain;
use crate::pickle::{Id, Pickle, Value};
use candle_core::{DType, Device, Error, Result, Tensor, bail};
use std::collections::BTreeMap;
use std::io::Cursor;
use zip::{CompressionMethod, ZipArchive};

/// Whether a file that begins with `bytes` is for [`parse`] to read, or to say why it cannot.
pub fn recognises(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || matches!(bytes, [0x80, 2..=5, ..])
}

/// The tensors of a file that `torch.save` wrote of a state dict, or of a dict that has it as `state_dict`, by name, on
/// the CPU; types and names as they are in the file.
///
/// What is not that, or damaged, is an error of one sentence that begins after the name of the file. No more memory is
/// taken than a few times the length of `bytes`.
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>> {
    if !bytes.starts_with(b"PK") {
        bail!(
            "is a bare pickle, as PyTorch wrote before 1.6; open it with a newer PyTorch and save it again, as safetensors \
             if possible"
        );
    }
    let mut archive = Archive::open(bytes)?;
    let damaged = |e: Error| Error::Msg(format!("is damaged: {}", plain(&e)));
    let pickle = Pickle::parse(archive.member("data.pkl")?, bytes.len()).map_err(damaged)?;
    Reader { archive, pickle: &pickle, storages: BTreeMap::new(), left: 2 * bytes.len() }.tensors()
}

/// The members of the file, which lie in a folder of any name.
struct Archive<'a> {
    bytes: &'a [u8],
    zip: ZipArchive<Cursor<&'a [u8]>>,
    folder: String,
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self> {
        let Ok(zip) = ZipArchive::new(Cursor::new(bytes)) else {
            bail!("is damaged or cut short: its list of contents is missing; get it again from where it came")
        };
        let folder = |name: &str| name.strip_suffix("data.pkl").map(str::to_string);
        let folder = zip.file_names().filter_map(|name| folder(&name.ok()?)).next();
        let Some(folder) = folder else { bail!("is a zip file but not one of PyTorch: it has no data.pkl") };
        let mut archive = Self { bytes, zip, folder };
        if archive.zip.index_for_name(&format!("{}byteorder", archive.folder)).is_some()
            && archive.member("byteorder")? != b"little"
        {
            bail!("holds big-endian numbers, which are not supported; save it again on a usual machine");
        }
        Ok(archive)
    }

    /// The bytes of a member, in place, once their checksum is found right.
    fn member(&mut self, name: &str) -> Result<&'a [u8]> {
        let damaged = |e: &dyn std::fmt::Display| Error::Msg(format!("is damaged: `{name}` in it cannot be read: {e}"));
        let mut file = self.zip.by_name(&format!("{}{name}", self.folder)).map_err(|e| damaged(&e))?;
        // PyTorch does not compress, and what is compressed could be of any length
        if file.compression() != CompressionMethod::Stored {
            bail!("has `{name}` compressed, as PyTorch does not write it");
        }
        let length = std::io::copy(&mut file, &mut std::io::sink()).map_err(|e| damaged(&e))?;
        let start = file.data_start().and_then(|start| usize::try_from(start).ok());
        let bytes = start.and_then(|start| self.bytes.get(start..)?.get(..length as usize));
        bytes.ok_or_else(|| damaged(&"it lies outside the file"))
    }
}

/// Makes the tensors that a pickle names.
struct Reader<'a, 'p> {
    archive: Archive<'a>,
    pickle: &'p Pickle,
    storages: BTreeMap<&'p str, &'a [u8]>,
    /// Bytes that tensors may still take: some share a storage, but not many all of it.
    left: usize,
}

impl<'a, 'p> Reader<'a, 'p> {
    fn tensors(&mut self) -> Result<BTreeMap<String, Tensor>> {
        let mut dict = self.dict(self.pickle.top)?;
        if let Some(&(_, inner)) = dict.iter().find(|(key, _)| *key == "state_dict") {
            dict = self.dict(inner)?;
        }
        let mut tensors = BTreeMap::new();
        for (name, value) in dict {
            let called = |e: Error| Error::Msg(format!("holds `{name}`, {}", plain(&e)));
            let tensor = self.tensor(value).map_err(called)?;
            if tensors.insert(name.to_string(), tensor).is_some() {
                bail!("is damaged: it has two tensors named `{name}`");
            }
        }
        Ok(tensors)
    }

    fn dict(&self, id: Id) -> Result<Vec<(&'p str, Id)>> {
        let Value::Dict(pairs) = self.pickle.get(id) else {
            bail!("holds no dict of tensors; save `model.state_dict()`, as safetensors if possible")
        };
        let name = |&(key, value): &(Id, Id)| match self.pickle.get(key) {
            Value::Text(name) => Ok((name.as_str(), value)),
            _ => bail!("holds a dict with a key that is no text; save `model.state_dict()`"),
        };
        pairs.iter().map(name).collect()
    }

    /// The function that is called, and with what.
    fn call(&self, id: Id) -> Result<(&'p str, &'p [Id])> {
        if let Value::Call(class, args) = self.pickle.get(id)
            && let (Value::Class(class), Value::Tuple(args)) = (self.pickle.get(*class), self.pickle.get(*args))
        {
            return Ok((class, args));
        }
        bail!("which is not a tensor")
    }

    fn tensor(&mut self, id: Id) -> Result<Tensor> {
        let (mut name, mut args) = self.call(id)?;
        if name == "torch._utils._rebuild_parameter"
            && let Some(&data) = args.first()
        {
            (name, args) = self.call(data)?;
        }
        let ("torch._utils._rebuild_tensor_v2", &[storage, offset, size, stride, ..]) = (name, args) else {
            bail!("which is made by `{name}` and not a plain tensor")
        };
        let (dtype, data) = self.storage(storage)?;
        let width = dtype.size_in_bytes();
        let (size, stride) = (self.numbers(size)?, self.numbers(stride)?);
        let Value::Int(offset) = *self.pickle.get(offset) else { bail!("whose offset is no number") };
        let view = View::new(usize::try_from(offset).ok(), &size, &stride, data.len() / width);
        let Some(view) = view else {
            bail!("of shape {size:?} and strides {stride:?}, which its {} numbers do not fill", data.len() / width)
        };
        let bytes = view.count * width;
        let Some(left) = self.left.checked_sub(bytes) else {
            bail!("with which the tensors are larger than the file that they lie in")
        };
        self.left = left;
        Tensor::from_raw_buffer(&view.gather(data, width), dtype, &size, &Device::Cpu)
    }

    /// ('storage', type, key, device, count), kept outside the pickle.
    fn storage(&mut self, id: Id) -> Result<(DType, &'a [u8])> {
        let pickle = self.pickle;
        if let Value::Persistent(id) = pickle.get(id)
            && let Value::Tuple(parts) = pickle.get(*id)
            && let [_, class, key, ..] = parts[..]
            && let (Value::Class(class), Value::Text(key)) = (pickle.get(class), pickle.get(key))
        {
            let dtype = match class.strip_prefix("torch.").unwrap_or(class) {
                "DoubleStorage" => DType::F64,
                "FloatStorage" => DType::F32,
                "HalfStorage" => DType::F16,
                "BFloat16Storage" => DType::BF16,
                "LongStorage" => DType::I64,
                "ByteStorage" => DType::U8,
                other => bail!("a tensor in a {other}, which is not supported; convert it to float"),
            };
            if let Some(&data) = self.storages.get(key.as_str()) {
                return Ok((dtype, data));
            }
            let read = self.archive.member(&format!("data/{key}"));
            let data = read.map_err(|e| Error::Msg(format!("whose file {}", plain(&e))))?;
            self.storages.insert(key, data);
            return Ok((dtype, data));
        }
        bail!("a tensor without a storage")
    }

    fn numbers(&self, id: Id) -> Result<Vec<usize>> {
        let Value::Tuple(items) = self.pickle.get(id) else { bail!("a tensor whose shape is no tuple") };
        if items.len() > 8 {
            bail!("a tensor of {} dimensions", items.len());
        }
        let number = |&id: &Id| match *self.pickle.get(id) {
            Value::Int(n) if (0..1 << 40).contains(&n) => Ok(n as usize),
            _ => bail!("a tensor whose shape is not made of whole numbers"),
        };
        items.iter().map(number).collect()
    }
}

/// Elements of a storage, as a tensor of `size` with `stride`.
struct View<'a> {
    offset: usize,
    size: &'a [usize],
    stride: &'a [usize],
    count: usize,
}

impl<'a> View<'a> {
    /// None if it reaches beyond the `stored` elements.
    fn new(offset: Option<usize>, size: &'a [usize], stride: &'a [usize], stored: usize) -> Option<Self> {
        if size.len() != stride.len() {
            return None;
        }
        let count = size.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
        let count = if size.contains(&0) { 0 } else { count };
        let last = size
            .iter()
            .zip(stride)
            .try_fold(offset?, |at, (&d, &step)| at.checked_add(d.saturating_sub(1).checked_mul(step)?))?;
        (count == 0 || (last < stored && count <= stored)).then_some(Self { offset: offset?, size, stride, count })
    }

    /// The bytes in row-major order, `width` an element.
    fn gather(&self, data: &[u8], width: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.count * width);
        let mut index = vec![0; self.size.len()];
        let (mut at, mut run) = (self.offset, 1);
        // what lies in one piece is copied in one piece
        let mut outer = self.size.len();
        while outer > 0 && (self.stride[outer - 1] == run || self.size[outer - 1] == 1) {
            outer -= 1;
            run *= self.size[outer];
        }
        for _ in 0..self.count / run.max(1) {
            out.extend_from_slice(&data[at * width..(at + run) * width]);
            for d in (0..outer).rev() {
                index[d] += 1;
                at += self.stride[d];
                if index[d] < self.size[d] {
                    break;
                }
                at -= self.stride[d] * self.size[d];
                index[d] = 0;
            }
        }
        out
    }
}
