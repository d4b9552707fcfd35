//! What a density is made of, as weights files say it: `{"family": "rbm", "shape": [1, 28, 28], "hidden": 500}`.

use super::{AnyFamily, Unnormalised};
use crate::params::Params;
use candle_core::{DType, Device, Error, Result, Tensor, bail};
use langevin_ops::shape::{levels, to_host};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::{Map, Value};
use std::fmt::{Display, Formatter};

/// What the numbers of a state are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum States {
    /// 0 or 1.
    Bits,
    /// Real numbers: those of the data, images in [-1, 1] and columns of tables by their means and deviations.
    Real,
    /// Integers from 0 to one less than this, at least 2 of them: of images grey levels, evenly from black to white.
    Integers(usize),
}

impl States {
    /// Whether one of them can be `x`.
    pub fn has(self, x: f64) -> bool {
        match self {
            Self::Bits => x == 0. || x == 1.,
            Self::Real => x.is_finite(),
            Self::Integers(q) => x >= 0. && x < q as f64 && x.fract() == 0.,
        }
    }

    /// Numbers of a row for each number of a state, see [`States::rows`].
    pub fn width(self) -> usize {
        match self {
            Self::Bits | Self::Real => 1,
            Self::Integers(q) => q,
        }
    }

    /// States `x` `[B, ...]` of N numbers as rows `[B, N]` that models multiply; of q integers `[B, N q]`: for each number 1 at its
    /// place among q, and else 0.
    ///
    /// Errors if an integer is none, or not one of these.
    pub fn rows(self, x: &Tensor) -> Result<Tensor> {
        let Self::Integers(q) = self else { return x.flatten_from(1) };
        let values = to_host(x)?;
        let mut rows = vec![0f32; values.len() * q];
        for (row, &value) in rows.chunks_mut(q.max(1)).zip(&values) {
            if !self.has(value) {
                bail!("a number of a state is {value}; it is one of the {self}");
            }
            row[value as usize] = 1.;
        }
        let each = x.elem_count() / x.dim(0)?.max(1);
        Tensor::from_vec(rows, (x.dim(0)?, each * q), x.device())?.to_dtype(x.dtype())
    }

    /// Rows as states `[B, N]`, back from [`States::rows`]; of means of rows, such as the probabilities of integers, the means.
    pub fn of_rows(self, rows: &Tensor) -> Result<Tensor> {
        let Self::Integers(q) = self else { return Ok(rows.clone()) };
        let (batch, numbers) = rows.dims2()?;
        let values = Tensor::arange(0u32, q as u32, rows.device())?.to_dtype(rows.dtype())?;
        rows.reshape((batch, numbers / q.max(1), q))?.broadcast_mul(&values)?.sum(2)
    }
}

/// In words: "bits".
impl Display for States {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        match self {
            Self::Bits => f.write_str("bits"),
            Self::Real => f.write_str("real numbers"),
            Self::Integers(q) => write!(f, "integers 0 to {}", q.saturating_sub(1)),
        }
    }
}

/// All that is needed to rebuild a density from its weights. It is written as one table: the `family`, the `shape`, and the options
/// of the family beside them.
#[derive(Clone, Debug)]
pub struct DensitySpec {
    /// Shape of one sample of the data: `[C, H, W]` of images, `[D]` of rows.
    pub shape: Vec<usize>,
    /// The family, with its options.
    pub family: AnyFamily,
}

/// Where the registry writes the name of a member.
const NAME: &str = "name";
const FAMILY: &str = "family";
const SHAPE: &str = "shape";

impl DensitySpec {
    /// A density of a `family` over states of `shape`.
    pub fn new(shape: impl Into<Vec<usize>>, family: impl Into<AnyFamily>) -> Self {
        Self { shape: shape.into(), family: family.into() }
    }

    /// Numbers of a sample of the data.
    pub fn numbers(&self) -> usize {
        self.shape.iter().product()
    }

    /// Units of a state that no data have: [`latent`](super::Family::latent).
    pub fn latent(&self) -> usize {
        self.family.get().latent()
    }

    /// Shape of one state: that of the data, or a row of them and of the latent units after them.
    pub fn state_shape(&self) -> Vec<usize> {
        match self.latent() {
            0 => self.shape.clone(),
            latent => vec![self.numbers() + latent],
        }
    }

    /// What of the states `x`, `[B, ...]` as [`DensitySpec::state_shape`] has it, is data: `[B, ...]` of their shape. Data are what they
    /// are.
    pub fn data_of(&self, x: &Tensor) -> Result<Tensor> {
        if x.dims().get(1..) == Some(&self.shape) {
            return Ok(x.clone());
        }
        let numbers = x.narrow(1, 0, self.numbers())?.contiguous()?;
        numbers.reshape([&[x.dim(0)?], self.shape.as_slice()].concat())
    }

