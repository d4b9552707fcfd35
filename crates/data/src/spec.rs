//! From what a user types to a dataset: `NAME[:SPLIT][=DIR]`, a folder of images, `FILE.npz`, `FILE.csv`, `toy:NAME`,
//! `noise:NAME`, `rotate:90=SPEC`.

use crate::noise::{self, Noise};
use crate::rotate::Rotated;
use crate::shaped::Shaped;
use crate::table::Scaling;
use crate::{Dataset, cifar, classes, digits, folder, hub, idx, npz, table, toy};
use candle_core::Result;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The names that [`open`] knows, and a line about each.
pub const ALL: &[(&str, &str)] = &[
    ("digits", "10,000 real MNIST digits, 28x28, built in: 9,000 to train, 1,000 held out (digits:test)"),
    ("mnist", "70,000 handwritten digits, 28x28, from the Hub or a folder of IDX files (mnist=DIR)"),
    (
        "fashion-mnist",
        "70,000 pieces of clothing, 28x28 grey, from the Hub or a folder of IDX files (fashion-mnist=DIR)",
    ),
    ("cifar10", "60,000 photographs, 32x32 in colour, from the Hub or a folder of binary files (cifar10=DIR)"),
    ("toy:two-moons", toy::ABOUT[0].1),
    ("toy:rings", toy::ABOUT[1].1),
    ("toy:checkerboard", toy::ABOUT[2].1),
    ("toy:8-gaussians", toy::ABOUT[3].1),
    ("toy:pinwheel", toy::ABOUT[4].1),
    noise::ABOUT[0],
    noise::ABOUT[1],
];

/// What else [`open`] takes, for the messages.
const OTHERS: &str = "a folder of images, FILE.npz, FILE.csv or rotate:90=SPEC";

/// How data are read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The side to which the images of a folder are scaled and cropped. Without it: their own size where all agree
    /// and it is at most 256, else 64.
    pub size: Option<usize>,
    /// The shape of the samples that are wanted, `[C, H, W]` or `[D]`. Images of another shape are made grey or coloured,
    /// scaled and cropped to it, and the notes say so; other samples of another shape are an error.
    pub shape: Option<Vec<usize>>,
    /// How the columns of a table are scaled.
    pub scaling: Scaling,
    /// Whether the first line of a table is names; decided by what stands in it if `None`. Nothing else has one.
    pub header: Option<bool>,
    /// Decode the images of a folder when they are asked for. Without it all are decoded at once, and those that cannot be
    /// are left out; with it getting one of those is an error that names the file.
    pub on_demand: bool,
}

/// A part of a dataset: `:train` (the default) or `:test`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    Train,
    Test,
}

/// The dataset that `spec` names.
///
/// `NAME[:train|:test]`, with `=DIR` to read the files of that dataset from a folder; a folder of images; `FILE.npz`
/// (`arr_0` uint8 [N, H, W, C], `arr_1` labels; or `arr_0` float [N, D], rows of a table); `FILE.csv`; `toy:NAME[:train|:test]`; `noise:NAME[:train|:test]`; the images of any of these turned
/// clockwise, `rotate:90=SPEC`. See [`ALL`] for the names.
pub fn open(spec: &str, options: &Options) -> Result<Box<dyn Dataset>> {
    let data = open_as_is(spec, options)?;
    match &options.shape {
        Some(shape) if data.shape() != shape.as_slice() => Ok(Box::new(Shaped::new(data, shape)?)),
        _ => Ok(data),
    }
}

