//! Pictures, arrays and tables of samples, as files. Every file is made whole in memory and then put in its place.

pub mod chart;
mod landscape;
mod npz;

pub use landscape::{Energy, View, landscape, viridis};
pub use npz::npz;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use image::{Rgb, RgbImage};
use langevin_data::Columns;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

/// Between and around the pictures of a grid.
const GAP: u32 = 4;
const GAP_COLOUR: Rgb<u8> = Rgb([72, 72, 72]);
/// Small images are enlarged to about this many pixels a side, while the grid stays within the second number.
const TILE: u32 = 96;
const WIDTH: u32 = 1280;
/// A picture of more pixels is of no use to anybody.
const PIXELS: u64 = 100_000_000;

/// Grey levels of images in [-1, 1]: `[N, C, H, W]` -> u8 `[N, H, W, C]`.
pub fn to_u8(images: &Tensor) -> Result<Tensor> {
    let levels = images.to_dtype(DType::F32)?.affine(127.5, 127.5)?.round()?.clamp(0f32, 255f32)?;
    Ok(levels.permute((0, 2, 3, 1))?.contiguous()?.to_dtype(DType::U8)?)
}

/// Pictures of `images` `[N, C, H, W]` in [-1, 1]: one channel as grey, the first three of more as colours.
pub fn pictures(images: &Tensor) -> Result<Vec<RgbImage>> {
    let (_, c, h, w) = images.dims4()?;
    let bytes = to_u8(images)?;
    let picture = |i: usize| {
        let pixels: Vec<u8> = bytes.get(i)?.flatten_all()?.to_vec1()?;
        let rgb = pixels.chunks(c).flat_map(|p| if c < 3 { [p[0]; 3] } else { [p[0], p[1], p[2]] }).collect();
        RgbImage::from_raw(w as u32, h as u32, rgb).context("an image with another size than its tensor")
    };
    (0..images.dim(0)?).map(picture).collect()
}

/// All `images` `[N, C, H, W]` in [-1, 1] in rows, in order, nearly square unless `columns` says otherwise.
pub fn grid(images: &Tensor, columns: Option<usize>) -> Result<RgbImage> {
    let (n, _, h, w) = images.dims4()?;
    if n == 0 {
        bail!("there are no images to show");
    }
    let columns = columns.unwrap_or_else(|| near_square(n)).clamp(1, n) as u64;
    let rows = (n as u64).div_ceil(columns);
    let (h, w, gap) = (h as u64, w as u64, u64::from(GAP));
    let larger = (u64::from(TILE) / w.max(h)).min(u64::from(WIDTH) / (columns * (w + gap))).max(1);
    let (width, height) = (columns * (w * larger + gap) + gap, rows * (h * larger + gap) + gap);
    if width * height > PIXELS {
        bail!("a grid of {n} samples would be {width} x {height} pixels; write them with --npz or --images instead");
    }
    let mut out = RgbImage::from_pixel(width as u32, height as u32, GAP_COLOUR);
    for (i, picture) in pictures(images)?.iter().enumerate() {
        let (column, row) = (i as u64 % columns, i as u64 / columns);
        let (left, top) = (gap + column * (w * larger + gap), gap + row * (h * larger + gap));
        let picture = enlarge(picture, larger as u32);
        image::imageops::replace(&mut out, &picture, left as i64, top as i64);
    }
    Ok(out)
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

/// Writes a PNG; `notes` (keyword, text) go into the file as text chunks.
pub fn save_png(path: &Path, picture: &RgbImage, notes: &[(&str, String)]) -> Result<()> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width(), picture.height());
    let grey = picture.pixels().all(|p| p[0] == p[1] && p[1] == p[2]);
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

/// Writes an animation that runs for ever and rests on its last frame. Greys are kept as they are; frames with colours
/// have a palette each.
pub fn save_gif(path: &Path, frames: &[RgbImage]) -> Result<()> {
    let Some(first) = frames.first() else { bail!("cannot write {}: no frames", path.display()) };
    let (Ok(width), Ok(height)) = (u16::try_from(first.width()), u16::try_from(first.height())) else {
        bail!("cannot write {}: {} x {} is too large for a GIF", path.display(), first.width(), first.height());
    };
    let pace = (400 / frames.len()).clamp(4, 20) as u16; // in hundredths: about 4 seconds in all
    let greys: Vec<u8> = (0..=255).flat_map(|v| [v; 3]).collect();
    let mut bytes = Vec::new();
    {
        let mut encoder = gif::Encoder::new(&mut bytes, width, height, &greys)?;
        encoder.set_repeat(gif::Repeat::Infinite)?;
        for (i, frame) in frames.iter().enumerate() {
            let grey = frame.pixels().all(|p| p[0] == p[1] && p[1] == p[2]);
            let mut frame = match grey {
                true => gif::Frame::from_indexed_pixels(
                    width,
                    height,
                    frame.pixels().map(|p| p[0]).collect::<Vec<_>>(),
                    None,
                ),
                false => gif::Frame::from_rgb_speed(width, height, frame, 10),
            };
            frame.delay = if i + 1 == frames.len() { 250 } else { pace };
            encoder.write_frame(&frame)?;
        }
    }
    save(path, &bytes)
}

