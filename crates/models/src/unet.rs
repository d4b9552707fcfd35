//! The U-Net of DDPM and ADM: diffusers' `UNet2DModel`, block for block and name for name.
//!
//! Down the levels with a skip from every block, a middle with attention, and up again, each block fed by one skip.
//! [Ho20; Dhariwal & Nichol, 2105.05233]

use crate::blocks::{Attention, Build, Level, Norm, Pass, ResBlock, Turn};
use crate::embed::{Embedding, Sinusoid};
use crate::net::NetConfig;
use crate::params::Affine;
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use langevin_dynamics::{Cond, Net};
use langevin_ops::act::silu;
use langevin_ops::conv::Geometry;
use langevin_ops::registry::Named;
use langevin_ops::tape::{self, Value};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What the U-Net is made of. Levels are numbered from the finest, 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNetConfig {
    /// Channels of each level; the image is halved between levels.
    pub channels: Vec<usize>,
    /// Residual blocks of a level on the way down; one more on the way up.
    pub layers: usize,
    /// Levels with attention.
    pub attention: Vec<usize>,
    /// Levels with attention on the way up, where they differ from `attention`.
    pub up_attention: Option<Vec<usize>>,
    /// Whether there is a middle: two residual blocks at the coarsest level.
    pub middle: bool,
    /// Whether the middle has attention.
    pub middle_attention: bool,
    /// Channels of an attention head; one head of all channels if left out.
    pub head_dim: Option<usize>,
    /// Groups of the group norms; a quarter of the channels, at most 32, if left out.
    pub groups: Option<usize>,
    /// Groups of the norm before the middle's attention, where they differ; with `scale_shift` none if left out.
    pub middle_groups: Option<usize>,
    /// Added to the variance in the norms.
    pub eps: f64,
    /// Probability of dropping a number inside a residual block, in training.
    pub dropout: f64,
    /// The embedding scales and shifts the norms (ADM) instead of being added.
    pub scale_shift: bool,
    /// Levels are joined by residual blocks that change the resolution (ADM) instead of convolutions.
    pub residual_resampling: bool,
    /// Padding of the halving convolutions: 1 on every side, or 0 for one row and column at the end (google's DDPM).
    pub downsample_padding: usize,
    /// Factor by which the middle's residual sums are divided.
    pub middle_scale: f64,
    /// Map the input from [0, 1] to [-1, 1].
    pub center_input: bool,
    /// Cosines before sines in the features of the time.
    pub cos_first: bool,
    /// Shift of the lowest frequency of the time's features.
    pub freq_shift: f64,
    /// Width of the embedding of time and class; four times the first channels if left out.
    pub embedding: Option<usize>,
}

impl Default for UNetConfig {
    fn default() -> Self {
        Self {
            channels: vec![32, 64, 64],
            layers: 1,
            attention: vec![],
            up_attention: None,
            middle: true,
            middle_attention: true,
            head_dim: None,
            groups: None,
            middle_groups: None,
            eps: 1e-5,
            dropout: 0.,
            scale_shift: false,
            residual_resampling: false,
            downsample_padding: 1,
            middle_scale: 1.,
            center_input: false,
            cos_first: true,
            freq_shift: 0.,
            embedding: None,
        }
    }
}

impl Named for UNetConfig {
    const NAME: &'static str = "unet";
    const ABOUT: &'static str = "convolutions down and up with skips, for images: UNet2DModel of diffusers [Ho20]";
}

impl UNetConfig {
    /// Width of the embedding of time and class.
    fn width(&self) -> usize {
        self.embedding.unwrap_or(4 * self.channels.first().copied().unwrap_or(0))
    }

