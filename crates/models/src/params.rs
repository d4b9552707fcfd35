//! Where a network's parameters come from: a seed, a file, or nowhere (to count them).
//!
//! The initial value of a parameter is a pure function of (seed, its name), so it depends neither on the order of
//! construction nor on what else the model holds. The distributions are PyTorch's defaults: uniform +-1/sqrt(fan_in)
//! for weights and biases of convolutions and linear maps (kaiming_uniform with a = sqrt 5), norms 1 and 0,
//! embeddings normal.

use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use langevin_ops::conv::{Geometry, conv2d, conv2d_add};
use langevin_ops::linear::linear;
use langevin_ops::noise::Noise;
use langevin_ops::tape::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// More parameters than this are a mistake in a configuration.
const MOST: u64 = 4_000_000_000;

enum Source {
    Seed(u64),
    Tensors(BTreeMap<String, Tensor>),
    Count,
}

#[derive(Default)]
struct Made {
    vars: BTreeMap<String, Var>,
    names: BTreeSet<String>,
    count: u64,
}

/// The parameters of a model, made as its layers ask for them through [`Params::builder`].
#[derive(Clone)]
pub struct Params {
    source: Arc<Source>,
    made: Arc<Mutex<Made>>,
}

impl Params {
    fn from(source: Source) -> Self {
        Self { source: Arc::new(source), made: Arc::default() }
    }

    /// Initial values drawn from `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self::from(Source::Seed(seed))
    }

    /// The values in `tensors`; a name or shape that the network asks for and is not there is an error.
    pub fn loaded(tensors: BTreeMap<String, Tensor>) -> Self {
        Self::from(Source::Tensors(tensors))
    }

    /// No values at all: a network built from it takes no memory and cannot be run, only counted.
    pub fn counting() -> Self {
        Self::from(Source::Count)
    }

    /// What layers are built from.
    pub fn builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }

    /// The parameters made so far, sorted by name.
    pub fn vars(&self) -> Vec<(String, Var)> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.vars.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// How many numbers were asked for so far.
    pub fn count(&self) -> u64 {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// The names that were asked for so far.
    pub fn names(&self) -> BTreeSet<String> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).names.clone()
    }

    /// Names that were given and that no layer asked for.
    pub fn unused(&self) -> Vec<String> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match &*self.source {
            Source::Tensors(tensors) => tensors.keys().filter(|name| !made.vars.contains_key(*name)).cloned().collect(),
            _ => vec![],
        }
    }
}

impl SimpleBackend for Params {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(var) = made.vars.get(name) {
            if var.shape() != &shape {
                bail!("two layers share the name `{name}` but not its shape: {:?} and {shape:?}", var.dims());
            }
            return Ok(var.as_tensor().clone());
        }
        let numbers = shape.dims().iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
        made.count = made.count.saturating_add(numbers);
        if made.count > MOST {
            bail!("the network has more than {MOST} parameters (at `{name}` {shape:?}); make it smaller");
        }
        made.names.insert(name.into());
        let value = match &*self.source {
            Source::Count => {
                return Tensor::zeros(1, dtype, device)?.reshape(vec![1; shape.rank()])?.broadcast_as(shape);
            }
            Source::Seed(seed) => initial(*seed, name, &shape, init)?.to_dtype(dtype)?.to_device(device)?,
            Source::Tensors(tensors) => match tensors.get(name) {
                Some(t) if t.shape() == &shape => t.to_dtype(dtype)?.to_device(device)?,
                Some(t) => {
                    bail!("the weights hold `{name}` with shape {:?}, and the network needs {shape:?}", t.dims())
                }
                None => bail!("the weights lack `{name}` {shape:?}, which the network needs"),
            },
        };
        let var = Var::from_tensor(&value)?;
        made.vars.insert(name.to_string(), var.clone());
        Ok(var.into_inner())
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("the parameter `{name}` was asked for without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        match &*self.source {
            Source::Tensors(tensors) => tensors.contains_key(name),
            _ => true,
        }
    }
}