/// Writes samples `[N, D]` as CSV: in the units of their columns, or as they are under x1, x2, ...
pub fn save_samples(path: &Path, columns: Option<&Columns>, x: &Tensor) -> Result<()> {
    let Some(columns) = columns else {
        let names: Vec<String> = (1..=x.dim(1)?).map(|i| format!("x{i}")).collect();
        let rows: Vec<Vec<f32>> = x.to_dtype(DType::F32)?.to_vec2()?;
        return save_csv(path, &names, rows.iter().map(|row| row.iter().map(f32::to_string).collect()));
    };
    let rows = columns.restore(x)?;
    let cells = |row: &Vec<f64>| row.iter().zip(&columns.std).map(|(&v, &std)| digits(v, std)).collect();
    save_csv(path, &columns.names, rows.iter().map(cells))
}

/// Samples `[N, D]` as arrays have them: in the units of their columns if they have some. f32, or f64 where that lacks the
/// digits of a column.
pub fn in_units(columns: Option<&Columns>, x: &Tensor) -> Result<Tensor> {
    let Some(columns) = columns else { return Ok(x.to_dtype(DType::F32)?) };
    let rows = Tensor::new(columns.restore(x)?, &Device::Cpu)?;
    let short = columns.mean.iter().zip(&columns.std).any(|(&mean, &std)| match std {
        0. => (mean as f32).to_string() != mean.to_string(),
        std => mean.abs() > DIGITS * std || mean.abs() + DIGITS * std > f64::from(f32::MAX),
    });
    Ok(if short { rows } else { rows.to_dtype(DType::F32)? })
}

/// A column whose mean is more deviations from 0 than this is not written as f32.
const DIGITS: f64 = 1000.;

/// Writes a table as CSV, its columns under `names`, row by row as they come.
pub fn save_csv(path: &Path, names: &[String], mut rows: impl Iterator<Item = Vec<String>>) -> Result<()> {
    save_by(path, |file| {
        let mut table = csv::Writer::from_writer(file);
        table.write_record(names)?;
        rows.try_for_each(|row| table.write_record(&row))?;
        table.flush()
    })
}

/// `v`, drawn as an f32 of a column of the deviation `unit`: to as many digits as that has.
pub fn digits(v: f64, unit: f64) -> String {
    let places = (7. - unit.log10().floor()).clamp(0., 300.) as usize;
    let (all, some) = (v.to_string(), format!("{v:.places$}"));
    let some = if some.contains('.') { some.trim_end_matches('0').trim_end_matches('.') } else { &some };
    let shortest = if some.len() < all.len() { some } else { &all };
    // numbers that are far from 1 are read more easily with an exponent
    if shortest.len() > LONG { format!("{v:e}") } else { shortest.into() }
}

/// Characters of a number that is still read as it stands.
const LONG: usize = 24;

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
    save_by(path, |file| file.write_all(bytes))
}

/// The same, of what `write` writes.
fn save_by(path: &Path, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    let wrote = if is_special(path) {
        OpenOptions::new().write(true).open(path).and_then(|mut file| write(&mut file)).map_err(anyhow::Error::from)
    } else {
        langevin_models::checkpoint::write_atomic(path, write).map_err(anyhow::Error::from)
    };
    wrote.with_context(|| format!("cannot write {}", path.display()))
}

/// Errors if nothing can be written at `path`: asked before long work, not after it.
pub fn writable(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    if path.is_dir() {
        bail!("cannot write {}: it is a folder", path.display());
    }
    if !folder.is_dir() {
        bail!("cannot write {}: there is no folder {}", path.display(), folder.display());
    }
    if is_special(path) {
        return Ok(());
    }
    tempfile::Builder::new()
        .prefix(".langevin-")
        .tempfile_in(folder)
        .map(drop)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// As [`writable`]; errors too if the name ends as one of another kind of file than `kinds`, the endings that it may have.
pub fn writable_as(path: &Path, kinds: &[&str]) -> Result<()> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    if ending.is_some_and(|ending| !kinds.contains(&ending.as_str())) {
        let kinds = kinds.join(" or .");
        return crate::run::usage(format!("{}: what is written there is a .{kinds}; name it so", path.display()));
    }
    writable(path)
}

fn is_special(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn numbers_have_the_digits_of_their_column() {
        let found = [(1e9 + 0.123_456_789, 1.), (1e9 + 0.5, 1e3), (1000., 0.), (0.1, 1e-20), (12_345.678, 1e9)];
        let found = found.map(|(v, unit)| digits(v, unit));
        assert_eq!(found, ["1000000000.1234568", "1000000000.5", "1000", "0.1", "12346"]);
        let found = [(7e-6, 0.), (20_240_101., 0.), (1.25e300, 1e299), (-2.5e-31, 1e-32)];
        let found = found.map(|(v, unit)| digits(v, unit));
        assert_eq!(found, ["0.000007", "20240101", "1.25e300", "-2.5e-31"]);
    }

    #[test]
    fn names_of_columns_are_quoted_where_they_must_be() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("t.csv");
        save_csv(&path, &["a".into(), "b, \"c\"".into()], [vec!["1".into(), "2.5".into()]].into_iter())?;
        assert_eq!(std::fs::read_to_string(path)?, "a,\"b, \"\"c\"\"\"\n1,2.5\n");
        Ok(())
    }
}