    /// One sentence that names the key and what it may be.
    pub fn validate(&self) -> Result<()> {
        let levels = self.channels.len();
        if levels == 0 || levels > 10 {
            bail!("`channels` lists {levels} levels; give 1 to 10");
        }
        if let Some(c) = self.channels.iter().find(|&&c| c == 0 || c > 16384) {
            bail!("`channels` has {c}; each is 1 to 16384");
        }
        if self.layers == 0 || self.layers > 64 {
            bail!("`layers` is {}; give 1 to 64", self.layers);
        }
        for (key, list) in [("attention", Some(&self.attention)), ("up_attention", self.up_attention.as_ref())] {
            if let Some(level) = list.and_then(|list| list.iter().find(|&&level| level >= levels)) {
                bail!("`{key}` names level {level}; the levels are 0 to {}", levels - 1);
            }
        }
        for (key, value) in
            [("head_dim", self.head_dim), ("groups", self.groups), ("middle_groups", self.middle_groups)]
        {
            if value == Some(0) {
                bail!("`{key}` is 0; give 1 or more");
            }
        }
        if !(self.eps > 0. && self.eps < 1.) {
            bail!("`eps` is {}; give a small number above 0", self.eps);
        }
        if !(0. ..1.).contains(&self.dropout) {
            bail!("`dropout` is {}; give a probability from 0 to below 1", self.dropout);
        }
        if self.downsample_padding > 1 {
            bail!("`downsample_padding` is {}; 0 and 1 are supported", self.downsample_padding);
        }
        if !(self.middle_scale.is_finite() && self.middle_scale > 0.) {
            bail!("`middle_scale` is {}; give a number above 0", self.middle_scale);
        }
        let half = (self.channels[0] / 2) as f64;
        if !(self.freq_shift.is_finite() && self.freq_shift < half) {
            bail!("`freq_shift` is {}; give less than half the first channels, {half}", self.freq_shift);
        }
        if self.width() == 0 || self.width() > 65536 {
            bail!("`embedding` is {}; give 1 to 65536", self.width());
        }
        Ok(())
    }
}

impl NetConfig for UNetConfig {
    fn build(&self, shape: &[usize], outputs: usize, classes: Option<usize>, vb: VarBuilder) -> Result<Box<dyn Net>> {
        let &[channels, height, width] = shape else {
            bail!("the U-Net takes images [C, H, W], not data of shape {shape:?}; use net \"mlp\"");
        };
        self.validate()?;
        self.fits(height, width)?;
        Ok(Box::new(UNet::new(self, channels, outputs, classes, vb)?))
    }
}

impl UNetConfig {
    fn fits(&self, height: usize, width: usize) -> Result<()> {
        let step = 1 << (self.channels.len() - 1);
        if height == 0 || width == 0 || !height.is_multiple_of(step) || !width.is_multiple_of(step) {
            bail!(
                "a U-Net of {} levels halves the image {} times, so height and width must be multiples of {step}: \
                 {height}x{width} does not work, {}x{} does",
                self.channels.len(),
                self.channels.len() - 1,
                height.div_ceil(step).max(1) * step,
                width.div_ceil(step).max(1) * step
            );
        }
        Ok(())
    }
}

type Middle = (Arc<ResBlock>, Option<Arc<Attention>>, Arc<ResBlock>);

/// A U-Net with its weights.
pub struct UNet {
    config: UNetConfig,
    inputs: usize,
    embedding: Embedding,
    conv_in: Affine,
    down: Vec<Level>,
    middle: Option<Middle>,
    up: Vec<Level>,
    norm_out: Norm,
    conv_out: Affine,
}

