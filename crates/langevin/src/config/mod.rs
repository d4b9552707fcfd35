//! The whole configuration of a run: a preset or a file, changed by dotted `key=value`s, read strictly.

mod changes;
mod density;
mod explain;
pub mod idle;

pub use changes::{Changes, apply};
pub use density::{DensityConfig, FamilyOf, is_density};

use crate::error::{Usage, usage};
use anyhow::{Context, Result, bail};
use changes::COMMON;

use explain::explain;
use langevin_data::{Binarise, Facts};
use langevin_dynamics::grid::{AnyGrid, Karras};
use langevin_dynamics::predict::AnyParametrisation;
use langevin_dynamics::process::AnyProcess;
use langevin_dynamics::sampler::AnySampler;
use langevin_models::{AnyNet, Form, Head, ModelSpec};
use langevin_ops::noise::Noise;
use langevin_train::{AnyEma, AnyObjective, AnyOptimiser, Denoising, Dual, Objective, TrainOptions};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::path::Path;
use toml::Table;

/// Name, text of every preset; the first comment line of the text describes it.
pub const PRESETS: &[(&str, &str)] = &[
    ("digits", include_str!("../../presets/digits.toml")),
    ("digits-density", include_str!("../../presets/digits-density.toml")),
    ("mnist", include_str!("../../presets/mnist.toml")),
    ("fashion-mnist", include_str!("../../presets/fashion-mnist.toml")),
    ("cifar10", include_str!("../../presets/cifar10.toml")),
    ("toy", include_str!("../../presets/toy.toml")),
    ("rbm-digits", include_str!("../../presets/rbm-digits.toml")),
    ("rbm-mnist", include_str!("../../presets/rbm-mnist.toml")),
    ("rbm-mnist-pcd", include_str!("../../presets/rbm-mnist-pcd.toml")),
    ("dbm-mnist", include_str!("../../presets/dbm-mnist.toml")),
    ("ebm-toy", include_str!("../../presets/ebm-toy.toml")),
    ("rbm-gaussian", include_str!("../../presets/rbm-gaussian.toml")),
    ("rbm-potts", include_str!("../../presets/rbm-potts.toml")),
];

/// Everything that decides what a run computes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What to train on.
    pub data: Data,
    /// How long, how much at a time, how fast.
    #[serde(default)]
    pub train: TrainOptions,
    /// What is trained.
    pub model: Model,
    /// What adds noise.
    #[serde(default = "edm")]
    pub process: AnyProcess,
    /// What is learnt.
    #[serde(default)]
    pub loss: Loss,
    /// What moves the weights.
    #[serde(default = "adamw")]
    pub optimiser: AnyOptimiser,
    /// How weights are averaged.
    #[serde(default = "warm_up")]
    pub ema: AnyEma,
    /// How samples are drawn.
    #[serde(default)]
    pub sampler: Sampler,
    /// Where random numbers come from.
    #[serde(default)]
    pub noise: NoiseSource,
}

/// What to train on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// As `--data` takes it: a name, NAME=DIR, a folder of images, a file, toy:NAME.
    pub spec: String,
    /// Side in pixels that images of a folder are resized and cropped to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Whether the first line of a table is names; decided by what stands in it unless said here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// The number of samples that the run began with, in configurations of runs that have no `data.json` yet.
    #[serde(default, skip_serializing)]
    pub samples: Option<usize>,
    /// Mirror images left to right at random.
    #[serde(default)]
    pub flip: bool,
    /// Add uniform noise within a grey level, so that the data have a density.
    #[serde(default)]
    pub dequantise: bool,
    /// How images become bits, for a density of bits: by a threshold, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binarise: Option<Binarise>,
}

/// What is trained.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// An energy or a plain network.
    #[serde(default)]
    pub head: Head,
    /// How the network gives the scalar of an energy.
    #[serde(default)]
    pub form: Form,
    /// Let the energy learn its normaliser too, up to one constant: -E is log p then. Goes with loss.time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub normalised: bool,
    /// Tell the network the class of each sample.
    #[serde(default)]
    pub conditional: bool,
    /// The network.
    pub net: AnyNet,
    /// What its output means.
    #[serde(default = "edm_prediction")]
    pub predict: AnyParametrisation,
    /// Standard deviation of the data; measured if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma_data: Option<f64>,
    /// The network's data lie in [0, 1] instead of [-1, 1], as those of variance exploding models of diffusers do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_zero: bool,
    /// Start from this model: a run folder, a weights file, a folder of diffusers, an id of the Hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// What is learnt. Without a `name` it is dual score matching where its time counts, and else denoising.
