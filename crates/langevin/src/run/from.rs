//! `model.from`: a run that starts from a model which is there already, of ours, of a folder of diffusers or of the Hub.
//!
//! The loaded model brings its network, process, prediction and loss: they take the place of the preset's. A file that
//! names `from` itself, and changes on the command line, come after it and have the last word.

use crate::config::{Config, apply, is_density, source};
use crate::error::usage;
use crate::open::{self, Opened};
use anyhow::{Context, Result};
use candle_core::Device;
use langevin_dynamics::predict::AnyParametrisation;
use langevin_models::{Head, Model};
use langevin_train::{AnyLevel, AnyWeight, Distillation, Teacher, level::Discrete};
use std::collections::BTreeMap;
use toml::{Table, Value};

/// The share of a run that learns the loaded model's output, and the most steps that it takes, unless `train.distil` says.
const SHARE: u64 = 4;
const MOST: u64 = 1000;
/// How often a class is hidden from a model with a null class whose file does not say how it was trained.
const LABEL_DROPOUT: f64 = 0.1;

impl Config {
    /// The preset or the file called `name`, or toy:NAME, with these changes, `key=value`. One that starts from another model opens
    /// it.
    ///
    /// Errors, naming the key and what it may be.
    pub fn named<S: AsRef<str>>(name: &str, changes: &[S]) -> Result<Self> {
        let (label, text) = source(name)?;
        if is_density(&Self::table(&text)?) {
            return usage(format!("{label} is of a density of a family; such a one is a DensityConfig"));
        }
        let changes: Vec<String> = changes.iter().map(|change| change.as_ref().to_string()).collect();
        Ok(configuration(name, &changes, &Device::Cpu)?.0)
    }
}

/// The run of the preset or file `name` with `changes`, and the model that it starts from, if it does.
pub fn configuration(name: &str, changes: &[String], device: &Device) -> Result<(Config, Option<Opened>)> {
    let (label, text) = source(name)?;
    let labelled = || format!("configuration {label}");
    let file = without_facts(Config::table(&text).with_context(labelled)?, &label);
    let named = |table: &Table| Some(table.get("model")?.get("from")?.as_str()?.to_string());
    let mut changed = Table::new();
    apply(&mut changed, changes)?;
    let (from, table) = match (named(&changed), named(&file)) {
        (Some(from), _) => {
            let opened = opened(&from, device)?;
            let table = over(file, brought(&opened)?);
            (Some(opened), table)
        }
        (None, Some(from)) => {
            let opened = opened(&from, device)?;
            let table = over(brought(&opened)?, file);
            (Some(opened), table)
        }
        (None, None) => (None, file),
    };
    let mut run = Config::of(table, changes).with_context(labelled)?;
    run.model.from = run.model.from.map(|from| open::absolute(&from)).transpose()?;
    Ok((run, from))
}

/// `file` without what an earlier version wrote of the data into the configuration of a run, which is told.
fn without_facts(mut file: Table, label: &str) -> Table {
    let section = |file: &mut Table, section: &str, key: &str| match file.get_mut(section) {
        Some(Value::Table(section)) => section.remove(key),
        _ => None,
    };
    if let Some(samples) = section(&mut file, "data", "samples") {
        let sigma = section(&mut file, "model", "sigma_data");
        let sigma = sigma.map(|sigma| format!(", and so is its model.sigma_data = {sigma}")).unwrap_or_default();
        crate::note!("configuration {label}: data.samples = {samples} of the run that wrote it is left out{sigma}");
    }
    file
}

/// The model that a run starts from.
pub fn opened(from: &str, device: &Device) -> Result<Opened> {
    open::open(from, device).with_context(|| format!("model.from = {from}"))
}

/// The sections of `last` in the place of those of `first`; of sections of settings, each setting.
fn over(mut first: Table, last: Table) -> Table {
    for (key, value) in last {
        match (first.get_mut(&key), value) {
            (Some(Value::Table(before)), Value::Table(after))
                if ["model", "loss", "train", "data"].contains(&&*key) =>
            {
                before.extend(after);
            }
            (_, value) => {
                first.insert(key, value);
            }
        }
    }
    first
}

