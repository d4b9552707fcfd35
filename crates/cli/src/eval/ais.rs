//! `langevin eval ais`: log Z of a density by annealed importance sampling, and how well it knows data.

use crate::machine::Machine;
use anyhow::Result;
use clap::Parser;
use langevin::config::idle;
use langevin::data::Binarise;
use langevin::error::{Usage, usage};
use langevin::models::family::{Ais, Raise};
use langevin::open::{self, AnyOpened};
use langevin::{output, scoring};
use serde_json::json;
use std::path::PathBuf;

/// Measure log Z of a density, such as an RBM, and the mean of log p over data
#[derive(Parser)]
#[command(after_long_help = "\
Particles go from independent units, whose means are those of the training data, to the density, in so many rungs; their \
weights give Z without bias, so that few rungs make log Z rather too small, and log p too large: the upper one. Chains that go \
back along the same rungs from --reverse of the samples (reverse annealing, RAISE) give the lower one, and a log Z rather too \
large. Both are near where they agree; take more --rungs where they do not. Where one layer of an RBM \
has at most 20 units log Z is enumerated as well, and used for log p; of an energy of one or two numbers it is integrated. Of a deep Boltzmann machine log p is bounded from below by the \
mean field of its latent units (the variational bound), and summed where these are at most 12. All is computed in f64, and told in \
nats. Images become bits as those that the run was trained on (data.binarise): by a threshold, or each pixel drawn by its grey level; \
for units of several states (model.states) they become the nearest of so many grey levels.

Examples:
  langevin eval ais runs/rbm-digits --data digits:test
  langevin eval ais runs/rbm-digits --data digits:test --rungs 20000 --particles 500 --json ais.json")]
pub struct AisArgs {
    /// A run folder, RUN@STEP, or a weights file, of a density of a family
    pub model: String,
    /// Data whose mean log p is measured: digits:test, a folder, FILE.csv
    #[arg(long, value_name = "SPEC")]
    pub data: String,
    /// Number of samples of them, chosen by --seed [default: all of them]
    #[arg(short = 'n', value_name = "N")]
    pub number: Option<usize>,
    /// Densities on the way, the first and the last among them
    #[arg(long, value_name = "N", default_value_t = 5000)]
    pub rungs: usize,
    /// Particles, each a run of its own; their spread tells the error
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub particles: usize,
    /// Steps of Gibbs at each rung, or of MALA where there are no blocks to draw
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub steps_per_rung: usize,
    /// Samples, of those measured, from which chains go back along the rungs; 0 for none
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub reverse: usize,
    /// Chains back from each of them; more raise the lower mean log p [default: 5]
    #[arg(long, value_name = "N")]
    pub chains: Option<usize>,
    /// Seed of the particles, of the chains, and of the choice of samples
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Write all figures, with log p of each sample and its place in the data (from 0), as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin eval ais`.
pub fn run(args: &AisArgs) -> Result<()> {
    let device = args.machine.open()?;
    idle::ambiguous("data", &args.data)?;
    args.json.as_deref().map_or(Ok(()), output::writable)?;
    let (rungs, particles, steps_per_rung) = (args.rungs, args.particles, args.steps_per_rung);
    let ais = Ais { rungs, particles, steps_per_rung, ..Ais::default() };
    let raise = Raise { reverse: args.reverse, chains: args.chains.unwrap_or(Raise::default().chains) };
    if let Err(why) = ais.check().and(raise.check()) {
        return usage(format!("--{why}"));
    }
    if args.reverse == 0 && args.chains.is_some() {
        return usage(Usage::of("chains", "--reverse 0 lets none go back; leave one of the two out"));
    }
    if args.number.is_some_and(|n| n < 2) {
        return usage(Usage::of("n", "give at least 2, whose spread tells the error"));
    }
    let opened = match open::open_any(&args.model, &device)? {
        AnyOpened::Density(opened) => opened,
        AnyOpened::Denoising(_) => {
            return usage("this model denoises; its likelihood is measured by langevin eval bits, by ais too");
        }
    };
    let (ais, data) = (ais.suited(&opened.model), opened.data(&args.data, "data")?);
    if data.len() < 2 {
        return usage(Usage::of("data", "it has one sample, and a standard error takes 2").value(&args.data));
    }
    let all: Vec<usize> = (0..data.len()).collect();
    let places = args.number.map_or(all.clone(), |n| scoring::choose(&all, n, args.seed));
    let found = opened.likelihood((&ais, &raise), args.seed, data.as_ref(), &places)?;
    let line = |what: &str, value: f64, error: Option<f64>| {
        let error = error.map(|error| format!("+- {error:.4}")).unwrap_or_default();
        crate::say!("{:<19} {value:>12.4} {error}", what).map(drop)
    };
    line("log Z", found.log_z.value, Some(found.log_z.error))?;
    let back = found.reverse.as_ref();
    back.map_or(Ok(()), |back| line("log Z, reverse", back.log_z.value, Some(back.log_z.error)))?;
    if let Some(exact) = found.exact {
        line("log Z, exact", exact, None)?;
    }
    let of = if found.bound { "log p, bound" } else { "mean log p" };
    line(of, found.mean, Some(found.error))?;
    let mut from = String::new();
    if let Some(back) = back {
        line(&format!("{of}, upper"), back.upper.value, Some(back.upper.error))?;
        line(&format!("{of}, lower"), back.lower.value, Some(back.lower.error))?;
        from = format!("; upper and lower of {}, chains back from each: {}", back.places.len(), back.chains);
    }
    let bits = match opened.binarise() {
        Some(Binarise::Sample) => ", their pixels drawn by grey levels",
        Some(Binarise::Threshold) => ", lighter than middle grey or not",
        None => "",
    };
    if found.bound {
        from += "; a bound of the mean of log p from below, by the mean field of the latent units";
    }
    crate::say!(
        "\nof {} samples of {}{bits}; {particles} particles along {rungs} rungs, spread {:.4} nats, seed {}{from}",
        places.len(),
        args.data,
        found.log_z.spread,
        args.seed
    )?;
    let Some(path) = &args.json else { return Ok(()) };
    let figures = json!({
        "model": args.model, "data": args.data, "n": places.len(), "seed": args.seed, "rungs": rungs,
        "particles": particles, "steps_per_rung": steps_per_rung, "places": places, "found": found,
    });
    output::save(path, &serde_json::to_vec_pretty(&figures)?)
}
