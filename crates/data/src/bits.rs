//! Bits of images and of tables, for models of bits such as an RBM: images in [-1, 1] become 0 and 1, tables hold them.

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
    if data.kind() == Kind::Image {
        return Ok(());
    }
    let d: usize = data.shape().iter().product();
    for from in (0..data.len()).step_by(AT_ONCE) {
        let rows: Vec<usize> = (from..data.len().min(from + AT_ONCE)).collect();
        let values: Vec<f32> = data.get(&rows)?.x.flatten_all()?.to_vec1()?;
        if let Some(at) = values.iter().position(|&x| !is_bit(x.into())) {
            let column = match data.columns().and_then(|columns| columns.names.get(at % d)) {
                Some(name) => name.clone(),
                None => (at % d + 1).to_string(),
            };
            bail!("{}", no_bit(from + at / d, &column, values[at].into()));
        }
    }
    Ok(())
}

pub(crate) fn is_bit(x: f64) -> bool {
    x == 0. || x == 1.
}

/// What is wrong with the value of a row, counted from 0, in a column of this name.
pub(crate) fn no_bit(row: usize, column: &str, value: f64) -> String {
    format!("row {}, column {column} is {value}; a model of bits takes 0 and 1 alone", row + 1)
}
