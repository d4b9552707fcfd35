//! Tables of numbers, each column standardised, x = (value - mean) / std, by moments of its own or of what a model learnt.

mod text;

pub use text::{Partial, Texts};

use crate::bits::Among;
use crate::{Batch, Dataset, Kind, check_indices};
use candle_core::{Device, Result, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// How the columns of a table were scaled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// From the header, or `1`, `2`, ... where there is none.
    pub names: Vec<String>,
    /// Of each column, in its own unit.
    pub mean: Vec<f64>,
    /// Of each column, in its own unit (over N, not N - 1); 0 where the column is constant: every sample has its mean.
    pub std: Vec<f64>,
}

/// Rows from which on it is told that a column counts them.
const MANY: usize = 10;

/// Values of a column that differ by less than this times their size differ by rounding alone.
const ROUNDING: f64 = 16. * f64::EPSILON;

/// The means and the standard deviations of the columns of `values` `[N, D]`; of a constant column its value and 0.
fn moments(values: &[f64], d: usize) -> (Vec<f64>, Vec<f64>) {
    let (rows, n, first) = (|| values.chunks_exact(d), (values.len() / d) as f64, &values[..d]);
    let (mut low, mut high, mut mean, mut std) = (first.to_vec(), first.to_vec(), vec![0.; d], vec![0.; d]);
    for row in rows() {
        for (&x, (low, high)) in row.iter().zip(low.iter_mut().zip(&mut high)) {
            (*low, *high) = (low.min(x), high.max(x));
        }
    }
    for row in rows() {
        for (x, (first, mean)) in row.iter().zip(first.iter().zip(&mut mean)) {
            *mean += (x - first) / n;
        }
    }
    mean.iter_mut().zip(first).for_each(|(mean, first)| *mean += first);
    // as parts of the range, whose squares neither overflow nor vanish
    let range: Vec<f64> = low.iter().zip(&high).map(|(low, high)| high - low).collect();
    for row in rows() {
        for ((x, std), (mean, range)) in row.iter().zip(&mut std).zip(mean.iter().zip(&range)) {
            *std += ((x - mean) / range).powi(2) / n;
        }
    }
    for j in 0..d {
        let constant = range[j] <= ROUNDING * low[j].abs().max(high[j].abs());
        (mean[j], std[j]) = if constant { (first[j], 0.) } else { (mean[j], range[j] * std[j].sqrt()) };
    }
    (mean, std)
}

impl Columns {
    /// The moments of the columns of `values` `[N, D]`, and what the user should know of them.
    fn of(name: &str, names: Vec<String>, values: &[f64]) -> Result<(Self, Vec<String>)> {
        let d = names.len();
        if values.len() == d {
            bail!("{name} has one row; its columns cannot be standardised, give at least two");
        }
        let (mean, std) = moments(values, d);
        if let Some(j) = (0..d).find(|&j| !(mean[j].is_finite() && std[j].is_finite())) {
            bail!("{name}: the numbers in column {} are too large to standardise; rescale that column", names[j]);
        }
        let columns = Self { names, mean, std };
        let constant: Vec<String> =
            columns.constant().map(|j| format!("{} = {}", columns.names[j], columns.mean[j])).collect();
        if constant.len() == d {
            bail!("{name}: every column is constant, so there is nothing to learn; check the table");
        }
        let mut notes = vec![];
        if !constant.is_empty() {
            notes.push(format!("constant columns, the same in every sample: {}", few(&constant)));
        }
        let rows = values.len() / d;
        let counts = |j: &usize| values[*j..].iter().step_by(d).enumerate().all(|(i, x)| x - values[*j] == i as f64);
        let counts: Vec<String> = (0..d).filter(counts).map(|j| columns.names[j].clone()).collect();
        if rows >= MANY && !counts.is_empty() {
            notes.push(format!(
                "{} counts the rows and is learnt as any other column; leave it out of the table if it only numbers them",
                few(&counts)
            ));
        }
        Ok((columns, notes))
    }

    /// The columns that have one value in every row.
    pub fn constant(&self) -> impl Iterator<Item = usize> {
        (0..self.std.len()).filter(|&j| self.std[j] == 0.)
    }

