//! What a U-Net is made of, and which of it fits together.

use crate::blocks::Activation;
use candle_core::{Result, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// What the blocks of a level are, and what joins it to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A convolution halves, or follows the doubling (DDPM).
    Conv,
    /// A residual block changes the resolution inside (ADM).
    Residual,
    /// The same with a smooth filter, sums divided by sqrt 2, and the image itself beside the features: its filtered
    /// copies go into the levels, and the output is summed up from them (NCSN++). \[Song21\]
    Skip,
}

/// Features of the time, from which its embedding is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Time {
    /// Sines and cosines of the time at fixed frequencies.
    #[default]
    Sinusoid,
    /// Sines and cosines of its logarithm at random frequencies, and the output is divided by the time: this is then the
    /// standard deviation of the noise, above 0. \[Song21\]
    Fourier,
    /// A learned row for each of so many whole numbers.
    Learned(usize),
}

/// How the network is told a class, if it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassInput {
    /// A learned row for each class.
    #[default]
    Table,
    /// Any number, `[B]`, embedded as the time is.
    AsTime,
    /// The embedding itself is given, `[B, width]`.
    AsIs,
}

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
    /// What each level is on the way down, where they are not all alike.
    pub down: Option<Vec<Kind>>,
    /// The same on the way up.
    pub up: Option<Vec<Kind>>,
    /// The function between the convolutions.
    pub activation: Activation,
    /// Padding of the halving convolutions: 1 on every side, or 0 for one row and column at the end (google's DDPM).
    pub downsample_padding: usize,
    /// Factor by which the middle's residual sums are divided.
    pub middle_scale: f64,
    /// Map the input from [0, 1] to [-1, 1].
    pub center_input: bool,
    /// Powers n for which sin and cos of 2^n pi x go into the network beside x: fine detail, as likelihoods of noise far
    /// below a pixel's step ask for. \[Kingma21, appendix C\]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sines: Vec<u32>,
    /// Features of the time.
    pub time: Time,
    /// How the network is told a class, if it is.
    pub class: ClassInput,
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
            down: None,
            up: None,
            activation: Activation::Silu,
            downsample_padding: 1,
            middle_scale: 1.,
            center_input: false,
            sines: vec![],
            time: Time::Sinusoid,
            class: ClassInput::Table,
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
    pub(crate) fn width(&self) -> usize {
        self.embedding.unwrap_or_else(|| self.channels.first().map_or(0, |c| c.saturating_mul(4)))
    }

    /// What each level is, finest first, given `down` or `up`.
    pub(crate) fn kinds(&self, given: Option<&Vec<Kind>>) -> Vec<Kind> {
        let all = if self.residual_resampling { Kind::Residual } else { Kind::Conv };
        given.cloned().unwrap_or_else(|| vec![all; self.channels.len()])
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
        self.validate_kinds()?;
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
        if let Some(n) = self.sines.iter().find(|&&n| n > 16) {
            bail!("`sines` has {n}; each is a power from 0 to 16");
        }
        if !(self.middle_scale.is_finite() && self.middle_scale > 0.) {
            bail!("`middle_scale` is {}; give a number above 0", self.middle_scale);
        }
        let half = (self.channels[0] / 2) as f64;
        if !(self.freq_shift.is_finite() && self.freq_shift < half) {
            bail!("`freq_shift` is {}; give less than half the first channels, {half}", self.freq_shift);
        }
        if let Time::Learned(times) = self.time
            && (times == 0 || times > 1_000_000)
        {
            bail!("`time` has {times} learned rows; give 1 to 1000000");
        }
        if self.width() == 0 || self.width() > 65536 {
            bail!("`embedding` is {}; give 1 to 65536", self.width());
        }
        Ok(())
    }
}

impl UNetConfig {
    fn validate_kinds(&self) -> Result<()> {
        let levels = self.channels.len();
        for (key, list) in [("down", &self.down), ("up", &self.up)] {
            let Some(list) = list else { continue };
            if list.len() != levels {
                bail!("`{key}` has {} entries for {levels} levels; give one a level", list.len());
            }
            // down the last level, and up to the first, nothing is resampled
            let joined = if key == "down" { &list[..levels - 1] } else { &list[..] };
            let last = joined.iter().rposition(|&kind| kind == Kind::Skip).unwrap_or(0);
            if let Some(level) = joined[..last].iter().position(|&kind| kind != Kind::Skip) {
                bail!(
                    "`{key}` has level {last} of skip blocks and level {level} not, so that the image beside the features \
                     would not have their size; make the finer level one of skip blocks too"
                );
            }
        }
        Ok(())
    }

    pub(crate) fn fits(&self, height: usize, width: usize) -> Result<()> {
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
