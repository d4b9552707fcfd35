//! round(T, T - T/n, T - 2T/n, ...) - 1 of a table's entries, from the last one back. \[Lin23\]

use super::Grid;
use crate::Process;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Even in t from the prior to clean data itself: t_i = end (1 - i/n), rounded on a table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trailing {}

impl Named for Trailing {
    const NAME: &'static str = "trailing";
    const ABOUT: &'static str = "entries of a table in even steps back from the last; even steps in t to 0 [Lin23]";
}

impl Grid for Trailing {
    fn spaced(&self, process: &dyn Process, steps: usize) -> Vec<f64> {
        let end = process.span().1;
        let times = (0..steps).map(|i| end * (1. - i as f64 / steps as f64));
        match process.discrete() {
            Some(_) => times.map(f64::round_ties_even).collect(),
            None => times.collect(),
        }
    }
}
