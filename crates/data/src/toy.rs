//! Points of the plane from five known densities, centred, with a standard deviation of about 1 on each axis.
//!
//! Point n is a pure function of n, so any part of the dataset is the same for everybody.

use crate::{Batch, Dataset, Kind, check_indices};
use candle_core::{Device, Result, Tensor};
use langevin_ops::noise::generator;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use std::f64::consts::{PI, TAU};

/// Points of `train`; those of `test` come after them.
const TRAIN: usize = 65_536;
const TEST: usize = 16_384;
const SEED: u64 = 0x746f_7973; // "toys"

/// A point and the component that it was drawn from.
type Draw = fn(&mut ChaCha8Rng) -> ([f64; 2], u32);

pub(crate) const ABOUT: [(&str, &str); 5] = [
    ("two-moons", "two interleaved half circles of radius 1.2, blurred by 0.08 (2-D)"),
    ("rings", "four circles of radius 0.5, 1, 1.5 and 2, blurred by 0.05 (2-D)"),
    ("checkerboard", "the 8 dark squares of a 4x4 board on [-2, 2]^2, uniform (2-D)"),
    ("8-gaussians", "eight Gaussians of width 0.15 on a circle of radius 1.4 (2-D)"),
    ("pinwheel", "five bent Gaussian arms [Johnson16] (2-D)"),
];
const DRAWS: [(usize, Draw); 5] = [(2, two_moons), (4, rings), (8, checkerboard), (8, gaussians), (5, pinwheel)];

/// One of the toy densities, as a dataset of points with their component as label.
#[derive(Clone, Copy, Debug)]
pub struct Toy {
    classes: usize,
    draw: Draw,
    first: usize,
    len: usize,
}

impl Toy {
    /// The toy of that name, such as `two-moons`: 65,536 points, or 16,384 others if `held_out`.
    pub fn named(name: &str, held_out: bool) -> Result<Self> {
        match ABOUT.iter().zip(DRAWS).find(|((known, _), _)| *known == name) {
            Some((_, (classes, draw))) if held_out => Ok(Self { classes, draw, first: TRAIN, len: TEST }),
            Some((_, (classes, draw))) => Ok(Self { classes, draw, first: 0, len: TRAIN }),
            None => bail!("no toy is called {name:?}; the names are {}", ABOUT.map(|(name, _)| name).join(", ")),
        }
    }
}

impl Dataset for Toy {
    fn kind(&self) -> Kind {
        Kind::Points
    }

    fn len(&self) -> usize {
        self.len
    }

    fn shape(&self) -> &[usize] {
        &[2]
    }

    fn classes(&self) -> Option<usize> {
        Some(self.classes)
    }

    fn get(&self, idx: &[usize]) -> Result<Batch> {
        check_indices(idx, self.len)?;
        let points = idx.iter().map(|&i| (self.draw)(&mut generator(SEED, (self.first + i) as u64)));
        let (x, labels): (Vec<[f64; 2]>, Vec<u32>) = points.unzip();
        let x: Vec<f32> = x.into_flattened().into_iter().map(|x| x as f32).collect();
        let labels = Tensor::from_vec(labels, idx.len(), &Device::Cpu)?;
        Ok(Batch::new(Tensor::from_vec(x, (idx.len(), 2), &Device::Cpu)?, labels))
    }
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    rng.sample(StandardNormal)
}

fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    rng.random()
}

fn one_of(n: u32, rng: &mut ChaCha8Rng) -> u32 {
    rng.random_range(0..n)
}

/// r (cos a, sin a) + blur
fn around(r: f64, a: f64, blur: f64, rng: &mut ChaCha8Rng) -> [f64; 2] {
    [r * a.cos() + blur * normal(rng), r * a.sin() + blur * normal(rng)]
}

fn two_moons(rng: &mut ChaCha8Rng) -> ([f64; 2], u32) {
    const R: f64 = 1.2;
    let moon = one_of(2, rng);
    let a = PI * uniform(rng);
    let [x, y] = around(R, a, 0.08, rng);
    // The upper half circle, and the lower one moved right by a radius and up by half of one.
    (if moon == 0 { [x - R / 2., y - R / 4.] } else { [x + R / 2., R / 4. - y] }, moon)
}

fn rings(rng: &mut ChaCha8Rng) -> ([f64; 2], u32) {
    let ring = one_of(4, rng);
    let a = TAU * uniform(rng);
    (around(0.5 * f64::from(ring + 1), a, 0.05, rng), ring)
}

fn checkerboard(rng: &mut ChaCha8Rng) -> ([f64; 2], u32) {
    let square = one_of(8, rng);
    let row = square / 2;
    let column = 2 * (square % 2) + row % 2;
    ([f64::from(column) - 2. + uniform(rng), f64::from(row) - 2. + uniform(rng)], square)
}

fn gaussians(rng: &mut ChaCha8Rng) -> ([f64; 2], u32) {
    let mode = one_of(8, rng);
    (around(1.4, TAU * f64::from(mode) / 8., 0.15, rng), mode)
}

/// A Gaussian along a ray, turned by an angle that grows with its distance as 0.25 e^r.
fn pinwheel(rng: &mut ChaCha8Rng) -> ([f64; 2], u32) {
    const SCALE: f64 = 1.3;
    let arm = one_of(5, rng);
    let (r, across) = (1. + 0.3 * normal(rng), 0.1 * normal(rng));
    let (sin, cos) = (TAU * f64::from(arm) / 5. + 0.25 * r.exp()).sin_cos();
    ([SCALE * (r * cos - across * sin), SCALE * (r * sin + across * cos)], arm)
}
