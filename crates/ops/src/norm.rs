//! Group normalisation, alone and fused with SiLU.

use candle_core::{Result, Tensor, bail};

/// (x - mean) / sqrt(var + eps) over each of `groups` groups of channels, times `gamma` plus `beta` (`[C]` each).
/// `x` is `[B, C, ...]`. [Wu & He 2018, 1803.08494]
pub fn group_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    let (batch, channels) = (x.dim(0)?, x.dim(1)?);
    if groups == 0 || channels % groups != 0 {
        bail!("group_norm: {channels} channels cannot be split into {groups} groups");
    }
    let y = x.contiguous()?.reshape((batch, groups, ()))?;
    let y = y.broadcast_sub(&y.mean_keepdim(2)?)?;
    let y = y.broadcast_div(&(y.sqr()?.mean_keepdim(2)? + eps)?.sqrt()?)?;
    let mut channel = vec![1; x.rank()];
    channel[1] = channels;
    let (gamma, beta) = (gamma.reshape(channel.as_slice())?, beta.reshape(channel.as_slice())?);
    y.reshape(x.shape())?.broadcast_mul(&gamma)?.broadcast_add(&beta)
}

/// SiLU of [`group_norm`].
pub fn group_norm_silu(x: &Tensor, gamma: &Tensor, beta: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    crate::act::silu(&group_norm(x, gamma, beta, groups, eps)?)
}
