//! What a network is told beside x: the time and the class.
//!
//! Sinusoid of DDPM: angles t exp(-ln(10000) k / (half - freq_shift)), k < half, as [sin, cos] or [cos, sin], then
//! linear, SiLU, linear; a class adds its row of a table. [Ho20; diffusers' `Timesteps`, `TimestepEmbedding`]

use crate::params::{Affine, embedding};
use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;
use langevin_dynamics::Cond;
use langevin_ops::act::silu;
use langevin_ops::tape::Value;

/// Fixed features of the time, `[B] -> [B, channels]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sinusoid {
    pub channels: usize,
    pub cos_first: bool,
    pub freq_shift: f64,
}

impl Sinusoid {
    pub fn forward(&self, t: &Tensor) -> Result<Tensor> {
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

/// The embedding of time and class that the layers share, `[B, width]`.
pub(crate) struct Embedding {
    sinusoid: Sinusoid,
    linear_1: Affine,
    linear_2: Affine,
    classes: Option<(usize, Tensor)>,
}

impl Embedding {
    /// `width` numbers; names as diffusers has them.
    pub fn new(sinusoid: Sinusoid, width: usize, classes: Option<usize>, vb: &VarBuilder) -> Result<Self> {
        let time = vb.pp("time_embedding");
        let class = |n| embedding(n, width, vb.pp("class_embedding")).map(|table| (n, table));
        Ok(Self {
            linear_1: Affine::new((width, sinusoid.channels), time.pp("linear_1"))?,
            linear_2: Affine::new((width, width), time.pp("linear_2"))?,
            classes: classes.map(class).transpose()?,
            sinusoid,
        })
    }

    pub fn forward(&self, c_noise: &Tensor, cond: &Cond) -> Result<Value> {
        let features = Value::of(&self.sinusoid.forward(c_noise)?);
        let e = silu(&self.linear_1.linear(&features)?)?;
        let e = self.linear_2.linear(&e)?;
        match (&self.classes, &cond.labels) {
            (None, None) => Ok(e),
            (None, Some(_)) => bail!("labels were given to a model without classes; leave them out"),
            (Some((n, _)), None) => bail!("this model has {n} classes: give the label of each sample, 0 to {}", n - 1),
            (Some((n, table)), Some(labels)) => {
                let labels = labels.to_dtype(DType::U32)?;
                if labels.dims() != [c_noise.dim(0)?] {
                    bail!("labels of shape {:?} for a batch of {}", labels.dims(), c_noise.dim(0)?);
                }
                if let Some(wrong) = labels.to_vec1::<u32>()?.into_iter().find(|&label| label as usize >= *n) {
                    bail!("class {wrong} asked of a model with {n} classes, 0 to {}", n - 1);
                }
                e.add(&Value::of(&table.index_select(&labels, 0)?))
            }
        }
    }
}
