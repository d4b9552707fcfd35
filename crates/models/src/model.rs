//! A model: a network, the process that it denoises, and what its output means.

use crate::energy::{Form, GradNet, LogNormaliser, Shaped};
use crate::mlp::MlpConfig;
use crate::net::AnyNet;
use crate::params::Params;
use crate::unet::UNetConfig;
use candle_core::{DType, Device, Result, Tensor, Var, bail};
use langevin_dynamics::predict::{self, AnyParametrisation};
use langevin_dynamics::process::{AnyProcess, Edm};
use langevin_dynamics::{Cond, Denoiser, Net, Preconditioned};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What the network is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// The gradient of a scalar: a model with an energy.
    #[default]
    Energy,
    /// The plain network.
    Denoiser,
}

impl Head {
    /// Every head, as configurations name them, with a line about each.
    pub const ALL: &'static [(&'static str, &'static str)] = &[
        ("energy", "a scalar for each sample; its gradient takes the place of the network's output"),
        ("denoiser", "the plain network: a score, but no energy"),
    ];
}

/// All that is needed to rebuild a model from its weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Shape of one sample, `[C, H, W]` or `[D]`.
    pub shape: Vec<usize>,
    /// Number of classes that the model is told, if any.
    #[serde(default)]
    pub classes: Option<usize>,
    /// The network knows one label more, numbered after the classes, which says nothing: the null class of
    /// classifier-free guidance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub null_class: bool,
    /// An energy or a plain network.
    pub head: Head,
    /// How the network gives the scalar of an energy.
    #[serde(default)]
    pub form: Form,
    /// The network.
    pub net: AnyNet,
    /// The process that it denoises.
    pub process: AnyProcess,
    /// What its output means.
    pub predict: AnyParametrisation,
    /// Standard deviation of the data.
    pub sigma_data: f64,
    /// The energy knows its normaliser at every noise level, up to one constant.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub normalised: bool,
    /// The network's data lie in [0, 1], where images otherwise are in [-1, 1].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_zero: bool,
}

/// An energy of points of the plane.
impl Default for ModelSpec {
    fn default() -> Self {
        Self::energy([2])
    }
}

impl ModelSpec {
    /// An energy of samples of `shape`, `[C, H, W]` or `[D]`: of a U-Net for images and else of an MLP, under the process and
    /// the prediction `edm`, with data of deviation 0.5, and without classes. Methods of the fields' names change them.
    pub fn energy(shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let images = shape.len() == 3;
        Self {
            shape,
            classes: None,
            null_class: false,
            head: Head::Energy,
            form: Form::default(),
            net: if images { UNetConfig::default().into() } else { MlpConfig::default().into() },
            process: Edm::default().into(),
            predict: predict::Edm {}.into(),
            sigma_data: 0.5,
            normalised: false,
            from_zero: false,
        }
    }

    /// The same of a plain network: a score, but no energy.
    pub fn denoiser(shape: impl Into<Vec<usize>>) -> Self {
        Self { head: Head::Denoiser, ..Self::energy(shape) }
    }

    /// Of this network.
    pub fn net(self, net: impl Into<AnyNet>) -> Self {
        Self { net: net.into(), ..self }
    }

    /// An energy or a plain network.
    pub fn head(self, head: Head) -> Self {
        Self { head, ..self }
    }

    /// The network gives the scalar of its energy so.
    pub fn form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// It denoises this process.
    pub fn process(self, process: impl Into<AnyProcess>) -> Self {
        Self { process: process.into(), ..self }
    }

    /// Its output means this.
    pub fn predict(self, predict: impl Into<AnyParametrisation>) -> Self {
        Self { predict: predict.into(), ..self }
    }

    /// For data of this standard deviation.
    pub fn sigma_data(self, sigma_data: f64) -> Self {
        Self { sigma_data, ..self }
    }

    /// Told one of so many classes.
    pub fn classes(self, classes: impl Into<Option<usize>>) -> Self {
        Self { classes: classes.into(), ..self }
    }

    /// With a null class beside them.
    pub fn null_class(self) -> Self {
        Self { null_class: true, ..self }
    }

    /// An energy that learns its normaliser: in the form noise-norm.
    pub fn normalised(self) -> Self {
        Self { normalised: true, form: Form::NoiseNorm, ..self }
    }