impl UNet {
    /// From `inputs` to `outputs` channels, with an embedding for each of `classes` if there are any.
    pub fn new(
        config: &UNetConfig,
        inputs: usize,
        outputs: usize,
        classes: Option<usize>,
        vb: VarBuilder,
    ) -> Result<Self> {
        config.validate()?;
        if inputs == 0 || inputs > 16384 || outputs == 0 || outputs > 16384 {
            bail!("{inputs} input and {outputs} output channels; give 1 to 16384");
        }
        let (c, channels) = (config, &config.channels);
        let width = c.width();
        let sinusoid = Sinusoid { channels: channels[0], cos_first: c.cos_first, freq_shift: c.freq_shift };
        let embedding = Embedding::new(sinusoid, width, classes, &vb)?;
        let conv_in = Affine::new((channels[0], inputs, 3, 3), vb.pp("conv_in"))?;
        let b = Build { config, width, layers: 0.into() };
        let last = channels.len() - 1;

        let mut down = vec![];
        for (i, &to) in channels.iter().enumerate() {
            let mut from = vec![to; c.layers];
            from[0] = channels[i.saturating_sub(1)];
            let turn = (i < last).then_some(Turn::Down);
            down.push(Level::new(&b, &from, to, c.attention.contains(&i), turn, vb.pp("down_blocks").pp(i))?);
        }

        let middle = c.middle.then(|| Self::middle(&b, channels[last], vb.pp("mid_block"))).transpose()?;

        let attention = c.up_attention.as_ref().unwrap_or(&c.attention);
        let mut up = vec![];
        for (i, level) in (0..=last).rev().enumerate() {
            let to = channels[level];
            // each block takes the one before and a skip; the last skip comes from the level above
            let mut from = vec![to + to; c.layers + 1];
            from[0] = channels[(level + 1).min(last)] + to;
            from[c.layers] = to + channels[level.saturating_sub(1)];
            let turn = (level > 0).then_some(Turn::Up);
            up.push(Level::new(&b, &from, to, attention.contains(&level), turn, vb.pp("up_blocks").pp(i))?);
        }

        let norm_out = Norm::new(channels[0], c.groups, c.eps, vb.pp("conv_norm_out"))?;
        let conv_out = Affine::new((outputs, channels[0], 3, 3), vb.pp("conv_out"))?;
        Ok(Self { config: c.clone(), inputs, embedding, conv_in, down, middle, up, norm_out, conv_out })
    }

    fn middle(b: &Build, channels: usize, vb: VarBuilder) -> Result<Middle> {
        let c = b.config;
        let divide = c.middle_scale;
        let block = |j: usize| ResBlock::new(b, channels, channels, None, divide, vb.pp("resnets").pp(j));
        let norm = match c.middle_groups {
            Some(groups) => Some(Some(groups)),
            None => (!c.scale_shift).then_some(c.groups),
        };
        let attention =
            c.middle_attention.then(|| Attention::new(b, channels, norm, divide, vb.pp("attentions").pp(0)));
        Ok((Arc::new(block(0)?), attention.transpose()?.map(Arc::new), Arc::new(block(1)?)))
    }
}

impl Net for UNet {
    fn forward(&self, x: &Tensor, c_noise: &Tensor, cond: &Cond) -> Result<Tensor> {
        tape::run(x, |x| self.trace(x, c_noise, cond))
    }

    fn trace(&self, x: &Value, c_noise: &Tensor, cond: &Cond) -> Result<Value> {
        let &[_, channels, height, width] = x.dims() else {
            bail!("the U-Net takes images [B, C, H, W], not {:?}", x.dims());
        };
        if channels != self.inputs {
            bail!("the U-Net takes {} channels, not {channels}", self.inputs);
        }
        self.config.fits(height, width)?;
        let x = if self.config.center_input { x.affine(2., -1.)? } else { x.clone() };
        let embedding = silu(&self.embedding.forward(c_noise, cond)?)?;
        let pass = Pass { embedding, dropout: cond.dropout };

        let mut h = self.conv_in.conv(&x, Geometry::same(3))?;
        let mut skips = vec![h.clone()];
        for level in &self.down {
            for (block, attention) in &level.blocks {
                h = block.forward(&h, &pass)?;
                if let Some(attention) = attention {
                    h = attention.forward(&h)?;
                }
                skips.push(h.clone());
            }
            if let Some(resampler) = &level.resampler {
                h = resampler.forward(&h, &pass)?;
                skips.push(h.clone());
            }
        }
        if let Some((first, attention, second)) = &self.middle {
            h = first.forward(&h, &pass)?;
            if let Some(attention) = attention {
                h = attention.forward(&h)?;
            }
            h = second.forward(&h, &pass)?;
        }
        for level in &self.up {
            for (block, attention) in &level.blocks {
                let Some(skip) = skips.pop() else { bail!("the U-Net has fewer skips than blocks") };
                h = block.forward(&Value::cat(&[&h, &skip], 1)?, &pass)?;
                if let Some(attention) = attention {
                    h = attention.forward(&h)?;
                }
            }
            if let Some(resampler) = &level.resampler {
                h = resampler.forward(&h, &pass)?;
            }
        }
        self.conv_out.conv(&self.norm_out.silu(&h)?, Geometry::same(3))
    }
}