#[derive(Clone, Debug, Default)]
pub struct Loss(pub AnyObjective);

impl Serialize for Loss {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match &self.0 {
            AnyObjective::Denoising(loss) => loss.serialize(to),
            AnyObjective::Dual(loss) => loss.serialize(to),
            #[allow(unreachable_patterns)] // others have names
            named => named.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Loss {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error;
        let mut table = Table::deserialize(from)?;
        if table.contains_key("name") {
            return table.try_into().map(Self).map_err(|e: toml::de::Error| D::Error::custom(e.message().trim()));
        }
        table.entry("time").or_insert(0.0.into());
        // `.KEY: ` in front goes on with the path to this section
        let dual: Dual = serde_path_to_error::deserialize(table)
            .map_err(|e| D::Error::custom(format!(".{}: {}", e.path(), e.inner().message().trim())))?;
        if dual.time == 0. && dual.fokker_planck == 0. && dual.walkers == 0 {
            return Ok(Self(Denoising { weight: dual.weight, level: dual.level }.into()));
        }
        Ok(Self(dual.into()))
    }
}

/// How samples are drawn: a sampler with its options, and what all samplers share.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// What makes the steps.
    pub sampler: AnySampler,
    /// Their number.
    pub steps: usize,
    /// The noise levels that they go down.
    pub grid: AnyGrid,
    /// Clip the estimate of the clean data to [-1, 1] at every step.
    pub clip: bool,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { sampler: named(AnySampler::named("heun")), steps: 18, grid: Karras::default().into(), clip: false }
    }
}

impl Sampler {
    fn check(&self) -> Result<()> {
        if self.steps == 0 || self.steps > 100_000 {
            return usage(Usage::of("sampler.steps", "give 1 to 100000").value(self.steps));
        }
        if self.clip && self.sampler.get().reports() {
            return usage(
                Usage::of(
                    "sampler.clip",
                    format!(
                        "clipping bends the score, and no energy goes with what comes of it, so the steps of \
                 MCMC of {} would have none to go by; leave it out",
                        self.sampler.name()
                    ),
                )
                .value("true"),
            );
        }
        Ok(())
    }

    /// Errors if it asks for another kind of model than one that predicts so.
    pub fn suits(&self, predict: &AnyParametrisation) -> Result<()> {
        if self.sampler.get().needs().consistency && !matches!(predict, AnyParametrisation::Consistency(_)) {
            return usage(
                Usage::of(
                    "sampler.name",
                    format!(
                        "it is for consistency models, and this one predicts {}; use another, such as heun",
                        predict.name()
                    ),
                )
                .value(self.sampler.name()),
            );
        }
        Ok(())
    }
}

/// How samples are drawn, whatever the model: the keys that `langevin sample` can change.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drawing {
    /// Where random numbers come from.
    pub noise: NoiseSource,
    /// What makes the steps.
    pub sampler: Sampler,
}

impl Drawing {
    /// As `run` says, or as all samplers do by default.
    pub fn of(run: Option<&Config>) -> Self {
        run.map(|run| Self { noise: run.noise, sampler: run.sampler.clone() }).unwrap_or_default()
    }

    /// The same with `changes` made (`sampler.KEY=value` and `noise=value`).
    pub fn changed(&self, changes: &Changes) -> Result<Self> {
        if let Some(change) = changes.first(|key| !["sampler", "noise"].contains(&key.split('.').next().unwrap_or(key)))
        {
            return usage(format!(
                "`{change}`: sampling changes sampler.KEY=value and noise=value only, such as sampler.steps=50"
            ));
        }
        let mut table = Table::try_from(self)?;
        changes.apply(&mut table)?;
        let drawing: Self = read(table)?;
        drawing.sampler.check()?;
        idle::of_sampler(&drawing.sampler.sampler, changes)?;
        Ok(drawing)
    }
}

