//! (0, T/n, 2T/n, ...) + offset of a table's entries: from the first entry, without the last. [SongDDIM], diffusers
//!
//! It is the spacing of most published DDIM figures, flaw and all: it starts one stride short of the prior. \[Lin23\]

use super::Grid;
use crate::Process;
use candle_core::{Result, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Even in t from the data end; the first time lies one stride before the end of the span. One step is the end itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Leading {
    /// Entries by which all are shifted towards noise (`steps_offset`): 1 for Stable Diffusion. Only for tables.
    pub offset: usize,
}

impl Named for Leading {
    const NAME: &'static str = "leading";
    const ABOUT: &'static str = "entries of a table in even steps up from the first, so short of the last (diffusers)";
}

impl Grid for Leading {
    fn spaced(&self, process: &dyn Process, steps: usize) -> Vec<f64> {
        let (low, high) = process.span();
        if steps == 1 {
            return vec![high];
        }
        match process.discrete() {
            Some(entries) => {
                let (stride, last) = (entries / steps, entries as f64);
                (0..steps).rev().map(|i| ((i * stride + self.offset + 1) as f64).min(last)).collect()
            }
            None => (0..steps).rev().map(|i| low + (high - low) * i as f64 / steps as f64).collect(),
        }
    }

    fn check(&self) -> Result<()> {
        if self.offset > 1_000_000 {
            bail!("offset is {}; it must be at most 1000000", self.offset);
        }
        Ok(())
    }
}
