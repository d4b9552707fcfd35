//! Images held in memory as bytes: x = v / 127.5 - 1.

use crate::{Batch, Dataset, Kind, check_indices};
use candle_core::{Device, Result, Tensor};
use std::ops::Range;

/// The smallest side that is still an image: below it no network of ours has anything to see.
pub(crate) const MIN_SIDE: usize = 4;
/// The largest side: above it no network of ours has the memory.
pub(crate) const MAX_SIDE: usize = 4096;

/// An error unless both sides are from [`MIN_SIDE`] to [`MAX_SIDE`]; `name` is what it calls the images.
pub(crate) fn check_sides(name: &str, h: usize, w: usize) -> Result<()> {
    if h < MIN_SIDE || w < MIN_SIDE {
        bail!("{name}: images of {h}x{w} pixels are too small; both sides must be at least {MIN_SIDE}");
    }
    if h > MAX_SIDE || w > MAX_SIDE {
        bail!("{name}: images of {h}x{w} pixels are too large; both sides must be at most {MAX_SIDE}");
    }
    Ok(())
}

/// An error unless there is one label for each of `n` images, all below `classes`.
pub(crate) fn check_labels(name: &str, n: usize, labels: &[u32], classes: usize) -> Result<()> {
    if labels.len() != n {
        bail!("{name}: {n} images but {} labels; the two do not belong together", labels.len());
    }
    if let Some((i, label)) = labels.iter().enumerate().find(|&(_, &label)| label as usize >= classes) {
        bail!("{name}: label {label} of image {i} is not below the {classes} classes; check the labels");
    }
    Ok(())
}

/// Images of `shape` as samples.
pub(crate) fn batch<'a>(
    shape: [usize; 3],
    images: impl ExactSizeIterator<Item = &'a [u8]>,
    labels: Option<Tensor>,
) -> Result<Batch> {
    let ([c, h, w], n) = (shape, images.len());
    let mut x = Vec::with_capacity(n * c * h * w);
    for image in images {
        x.extend(image.iter().map(|&v| f32::from(v) / 127.5 - 1.));
    }
    Ok(Batch::new(Tensor::from_vec(x, (n, c, h, w), &Device::Cpu)?, labels))
}

/// The labels of these samples.
pub(crate) fn labels(labels: Option<&[u32]>, idx: &[usize]) -> Result<Option<Tensor>> {
    labels.map(|labels| Tensor::from_iter(idx.iter().map(|&i| labels[i]), &Device::Cpu)).transpose()
}

/// Images of one size, one byte a pixel and channel.
#[derive(Clone, Debug)]
pub struct Images {
    shape: [usize; 3],
    pixels: Vec<u8>,
    labels: Option<Vec<u32>>,
    classes: Option<usize>,
    class_names: Option<Vec<String>>,
    notes: Vec<String>,
}

impl Images {
    /// Images of `shape` [C, H, W] from `pixels`, which are [N, C, H, W]; `name` is what errors call them.
    ///
    /// With `labels`, there is one an image, each below `classes`.
    pub fn new(name: &str, shape: [usize; 3], pixels: Vec<u8>, labels: Option<(Vec<u32>, usize)>) -> Result<Self> {
        let [c, h, w] = shape;
        check_sides(name, h, w)?;
        let each = [c, h, w].iter().try_fold(1usize, |n, &side| n.checked_mul(side)).unwrap_or(0);
        if each == 0 || !pixels.len().is_multiple_of(each) {
            bail!("{name}: {} bytes are not a whole number of images of {c}x{h}x{w}; check the file", pixels.len());
        }
        let n = pixels.len() / each;
        if n == 0 {
            bail!("{name} has no images; give a file or folder with at least one");
        }
        if let Some((labels, classes)) = &labels {
            check_labels(name, n, labels, *classes)?;
        }
        let classes = labels.as_ref().map(|(_, classes)| *classes);
        let labels = labels.map(|(labels, _)| labels);
        Ok(Self { shape, pixels, labels, classes, class_names: None, notes: vec![] })
    }

    /// The same images with something to tell the user.
    pub fn with_notes(self, notes: Vec<String>) -> Self {
        Self { notes, ..self }
    }

    /// The same images with a name for each of their classes, in the order of the labels.
    pub(crate) fn with_class_names(self, names: Vec<String>) -> Self {
        Self { class_names: self.classes.filter(|&n| n == names.len()).map(|_| names), ..self }
    }

    /// Only the images of `range`, cut to those that are there.
    pub(crate) fn slice(mut self, range: Range<usize>) -> Self {
        let each: usize = self.shape.iter().product();
        let end = range.end.min(self.len());
        let start = range.start.min(end);
        self.pixels = self.pixels[start * each..end * each].to_vec();
        self.labels = self.labels.map(|labels| labels[start..end].to_vec());
        self
    }

    /// The bytes of image `i`, [C, H, W], if there is one.
    pub fn pixels(&self, i: usize) -> Option<&[u8]> {
        let each = self.shape.iter().product();
        self.pixels.chunks_exact(each).nth(i)
    }
}

impl Dataset for Images {
    fn kind(&self) -> Kind {
        Kind::Image
    }

    fn len(&self) -> usize {
        self.pixels.len() / self.shape.iter().product::<usize>()
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn classes(&self) -> Option<usize> {
        self.classes
    }

    fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    fn get(&self, idx: &[usize]) -> Result<Batch> {
        check_indices(idx, self.len())?;
        let each: usize = self.shape.iter().product();
        let images = idx.iter().map(|&i| &self.pixels[i * each..][..each]);
        batch(self.shape, images, self.labels(idx)?)
    }

    fn labels(&self, idx: &[usize]) -> Result<Option<Tensor>> {
        check_indices(idx, self.len())?;
        labels(self.labels.as_deref(), idx)
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
