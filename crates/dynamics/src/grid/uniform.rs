//! t evenly spaced from the prior end of the span to its data end. \[Song21\]

use super::{Grid, line};
use crate::Process;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Even in t.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uniform {}

impl Named for Uniform {
    const NAME: &'static str = "uniform";
    const ABOUT: &'static str = "t evenly spaced over the span, as the SDE samplers have it [Song21]";
}

impl Grid for Uniform {
    fn spaced(&self, process: &dyn Process, steps: usize) -> Vec<f64> {
        let (low, high) = process.span();
        line(high, low, steps).collect()
    }
}
