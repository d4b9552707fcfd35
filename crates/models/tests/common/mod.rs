//! Walks reference cases: every folder under `$LANGEVIN_REFERENCE/FAMILY`, or the copies beside the tests.
#![allow(dead_code, clippy::print_stdout)]

use candle_core::{DType, Result, Tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every case folder of `family`; panics if there is none.
pub fn cases(family: &str) -> Vec<PathBuf> {
    cases_with(family, "config.json")
}

/// Every folder of `family` with a file of that name; panics if there is none.
pub fn cases_with(family: &str, file: &str) -> Vec<PathBuf> {
    let copies = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
    let root = std::env::var_os("LANGEVIN_REFERENCE").map_or(copies, PathBuf::from).join(family);
    let entries = std::fs::read_dir(&root).unwrap_or_else(|e| panic!("cannot read {}: {e}", root.display()));
    let mut cases: Vec<_> = entries.map(|e| e.unwrap().path()).filter(|p| p.join(file).exists()).collect();
    cases.sort();
    assert!(!cases.is_empty(), "no cases under {}", root.display());
    cases
}

pub fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// max|a - b|.
pub fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    assert_eq!(a.dims(), b.dims());
    largest(&(a.to_dtype(DType::F64)? - b.to_dtype(DType::F64)?)?)
}

/// max|a|; NaN counts as infinite.
pub fn largest(a: &Tensor) -> Result<f64> {
    Ok(worst(langevin_ops::shape::to_host(a)?.into_iter().map(f64::abs)))
}

/// The largest of `errors`; infinite if one is NaN, which [`f64::max`] passes over.
pub fn worst(errors: impl IntoIterator<Item = f64>) -> f64 {
    errors.into_iter().fold(0., |worst, e| if e.is_nan() { f64::INFINITY } else { e.max(worst) })
}

/// The largest over the tensors of a case of max|a - b| / max(max|b|, 1e-6 times the largest max|b| of the case), and
/// the tensor that has it.
pub fn error(ours: &BTreeMap<String, Tensor>, theirs: &BTreeMap<String, Tensor>) -> Result<(f64, String)> {
    let scale = theirs.values().map(largest).collect::<Result<Vec<_>>>()?.into_iter().fold(0., f64::max);
    let mut worst = (-1., String::new());
    for (name, b) in theirs {
        let a = ours.get(name).unwrap_or_else(|| panic!("{name} was not computed"));
        let error = distance(a, b)? / largest(b)?.max(1e-6 * scale);
        if error.is_nan() || error > worst.0 {
            worst = (error, name.clone());
        }
    }
    assert!(!theirs.is_empty());
    Ok(worst)
}
