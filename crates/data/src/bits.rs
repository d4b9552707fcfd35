//! Bits and other integers of images and of tables, for models of such as an RBM: images in [-1, 1] become 0 and 1, or grey levels
//! counted from 0; tables hold them.

use crate::{Dataset, Kind};
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use serde::{Deserialize, Serialize};

/// How images become bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Binarise {
    /// 1 where a pixel is lighter than middle grey.
    #[default]
    Threshold,
    /// Each pixel 1 with its grey level as probability, drawn anew in every batch.
    Sample,
}

impl Binarise {
    /// Every way, as configurations name it, with a line about each.
    pub const ALL: &'static [(&'static str, &'static str)] = &[
        ("threshold", "1 where a pixel is lighter than middle grey"),
        ("sample", "each pixel 1 with its grey level as probability, drawn anew in every batch"),
    ];

    /// The bits of images `x` `[B, C, H, W]` in [-1, 1], in their type; `noise` has `B` streams.
    pub fn bits(self, x: &Tensor, noise: &mut Noise) -> Result<Tensor> {
        match self {
            Self::Threshold => x.gt(0.)?,
            Self::Sample => noise.uniform_like(x)?.lt(&x.affine(0.5, 0.5)?)?,
        }
        .to_dtype(x.dtype())
    }
}

/// Rows that are looked at together.
const AT_ONCE: usize = 1 << 12;

/// An error, naming the first that is not, unless all numbers of `data` other than images are 0 and 1.
pub fn check_bits(data: &dyn Dataset) -> Result<()> {
    Among::Bits.check(data)
}

/// An error, naming the first that is not, unless all numbers of `data` other than images are integers from 0 to `q` - 1.
pub fn check_integers(data: &dyn Dataset, q: usize) -> Result<()> {
    Among::Integers(q).check(data)
}

/// What the numbers of rows may be.
#[derive(Clone, Copy)]
pub(crate) enum Among {
    /// 0 and 1.
    Bits,
    /// So many from 0 on.
    Integers(usize),
}

impl Among {
    pub(crate) fn has(self, x: f64) -> bool {
        match self {
            Self::Bits => x == 0. || x == 1.,
            Self::Integers(q) => x >= 0. && x < q as f64 && x.fract() == 0.,
        }
    }

    /// What is wrong with the value of a row, counted from 0, in a column of this name.
    pub(crate) fn lacks(self, row: usize, column: &str, value: f64) -> String {
        let takes = match self {
            Self::Bits => "a model of bits takes 0 and 1 alone".to_string(),
            Self::Integers(q) => format!("this model takes the integers 0 to {} alone", q.saturating_sub(1)),
        };
        format!("row {}, column {column} is {value}; {takes}", row + 1)
    }

    fn check(self, data: &dyn Dataset) -> Result<()> {
        if data.kind() == Kind::Image {
            return Ok(());
        }
        let d: usize = data.shape().iter().product();
        for from in (0..data.len()).step_by(AT_ONCE) {
            let rows: Vec<usize> = (from..data.len().min(from + AT_ONCE)).collect();
            let values: Vec<f32> = data.get(&rows)?.x.flatten_all()?.to_vec1()?;
            if let Some(at) = values.iter().position(|&x| !self.has(x.into())) {
                let column = match data.columns().and_then(|columns| columns.names.get(at % d)) {
                    Some(name) => name.clone(),
                    None => (at % d + 1).to_string(),
                };
                bail!("{}", self.lacks(from + at / d, &column, values[at].into()));
            }
        }
        Ok(())
    }
}
