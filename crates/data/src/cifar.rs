//! CIFAR-10's binary files: for each image its label (one byte), then 32x32 red, green and blue bytes.

use crate::files::{self, MOST_BYTES};
use crate::{Images, spec::Split};
use candle_core::Result;
use std::path::Path;

const SHAPE: [usize; 3] = [3, 32, 32];
const RECORD: usize = 1 + 3 * 32 * 32;
const CLASSES: usize = 10;

/// A split from `data_batch_1.bin` to `data_batch_5.bin`, or `test_batch.bin`, in the folder or as the archive unpacks.
pub(crate) fn open(dir: &Path, split: Split) -> Result<Images> {
    if !dir.is_dir() {
        bail!("{} is not a folder; name the folder with the binary files of cifar10", dir.display());
    }
    let inner = dir.join("cifar-10-batches-bin");
    let dir = if inner.is_dir() { &inner } else { dir };
    let names: Vec<String> = match split {
        Split::Train => (1..=5).map(|i| format!("data_batch_{i}.bin")).collect(),
        Split::Test => vec!["test_batch.bin".into()],
    };
    let (mut pixels, mut labels) = (vec![], vec![]);
    for name in names {
        let path = dir.join(&name);
        if !path.is_file() {
            bail!("{} has no {name}; unpack the binary version of CIFAR-10 there", dir.display());
        }
        let at = path.display().to_string();
        let bytes = files::read_up_to(&mut *files::open(&path)?, MOST_BYTES, &at)?;
        parse(&bytes, &at, &mut pixels, &mut labels)?;
    }
    Images::new(&dir.display().to_string(), SHAPE, pixels, Some((labels, CLASSES)))
}

/// Adds the images and labels of one file.
pub(crate) fn parse(bytes: &[u8], name: &str, pixels: &mut Vec<u8>, labels: &mut Vec<u32>) -> Result<()> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
        bail!(
            "{name}: {} bytes are not a whole number of CIFAR-10 images of {RECORD}; it is cut short or no binary file \
             of CIFAR-10, fetch it again",
            bytes.len()
        );
    }
    for (i, record) in bytes.chunks_exact(RECORD).enumerate() {
        if record[0] as usize >= CLASSES {
            bail!("{name}: label {} of image {i} is not below {CLASSES}; it is no binary file of CIFAR-10", record[0]);
        }
        labels.push(u32::from(record[0]));
        pixels.extend_from_slice(&record[1..]);
    }
    Ok(())
}
