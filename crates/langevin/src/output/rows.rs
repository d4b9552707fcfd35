//! Tables as CSV, written row by row.

use super::pending::Pending;
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use langevin_data::Columns;
use std::path::{Path, PathBuf};

/// A table on its way to a file.
pub struct Rows {
    path: PathBuf,
    table: csv::Writer<Pending>,
}

impl Rows {
    /// A table whose columns have these names.
    pub fn create(path: &Path, names: &[String]) -> Result<Self> {
        let mut rows = Self { path: path.into(), table: csv::Writer::from_writer(Pending::create(path)?) };
        rows.add([names.to_vec()])?;
        Ok(rows)
    }

    /// More rows.
    pub fn add(&mut self, rows: impl IntoIterator<Item = Vec<String>>) -> Result<()> {
        let wrote = rows.into_iter().try_for_each(|row| self.table.write_record(&row));
        wrote.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Puts the file in its place.
    pub fn finish(self) -> Result<()> {
        let file = self.table.into_inner().map_err(|e| anyhow::anyhow!("{}", e.error()));
        file.with_context(|| format!("cannot write {}", self.path.display()))?.finish()
    }
}

/// Writes a table as CSV, its columns under `names`.
pub fn save_csv(path: &Path, names: &[String], rows: impl Iterator<Item = Vec<String>>) -> Result<()> {
    let mut table = Rows::create(path, names)?;
    table.add(rows)?;
    table.finish()
}

/// Writes samples `[N, D]` as CSV: in the units of their columns, or as they are under x1, x2, ...
pub fn save_samples(path: &Path, columns: Option<&Columns>, x: &Tensor) -> Result<()> {
    save_csv(path, &names(columns, x.dim(1)?), cells(columns, x)?.into_iter())
}

/// The names of the columns of samples `[N, d]`: their own, or x1, x2, ...
pub fn names(columns: Option<&Columns>, d: usize) -> Vec<String> {
    columns.map_or_else(|| (1..=d).map(|i| format!("x{i}")).collect(), |columns| columns.names.clone())
}

/// Samples `[N, D]` as text: in the units of their columns, or as they are.
pub fn cells(columns: Option<&Columns>, x: &Tensor) -> Result<Vec<Vec<String>>> {
    let Some(columns) = columns else {
        let rows: Vec<Vec<f32>> = x.to_dtype(DType::F32)?.to_vec2()?;
        return Ok(rows.iter().map(|row| row.iter().map(f32::to_string).collect()).collect());
    };
    let cells = |row: &Vec<f64>| row.iter().zip(&columns.std).map(|(&v, &std)| digits(v, std)).collect();
    Ok(columns.restore(x)?.iter().map(cells).collect())
}

/// `v`, drawn as an f32 of a column of the deviation `unit`: to as many digits as that has.
pub fn digits(v: f64, unit: f64) -> String {
    let places = (7. - unit.log10().floor()).clamp(0., 300.) as usize;
    let (all, some) = (v.to_string(), format!("{v:.places$}"));
    let some = if some.contains('.') { some.trim_end_matches('0').trim_end_matches('.') } else { &some };
    let shortest = if some.len() < all.len() { some } else { &all };
    // numbers that are far from 1 are read more easily with an exponent
    if shortest.len() > LONG { format!("{v:e}") } else { shortest.into() }
}

/// Characters of a number that is still read as it stands.
const LONG: usize = 24;

/// Samples `[N, D]` as arrays have them: in the units of their columns if they have some. f32, or f64 where that lacks the
/// digits of a column.
pub fn in_units(columns: Option<&Columns>, x: &Tensor) -> Result<Tensor> {
    let Some(columns) = columns else { return Ok(x.to_dtype(DType::F32)?) };
    let rows = Tensor::new(columns.restore(x)?, &Device::Cpu)?;
    let short = columns.mean.iter().zip(&columns.std).any(|(&mean, &std)| match std {
        0. => (mean as f32).to_string() != mean.to_string(),
        std => mean.abs() > DIGITS * std || mean.abs() + DIGITS * std > f64::from(f32::MAX),
    });
    Ok(if short { rows } else { rows.to_dtype(DType::F32)? })
}

/// A column whose mean is more deviations from 0 than this is not written as f32.
const DIGITS: f64 = 1000.;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_of_their_column() {
        let found = [(1e9 + 0.123_456_789, 1.), (1e9 + 0.5, 1e3), (1000., 0.), (0.1, 1e-20), (12_345.678, 1e9)];
        let found = found.map(|(v, unit)| digits(v, unit));
        assert_eq!(found, ["1000000000.1234568", "1000000000.5", "1000", "0.1", "12346"]);
        let found = [(7e-6, 0.), (20_240_101., 0.), (1.25e300, 1e299), (-2.5e-31, 1e-32)];
        let found = found.map(|(v, unit)| digits(v, unit));
        assert_eq!(found, ["0.000007", "20240101", "1.25e300", "-2.5e-31"]);
    }

    #[test]
    fn names_of_columns_are_quoted_where_they_must_be() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("t.csv");
        save_csv(&path, &["a".into(), "b, \"c\"".into()], [vec!["1".into(), "2.5".into()]].into_iter())?;
        assert_eq!(std::fs::read_to_string(path)?, "a,\"b, \"\"c\"\"\"\n1,2.5\n");
        Ok(())
    }
}
