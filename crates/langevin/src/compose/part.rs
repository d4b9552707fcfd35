//! A model of a composition, as `--let NAME=MODEL[,class=CLASS]` gives it.

use crate::classes;
use crate::error::{Usage, usage};
use crate::open::{self, Opened};
use anyhow::Result;
use candle_core::{Device, Tensor};
use langevin_data::{Columns, list};
use langevin_dynamics::likelihood::Constants;
use langevin_dynamics::{Cond, Expression, Preconditioned};
use langevin_models::ModelSpec;

/// A model under the name that the composition calls it by.
pub struct Part {
    pub name: String,
    pub opened: Opened,
    label: Option<u32>,
    /// Of a normalised energy in a mixture, once it is known.
    pub log_z: Option<Constants>,
}

impl Part {
    /// From NAME=MODEL\[,class=CLASS\].
    pub fn open(text: &str, device: &Device) -> Result<Self> {
        let Some((name, model)) = text.split_once('=').map(|(name, model)| (name.trim(), model.trim())) else {
            return usage(Usage::of("let", "give NAME=MODEL, such as a=runs/digits,class=3").value(text));
        };
        if Expression::parse(name).ok() != Some(Expression::Model(name.into())) {
            return usage(Usage::of("let", format!("`{name}` is no name; take letters, digits and _")).value(text));
        }
        let (model, class) = match model.rsplit_once(",class=") {
            None => (model, None),
            Some((model, class)) => (model, Some(class.trim().to_string())),
        };
        let opened = open::open(model, device)?;
        if let (Some(n), None) = (opened.model.spec.classes, &class) {
            return usage(
                Usage::of(
                    "let",
                    format!(
                        "this model has classes; add one of them, ,class=0 to ,class={}{}",
                        n - 1,
                        opened.class_names().map(|names| format!(", or by name: {}", list(names))).unwrap_or_default()
                    ),
                )
                .value(text),
            );
        }
        let label = class.map(|class| classes::number(&opened, &class)).transpose();
        let label = label.map_err(|e| {
            Usage::of("let", e.downcast::<Usage>().map_or_else(|e| e.to_string(), |e| e.why)).value(text)
        })?;
        Ok(Self { name: name.into(), opened, label, log_z: None })
    }

    pub fn spec(&self) -> &ModelSpec {
        &self.opened.model.spec
    }

    /// The model for `n` samples.
    pub fn denoiser(&self, n: usize) -> Result<Preconditioned<'_>> {
        let model = &self.opened.model;
        let labels = self.label.map(|label| Tensor::full(label, n, model.device())).transpose()?;
        Ok(model.denoiser(Cond::class(labels))?)
    }

    /// Errors unless `other` sees the columns of a table in the same coordinates: only there is a product one of densities.
    pub fn same_columns(&self, other: &Part) -> Result<()> {
        let (a, b) = (&self.name, &other.name);
        let (own, theirs) = match (self.opened.columns()?, other.opened.columns()?) {
            (None, None) => return Ok(()),
            (Some(own), Some(theirs)) => (own, theirs),
            (own, _) => {
                let (table, none) = if own.is_some() { (a, b) } else { (b, a) };
                return usage(Usage::of(
                    "compose",
                    format!(
                        "`{table}` has the columns of a table, scaled, and `{none}` has none; give models of one table"
                    ),
                ));
            }
        };
        if own.names != theirs.names {
            return usage(Usage::of(
                "compose",
                format!(
                    "the columns of `{a}` are {}, those of `{b}` {}; give models of one table",
                    own.names.join(", "),
                    theirs.names.join(", ")
                ),
            ));
        }
        let moments =
            |columns: &Columns| columns.mean.iter().copied().zip(columns.std.iter().copied()).collect::<Vec<_>>();
        for ((name, of_a), of_b) in own.names.iter().zip(moments(&own)).zip(moments(&theirs)) {
            if of_a != of_b {
                return usage(Usage::of(
                    "compose",
                    format!(
                        "column {name} was scaled by {} +- {} for `{a}` and by {} +- {} for `{b}`, so that their \
                     densities are of different coordinates; give models that were trained on one table",
                        of_a.0, of_a.1, of_b.0, of_b.1
                    ),
                ));
            }
        }
        Ok(())
    }
}
