//! NumPy's .npz as samplers write it: a zip of .npy files, `arr_0` uint8 [N, H, W, C] and `arr_1` integer labels [N].

use crate::Images;
use crate::files::{self, read_up_to};
use candle_core::Result;
use flate2::read::DeflateDecoder;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// What a zip without the 64-bit extension can hold.
const MOST: u64 = u32::MAX as u64;

/// The images, and labels if `arr_1` is there, of a .npz file.
pub(crate) fn open(path: &Path) -> Result<Images> {
    let name = path.display().to_string();
    drop(files::open(path)?); // its errors are those wanted here
    match std::fs::File::open(path) {
        Ok(mut file) => parse(&mut file, &name),
        Err(e) => bail!("cannot open {name}: {e}"),
    }
}

/// As [`open`], from any source that can seek.
pub(crate) fn parse<R: Read + Seek>(file: &mut R, name: &str) -> Result<Images> {
    let members = members(file, name)?;
    let Some(member) = members.iter().find(|m| m.name == "arr_0.npy") else {
        let found: Vec<&str> = members.iter().take(8).map(|m| m.name.trim_end_matches(".npy")).collect();
        bail!("{name} has no arr_0 but {found:?}; write it with np.savez(FILE, images), images uint8 [N, H, W, C]");
    };
    let (dtype, dims, data) = array(file, member, name)?;
    if !matches!(dtype.as_str(), "|u1" | "<u1" | ">u1") {
        bail!(
            "{name}: arr_0 has the dtype {dtype}, not uint8; save it as images.astype(np.uint8) with values 0 to 255"
        );
    }
    let (n, h, w, c) = match dims[..] {
        [n, h, w, c] if c == 1 || c == 3 => (n, h, w, c),
        [n, h, w] => (n, h, w, 1),
        _ => bail!("{name}: arr_0 has the shape {dims:?}; it must be [N, H, W, C] with 1 or 3 channels, or [N, H, W]"),
    };
    let labels = match members.iter().find(|m| m.name == "arr_1.npy") {
        Some(member) => Some(labels(array(file, member, name)?, n, name)?),
        None => None,
    };
    Images::new(name, [c, h, w], channels_first(&data, h * w, c), labels)
}

/// [N, H, W, C] to [N, C, H, W].
pub(crate) fn channels_first(data: &[u8], area: usize, c: usize) -> Vec<u8> {
    if c == 1 || area == 0 {
        return data.to_vec();
    }
    let mut out = Vec::with_capacity(data.len());
    for image in data.chunks_exact(area * c) {
        for channel in 0..c {
            out.extend(image[channel..].iter().step_by(c));
        }
    }
    out
}

fn labels((dtype, dims, data): (String, Vec<usize>, Vec<u8>), n: usize, name: &str) -> Result<(Vec<u32>, usize)> {
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
    // A negative label, being in two's complement, is far above this too.
    const MOST_CLASSES: u64 = 100_000;
    let mut labels = Vec::with_capacity(n);
    for (i, bytes) in data.chunks_exact(width).enumerate() {
        let label = value(bytes);
        if label >= MOST_CLASSES.min(1 << (8 * width as u64 - 1).min(62)) && !(width == 1 && dtype.ends_with("u1")) {
            bail!("{name}: label {i} in arr_1 is negative or above {MOST_CLASSES}; labels count from 0");
        }
        labels.push(label as u32);
    }
    let classes = labels.iter().max().map_or(0, |&most| most as usize + 1);
    Ok((labels, classes))
}

/// A file inside a zip.
struct Member {
    name: String,
    deflated: bool,
    packed: u64,
    offset: u64,
}

