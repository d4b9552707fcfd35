//! Pictures in rows and columns, each put in its place when it is there.

use crate::error::usage;
use anyhow::Result;
use candle_core::Tensor;
use image::{Rgb, RgbImage};

/// Between and around the pictures.
pub const GAP: u32 = 4;
pub const GAP_COLOUR: Rgb<u8> = Rgb([72, 72, 72]);
/// Small images are enlarged to about this many pixels a side, while the grid stays within the second number.
pub const TILE: u32 = 96;
const WIDTH: u32 = 1280;
/// A picture of more pixels is of no use to anybody.
const PIXELS: u64 = 100_000_000;

/// A grid with places for pictures of one size.
pub struct Grid {
    out: RgbImage,
    columns: usize,
    /// Of a picture, as it is.
    size: [u32; 2],
    larger: u32,
    /// Places up to the last that is taken.
    used: usize,
}

impl Grid {
    /// Places for `n` pictures of `width` x `height`, nearly square unless `columns` says otherwise. Errors if it were too
    /// large.
    pub fn new(n: usize, size: [usize; 2], columns: Option<usize>) -> Result<Self> {
        let (columns, larger, [width, height]) = layout(n, size, columns)?;
        let out = RgbImage::from_pixel(width, height, GAP_COLOUR);
        Ok(Self { out, columns, size: size.map(|side| side as u32), larger, used: 0 })
    }

    /// Width and height in pixels of one for `n` pictures of this size.
    pub fn dimensions(n: usize, size: [usize; 2]) -> Result<(u32, u32)> {
        layout(n, size, None).map(|(_, _, [width, height])| (width, height))
    }

    /// As many of `n` pictures of this size as a grid may have, at least one.
    pub fn at_most(n: usize, size: [usize; 2]) -> usize {
        (1..=n).rev().find(|&n| layout(n, size, None).is_ok()).unwrap_or(1)
    }

    /// Puts a picture in its place, counted row by row.
    pub fn put(&mut self, place: usize, picture: &RgbImage) {
        let step = self.size.map(|side| side * self.larger + GAP);
        let at = [place % self.columns, place / self.columns];
        let [left, top] = [0, 1].map(|i| i64::from(GAP) + at[i] as i64 * i64::from(step[i]));
        image::imageops::replace(&mut self.out, &enlarge(picture, self.larger), left, top);
        self.used = self.used.max(place + 1);
    }

    /// The picture, down to the last row that has something in it.
    pub fn finish(self) -> RgbImage {
        let rows = self.used.div_ceil(self.columns) as u32;
        let height = (rows * (self.size[1] * self.larger + GAP) + GAP).min(self.out.height());
        if height == self.out.height() {
            return self.out;
        }
        image::imageops::crop_imm(&self.out, 0, 0, self.out.width(), height).to_image()
    }
}

/// The columns of a grid, how much larger than they are its pictures are shown, and its pixels.
fn layout(n: usize, [width, height]: [usize; 2], columns: Option<usize>) -> Result<(usize, u32, [u32; 2])> {
    let columns = columns.unwrap_or_else(|| near_square(n)).clamp(1, n.max(1));
    let (across, down) = (columns as u64, n.div_ceil(columns) as u64);
    let (w, h, gap) = (width.max(1) as u64, height.max(1) as u64, u64::from(GAP));
    let larger = (u64::from(TILE) / w.max(h)).min(u64::from(WIDTH) / (across * (w + gap))).max(1);
    let (width, height) = (across * (w * larger + gap) + gap, down * (h * larger + gap) + gap);
    if width.saturating_mul(height) > PIXELS {
        return usage(format!(
            "a grid of {n} samples would be {width} x {height} pixels; write them with --npz or --images, or give fewer"
        ));
    }
    Ok((columns, larger as u32, [width as u32, height as u32]))
}

/// All `images` `[N, C, H, W]` in [-1, 1] in rows, in order.
pub fn grid(images: &Tensor, columns: Option<usize>) -> Result<RgbImage> {
    let (n, _, h, w) = images.dims4()?;
    let mut grid = Grid::new(n, [w, h], columns)?;
    for (place, picture) in super::pictures(images)?.iter().enumerate() {
        grid.put(place, picture);
    }
    Ok(grid.finish())
}

