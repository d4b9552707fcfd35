//! `langevin look filters`: what the hidden units of a density of images look for.

use crate::machine::Machine;
use anyhow::Result;
use clap::Parser;
use langevin::density::filters;
use langevin::error::{Usage, usage};
use langevin::open::{self, AnyOpened};
use langevin::output;
use std::path::PathBuf;

/// The weights of the hidden units of an RBM as pictures
#[derive(Parser)]
#[command(after_long_help = "\
Each is scaled by its largest weight: white is for a pixel that is on, black for one that is off, grey for one that does \
not matter. Of units of several states it is the slope of their weights: white is for a pixel that is lighter.

Example:
  langevin look filters runs/rbm-digits -n 100 --out filters.png")]
pub struct Filters {
    /// A run folder, RUN@STEP, or a weights file, of a density of a family
    pub model: String,
    /// Hidden units, the first of them
    #[arg(short = 'n', value_name = "N", default_value_t = 100)]
    pub number: usize,
    /// The picture
    #[arg(long, value_name = "FILE.png", default_value = "filters.png")]
    pub out: PathBuf,
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin look filters`.
pub fn run(args: &Filters) -> Result<()> {
    if args.number == 0 {
        return usage(Usage::of("n", "give at least 1").value(0));
    }
    output::writable_as(&args.out, &["png"])?;
    let opened = match open::open_any(&args.model, &args.machine.open()?)? {
        AnyOpened::Density(opened) => opened,
        AnyOpened::Denoising(_) => {
            return usage("this model denoises, and has no filters; look landscape shows its energy");
        }
    };
    let Some(picture) = filters(&opened.model, args.number)? else {
        return usage("this density is not one of images, or has no filters");
    };
    output::save_png(&args.out, &picture, &[("langevin.model", opened.what.clone())])?;
    crate::say!("{}", args.out.display())
}
