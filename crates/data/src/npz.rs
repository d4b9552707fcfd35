//! NumPy's .npz, a zip of .npy files: `arr_0` uint8 [N, H, W, C] with integer labels `arr_1` [N], or `arr_0` float [N, D].
//!
//! The formats: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use crate::files::{self, read_up_to, unpacked};
use crate::images::check_sides;
use crate::picture::channels_first;
use crate::table::{Scaling, Table};
use crate::{Dataset, Images};
use candle_core::Result;
use flate2::{CrcReader, read::DeflateDecoder};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use zip::{CompressionMethod, ZipArchive};

/// The images with labels, where `arr_1` is there, or the rows of numbers of a .npz file.
pub(crate) fn open(path: &Path, scaling: &Scaling) -> Result<Box<dyn Dataset>> {
    let name = path.display().to_string();
    drop(files::open(path)?); // its errors are those wanted here
    let open = || -> std::io::Result<_> {
        let file = File::open(path)?;
        Ok((file.metadata()?.len(), BufReader::new(file)))
    };
    let (length, file) = match open() {
        Ok(open) => open,
        Err(e) => bail!("cannot open {name}: {e}"),
    };
    let Ok(zip) = ZipArchive::new(file) else {
        bail!("{name} is not a .npz file or is cut short; write it again with np.savez");
    };
    let (mut archive, name) = (Archive { zip, length, name: &name }, name.as_str());
    let Some(samples) = archive.array("arr_0")? else {
        let found: Vec<String> = archive.names();
        bail!("{name} has no arr_0 but {found:?}; write it with np.savez(FILE, images), images uint8 [N, H, W, C]");
    };
    let labels = archive.array("arr_1")?;
    match (samples.dtype.trim_start_matches(['<', '>', '|', '=']), samples.dims.as_slice()) {
        ("u1", _) => Ok(Box::new(images(samples, labels, name)?)),
        ("f4" | "f8", &[_, d]) => {
            let table = table(samples, d, name, scaling)?;
            Ok(Box::new(match labels {
                Some(_) => table.with_note("arr_1 is left out: rows of a table have no classes"),
                None => table,
            }))
        }
        (_, dims) => bail!(
            "{name}: arr_0 has the dtype {}, not uint8, and the shape {dims:?}; save images as \
             images.astype(np.uint8) with values 0 to 255, and rows of a table [N, D] as np.float32 or np.float64",
            samples.dtype
        ),
    }
}

fn images(samples: Array, labels: Option<Array>, name: &str) -> Result<Images> {
    let (n, h, w, c) = match samples.dims[..] {
        [n, h, w, c] if c == 1 || c == 3 => (n, h, w, c),
        [n, h, w] => (n, h, w, 1),
        _ => bail!(
            "{name}: arr_0 has the shape {:?}; it must be [N, H, W, C] with 1 or 3 channels, or [N, H, W]",
            samples.dims
        ),
    };
    check_sides(name, h, w)?;
    let labels = labels.map(|labels| self::labels(labels, n, name)).transpose()?;
    Images::new(name, [c, h, w], channels_first(&samples.data, h * w, c), labels)
}

fn table(samples: Array, d: usize, name: &str, scaling: &Scaling) -> Result<Table> {
    let Array { dtype, data, .. } = samples;
    let big = dtype.starts_with('>');
    let single = |&b: &[u8; 4]| f64::from(if big { f32::from_be_bytes(b) } else { f32::from_le_bytes(b) });
    let double = |&b: &[u8; 8]| if big { f64::from_be_bytes(b) } else { f64::from_le_bytes(b) };
    let values: Vec<f64> = match dtype.ends_with("f4") {
        true => data.as_chunks().0.iter().map(single).collect(),
        false => data.as_chunks().0.iter().map(double).collect(),
    };
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        bail!("{name}: row {}, column {} of arr_0 is {}, not a finite number", at / d, at % d, values[at]);
    }
    // an array has no names of its own: its columns are those of the model, in their order
    let names = match scaling {
        Scaling::Like(columns) if columns.names.len() == d => columns.names.clone(),
        _ => (1..=d).map(|j| j.to_string()).collect(),
    };
    Table::new(name, names, values, scaling)
}

fn labels(Array { dtype, dims, data }: Array, n: usize, name: &str) -> Result<(Vec<u32>, usize)> {
    if dims != [n] {
        bail!("{name}: arr_1 has the shape {dims:?}, but there are {n} images; it must hold one label an image");
    }
    let width = match dtype.trim_start_matches(['<', '>', '|', '=']) {
        "u1" | "i1" => 1,
        "u2" | "i2" => 2,
        "u4" | "i4" => 4,
        "u8" | "i8" => 8,
        _ => bail!("{name}: arr_1 has the dtype {dtype}; labels must be integers, such as np.int64"),
    };
    let big = dtype.starts_with('>');
    let value = |bytes: &[u8]| {
        let shift = |x: u64, b: &u8| x << 8 | u64::from(*b);
        if big { bytes.iter().fold(0, shift) } else { bytes.iter().rev().fold(0, shift) }
    };
    const MOST_CLASSES: u64 = 100_000;
    // a negative label, being in two's complement, has the highest bit
    let most = if dtype.contains('i') { MOST_CLASSES.min(1 << (8 * width - 1)) } else { MOST_CLASSES };
    let mut labels = Vec::with_capacity(n);
    for (i, bytes) in data.chunks_exact(width).enumerate() {
        let label = value(bytes);
        if label >= most {
            bail!("{name}: label {i} in arr_1 is negative, or not below {MOST_CLASSES}; labels count from 0");
        }
        labels.push(label as u32);
    }
    let classes = labels.iter().max().map_or(0, |&most| most as usize + 1);
    Ok((labels, classes))
}

