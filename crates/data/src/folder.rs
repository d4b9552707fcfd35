//! A folder of images of any size, cropped about the centre and scaled to one size.

use crate::facts::list;
use crate::images::{MAX_SIDE, MIN_SIDE, batch};
use crate::picture::{self, Header, is_grey, largest_value, pixels, too_dark, with_image};
use crate::{Batch, Dataset, Kind, Options, check_indices};
use candle_core::{Result, Tensor};
use rayon::prelude::*;
use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "gif", "bmp", "webp"];
/// The side where none was asked for and the images do not agree on one.
const SIDE: usize = 64;
/// Images that agree on a size are left as they are up to this side.
const LARGEST_OWN: usize = 256;
const DEEPEST: usize = 32;
/// Bytes of decoded images that are kept in memory; others are decoded each time.
const KEPT: usize = 4 << 30;
/// Of images that are decoded on demand, so many are decoded to see whether those of 16 bits are dark.
const LOOKED_AT: usize = 50;
/// So many skipped files of a kind have a note each; more of them share one.
const NAMED: usize = 3;

/// An image file and what its header says.
struct Found {
    path: PathBuf,
    header: Header,
}

/// What was not read.
#[derive(Default)]
struct Skipped {
    /// Why images are left out.
    unreadable: Vec<String>,
    /// Files that are no images by their names.
    others: Vec<String>,
}

/// The images of a folder, `[1 or 3, H, W]`.
pub(crate) struct Folder {
    shape: [usize; 3],
    paths: Vec<PathBuf>,
    names: Vec<String>,
    /// The bytes of each image that was decoded and is kept, `[C, H, W]`.
    decoded: Vec<OnceLock<Box<[u8]>>>,
    /// Bytes that may still be kept.
    room: AtomicUsize,
    labels: Option<(Vec<u32>, usize)>,
    class_names: Option<Vec<String>>,
    notes: Vec<String>,
}

/// The images below `dir`, in the order of their paths.
///
/// One channel if all are grey. If all lie in subfolders, those (sorted) are the classes; there may be one alone. Images that cannot be read are
/// skipped, and the notes say so; with [`Options::on_demand`] those that have a good header are taken, and getting one that
/// cannot be decoded is an error.
pub(crate) fn open(dir: &Path, options: &Options) -> Result<Folder> {
    open_with(dir, options, KEPT)
}

/// As [`open`], with `room` bytes of images kept.
fn open_with(dir: &Path, options: &Options, room: usize) -> Result<Folder> {
    let name = dir.display().to_string();
    if let Some(size) = options.size.filter(|size| !(MIN_SIDE..=MAX_SIDE).contains(size)) {
        bail!("size = {size} is out of range; images are scaled to {MIN_SIDE} to {MAX_SIDE} pixels");
    }
    let mut skipped = Skipped::default();
    let mut found = headers(dir, &mut skipped)?;
    let (height, width) = target(&found, options);
    let channels = if all_grey(&found) { 1 } else { 3 };
    let paths = found.iter().map(|f| f.path.clone()).collect();
    let mut folder = Folder::new([channels, height, width], paths, room);
    if !options.on_demand {
        let errors: Vec<Option<String>> =
            (0..found.len()).into_par_iter().map(|i| folder.pixels(i).err().map(|e| e.to_string())).collect();
        let whole: Vec<bool> = errors.iter().map(Option::is_none).collect();
        keep(&mut found, &whole);
        keep(&mut folder.paths, &whole);
        keep(&mut folder.names, &whole);
        keep(&mut folder.decoded, &whole);
        skipped.unreadable.extend(errors.into_iter().flatten());
    }
    if found.is_empty() {
        bail!("{name} has no image that can be read (of {}){}", ENDINGS.join(", "), because(&skipped));
    }
    let mut notes = sizes(&found, height, width);
    notes.extend(depth(&found, options.on_demand));
    let layered = found.iter().filter(|f| f.header.alpha).count();
    if layered > 0 {
        notes.push(format!("images with a channel of transparency, laid over white: {layered}"));
    }
    let needed = channels * height * width * found.len();
    if needed > room {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        notes.push(format!(
            "the images take {} MiB, of which {} MiB are kept in memory; the others are decoded each time",
            mib(needed),
            mib(room)
        ));
    }
    (folder.labels, folder.class_names) = classes(dir, &found, &mut notes).unzip();
    notes.extend(skipped.notes());
    Ok(Folder { notes, ..folder })
}

impl Folder {
    fn new(shape: [usize; 3], paths: Vec<PathBuf>, room: usize) -> Self {
        let names = paths.iter().map(|path| path.display().to_string()).collect();
        let decoded = paths.iter().map(|_| OnceLock::new()).collect();
        Self {
            shape,
            paths,
            names,
            decoded,
            room: AtomicUsize::new(room),
            labels: None,
            class_names: None,
            notes: vec![],
        }
    }