/// One picture above another, both in the middle.
pub fn above(upper: &RgbImage, lower: &RgbImage) -> RgbImage {
    let (width, height) = (upper.width().max(lower.width()), upper.height() + lower.height());
    let mut out = RgbImage::from_pixel(width, height, Rgb([255, 255, 255]));
    let middle = |picture: &RgbImage| i64::from((width - picture.width()) / 2);
    image::imageops::replace(&mut out, upper, middle(upper), 0);
    image::imageops::replace(&mut out, lower, middle(lower), i64::from(upper.height()));
    out
}

/// Pictures of one size beside each other, enlarged as those of a grid.
pub fn beside(pictures: &[RgbImage]) -> RgbImage {
    let (w, h) = pictures.first().map_or((1, 1), RgbImage::dimensions);
    let larger = (TILE / w.max(h)).max(1);
    let at = |i: usize| GAP + i as u32 * (w * larger + GAP);
    let mut out = RgbImage::from_pixel(at(pictures.len()), h * larger + 2 * GAP, GAP_COLOUR);
    for (i, picture) in pictures.iter().enumerate() {
        image::imageops::replace(&mut out, &enlarge(picture, larger), i64::from(at(i)), i64::from(GAP));
    }
    out
}

/// The number of columns from sqrt(n) to 2 sqrt(n) that leaves the fewest places empty, the smallest of them.
fn near_square(n: usize) -> usize {
    let root = (n as f64).sqrt();
    (root.ceil() as usize..=(2. * root) as usize).min_by_key(|&c| n.div_ceil(c) * c - n).unwrap_or(1)
}

/// Every pixel as a square of `times` pixels a side.
fn enlarge(picture: &RgbImage, times: u32) -> RgbImage {
    RgbImage::from_fn(picture.width() * times, picture.height() * times, |x, y| {
        *picture.get_pixel(x / times, y / times)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn grids_are_filled_and_nearly_square() {
        let columns: Vec<_> = [1, 2, 3, 4, 7, 8, 10, 16, 60, 64, 100].map(near_square).into();
        assert_eq!(columns, [1, 2, 3, 2, 4, 4, 5, 4, 10, 8, 10]);
    }

    #[test]
    fn every_image_is_in_its_place() -> Result<()> {
        let x = Tensor::new(&[-1f32, 0., 1.], &Device::Cpu)?.reshape((3, 1, 1, 1))?.broadcast_as((3, 1, 2, 2))?;
        let picture = grid(&x, Some(2))?;
        let (g, side) = (GAP, 2 * TILE / 2);
        assert_eq!(picture.dimensions(), (2 * side + 3 * g, 2 * side + 3 * g));
        assert_eq!(picture.get_pixel(g + 1, g + 1)[0], 0);
        assert_eq!(picture.get_pixel(2 * g + side, g)[0], 128);
        assert_eq!(picture.get_pixel(g, 2 * g + side)[0], 255);
        assert_eq!(*picture.get_pixel(2 * g + side, 2 * g + side), GAP_COLOUR);
        Ok(())
    }

    #[test]
    fn a_grid_that_is_not_full_ends_after_its_last_row() -> Result<()> {
        let mut grid = Grid::new(9, [48, 48], Some(3))?;
        let step = 2 * 48 + GAP;
        grid.put(4, &RgbImage::from_pixel(48, 48, Rgb([255, 0, 0])));
        let picture = grid.finish();
        assert_eq!(picture.dimensions(), (3 * step + GAP, 2 * step + GAP));
        assert_eq!(*picture.get_pixel(GAP + step, GAP + step), Rgb([255, 0, 0]));
        assert_eq!(*picture.get_pixel(GAP, GAP), GAP_COLOUR, "the place of one that is missing is empty");
        Ok(())
    }

    #[test]
    fn a_grid_that_is_too_large_is_refused() {
        assert!(Grid::new(90_000, [28, 28], None).is_ok());
        let why = Grid::new(100_000, [28, 28], None).err().map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(
            [Grid::at_most(64, [28, 28]), Grid::at_most(64, [2000, 2000]), Grid::at_most(64, [9000, 9000])],
            [64, 24, 1]
        );
        assert!(why.contains("a grid of 100000 samples") && why.contains("--npz"), "{why}");
    }
}
