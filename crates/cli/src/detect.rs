//! `langevin detect`: which of some samples do not belong to the data of a model, and where in them that shows.

use crate::machine::Machine;
use crate::scores::Scores;
use anyhow::{Context, Result};
use clap::Parser;
use langevin::error::{Usage, usage};
use langevin::{detect, open, output};
use std::path::PathBuf;

/// Find what does not belong to the data of a model: a table of scores and p-values, and maps of where it shows
#[derive(Parser)]
#[command(after_long_help = "\
The scores are those of `langevin eval ood`, higher the less a sample belongs. The p-value of a score says how many of \
held-out data have one as high, (1 + their number) / (1 + all); a sample is flagged if its least p-value is at most \
alpha divided by the number of scores. Images of another size are scaled and cropped as in a folder to train on; files \
that cannot be read are told and left out.

Held-out data are, unless --held-out names them, the test part of what the scores are fitted to, where that is a data \
set with one; else more of it, and a line says so if the model has learnt them: then p-values are too small. Half of \
the data are then fitted to and half held out, up to 1000 each.

N held-out samples allow S scores at an alpha of S / (N + 1) and more. Without --alpha it is 0.01, or where they are few as \
much as they need, up to 0.05; without --scores so many of them are used as that allows. A line says what was chosen.

A map shows the image, the size of the gradient of the energy at each pixel, and what is lost there when noise is \
added and taken away again; bright is more than is usual for the data.

Examples:
  langevin detect runs/digits photos/                          print the table
  langevin detect runs/digits photos/ --out odd.csv --maps odd/ --held-out digits:test
  langevin detect runs/digits mnist:test=DIR --scores score-norms --alpha 0.001 \\
      --held-out-samples 5000")]
pub struct Detect {
    /// A run folder, RUN@STEP, a weights file, a folder of diffusers, OWNER/NAME of the Hub, or exact:NAME
    pub model: String,
    /// What to look at: a folder of images, or data as --data takes them
    pub data: String,
    /// Changes of the scores, such as reconstruction.draws=4
    #[arg(value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    /// Data that belong and that the scores are not fitted to [default: the test part of --fit, or more of it]
    #[arg(long, value_name = "SPEC")]
    pub held_out: Option<String>,
    /// Samples of them [default: 1000, or what is there]
    #[arg(long, value_name = "N")]
    pub held_out_samples: Option<usize>,
    /// The chance at which a sample that belongs may be flagged [default: 0.01, or what few held-out samples allow]
    #[arg(long, value_name = "P")]
    pub alpha: Option<f64>,
    /// Write the table as CSV
    #[arg(long, value_name = "FILE.csv")]
    pub out: Option<PathBuf>,
    /// Write the maps of each image as DIR/NAME.png
    #[arg(long, value_name = "DIR")]
    pub maps: Option<PathBuf>,
    #[command(flatten)]
    pub scoring: Scores,
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin detect`.
pub fn run(args: &Detect) -> Result<()> {
    let device = args.machine.open()?;
    if let Some(alpha) = args.alpha.filter(|alpha| !(*alpha > 0. && *alpha < 1.)) {
        return usage(Usage::of("alpha", "give a number between 0 and 1").value(alpha));
    }
    if args.held_out_samples == Some(0) {
        return usage(Usage::of("held-out-samples", "give at least 1").value(0));
    }
    args.out.iter().try_for_each(|path| output::writable(path))?;
    let opened = open::open_any(&args.model, &device)?;
    if let Some(folder) = &args.maps {
        detect::Detect::maps(&opened)?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let found = args.asked().run(&opened)?;
    let rows = found.rows();
    match &args.out {
        None => output::aligned(&rows).iter().try_for_each(|line| crate::say!("{line}"))?,
        Some(path) => {
            let (head, rows) = rows.split_first().context("a table without a head")?;
            output::save_csv(path, head, rows.iter().cloned())?;
            crate::say!("{}", path.display())?;
        }
    }
    crate::talk!("\n{}", found.settings);
    let Some(folder) = &args.maps else { return Ok(()) };
    found.write_maps(folder)?;
    crate::say!("{}", folder.display())
}

impl Detect {
    /// What is asked of the library.
    fn asked(&self) -> detect::Detect {
        let Self { data, changes, held_out, held_out_samples, alpha, scoring, .. } = self;
        detect::Detect {
            data: data.clone(),
            changes: changes.clone(),
            held_out: held_out.clone(),
            held_out_samples: *held_out_samples,
            alpha: *alpha,
            scoring: scoring.asked(),
        }
    }
}