    /// One sentence that names the key and what it may be.
    pub fn validate(&self) -> Result<()> {
        let numbers = self.shape.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
        if self.shape.is_empty() || self.shape.len() > 4 || numbers == 0 || numbers > 1 << 28 {
            bail!("samples of shape {:?}: give [C, H, W] or [D] with at most 2^28 numbers", self.shape);
        }
        if self.classes.is_some_and(|n| n == 0 || n > 1_000_000) {
            bail!("`classes` is {}; give 1 to 1000000, or leave it out", self.classes.unwrap_or(0));
        }
        if self.null_class && self.classes.is_none() {
            bail!("`null_class` goes with classes, and there are none; give `classes`, or leave it out");
        }
        if !(self.sigma_data.is_finite() && self.sigma_data > 0.) {
            bail!("`sigma_data` is {}; give the standard deviation of the data, above 0", self.sigma_data);
        }
        self.agrees()?;
        self.net.get().suits(self)
    }

    /// The same of the options alone, whatever the data are.
    pub fn agrees(&self) -> Result<()> {
        if self.normalised && self.head != Head::Energy {
            bail!("`normalised` is for energies, and head is denoiser; set head = \"energy\"");
        }
        let by_noise = self.head == Head::Energy && self.form == Form::NoiseNorm;
        if by_noise && !matches!(self.predict, AnyParametrisation::Edm(_)) {
            bail!("form noise-norm goes with predict = \"edm\", not {}; change one of them", self.predict.name());
        }
        Ok(())
    }

    /// Number of labels that the network takes: of the classes, and of the null class if it has one.
    pub fn labels(&self) -> Option<usize> {
        self.classes.map(|n| n + usize::from(self.null_class))
    }

    /// The label of the null class, if the network has one.
    pub fn null_label(&self) -> Option<u32> {
        self.classes.filter(|_| self.null_class).map(|n| n as u32)
    }

    /// Data in [-1, 1] in the range that the network takes them in.
    pub fn ranged(&self, x: &Tensor) -> Result<Tensor> {
        if self.from_zero { x.affine(0.5, 0.5) } else { Ok(x.clone()) }
    }

    /// Back from there to [-1, 1].
    pub fn unranged(&self, x: &Tensor) -> Result<Tensor> {
        if self.from_zero { x.affine(2., -1.) } else { Ok(x.clone()) }
    }

    fn build(&self, params: &Params, dtype: DType, device: &Device) -> Result<(Box<dyn Net>, Option<LogNormaliser>)> {
        self.validate()?;
        let outputs = match self.head {
            Head::Energy => self.form.outputs(self.shape[0]),
            Head::Denoiser => self.shape[0],
        };
        let vb = params.builder(dtype, device);
        let net = self.net.get().build(&self.shape, outputs, self.labels(), vb.clone());
        let net = net.map_err(|e| candle_core::Error::Msg(format!("net \"{}\": {}", self.net.name(), plain(&e))))?;
        let numbers = self.shape.iter().product();
        // a network that is a gradient by itself knows its normaliser too
        let own = net.potential().is_some();
        let normaliser = (self.normalised && !own).then(|| LogNormaliser::new(numbers, vb.pp("log_normaliser")));
        Ok((net, normaliser.transpose()?))
    }

    /// The number of parameters, without making them. Finds what is wrong with the options, too.
    pub fn parameters(&self) -> Result<u64> {
        Ok(self.counted()?.count())
    }

    /// The names of the parameters, without making them.
    pub(crate) fn names(&self) -> Result<BTreeSet<String>> {
        Ok(self.counted()?.names())
    }

    fn counted(&self) -> Result<Params> {
        let params = Params::counting();
        self.build(&params, DType::F32, &Device::Cpu)?;
        Ok(params)
    }
}

/// The message of an error in one line: without the backtrace that `RUST_BACKTRACE=1` adds to candle's errors.
pub fn plain(e: &candle_core::Error) -> String {
    match e {
        candle_core::Error::WithBacktrace { inner, .. } => plain(inner),
        candle_core::Error::Context { inner, context } => format!("{context}: {}", plain(inner)),
        other => other.to_string(),
    }
}

/// The table with a row for each class, in networks that have one.
const CLASSES: &str = "class_embedding.weight";

enum Body {
    Energy(GradNet<Shaped>),
    /// A plain network, or one that is a gradient by itself.
    Plain(Box<dyn Net>),
}

/// A network with its weights, its process and its parametrisation.
pub struct Model {
    /// What it is made of.
    pub spec: ModelSpec,
    body: Body,
    vars: Vec<(String, Var)>,
    dtype: DType,
    device: Device,
}

impl Model {
    /// A model with fresh weights: a pure function of `seed` and each parameter's name.
    ///
    /// Errors in one sentence that names the option which is wrong.
    pub fn new(spec: ModelSpec, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        spec.parameters()?; // before memory is taken
        Self::from_params(spec, &Params::seeded(seed), dtype, device)
    }