    /// The bytes of image `i`, [C, H, W], kept from now on where there is room.
    fn pixels(&self, i: usize) -> Result<Cow<'_, [u8]>> {
        if let Some(bytes) = self.decoded[i].get() {
            return Ok(Cow::Borrowed(bytes));
        }
        let bytes = match with_image(&self.paths[i], |image| pixels(image, self.shape)) {
            Ok(bytes) => bytes,
            Err(why) => bail!("{why}"),
        };
        let left = |room: usize| room.checked_sub(bytes.len());
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_err() {
            return Ok(Cow::Owned(bytes));
        }
        Ok(Cow::Borrowed(self.decoded[i].get_or_init(|| bytes.into())))
    }
}

impl Dataset for Folder {
    fn kind(&self) -> Kind {
        Kind::Image
    }

    fn len(&self) -> usize {
        self.paths.len()
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn classes(&self) -> Option<usize> {
        self.labels.as_ref().map(|(_, classes)| *classes)
    }

    fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    fn get(&self, idx: &[usize]) -> Result<Batch> {
        check_indices(idx, self.len())?;
        let images = idx.par_iter().map(|&i| self.pixels(i)).collect::<Result<Vec<_>>>()?;
        batch(self.shape, images.iter().map(|image| &**image), self.labels(idx)?)
    }

    fn labels(&self, idx: &[usize]) -> Result<Option<Tensor>> {
        crate::images::labels(self.labels.as_ref().map(|(labels, _)| labels.as_slice()), idx)
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn files(&self) -> Option<&[String]> {
        Some(&self.names)
    }
}

/// Leaves out what is not `whole`.
fn keep<T>(all: &mut Vec<T>, whole: &[bool]) {
    let mut whole = whole.iter();
    all.retain(|_| whole.next() == Some(&true));
}

/// The image files below `dir` with a header that can be read, in the order of their paths.
fn headers(dir: &Path, skipped: &mut Skipped) -> Result<Vec<Found>> {
    let mut paths = vec![];
    walk(dir, 0, &mut paths, skipped)?;
    paths.sort();
    let mut found = vec![];
    for (path, header) in paths.par_iter().map(|path| (path, picture::header(path))).collect::<Vec<_>>() {
        match header {
            Ok(header) => found.push(Found { path: path.clone(), header }),
            Err(why) => skipped.unreadable.push(why),
        }
    }
    Ok(found)
}

/// Collects the paths with the ending of an image. Hidden files are passed over in silence, others are told.
fn walk(dir: &Path, depth: usize, paths: &mut Vec<PathBuf>, skipped: &mut Skipped) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if depth == 0 => bail!("cannot read the folder {}: {e}; check its permissions", dir.display()),
        Err(e) => {
            skipped.unreadable.push(format!("{}: {e}", dir.display()));
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
            skipped.unreadable.push(format!("{}: folders nested more than {DEEPEST} deep", path.display()));
        } else if ENDINGS.contains(&ending.as_str()) {
            paths.push(path);
        } else {
            skipped.others.push(path.display().to_string());
        }
    }
    Ok(())
}

impl Skipped {
    /// A note for each file that was skipped, or one for all of a kind where there are many.
    fn notes(mut self) -> Vec<String> {
        self.unreadable.sort();
        self.others.sort();
        let unreadable = match self.unreadable.as_slice() {
            [first, rest @ ..] if rest.len() >= NAMED => {
                vec![format!("skipped {} images that cannot be read, such as {first}", rest.len() + 1)]
            }
            few => few.iter().map(|why| format!("skipped {why}")).collect(),
        };
        let others = match self.others.as_slice() {
            [first, rest @ ..] if rest.len() >= NAMED => {
                vec![format!("skipped {} files that are not images by their names, such as {first}", rest.len() + 1)]
            }
            few => few.iter().map(|path| format!("skipped {path}: not an image by its name")).collect(),
        };
        [unreadable, others].concat()
    }
}

/// Why there is no image, to end an error with.
fn because(skipped: &Skipped) -> String {
    let others = skipped.others.iter().map(|path| format!("{path}: not an image by its name"));
    let all: Vec<String> = skipped.unreadable.iter().cloned().chain(others).collect();
    match all.as_slice() {
        [] => "; put some there, or name another folder".into(),
        [one] => format!("; skipped {one}"),
        [first, rest @ ..] => format!("; skipped {first}, and {} more", rest.len()),
    }
}

