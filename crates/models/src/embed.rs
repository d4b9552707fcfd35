//! What a network is told beside x: the time and the class, as one vector a sample.
//!
//! Features of the time, then linear, SiLU, linear; a class adds its row of a table, or what is made of it as of a time.
//! [Ho20; Song21; diffusers' `Timesteps`, `GaussianFourierProjection`, `TimestepEmbedding`]

use crate::params::{Affine, embedding};
use crate::unet::{ClassInput, Time, UNetConfig};
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};
use langevin_dynamics::Cond;
use langevin_ops::act::silu;
use langevin_ops::tape::Value;
use std::f64::consts::PI;

/// Angles t exp(-ln(10000) k / (half - freq_shift)), k < half, as [sin, cos] or [cos, sin]: `[B] -> [B, channels]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sinusoid {
    pub channels: usize,
    pub cos_first: bool,
    pub freq_shift: f64,
}

impl Sinusoid {
    fn forward(&self, t: &Tensor) -> Result<Tensor> {
        let half = self.channels / 2;
        let step = -(1e4f64.ln()) / (half as f64 - self.freq_shift);
        let frequencies: Vec<f64> = (0..half).map(|k| (step * k as f64).exp()).collect();
        let frequencies = Tensor::new(frequencies, t.device())?.to_dtype(t.dtype())?;
        let angles = t.unsqueeze(1)?.broadcast_mul(&frequencies)?; // [B, half]
        let (sin, cos) = (angles.sin()?, angles.cos()?);
        let features = if self.cos_first { [cos, sin] } else { [sin, cos] };
        Tensor::cat(&features, 1)?.pad_with_zeros(1, 0, self.channels - 2 * half)
    }
}

/// Features of the time, `[B] -> [B, width]`.
enum Features {
    Sinusoid(Sinusoid),
    /// Angles 2 pi w ln(t) as [sin, cos]: the fixed frequencies w, `[channels]`.
    Fourier(Tensor),
    /// A row for each time 0, 1, ...: `[times, channels]`.
    Learned(Tensor),
}

impl Features {
    fn new(config: &UNetConfig, vb: VarBuilder) -> Result<Self> {
        let channels = config.channels[0];
        Ok(match config.time {
            Time::Sinusoid => {
                let (cos_first, freq_shift) = (config.cos_first, config.freq_shift);
                Self::Sinusoid(Sinusoid { channels, cos_first, freq_shift })
            }
            Time::Fourier => {
                // not trained: no gradient goes through the detached tensor
                let frequencies = vb.get_with_hints(channels, "weight", Init::Randn { mean: 0., stdev: 16. })?;
                Self::Fourier(frequencies.detach())
            }
            Time::Learned(times) => Self::Learned(embedding(times, channels, vb)?),
        })
    }

    fn width(&self) -> Result<usize> {
        Ok(match self {
            Self::Sinusoid(sinusoid) => sinusoid.channels,
            Self::Fourier(frequencies) => 2 * frequencies.dim(0)?,
            Self::Learned(table) => table.dim(1)?,
        })
    }

    fn forward(&self, t: &Tensor) -> Result<Value> {
        let features = match self {
            Self::Sinusoid(sinusoid) => sinusoid.forward(t)?,
            Self::Fourier(frequencies) => {
                if let Some(t) = on_host(t)?.into_iter().find(|t| t.is_nan() || *t <= 0.) {
                    bail!("this network takes the logarithm of its time, which must be above 0, not {t}");
                }
                // in this order, as large angles in f32 depend on it
                let angles = ((t.log()?.unsqueeze(1)?.broadcast_mul(frequencies)? * 2.)? * PI)?;
                Tensor::cat(&[angles.sin()?, angles.cos()?], 1)?
            }
            Self::Learned(table) => rows(table, t, "time")?,
        };
        Ok(Value::of(&features))
    }
}

fn on_host(t: &Tensor) -> Result<Vec<f64>> {
    t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()
}

/// The rows of `table` that `numbers` `[B]` name; `what` they are called in the error if they name none.
fn rows(table: &Tensor, numbers: &Tensor, what: &str) -> Result<Tensor> {
    let n = table.dim(0)?;
    if let Some(wrong) = on_host(numbers)?.into_iter().find(|&i| !(i >= 0. && i < n as f64 && i.fract() == 0.)) {
        bail!("{what} {wrong} asked of a network that knows the {n} whole numbers 0 to {}", n - 1);
    }
    table.index_select(&numbers.to_dtype(DType::U32)?, 0)
}