    /// A model with the parameters that `params` gives.
    pub fn from_params(spec: ModelSpec, params: &Params, dtype: DType, device: &Device) -> Result<Self> {
        let (net, normaliser) = spec.build(params, dtype, device)?;
        let (form, sigma_data) = (spec.form, spec.sigma_data);
        let body = match spec.head {
            Head::Energy if net.potential().is_some() => Body::Plain(net),
            Head::Energy => Body::Energy(GradNet::new(Shaped { net, form, sigma_data, normaliser })),
            Head::Denoiser => Body::Plain(net),
        };
        let model = Self { spec, body, vars: params.vars(), dtype, device: device.clone() };
        model.denoiser(Cond::default())?;
        Ok(model)
    }

    /// A denoiser of a network that is there already, with parameters `vars`.
    ///
    /// Errors if `spec` makes no denoiser.
    pub fn of_network(
        spec: ModelSpec,
        net: Box<dyn Net>,
        vars: Vec<(String, Var)>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        spec.validate()?;
        let model = Self { spec, body: Body::Plain(net), vars, dtype, device: device.clone() };
        model.denoiser(Cond::default())?;
        Ok(model)
    }

    /// The output F(x', c_noise): with an energy the gradient of its scalar, differentiable again inside
    /// `grad::value_and_grad`.
    pub fn net(&self) -> &dyn Net {
        match &self.body {
            Body::Energy(net) => net,
            Body::Plain(net) => net.as_ref(),
        }
    }

    /// The network f itself, without the gradient of an energy.
    pub fn inner(&self) -> &dyn Net {
        match &self.body {
            Body::Energy(net) => net.inner().net.as_ref(),
            Body::Plain(net) => net.as_ref(),
        }
    }

    /// The parameters, sorted by name.
    pub fn vars(&self) -> &[(String, Var)] {
        &self.vars
    }

    /// How many numbers the parameters hold.
    pub fn parameters(&self) -> usize {
        self.vars.iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// Type of the parameters, and of the tensors that the model takes.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the parameters are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Takes from `other` every parameter that has the name and shape of one here, and the rows of its classes for a model
    /// that has more of them; returns the names of the parameters that it has not.
    pub fn take_weights(&self, other: &Model) -> Result<Vec<&str>> {
        let from: BTreeMap<&str, &Var> = other.vars.iter().map(|(name, var)| (name.as_str(), var)).collect();
        let mut left = Vec::new();
        for (name, var) in &self.vars {
            let moved = |source: &Var| source.to_dtype(var.dtype())?.to_device(var.device());
            match from.get(name.as_str()) {
                Some(source) if source.dims() == var.dims() => var.set(&moved(source)?)?,
                Some(source) if name == CLASSES && self.has_more_classes(other) => {
                    var.set(&self.with_rows(var, other, &moved(source)?)?)?;
                }
                _ => left.push(name.as_str()),
            }
        }
        Ok(left)
    }

    /// Whether the classes of `other` can be the first of the classes here.
    fn has_more_classes(&self, other: &Model) -> bool {
        other.spec.classes < self.spec.classes && other.spec.classes.is_some()
    }

    /// `table` with the rows of the classes that `other` has in its `source`, and that of its null class.
    fn with_rows(&self, table: &Tensor, other: &Model, source: &Tensor) -> Result<Tensor> {
        let (known, all) = (other.spec.classes.unwrap_or(0), self.spec.classes.unwrap_or(0));
        let mut rows = vec![source.narrow(0, 0, known)?, table.narrow(0, known, all - known)?];
        if self.spec.null_class {
            let null = if other.spec.null_class { source.narrow(0, known, 1)? } else { table.narrow(0, all, 1)? };
            rows.push(null);
        }
        Tensor::cat(&rows, 0)
    }

    /// E[x_0 | x_t] for samples under `cond`.
    pub fn denoiser(&self, cond: Cond) -> Result<Preconditioned<'_>> {
        let spec = &self.spec;
        Preconditioned::new(self.net(), spec.process.get(), spec.predict.get(), spec.sigma_data, cond)
    }

    /// E(x, t), `[B]`, up to a constant of t: the score of the denoiser is exactly -grad_x E. `t` is one for all samples
    /// or one a sample, where sigma(t) > 0.
    ///
    /// Errors for a plain network: its output is the gradient of nothing.
    pub fn energy(&self, x: &Tensor, t: &[f64], cond: &Cond) -> Result<Tensor> {
        match self.denoiser(cond.clone())?.noisy_energy() {
            Some(energy) => energy.energy_at(x, t),
            None => bail!(
                "this model is a plain denoiser and has no energy: its output is not the gradient of a scalar; \
                 train with model.head = \"energy\", or ask for energy differences along a path"
            ),
        }
    }
}
