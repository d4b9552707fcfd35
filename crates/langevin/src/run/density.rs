//! Runs of densities of a family.

use super::{Folder, GoOn, Learns, New, PICTURE, Run, facts, named_data};
use crate::config::{Changes, Data, DensityConfig, idle, is_density, source};
use crate::density;
use crate::error::usage;
use anyhow::{Context, Result};
use candle_core::{DType, Device};
use langevin_data::{Columns, Dataset, Facts, Loader, LoaderOptions, Scaling};
use langevin_models::DensityModel;
use langevin_models::family::States;
use langevin_train::{Rebuild, TrainOptions, Trainer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::Table;

impl Learns for DensityConfig {
    type Model = DensityModel;

    fn parse(text: &str, changes: &[String]) -> Result<Self> {
        DensityConfig::of(crate::Config::table(text)?, changes)
    }

    fn to_toml(&self) -> Result<String> {
        DensityConfig::to_toml(self)
    }

    fn data(&self) -> &Data {
        &self.data
    }

    fn data_mut(&mut self) -> &mut Data {
        &mut self.data
    }

    fn train(&self) -> &TrainOptions {
        &self.train
    }

    fn sampler(&self) -> Result<serde_json::Value> {
        Ok(serde_json::to_value(&self.sampler)?)
    }

    fn scaling(&self) -> Scaling {
        match self.model.0.get().states() {
            States::Bits => Scaling::Bits,
            States::Real => Scaling::Own,
            States::Integers(q) => Scaling::Integers(q),
        }
    }

    fn loader(&self, data: Arc<dyn Dataset>) -> Result<Loader> {
        let Data { flip, dequantise, .. } = self.data;
        let options = LoaderOptions { batch: self.train.batch, seed: self.train.seed, flip, dequantise };
        let loader = Loader::new(data, options)?;
        match self.model.0.get().states() {
            States::Bits => Ok(loader.binarised(self.data.binarise.unwrap_or_default())?),
            States::Real => Ok(loader),
            States::Integers(q) => Ok(loader.of_integers(q)?),
        }
    }

    fn about(&self, model: &DensityModel) -> String {
        format!("{} with {} parameters", model.spec.family.name(), model.parameters())
    }

    fn averaged(&self, trainer: &Trainer<DensityModel>) -> Result<DensityModel> {
        Ok(Rebuild::with(trainer.model(), trainer.averaged()?)?)
    }

    fn picture(&self, model: &DensityModel, columns: Option<&Columns>, path: &Path) -> Result<PathBuf> {
        let seeds: Vec<u64> = (0..PICTURE as u64).collect();
        density::picture(model, &self.sampler, &seeds, columns, path)
    }
}

/// The configuration of a new run of a density, if it is one.
pub(super) fn asked(new: &New) -> Result<Option<DensityConfig>> {
    let (label, text) = source(&new.preset)?;
    let labelled = || format!("configuration {label}");
    let file = crate::Config::table(&text).with_context(labelled)?;
    if !is_density(&file) {
        let typed = Changes::parse(&new.changes)?;
        return match typed.first(|key| key == "model.family") {
            Some(change) => usage(format!(
                "`{change}`: {label} is of a model that denoises, whose other keys a family has not; begin with the preset \
                 rbm-digits, and give --data"
            )),
            None => Ok(None),
        };
    }
    let typed = Changes::typed(&new.changes)?;
    let mut config = DensityConfig::of(file, &new.all_changes()?).with_context(labelled)?;
    if typed.first(|key| key == "data.spec").is_some() {
        idle::ambiguous("data.spec", &config.data.spec)?;
    }
    named_data(&mut config.data, new.data.as_deref())?;
    idle::of_size(&mut config.data, &typed)?;
    Ok(Some(config))
}

/// The run in a new folder.
pub(super) fn begin(mut config: DensityConfig, new: &New, device: &Device) -> Result<Run<DensityConfig>> {
    let (data, facts) = facts::begin(&mut config, None)?;
    let trainer = prepared(&config, &facts, device)?;
    Run::begin(config, (data.into(), facts), new.out.as_deref(), &new.name(), trainer)
}

/// What the run in a folder computes, if it is one of a density.
pub(super) fn kept(asked: &GoOn) -> Result<Option<DensityConfig>> {
    let (text, path) = asked.text()?;
    let table: Table = crate::Config::table(&text).with_context(|| path.display().to_string())?;
    if !is_density(&table) {
        return Ok(None);
    }
    let mut config = DensityConfig::of(table, &asked.changes).with_context(|| path.display().to_string())?;
    named_data(&mut config.data, asked.data.as_deref())?;
    Ok(Some(config))
}

/// The run in a folder, with the data that it began with or such as take their place.
pub(super) fn go_on(mut config: DensityConfig, asked: &GoOn, device: &Device) -> Result<Run<DensityConfig>> {
    let folder = Folder::open(&asked.dir)?; // before the data are read: another process may be training there
    let (data, facts) = facts::go_on(&mut config, &asked.dir, (asked.data.is_some(), asked.new_data))?;
    let trainer = prepared(&config, &facts, device)?;
    Run::start(config, (data.into(), facts), folder, trainer)
}

impl Run<DensityConfig> {
    /// As [`Run::on`], of a density.
    pub fn density_on(mut config: DensityConfig, data: Arc<dyn Dataset>, out: &Path, device: &Device) -> Result<Self> {
        let facts = facts::learnt(&mut config, data.as_ref())?;
        let trainer = prepared(&config, &facts, device)?;
        Self::in_folder(config, (data, facts), out, trainer)
    }

    /// A new run of `config` in the new folder `out`, or the first free one of `runs/run`, `runs/run-2` and so on.
    pub fn new_density(config: DensityConfig, out: Option<&Path>, device: &Device) -> Result<Self> {
        begin(config, &New { out: out.map(PathBuf::from), ..New::default() }, device)
    }
}

fn prepared(config: &DensityConfig, facts: &Facts, device: &Device) -> Result<Trainer<DensityModel>> {
    let model = DensityModel::new(config.spec(facts), config.train.seed, DType::F32, device)?;
    let (loss, options) = (config.loss.clone(), config.train.clone());
    Ok(Trainer::new(model, loss, config.optimiser.clone(), config.ema.clone(), options)?)
}