    /// One sentence that names the key and what it may be.
    pub fn validate(&self) -> Result<()> {
        let numbers = self.shape.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
        if self.shape.is_empty() || self.shape.len() > 4 || numbers == 0 || numbers > 1 << 28 {
            bail!("states of shape {:?}: give [C, H, W] or [D] with at most 2^28 numbers", self.shape);
        }
        self.family.get().check(&self.shape)
    }

    /// What the numbers of a state are.
    pub fn states(&self) -> States {
        self.family.get().states()
    }

    /// Data `x` `[B, ...]` as states: of images in [-1, 1] the bits that say whether a pixel is lighter than middle grey, or the nearest
    /// of even grey levels. Rows of bits or integers are states already, and so is all where states are real numbers.
    ///
    /// Errors, naming the first, if a row holds another number.
    pub fn states_of(&self, x: &Tensor) -> Result<Tensor> {
        match x.dims() {
            [_, shape @ ..] if shape == self.shape => {}
            other => bail!("data of shape {other:?} for states of shape {:?}", self.shape),
        }
        match self.states() {
            States::Real => Ok(x.clone()),
            States::Bits if self.images() => x.gt(0.)?.to_dtype(x.dtype()),
            States::Integers(q) if self.images() => levels(x, q),
            states @ (States::Bits | States::Integers(_)) => {
                if let Some((i, bad)) = to_host(x)?.iter().enumerate().find(|(_, x)| !states.has(**x)) {
                    let (row, column) = (i / self.numbers() + 1, i % self.numbers() + 1);
                    bail!("row {row}, column {column} is {bad}; states of this {} are {states}", self.family.name());
                }
                Ok(x.clone())
            }
        }
    }

    /// `states` `[B, ...]` as data, back from [`DensitySpec::states_of`] and without latent units: of images black and white, -1 and 1,
    /// or grey levels. What lies between, such as a probability, is a grey.
    pub fn shown(&self, states: &Tensor) -> Result<Tensor> {
        let states = &self.data_of(states)?;
        match self.states() {
            States::Bits if self.images() => states.affine(2., -1.),
            States::Integers(q) if self.images() => states.affine(2. / q.saturating_sub(1) as f64, -1.),
            States::Bits | States::Real | States::Integers(_) => Ok(states.clone()),
        }
    }

    fn images(&self) -> bool {
        self.shape.len() == 3
    }

    /// The density of these parameters.
    pub(super) fn build(&self, params: &Params, dtype: DType, device: &Device) -> Result<Box<dyn Unnormalised>> {
        self.validate()?;
        self.family.get().build(&self.shape, params.builder(dtype, device))
    }

    /// The number of parameters, without making them. Finds what is wrong with the options, too.
    pub fn parameters(&self) -> Result<u64> {
        let params = Params::counting();
        self.build(&params, DType::F32, &Device::Cpu)?;
        Ok(params.count())
    }

    /// Of the table that a file or a configuration holds.
    fn read(mut table: Map<String, Value>) -> serde_json::Result<Self> {
        if table.contains_key(NAME) {
            return Err(de::Error::custom("unknown key `name`; the family is named by `family`"));
        }
        let mut take = |key: &str| {
            let value = table.remove(key);
            value.ok_or_else(|| de::Error::custom(format!("a density needs `{key}`"))) as serde_json::Result<Value>
        };
        let (family, shape) = (take(FAMILY)?, take(SHAPE)?);
        let shape = serde_json::from_value(shape).map_err(|e| de::Error::custom(format!("shape: {e}")));
        table.insert(NAME.into(), family);
        Ok(Self { shape: shape?, family: serde_json::from_value(Value::Object(table))? })
    }
}

impl Serialize for DensitySpec {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let family = serde_json::to_value(&self.family).map_err(ser::Error::custom)?;
        let Value::Object(mut table) = family else { return Err(ser::Error::custom("a family is a table")) };
        let name = table.remove(NAME).unwrap_or_default();
        table.insert(FAMILY.into(), name);
        table.insert(SHAPE.into(), self.shape.clone().into());
        table.serialize(to)
    }
}

impl<'de> Deserialize<'de> for DensitySpec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        Self::read(Map::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// Reads a description in a weights file; the error is its first line, since what follows may be a backtrace.
pub(crate) fn described(description: &str) -> Result<DensitySpec> {
    serde_json::from_str(description)
        .map_err(|e| Error::Msg(e.to_string().lines().next().unwrap_or_default().to_string()))
}