/// The same in the shape that it has.
fn open_as_is(spec: &str, options: &Options) -> Result<Box<dyn Dataset>> {
    if let Some((degrees, of)) = spec.strip_prefix("rotate:").and_then(|rest| rest.split_once('=')) {
        let mut options = options.clone();
        if let (Some([_, h, w]), "90" | "270") = (options.shape.as_deref_mut(), degrees) {
            std::mem::swap(h, w);
        }
        return Ok(Box::new(Rotated::new(open_as_is(of, &options)?, degrees)?));
    }
    let Some((name, split, dir)) = named(spec) else { return open_path(spec, options) };
    let split = split?;
    let images = match (name, dir.map(Path::new)) {
        ("digits", None) => digits::open(split)?,
        ("digits" | "mnist" | "fashion-mnist", Some(dir)) => idx::open(dir, split, name)?,
        ("cifar10", Some(dir)) => cifar::open(dir, split)?,
        ("mnist" | "fashion-mnist" | "cifar10", None) => hub::open(name, split)?,
        (_, Some(_)) => bail!("{name} is computed, not read from a folder; write `{name}` alone"),
        (noise, None) if noise.starts_with("noise:") => {
            return Ok(Box::new(Noise::named(noise, options.shape.as_deref(), split == Split::Test)?));
        }
        _ => return Ok(Box::new(toy::Toy::named(name.trim_start_matches("toy:"), split == Split::Test)?)),
    };
    Ok(Box::new(images.with_class_names(classes::of(name))))
}

/// The part of what `spec` names that is held out, as a spec; `None` where there is none, or `spec` is not of the rest.
pub fn held_out(spec: &str) -> Option<String> {
    if let Some((degrees, of)) = spec.strip_prefix("rotate:").and_then(|rest| rest.split_once('=')) {
        return Some(format!("rotate:{degrees}={}", held_out(of)?));
    }
    match named(spec)? {
        (name, Ok(Split::Train), None) => Some(format!("{name}:test")),
        (name, Ok(Split::Train), Some(dir)) => Some(format!("{name}:test={dir}")),
        _ => None,
    }
}

/// The names of the classes of the published data set that `spec` names, in the order of their labels.
pub fn class_names(spec: &str) -> Option<Vec<String>> {
    if let Some((_, of)) = spec.strip_prefix("rotate:").and_then(|rest| rest.split_once('=')) {
        return class_names(of);
    }
    let (name, _, _) = named(spec)?;
    (name == "digits" || has_files(name)).then(|| classes::of(name))
}

/// The path in `spec`, if data are read from one: a folder, a file, the DIR of NAME=DIR, that of what is rotated.
pub fn path(spec: &str) -> Option<&str> {
    if let Some((_, of)) = spec.strip_prefix("rotate:").and_then(|rest| rest.split_once('=')) {
        return path(of);
    }
    match named(spec) {
        Some((_, _, dir)) => dir,
        None => Some(spec).filter(|spec| {
            let path = Path::new(spec);
            path.exists() || path.components().count() > 1 || path.extension().is_some()
        }),
    }
}

/// `spec` as it names the same data in every working directory: its path, if it has one, is made absolute.
pub fn absolute(spec: &str) -> Result<String> {
    let Some(path) = path(spec) else { return Ok(spec.into()) };
    let before = &spec[..spec.len() - path.len()];
    let whole: PathBuf = match std::path::absolute(path) {
        Ok(whole) => whole.components().collect(), // without a slash at the end
        Err(e) => bail!("the path {path} cannot be made absolute: {e}"),
    };
    match whole.to_str() {
        Some(whole) => Ok(format!("{before}{whole}")),
        None => bail!("the path {} is not text; rename the folders in it that are not", whole.display()),
    }
}

/// Whether `size` of [`Options`] means something for `spec`: it is a folder of images, or there is nothing of that name.
pub fn takes_size(spec: &str) -> bool {
    let of = unturned(spec);
    named(of).is_none() && (Path::new(of).is_dir() || !Path::new(of).exists())
}

/// The name of a dataset that `spec` is of, if a folder is called so, too.
pub fn is_also_folder(spec: &str) -> Option<&str> {
    let of = unturned(spec);
    (is_named(of) && Path::new(of).is_dir()).then_some(of)
}