    /// Where in a table with columns `theirs` each of these is; `name` is what errors call it. Errors if they are not the
    /// same columns in some order.
    pub fn places(&self, name: &str, theirs: &[String]) -> Result<Vec<usize>> {
        let d = self.names.len();
        if self.mean.len() != d || self.std.len() != d {
            bail!("the model has {d} names of columns, {} means and {} deviations", self.mean.len(), self.std.len());
        }
        if theirs == self.names {
            return Ok((0..d).collect());
        }
        let places = unique(&self.names, theirs.iter().map(String::as_str)).or_else(|| {
            let old: Vec<String> = theirs.iter().map(|name| cut_as_of_old(name)).collect();
            unique(&self.names, old.iter().map(String::as_str))
        });
        let Some(places) = places else {
            let cut: HashSet<String> = theirs.iter().map(|name| cut_as_of_old(name)).collect();
            if cut.len() < d && self.names.iter().all(|name| cut.contains(name)) {
                bail!(
                    "{name}: the model has no more than {OLD} bytes of each name, as older versions kept them, and more than one \
                     of the columns begins with the same; train it anew"
                );
            }
            bail!("{name} {}: give it these, under these names", differences(&self.names, theirs))
        };
        Ok(places)
    }

    /// `value` of column `j` as the model takes it; infinite where the column is constant and has another value.
    pub fn scale(&self, j: usize, value: f64) -> f64 {
        let off = value - self.mean[j];
        match self.std[j] {
            0. if off.abs() <= ROUNDING * self.mean[j].abs() => 0.,
            0. => f64::INFINITY.copysign(off),
            std => off / std,
        }
    }

    /// What the user should know of rows `values` `[N, D]` that have another value in a constant column, if there are any.
    fn outside(&self, values: &[f64]) -> Option<String> {
        let off = |row: &&[f64]| self.constant().find(|&j| self.scale(j, row[j]) != 0.);
        let mut rows = values.chunks(self.names.len()).filter_map(|row| off(&row).map(|j| (j, row[j])));
        let (j, value) = rows.next()?;
        let (name, constant, more) = (&self.names[j], self.mean[j], 1 + rows.count());
        Some(format!(
            "rows with another value in a column that was constant in what the model learnt: {more}, such as {value} in \
             column {name}, where all had {constant}; such rows are as unlikely as can be"
        ))
    }

    /// Samples `[N, D]` mapped back to the units of the table: mean + std x, in f64.
    pub fn restore(&self, x: &Tensor) -> Result<Vec<Vec<f64>>> {
        let mut rows: Vec<Vec<f64>> = x.to_dtype(candle_core::DType::F64)?.to_vec2()?;
        let d = self.mean.len();
        if self.std.len() != d || rows.iter().any(|row| row.len() != d) {
            bail!("samples of shape {:?} do not belong to a table of {d} columns", x.dims());
        }
        for row in &mut rows {
            for (x, (mean, std)) in row.iter_mut().zip(self.mean.iter().zip(&self.std)) {
                *x = if *std == 0. { *mean } else { mean + std * *x };
            }
        }
        Ok(rows)
    }
}

/// Where each of `names` is in `theirs`, which are the same in some order; `None` if they are not, or a name is there twice.
fn unique<'a>(names: &[String], theirs: impl ExactSizeIterator<Item = &'a str>) -> Option<Vec<usize>> {
    if theirs.len() != names.len() {
        return None;
    }
    let of: HashMap<&str, usize> = theirs.enumerate().map(|(j, name)| (name, j)).collect();
    let places: Option<Vec<usize>> = names.iter().map(|name| of.get(name.as_str()).copied()).collect();
    places.filter(|places| of.len() == names.len() && places.iter().collect::<HashSet<_>>().len() == names.len())
}

/// How `theirs` are others than the columns `names` of a model, in words.
fn differences(names: &[String], theirs: &[String]) -> String {
    const SHORT: usize = 12;
    if names.len().max(theirs.len()) <= SHORT {
        return format!("has the columns {}; the model was trained on {}", few(theirs), few(names));
    }
    let but = |all: &[String], known: &[String]| -> Vec<String> {
        let known: HashSet<&String> = known.iter().collect();
        all.iter().filter(|name| !known.contains(name)).cloned().collect()
    };
    let (lacking, more) = (but(names, theirs), but(theirs, names));
    let list = |names: &[String]| if names.is_empty() { "none".into() } else { few(names) };
    format!(
        "has {} columns and the model was trained on {}: of those the table lacks {}, and it has {} beside them",
        theirs.len(),
        names.len(),
        list(&lacking),
        list(&more)
    )
}

/// How the columns of a table that is opened are scaled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scaling {
    /// Each column by its own mean and deviation, to learn from.
    #[default]
    Own,
    /// As a model learnt them: columns are matched by name and scaled by these moments.
    Like(Columns),
    /// Not at all.
    No,
    /// Not at all, since all are bits: another number than 0 and 1 is an error that names its row and column.
    Bits,
    /// Not at all, since all are integers from 0 to one less than this: another number is such an error too.
    Integers(usize),
}

/// A table in memory.
#[derive(Clone, Debug)]
pub struct Table {
    shape: [usize; 1],
    values: Vec<f64>, // [N, D], as they are
    columns: Option<Columns>,
    notes: Vec<String>,
}

