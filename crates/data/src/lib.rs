//! Datasets as indexed batches of tensors: digits, MNIST, CIFAR-10, image folders, CSV tables, 2-D toys, noise.
//!
//! [`open`] turns what a user types into a [`Dataset`], and a [`Loader`] turns a dataset into the endless row of
//! batches of a training run. Images are v / 127.5 - 1 in [-1, 1] for pixel values v of 0 to 255.

/// Ends the function with an error of one sentence.
///
/// Not candle's: that one adds a backtrace where `RUST_BACKTRACE` is set, and a wrong file is no bug of ours.
macro_rules! bail {
    ($($why:tt)*) => { return Err(candle_core::Error::Msg(format!($($why)*))) };
}

mod bits;
mod cifar;
mod classes;
pub mod digits;
mod facts;
mod files;
mod folder;
#[cfg(feature = "hub")]
mod hub;
#[cfg(not(feature = "hub"))]
#[path = "no_hub.rs"]
mod hub;
mod idx;
mod images;
mod loader;
mod noise;
mod npz;
mod picture;
mod rotate;
mod shaped;
mod spec;
mod table;
pub mod toy;
mod toy_density;

pub use bits::{Binarise, check_bits, check_integers};
pub use classes::{Relabelled, places};
pub use facts::{Facts, list};
pub use images::Images;
pub use loader::{Loader, LoaderOptions, Prefetch, dequantise};
pub use picture::{MaskFile, Picture, mask, picture};
pub use spec::{ALL, Options, absolute, class_names, has_files, held_out, is_also_folder, open, path, takes_size};
pub use table::{Columns, Partial, Scaling, Table, Texts, partial};
pub use toy_density::ToyDensity;

use candle_core::{Result, Tensor};
use langevin_ops::Conditions;
use langevin_ops::noise::generator;
use rand::RngExt;

/// Some samples of a dataset, on the CPU.
#[derive(Clone, Debug)]
pub struct Batch {
    /// f32 `[B, ...shape]`; images are v / 127.5 - 1, in [-1, 1].
    pub x: Tensor,
    /// What is known of them beside, one row a sample. The class is u32, below the dataset's number of classes.
    pub conditions: Conditions,
}

impl Batch {
    /// Samples of these classes, u32 `[B]`, or without any.
    pub fn new(x: Tensor, labels: impl Into<Option<Tensor>>) -> Self {
        Self { x, conditions: Conditions::class(labels) }
    }

    /// The class of each sample; `None` where the dataset has none.
    pub fn labels(&self) -> Option<&Tensor> {
        self.conditions.labels()
    }
}

/// What a sample is, which decides how it can be shown and augmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `[C, H, W]`.
    Image,
    /// A row of a table, `[D]`.
    Table,
    /// A point of the plane, `[2]`.
    Points,
}

/// A finite set of samples, each reached by its index.
pub trait Dataset: Send + Sync {
    /// What a sample is.
    fn kind(&self) -> Kind;
    /// The number of samples.
    fn len(&self) -> usize;
    /// The shape of one sample, `[C, H, W]` or `[D]`.
    fn shape(&self) -> &[usize];
    /// The number of classes, where samples have labels.
    fn classes(&self) -> Option<usize>;
    /// The names of the classes in the order of their labels; `None` where classes are numbers alone.
    fn class_names(&self) -> Option<&[String]> {
        None
    }
    /// The samples of these indices, in this order. An index of [`Dataset::len`] or above is an error.
    fn get(&self, idx: &[usize]) -> Result<Batch>;
    /// The labels of these samples; cheaper than [`Dataset::get`] where samples have to be decoded.
    fn labels(&self, idx: &[usize]) -> Result<Option<Tensor>> {
        Ok(self.get(idx)?.labels().cloned())
    }
    /// What the user should know: files skipped and why, names of classes, constant columns.
    fn notes(&self) -> Vec<String> {
        vec![]
    }
    /// The file of each sample, where each has one of its own.
    fn files(&self) -> Option<&[String]> {
        None
    }
    /// How a table's columns are scaled, to map samples back; `None` where they are not.
    fn columns(&self) -> Option<&Columns> {
        None
    }
    /// True if there are no samples; what [`open`] returns has some.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// sigma_data: the standard deviation of all components about their one mean.
///
/// Taken in f64 from up to 10,000 samples spread over the dataset by a fixed seed, so it is the same each time. An error if nothing varies.
pub fn std(data: &dyn Dataset) -> Result<f64> {
    const MOST: usize = 10_000;
    const AT_ONCE: usize = 500;
    let idx = spread(data.len(), MOST, 0x0073_7464);
    let (mut n, mut mean, mut m2) = (0f64, 0f64, 0f64); // m2 is the sum of (x - mean)^2
    for some in idx.chunks(AT_ONCE) {
        let x: Vec<f32> = data.get(some)?.x.flatten_all()?.to_vec1()?;
        let count = x.len() as f64;
        let here = x.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let spread: f64 = x.iter().map(|&x| (f64::from(x) - here).powi(2)).sum();
        // Two groups joined without cancellation [Chan83].
        m2 += spread + (here - mean).powi(2) * n * count / (n + count);
        mean += (here - mean) * count / (n + count);
        n += count;
    }
    let std = (m2 / n).sqrt();
    if !(std > 0. && std.is_finite()) {
        bail!("the data do not vary (standard deviation {std}), so there is nothing to learn; check the files");
    }
    Ok(std)
}

/// Indices of `n` samples of `len` (all of them if they are fewer), spread evenly and drawn by `seed`, in order.
pub fn spread(len: usize, n: usize, seed: u64) -> Vec<usize> {
    let taken = len.min(n);
    // One from each of as many equal stretches, at random: every sixth image of MNIST comes from one group of writers.
    let mut rng = generator(seed, 0);
    let start = |i: usize| (i as u128 * len as u128 / taken as u128) as usize;
    (0..taken).map(|i| rng.random_range(start(i) as u64..start(i + 1) as u64) as usize).collect()
}

/// An error for the first index that is not below `len`.
fn check_indices(idx: &[usize], len: usize) -> Result<()> {
    match idx.iter().find(|&&i| i >= len) {
        Some(i) => bail!("sample {i} was asked for, but the dataset has {len}; ask for 0 to {}", len.saturating_sub(1)),
        None => Ok(()),
    }
}
