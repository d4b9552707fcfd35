//! An animation, written frame by frame.

use super::pending::Pending;
use anyhow::{Context, Result};
use image::RgbImage;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// A GIF that runs for ever and rests on its last frame. Greys are kept as they are; frames with colours have a palette each.
pub struct Gif {
    path: PathBuf,
    encoder: gif::Encoder<BufWriter<Pending>>,
    width: u16,
    height: u16,
    /// Of a frame, in hundredths of a second.
    pace: u16,
    /// Frames that are still to come.
    left: usize,
}

/// The sides of a GIF, which cannot be larger than 65535.
pub fn sides(path: &Path, (width, height): (u32, u32)) -> Result<(u16, u16)> {
    match (u16::try_from(width), u16::try_from(height)) {
        (Ok(width), Ok(height)) => Ok((width, height)),
        _ => crate::error::usage(format!("{}: {width} x {height} pixels are too many for a GIF", path.display())),
    }
}

impl Gif {
    /// An animation of so many frames of this size.
    pub fn create(path: &Path, size: (u32, u32), frames: usize) -> Result<Self> {
        let (width, height) = sides(path, size)?;
        let greys: Vec<u8> = (0..=255).flat_map(|v| [v; 3]).collect();
        let mut encoder = gif::Encoder::new(BufWriter::new(Pending::create(path)?), width, height, &greys)?;
        encoder.set_repeat(gif::Repeat::Infinite)?;
        let pace = (400 / frames.max(1)).clamp(4, 20) as u16; // about 4 seconds in all
        Ok(Self { path: path.into(), encoder, width, height, pace, left: frames })
    }

    /// The next frame.
    pub fn add(&mut self, picture: &RgbImage) -> Result<()> {
        let (width, height) = (self.width, self.height);
        let mut frame = match super::is_grey(picture) {
            true => {
                let greys: Vec<u8> = picture.pixels().map(|p| p[0]).collect();
                gif::Frame::from_indexed_pixels(width, height, greys, None)
            }
            false => gif::Frame::from_rgb_speed(width, height, picture, 10),
        };
        self.left = self.left.saturating_sub(1);
        frame.delay = if self.left == 0 { 250 } else { self.pace };
        self.encoder.write_frame(&frame).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Puts the file in its place.
    pub fn finish(self) -> Result<()> {
        let wrote = self.encoder.into_inner().map_err(anyhow::Error::from);
        let file = wrote.and_then(|file| file.into_inner().map_err(|e| e.into_error().into()));
        file.with_context(|| format!("cannot write {}", self.path.display()))?.finish()
    }
}