/// What a table says; an error names the key.
pub fn read<T: serde::de::DeserializeOwned>(table: Table) -> Result<T> {
    serde_path_to_error::deserialize(table).map_err(|e| {
        let path = e.path().to_string();
        let why = e.into_inner();
        let why = explain(why.message().trim());
        Usage::new(match why.strip_prefix('.') {
            _ if path == "." => why,
            Some(further) => format!("{path}.{further}"),
            None => format!("{path}: {why}"),
        })
        .into()
    })
}

/// Where random numbers come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoiseSource {
    /// ChaCha, one stream a seed.
    #[default]
    Counter,
    /// PyTorch's CPU generator, one a seed: the pictures that diffusers draws with `generator=[...]`.
    Torch,
}

impl NoiseSource {
    /// The noise of samples with these seeds.
    pub fn of(self, seeds: &[u64]) -> Noise {
        match self {
            Self::Counter => Noise::seeds(seeds),
            Self::Torch => Noise::torch(seeds),
        }
    }
}

fn edm() -> AnyProcess {
    named(AnyProcess::named("edm"))
}
fn edm_prediction() -> AnyParametrisation {
    named(AnyParametrisation::named("edm"))
}
fn adamw() -> AnyOptimiser {
    named(AnyOptimiser::named("adamw"))
}
fn warm_up() -> AnyEma {
    named(AnyEma::named("warm-up"))
}

/// A registered default; a test asks for each of the names above.
#[allow(clippy::expect_used)]
fn named<T>(found: std::result::Result<T, String>) -> T {
    found.expect("the defaults of the configuration are registered")
}

/// Options of `[sampler]` that are not the sampler's own.
#[derive(Serialize, Deserialize)]
struct Common {
    #[serde(default = "steps")]
    steps: usize,
    #[serde(default = "grid")]
    grid: AnyGrid,
    #[serde(default)]
    clip: bool,
}
fn steps() -> usize {
    Sampler::default().steps
}
fn grid() -> AnyGrid {
    Sampler::default().grid
}

impl Serialize for Sampler {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        use serde::ser::Error;
        let mut table = Table::try_from(&self.sampler).map_err(S::Error::custom)?;
        let common = Common { steps: self.steps, grid: self.grid.clone(), clip: self.clip };
        table.extend(Table::try_from(common).map_err(S::Error::custom)?);
        table.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Sampler {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error;
        let mut own = Table::deserialize(from)?;
        let common: Table = COMMON.iter().filter_map(|&key| Some((key.into(), own.remove(key)?))).collect();
        let common: Common = serde_path_to_error::deserialize(common)
            .map_err(|e| D::Error::custom(format!("{}: {}", e.path(), e.inner().message().trim())))?;
        own.entry("name").or_insert_with(|| Self::default().sampler.name().into());
        let sampler = own.try_into().map_err(|e: toml::de::Error| {
            let (why, beside) = (e.message().trim(), COMMON.join(", "));
            let option = why.contains("unknown field");
            D::Error::custom(if option { format!("{why} (beside {beside} of every sampler)") } else { why.into() })
        })?;
        Ok(Self { sampler, steps: common.steps, grid: common.grid, clip: common.clip })
    }
}

impl Config {
    /// The configuration in `text`, changed by `overrides` (`key=value`, dotted keys).
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self> {
        Self::of(Self::table(text)?, overrides)
    }

    /// What `text` says, not yet read as a run.
    pub fn table(text: &str) -> Result<Table> {
        text.parse().map_err(|e: toml::de::Error| {
            let line = e.span().map_or(1, |span| 1 + text.bytes().take(span.start).filter(|&b| b == b'\n').count());
            Usage::new(format!("line {line}: {}", e.message())).into()
        })
    }

    /// The configuration in `table`, changed by `overrides`.
    pub fn of(mut table: Table, overrides: &[String]) -> Result<Self> {
        // with all defaults in their places, so that their options can be changed; what has none may be among the changes
        if let Ok(whole) = read::<Self>(table.clone()) {
            fill(&mut table, Table::try_from(&whole)?);
        }
        apply(&mut table, overrides)?;
        let run: Self = read(table)?;
        run.check()?;
        Ok(run)
    }