impl Table {
    /// A table from its values in rows, `[N, D]` with D the number of names; `name` is what errors call it. Errors where
    /// it cannot be scaled so: rows that do not vary, or columns that are not those of [`Scaling::Like`].
    pub fn new(name: &str, names: Vec<String>, values: Vec<f64>, scaling: &Scaling) -> Result<Self> {
        let d = names.len();
        if d == 0 || values.is_empty() {
            bail!("{name} has no rows of numbers; give a table with at least two");
        }
        if !values.len().is_multiple_of(d) {
            bail!("{name}: {} values do not fill rows of {d} columns", values.len());
        }
        match scaling {
            Scaling::No => Ok(Self { shape: [d], values, columns: None, notes: vec![] }),
            Scaling::Bits | Scaling::Integers(_) => {
                let among = if let Scaling::Integers(q) = scaling { Among::Integers(*q) } else { Among::Bits };
                if let Some(at) = values.iter().position(|&x| !among.has(x)) {
                    bail!("{name}: {}", among.lacks(at / d, &cut(&names[at % d]), values[at]));
                }
                let columns = Columns { mean: vec![0.; d], std: vec![1.; d], names };
                Ok(Self { shape: [d], values, columns: Some(columns), notes: vec![] })
            }
            Scaling::Like(columns) => {
                let places = columns.places(name, &names)?;
                let values: Vec<f64> = values.chunks(d).flat_map(|row| places.iter().map(|&j| row[j])).collect();
                let notes = columns.outside(&values).into_iter().collect();
                Ok(Self { shape: [d], values, columns: Some(columns.clone()), notes })
            }
            Scaling::Own => {
                let (columns, notes) = Columns::of(name, names, &values)?;
                Ok(Self { shape: [d], values, columns: Some(columns), notes })
            }
        }
    }
}

impl Table {
    /// The same table with something more to tell the user.
    pub(crate) fn with_note(mut self, note: &str) -> Self {
        self.notes.push(note.into());
        self
    }
}

impl Dataset for Table {
    fn kind(&self) -> Kind {
        Kind::Table
    }

    fn len(&self) -> usize {
        self.values.len() / self.shape[0]
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn classes(&self) -> Option<usize> {
        None
    }

    fn get(&self, idx: &[usize]) -> Result<Batch> {
        check_indices(idx, self.len())?;
        let d = self.shape[0];
        let values = idx.iter().flat_map(|&i| &self.values[i * d..][..d]).enumerate();
        let scaled = |(i, &v): (usize, &f64)| self.columns.as_ref().map_or(v, |columns| columns.scale(i % d, v)) as f32;
        let x: Vec<f32> = values.map(scaled).collect();
        Ok(Batch::new(Tensor::from_vec(x, (idx.len(), d), &Device::Cpu)?, None))
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn columns(&self) -> Option<&Columns> {
        self.columns.as_ref()
    }
}

/// A table in a text file, see [`text`]; `header` says whether its first line is names.
pub(crate) fn open(path: &Path, scaling: &Scaling, header: Option<bool>) -> Result<Table> {
    let (known, cure) = match scaling {
        Scaling::Own => (None, "train on the rows that are whole, and fill in the others with langevin impute"),
        Scaling::Like(columns) => (Some(columns), "fill it in with langevin impute first"),
        Scaling::No | Scaling::Bits | Scaling::Integers(_) => (None, "fill it in with langevin impute first"),
    };
    let Partial { names, values, mut notes, .. } =
        text::read(path, &text::How { header, known, cure: Some(cure), asked: *scaling == Scaling::Own })?;
    let mut table = Table::new(&path.display().to_string(), names, values, scaling)?;
    notes.append(&mut table.notes);
    Ok(Table { notes, ..table })
}

/// A CSV file as of [`crate::open`], but cells may be missing: empty, NaN or NA. It has the columns `known`, if they are given.
pub fn partial(path: &Path, known: Option<&Columns>) -> Result<Partial> {
    text::read(path, &text::How { known, ..text::How::default() })
}

/// Some of `names`, for a message.
fn few(names: &[String]) -> String {
    const FEW: usize = 12;
    let mut some: Vec<String> = names.iter().take(FEW).map(|name| cut(name)).collect();
    if names.len() > FEW {
        some.push(format!("and {} more", names.len() - FEW));
    }
    some.join(", ")
}

/// A text that is short enough for a message.
fn cut(text: &str) -> String {
    const LONG: usize = 80;
    match text.char_indices().nth(LONG) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

/// A name as models before 0.1.0 kept it: 40 bytes of it.
fn cut_as_of_old(name: &str) -> String {
    String::from_utf8_lossy(&name.as_bytes()[..name.len().min(OLD)]).into_owned()
}

const OLD: usize = 40;
