//! A residual network for points and tables.
//!
//! h = W x; each layer adds W2 silu(W1 silu(h) + We e) to h, with e the embedding of time and class; the output is
//! W silu(h).

use crate::blocks::drop;
use crate::embed::{Embedding, Sinusoid};
use crate::net::NetConfig;
use crate::params::Affine;
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use langevin_dynamics::{Cond, Net};
use langevin_ops::act::silu;
use langevin_ops::registry::Named;
use langevin_ops::tape::{self, Value};
use serde::{Deserialize, Serialize};

/// What the network is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlpConfig {
    /// Numbers in each hidden layer.
    pub width: usize,
    /// Residual layers.
    pub layers: usize,
    /// Probability of dropping a hidden number, in training.
    pub dropout: f64,
}

impl Default for MlpConfig {
    fn default() -> Self {
        Self { width: 128, layers: 3, dropout: 0. }
    }
}

impl Named for MlpConfig {
    const NAME: &'static str = "mlp";
    const ABOUT: &'static str = "a residual network of linear layers, for points and tables";
}

impl MlpConfig {
    /// One sentence that names the key and what it may be.
    pub fn validate(&self) -> Result<()> {
        if self.width < 4 || self.width > 65536 {
            bail!("`width` is {}; give 4 to 65536", self.width);
        }
        if self.layers > 256 {
            bail!("`layers` is {}; give 0 to 256", self.layers);
        }
        if !(0. ..1.).contains(&self.dropout) {
            bail!("`dropout` is {}; give a probability from 0 to below 1", self.dropout);
        }
        Ok(())
    }
}

struct Layer {
    linear_1: Affine,
    time: Affine,
    linear_2: Affine,
}

/// The network with its weights.
pub struct Mlp {
    shape: Vec<usize>,
    out_shape: Vec<usize>,
    dropout: f64,
    embedding: Embedding,
    linear_in: Affine,
    layers: Vec<Layer>,
    linear_out: Affine,
}

impl NetConfig for MlpConfig {
    fn build(&self, shape: &[usize], outputs: usize, classes: Option<usize>, vb: VarBuilder) -> Result<Box<dyn Net>> {
        self.validate()?;
        let Some((_, rest)) = shape.split_first() else { bail!("data of no dimension have no network") };
        let mut out_shape = vec![outputs];
        out_shape.extend_from_slice(rest);
        let (inputs, width) = (shape.iter().product::<usize>(), self.width);
        let sinusoid = Sinusoid { channels: width, cos_first: true, freq_shift: 0. };
        let layer = |i: usize| -> Result<Layer> {
            let vb = vb.pp("layers").pp(i);
            Ok(Layer {
                linear_1: Affine::new((width, width), vb.pp("linear_1"))?,
                time: Affine::new((width, width), vb.pp("time_emb_proj"))?,
                linear_2: Affine::new((width, width), vb.pp("linear_2"))?,
            })
        };
        Ok(Box::new(Mlp {
            embedding: Embedding::new(sinusoid, width, classes, &vb)?,
            linear_in: Affine::new((width, inputs), vb.pp("linear_in"))?,
            layers: (0..self.layers).map(layer).collect::<Result<_>>()?,
            linear_out: Affine::new((out_shape.iter().product::<usize>(), width), vb.pp("linear_out"))?,
            dropout: self.dropout,
            shape: shape.to_vec(),
            out_shape,
        }))
    }
}

impl Net for Mlp {
    fn forward(&self, x: &Tensor, c_noise: &Tensor, cond: &Cond) -> Result<Tensor> {
        tape::run(x, |x| self.trace(x, c_noise, cond))
    }

    fn trace(&self, x: &Value, c_noise: &Tensor, cond: &Cond) -> Result<Value> {
        if x.dims().get(1..) != Some(self.shape.as_slice()) {
            bail!("the network takes samples of shape {:?}, not a batch {:?}", self.shape, x.dims());
        }
        let batch = x.dims()[0];
        let e = silu(&self.embedding.forward(c_noise, cond)?)?;
        let mut h = self.linear_in.linear(&x.reshape((batch, self.shape.iter().product::<usize>()))?)?; // [B, width]
        for (i, layer) in self.layers.iter().enumerate() {
            let inner = silu(&layer.linear_1.linear(&silu(&h)?)?.add(&layer.time.linear(&e)?)?)?;
            h = h.add(&layer.linear_2.linear(&drop(&inner, self.dropout, cond.dropout, i as u64)?)?)?;
        }
        let mut dims = vec![batch];
        dims.extend_from_slice(&self.out_shape);
        self.linear_out.linear(&silu(&h)?)?.reshape(dims)
    }
}
