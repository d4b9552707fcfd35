//! `langevin inpaint`: pictures given a part of them, or what a blur, a smaller size or grey have left.

use super::table;
use crate::guiding::Guiding;
use crate::machine::Machine;
use crate::stop;
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use clap::Parser;
use langevin::config::idle;
use langevin::data::Kind;
use langevin::dynamics::inverse::{AnyMethod, MaskName, Operator};
use langevin::error::{Usage, usage};
use langevin::inverse::{Given, advice, in_range, mask_in, measured, methods, operator};
use langevin::models::ModelSpec;
use langevin::open::{self, AnyOpened, Opened};
use langevin::output::{self, Grid};
use langevin::sample::{Drawn, One, fitting, image, told};
use langevin::watch::Progress;
use langevin::{classes, scoring};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Fill in the hidden part of pictures; enlarge, sharpen or colour them
#[derive(Parser)]
#[command(after_long_help = "\
MASK is wide, narrow, super-resolve, lines, half, expand, or an image file: white (a grey level of 128 or more) where \
the picture is to be filled in; black or transparent where it is known. In a file whose visible part has one colour, \
such as a layer with strokes of a brush, alpha is the mask: opaque (128 or more) is filled in. A mask of another size is \
cropped and scaled like the picture, and a pixel is filled in if half of what it covers is.

Methods, best for exact samples first: mcmc (on the posterior energy), repaint, dps, replace; see langevin list methods, \
and change their options with METHOD.KEY=VALUE.

The picture has a row for each method (with --data, for each image, and a column for each method): the input, what was \
measured of it, the samples. With --table it is PSNR and SSIM of the samples, with standard errors, for every mask and \
method: of whole pictures, the known pixels among them, so that a small mask gives high figures.

Examples:
  langevin inpaint runs/digits --input seven.png --mask half -n 8
  langevin inpaint runs/digits --input seven.png --mask hole.png \\
      --method repaint,mcmc repaint.jump=10 repaint.resample=10
  langevin inpaint runs/digits --input seven.png --task superres=2 \\
      --method mcmc mcmc.steps_per_level=5
  langevin inpaint runs/digits --input blurred.png --measured --task deblur=1.0 --noise 0.05 \\
      --method dps,mcmc
  langevin inpaint google/ddpm-cifar10-32 --input frog.png --task colour --method dps
  langevin inpaint runs/digits --data digits:test -n 6 --mask wide
  langevin inpaint runs/digits --data digits:test -n 32 --table --method replace,repaint,mcmc")]
#[command(group = clap::ArgGroup::new("pictures").args(["input", "data"]).required(true))]
pub struct Inpaint {
    /// A run folder, RUN@STEP, a weights file, a folder of diffusers, OWNER/NAME of the Hub, or exact:NAME
    pub model: String,
    /// Changes: sampler.steps (noise levels, 100), sampler.grid, METHOD.KEY such as repaint.jump=10
    #[arg(value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    /// The picture, read as the images of a folder are: turned upright, transparency over white, cropped and scaled
    #[arg(long, value_name = "IMAGE")]
    pub input: Option<PathBuf>,
    /// Turn dark and light of the picture over: ink on white paper for a model of white on black
    #[arg(long, requires = "input")]
    pub invert: bool,
    /// Pictures of a data set in its place: the first N of it, cropped and scaled if they have another size
    #[arg(long, value_name = "SPEC", conflicts_with = "measured")]
    pub data: Option<String>,
    /// What is hidden: a mask's name, or an image that is white there (see below)
    #[arg(long, value_name = "MASK", conflicts_with = "task")]
    pub mask: Option<String>,
    /// Another measurement: superres=FACTOR, deblur=PIXELS, colour (see langevin list tasks)
    #[arg(long, value_name = "TASK[=VALUE]")]
    pub task: Option<String>,
    /// The picture is what was measured (small, blurred, grey), not what is to be measured
    #[arg(long, requires = "task")]
    pub measured: bool,
    /// Standard deviation of the noise of the measurement, where black to white is 2
    #[arg(long, value_name = "S", default_value_t = 0.)]
    pub noise: f64,
    /// How samples are drawn given the measurement: some of replace, repaint, dps, mcmc
    /// [default: repaint, or mcmc after a blur; with --data all that can]
    #[arg(long, value_delimiter = ',')]
    pub method: Vec<String>,
    /// Samples, with the seeds 0 to N-1; with --data, images [default: 8]
    #[arg(short = 'n', value_name = "N", default_value_t = 8)]
    pub number: usize,
    /// Print a table of PSNR and SSIM instead of a picture: over the six masks, unless --mask or --task says which
    #[arg(long, requires = "data")]
    pub table: bool,
    /// Samples at a time
    #[arg(long, default_value_t = 64)]
    pub batch: usize,
    /// Where the picture goes [default: inpaint.png]
    #[arg(long, value_name = "FILE.png")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub guiding: Guiding,
    #[command(flatten)]
    pub machine: Machine,
}

