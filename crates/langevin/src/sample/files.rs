//! The files of a drawing: each batch of samples is written when it is drawn, and what was drawn is kept however that ends.

use super::{Batch, What};
use crate::error::{Stopped, Usage, usage};
use crate::output::gif::{Gif, sides};
use crate::output::rows::{Rows, cells, in_units, names};
use crate::output::{
    Grid, Npz, View, pictures, pictures_of, save_png, side, to_u8, writable, writable_as, writable_folder,
};
use crate::watch::{self, Progress};
use ::image::RgbImage;
use anyhow::{Result, bail};
use candle_core::{DType, Tensor};
use langevin_data::{Columns, Kind};
use std::path::{Path, PathBuf};

/// Frames of an animation without --frames, and with it at most.
const FRAMES: usize = 60;
const MOST_FRAMES: usize = 1000;
/// Bytes that the frames of an animation may take until it is written.
const MOST: u64 = 256_000_000;

/// Draws points `[N, 2]` at a time of the way (none: as clean data) over their energy.
pub type Picture<'a> = dyn Fn(Option<f64>, &Tensor, View) -> Result<RgbImage> + 'a;

/// Everything that is asked for, open.
pub struct Files {
    kind: Kind,
    columns: Option<Columns>,
    labels: Option<Vec<i64>>,
    /// Of pictures of points, in pixels.
    side: u32,
    grid: Option<(PathBuf, Grid)>,
    points: Option<(PathBuf, Vec<Tensor>)>,
    rows: Option<(PathBuf, Rows)>,
    images: Option<PathBuf>,
    /// Begun with the first batch.
    npz: Option<(PathBuf, Option<Npz>)>,
    gif: Option<(PathBuf, Frames)>,
    /// Samples that are asked for, and those that are written, with their labels.
    all: usize,
    count: usize,
    written: Vec<i64>,
}

/// The way of the samples, as it is kept until all of them are drawn.
struct Frames {
    most: usize,
    size: [usize; 2],
    /// The time of each and its samples, batch after batch: grey levels of images.
    kept: Vec<(f64, Vec<Tensor>)>,
}

/// Which files are asked for.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// One picture, a grid of all samples, or a CSV file of points and tables.
    pub out: Option<PathBuf>,
    /// A folder for a picture of each.
    pub images: Option<PathBuf>,
    /// All samples as arrays.
    pub npz: Option<PathBuf>,
    /// The path from noise to samples as an animation.
    pub gif: Option<PathBuf>,
    /// Frames of that at most.
    pub frames: Option<usize>,
    /// Pixels a side of pictures of points.
    pub size: Option<u32>,
}

impl Outputs {
    /// The samples as one file to look at, unless other files alone are asked for.
    fn shown(&self, kind: Kind) -> Option<PathBuf> {
        let others = self.images.is_some() || self.npz.is_some() || self.gif.is_some();
        let usual = || if kind == Kind::Table { "samples.csv" } else { "samples.png" };
        self.out.clone().or_else(|| (!others).then(|| usual().into()))
    }

    /// Errors unless each file can be written, and ends as what it is.
    pub fn writable(&self) -> Result<()> {
        let kinds: [(_, &[&str]); 3] = [(&self.out, &["png", "csv"]), (&self.npz, &["npz"]), (&self.gif, &["gif"])];
        kinds.iter().try_for_each(|(path, kinds)| path.iter().try_for_each(|path| writable_as(path, kinds)))
    }

    /// Errors if samples of this kind cannot be written as asked: before they are drawn, not after.
    pub fn suit(&self, kind: Kind) -> Result<()> {
        let ends = |ending: &str| self.out.as_ref().is_some_and(|out| out.extension().is_some_and(|e| e == ending));
        let wrong = |option: &str, value: &str, why: &str| {
            let usage = Usage::of(option, why);
            Err(if value.is_empty() { usage } else { usage.value(value) }.into())
        };
        match kind {
            Kind::Image if ends("csv") => wrong("out", "FILE.csv", "images are not a table; give a .png, or --npz"),
            Kind::Table if ends("png") => {
                wrong("out", "FILE.png", "rows of a table are no picture; give --out FILE.csv, or --npz")
            }
            Kind::Table if self.gif.is_some() => {
                wrong("gif", "", "rows of a table are no picture; give --out FILE.csv, or --npz")
            }
            Kind::Points | Kind::Table if self.images.is_some() => {
                wrong("images", "", "this model is not one of images; give --out, or --npz")
            }
            _ => Ok(()),
        }
    }
}

