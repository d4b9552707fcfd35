//! Tables of numbers, each column standardised, x = (value - mean) / std, by moments of its own or of what a model learnt.

use crate::{Batch, Dataset, Kind, check_indices, files};
use candle_core::{Device, Result, Tensor};
use serde::{Deserialize, Serialize};
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

/// Values of a column that differ by less than this times their size differ by rounding alone.
const ROUNDING: f64 = 16. * f64::EPSILON;

/// The mean and the standard deviation of a column; where it is constant, its value and 0.
fn moments(column: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let first = column.clone().next().unwrap_or(0.);
    let (low, high) = column.clone().fold((first, first), |(low, high), x| (low.min(x), high.max(x)));
    let range = high - low;
    if range <= ROUNDING * low.abs().max(high.abs()) {
        return (first, 0.);
    }
    let n = column.clone().count() as f64;
    let mean = first + column.clone().map(|x| (x - first) / n).sum::<f64>();
    // as parts of the range, whose squares neither overflow nor vanish
    (mean, range * column.map(|x| ((x - mean) / range).powi(2) / n).sum::<f64>().sqrt())
}

impl Columns {
    /// The moments of the columns of `values` `[N, D]`, and what the user should know of them.
    fn of(name: &str, names: Vec<String>, values: &[f64]) -> Result<(Self, Vec<String>)> {
        let d = names.len();
        if values.len() == d {
            bail!("{name} has one row; its columns cannot be standardised, give at least two");
        }
        let (mean, std): (Vec<f64>, Vec<f64>) = (0..d).map(|j| moments(values[j..].iter().step_by(d).copied())).unzip();
        if let Some(j) = (0..d).find(|&j| !(mean[j].is_finite() && std[j].is_finite())) {
            bail!("{name}: the numbers in column {} are too large to standardise; rescale that column", names[j]);
        }
        let columns = Self { names, mean, std };
        let constant: Vec<String> =
            columns.constant().map(|j| format!("{} = {}", columns.names[j], columns.mean[j])).collect();
        if constant.len() == d {
            bail!("{name}: every column is constant, so there is nothing to learn; check the table");
        }
        let notes = match constant.is_empty() {
            true => vec![],
            false => vec![format!("constant columns, the same in every sample: {}", constant.join(", "))],
        };
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
        // the one place of a name; one that is there twice could be either
        let place = |own: &String| -> Option<usize> {
            let mut of = theirs.iter().enumerate().filter(|(_, name)| *name == own).map(|(j, _)| j);
            of.next().filter(|_| of.next().is_none())
        };
        let places: Vec<usize> = self.names.iter().filter_map(place).collect();
        if theirs.len() != d || !(0..d).all(|j| places.contains(&j)) {
            bail!(
                "{name} has the columns {}; the model was trained on {}: give it these, under these names",
                theirs.join(", "),
                self.names.join(", ")
            );
        }
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
            "{more} rows have another value in a column that was constant in what the model learnt, such as {value} in \
             column {name}, where all had {constant}; these rows are as unlikely as can be"
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
        Ok(Batch { x: Tensor::from_vec(x, (idx.len(), d), &Device::Cpu)?, labels: None })
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn columns(&self) -> Option<&Columns> {
        self.columns.as_ref()
    }
}

/// A CSV file: numbers, separated by `,`, `;` or tabs, with or without a line of names above.
pub(crate) fn open(path: &Path, scaling: &Scaling) -> Result<Table> {
    let name = path.display().to_string();
    let bytes = files::read_up_to(&mut *files::open(path)?, files::MOST_BYTES, &name)?;
    let cure = match scaling {
        Scaling::Own => "train on the rows that are whole, and fill in the others with langevin impute",
        Scaling::Like(_) | Scaling::No => "fill it in with langevin impute first",
    };
    let Partial { names, values, .. } = cells(&bytes, &name, Some(cure))?;
    Table::new(&name, names, values, scaling)
}

/// A table in which cells may be missing, as it stands: nothing is scaled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Partial {
    /// From the header, or `1`, `2`, ... where there is none.
    pub names: Vec<String>,
    /// Row by row, [N, D]; NaN where a cell is empty, NaN or NA.
    pub values: Vec<f64>,
    /// The cells as they are written, [N, D].
    pub texts: Vec<Box<str>>,
}

/// A CSV file as of [`crate::open`], but cells may be missing: empty, NaN or NA.
pub fn partial(path: &Path) -> Result<Partial> {
    let name = path.display().to_string();
    let bytes = files::read_up_to(&mut *files::open(path)?, files::MOST_BYTES, &name)?;
    cells(&bytes, &name, None)
}

/// Names and cells. The first line is names if none of its cells is a number. Cells may be missing, and their texts are
/// kept, unless there is a `cure` that the error for one names.
fn cells(bytes: &[u8], name: &str, cure: Option<&str>) -> Result<Partial> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes); // the mark that some spreadsheets put first
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .delimiter(delimiter(bytes))
        .from_reader(bytes);
    let (mut names, mut values, mut texts) = (Vec::<String>::new(), Vec::new(), Vec::new());
    let mut record = csv::ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(e) => bail!("{name} cannot be read as CSV: {e}"),
        }
        let line = record.position().map_or(0, |p| p.line());
        let text = |cell: &[u8]| String::from_utf8_lossy(&cell[..cell.len().min(40)]).into_owned();
        if names.is_empty() {
            if record.iter().all(|cell| number(cell).is_none()) {
                names = record.iter().map(text).collect();
                continue;
            }
            names = (1..=record.len()).map(|j| j.to_string()).collect();
        }
        if record.len() != names.len() {
            bail!(
                "{name}, line {line}: {} cells where the first line has {}; make all rows equally long",
                record.len(),
                names.len()
            );
        }
        for (cell, column) in record.iter().zip(&names) {
            match number(cell) {
                Some(x) if x.is_finite() => values.push(x),
                _ if is_missing(cell) => match cure {
                    None => values.push(f64::NAN),
                    Some(cure) => {
                        let what = if cell.is_empty() { "empty".into() } else { text(cell) };
                        bail!("{name}, line {line}, column {column}: the cell is {what}; {cure}")
                    }
                },
                _ => bail!("{name}, line {line}, column {column}: {:?} is not a finite number", text(cell)),
            }
            if cure.is_none() {
                texts.push(String::from_utf8_lossy(cell).into());
            }
        }
    }
    if values.is_empty() {
        bail!("{name} has no rows of numbers; give a table with at least two");
    }
    Ok(Partial { names, values, texts })
}

fn is_missing(cell: &[u8]) -> bool {
    cell.is_empty() || [&b"nan"[..], b"na"].contains(&&cell.to_ascii_lowercase()[..])
}

fn number(cell: &[u8]) -> Option<f64> {
    std::str::from_utf8(cell).ok()?.parse().ok()
}

/// The one of `,` `;` and tab that the first line has most of.
fn delimiter(bytes: &[u8]) -> u8 {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or(bytes);
    let count = |d: u8| line.iter().filter(|&&b| b == d).count();
    [b'\t', b';', b','].into_iter().max_by_key(|&d| count(d)).unwrap_or(b',')
}
