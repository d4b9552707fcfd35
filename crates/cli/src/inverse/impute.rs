//! `langevin impute`: the missing cells of a table, drawn given those that are there.

use crate::machine::Machine;
use crate::stop;
use anyhow::Result;
use candle_core::{Device, Tensor};
use clap::Parser;
use langevin::data::{Columns, Partial};
use langevin::dynamics::inverse::{AnyMethod, Mask, Measured};
use langevin::error::{Usage, usage};
use langevin::inverse::{Given, advice, methods};
use langevin::sample::{Drawn, One, told};
use langevin::watch::Progress;
use langevin::{open, output};
use std::ops::Range;
use std::path::PathBuf;

/// Fill in the missing cells of a table
#[derive(Parser)]
#[command(after_long_help = "\
A cell is missing where it is empty, NaN or NA, in a table of one column also where a line between others is blank. It is filled with the mean of what the model draws given the cells of \
its row that are there, so that the mean of many draws is the conditional mean; with --draws every draw is written, \
for what is to be computed from them. Cells that are there stay as they are written, but for decimal commas, which \
become points. A first column without a name, such as the index of pandas, labels the rows.

Examples:
  # a model of the table, from rows that are whole
  langevin train toy --data whole.csv --out runs/table
  langevin impute runs/table --data holes.csv --out filled.csv
  langevin impute runs/table --data holes.csv --out ten.csv -n 10 --draws \\
      --method mcmc mcmc.kernel=hmc")]
pub struct Impute {
    /// A model of a table
    pub model: String,
    /// Changes: sampler.steps (noise levels, 100), METHOD.KEY such as mcmc.steps_per_level=20
    #[arg(value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    /// The table, with the columns of the one that the model was trained on, in any order
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
    /// Class of every row, by its name or number, for a class-conditional model; `none`, and no --class, for one trained with train.label_dropout
    #[arg(long, value_name = "CLASS|none")]
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
    let label = told(&opened, args.class.as_deref())?;
    let table = langevin::data::partial(&args.data, Some(&columns))?;
    let places = columns.places(&args.data.display().to_string(), &table.names)?;
    table.notes.iter().for_each(|note| crate::talk!("{}: {note}", args.data.display()));
    let (methods, changes) = methods(std::slice::from_ref(&args.method), &args.changes)?;
    let given = Given::new(&opened.model, opened.run.as_ref(), None, &changes)?;
    let missing: Vec<usize> = (0..table.values.len()).filter(|&i| table.values[i].is_nan()).collect();
    if args.draws && missing.len().saturating_mul(args.number) > MOST {
        return usage(Usage::of(
            "draws",
            format!("{} draws of {} cells are more than {MOST}; lower -n", args.number, missing.len()),
        ));
    }
    let holes = Holes { table: &table, missing, columns: &columns, places };
    let _hold = stop::hold();
    let (drawn, whole) = holes.fill(args, (&given, label), &methods[0])?;
    if whole.is_err() && drawn.iter().all(|value| value.is_nan()) {
        return whole; // there is nothing to write
    }
    let d = table.names.len();
    holes.tell_of_constants();
    let label = |r: usize| table.labels.iter().map(move |(_, labels)| labels.get(r).to_string());
    // what is there stays to the digit
    let row = |draw: &[f64], r: usize| -> Vec<String> {
        let cell = |i: usize| holes.text(draw, i).unwrap_or_else(|| table.texts.get(i).to_string());
        label(r).chain((r * d..(r + 1) * d).map(cell)).collect()
    };
    let heads: Vec<String> = table.labels.iter().map(|(name, _)| name).chain(&table.names).cloned().collect();
    let rows = table.values.len() / d;
    if args.draws {
        let names: Vec<String> = std::iter::once("draw".to_string()).chain(heads).collect();
        let with = |k: usize| {
            let (draw, row) = (&drawn[k * holes.missing.len()..][..holes.missing.len()], &row);
            (0..rows).map(move |r| std::iter::once((k + 1).to_string()).chain(row(draw, r)).collect())
        };
        output::save_csv(&args.out, &names, (0..args.number).flat_map(with))?;
    } else {
        output::save_csv(&args.out, &heads, (0..rows).map(|r| row(&drawn, r)))?;
    }
    crate::talk!("{} cells of {} rows were missing", holes.missing.len(), holes.rows().len());
    crate::say!("{}", args.out.display())?;
    whole
}

/// Numbers that are kept of all draws at once.
const MOST: usize = 100_000_000;

/// The missing cells of a table.
struct Holes<'a> {
    table: &'a Partial,
    /// Where they are among the cells, in order.
    missing: Vec<usize>,
    /// Of the model.
    columns: &'a Columns,
    /// Where in a row of the table each of the model's columns is.
    places: Vec<usize>,
}

