//! The blocks of the U-Net: residual block, attention, and changes of resolution, as diffusers has them.
//!
//! Residual block: conv(silu(norm(x))) + W e, conv(dropout(silu(norm(.)))), plus x (through a 1x1 where the channels
//! change). Dhariwal & Nichol's form scales and shifts the second norm by the embedding instead. [Ho20; 2105.05233]

use crate::params::Affine;
use crate::unet::UNetConfig;
use candle_core::{Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};
use langevin_ops::act::{gelu, sigmoid, silu, softplus};
use langevin_ops::attend::attention_of_channels;
use langevin_ops::conv::{Geometry, conv2d, conv2d_add};
use langevin_ops::fir;
use langevin_ops::noise::Noise;
use langevin_ops::norm::{group_norm, group_norm_silu};
use langevin_ops::resample::{downsample_mean, upsample_nearest};
use langevin_ops::tape::{Value, part};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::sync::Arc;

/// The function between the convolutions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// x / (1 + exp(-x)).
    #[default]
    Silu,
    /// x tanh(ln(1 + exp(x))).
    Mish,
    /// x Phi(x), Phi being the normal distribution function.
    Gelu,
    /// max(x, 0); its second derivative is 0, so that an energy made with it trains badly.
    Relu,
}

impl Activation {
    /// Its value at each number of `x`.
    pub(crate) fn of(self, x: &Value) -> Result<Value> {
        match self {
            Self::Silu => silu(x),
            // tanh(y) = 2 sigmoid(2y) - 1
            Self::Mish => x.mul(&sigmoid(&softplus(x)?.affine(2., 0.)?)?.affine(2., -1.)?),
            Self::Gelu => gelu(x),
            Self::Relu => x.mul(&Value::of(&x.data()?.gt(0.)?.to_dtype(x.dtype())?)),
        }
    }
}

/// What the layers are built with.
pub(crate) struct Build<'a> {
    pub config: &'a UNetConfig,
    /// Width of the embedding of time and class.
    pub width: usize,
    /// Counts residual blocks: each has dropout masks of its own.
    pub layers: Cell<u64>,
}

/// What every layer is told in one pass.
pub(crate) struct Pass {
    /// The embedding of time and class after the activation, `[B, width]`.
    pub embedding: Value,
    pub dropout: Option<u64>,
}

/// Group normalisation with its scale and shift.
pub(crate) struct Norm {
    gamma: Tensor,
    beta: Tensor,
    groups: usize,
    eps: f64,
}

impl Norm {
    pub fn new(channels: usize, groups: Option<usize>, eps: f64, vb: VarBuilder) -> Result<Self> {
        let groups = groups.unwrap_or((channels / 4).clamp(1, 32));
        if groups == 0 || !channels.is_multiple_of(groups) {
            bail!("`groups`: {channels} channels (at `{}`) cannot be split into {groups} groups", vb.prefix());
        }
        let gamma = vb.get_with_hints(channels, "weight", Init::Const(1.))?;
        Ok(Self { gamma, beta: vb.get_with_hints(channels, "bias", Init::Const(0.))?, groups, eps })
    }

    pub fn forward(&self, x: &Value) -> Result<Value> {
        group_norm(x, &Value::of(&self.gamma), &Value::of(&self.beta), self.groups, self.eps)
    }

    /// The activation of [`Norm::forward`]: one kernel where that is SiLU.
    pub fn then(&self, activation: Activation, x: &Value) -> Result<Value> {
        match activation {
            Activation::Silu => self.silu(x),
            other => other.of(&self.forward(x)?),
        }
    }

    pub fn silu(&self, x: &Value) -> Result<Value> {
        group_norm_silu(x, &Value::of(&self.gamma), &Value::of(&self.beta), self.groups, self.eps)
    }
}

/// A change of resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Up,
    Down,
}

/// What sets one residual block apart from the others.
pub(crate) struct Residual {
    pub from: usize,
    pub to: usize,
    /// Of the two norms.
    pub groups: [Option<usize>; 2],
    pub turn: Option<Turn>,
    /// Whether a smooth filter changes the resolution, and a 1x1 is there whatever the channels (NCSN++).
    pub fir: bool,
    /// The sum is divided by it.
    pub divide: f64,
}

/// diffusers' `ResnetBlock2D`.
pub(crate) struct ResBlock {
    norm1: Norm,
    conv1: Affine,
    time: Affine,
    norm2: Norm,
    conv2: Affine,
    shortcut: Option<Affine>,
    turn: Option<Turn>,
    fir: bool,
    activation: Activation,
    scale_shift: bool,
    dropout: f64,
    layer: u64,
    divide: f64,
}

impl ResBlock {
    pub fn new(b: &Build, shape: &Residual, vb: VarBuilder) -> Result<Self> {
        let &Residual { from, to, groups, turn, fir, divide } = shape;
        let c = b.config;
        let layer = b.layers.get();
        b.layers.set(layer + 1);
        let shortcut = (fir || from != to).then(|| Affine::new((to, from, 1, 1), vb.pp("conv_shortcut")));
        Ok(Self {
            norm1: Norm::new(from, groups[0], c.eps, vb.pp("norm1"))?,
            conv1: Affine::new((to, from, 3, 3), vb.pp("conv1"))?,
            time: Affine::new((if c.scale_shift { 2 * to } else { to }, b.width), vb.pp("time_emb_proj"))?,
            norm2: Norm::new(to, groups[1], c.eps, vb.pp("norm2"))?,
            conv2: Affine::new((to, to, 3, 3), vb.pp("conv2"))?,
            shortcut: shortcut.transpose()?,
            turn,
            fir,
            activation: c.activation,
            scale_shift: c.scale_shift,
            dropout: c.dropout,
            layer,
            divide,
        })
    }

