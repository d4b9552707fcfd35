//! The blocks of the U-Net: residual block, attention, and changes of resolution, as diffusers has them.
//!
//! Residual block: conv(silu(norm(x))) + W e, conv(dropout(silu(norm(.)))), plus x (through a 1x1 where the channels
//! change). Dhariwal & Nichol's form scales and shifts the second norm by the embedding instead. [Ho20; 2105.05233]

use crate::params::Affine;
use crate::unet::UNetConfig;
use candle_core::{Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};
use langevin_ops::act::silu;
use langevin_ops::attend::attention_of_channels;
use langevin_ops::conv::{Geometry, conv2d, conv2d_add};
use langevin_ops::noise::Noise;
use langevin_ops::norm::{group_norm, group_norm_silu};
use langevin_ops::resample::{downsample_mean, upsample_nearest};
use langevin_ops::tape::{Value, part};
use std::cell::Cell;
use std::sync::Arc;

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
    /// SiLU of the embedding of time and class, `[B, width]`.
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

/// diffusers' `ResnetBlock2D`.
pub(crate) struct ResBlock {
    norm1: Norm,
    conv1: Affine,
    time: Affine,
    norm2: Norm,
    conv2: Affine,
    shortcut: Option<Affine>,
    turn: Option<Turn>,
    scale_shift: bool,
    dropout: f64,
    layer: u64,
    divide: f64,
}

impl ResBlock {
    pub fn new(b: &Build, from: usize, to: usize, turn: Option<Turn>, divide: f64, vb: VarBuilder) -> Result<Self> {
        let c = b.config;
        let layer = b.layers.get();
        b.layers.set(layer + 1);
        let shortcut = (from != to).then(|| Affine::new((to, from, 1, 1), vb.pp("conv_shortcut")));
        Ok(Self {
            norm1: Norm::new(from, c.groups, c.eps, vb.pp("norm1"))?,
            conv1: Affine::new((to, from, 3, 3), vb.pp("conv1"))?,
            time: Affine::new((if c.scale_shift { 2 * to } else { to }, b.width), vb.pp("time_emb_proj"))?,
            norm2: Norm::new(to, c.groups, c.eps, vb.pp("norm2"))?,
            conv2: Affine::new((to, to, 3, 3), vb.pp("conv2"))?,
            shortcut: shortcut.transpose()?,
            turn,
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
        let h = self.norm1.silu(x)?;
        let (x, h) = match self.turn {
            None => (x.clone(), h),
            Some(Turn::Up) => (upsample_nearest(x)?, upsample_nearest(&h)?),
            Some(Turn::Down) => (downsample_mean(x)?, downsample_mean(&h)?),
        };
        let e = self.time.linear(embedding)?; // [B, C or 2C]
        let h = if self.scale_shift {
            let h = self.norm2.forward(&self.conv1.conv(&h, Geometry::same(3))?)?;
            let [batch, channels] = [h.dims()[0], h.dims()[1]];
            let part = |i: usize| e.narrow(1, i * channels, channels)?.reshape((batch, channels, 1, 1));
            let all = |v: Value| v.broadcast(h.shape().clone());
            silu(&h.mul(&all(part(0)?.affine(1., 1.)?)?)?.add(&all(part(1)?)?)?)?
        } else {
            self.norm2.silu(&self.conv1.conv_shifted(&h, &e, Geometry::same(3))?)?
        };
        let h = drop(&h, self.dropout, dropout, self.layer)?;
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.conv(&x, POINT)?,
            None => x,
        };
        divided(self.conv2.conv_add(&h, &x, Geometry::same(3))?, self.divide)
    }
}

const POINT: Geometry = Geometry { stride: 1, pad: [0; 4] };

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

/// What stands at the end of a level.
pub(crate) enum Resampler {
    /// A convolution of stride 2, padded as diffusers' `downsample_padding` says.
    ConvDown(Affine, [usize; 4]),
    /// Each pixel twice, then a convolution.
    ConvUp(Affine),
    /// A residual block that changes the resolution inside.
    Block(Arc<ResBlock>),
}

impl Resampler {
    pub fn new(b: &Build, channels: usize, turn: Turn, vb: VarBuilder) -> Result<Self> {
        if b.config.residual_resampling {
            return Ok(Self::Block(Arc::new(ResBlock::new(b, channels, channels, Some(turn), 1., vb)?)));
        }
        let conv = Affine::new((channels, channels, 3, 3), vb.pp("conv"))?;
        Ok(match turn {
            Turn::Up => Self::ConvUp(conv),
            // top, bottom, left, right
            Turn::Down => Self::ConvDown(conv, if b.config.downsample_padding == 0 { [0, 1, 0, 1] } else { [1; 4] }),
        })
    }

    pub fn forward(&self, x: &Value, pass: &Pass) -> Result<Value> {
        match self {
            Self::ConvDown(conv, pad) => conv.conv(x, Geometry { stride: 2, pad: *pad }),
            Self::ConvUp(conv) => conv.conv(&upsample_nearest(x)?, Geometry::same(3)),
            Self::Block(block) => block.forward(x, pass),
        }
    }
}

/// One resolution on the way down or up: residual blocks, each with attention or none, then a resampler.
pub(crate) struct Level {
    pub blocks: Vec<(Arc<ResBlock>, Option<Arc<Attention>>)>,
    pub resampler: Option<Resampler>,
}

impl Level {
    /// `from` the input channels of each residual block, which has `to` channels.
    pub fn new(
        b: &Build,
        from: &[usize],
        to: usize,
        attention: bool,
        turn: Option<Turn>,
        vb: VarBuilder,
    ) -> Result<Self> {
        let block = |(j, &from): (usize, &usize)| {
            let resnet = ResBlock::new(b, from, to, None, 1., vb.pp("resnets").pp(j))?;
            let attention = attention
                .then(|| Attention::new(b, to, Some(b.config.groups), 1., vb.pp("attentions").pp(j)))
                .transpose()?;
            Ok((Arc::new(resnet), attention.map(Arc::new)))
        };
        let blocks = from.iter().enumerate().map(block).collect::<Result<_>>()?;
        let name = if turn == Some(Turn::Up) { "upsamplers.0" } else { "downsamplers.0" };
        let resampler = turn.map(|turn| Resampler::new(b, to, turn, vb.pp(name))).transpose()?;
        Ok(Self { blocks, resampler })
    }
}
