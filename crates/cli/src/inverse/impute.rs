//! `langevin impute`: the missing cells of a table, drawn given those that are there.

use super::{Given, methods};
use crate::args::Machine;
use crate::guide::told;
use crate::open;
use crate::output;
use crate::progress::Progress;
use crate::run::usage;
use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use clap::Parser;
use langevin_data::{Columns, Partial};
use langevin_dynamics::inverse::{AnyMethod, Mask, Measured};
use std::path::PathBuf;

/// Fill in the missing cells of a table
#[derive(Parser)]
#[command(after_long_help = "\
A cell is missing where it is empty, NaN or NA. It is filled with the mean of what the model draws given the cells of its row that
are there, so that the mean of many draws is the conditional mean; with --draws every draw is written, for what is to be
computed from them.

Examples:
  langevin train toy --data whole.csv --out runs/table         a model of the table, from rows that are whole
  langevin impute runs/table --data holes.csv --out filled.csv
  langevin impute runs/table --data holes.csv --out ten.csv -n 10 --draws --method mcmc mcmc.kernel=hmc")]
pub struct Impute {
    /// A model of a table
    pub model: String,
    /// Changes: sampler.steps (noise levels, 100), METHOD.KEY such as mcmc.steps_per_level=20
    #[arg(value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    /// The table, with the columns of the one that the model was trained on
    #[arg(long, value_name = "FILE.csv")]
    pub data: PathBuf,
    /// Where the filled table goes
    #[arg(long, value_name = "FILE.csv")]
    pub out: PathBuf,
    /// Draws of every missing cell
    #[arg(short = 'n', value_name = "N", default_value_t = 32)]
    pub number: usize,
    /// Write each draw, whole tables one below the other with the draw's number in front, in place of the mean
    #[arg(long)]
    pub draws: bool,
    /// How cells are drawn given the others: replace, repaint, dps or mcmc
    #[arg(long, default_value = "mcmc")]
    pub method: String,
    /// Class of every row, for a class-conditional model; `none`, and no --class, for one trained with train.label_dropout
    #[arg(long, value_name = "K|none")]
    pub class: Option<String>,
    /// Draws at a time
    #[arg(long, default_value_t = 1024)]
    pub batch: usize,
    #[command(flatten)]
    pub machine: Machine,
}

/// Carries out `langevin impute`.
pub fn run(args: &Impute) -> Result<()> {
    let device = args.machine.open()?;
    if args.number == 0 || args.number > 100_000 || args.batch == 0 {
        return usage("-n and --batch: give at least 1, and -n at most 100000");
    }
    output::writable(&args.out)?;
    let opened = open::open(&args.model, &device)?;
    let Some(columns) = opened.columns()? else {
        return usage(format!(
            "{} is not a model of a table; train one with langevin train toy --data FILE.csv",
            args.model
        ));
    };
    let label = told(&opened.model.spec, args.class.as_deref())?;
    let table = langevin_data::partial(&args.data)?;
    let name = args.data.display();
    if table.names != columns.names {
        bail!(
            "{name} has the columns {}; the model was trained on {}",
            table.names.join(", "),
            columns.names.join(", ")
        );
    }
    let (methods, changes) = methods(std::slice::from_ref(&args.method), &args.changes)?;
    let given = Given::new(&opened.model, opened.run.as_ref(), None, &changes)?;
    let drawn = fill(args, (&given, label), &methods[0], (&table, &columns))?;
    let missing = table.values.iter().filter(|v| v.is_nan()).count();
    let mut names = table.names.clone();
    let d = names.len();
    let rows: Vec<Vec<f64>> = if args.draws {
        names.insert(0, "draw".into());
        let with = |(k, draw): (usize, &Vec<f64>)| -> Vec<Vec<f64>> {
            draw.chunks(d).map(|row| [&[(k + 1) as f64], row].concat()).collect()
        };
        drawn.iter().enumerate().flat_map(with).collect()
    } else {
        let n = drawn.len() as f64;
        // what is there stays to the digit
        let mean = |i: usize| {
            let known = table.values[i];
            if known.is_nan() { drawn.iter().map(|draw| draw[i] / n).sum() } else { known }
        };
        let all: Vec<f64> = (0..table.values.len()).map(mean).collect();
        all.chunks(d).map(<[f64]>::to_vec).collect()
    };
    output::save(&args.out, &output::csv(&names, &rows))?;
    crate::talk!(
        "{missing} cells of {} rows were missing",
        table.values.chunks(d).filter(|row| row.iter().any(|v| v.is_nan())).count()
    );
    crate::say!("{}", args.out.display())
}

/// The whole table, row by row, as often as it is drawn.
fn fill(
    args: &Impute,
    (given, label): (&Given, Option<u32>),
    method: &AnyMethod,
    (table, columns): (&Partial, &Columns),
) -> Result<Vec<Vec<f64>>> {
    let d = table.names.len();
    let holes: Vec<usize> =
        (0..table.values.len() / d).filter(|&r| table.values[r * d..][..d].iter().any(|v| v.is_nan())).collect();
    let mut drawn = vec![table.values.clone(); args.number];
    // row after row, each as often as it is drawn: draw k of row r has a seed of its own
    let jobs: Vec<(usize, usize)> = holes.iter().flat_map(|&r| (0..args.number).map(move |k| (r, k))).collect();
    let mut progress: Option<Progress> = None;
    for some in jobs.chunks(args.batch) {
        let cell = |(r, j): (usize, usize)| table.values[r * d + j];
        let cells: Vec<(usize, usize)> = some.iter().flat_map(|(r, _)| (0..d).map(move |j| (*r, j))).collect();
        let known = cells.iter().map(|&at| f64::from(u8::from(!cell(at).is_nan())));
        let known = Tensor::from_iter(known, &Device::Cpu)?.reshape((some.len(), d))?;
        let scaled = cells.iter().map(|&at| {
            let value = (cell(at) - columns.mean[at.1]) / columns.std[at.1];
            if value.is_nan() { 0. } else { value as f32 }
        });
        let y = Tensor::from_iter(scaled, &Device::Cpu)?.reshape((some.len(), d))?;
        let mask: Box<dyn langevin_dynamics::inverse::Operator> = Box::new(Mask::new(&known)?);
        let seen = Measured::new(mask, y, 0.)?;
        let seeds: Vec<u64> = some.iter().map(|&(r, k)| ((k as u64) << 32) | r as u64).collect();
        let batches = jobs.len().div_ceil(args.batch) as u64;
        let progress =
            progress.get_or_insert_with(|| Progress::new(batches * given.steps(method.get(), &seen), "steps"));
        let labels = label.map(|label| vec![label; some.len()]);
        let x = given.draw(method, &seen, (&seeds, labels.as_deref()), progress)?;
        let restored = columns.restore(&x)?;
        for (&(r, k), row) in some.iter().zip(&restored) {
            for (j, value) in row.iter().enumerate().filter(|(j, _)| cell((r, *j)).is_nan()) {
                drawn[k][r * d + j] = *value;
            }
        }
    }
    progress.into_iter().for_each(Progress::done);
    Ok(drawn)
}
