//! `langevin eval bits`.

use crate::args::Machine;
use anyhow::{Result, bail};
use clap::Parser;

/// to be written
#[derive(Parser)]
pub struct Bits {
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin eval bits`.
pub fn run(args: &Bits) -> Result<()> {
    args.machine.open()?;
    bail!("not there yet")
}