    pub fn forward(self: &Arc<Self>, x: &Value, pass: &Pass) -> Result<Value> {
        let (block, dropout) = (self.clone(), pass.dropout);
        part(&[x, &pass.embedding], move |inputs| block.compute(&inputs[0], &inputs[1], dropout))
    }

    fn compute(&self, x: &Value, embedding: &Value, dropout: Option<u64>) -> Result<Value> {
        let h = self.norm1.then(self.activation, x)?;
        let (x, h) = (self.resample(x)?, self.resample(&h)?);
        let e = self.time.linear(embedding)?; // [B, C or 2C]
        let h = if self.scale_shift {
            let h = self.norm2.forward(&self.conv1.conv(&h, Geometry::same(3))?)?;
            let [batch, channels] = [h.dims()[0], h.dims()[1]];
            let part = |i: usize| e.narrow(1, i * channels, channels)?.reshape((batch, channels, 1, 1));
            let all = |v: Value| v.broadcast(h.shape().clone());
            self.activation.of(&h.mul(&all(part(0)?.affine(1., 1.)?)?)?.add(&all(part(1)?)?)?)?
        } else {
            self.norm2.then(self.activation, &self.conv1.conv_shifted(&h, &e, Geometry::same(3))?)?
        };
        let h = drop(&h, self.dropout, dropout, self.layer)?;
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.conv(&x, POINT)?,
            None => x,
        };
        divided(self.conv2.conv_add(&h, &x, Geometry::same(3))?, self.divide)
    }

    fn resample(&self, x: &Value) -> Result<Value> {
        match (self.turn, self.fir) {
            (None, _) => Ok(x.clone()),
            (Some(Turn::Up), false) => upsample_nearest(x),
            (Some(Turn::Down), false) => downsample_mean(x),
            (Some(Turn::Up), true) => fir::upsample(x, &fir::BINOMIAL, 2),
            (Some(Turn::Down), true) => fir::downsample(x, &fir::BINOMIAL, 2),
        }
    }
}

pub(crate) const POINT: Geometry = Geometry { stride: 1, pad: [0; 4] };

fn divided(x: Value, by: f64) -> Result<Value> {
    if by == 1. { Ok(x) } else { x.affine(1. / by, 0.) }
}

/// Each number to 0 with probability `p`, the others times 1 / (1 - p): a mask that is a pure function of (key, layer,
/// place in the batch), so that a resumed run has the same.
pub(crate) fn drop(x: &Value, p: f64, key: Option<u64>, layer: u64) -> Result<Value> {
    let Some(key) = key.filter(|_| p > 0.) else { return Ok(x.clone()) };
    let u = Noise::of_step(key, layer, x.dims()[0]).uniform_like(&x.data()?)?;
    x.mul(&Value::of(&u.ge(p)?.to_dtype(x.dtype())?.affine(1. / (1. - p), 0.)?))
}

/// Self-attention over pixels, with its residual: diffusers' `Attention` as the 2-D blocks use it.
pub(crate) struct Attention {
    norm: Option<Norm>,
    q: Affine,
    k: Affine,
    v: Affine,
    out: Affine,
    heads: usize,
    divide: f64,
}

impl Attention {
    pub fn new(b: &Build, channels: usize, norm: Option<Option<usize>>, divide: f64, vb: VarBuilder) -> Result<Self> {
        let dim = b.config.head_dim.unwrap_or(channels);
        let heads = channels.checked_div(dim).unwrap_or(0);
        if heads == 0 {
            bail!("`head_dim` is {dim}, but attention at `{}` has {channels} channels", vb.prefix());
        }
        let inner = heads * dim;
        let norm = norm.map(|groups| Norm::new(channels, groups, b.config.eps, vb.pp("group_norm")));
        let map = |name: &str| Affine::new((inner, channels), vb.pp(name));
        Ok(Self {
            norm: norm.transpose()?,
            q: map("to_q")?,
            k: map("to_k")?,
            v: map("to_v")?,
            out: Affine::new((channels, inner), vb.pp("to_out.0"))?,
            heads,
            divide,
        })
    }

    pub fn forward(self: &Arc<Self>, x: &Value) -> Result<Value> {
        let attention = self.clone();
        part(&[x], move |inputs| attention.compute(&inputs[0]))
    }

    fn compute(&self, x: &Value) -> Result<Value> {
        let &[batch, _, height, width] = x.dims() else { bail!("attention over {:?}", x.dims()) };
        let h = match &self.norm {
            Some(norm) => norm.forward(x)?,
            None => x.clone(),
        };
        let map = |affine: &Affine, biased: bool| {
            let (w, b) = affine.pointwise()?;
            let y = conv2d(&h, &w, biased.then_some(&b), POINT)?;
            let inner = y.dims()[1];
            y.reshape((batch, self.heads, inner / self.heads, height * width)) // [B, heads, dim, N]
        };
        // a bias of k adds the same to every score of a query, which softmax forgets: without it its gradient is exactly
        // the 0 that it should be, not rounding errors that an optimiser scales up
        let (q, k, v) = (map(&self.q, true)?, map(&self.k, false)?, map(&self.v, true)?);
        let dim = q.dims()[2];
        let h = attention_of_channels(&q, &k, &v, 1. / (dim as f64).sqrt())?;
        let h = h.reshape((batch, self.heads * dim, height, width))?;
        let (w, b) = self.out.pointwise()?;
        divided(conv2d_add(&h, &w, Some(&b), x, POINT)?, self.divide)
    }
}
