//! Pictures, arrays and tables of samples, as files. Every file is made beside its place and put there when it is whole.

pub mod chart;
pub mod gif;
mod grid;
mod landscape;
mod npz;
mod pending;
pub mod rows;

pub use grid::{Grid, above, beside, grid};
pub use landscape::{Energy, SIDE, View, landscape, shown_log_snr, side, viridis};
pub use npz::Npz;
pub use pending::Pending;
pub use rows::{digits, save_csv, save_samples};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use image::RgbImage;
use std::io::Write;
use std::path::Path;

/// Grey levels of images in [-1, 1]: `[N, C, H, W]` -> u8 `[N, H, W, C]`.
pub fn to_u8(images: &Tensor) -> Result<Tensor> {
    let levels = images.to_dtype(DType::F32)?.affine(127.5, 127.5)?.round()?.clamp(0f32, 255f32)?;
    Ok(levels.permute((0, 2, 3, 1))?.contiguous()?.to_dtype(DType::U8)?)
}

/// Pictures of `images` `[N, C, H, W]` in [-1, 1]: one channel as grey, the first three of more as colours.
pub fn pictures(images: &Tensor) -> Result<Vec<RgbImage>> {
    pictures_of(&to_u8(images)?)
}

/// The same of their grey levels `[N, H, W, C]`.
pub(crate) fn pictures_of(levels: &Tensor) -> Result<Vec<RgbImage>> {
    let (n, h, w, c) = levels.dims4()?;
    let picture = |i: usize| {
        let pixels: Vec<u8> = levels.get(i)?.flatten_all()?.to_vec1()?;
        let rgb = pixels.chunks(c).flat_map(|p| if c < 3 { [p[0]; 3] } else { [p[0], p[1], p[2]] }).collect();
        RgbImage::from_raw(w as u32, h as u32, rgb).context("an image with another size than its tensor")
    };
    (0..n).map(picture).collect()
}

/// Writes a PNG; `notes` (keyword, text) go into the file as text chunks.
pub fn save_png(path: &Path, picture: &RgbImage, notes: &[(&str, String)]) -> Result<()> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width(), picture.height());
    let grey = is_grey(picture);
    encoder.set_color(if grey { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in notes {
        encoder.add_itxt_chunk(keyword.to_string(), text.clone())?;
    }
    let mut writer = encoder.write_header()?;
    if grey {
        writer.write_image_data(&picture.pixels().map(|p| p[0]).collect::<Vec<_>>())?;
    } else {
        writer.write_image_data(picture)?;
    }
    writer.finish()?;
    save(path, &bytes)
}

/// Whether a picture has no colours.
fn is_grey(picture: &RgbImage) -> bool {
    picture.pixels().all(|p| p[0] == p[1] && p[1] == p[2])
}

/// The lines of a table of words, its columns beneath each other.
pub fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |j: usize| rows.iter().filter_map(|row| row.get(j)).map(|word| word.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let words = row.iter().zip(&widths).map(|(word, width)| format!("{word:<width$}"));
        words.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect()
}

/// Puts `bytes` at `path`: beside it first, then renamed, so that no half file is ever seen. What is not a file (a pipe,
/// a device) is written to as it is.
pub fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = Pending::create(path)?;
    file.write_all(bytes).with_context(|| format!("cannot write {}", path.display()))?;
    file.finish()
}

/// Errors if nothing can be written at `path`: asked before long work, not after it.
pub fn writable(path: &Path) -> Result<()> {
    let folder = folder(path);
    if path.is_dir() {
        bail!("cannot write {}: it is a folder", path.display());
    }
    if !folder.is_dir() {
        bail!("cannot write {}: there is no folder {}", path.display(), folder.display());
    }
    if is_special(path) {
        return Ok(());
    }
    tempfile::tempfile_in(folder) // without a name, so that nothing can be left of it
        .map(drop)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// As [`writable`]; errors too if the name ends as one of another kind of file than `kinds`, the endings that it may have.
pub fn writable_as(path: &Path, kinds: &[&str]) -> Result<()> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    if ending.is_some_and(|ending| !kinds.contains(&ending.as_str())) {
        let kinds = kinds.join(" or .");
        return crate::error::usage(format!("{}: what is written there is a .{kinds}; name it so", path.display()));
    }
    writable(path)
}

/// The folder that a file of this name lies in.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a folder for files; errors if it cannot be, or if nothing can be written in it.
pub fn writable_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    writable(&folder.join("0.png"))
}

fn is_special(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn levels_are_the_inverse_of_the_loaders_scaling() -> Result<()> {
        let v: Vec<f32> = (0..=255).map(|v| v as f32 / 127.5 - 1.).collect();
        let x = Tensor::from_vec(v, (1, 1, 16, 16), &Device::Cpu)?;
        let back: Vec<u8> = to_u8(&x)?.flatten_all()?.to_vec1()?;
        assert_eq!(back, (0..=255).collect::<Vec<u8>>());
        let wild = Tensor::new(&[-3f32, 3.], &Device::Cpu)?.reshape((1, 2, 1, 1))?;
        assert_eq!(to_u8(&wild)?.flatten_all()?.to_vec1::<u8>()?, [0, 255]);
        Ok(())
    }
}