/// Images of a data set with what is known of them.
pub(super) struct Pictures {
    /// `[N, C, H, W]` in [-1, 1].
    pub x: Tensor,
    pub labels: Option<Vec<u32>>,
}

/// Carries out `langevin inpaint`.
pub fn run(args: &Inpaint) -> Result<()> {
    let device = args.machine.open()?;
    if args.number == 0 || args.number > 10_000 || args.batch == 0 {
        return usage("-n and --batch: give at least 1, and -n at most 10000");
    }
    let out = args.out.clone().unwrap_or("inpaint.png".into());
    if args.table && args.out.is_some() {
        return usage(Usage::of("out", "--table prints figures and makes no picture; leave out one of them"));
    }
    if !args.table {
        output::writable_as(&out, &["png"])?;
    }
    let opened = match open::open_any(&args.model, &device)? {
        AnyOpened::Denoising(opened) => opened,
        AnyOpened::Density(opened) => return super::clamped::run(args, &opened, &out),
    };
    if opened.kind() != Kind::Image {
        return usage("inpaint: this model is not one of images; for tables there is langevin impute");
    }
    let spec = &opened.model.spec;
    let tasks = tasks(args, &spec.shape)?;
    let suited = |name: &str| tasks.iter().all(|(_, a)| a.gram().is_some()) || ["dps", "mcmc"].contains(&name);
    let names: Vec<String> = match (args.method.as_slice(), &args.data) {
        ([], None) => vec![if suited("repaint") { "repaint" } else { "mcmc" }.into()],
        ([], Some(_)) => AnyMethod::ALL.iter().map(|(name, _)| name.to_string()).filter(|name| suited(name)).collect(),
        (names, _) => names.to_vec(),
    };
    if let Some(name) = names.iter().find(|name| AnyMethod::named(name).is_ok() && !suited(name)) {
        return usage(
            Usage::of("method", "a blur has no inverse to put its measurement in place by; use dps or mcmc")
                .value(name),
        );
    }
    let (methods, changes) = methods(&names, &args.changes)?;
    let guide = args.guiding.asked()?.open(&opened, &device)?;
    let given = Given::new(&opened.model, opened.run.as_ref(), guide, &changes)?;
    if args.measured && tasks.iter().any(|(name, _)| MaskName::ALL.iter().any(|mask| mask.name() == name)) {
        return usage(Usage::of("measured", "of a part of a picture, that is the picture itself; leave it out"));
    }
    let _hold = stop::hold();
    if let Some(data) = &args.data {
        let pictures = pictures(args, data, &opened)?;
        let labels = labels(args, &opened, pictures.labels.as_deref(), pictures.x.dim(0)?)?;
        if args.table {
            return table::print(args, &given, &methods, &tasks, (&pictures.x, labels.as_deref()));
        }
        return rows_of_images(args, (&opened, &given), &methods, &tasks[0].1, (&pictures.x, labels.as_deref()), &out);
    }
    let labels = labels(args, &opened, None, args.number)?;
    rows_of_methods(args, (&opened, &given), &methods, &tasks[0].1, labels.as_deref(), &out)
}

