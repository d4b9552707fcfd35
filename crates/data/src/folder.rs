//! A folder of images of any size: scaled so that the shorter side fits, then cropped to the centre.

use crate::Images;
use crate::facts::list;
use crate::images::MIN_SIDE;
use crate::npz::channels_first;
use candle_core::Result;
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, Rgb, RgbImage};
use rayon::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "gif", "bmp", "webp"];
/// The side where none was asked for and the images do not agree on one.
const SIDE: usize = 64;
/// Images that agree on a size are left as they are up to this side.
const LARGEST_OWN: usize = 256;
const DEEPEST: usize = 32;
/// Unpacked size of one image above which it is refused.
const MOST_BYTES: u64 = 1 << 30;

/// What the header of an image file says.
struct Found {
    path: PathBuf,
    height: usize,
    width: usize,
    grey: bool,
}

/// The images below `dir`, in the order of their paths, `[1 or 3, size, size]`.
///
/// One channel if all are grey. If all lie in subfolders, those (sorted) are the classes; there may be one alone. Transparency is laid over
/// white. What cannot be read is skipped, and the notes say so.
pub(crate) fn open(dir: &Path, size: Option<usize>) -> Result<Images> {
    let name = dir.display().to_string();
    if let Some(size) = size.filter(|&size| !(MIN_SIDE..=4096).contains(&size)) {
        bail!("size = {size} is out of range; images are scaled to {MIN_SIDE} to 4096 pixels");
    }
    let mut paths = vec![];
    let mut skipped = vec![];
    walk(dir, 0, &mut paths, &mut skipped)?;
    paths.sort();
    let mut found = vec![];
    for seen in paths.par_iter().map(|path| inspect(path)).collect::<Vec<_>>() {
        match seen {
            Ok(image) => found.push(image),
            Err(why) => skipped.push(why),
        }
    }
    let (height, width) = target(&found, size);
    let grey = found.iter().all(|f| f.grey);
    let channels = if grey { 1 } else { 3 };
    let decoded: Vec<_> = found.par_iter().map(|f| decode(&f.path, height, width, grey)).collect();
    let (mut pixels, mut kept, mut enlarged) = (vec![], vec![], 0);
    for (f, image) in found.iter().zip(decoded) {
        match image {
            Ok(image) => {
                enlarged += usize::from(f.height < height || f.width < width);
                pixels.extend(image);
                kept.push(f);
            }
            Err(why) => skipped.push(why),
        }
    }
    if kept.is_empty() {
        bail!("{name} has no image that can be read (of {}){}", ENDINGS.join(", "), because(&skipped));
    }
    let mut notes = vec![];
    if kept.iter().any(|f| (f.height, f.width) != (height, width)) {
        notes.push(format!("images scaled and cropped to {height}x{width}"));
    }
    if enlarged > 0 {
        notes.push(format!("{enlarged} of {} images were smaller than {height}x{width} and were enlarged", kept.len()));
    }
    let (labels, names) = classes(dir, &kept, &mut notes).unzip();
    skipped.sort();
    notes.extend(skipped.into_iter().map(|why| format!("skipped {why}")));
    let files = kept.iter().map(|f| f.path.display().to_string()).collect();
    let images = Images::new(&name, [channels, height, width], pixels, labels)?.with_notes(notes).with_files(files);
    Ok(match names {
        Some(names) => images.with_class_names(names),
        None => images,
    })
}

/// `: the first reason` and how many more, to end an error with.
fn because(skipped: &[String]) -> String {
    match skipped {
        [] => "; put some there, or name another folder".into(),
        [one] => format!("; skipped {one}"),
        [first, rest @ ..] => format!("; skipped {first}, and {} more", rest.len()),
    }
}

/// Collects the paths with the ending of an image. Hidden files are passed over in silence, others are told.
fn walk(dir: &Path, depth: usize, paths: &mut Vec<PathBuf>, skipped: &mut Vec<String>) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if depth == 0 => bail!("cannot read the folder {}: {e}; check its permissions", dir.display()),
        Err(e) => {
            skipped.push(format!("{}: {e}", dir.display()));
            return Ok(());
        }
    };
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        if hidden {
            continue;
        } else if path.is_dir() && depth < DEEPEST {
            walk(&path, depth + 1, paths, skipped)?;
        } else if path.is_dir() {
            skipped.push(format!("{}: folders nested more than {DEEPEST} deep", path.display()));
        } else if ENDINGS.contains(&ending.as_str()) {
            paths.push(path);
        } else {
            skipped.push(format!("{}: not an image by its name", path.display()));
        }
    }
    Ok(())
}