/// What a model brings of a configuration.
fn brought(opened: &Opened) -> Result<Table> {
    let spec = &opened.model.spec;
    let mut model = Table::from_iter([
        ("net".to_string(), Value::try_from(&spec.net)?),
        ("predict".to_string(), Value::try_from(&spec.predict)?),
        ("sigma_data".to_string(), spec.sigma_data.into()),
        ("from_zero".to_string(), spec.from_zero.into()),
        ("conditional".to_string(), spec.classes.is_some().into()),
    ]);
    if spec.head == Head::Energy {
        model.insert("head".into(), Value::try_from(spec.head)?);
        model.insert("form".into(), Value::try_from(spec.form)?);
    }
    let mut all = Table::from_iter([
        ("model".to_string(), model.into()),
        ("process".to_string(), Value::try_from(&spec.process)?),
    ]);
    if spec.null_class {
        let dropout = opened.run.as_ref().map_or(LABEL_DROPOUT, |run| run.train.label_dropout);
        all.insert("train".into(), Table::from_iter([("label_dropout".to_string(), dropout.into())]).into());
    }
    if let Some(run) = &opened.run {
        all.insert("loss".into(), Value::try_from(&run.loss)?);
    } else if opened.scheduler.is_some() {
        // as diffusers' own scripts train: the plain squared error of the output, at whole steps where there are any
        let mut loss = Table::new();
        if let Ok(weight) = AnyWeight::named(&format!("unit-{}", spec.predict.name())) {
            loss.insert("weight".into(), Value::try_from(&weight)?);
        }
        if spec.process.get().discrete().is_some() {
            loss.insert("level".into(), Value::try_from(AnyLevel::from(Discrete::default()))?);
        }
        all.insert("loss".into(), loss.into());
    }
    Ok(all)
}

/// Gives `model` the weights of the model that its run starts from, and says what could not be taken. Returns how many steps
/// it must learn from that model, and what these learn.
pub fn begin(run: &Config, model: &Model, from: Opened) -> Result<(u64, Option<Distillation>)> {
    let what = from.what.clone();
    let left = model.take_weights(&from.model)?;
    let all = model.vars().len();
    match left.as_slice() {
        [] => crate::note!("weights of {what}"),
        [first, ..] => crate::note!(
            "{} of {all} parameters from {what}; the others have no counterpart there and start fresh: {first}{}",
            all - left.len(),
            if left.len() > 1 { ", ..." } else { "" }
        ),
    }
    if let AnyParametrisation::Consistency(_) = from.model.spec.predict {
        return usage(format!(
            "model.from: {what} is a consistency model: it gives ends of paths, and no score that training could \
                 start from"
        ));
    }
    let exact = left.is_empty() && alike(model, &from.model)?;
    // classes that it does not know, and no null class to take for them
    let unknown = from.model.spec.classes.is_some_and(|n| model.spec.classes.is_some_and(|m| m > n))
        && !from.model.spec.null_class;
    let steps = match run.train.distil {
        Some(steps) => steps,
        None if exact || unknown => 0,
        None => (run.train.steps / SHARE).clamp(1, MOST),
    };
    if steps == 0 {
        if unknown && run.train.distil.is_none() {
            crate::note!(
                "{what} does not know all classes of the data, so that its output is not learnt first (train.distil \
                     = 0)"
            );
        } else if !exact {
            crate::note!("train.distil = 0: the score begins as another than that of {what}");
        }
        return Ok((0, None));
    }
    let teacher = Teacher::new(from.model, &model.spec).map_err(|e| anyhow::anyhow!("model.from: {what} {e}"))?;
    Ok((steps, Some(Distillation::before(&run.loss.0, teacher))))
}

/// Whether two models of the same weights are the same function.
fn alike(a: &Model, b: &Model) -> Result<bool> {
    let facts = |model: &Model| -> Result<BTreeMap<String, serde_json::Value>> {
        let serde_json::Value::Object(mut facts) = serde_json::to_value(&model.spec)? else {
            return Ok(BTreeMap::new());
        };
        facts.remove("shape"); // a network of convolutions takes any
        if model.spec.head == Head::Denoiser {
            facts.remove("form");
        }
        Ok(facts.into_iter().collect())
    };
    Ok(facts(a)? == facts(b)?)
}