impl Holes<'_> {
    /// The rows that have some, and the number of missing cells before each.
    fn rows(&self) -> Vec<(usize, usize)> {
        let mut rows: Vec<(usize, usize)> =
            self.missing.iter().enumerate().map(|(before, i)| (i / self.places.len(), before)).collect();
        rows.dedup_by_key(|row| row.0);
        rows
    }

    /// Says which cells of constant columns have another value: they are kept, and nothing is drawn from them.
    fn tell_of_constants(&self) {
        let rows = || self.table.values.chunks(self.places.len());
        for j in self.columns.constant() {
            let other =
                |row: &&[f64]| row[self.places[j]].is_finite() && self.columns.scale(j, row[self.places[j]]) != 0.;
            let (n, name, constant) = (rows().filter(other).count(), &self.columns.names[j], self.columns.mean[j]);
            if n > 0 {
                crate::talk!(
                    "cells of column {name} that are not {constant}, as all are that the model learnt: {n}; they \
                     are kept, and the others of their rows are drawn without regard to them"
                );
            }
        }
    }

    /// What is drawn for cell `i`, of `drawn` for all missing cells; `None` if it is there, or was not drawn.
    fn text(&self, drawn: &[f64], i: usize) -> Option<String> {
        let value = *drawn.get(self.missing.binary_search(&i).ok()?)?;
        if value.is_nan() {
            return None;
        }
        let column = self.places.iter().position(|&place| place == i % self.places.len())?;
        let std = self.columns.std[column];
        // of a constant column not the mean of its draws, which is rounded
        Some(output::digits(if std == 0. { self.columns.mean[column] } else { value }, std))
    }

    /// A number for each missing cell: the mean of its draws, or with --draws draw after draw of all of them. NaN where not
    /// all of them are there, and then an error that says why.
    fn fill(
        &self,
        args: &Impute,
        (given, label): (&Given, Option<u32>),
        method: &AnyMethod,
    ) -> Result<(Vec<f64>, Result<()>)> {
        let (rows, n) = (self.rows(), args.number);
        let jobs = rows.len() * n;
        let mut drawn =
            vec![if args.draws { f64::NAN } else { 0. }; self.missing.len() * if args.draws { n } else { 1 }];
        // of each row, the draws that are still to come
        let mut left = vec![n; rows.len()];
        let mut progress: Option<Progress> = None;
        let one = |places: Range<usize>| {
            // row after row, each as often as it is drawn: draw k of row r has a seed of its own
            let some: Vec<(usize, usize)> = places.map(|job| (rows[job / n].0, job % n)).collect();
            let seen = self.measured(&some)?;
            let seeds: Vec<u64> = some.iter().map(|&(r, k)| ((k as u64) << 32) | r as u64).collect();
            let progress = match &mut progress {
                Some(progress) => progress,
                none => {
                    let steps = jobs.div_ceil(args.batch) as u64 * given.steps(method.get(), &seen)?;
                    none.insert(Progress::new(steps, "steps"))
                }
            };
            let labels = label.map(|label| vec![label; some.len()]);
            Ok(One::of(given.draw(method, &seen, (&seeds, labels.as_deref()), progress)?))
        };
        let result = Drawn::by(jobs, (args.batch, false), one, &mut |batch| {
            for (&job, values) in batch.places.iter().zip(self.columns.restore(&batch.x)?) {
                let ((r, before), k) = (rows[job / n], job % n);
                left[job / n] -= 1;
                let at = before + if args.draws { k * self.missing.len() } else { 0 };
                let holes = self.holes(r, &values);
                drawn[at..].iter_mut().zip(holes).for_each(|(drawn, value)| match args.draws {
                    true => *drawn = value,
                    false => *drawn += value,
                });
            }
            Ok(())
        });
        progress.into_iter().for_each(Progress::done);
        if !args.draws {
            for (i, (&(_, before), &left)) in rows.iter().zip(&left).enumerate() {
                let after = rows.get(i + 1).map_or(drawn.len(), |row| row.1);
                let whole = if left == 0 { n as f64 } else { f64::NAN };
                drawn[before..after].iter_mut().for_each(|sum| *sum /= whole);
            }
        }
        let partly = left.iter().filter(|&&left| left > 0).count();
        if partly > 0 {
            crate::talk!("{partly} rows have not all of their draws: the cells that lack them stay as they were");
        }
        Ok((drawn, result.whole(None, false, &advice(method))))
    }

    /// The cells that are there of the row of each draw.
    fn measured(&self, draws: &[(usize, usize)]) -> Result<Measured> {
        let (columns, d) = (self.columns, self.places.len());
        let cells: Vec<(usize, f64)> =
            draws.iter().flat_map(|&(r, _)| (0..d).map(move |j| (j, self.cell(r, j)))).collect();
        let known = cells.iter().map(|(_, v)| f64::from(u8::from(!v.is_nan())));
        let known = Tensor::from_iter(known, &Device::Cpu)?.reshape((draws.len(), d))?;
        // a constant column has its value whatever the cell says
        let known_as = |(j, v): (usize, f64)| if columns.std[j] == 0. { 0. } else { columns.scale(j, v) as f32 };
        let scaled = cells.iter().map(|&(j, v)| if v.is_nan() { 0. } else { known_as((j, v)) });
        let y = Tensor::from_iter(scaled, &Device::Cpu)?.reshape((draws.len(), d))?;
        let mask: Box<dyn langevin::dynamics::inverse::Operator> = Box::new(Mask::new(&known)?);
        Ok(Measured::new(mask, y, 0.)?)
    }

    /// Of row `r`, the cell of column `j` of the model.
    fn cell(&self, r: usize, j: usize) -> f64 {
        self.table.values[r * self.places.len() + self.places[j]]
    }

    /// What `values`, one a column of the model, say of the missing cells of row `r`: in the order of the table, as these are.
    fn holes(&self, r: usize, values: &[f64]) -> Vec<f64> {
        let missing = (0..values.len()).filter(|&j| self.cell(r, j).is_nan());
        let mut holes: Vec<(usize, f64)> = missing.map(|j| (self.places[j], values[j])).collect();
        holes.sort_by_key(|(place, _)| *place);
        holes.into_iter().map(|(_, value)| value).collect()
    }
}