impl Files {
    /// For `n` samples. What cannot be written is an error now.
    pub fn create(args: &Outputs, what: &What, n: usize) -> Result<Self> {
        let (kind, shape, columns, labels) =
            (what.kind, what.shape.as_slice(), what.columns.clone(), what.labels.clone());
        let mut files = Self {
            kind,
            columns,
            labels,
            side: 0,
            grid: None,
            points: None,
            rows: None,
            images: args.images.clone(),
            npz: None,
            gif: None,
            all: n,
            count: 0,
            written: vec![],
        };
        files.side = side(args.size)?;
        if args.size.is_some() && !files.points_shown(args) {
            return usage(Usage::of("size", "it is for pictures of points, and none is asked for here; leave it out"));
        }
        let size = match shape {
            [_, height, width] => [*width, *height],
            _ => [0, 0],
        };
        if let Some(path) = args.shown(kind) {
            let csv = path.extension().is_some_and(|e| e == "csv");
            writable(&path)?; // the usual one is not checked before
            match kind {
                Kind::Image => files.grid = Some((path, Grid::new(n, size, None)?)),
                Kind::Points if !csv => files.points = Some((path, vec![])),
                _ => {
                    let rows = Rows::create(&path, &names(files.columns.as_ref(), shape[0]))?;
                    files.rows = Some((path, rows));
                }
            }
        }
        if let Some(path) = &args.gif {
            let most = args.frames.unwrap_or(FRAMES);
            if !(1..=MOST_FRAMES).contains(&most) {
                return usage(Usage::of("frames", format!("give 1 to {MOST_FRAMES}")).value(most));
            }
            files.gif = Some((path.clone(), Frames::new((path, most), (kind, shape, size), n)?));
        }
        if let Some(path) = &args.npz {
            writable(path)?;
            files.npz = Some((path.clone(), None));
        }
        args.images.as_deref().map_or(Ok(()), writable_folder)?;
        Ok(files)
    }

    /// Whether a picture of points is asked for.
    fn points_shown(&self, args: &Outputs) -> bool {
        let png = args.shown(self.kind).is_some_and(|path| path.extension().is_none_or(|e| e != "csv"));
        self.kind == Kind::Points && (png || args.gif.is_some())
    }

    /// How many frames of the way are wanted at most, if any are.
    pub fn frames(&self) -> Option<usize> {
        self.gif.as_ref().map(|(_, frames)| frames.most)
    }

    /// Writes a batch of the samples of `seeds`.
    pub fn add(&mut self, batch: Batch, seeds: &[u64]) -> Result<()> {
        let Batch { places, x, path: way } = batch;
        if let Some((path, npz)) = &mut self.npz {
            let x = array(self.kind, self.columns.as_ref(), &x)?;
            let npz = match npz {
                Some(npz) => npz,
                none => none.insert(Npz::create(path, x.dtype(), &x.dims()[1..], self.all)?),
            };
            npz.add(&x)?;
        }
        if let Some((_, rows)) = &mut self.rows {
            rows.add(cells(self.columns.as_ref(), &x)?)?;
        }
        if self.grid.is_some() || self.images.is_some() {
            for (picture, &place) in pictures(&x)?.iter().zip(&places) {
                if let Some(folder) = &self.images {
                    save_png(&folder.join(format!("{}.png", seeds[place])), picture, &[])?;
                }
                if let Some((_, grid)) = &mut self.grid {
                    grid.put(place, picture);
                }
            }
        }
        if let Some((_, frames)) = &mut self.gif {
            frames.add(self.kind, way)?;
        }
        if let Some((_, points)) = &mut self.points {
            points.push(x);
        }
        self.count += places.len();
        if let Some(labels) = &self.labels {
            self.written.extend(places.iter().map(|&place| labels[place]));
        }
        Ok(())
    }

