//! linspace(0, T - 1, n) of a table's entries, rounded: from the last entry to the first. (diffusers)

use super::{Grid, line};
use crate::Process;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Even in t with both ends, on the entries of a table; for a continuous process the same as uniform.
///
/// One step is the last entry, where numpy's linspace would have the first, which is no place to start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Linspace {}

impl Named for Linspace {
    const NAME: &'static str = "linspace";
    const ABOUT: &'static str = "entries of a table, evenly spaced with both the first and the last (diffusers)";
}

impl Grid for Linspace {
    fn spaced(&self, process: &dyn Process, steps: usize) -> Vec<f64> {
        let (low, high) = process.span();
        match process.discrete() {
            // halves go to the even entry, as numpy rounds
            Some(entries) => line(entries as f64 - 1., 0., steps).map(|k| k.round_ties_even() + 1.).collect(),
            None => line(high, low, steps).collect(),
        }
    }
}
