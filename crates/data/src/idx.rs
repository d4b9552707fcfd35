//! IDX, the format of MNIST: a magic number (0, 0, type, dimensions), the sizes as big-endian u32, then the bytes.

use crate::files::{self, MOST_BYTES};
use crate::images::MAX_SIDE;
use crate::{Images, spec::Split};
use candle_core::Result;
use std::io::Read;
use std::path::{Path, PathBuf};

/// MNIST and its likes: ten classes.
pub(crate) const CLASSES: usize = 10;

/// The pair of standard IDX files of a split in a folder, plain or gzipped.
pub(crate) fn open(dir: &Path, split: Split, set: &str) -> Result<Images> {
    let stem = match split {
        Split::Train => "train",
        Split::Test => "t10k",
    };
    let images = find(dir, stem, "images", "idx3-ubyte", set)?;
    let labels = find(dir, stem, "labels", "idx1-ubyte", set)?;
    let name = |path: &Path| path.display().to_string();
    parse((&mut *files::open(&images)?, &name(&images)), (&mut *files::open(&labels)?, &name(&labels)))
}

/// Images and labels from two IDX streams, each with the name that errors give it.
pub(crate) fn parse(images: (&mut dyn Read, &str), labels: (&mut dyn Read, &str)) -> Result<Images> {
    let (images, of_images) = images;
    let (labels, of_labels) = labels;
    let (dims, pixels) = payload(images, of_images, 3)?;
    let (_, labels) = payload(labels, of_labels, 1)?;
    if labels.len() != dims[0] {
        bail!(
            "{of_images} has {} images, but {of_labels} has {} labels; take both files from the same set and split",
            dims[0],
            labels.len()
        );
    }
    let labels = labels.into_iter().map(u32::from).collect();
    Images::new(of_images, [1, dims[1], dims[2]], pixels, Some((labels, CLASSES)))
}

/// The sizes and the bytes of an IDX stream of unsigned bytes with `rank` dimensions.
fn payload(from: &mut dyn Read, name: &str, rank: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    let what = if rank == 3 { "images" } else { "labels" };
    let head = files::read_up_to(from, 4 + 4 * rank as u64, name)?;
    let magic = [0, 0, 8, rank as u8];
    if !head.starts_with(&magic) {
        let found = &head[..head.len().min(4)];
        bail!("{name} is not an IDX file of {what}: it starts with {found:?} instead of {magic:?}; fetch it again");
    }
    let dims: Vec<usize> =
        head[4..].chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize).collect();
    if dims.len() != rank {
        bail!("{name} is cut short in its header; fetch it again");
    }
    // before anything is read
    if let Some(side) = dims[1..].iter().find(|&&side| side > MAX_SIDE) {
        bail!("{name} claims images with a side of {side} pixels, and {MAX_SIDE} are the most; fetch it again");
    }
    let size = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64)).filter(|&n| n <= MOST_BYTES);
    let Some(size) = size else { bail!("{name} claims impossible sizes {dims:?}; it is damaged, fetch it again") };
    let bytes = files::read_up_to(from, size + 1, name)?;
    match (bytes.len() as u64).cmp(&size) {
        std::cmp::Ordering::Less => bail!(
            "{name} is cut short: its header promises {size} bytes of {what}, but {} are there; fetch it again",
            bytes.len()
        ),
        std::cmp::Ordering::Greater => {
            bail!("{name} has more bytes than the {size} that its header promises; it is damaged, fetch it again")
        }
        std::cmp::Ordering::Equal => Ok((dims, bytes)),
    }
}

/// The file under any of its usual names: `train-images-idx3-ubyte`, `train-images.idx3-ubyte`, with or without `.gz`.
fn find(dir: &Path, stem: &str, what: &str, kind: &str, set: &str) -> Result<PathBuf> {
    if !dir.is_dir() {
        bail!("{} is not a folder; name the folder with the IDX files of {set}", dir.display());
    }
    let standard = format!("{stem}-{what}-{kind}");
    let names = [standard.clone(), format!("{standard}.gz"), format!("{stem}-{what}.{kind}")];
    match names.iter().map(|name| dir.join(name)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => {
            bail!("{} has no {standard} (plain or .gz); put the four standard IDX files of {set} there", dir.display())
        }
    }
}
