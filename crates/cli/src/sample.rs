//! `langevin sample`: pictures, arrays and tables drawn from a model, or from several at once.

use crate::guiding::Guiding;
use crate::levels;
use crate::machine::Machine;
use anyhow::Result;
use clap::Parser;
use langevin::compose::Composing;
use langevin::error::{Usage, usage};
use langevin::open::{self, AnyOpened, Opened};
use langevin::sample::{BATCH, Files, Keep, Outputs, Source, Walked, walked};
use langevin::{output, watch};
use std::path::PathBuf;

/// Pictures of a path from one seed to another without -n.
const BETWEEN: usize = 10;
/// More samples are a slip of the finger.
const MOST: u64 = 10_000_000;

/// Draw samples from a model
#[derive(Parser)]
#[command(after_long_help = "\
MODEL is a run folder, RUN@STEP for its snapshot at that step, a weights file, a folder of diffusers, or \
OWNER/NAME[@REVISION] of the Hugging Face Hub, or exact:8-gaussians and the like (`langevin list models`). A model of \
diffusers is sampled by its own scheduler, whose sampler.steps, sampler.clip and options can be changed, unless \
sampler.name names a sampler of ours.

A sample depends on its seed alone, not on the other samples. The exceptions are sampler.name=smc, whose samples are a \
population, sampler.norms=batch of pc, and a ScoreSdeVeScheduler with noise=torch: there the samples of a batch share the \
sizes of their steps, as in diffusers; without noise=torch each has its own.

Examples:
  langevin sample runs/digits -n 64 --out digits.png
  langevin sample runs/digits --seeds 7,100-115 sampler.name=ddim sampler.steps=50
  langevin sample runs/digits -n 16 --gif path.gif        the way from noise to digits
  langevin sample runs/moons --gif path.gif --frames 20 --size 360
  langevin sample runs/digits -n 10000 --npz samples.npz --batch 256
  langevin sample runs/digits --from mine.png --strength 0.5 -n 8
  langevin sample runs/digits --from ink.png --invert     ink on paper, for white digits on black
  langevin sample runs/digits --interpolate 3,8 -n 10
  # acceptance, ESS and R-hat by noise level
  langevin sample runs/digits sampler.name=annealed-mcmc sampler.kernel=hmc --report
  langevin sample runs/digits sampler.name=pc sampler.corrector=mala --report=levels.json
  # what is both
  langevin sample --let a=runs/classes,class=3 --let b=runs/classes,class=8 \\
      --compose 'a & b' -n 16
  langevin sample --let a=runs/moons --let b=runs/rings --compose '2*a & !b' sampler.name=smc \\
      --report
  # half of each
  langevin sample --let a=runs/moons --let b=runs/rings --compose 'a | (b & 0.5*a)' \\
      --estimate-ratios
  # away from the data without a class
  langevin sample runs/classes --class 3 --guidance 2 --guidance-interval 0.2,5
  # away from what it was early in training
  langevin sample runs/digits --guidance 2 --guide runs/digits@1000
  langevin sample google/ddpm-cifar10-32 sampler.name=dpmpp-2m sampler.steps=20
  # as diffusers' DDIM
  langevin sample google/ddpm-cifar10-32 --scheduler DDIMScheduler sampler.steps=50
  # the pictures that diffusers draws
  langevin sample google/ddpm-cifar10-32 --seeds 0-3 noise=torch")]
