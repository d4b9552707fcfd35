//! What a weights file keeps beside the weights: the keys of its metadata, and the facts of the data that the model learnt.

use anyhow::{Context, Result};
use langevin_data::Facts;

/// Metadata key of a weights file: the resolved configuration of its run, as TOML.
pub const RUN: &str = "langevin.run";
/// Metadata key: the step of training that the weights are of.
pub const STEP: &str = "langevin.step";
/// Metadata key: what the model's files keep of its data, as JSON of [`Facts`].
pub const DATA: &str = "langevin.data";
/// Metadata key: how the columns of a table were scaled, as JSON of [`Columns`](langevin_data::Columns); earlier versions wrote it in place of [`DATA`].
pub const COLUMNS: &str = "langevin.columns";
/// Metadata key: the relative width of the average that the weights are, where its profile has one.
pub const SIGMA_REL: &str = "langevin.sigma_rel";

/// The facts in `text`; `what` is what an error calls it.
pub fn facts(text: &str, what: &str) -> Result<Facts> {
    serde_json::from_str(text).with_context(|| format!("{what}: what it keeps of the data is damaged"))
}
