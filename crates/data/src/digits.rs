//! 10,000 real handwritten digits of MNIST, 28x28, built into the program.
//!
//! They are dealt round the ten classes; the first 1,000 (100 of each digit) are the held-out split `test`, the other
//! 9,000 are `train`. `scripts/make_digits.py` made the files; all images come from MNIST's training split.

use crate::{Images, idx, spec::Split};
use candle_core::Result;
use flate2::read::GzDecoder;

static IMAGES: &[u8] = include_bytes!("../assets/digits-images-idx3-ubyte.gz");
static LABELS: &[u8] = include_bytes!("../assets/digits-labels-idx1-ubyte.gz");

/// Who made the digits and under which licences they may be passed on.
pub const NOTICE: &str = include_str!("../assets/digits.NOTICE.txt");

/// How many of the 10,000 are held out.
pub const HELD_OUT: usize = 1_000;

/// One split: 9,000 images to train on, or 1,000 held out; labels are the digits.
pub(crate) fn open(split: Split) -> Result<Images> {
    let name = "the built-in digits";
    let all = idx::parse((&mut GzDecoder::new(IMAGES), name), (&mut GzDecoder::new(LABELS), name))?;
    Ok(match split {
        Split::Test => all.slice(0..HELD_OUT),
        Split::Train => all.slice(HELD_OUT..usize::MAX),
    })
}
