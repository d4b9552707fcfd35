//! The U-Net of DDPM, ADM and NCSN++: diffusers' `UNet2DModel`, block for block and name for name.
//!
//! Down the levels with a skip from every block, a middle with attention, and up again, each block fed by one skip.
//! [Ho20; Dhariwal & Nichol, 2105.05233; Song21]

mod config;

pub use crate::blocks::Activation;
pub use config::{ClassInput, Kind, Time, UNetConfig};

use crate::blocks::{Attention, Build, Norm, POINT, Pass, ResBlock, Residual, Turn};
use crate::embed::Embedding;
use crate::level::{Level, Plan, Side};
use crate::net::NetConfig;
use crate::params::Affine;
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use langevin_dynamics::{Cond, Net};
use langevin_ops::act::sin;
use langevin_ops::conv::Geometry;
use langevin_ops::fir;
use langevin_ops::tape::{self, Value};
use std::f64::consts::{FRAC_PI_2, PI};
use std::sync::Arc;

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
        let embedding = Embedding::of_unet(c, classes, &vb)?;
        let seen = inputs * (1 + 2 * c.sines.len());
        let conv_in = Affine::new((channels[0], seen, 3, 3), vb.pp("conv_in"))?;
        let b = Build { config, width: c.width(), layers: 0.into() };
        let last = channels.len() - 1;

        let mut down = vec![];
        for (i, (&to, kind)) in channels.iter().zip(c.kinds(c.down.as_ref())).enumerate() {
            let mut from = vec![(to, 0); c.layers];
            from[0].0 = channels[i.saturating_sub(1)];
            let (attention, joined) = (c.attention.contains(&i), i < last);
            let plan = Plan { from: &from, to, attention, kind, way: Turn::Down, joined, image: inputs };
            down.push(Level::new(&b, &plan, vb.pp("down_blocks").pp(i))?);
        }

        let middle = c.middle.then(|| Self::middle(&b, channels[last], vb.pp("mid_block"))).transpose()?;

        let with_attention = c.up_attention.as_ref().unwrap_or(&c.attention);
        let mut up = vec![];
        for (i, (level, kind)) in c.kinds(c.up.as_ref()).into_iter().enumerate().rev().enumerate() {
            let to = channels[level];
            // each block takes the one before and a skip; the last skip comes from the level above
            let mut from = vec![(to, to); c.layers + 1];
            from[0].0 = channels[(level + 1).min(last)];
            from[c.layers].1 = channels[level.saturating_sub(1)];
            let (attention, joined) = (with_attention.contains(&level), level > 0);
            let plan = Plan { from: &from, to, attention, kind, way: Turn::Up, joined, image: outputs };
            up.push(Level::new(&b, &plan, vb.pp("up_blocks").pp(i))?);
        }

        let norm_out = Norm::new(channels[0], c.groups, c.eps, vb.pp("conv_norm_out"))?;
        let conv_out = Affine::new((outputs, channels[0], 3, 3), vb.pp("conv_out"))?;
        Ok(Self { config: c.clone(), inputs, embedding, conv_in, down, middle, up, norm_out, conv_out })
    }

    /// x, and sin and cos of 2^n pi x for each n of `sines`, as further channels.
    fn with_sines(&self, x: &Value) -> Result<Value> {
        let mut all = vec![x.clone()];
        for &n in &self.config.sines {
            let frequency = PI * f64::from(n).exp2();
            for phase in [0., FRAC_PI_2] {
                all.push(sin(&x.affine(frequency, phase)?)?);
            }
        }
        if all.len() == 1 { Ok(x.clone()) } else { Value::cat(&all.iter().collect::<Vec<_>>(), 1) }
    }

    fn middle(b: &Build, channels: usize, vb: VarBuilder) -> Result<Middle> {
        let c = b.config;
        let divide = c.middle_scale;
        let shape = Residual { from: channels, to: channels, groups: [c.groups; 2], turn: None, fir: false, divide };
        let block = |j: usize| ResBlock::new(b, &shape, vb.pp("resnets").pp(j));
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
        let embedding = self.config.activation.of(&self.embedding.forward(c_noise, cond)?)?;
        let pass = Pass { embedding, dropout: cond.dropout };

        let mut h = self.conv_in.conv(&self.with_sines(&x)?, Geometry::same(3))?;
        let mut image = x; // halved beside the features, where levels are of skip blocks
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
                if let Some(Side::In(conv)) = &level.side {
                    image = fir::downsample(&image, &fir::BINOMIAL, 2)?;
                    h = conv.conv_add(&image, &h, POINT)?;
                }
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
        let mut sum: Option<Value> = None; // of the levels' parts of the output
        for level in &self.up {
            for (block, attention) in &level.blocks {
                let Some(skip) = skips.pop() else { bail!("the U-Net has fewer skips than blocks") };
                h = block.forward(&Value::cat(&[&h, &skip], 1)?, &pass)?;
                if let Some(attention) = attention {
                    h = attention.forward(&h)?;
                }
            }
            if let Some(side) = &level.side {
                sum = sum.map(|sum| fir::upsample(&sum, &fir::BINOMIAL, 2)).transpose()?;
                if let Side::Out(norm, conv) = side {
                    let part = conv.conv(&norm.silu(&h)?, Geometry::same(3))?;
                    sum = Some(match sum {
                        Some(sum) => sum.add(&part)?,
                        None => part,
                    });
                }
            }
            if let Some(resampler) = &level.resampler {
                h = resampler.forward(&h, &pass)?;
            }
        }
        h = self.norm_out.silu(&h)?;
        h = match &sum {
            Some(sum) => self.conv_out.conv_add(&h, sum, Geometry::same(3))?,
            None => self.conv_out.conv(&h, Geometry::same(3))?,
        };
        if self.config.time != Time::Fourier {
            return Ok(h);
        }
        let over = c_noise.recip()?.reshape((c_noise.dim(0)?, 1, 1, 1))?;
        h.mul(&Value::of(&over).broadcast(h.shape().clone())?)
    }
}