fn reader(path: &Path) -> image::ImageResult<impl ImageDecoder> {
    let mut reader = ImageReader::open(path)?.with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    reader.into_decoder()
}

/// Size and colour of the image at `path`, or why it is skipped.
fn inspect(path: &Path) -> std::result::Result<Found, String> {
    let at = path.display();
    let decoder = reader(path).map_err(|e| format!("{at}: {e}"))?;
    let (width, height) = decoder.dimensions();
    if (width as usize) < MIN_SIDE || (height as usize) < MIN_SIDE {
        return Err(format!("{at}: {width}x{height} pixels are too few, each side needs at least {MIN_SIDE}"));
    }
    if decoder.total_bytes() > MOST_BYTES {
        return Err(format!("{at}: {width}x{height} pixels are too many"));
    }
    let grey = !decoder.color_type().has_color();
    Ok(Found { path: path.to_path_buf(), height: height as usize, width: width as usize, grey })
}

/// Height and width of the dataset's images.
fn target(found: &[Found], size: Option<usize>) -> (usize, usize) {
    match (size, found) {
        (Some(size), _) => (size, size),
        (None, [first, rest @ ..])
            if first.height.max(first.width) <= LARGEST_OWN
                && rest.iter().all(|f| (f.height, f.width) == (first.height, first.width)) =>
        {
            (first.height, first.width)
        }
        _ => (SIDE, SIDE),
    }
}

/// The image's bytes, [C, height, width].
fn decode(path: &Path, height: usize, width: usize, grey: bool) -> std::result::Result<Vec<u8>, String> {
    let read = || -> image::ImageResult<DynamicImage> {
        let mut decoder = reader(path)?;
        let orientation = decoder.orientation()?;
        let mut image = DynamicImage::from_decoder(decoder)?;
        image.apply_orientation(orientation);
        Ok(image)
    };
    let mut image = read().map_err(|e| format!("{}: {e}", path.display()))?;
    if image.color().has_alpha() {
        image = DynamicImage::ImageRgb8(over_white(&image));
    }
    if (image.height() as usize, image.width() as usize) != (height, width) {
        // Lanczos with the kernel widened when shrinking, so without aliasing.
        image = image.resize_to_fill(width as u32, height as u32, FilterType::Lanczos3);
    }
    Ok(match grey {
        true => image.into_luma8().into_raw(),
        false => channels_first(image.into_rgb8().as_raw(), height * width, 3),
    })
}

fn over_white(image: &DynamicImage) -> RgbImage {
    let image = image.to_rgba8();
    let mix = |v: u8, a: u8| ((u32::from(v) * u32::from(a) + 255 * (255 - u32::from(a)) + 127) / 255) as u8;
    let pixel = |x, y| {
        let [r, g, b, a] = image.get_pixel(x, y).0;
        Rgb([mix(r, a), mix(g, a), mix(b, a)])
    };
    RgbImage::from_fn(image.width(), image.height(), pixel)
}

/// Labels with their number, and the names of the classes, where every image lies in a subfolder of `dir`.
#[allow(clippy::type_complexity)]
fn classes(dir: &Path, kept: &[&Found], notes: &mut Vec<String>) -> Option<((Vec<u32>, usize), Vec<String>)> {
    let subfolder = |f: &&Found| {
        let inside = f.path.strip_prefix(dir).ok()?;
        let mut parts = inside.components();
        let first = parts.next()?.as_os_str().to_string_lossy().into_owned();
        parts.next().map(|_| first)
    };
    let of: Vec<String> = kept.iter().map(subfolder).collect::<Option<_>>()?;
    let mut names = of.clone();
    names.sort();
    names.dedup();
    let labels = of.iter().map(|name| names.partition_point(|n| n < name) as u32).collect();
    if names.len() > 1 {
        notes.push(format!("{} classes from the subfolders: {}", names.len(), list(&names)));
    }
    Some(((labels, names.len()), names))
}