/// What the zip's central directory, found from its end, lists.
fn members<R: Read + Seek>(file: &mut R, name: &str) -> Result<Vec<Member>> {
    const END: &[u8] = b"PK\x05\x06";
    const END_SIZE: usize = 22;
    let size = seek(file, SeekFrom::End(0), name)?;
    let tail_at = size.saturating_sub(END_SIZE as u64 + u64::from(u16::MAX));
    seek(file, SeekFrom::Start(tail_at), name)?;
    let tail = read_up_to(file, MOST, name)?;
    let last = tail.windows(END_SIZE).rposition(|w| w.starts_with(END));
    let Some(end) = last.map(|at| &tail[at..]) else {
        bail!("{name} is not a .npz file or is cut short; write it again with np.savez");
    };
    let (count, bytes, at) = (u16_at(end, 10), u32_at(end, 12), u32_at(end, 16));
    seek(file, SeekFrom::Start(at), name)?;
    let directory = read_up_to(file, bytes, name)?;
    let mut rest = &directory[..];
    let mut members = vec![];
    for _ in 0..count {
        if rest.len() < 46 || !rest.starts_with(b"PK\x01\x02") {
            bail!("{name} is damaged: its list of arrays is cut short; write it again with np.savez");
        }
        let method = u16_at(rest, 10);
        let (long, extra, comment) = (u16_at(rest, 28), u16_at(rest, 30), u16_at(rest, 32));
        let text = rest.get(46..46 + long).unwrap_or_default();
        if method != 0 && method != 8 {
            bail!("{name}: its arrays are packed by method {method}; write it with np.savez or np.savez_compressed");
        }
        members.push(Member {
            name: String::from_utf8_lossy(text).into_owned(),
            deflated: method == 8,
            packed: u32_at(rest, 20),
            offset: u32_at(rest, 42),
        });
        rest = rest.get(46 + long + extra + comment..).unwrap_or_default();
    }
    Ok(members)
}

/// dtype, shape and bytes of a .npy member.
fn array<R: Read + Seek>(file: &mut R, member: &Member, name: &str) -> Result<(String, Vec<usize>, Vec<u8>)> {
    let what = format!("{name}: {}", member.name);
    seek(file, SeekFrom::Start(member.offset), name)?;
    let local = read_up_to(file, 30, name)?;
    if local.len() < 30 || !local.starts_with(b"PK\x03\x04") || member.packed == MOST {
        bail!("{what} is damaged, or above 4 GiB; write the file again with np.savez");
    }
    let skip = (u16_at(&local, 26) + u16_at(&local, 28)) as i64;
    seek(file, SeekFrom::Current(skip), name)?;
    let packed = file.take(member.packed);
    let mut bytes: Box<dyn Read> =
        if member.deflated { Box::new(DeflateDecoder::new(packed)) } else { Box::new(packed) };

    let head = read_up_to(&mut bytes, 10, &what)?;
    if head.len() < 10 || !head.starts_with(b"\x93NUMPY") {
        bail!("{what} is not an array; write the file again with np.savez");
    }
    // Version 1 counts the header in 2 bytes, 2 and 3 in 4.
    let long = match head[6] {
        1 => u16_at(&head, 8) as u64,
        _ => {
            let high = read_up_to(&mut bytes, 2, &what)?;
            u32_at(&[&head[8..], &high, &[0, 0]].concat(), 0)
        }
    };
    let header = read_up_to(&mut bytes, long.min(1 << 16), &what)?;
    let header = String::from_utf8_lossy(&header);
    let Some((dtype, dims)) = described(&header) else {
        bail!("{what} has a header that cannot be read, {:?}", header.chars().take(80).collect::<String>());
    };
    if header.contains("'fortran_order': True") {
        bail!("{what} is in Fortran order; save np.ascontiguousarray(array)");
    }
    let item: u64 = dtype.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(1);
    let size = dims.iter().try_fold(item, |n, &d| n.checked_mul(d as u64)).filter(|&n| n <= MOST);
    let Some(size) = size else { bail!("{what} claims the impossible shape {dims:?} of {dtype}") };
    let data = read_up_to(&mut bytes, size, &what)?;
    if (data.len() as u64) < size {
        bail!("{what} is cut short: its shape {dims:?} needs {size} bytes, {} are there; write it again", data.len());
    }
    Ok((dtype, dims, data))
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

fn seek<R: Seek>(file: &mut R, to: SeekFrom, name: &str) -> Result<u64> {
    match file.seek(to) {
        Ok(at) => Ok(at),
        Err(e) => bail!("{name} cannot be read: {e}"),
    }
}

/// Little-endian numbers; 0 beyond the end.
fn u16_at(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]) as usize)
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 4).map_or(0, |b| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])))
}