    /// Refuses values that no run can mean, naming the key.
    fn check(&self) -> Result<()> {
        self.train.check().map_err(|why| Usage::new(why.to_string()))?;
        if self.data.binarise.is_some() {
            let why =
                "it makes bits, and models that denoise take greys; leave it out, or begin with the preset rbm-digits";
            return usage(Usage::of("data.binarise", why));
        }
        if self.train.label_dropout > 0. && !self.model.conditional {
            return usage(
                Usage::of(
                    "train.label_dropout",
                    "it hides classes, and the model is told none; set model.conditional = true",
                )
                .value(self.train.label_dropout),
            );
        }
        self.sampler.check()?;
        self.sampler.suits(&self.model.predict)?;
        if let Some(s) = self.model.sigma_data
            && !(s.is_finite() && s > 0.)
        {
            return usage(
                Usage::of("model.sigma_data", "give a positive number, or leave it out to have it measured").value(s),
            );
        }
        self.process.get().check().map_err(|why| Usage::new(why.to_string()))?;
        let spec = self.spec(vec![1], None, 1.); // what does not depend on the data
        let agree = spec.agrees().and_then(|()| self.loss.0.check(&spec, &self.train));
        agree.map_err(|why| Usage::new(why.to_string()).into())
    }

    /// As TOML, every key present.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).context("writing the configuration as TOML")
    }

    /// The same with the names of its files alone, for readers who have other folders.
    pub fn without_folders(mut self) -> Self {
        let name = |path: &str| Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
        if let Some(path) = langevin_data::path(&self.data.spec) {
            let before = &self.data.spec[..self.data.spec.len() - path.len()];
            self.data.spec = format!("{before}{}", name(path).unwrap_or(path.into()));
        }
        self.model.from = self.model.from.map(|from| match Path::new(&from).is_absolute() {
            true => name(&from).unwrap_or(from),
            false => from,
        });
        self
    }

    /// The model that this run trains on data with these facts.
    pub fn model_spec(&self, facts: &Facts) -> Result<ModelSpec> {
        let classes = match (self.model.conditional, facts.classes) {
            (false, _) => None,
            (true, Some(n)) if n > 1 => Some(n),
            (true, _) => return usage(format!("model.conditional = true, but {} has no classes", self.data.spec)),
        };
        let Some(sigma_data) = self.model.sigma_data.or(facts.sigma_data) else {
            bail!("the standard deviation of {} was not measured; give model.sigma_data", self.data.spec)
        };
        Ok(self.spec(facts.shape.clone(), classes, sigma_data))
    }

    fn spec(&self, shape: Vec<usize>, classes: Option<usize>, sigma_data: f64) -> ModelSpec {
        ModelSpec {
            shape,
            classes,
            null_class: self.train.label_dropout > 0.,
            head: self.model.head,
            form: self.model.form,
            net: self.model.net.clone(),
            process: self.process.clone(),
            predict: self.model.predict.clone(),
            sigma_data,
            normalised: self.model.normalised,
            from_zero: self.model.from_zero,
        }
    }
}

/// Gives `table` what `whole` has beside it, section by section.
fn fill(table: &mut Table, whole: Table) {
    for (key, value) in whole {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(own)), toml::Value::Table(value)) => fill(own, value),
            (Some(_), _) => {}
            (None, value) => {
                table.insert(key, value);
            }
        }
    }
}

/// Name and text of a preset, or of a TOML file. `toy:NAME` is the toy preset on that toy.
pub fn source(name: &str) -> Result<(String, String)> {
    if let Some((_, text)) = PRESETS.iter().find(|(preset, _)| *preset == name) {
        return Ok((format!("preset {name}"), text.to_string()));
    }
    if name.starts_with("toy:") {
        let mut table: Table = preset("toy")?.parse()?;
        apply(&mut table, &[format!("data.spec={name}")])?;
        return Ok(("preset toy".into(), table.to_string()));
    }
    if Path::new(name).extension().is_none_or(|e| e != "toml") {
        let names: Vec<_> = PRESETS.iter().map(|(name, _)| *name).collect();
        return usage(format!("no preset `{name}`; one of: {}, toy:NAME, or a FILE.toml", names.join(", ")));
    }
    let text = std::fs::read_to_string(name).with_context(|| format!("cannot read {name}"))?;
    Ok((name.into(), text))
}

/// The text of a preset.
fn preset(name: &str) -> Result<&'static str> {
    match PRESETS.iter().find(|(preset, _)| *preset == name) {
        Some((_, text)) => Ok(text),
        None => bail!("no preset {name}"),
    }
}
