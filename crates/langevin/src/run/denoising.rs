//! Runs of models that denoise.

use super::{AnyRun, Folder, GoOn, Learns, New, PICTURE, Run, density, facts, from, named_data};
use crate::config::{Changes, Config, Data, idle};
use crate::open::Opened;
use crate::sample;
use anyhow::{Context, Result};
use candle_core::{DType, Device};
use langevin_data::{Columns, Dataset, Facts, Loader, LoaderOptions};
use langevin_models::Model;
use langevin_train::{TrainOptions, Trainer, last_checkpoint};
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Learns for Config {
    type Model = Model;

    fn parse(text: &str, changes: &[String]) -> Result<Self> {
        Config::parse(text, changes)
    }

    fn to_toml(&self) -> Result<String> {
        Config::to_toml(self)
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

    fn conditional(&self) -> bool {
        self.model.conditional
    }

    fn sigma_data(&mut self) -> Option<&mut Option<f64>> {
        Some(&mut self.model.sigma_data)
    }

    fn loader(&self, data: Arc<dyn Dataset>) -> Result<Loader> {
        let Data { flip, dequantise, .. } = self.data;
        let options = LoaderOptions { batch: self.train.batch, seed: self.train.seed, flip, dequantise };
        Ok(Loader::new(data, options)?)
    }

    fn about(&self, model: &Model) -> String {
        let (net, sigma_data) = (self.model.net.name(), model.spec.sigma_data);
        format!("{net} with {} parameters, sigma_data {sigma_data:.3}", model.parameters())
    }

    fn averaged(&self, trainer: &Trainer<Model>) -> Result<Model> {
        Ok(trainer.averaged_model()?)
    }

    fn picture(&self, model: &Model, columns: Option<&Columns>, path: &Path) -> Result<PathBuf> {
        let seeds: Vec<u64> = (0..PICTURE as u64).collect();
        sample::picture(model, &self.sampler, &seeds, columns, path)
    }
}

impl New {
    /// What it computes, and the model that it starts from, if it does.
    fn denoising(&self, device: &Device) -> Result<(Config, Option<Opened>)> {
        let typed = Changes::typed(&self.changes)?;
        let (mut config, from) = from::configuration(&self.preset, &self.all_changes()?, device)?;
        if typed.first(|key| key == "data.spec").is_some() {
            idle::ambiguous("data.spec", &config.data.spec)?;
        }
        named_data(&mut config.data, self.data.as_deref())?;
        idle::of_run(&mut config, &typed)?;
        Ok((config, from))
    }

    /// What it computes, as TOML.
    pub fn config(&self, device: &Device) -> Result<String> {
        match density::asked(self)? {
            Some(config) => config.to_toml(),
            None => self.denoising(device)?.0.to_toml(),
        }
    }

    /// The run, in a folder of its own: a mistake leaves none.
    pub fn begin(&self, device: &Device) -> Result<AnyRun> {
        if let Some(config) = density::asked(self)? {
            return density::begin(config, self, device).map(AnyRun::Density);
        }
        let (mut config, from) = self.denoising(device)?;
        let (data, facts) = facts::begin(&mut config, from.as_ref())?;
        let (config, trainer) = prepared(config, from, &facts, device)?;
        let run = Run::begin(config, (data.into(), facts), self.out.as_deref(), &self.name(), trainer)?;
        Ok(AnyRun::Denoising(run))
    }
}

impl GoOn {
    /// What it computes, and the model that it started from, as long as that is needed.
    fn denoising(&self, device: &Device) -> Result<(Config, Option<Opened>)> {
        let (text, path) = self.text()?;
        let mut config = Config::parse(&text, &self.changes).with_context(|| path.display().to_string())?;
        named_data(&mut config.data, self.data.as_deref())?;
        let at = last_checkpoint(&Folder::state_of(&self.dir));
        let from = config.model.from.as_ref().filter(|_| at.is_none_or(|step| step < config.train.distil()));
        let from = from.map(|from| from::opened(from, device)).transpose()?;
        Ok((config, from))
    }

    /// What it computes, as TOML.
    pub fn config(&self, device: &Device) -> Result<String> {
        match density::kept(self)? {
            Some(config) => config.to_toml(),
            None => self.denoising(device)?.0.to_toml(),
        }
    }

    /// The run, with the data that it began with or such as take their place.
    pub fn begin(&self, device: &Device) -> Result<AnyRun> {
        if let Some(config) = density::kept(self)? {
            return density::go_on(config, self, device).map(AnyRun::Density);
        }
        let (mut config, from) = self.denoising(device)?;
        let folder = Folder::open(&self.dir)?; // before the data are read: another process may be training there
        let (data, facts) = facts::go_on(&mut config, &self.dir, (self.data.is_some(), self.new_data))?;
        let (config, trainer) = prepared(config, from, &facts, device)?;
        Run::start(config, (data.into(), facts), folder, trainer).map(AnyRun::Denoising)
    }
}

impl Run {
    /// A new run of `config` on `data` of one's own, in the folder `out`, or the run there goes on, if it began with the same ones:
    /// `data.spec` is then but a name.
    ///
    /// Errors if the folder holds a run of another configuration, or on other data.
    pub fn on(mut config: Config, data: Arc<dyn Dataset>, out: &Path, device: &Device) -> Result<Self> {
        let facts = facts::learnt(&mut config, data.as_ref())?;
        if let Ok(path) = Folder::config_of(out) {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let kept = Config::parse(&text, &[]).with_context(|| path.display().to_string())?;
            config.train.distil = config.train.distil.or(kept.train.distil); // which was found when it began
        }
        let from = config.model.from.as_ref().map(|from| from::opened(from, device)).transpose()?;
        let (config, trainer) = prepared(config, from, &facts, device)?;
        Self::in_folder(config, (data, facts), out, trainer)
    }

    /// A new run of `config` in the new folder `out`, or the first free one of `runs/run`, `runs/run-2` and so on.
    pub fn new(mut config: Config, out: Option<&Path>, device: &Device) -> Result<Self> {
        let from = config.model.from.as_ref().map(|from| from::opened(from, device)).transpose()?;
        let (data, facts) = facts::begin(&mut config, from.as_ref())?;
        let (config, trainer) = prepared(config, from, &facts, device)?;
        Self::begin(config, (data.into(), facts), out, "run", trainer)
    }
}

/// The configuration with the steps of its distillation filled in, and its trainer at step 0.
fn prepared(
    mut config: Config,
    from: Option<Opened>,
    facts: &Facts,
    device: &Device,
) -> Result<(Config, Trainer<Model>)> {
    let model = Model::new(config.model_spec(facts)?, config.train.seed, DType::F32, device)?;
    let first = match from {
        Some(from) => {
            let (steps, first) = from::begin(&config, &model, from)?;
            config.train.distil = Some(steps);
            first
        }
        None => None,
    };
    let (loss, options) = (config.loss.0.clone(), config.train.clone());
    let mut trainer = Trainer::new(model, loss, config.optimiser.clone(), config.ema.clone(), options)?;
    first.into_iter().try_for_each(|first| trainer.begin_with(first))?;
    Ok((config, trainer))
}
