//! `langevin look path`: the energy along an interpolation, and the hill between its ends.

use super::{Subject, at, denoiser};
use anyhow::Result;
use clap::Parser;
use langevin::data::Kind;
use langevin::dynamics::Denoiser;
use langevin::error::{Usage, usage};
use langevin::eval::look::path;
use langevin::output::{self, chart};
use langevin::sample::Start;
use langevin::watch::Progress;
use std::path::PathBuf;

/// Pictures of the path under its chart.
const STRIP: usize = 9;

/// The energy along a path between two samples, with its barrier
#[derive(Parser)]
#[command(after_long_help = "\
The ends are seeds of samples or image files. The path is the straight line between them; with --latent it is the \
samples drawn from the noises between those of two seeds. A model with a score alone gives the line integral of the \
score, with its error: a difference of energies along this path, not an energy.

Examples:
  langevin look path runs/digits --from 3 --to 8
  langevin look path runs/digits --from 3 --to 8 --latent --out latent.png
  langevin look path google/ddpm-cifar10-32 --from cat.png --to dog.png --points 129")]
pub struct Path {
    /// One end: a seed, or an image file
    #[arg(long, value_name = "SEED|IMAGE")]
    pub from: String,
    /// The other end
    #[arg(long, value_name = "SEED|IMAGE")]
    pub to: String,
    /// Noise level sigma/alpha of the energy, in units of the data
    #[arg(long, default_value_t = 0.2)]
    pub level: f64,
    /// Points on the path
    #[arg(long, default_value_t = 33)]
    pub points: usize,
    /// Interpolate the noise of two seeds instead of their samples
    #[arg(long)]
    pub latent: bool,
    /// The picture
    #[arg(long, value_name = "FILE.png", default_value = "path.png")]
    pub out: PathBuf,
    #[command(flatten)]
    pub subject: Subject,
}

/// Carries out `langevin look path`.
pub fn run(args: &Path) -> Result<()> {
    if !(2..=100_000).contains(&args.points) {
        return usage(Usage::of("points", "give 2 to 100000").value(args.points));
    }
    output::writable_as(&args.out, &["png"])?;
    let opened = args.subject.open()?;
    let model = &opened.model;
    let label = args.subject.label(&opened)?;
    let denoiser = denoiser(&opened, label.as_slice())?;
    let t = at(&denoiser, "--level", args.level)?;
    let points = match (args.latent, args.from.parse::<u64>(), args.to.parse::<u64>()) {
        (true, Ok(a), Ok(b)) => {
            let seeds: Vec<u64> = (0..args.points as u64).collect();
            args.subject.drawn(&opened, &seeds, label.as_slice(), Start::Between { seeds: [a, b] })?
        }
        (true, ..) => return usage(Usage::of("latent", "give two seeds; an image has no noise to interpolate")),
        _ => {
            let end = |option: &str, name: &str| args.subject.sample(&opened, label, option, name);
            path::straight(&end("--from", &args.from)?, &end("--to", &args.to)?, args.points)?
        }
    };
    let x = points.affine(denoiser.process().marginal(t).alpha, 0.)?;
    let mut progress: Option<Progress> = None;
    let profile = path::along(&denoiser, &x, t, args.subject.batch, |done, all| {
        let progress = progress.get_or_insert_with(|| Progress::new(all as u64, "batches"));
        if done > 0 {
            progress.step();
        }
    })?;
    progress.into_iter().for_each(Progress::done);
    let at = |i: usize| i as f64 / (args.points - 1) as f64;
    for (i, energy) in profile.energy.iter().enumerate() {
        crate::say!("{:.4}  {energy:.4}", at(i))?;
    }
    crate::say!("barrier {:.4}", profile.barrier())?;
    if let Some(error) = profile.error {
        crate::talk!("this model has a score alone: line integral along this path, error about {error:.1e}");
    }
    let line = profile.energy.iter().enumerate().map(|(i, &e)| (at(i), e)).collect();
    let title = format!("from {} to {}, noise level {}", args.from, args.to, args.level);
    let mut picture = chart::lines(&title, ["along the path", "E - E at its start"], &[("E".into(), line)])?;
    if opened.kind() == Kind::Image {
        let few = STRIP.min(args.points);
        let shown: Vec<u32> = (0..few).map(|i| (i * (args.points - 1) / (few - 1)) as u32).collect();
        let shown = points.index_select(&candle_core::Tensor::new(shown, points.device())?, 0)?;
        picture = output::above(&picture, &output::grid(&model.spec.unranged(&shown)?, Some(few))?);
    }
    output::save_png(&args.out, &picture, &[("langevin.model", opened.what.clone())])?;
    crate::say!("{}", args.out.display())
}