pub struct Sample {
    /// A run folder, RUN@STEP, a weights file, a folder of diffusers, OWNER/NAME of the Hub, or exact:NAME
    #[arg(required_unless_present_any = ["compose", "models"])]
    pub model: Option<String>,
    /// Changes of the sampler, such as sampler.steps=50, in any order
    #[arg(value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    /// Number of samples, with the seeds 0 to N-1 [default: 64]
    #[arg(short = 'n', value_name = "N", conflicts_with = "seeds")]
    pub number: Option<usize>,
    /// Seeds of the samples, as 0-63 or 1,5,7-9: sample n depends on seed n alone
    #[arg(long)]
    pub seeds: Option<String>,
    #[command(flatten)]
    pub guiding: Guiding,
    /// Samples at a time [default: 64, but all of them where points or rows are one population, as of smc]
    #[arg(long)]
    pub batch: Option<usize>,
    /// Write one picture, a grid of all samples [default: samples.png, when nothing else is asked for]
    #[arg(long, value_name = "FILE.png")]
    pub out: Option<PathBuf>,
    /// Write each sample as DIR/SEED.png
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Write all samples as arrays: arr_0 u8 [N, H, W, C], arr_1 labels (arr_0 [N, D] for points and tables, in the units of
    /// the table, f32 or, where that lacks the digits of a column, f64)
    #[arg(long, value_name = "FILE.npz")]
    pub npz: Option<PathBuf>,
    /// Write the path from noise to samples as an animation
    #[arg(long, value_name = "FILE.gif")]
    pub gif: Option<PathBuf>,
    /// Frames of --gif at most, one a step [default: 60]
    #[arg(long, value_name = "N", requires = "gif")]
    pub frames: Option<usize>,
    /// Pixels a side of the pictures of points, of --out and --gif; the energy is evaluated at every fourth [default: 720]
    #[arg(long, value_name = "PIXELS")]
    pub size: Option<u32>,
    /// Start from this image with noise added, instead of from noise alone; it is read as the images of a folder are
    #[arg(long, value_name = "IMAGE")]
    pub from: Option<PathBuf>,
    /// How much of the way to noise the image of --from is sent, above 0, at most 1
    #[arg(long, default_value_t = 0.5, requires = "from")]
    pub strength: f64,
    /// Carry the image of --from back along the ODE (encode) instead of adding noise
    #[arg(long, requires = "from")]
    pub encode: bool,
    /// Turn dark and light of the image of --from over: ink on white paper for a model of white on black
    #[arg(long, requires = "from")]
    pub invert: bool,
    /// A model of a composition, by a name of your own; with ,class=CLASS, a name or a number, for a class-conditional one
    #[arg(long = "let", value_name = "NAME=MODEL[,class=CLASS]", requires = "compose")]
    pub models: Vec<String>,
    /// Draw from several models at once: a & b is the product of densities, 2*a a power, !a its inverse, a | b a mixture
    /// (of normalised energies, with ratios as in a | 0.5:b, or with --estimate-ratios), ( ) for the rest; models of other
    /// processes are taken as of that of the first
    #[arg(long, value_name = "EXPRESSION", requires = "models", conflicts_with_all = ["class", "guidance", "guidance_interval", "guide", "gif", "from", "strength", "encode", "invert", "scheduler", "interpolate"])]
    pub compose: Option<String>,
    /// Estimate how much of each part of a mixture there is, by annealed particles [default: 128 of them, in 8 runs]; ratios
    /// such as 0.5:b are then those of densities
    #[arg(long, value_name = "PARTICLES", num_args = 0..=1, require_equals = true, requires = "compose")]
    pub estimate_ratios: Option<Option<usize>>,
    /// What the energy of a composition is divided by [default: 1]
    #[arg(long, value_name = "T", requires = "compose")]
    pub temperature: Option<f64>,
    /// Show what MCMC did at each noise level, for a sampler with MCMC steps; with =FILE.json write it there too
    #[arg(long, value_name = "FILE.json", num_args = 0..=1, require_equals = true)]
    pub report: Option<Option<PathBuf>>,
    /// Another scheduler for a model of diffusers: a class such as DDIMScheduler, with the keys of its own, or a scheduler_config.json
    #[arg(long, value_name = "CLASS|FILE")]
    pub scheduler: Option<String>,
    /// Samples between the noises of two seeds, on the great circle
    #[arg(long, value_name = "A,B", conflicts_with_all = ["seeds", "from"])]
    pub interpolate: Option<String>,
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin sample`.
pub fn run(args: &Sample) -> Result<()> {
    let device = args.machine.open()?;
    let (seeds, outputs) = (seeds(args)?, args.outputs());
    if args.batch == Some(0) {
        return usage(Usage::of("batch", "give at least 1").value(0));
    }
    outputs.writable()?;
    args.report.iter().flatten().try_for_each(|path| output::writable(path))?;
    if let Some(expression) = &args.compose {
        let mut composition = args.composing(expression, seeds)?.prepared(&device)?;
        return write(args, &outputs, &mut composition);
    }
    let Some(name) = &args.model else { return usage("give a MODEL; see langevin sample --help") };
    match open::open_any_as(name, args.scheduler.as_deref(), &device)? {
        AnyOpened::Denoising(opened) => {
            outputs.suit(opened.kind())?;
            write(args, &outputs, &mut args.sampling(&opened, seeds)?.prepared()?)
        }
        AnyOpened::Density(opened) => {
            args.of_density()?;
            write(args, &outputs, &mut opened.sample(seeds, &args.changes, args.batch)?)
        }
    }
}

/// Draws the samples, and writes them as they come.
fn write(args: &Sample, outputs: &Outputs, source: &mut dyn Source) -> Result<()> {
    let what = source.what()?;
    outputs.suit(what.kind)?;
    if args.report.is_some() {
        source.reports()?;
    }
    let seeds = source.seeds().to_vec();
    let mut files = Files::create(outputs, &what, seeds.len())?;
    source.ready()?;
    let _hold = watch::current().hold();
    let keep = Keep { frames: files.frames(), traced: args.report.is_some() };
    let mut drawn = source.draw(keep, &mut |batch| files.add(batch, &seeds))?;
    let mut notes = source.notes(drawn.done)?;
    if let (Some(typed), true) = (&args.seeds, drawn.done == seeds.len()) {
        notes.iter_mut().filter(|(key, _)| *key == "langevin.seeds").for_each(|(_, seeds)| seeds.clone_from(typed));
    }
    let picture = |t, x: &_, view| source.picture(t, x, view);
    files.finish(&picture, &notes, &mut |path| crate::say!("{}", path.display()))?;
    mcmc(args, drawn.report.take().as_ref())?;
    source.whole(drawn, true)
}

impl Sample {
    fn outputs(&self) -> Outputs {
        let Self { out, images, npz, gif, frames, size, .. } = self;
        let [out, images, npz, gif] = [out, images, npz, gif].map(Clone::clone);
        Outputs { out, images, npz, gif, frames: *frames, size: *size }
    }

    fn sampling<'a>(&self, opened: &'a Opened, seeds: Vec<u64>) -> Result<langevin::sample::Sampling<'a>> {
        let sampling = opened.sample().seeds(seeds).changes(&self.changes).scheduler(self.scheduler.as_deref());
        let sampling = sampling.guiding(self.guiding.asked()?).batch(self.batch);
        Ok(match (&self.from, &self.interpolate) {
            (Some(path), _) => sampling.from_image(path, self.strength, (self.encode, self.invert)),
            (None, Some(between)) => sampling.between(between),
            (None, None) => sampling,
        })
    }

    /// Errors if an option was typed that means nothing for a density of a family.
    fn of_density(&self) -> Result<()> {
        let idle = [
            ("from", self.from.is_some()),
            ("interpolate", self.interpolate.is_some()),
            ("gif", self.gif.is_some()),
            ("size", self.size.is_some()),
        ];
        match idle.iter().find(|(_, typed)| *typed) {
            Some((option, _)) => {
                let why =
                    "a density of a family has no way from noise to data, and is drawn from by chains; leave it out";
                usage(Usage::of(option, why))
            }
            None => self.guiding.of_density(),
        }
    }

    fn composing(&self, expression: &str, seeds: Vec<u64>) -> Result<Composing> {
        let first = match &self.model {
            Some(model) if !model.contains('=') => {
                return usage(format!(
                    "{model}: the models of a composition are named by --let, such as --let a={model}"
                ));
            }
            first => first, // the first word is a change too
        };
        Ok(Composing {
            models: self.models.clone(),
            expression: expression.into(),
            temperature: self.temperature,
            estimate_ratios: self.estimate_ratios,
            changes: first.iter().chain(&self.changes).cloned().collect(),
            seeds,
            batch: self.batch,
        })
    }
}

/// The seeds that are asked for, in order.
fn seeds(args: &Sample) -> Result<Vec<u64>> {
    let number = args.number.unwrap_or(if args.interpolate.is_some() { BETWEEN } else { BATCH });
    if number == 0 || number as u64 > MOST {
        return usage(format!("-n {number}: give 1 to {MOST}"));
    }
    let Some(text) = &args.seeds else { return Ok((0..number as u64).collect()) };
    let wrong = |part: &str| {
        usage(Usage::of("seeds", format!("`{part}` is neither a seed nor a range such as 0-63")).value(text))
    };
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<u64>(), last.trim().parse::<u64>()) else {
            return wrong(part);
        };
        if last < first {
            return usage(Usage::of("seeds", format!("the range {part} goes backwards")).value(text));
        }
        if last - first >= MOST || all.len() as u64 + (last - first) >= MOST {
            return usage(Usage::of("seeds", format!("more than {MOST} samples")).value(text));
        }
        all.extend(first..=last);
    }
    Ok(all)
}

/// What MCMC did at each noise level, if it is asked for: the table, and JSON in a file. Where it failed is said anyway.
fn mcmc(args: &Sample, report: Option<&Walked>) -> Result<()> {
    let Some(report) = report else { return Ok(()) };
    walked::warn(report);
    let Some(file) = &args.report else { return Ok(()) };
    if let Some(path) = file {
        output::save(path, serde_json::to_string_pretty(&walked::json(report))?.as_bytes())?;
        crate::say!("{}", path.display())?;
    }
    levels::show(report)
}
