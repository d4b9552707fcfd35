//! Images of noise alone, every pixel drawn for itself: what belongs to no data set.
//!
//! Image n is a pure function of n, so any part of the dataset is the same for everybody.

use crate::{Batch, Dataset, Kind, check_indices};
use candle_core::{Device, Result, Tensor};
use langevin_ops::noise::generator;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use rayon::prelude::*;

/// Images of `train`; as many of `test` come after them.
const IMAGES: usize = 10_000;
const SEED: u64 = 0x6e_6f69_7365; // "noise"
/// The shape where nobody asks for another: that of the digits.
const SHAPE: [usize; 3] = [1, 28, 28];

/// A pixel value from 0 to 255.
type Draw = fn(&mut ChaCha8Rng) -> u8;

pub(crate) const ABOUT: [(&str, &str); 2] = [
    ("noise:uniform", "images of uniform noise, 28x28 grey or the shape of the model"),
    ("noise:gaussian", "images of normal noise about mid-grey, standard deviation a quarter of the range, clipped"),
];
const DRAWS: [Draw; 2] =
    [|rng| rng.random(), |rng| (127.5 + 63.75 * rng.sample::<f64, _>(StandardNormal)).round() as u8];

/// Noise of one kind, as a dataset of images without labels.
#[derive(Clone, Debug)]
pub(crate) struct Noise {
    draw: Draw,
    shape: Vec<usize>,
    first: usize,
}

impl Noise {
    /// The noise of that name in images of `shape` `[C, H, W]`: 10,000 of them, or 10,000 others if `held_out`.
    pub fn named(name: &str, shape: Option<&[usize]>, held_out: bool) -> Result<Self> {
        let shape = shape.unwrap_or(&SHAPE).to_vec();
        if shape.len() != 3 {
            bail!("{name} is made of images, and samples of shape {shape:?} are none; give other data");
        }
        match ABOUT.iter().zip(DRAWS).find(|((known, _), _)| *known == name) {
            Some((_, draw)) => Ok(Self { draw, shape, first: if held_out { IMAGES } else { 0 } }),
            None => bail!("no noise is called {name:?}; the names are {}", ABOUT.map(|(name, _)| name).join(", ")),
        }
    }
}

impl Dataset for Noise {
    fn kind(&self) -> Kind {
        Kind::Image
    }

    fn len(&self) -> usize {
        IMAGES
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn classes(&self) -> Option<usize> {
        None
    }

    fn get(&self, idx: &[usize]) -> Result<Batch> {
        check_indices(idx, IMAGES)?;
        let each: usize = self.shape.iter().product();
        let image = |&i: &usize| {
            let mut rng = generator(SEED, (self.first + i) as u64);
            (0..each).map(|_| f32::from((self.draw)(&mut rng)) / 127.5 - 1.).collect::<Vec<_>>()
        };
        let x: Vec<f32> = idx.par_iter().flat_map_iter(image).collect();
        let shape = [&[idx.len()], self.shape.as_slice()].concat();
        Ok(Batch::new(Tensor::from_vec(x, shape, &Device::Cpu)?, None))
    }
}