/// Height and width of the dataset's images.
fn target(found: &[Found], options: &Options) -> (usize, usize) {
    let size = |f: &Found| (f.header.height, f.header.width);
    match (options.size, options.shape.as_deref(), found) {
        (Some(size), _, _) => (size, size),
        (None, Some(&[_, height, width]), _) => (height, width),
        (None, _, [first, rest @ ..])
            if first.header.height.max(first.header.width) <= LARGEST_OWN
                && rest.iter().all(|f| size(f) == size(first)) =>
        {
            size(first)
        }
        _ => (SIDE, SIDE),
    }
}

/// Whether no image has a colour. Those with a palette are decoded to see.
fn all_grey(found: &[Found]) -> bool {
    let coloured = |f: &&Found| f.header.colour;
    !found.iter().any(|f| coloured(&f) && !f.header.palette)
        // what cannot be read is skipped
        && found.par_iter().filter(coloured).all(|f| with_image(&f.path, |image| is_grey(&image)).unwrap_or(true))
}

/// What is said of images that are scaled.
fn sizes(found: &[Found], height: usize, width: usize) -> Vec<String> {
    let mut notes = vec![];
    if found.iter().any(|f| (f.header.height, f.header.width) != (height, width)) {
        notes.push(format!("images scaled and cropped to {height}x{width}"));
    }
    let enlarged = found.iter().filter(|f| f.header.height < height || f.header.width < width).count();
    if enlarged > 0 {
        notes
            .push(format!("{enlarged} of {} images were smaller than {height}x{width} and were enlarged", found.len()));
    }
    notes
}

/// What is said of images of 16 bits that leave half of the range or more empty, as those of a 12-bit camera do.
/// Where they are decoded `on_demand`, some are looked at alone.
fn depth(found: &[Found], on_demand: bool) -> Option<String> {
    let deep: Vec<&Found> = found.iter().filter(|f| f.header.deep).collect();
    let count = deep.len();
    let step = if on_demand { count.div_ceil(LOOKED_AT).max(1) } else { 1 };
    let deep: Vec<&Found> = deep.into_iter().step_by(step).collect();
    let largest = AtomicU16::new(0);
    let bright = |f: &&Found| {
        let value = with_image(&f.path, |image| largest_value(&image)).unwrap_or(0);
        largest.fetch_max(value, Ordering::Relaxed);
        value > u16::MAX / 2
    };
    if deep.is_empty() || deep.par_iter().any(bright) {
        return None;
    }
    too_dark(count, largest.into_inner())
}

/// Labels with their number, and the names of the classes, where every image lies in a subfolder of `dir`.
#[allow(clippy::type_complexity)]
fn classes(dir: &Path, found: &[Found], notes: &mut Vec<String>) -> Option<((Vec<u32>, usize), Vec<String>)> {
    let subfolder = |f: &Found| {
        let inside = f.path.strip_prefix(dir).ok()?;
        let mut parts = inside.components();
        let first = parts.next()?.as_os_str().to_string_lossy().into_owned();
        parts.next().map(|_| first)
    };
    let of: Vec<String> = found.iter().map(subfolder).collect::<Option<_>>()?;
    let mut names = of.clone();
    names.sort();
    names.dedup();
    let labels = of.iter().map(|name| names.partition_point(|n| n < name) as u32).collect();
    if names.len() > 1 {
        notes.push(format!("{} classes from the subfolders: {}", names.len(), list(&names)));
    }
    Some(((labels, names.len()), names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage};

    /// Images are the same whether they are kept or decoded each time.
    #[test]
    fn what_is_not_kept_is_decoded_again() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..6u8 {
            RgbImage::from_fn(8, 6, |x, y| Rgb([i * 40, x as u8 * 30, y as u8 * 40]))
                .save(dir.path().join(format!("{i}.png")))
                .unwrap();
        }
        let each = 3 * 8 * 6;
        let all = |data: &Folder| {
            let x = data.get(&[5, 0, 3, 3, 1, 2, 4]).unwrap().x;
            x.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let (whole, some) = (open(dir.path(), &Options::default()).unwrap(), |room| {
            open_with(dir.path(), &Options::default(), room).unwrap()
        });
        assert!(whole.notes.is_empty() && whole.decoded.iter().all(|kept| kept.get().is_some()));
        for room in [0, 2 * each, 3 * each - 1] {
            let data = some(room);
            assert_eq!(data.decoded.iter().filter(|kept| kept.get().is_some()).count(), room / each);
            assert!(data.notes.iter().any(|note| note.contains("are decoded each time")), "{:?}", data.notes);
            assert_eq!(all(&data), all(&whole));
            assert_eq!(all(&data), all(&whole));
        }
        let on_demand = Options { on_demand: true, ..Options::default() };
        let data = open(dir.path(), &on_demand).unwrap();
        assert!(data.decoded.iter().all(|kept| kept.get().is_none()));
        data.get(&[4]).unwrap();
        assert_eq!(data.decoded.iter().filter(|kept| kept.get().is_some()).count(), 1);
        assert_eq!(all(&data), all(&whole));
    }
}