/// A value drawn from (seed, name) alone.
fn initial(seed: u64, name: &str, shape: &Shape, init: Init) -> Result<Tensor> {
    let n = shape.elem_count();
    let row = Tensor::zeros((1, n), DType::F64, &Device::Cpu)?;
    let mut noise = Noise::seeds(&[stream(seed, name)]);
    let value = match init {
        Init::Const(c) => (row + c)?,
        Init::Uniform { lo, up } => noise.uniform_like(&row)?.affine(up - lo, lo)?,
        Init::Randn { mean, stdev } => noise.normal_like(&row)?.affine(stdev, mean)?,
        Init::Kaiming { .. } => bail!("`{name}`: give the bounds of its initial values, not a Kaiming rule"),
    };
    value.reshape(shape)
}

/// FNV-1a of the name, stirred with the seed: the key of a parameter's own random stream.
fn stream(seed: u64, name: &str) -> u64 {
    let prime = |h: u64, byte: u8| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let start = seed.to_le_bytes().into_iter().fold(0xcbf2_9ce4_8422_2325, prime);
    name.bytes().fold(start, prime)
}

/// Uniform on +-1/sqrt(fan_in).
fn default_bounds(fan_in: usize) -> Init {
    let bound = 1. / (fan_in.max(1) as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// Weight and bias of an affine map or a convolution: `weight` has `shape` `[O, I, ...]`, `bias` `[O]`.
#[derive(Clone, Debug)]
pub(crate) struct Affine {
    pub weight: Tensor,
    pub bias: Tensor,
}

impl Affine {
    pub fn new<S: Into<Shape>>(shape: S, vb: VarBuilder) -> Result<Self> {
        let shape = shape.into();
        let init = default_bounds(shape.dims()[1..].iter().product());
        let outputs = shape.dims()[0];
        let weight = vb.get_with_hints(shape, "weight", init)?;
        Ok(Self { weight, bias: vb.get_with_hints(outputs, "bias", init)? })
    }

    /// A map that is zero at first.
    pub fn zero<S: Into<Shape>>(shape: S, vb: VarBuilder) -> Result<Self> {
        let shape = shape.into();
        let outputs = shape.dims()[0];
        let weight = vb.get_with_hints(shape, "weight", Init::Const(0.))?;
        Ok(Self { weight, bias: vb.get_with_hints(outputs, "bias", Init::Const(0.))? })
    }

    /// The map of the last dimension, for a weight `[O, I]`.
    pub fn linear(&self, x: &Value) -> Result<Value> {
        linear(x, &Value::of(&self.weight), Some(&Value::of(&self.bias)))
    }

    /// The convolution of `[B, I, H, W]`, for a weight `[O, I, k, k]`.
    pub fn conv(&self, x: &Value, geometry: Geometry) -> Result<Value> {
        conv2d(x, &Value::of(&self.weight), Some(&Value::of(&self.bias)), geometry)
    }

    /// The convolution, plus `more` a sample and channel, `[B, O]`.
    pub fn conv_shifted(&self, x: &Value, more: &Value, geometry: Geometry) -> Result<Value> {
        let bias = Value::of(&self.bias).reshape((1, self.bias.elem_count()))?.broadcast(more.shape().clone())?;
        conv2d(x, &Value::of(&self.weight), Some(&bias.add(more)?), geometry)
    }

    /// The convolution, plus `more` of the shape of the output.
    pub fn conv_add(&self, x: &Value, more: &Value, geometry: Geometry) -> Result<Value> {
        conv2d_add(x, &Value::of(&self.weight), Some(&Value::of(&self.bias)), more, geometry)
    }

    /// An affine map `[O, I]` of the channels of `[B, I, H, W]`: as a convolution of size 1.
    pub fn pointwise(&self) -> Result<(Value, Value)> {
        let (o, i) = self.weight.dims2()?;
        Ok((Value::of(&self.weight).reshape((o, i, 1, 1))?, Value::of(&self.bias)))
    }
}

/// The rows of a table, one a class: `[n, width]`, normal at first.
pub(crate) fn embedding(n: usize, width: usize, vb: VarBuilder) -> Result<Tensor> {
    vb.get_with_hints((n, width), "weight", Init::Randn { mean: 0., stdev: 1. })
}
