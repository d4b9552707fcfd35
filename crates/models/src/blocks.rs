//! The blocks of the U-Net: residual block, attention, and changes of resolution, as diffusers has them.
//!
//! Residual block: conv(silu(norm(x))) + W e, conv(dropout(silu(norm(.)))), plus x (through a 1x1 where the channels
//! change). Dhariwal & Nichol's form scales and shifts the second norm by the embedding instead. [Ho20; 2105.05233]

use crate::params::Affine;
use crate::unet::UNetConfig;
use candle_core::{D, Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};
use langevin_ops::attend::attention;
use langevin_ops::conv::Geometry;
use langevin_ops::linear::linear;
use langevin_ops::noise::Noise;
use langevin_ops::norm::{group_norm, group_norm_silu};
use langevin_ops::resample::{downsample_mean, upsample_nearest};
use std::cell::Cell;

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
    pub embedding: Tensor,
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

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        group_norm(x, &self.gamma, &self.beta, self.groups, self.eps)
    }

    pub fn silu(&self, x: &Tensor) -> Result<Tensor> {
        group_norm_silu(x, &self.gamma, &self.beta, self.groups, self.eps)
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

    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let h = self.norm1.silu(x)?;
        let (x, h) = match self.turn {
            None => (x.clone(), h),
            Some(Turn::Up) => (upsample_nearest(x)?, upsample_nearest(&h)?),
            Some(Turn::Down) => (downsample_mean(x)?, downsample_mean(&h)?),
        };
        let h = self.conv1.conv(&h, Geometry::same(3))?;
        let e = self.time.linear(&pass.embedding)?.unsqueeze(2)?.unsqueeze(3)?; // [B, C or 2C, 1, 1]
        let h = if self.scale_shift {
            let e = e.chunk(2, 1)?;
            let h = self.norm2.forward(&h)?.broadcast_mul(&(&e[0] + 1.)?)?.broadcast_add(&e[1])?;
            langevin_ops::act::silu(&h)?
        } else {
            self.norm2.silu(&h.broadcast_add(&e)?)?
        };
        let h = drop(&h, self.dropout, pass.dropout, self.layer)?;
        let h = self.conv2.conv(&h, Geometry::same(3))?;
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.conv(&x, Geometry { stride: 1, pad: [0; 4] })?,
            None => x,
        };
        divided(&(x + h)?, self.divide)
    }
}

fn divided(x: &Tensor, by: f64) -> Result<Tensor> {
    if by == 1. { Ok(x.clone()) } else { x.affine(1. / by, 0.) }
}

/// Each number to 0 with probability `p`, the others times 1 / (1 - p): a mask that is a pure function of (key, layer,
/// place in the batch), so that a resumed run has the same.
pub(crate) fn drop(x: &Tensor, p: f64, key: Option<u64>, layer: u64) -> Result<Tensor> {
    let Some(key) = key.filter(|_| p > 0.) else { return Ok(x.clone()) };
    let u = Noise::of_step(key, layer, x.dim(0)?).uniform_like(x)?;
    x * u.ge(p)?.to_dtype(x.dtype())?.affine(1. / (1. - p), 0.)?
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

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = x.dims4()?;
        let h = match &self.norm {
            Some(norm) => norm.forward(x)?,
            None => x.clone(),
        };
        let tokens = h.flatten_from(2)?.transpose(1, 2)?.contiguous()?; // [B, N, C]
        let split = |t: Tensor| t.reshape((batch, height * width, self.heads, ()))?.transpose(1, 2); // [B, heads, N, dim]
        let q = split(self.q.linear(&tokens)?)?;
        // a bias of k adds the same to every score of a query, which softmax forgets: without it its gradient is exactly
        // the 0 that it should be, not rounding errors that an optimiser scales up
        let k = split(linear(&tokens, &self.k.weight, None)?)?;
        let v = split(self.v.linear(&tokens)?)?;
        let scale = 1. / (q.dim(D::Minus1)? as f64).sqrt();
        let h = attention(&q, &k, &v, scale)?.transpose(1, 2)?.flatten_from(2)?; // [B, N, heads dim]
        let h = self.out.linear(&h)?.transpose(1, 2)?.reshape((batch, channels, height, width))?;
        divided(&(x + h)?, self.divide)
    }
}

/// What stands at the end of a level.
pub(crate) enum Resampler {
    /// A convolution of stride 2, padded as diffusers' `downsample_padding` says.
    ConvDown(Affine, [usize; 4]),
    /// Each pixel twice, then a convolution.
    ConvUp(Affine),
    /// A residual block that changes the resolution inside.
    Block(Box<ResBlock>),
}

impl Resampler {
    pub fn new(b: &Build, channels: usize, turn: Turn, vb: VarBuilder) -> Result<Self> {
        if b.config.residual_resampling {
            return Ok(Self::Block(Box::new(ResBlock::new(b, channels, channels, Some(turn), 1., vb)?)));
        }
        let conv = Affine::new((channels, channels, 3, 3), vb.pp("conv"))?;
        Ok(match turn {
            Turn::Up => Self::ConvUp(conv),
            // top, bottom, left, right
            Turn::Down => Self::ConvDown(conv, if b.config.downsample_padding == 0 { [0, 1, 0, 1] } else { [1; 4] }),
        })
    }

    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        match self {
            Self::ConvDown(conv, pad) => conv.conv(x, Geometry { stride: 2, pad: *pad }),
            Self::ConvUp(conv) => conv.conv(&upsample_nearest(x)?, Geometry::same(3)),
            Self::Block(block) => block.forward(x, pass),
        }
    }
}

/// One resolution on the way down or up: residual blocks, each with attention or none, then a resampler.
pub(crate) struct Level {
    pub blocks: Vec<(ResBlock, Option<Attention>)>,
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
            Ok((resnet, attention))
        };
        let blocks = from.iter().enumerate().map(block).collect::<Result<_>>()?;
        let name = if turn == Some(Turn::Up) { "upsamplers.0" } else { "downsamplers.0" };
        let resampler = turn.map(|turn| Resampler::new(b, to, turn, vb.pp(name))).transpose()?;
        Ok(Self { blocks, resampler })
    }
}
