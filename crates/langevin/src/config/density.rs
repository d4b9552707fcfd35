//! The configuration of a run that trains a density of a family, such as a restricted Boltzmann machine.

use super::{Data, fill, read};
use crate::error::{Usage, usage};
use anyhow::{Context, Result};
use candle_core::{DType, Device};
use langevin_data::Facts;
use langevin_dynamics::Density;
use langevin_models::draw::AnyChainSampler;
use langevin_models::family::{AnyFamily, States};
use langevin_models::{DensityModel, DensitySpec};
use langevin_train::{AnyDensityObjective, AnyEma, AnyOptimiser, Objective, TrainOptions};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Table;

/// Everything that decides what such a run computes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DensityConfig {
    /// What to train on.
    pub data: Data,
    /// How long, how much at a time, how fast.
    #[serde(default)]
    pub train: TrainOptions,
    /// What is trained.
    pub model: FamilyOf,
    /// What is learnt.
    #[serde(default)]
    pub loss: AnyDensityObjective,
    /// What moves the weights.
    #[serde(default = "super::adamw")]
    pub optimiser: AnyOptimiser,
    /// How weights are averaged.
    #[serde(default = "super::warm_up")]
    pub ema: AnyEma,
    /// How samples are drawn.
    #[serde(default)]
    pub sampler: AnyChainSampler,
}

/// The section `[model]`: the `family`, and its options beside it.
#[derive(Clone, Debug)]
pub struct FamilyOf(pub AnyFamily);

/// What a configuration calls the family, and what the registry does.
const FAMILY: &str = "family";
const NAME: &str = "name";

impl Serialize for FamilyOf {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        let mut table = Table::try_from(&self.0).map_err(S::Error::custom)?;
        if let Some(name) = table.remove(NAME) {
            table.insert(FAMILY.into(), name);
        }
        table.serialize(to)
    }
}

impl<'de> Deserialize<'de> for FamilyOf {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let mut table = Table::deserialize(from)?;
        if table.contains_key(NAME) {
            return Err(D::Error::custom("name: a model has a family and no name; leave it out"));
        }
        let Some(name) = table.remove(FAMILY) else {
            return Err(D::Error::custom("family is missing; say which it is, such as family = \"rbm\""));
        };
        table.insert(NAME.into(), name);
        table.try_into().map(Self).map_err(|e: toml::de::Error| D::Error::custom(e.message().trim()))
    }
}

/// Whether `table` is the configuration of a density: its model has a family.
pub fn is_density(table: &Table) -> bool {
    table.get("model").and_then(|model| model.get(FAMILY)).is_some()
}

impl DensityConfig {
    /// The preset or the file called `name`, with these changes, `key=value`.
    ///
    /// Errors, naming the key and what it may be.
    pub fn named<S: AsRef<str>>(name: &str, changes: &[S]) -> Result<Self> {
        let (label, text) = super::source(name)?;
        let table = super::Config::table(&text)?;
        if !is_density(&table) {
            return usage(format!("{label} is of a model that denoises; such a one is a Config"));
        }
        Self::of(table, changes).with_context(|| format!("configuration {label}"))
    }

    /// The configuration in `table`, changed by `changes`, `key=value` each.
    pub fn of<S: AsRef<str>>(mut table: Table, changes: &[S]) -> Result<Self> {
        if let Ok(whole) = read::<Self>(table.clone()) {
            fill(&mut table, Table::try_from(&whole)?);
        }
        super::apply(&mut table, changes)?;
        let config: Self = read(table)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let wrong = |why: candle_core::Error| anyhow::Error::new(Usage::new(why));
        self.train.check().map_err(wrong)?;
        if self.train.label_dropout > 0. {
            let why = "it hides classes, and densities of a family are told none; leave it out";
            return usage(Usage::of("train.label_dropout", why).value(self.train.label_dropout));
        }
        for (on, key) in [(self.data.dequantise, "dequantise"), (self.train.distil.is_some(), "distil")] {
            if on {
                let section = if key == "distil" { "train" } else { "data" };
                let why = format!("it is for models that denoise, and this is a {}; leave it out", self.model.0.name());
                return usage(Usage::of(&format!("{section}.{key}"), why));
            }
        }
        let first_order = self.train.second_order == TrainOptions::default().second_order;
        for (idle, key) in [(!first_order, "second_order"), (self.train.recompute, "recompute")] {
            if idle {
                let why = "it is for models that denoise; leave it out";
                return usage(Usage::of(&format!("train.{key}"), why));
            }
        }
        let begin = match self.model.0.get().states() {
            States::Bits => None,
            States::Real => Some("rbm-gaussian"),
            States::Integers(_) => Some("rbm-potts"),
        };
        if let (true, Some(preset)) = (self.data.binarise.is_some(), begin) {
            let takes = self.model.0.get().states();
            let why =
                format!("it makes bits, and this model takes {takes}; leave it out, or begin with the preset {preset}");
            return usage(Usage::of("data.binarise", why));
        }
        self.sampler.get().check().map_err(wrong)?;
        let spec = DensitySpec::new([1], self.model.0.clone()); // what does not depend on the data
        spec.validate().and_then(|()| self.loss.check(&spec, &self.train)).map_err(wrong)?;
        let model = DensityModel::new(spec, 0, DType::F32, &Device::Cpu).map_err(wrong)?;
        Self::suits(&self.sampler, &model)?;
        self.loss.start(&model).map(drop).map_err(wrong)
    }

    /// Errors if what moves the chains of `sampler` needs more than is known of `model`.
    pub fn suits(sampler: &AnyChainSampler, model: &DensityModel) -> Result<()> {
        let (kernel, density): (_, &dyn Density) = (sampler.get().kernel(), model);
        match density.check(kernel.get().needs()) {
            Ok(()) => Ok(()),
            Err(why) => usage(Usage::of("sampler.kernel", why).value(kernel.name())),
        }
    }

    /// As TOML, every key present.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).context("writing the configuration as TOML")
    }

    /// The density that this run trains on data with these facts.
    pub fn spec(&self, facts: &Facts) -> DensitySpec {
        DensitySpec::new(facts.shape.clone(), self.model.0.clone())
    }

    /// The sampler with `changes` made, `sampler.KEY=value`.
    pub fn sampler_with(sampler: &AnyChainSampler, changes: &super::Changes) -> Result<AnyChainSampler> {
        if let Some(change) = changes.first(|key| key.split('.').next() != Some("sampler")) {
            return usage(format!("`{change}`: sampling changes sampler.KEY=value only, such as sampler.steps=2000"));
        }
        /// What of a configuration says how samples are drawn; that it has a family too tells changes what it is.
        #[derive(Serialize, Deserialize)]
        struct Section {
            model: FamilyOf,
            sampler: AnyChainSampler,
        }
        let (model, sampler) = (FamilyOf(AnyFamily::default()), sampler.clone());
        let mut table = Table::try_from(Section { model, sampler })?;
        changes.apply(&mut table)?;
        Ok(read::<Section>(table)?.sampler)
    }
}