/// A row for each method: the picture, what was measured of it, and the samples.
fn rows_of_methods(
    args: &Inpaint,
    (opened, given): (&Opened, &Given),
    methods: &[AnyMethod],
    operator: &Arc<dyn Operator>,
    labels: Option<&[u32]>,
    out: &Path,
) -> Result<()> {
    let spec = &given.model.spec;
    let path = args.input.as_deref().context("no --input")?;
    let input = |shape: &[usize]| fitting(opened.learnt(), ("input", path), image(path, shape)?, args.invert);
    let mut dims = vec![1];
    dims.extend_from_slice(&spec.shape);
    let (first, seen) = if args.measured {
        let shape = operator.apply(&Tensor::zeros(dims, DType::F32, &Device::Cpu)?)?.dims()[1..].to_vec();
        let y = spec.ranged(&input(&shape)?)?;
        (None, langevin::inverse::of(operator.clone(), y, in_range(spec, args.noise))?)
    } else {
        let x0 = input(&spec.shape)?;
        let seen = measured(operator, spec, &x0, args.noise, &[0])?;
        (Some(x0), seen)
    };
    let mut heads: Vec<Tensor> = first.into_iter().collect();
    heads.push(spec.unranged(&operator.show(seen.y())?)?);
    let (n, columns) = (args.number, heads.len() + args.number);
    let mut sheet = Sheet::new([columns, methods.len()], spec)?;
    let steps = methods.iter().map(|method| given.steps(method.get(), &seen)).sum::<Result<u64>>()?;
    let mut progress = Progress::new(steps * n.div_ceil(args.batch) as u64, "steps");
    for (row, method) in methods.iter().enumerate() {
        heads.iter().enumerate().try_for_each(|(i, head)| sheet.put(head, |_| row * columns + i))?;
        let one = |places: Range<usize>| {
            let seeds: Vec<u64> = places.clone().map(|i| i as u64).collect();
            let labels = labels.map(|labels| &labels[places]);
            Ok(One::of(given.draw(method, &seen, (&seeds, labels), &mut progress)?.to_dtype(DType::F32)?))
        };
        sheet.take((n, args.batch), method, one, |i| row * columns + heads.len() + i);
    }
    progress.done();
    say_rows(methods, n)?;
    sheet.write(args, opened, out)
}

/// Which row is which: the picture cannot say.
fn say_rows(methods: &[AnyMethod], samples: usize) -> Result<()> {
    methods.iter().enumerate().try_for_each(|(i, method)| {
        crate::say!("row {}: the picture, what was measured, {samples} samples by {}", i + 1, method.name())
    })
}

/// A row for each image: the image, what was measured of it, and a sample by each method.
fn rows_of_images(
    args: &Inpaint,
    (opened, given): (&Opened, &Given),
    methods: &[AnyMethod],
    operator: &Arc<dyn Operator>,
    (x, labels): (&Tensor, Option<&[u32]>),
    out: &Path,
) -> Result<()> {
    let (n, spec, columns) = (x.dim(0)?, &given.model.spec, 2 + methods.len());
    let seen = measured(operator, spec, x, args.noise, &(0..n as u64).collect::<Vec<_>>())?;
    let mut sheet = Sheet::new([columns, n], spec)?;
    sheet.put(x, |i| i * columns)?;
    sheet.put(&spec.unranged(&operator.show(seen.y())?)?, |i| i * columns + 1)?;
    let steps = methods.iter().map(|method| given.steps(method.get(), &seen)).sum::<Result<u64>>()?;
    let mut progress = Progress::new(steps * n.div_ceil(args.batch) as u64, "steps");
    for (m, method) in methods.iter().enumerate() {
        let one = |places| complete(args, given, method, operator, (x, labels), places, &mut progress);
        sheet.take((n, args.batch), method, one, |i| i * columns + 2 + m);
    }
    progress.done();
    let names: Vec<_> = methods.iter().map(AnyMethod::name).collect();
    crate::say!("columns: the image, what was measured, {}", names.join(", "))?;
    sheet.write(args, opened, out)
}

/// A sample for each of some images of `x` `[N, C, H, W]`, measured each for itself.
pub(super) fn complete(
    args: &Inpaint,
    given: &Given,
    method: &AnyMethod,
    operator: &Arc<dyn Operator>,
    (x, labels): (&Tensor, Option<&[u32]>),
    places: Range<usize>,
    progress: &mut Progress,
) -> Result<One> {
    let seeds: Vec<u64> = places.clone().map(|i| i as u64).collect();
    let x = x.narrow(0, places.start, places.len())?;
    let seen = measured(operator, &given.model.spec, &x, args.noise, &seeds)?;
    let labels = labels.map(|labels| &labels[places]);
    Ok(One::of(given.draw(method, &seen, (&seeds, labels), progress)?.to_dtype(DType::F32)?))
}

