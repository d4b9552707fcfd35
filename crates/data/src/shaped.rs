//! The images of another dataset, brought to the shape that a model takes.
//!
//! They are cropped, scaled and made grey as the images of a folder are, and grey is repeated in every channel.

use crate::picture::pixels;
use crate::{Batch, Dataset, Kind};
use candle_core::{Device, Result, Tensor};
use image::{DynamicImage, GrayImage, RgbImage};
use rayon::prelude::*;

/// Images of another shape than those of `of`.
pub(crate) struct Shaped {
    of: Box<dyn Dataset>,
    from: [usize; 3],
    to: [usize; 3],
}

impl Shaped {
    /// `of` in images of `shape`. Errors where either is no grey or coloured image.
    pub fn new(of: Box<dyn Dataset>, shape: &[usize]) -> Result<Self> {
        match (of.shape(), shape) {
            (&[c, h, w], &[channels, height, width]) if [c, channels].iter().all(|c| [1, 3].contains(c)) => {
                Ok(Self { from: [c, h, w], to: [channels, height, width], of })
            }
            (other, _) => {
                bail!("samples of shape {other:?} cannot be made into samples of shape {shape:?}; give other data")
            }
        }
    }

    /// One image `[C, H, W]` in [-1, 1].
    fn image(&self, x: &[f32]) -> Option<Vec<f32>> {
        let [c, h, w] = self.from;
        let byte = |p: usize| ((x.get(p).copied().unwrap_or(-1.) + 1.) * 127.5).round() as u8;
        let bytes: Vec<u8> = (0..c * h * w).map(|i| byte(i % c * h * w + i / c)).collect(); // [H, W, C]
        let image = match c {
            1 => DynamicImage::ImageLuma8(GrayImage::from_raw(w as u32, h as u32, bytes)?),
            _ => DynamicImage::ImageRgb8(RgbImage::from_raw(w as u32, h as u32, bytes)?),
        };
        Some(pixels(image, self.to).into_iter().map(|v| f32::from(v) / 127.5 - 1.).collect())
    }
}

impl Dataset for Shaped {
    fn kind(&self) -> Kind {
        Kind::Image
    }

    fn len(&self) -> usize {
        self.of.len()
    }

    fn shape(&self) -> &[usize] {
        &self.to
    }

    fn classes(&self) -> Option<usize> {
        self.of.classes()
    }

    fn class_names(&self) -> Option<&[String]> {
        self.of.class_names()
    }

    fn get(&self, idx: &[usize]) -> Result<Batch> {
        let Batch { x, conditions } = self.of.get(idx)?;
        let x: Vec<f32> = x.flatten_all()?.to_vec1()?;
        let images: Option<Vec<_>> = x.par_chunks(self.from.iter().product()).map(|x| self.image(x)).collect();
        let Some(images) = images else { bail!("images of shape {:?} are not what they say", self.from) };
        let [c, h, w] = self.to;
        Ok(Batch { x: Tensor::from_vec(images.concat(), (idx.len(), c, h, w), &Device::Cpu)?, conditions })
    }

    fn labels(&self, idx: &[usize]) -> Result<Option<Tensor>> {
        self.of.labels(idx)
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.of.notes();
        let ([c, h, w], [channels, height, width]) = (self.from, self.to);
        if c != channels {
            notes.push(if channels == 1 {
                "colours made grey".into()
            } else {
                "grey repeated in three colours".into()
            });
        }
        if (h, w) != (height, width) {
            notes.push(format!("images scaled from {h}x{w} to {height}x{width}"));
        }
        notes
    }

    fn files(&self) -> Option<&[String]> {
        self.of.files()
    }
}
