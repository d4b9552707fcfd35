//! `langevin eval METRIC`: figures of a model, each with its error and what it was measured on.

mod ais;
mod bits;
mod ood;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measure a model
#[derive(Parser)]
pub struct Eval {
    #[command(subcommand)]
    metric: Metric,
}

#[derive(Subcommand)]
enum Metric {
    Ais(ais::AisArgs),
    Bits(Box<bits::Bits>),
    Ood(Box<ood::Ood>),
}

/// Carries out `langevin eval`.
pub fn run(args: &Eval) -> Result<()> {
    match &args.metric {
        Metric::Ais(args) => ais::run(args),
        Metric::Bits(args) => bits::run(args),
        Metric::Ood(args) => ood::run(args),
    }
}