/// The picture, filled while samples are drawn.
struct Sheet {
    grid: Grid,
    drawn: usize,
    /// Why the first of the samples that are missing are.
    missing: Option<anyhow::Error>,
}

impl Sheet {
    fn new([columns, rows]: [usize; 2], spec: &ModelSpec) -> Result<Self> {
        let [_, h, w] = spec.shape[..] else { return usage("inpaint: this model is not one of images") };
        Ok(Self { grid: Grid::new(columns * rows, [w, h], Some(columns))?, drawn: 0, missing: None })
    }

    /// Puts the `i`th of some pictures at `place(i)`.
    fn put(&mut self, x: &Tensor, place: impl Fn(usize) -> usize) -> Result<()> {
        for (i, picture) in output::pictures(x)?.iter().enumerate() {
            self.grid.put(place(i), picture);
        }
        Ok(())
    }

    /// Draws `n` samples by `one`, the `i`th for `place(i)`; none after the program was asked to stop.
    fn take(
        &mut self,
        (n, batch): (usize, usize),
        method: &AnyMethod,
        one: impl FnMut(Range<usize>) -> Result<One>,
        place: impl Fn(usize) -> usize,
    ) {
        if stop::asked().is_some() {
            return;
        }
        let drawn = Drawn::by(n, (batch, false), one, &mut |batch| {
            self.drawn += batch.places.len();
            self.put(&batch.x, |i| place(batch.places[i]))
        });
        let seeds: Vec<u64> = (0..n as u64).collect();
        let whole = drawn.whole(Some(&seeds), true, &advice(method));
        self.missing = self.missing.take().or(whole.err());
    }

    /// Writes the picture, if there are samples in it; then says which are missing, if some are.
    fn write(self, args: &Inpaint, opened: &Opened, out: &Path) -> Result<()> {
        if self.drawn > 0 {
            let task = args.task.clone().or(args.mask.clone()).unwrap_or_default();
            let notes = [("langevin.model", opened.what.clone()), ("langevin.task", task)];
            output::save_png(out, &self.grid.finish(), &notes)?;
            crate::say!("{}", out.display())?;
        }
        self.missing.map_or(Ok(()), Err)
    }
}

/// What is measured, with its name: what --mask or --task say, or for a table every mask.
pub(super) fn tasks(args: &Inpaint, shape: &[usize]) -> Result<Vec<(String, Arc<dyn Operator>)>> {
    let text = match (&args.mask, &args.task) {
        (Some(mask), _) if MaskName::ALL.iter().any(|name| name.name() == mask) => format!("inpaint={mask}"),
        (Some(mask), _) => return Ok(vec![(mask.clone(), mask_in(Path::new(mask), shape)?)]),
        (None, Some(task)) => task.clone(),
        (None, None) if args.table => {
            let one =
                |mask: MaskName| Ok((mask.name().to_string(), operator(&format!("inpaint={}", mask.name()), shape)?));
            return MaskName::ALL.map(one).into_iter().collect();
        }
        (None, None) => return usage("say what was measured: --mask half, --mask FILE, or --task superres=2"),
    };
    Ok(vec![(text.trim_start_matches("inpaint=").to_string(), operator(&text, shape)?)])
}

/// The first images of a data set in the shape that the model takes.
fn pictures(args: &Inpaint, name: &str, opened: &Opened) -> Result<Pictures> {
    idle::ambiguous("data", name)?;
    let (_, pictures) = scoring::open_some(opened, name, "data", |data| {
        let idx: Vec<usize> = (0..args.number.min(data.len())).collect();
        let labels = match &args.guiding.class {
            None => classes::labels(opened, data.as_ref(), &idx, &format!("--data {name}"))?,
            Some(_) => None,
        };
        Ok(Pictures { x: data.get(&idx)?.x, labels })
    })?;
    Ok(pictures)
}

/// What the model is told of `n` images: the class of --class, that of the image, or none.
fn labels(args: &Inpaint, opened: &Opened, known: Option<&[u32]>, n: usize) -> Result<Option<Vec<u32>>> {
    let spec = &opened.model.spec;
    match (spec.classes, &args.guiding.class, known) {
        (Some(_), None, Some(known)) => Ok(Some(known.to_vec())),
        (_, class, _) => Ok(told(opened, class.as_deref())?.map(|label| vec![label; n])),
    }
}