/// An array, its last dimension running fastest.
struct Array {
    dtype: String,
    dims: Vec<usize>,
    data: Vec<u8>,
}

/// A .npz file.
struct Archive<'a> {
    zip: ZipArchive<BufReader<File>>,
    /// Bytes of the file.
    length: u64,
    name: &'a str,
}

impl Archive<'_> {
    /// The names of some arrays, for messages.
    fn names(&self) -> Vec<String> {
        let names = self.zip.file_names().filter_map(std::result::Result::ok);
        names.take(8).map(|name| name.trim_end_matches(".npy").to_string()).collect()
    }

    /// The array `key`, its checksum found right; `None` if it is not there.
    fn array(&mut self, key: &str) -> Result<Option<Array>> {
        let what = format!("{}: {key}.npy", self.name);
        let Some(index) = self.zip.index_for_name(&format!("{key}.npy")) else { return Ok(None) };
        let member = match self.zip.by_index_raw(index) {
            Ok(member) if !member.encrypted() => member,
            Ok(_) => bail!("{what} is encrypted; write the file again with np.savez"),
            Err(e) => bail!("{what} cannot be read: {e}; write the file again with np.savez"),
        };
        let (packed, crc) = (member.compressed_size().min(self.length), member.crc32());
        // unpacked here: the zip crate would do it too, but only with a feature that candle would be built anew for
        let bytes: Box<dyn Read> = match member.compression() {
            CompressionMethod::Stored => Box::new(member),
            CompressionMethod::DEFLATE => Box::new(DeflateDecoder::new(member)),
            other => bail!("{what} is packed by {other}; write the file with np.savez or np.savez_compressed"),
        };
        let mut bytes = CrcReader::new(unpacked(bytes, packed));
        let array = npy(&mut bytes, &what)?;
        // the checksum is that of all of it
        if let Err(e) = std::io::copy(&mut bytes, &mut std::io::sink()) {
            bail!("{what} is damaged or cut short ({e}); fetch or write the file again");
        }
        if bytes.crc().sum() != crc {
            bail!("{what} is damaged: its checksum is not that of its contents; fetch or write the file again");
        }
        Ok(Some(array))
    }
}

/// The array of a .npy file.
fn npy(bytes: &mut dyn Read, what: &str) -> Result<Array> {
    let head = read_up_to(bytes, 10, what)?;
    if head.len() < 10 || !head.starts_with(b"\x93NUMPY") {
        bail!("{what} is not an array; write the file again with np.savez");
    }
    // Version 1 counts the header in 2 bytes, 2 and 3 in 4.
    let long = match head[6] {
        1 => u64::from(u16::from_le_bytes([head[8], head[9]])),
        _ => match read_up_to(bytes, 2, what)?[..] {
            [low, high] => u64::from(u32::from_le_bytes([head[8], head[9], low, high])),
            _ => bail!("{what} is cut short; write the file again with np.savez"),
        },
    };
    let header = read_up_to(bytes, long.min(1 << 16), what)?;
    let header = String::from_utf8_lossy(&header);
    let Some((dtype, dims)) = described(&header) else {
        bail!("{what} has a header that cannot be read, {:?}", header.chars().take(80).collect::<String>());
    };
    let item: u64 = dtype.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(1);
    let item = if dtype.contains('U') { item.saturating_mul(4) } else { item };
    let size = dims.iter().try_fold(item, |n, &d| n.checked_mul(d as u64)).filter(|&n| n <= files::MOST_BYTES);
    let Some(size) = size else { bail!("{what} claims the impossible shape {dims:?} of {dtype}") };
    let data = read_up_to(bytes, size, what)?;
    if (data.len() as u64) < size {
        bail!("{what} is cut short: its shape {dims:?} needs {size} bytes, {} are there; write it again", data.len());
    }
    let data = match header.contains("'fortran_order': True") {
        true => last_fastest(&data, &dims, item as usize),
        false => data,
    };
    Ok(Array { dtype, dims, data })
}

/// An array in Fortran's order, the first dimension running fastest, in C's.
fn last_fastest(data: &[u8], dims: &[usize], item: usize) -> Vec<u8> {
    let strides = dims.iter().scan(item, |stride, &d| Some(std::mem::replace(stride, *stride * d)));
    let strides: Vec<usize> = strides.collect();
    let mut out = Vec::with_capacity(data.len());
    let (mut index, mut at) = (vec![0; dims.len()], 0);
    while out.len() < data.len() {
        out.extend_from_slice(&data[at..at + item]);
        for d in (0..dims.len()).rev() {
            index[d] += 1;
            at += strides[d];
            if index[d] < dims[d] {
                break;
            }
            at -= strides[d] * dims[d];
            index[d] = 0;
        }
    }
    out
}

/// dtype and shape from the Python dict that is a .npy header: {'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }
fn described(header: &str) -> Option<(String, Vec<usize>)> {
    let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start());
    let dtype = after("'descr':")?.strip_prefix('\'')?.split('\'').next()?;
    let shape = after("'shape':")?.strip_prefix('(')?.split(')').next()?;
    let sides = shape.split(',').map(str::trim).filter(|side| !side.is_empty());
    let dims = sides.map(|side| side.parse().ok()).collect::<Option<Vec<usize>>>()?;
    Some((dtype.to_string(), dims))
}