/// SPEC of `rotate:90=SPEC`.
fn unturned(spec: &str) -> &str {
    spec.strip_prefix("rotate:").and_then(|rest| rest.split_once('=')).map_or(spec, |(_, of)| of)
}

/// NAME, the split and DIR of `NAME[:SPLIT][=DIR]`, if that is what `spec` is.
fn named(spec: &str) -> Option<(&str, Result<Split>, Option<&str>)> {
    let of = |named, dir| {
        let (name, split) = split_of(named).ok().filter(|(name, _)| is_named(name))?;
        Some((name, split, dir))
    };
    spec.split_once('=').and_then(|(name, dir)| of(name, Some(dir))).or_else(|| of(spec, None))
}

/// Whether the dataset `name` can be read from a folder of its files, as NAME=DIR.
pub fn has_files(name: &str) -> bool {
    ["mnist", "fashion-mnist", "cifar10"].contains(&name)
}

fn is_named(name: &str) -> bool {
    ALL.iter().any(|(known, _)| *known == name)
}

/// NAME and the split in `NAME[:SPLIT]`. The outer error is for what cannot be a name at all.
#[allow(clippy::type_complexity)]
fn split_of(named: &str) -> std::result::Result<(&str, Result<Split>), ()> {
    if is_named(named) {
        return Ok((named, Ok(Split::Train)));
    }
    let (name, split) = named.rsplit_once(':').ok_or(())?;
    let wrong = || candle_core::Error::Msg(format!("{name} has no split `{split}`; use {name}:train or {name}:test"));
    Ok((
        name,
        match split {
            "train" => Ok(Split::Train),
            "test" => Ok(Split::Test),
            _ => Err(wrong()),
        },
    ))
}

/// A file or folder by its path; what is none is taken for a misspelt name.
fn open_path(spec: &str, options: &Options) -> Result<Box<dyn Dataset>> {
    let path = Path::new(spec);
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_lowercase();
    if path.is_dir() {
        return Ok(Box::new(folder::open(path, options)?));
    }
    match ending.as_str() {
        "npz" => return npz::open(path, &options.scaling),
        "csv" => return Ok(Box::new(table::open(path, &options.scaling, options.header)?)),
        "png" | "jpg" | "jpeg" | "gif" | "bmp" | "webp" if path.exists() => {
            bail!("{spec} is one image; give the folder that it is in")
        }
        _ if path.exists() => {
            bail!("{spec} is a file of no kind that can be read; give {OTHERS}")
        }
        _ => {}
    }
    if let Some((name, _)) = spec.split_once('=') {
        bail!("`{name}` in {spec:?} is no dataset that is read from a folder; use mnist, fashion-mnist or cifar10");
    }
    if !["toy:", "noise:"].iter().any(|kind| spec.starts_with(kind))
        && (spec.contains(['/', '\\']) || !ending.is_empty())
    {
        bail!("{spec} does not exist; check the path, or give {OTHERS}, or one of: {}", names());
    }
    let hint = nearest(spec).map(|name| format!(" did you mean {name}?")).unwrap_or_default();
    bail!("no dataset, file or folder is called {spec:?};{hint} the names are {}; or give {OTHERS}", names())
}

fn names() -> String {
    ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// The known name closest to a misspelt one, if any is close.
fn nearest(spec: &str) -> Option<&'static str> {
    let spec: String = spec.to_lowercase().chars().filter(|c| !matches!(c, '-' | '_' | ' ')).take(40).collect();
    let plain = |name: &str| name.trim_start_matches("toy:").replace('-', "");
    let written = spec.trim_start_matches("toy:").split(':').next().unwrap_or("").to_string();
    let (distance, name) = ALL.iter().map(|(name, _)| (edits(&written, &plain(name)), *name)).min()?;
    (distance <= 1 + written.len() / 4).then_some(name)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, &b) in b.iter().enumerate() {
            let best = (corner + usize::from(a != b)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], best);
        }
    }
    row[b.len()]
}
