//! `langevin eval ood`.

use crate::args::Machine;
use anyhow::{Result, bail};
use clap::Parser;

/// to be written
#[derive(Parser)]
pub struct Ood {
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin eval ood`.
pub fn run(args: &Ood) -> Result<()> {
    args.machine.open()?;
    bail!("not there yet")
}
