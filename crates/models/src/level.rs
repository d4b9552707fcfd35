//! A level of the U-Net: blocks at one resolution on the way down or up, and what joins it to the next.

use crate::blocks::{Attention, Build, Norm, Pass, ResBlock, Residual, Turn};
use crate::params::Affine;
use crate::unet::Kind;
use candle_core::Result;
use candle_nn::VarBuilder;
use langevin_ops::conv::Geometry;
use langevin_ops::resample::upsample_nearest;
use langevin_ops::tape::Value;
use std::f64::consts::SQRT_2;
use std::sync::Arc;

/// What a level is made of.
pub(crate) struct Plan<'a> {
    /// Channels that each residual block takes, from the one before and from a skip.
    pub from: &'a [(usize, usize)],
    /// Channels that each gives.
    pub to: usize,
    pub attention: bool,
    pub kind: Kind,
    pub way: Turn,
    /// Whether another level follows.
    pub joined: bool,
    /// Channels of the image that goes beside the features where the level is one of skip blocks.
    pub image: usize,
}

impl Plan<'_> {
    /// Groups of the norms of residual blocks, unless one has its own.
    fn groups(&self, b: &Build) -> Option<usize> {
        if self.kind == Kind::Skip { None } else { b.config.groups }
    }

    /// What sums are divided by.
    fn divide(&self) -> f64 {
        if self.kind == Kind::Skip { SQRT_2 } else { 1. }
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
    /// `vb` is that of the level.
    fn new(b: &Build, plan: &Plan, vb: &VarBuilder) -> Result<Self> {
        let (channels, fir) = (plan.to, plan.kind == Kind::Skip);
        let vb = vb.pp(match (fir, plan.way) {
            (true, Turn::Down) => "resnet_down",
            (true, Turn::Up) => "resnet_up",
            (false, Turn::Down) => "downsamplers.0",
            (false, Turn::Up) => "upsamplers.0",
        });
        if plan.kind != Kind::Conv {
            let (groups, turn) = ([plan.groups(b); 2], Some(plan.way));
            let shape = Residual { from: channels, to: channels, groups, turn, fir, divide: plan.divide() };
            return Ok(Self::Block(Arc::new(ResBlock::new(b, &shape, vb)?)));
        }
        let conv = Affine::new((channels, channels, 3, 3), vb.pp("conv"))?;
        Ok(match plan.way {
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

/// What a level of skip blocks does with the image beside the features.
pub(crate) enum Side {
    /// Down: a 1x1 of the halved image is added.
    In(Affine),
    /// Up: a 3x3 of the features adds to the output so far, doubled.
    Out(Norm, Affine),
    /// At the end: the output so far is doubled.
    Double,
}

/// One resolution on the way down or up: residual blocks, each with attention or none, then a resampler.
pub(crate) struct Level {
    pub blocks: Vec<(Arc<ResBlock>, Option<Arc<Attention>>)>,
    pub resampler: Option<Resampler>,
    pub side: Option<Side>,
}

impl Level {
    /// As `plan` says; names as diffusers has them.
    pub fn new(b: &Build, plan: &Plan, vb: VarBuilder) -> Result<Self> {
        let (to, groups, divide) = (plan.to, plan.groups(b), plan.divide());
        let skip = plan.kind == Kind::Skip;
        let attention = |j: usize| {
            let groups = if skip { Some(32) } else { groups };
            Attention::new(b, to, Some(groups), divide, vb.pp("attentions").pp(j)).map(Arc::new)
        };
        let once = skip && plan.way == Turn::Up; // one attention, after the last block
        let block = |(j, &(before, beside)): (usize, &(usize, usize))| {
            // as diffusers' AttnSkipUpBlock2D has it; elsewhere it is a quarter of the sum
            let first = if once && plan.attention { Some((before + beside / 4).min(32)) } else { groups };
            let shape = Residual { from: before + beside, to, groups: [first, groups], turn: None, fir: false, divide };
            let resnet = ResBlock::new(b, &shape, vb.pp("resnets").pp(j))?;
            let attention = match plan.attention {
                true if !once => Some(attention(j)?),
                true if j + 1 == plan.from.len() => Some(attention(0)?),
                _ => None,
            };
            Ok((Arc::new(resnet), attention))
        };
        let blocks = plan.from.iter().enumerate().map(block).collect::<Result<_>>()?;
        let side = match (plan.way, plan.joined) {
            _ if !skip => None,
            (Turn::Down, true) => Some(Side::In(Affine::new((to, plan.image, 1, 1), vb.pp("skip_conv"))?)),
            (Turn::Down, false) => None,
            (Turn::Up, true) => {
                let norm = Norm::new(to, None, b.config.eps, vb.pp("skip_norm"))?;
                Some(Side::Out(norm, Affine::new((plan.image, to, 3, 3), vb.pp("skip_conv"))?))
            }
            (Turn::Up, false) => Some(Side::Double),
        };
        let resampler = plan.joined.then(|| Resampler::new(b, plan, &vb)).transpose()?;
        Ok(Self { blocks, resampler, side })
    }
}
