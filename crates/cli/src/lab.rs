//! `langevin lab`: every way to learn a density of the plane, compared with the density itself.

use crate::machine::Machine;
use anyhow::Result;
use clap::Parser;
use langevin::lab::{Budget, Lab, Row};
use langevin::output;
use std::path::PathBuf;

/// Compare all ways to learn a density, on a toy whose density is known
#[derive(Parser)]
#[command(after_long_help = "\
Each method trains with the same number of energies, or for the same time: contrastive divergence, score matching, \
noise-contrastive estimation and energy discrepancy on one network energy, and denoising and dual score matching, which learn an \
energy at all noise levels and are asked at the least, each at a learning rate that suits it. \
An energy counts once for each state that it is computed at, with whatever gradients of it. By --evaluations the figures are the same each time; by --seconds they depend on the machine.

What comes of each is integrated numerically on a lattice: KL(data || model), the modes that hold at least half of their share of \
the data and how far a share is off at most, and, for a method that tells log Z, how far this is from the integral. In the picture \
all densities have the same colours.

Methods: cd, pcd, sm, ssm, ssm-vr, dsm, nce, cnce, info-nce, ed, diffusion, dual

Data: toy:two-moons, toy:rings, toy:checkerboard, toy:8-gaussians

Examples:
  langevin lab toy:8-gaussians
  langevin lab toy:8-gaussians --evaluations 1000000 --json lab.json
  langevin lab toy:rings --methods nce,ed,dual --seconds 60 --out rings.png")]
pub struct Args {
    /// A toy whose density is known
    pub data: String,
    /// Energies that each method may compute, over all states and steps
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    pub evaluations: Option<u64>,
    /// Seconds that each method may train [default: 20]
    #[arg(long, value_name = "S")]
    pub seconds: Option<f64>,
    /// Methods to compare [default: all of them]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub methods: Vec<String>,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The picture, a panel each
    #[arg(long, value_name = "FILE.png", default_value = "lab.png")]
    pub out: PathBuf,
    /// Write all figures as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin lab`.
pub fn run(args: &Args) -> Result<()> {
    let device = args.machine.open()?;
    output::writable_as(&args.out, &["png"])?;
    args.json.as_deref().map_or(Ok(()), output::writable)?;
    let budget = match args.evaluations {
        Some(n) => Budget::Evaluations(n),
        None => Budget::Seconds(args.seconds.unwrap_or(20.)),
    };
    let lab = Lab { data: args.data.clone(), budget, methods: args.methods.clone(), seed: args.seed };
    let page = lab.run(&device, &mut |row: &Row| {
        match (&row.figures, &row.failed) {
            (Some(found), _) => crate::talk!("{}: KL {:.4} nats, {:.1} s", row.method, found.kl, row.seconds),
            (None, why) => crate::talk!("{}: {}", row.method, why.as_deref().unwrap_or("it came to no density")),
        }
        Ok(())
    })?;
    for line in output::aligned(&page.table()) {
        crate::say!("{line}")?;
    }
    crate::say!("\n{}", page.checks())?;
    output::save_png(&args.out, &page.picture()?, &[("langevin.lab", page.json()["lab"].to_string())])?;
    crate::say!("{}", args.out.display())?;
    let Some(path) = &args.json else { return Ok(()) };
    output::save(path, &serde_json::to_vec_pretty(&page.json())?)
}