/// Linear, SiLU, linear.
struct TwoLayers {
    linear_1: Affine,
    linear_2: Affine,
}

impl TwoLayers {
    fn new(from: usize, to: usize, vb: VarBuilder) -> Result<Self> {
        let linear_1 = Affine::new((to, from), vb.pp("linear_1"))?;
        Ok(Self { linear_1, linear_2: Affine::new((to, to), vb.pp("linear_2"))? })
    }

    fn forward(&self, features: &Value) -> Result<Value> {
        self.linear_2.linear(&silu(&self.linear_1.linear(features)?)?)
    }
}

/// What is made of a label.
enum Class {
    /// None is taken.
    No,
    /// `[B]` classes: a row of `[n, width]`.
    Table(Tensor),
    /// `[B]` numbers: the same as of a time.
    AsTime(TwoLayers),
    /// `[B, width]`: it is added as it is.
    AsIs,
}

/// The embedding of time and class that the layers share, `[B, width]`.
pub(crate) struct Embedding {
    features: Features,
    time: TwoLayers,
    class: Class,
    width: usize,
}

impl Embedding {
    /// `width` numbers, with a row for each of `classes` if there are any; names as diffusers has them.
    pub fn new(sinusoid: Sinusoid, width: usize, classes: Option<usize>, vb: &VarBuilder) -> Result<Self> {
        Self::build(Features::Sinusoid(sinusoid), width, ClassInput::Table, classes, vb)
    }

    /// What `config` says.
    pub fn of_unet(config: &UNetConfig, classes: Option<usize>, vb: &VarBuilder) -> Result<Self> {
        Self::build(Features::new(config, vb.pp("time_proj"))?, config.width(), config.class, classes, vb)
    }

    fn build(
        features: Features,
        width: usize,
        class: ClassInput,
        classes: Option<usize>,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let (from, of_class) = (features.width()?, vb.pp("class_embedding"));
        let class = match (class, classes) {
            (ClassInput::Table, None) => Class::No,
            (ClassInput::Table, Some(n)) => Class::Table(embedding(n, width, of_class)?),
            (ClassInput::AsTime, _) => Class::AsTime(TwoLayers::new(from, width, of_class)?),
            (ClassInput::AsIs, _) => Class::AsIs,
        };
        Ok(Self { features, time: TwoLayers::new(from, width, vb.pp("time_embedding"))?, class, width })
    }

    pub fn forward(&self, c_noise: &Tensor, cond: &Cond) -> Result<Value> {
        let e = self.time.forward(&self.features.forward(c_noise)?)?;
        let batch = c_noise.dim(0)?;
        cond.conditions.only(if matches!(self.class, Class::No) { &[] } else { &["class"] })?;
        let labels = match (&self.class, cond.labels()) {
            (Class::No, _) => return Ok(e),
            (_, Some(labels)) => labels,
            (Class::Table(table), None) => {
                let n = table.dim(0)?;
                bail!("this model has {n} classes: give the label of each sample, 0 to {}", n - 1)
            }
            (Class::AsTime(_), None) => bail!("this model is told a number as its class: give one a sample"),
            (Class::AsIs, None) => {
                bail!("this model is told {} numbers as its class: give [{batch}, {}]", self.width, self.width)
            }
        };
        let expected = if matches!(self.class, Class::AsIs) { vec![batch, self.width] } else { vec![batch] };
        if labels.rank() != expected.len()
            || labels.dims()[1..] != expected[1..]
            || ![1, batch].contains(&labels.dim(0)?)
        {
            bail!("labels of shape {:?} for a batch of {batch}; this model takes {expected:?}", labels.dims());
        }
        let labels = labels.broadcast_as(expected)?.contiguous()?;
        match &self.class {
            Class::No => Ok(e),
            Class::Table(table) => e.add(&Value::of(&rows(table, &labels, "class")?)),
            Class::AsTime(layers) => {
                e.add(&layers.forward(&self.features.forward(&labels.to_dtype(c_noise.dtype())?)?)?)
            }
            Class::AsIs => e.add(&Value::of(&labels.to_dtype(c_noise.dtype())?)),
        }
    }
}