    /// Puts the files in their places, each then `told`, `notes` in the picture; nothing if no samples were drawn.
    pub fn finish(
        self,
        picture: &Picture,
        notes: &[(&str, String)],
        told: &mut dyn FnMut(&Path) -> Result<()>,
    ) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        if let Some((path, grid)) = self.grid {
            save_png(&path, &grid.finish(), notes)?;
            told(&path)?;
        }
        if let Some((path, points)) = self.points {
            let x = Tensor::cat(&points, 0)?;
            save_png(&path, &picture(None, &x, View::around(&x, self.side)?)?, notes)?;
            told(&path)?;
        }
        if let Some((path, rows)) = self.rows {
            rows.finish()?;
            told(&path)?;
        }
        if let Some(folder) = self.images {
            told(&folder)?;
        }
        if let Some((path, Some(npz))) = self.npz {
            npz.finish(self.labels.is_some().then_some(self.written.as_slice()))?;
            told(&path)?;
        }
        if let Some((path, frames)) = self.gif {
            frames.write(&path, (self.kind, self.side), picture)?;
            told(&path)?;
        }
        Ok(())
    }
}

/// Samples as an array holds them: grey levels `[N, H, W, C]` of images, else numbers `[N, D]` in the units of a table.
fn array(kind: Kind, columns: Option<&Columns>, x: &Tensor) -> Result<Tensor> {
    if kind == Kind::Image { to_u8(x) } else { in_units(columns, x) }
}

impl Frames {
    fn new((path, most): (&Path, usize), (kind, shape, size): (Kind, &[usize], [usize; 2]), n: usize) -> Result<Self> {
        if kind == Kind::Image {
            sides(path, Grid::dimensions(n, size)?)?;
        }
        let width = if kind == Kind::Image { 1 } else { DType::F32.size_in_bytes() };
        let bytes = shape.iter().product::<usize>() as u64 * (n * width * most) as u64;
        if bytes > MOST {
            return usage(format!(
                "{}: {most} frames of {n} samples would take {} MB of memory; give fewer samples, or fewer --frames",
                path.display(),
                bytes / 1_000_000
            ));
        }
        Ok(Self { most, size, kept: vec![] })
    }

    fn add(&mut self, kind: Kind, path: Vec<(f64, Tensor)>) -> Result<()> {
        for (at, (t, x)) in path.into_iter().enumerate() {
            let x = if kind == Kind::Image { to_u8(&x)? } else { x };
            match self.kept.get_mut(at) {
                Some((_, parts)) => parts.push(x),
                None => self.kept.push((t, vec![x])),
            }
        }
        Ok(())
    }

    fn write(self, path: &Path, (kind, side): (Kind, u32), picture: &Picture) -> Result<()> {
        let Some((_, last)) = self.kept.last() else { bail!("cannot write {}: no frames", path.display()) };
        let last = Tensor::cat(last, 0)?;
        let view = if kind == Kind::Image { None } else { Some(View::around(&last, side)?) };
        let mut progress = Progress::new(self.kept.len() as u64, "frames");
        let mut gif: Option<Gif> = None;
        let before = watch::stops(); // of a drawing that was stopped the frames are written
        for (t, parts) in &self.kept {
            if !before && watch::stops() {
                let why = format!(
                    "stopped before all frames of {} were painted; the other files are written",
                    path.display()
                );
                return Err(Stopped(why).into());
            }
            let x = Tensor::cat(parts, 0)?;
            let frame = match view {
                Some(view) => picture(Some(*t), &x, view)?,
                None => self.grid(&x)?,
            };
            let gif = match &mut gif {
                Some(gif) => gif,
                none => none.insert(Gif::create(path, frame.dimensions(), self.kept.len())?),
            };
            gif.add(&frame)?;
            progress.step();
        }
        progress.done();
        gif.map_or(Ok(()), Gif::finish)
    }

    /// Grey levels `[N, H, W, C]` in rows.
    fn grid(&self, levels: &Tensor) -> Result<RgbImage> {
        let mut grid = Grid::new(levels.dim(0)?, self.size, None)?;
        for (place, picture) in pictures_of(levels)?.iter().enumerate() {
            grid.put(place, picture);
        }
        Ok(grid.finish())
    }
}
