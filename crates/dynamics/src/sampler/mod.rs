//! From noise to data, one step at a time.
//!
//! A sampler is one short file that reads like the paper's box. The loop, progress and trajectories are here, once;
//! guidance and clipping wrap the denoiser, so no sampler knows of them.

mod heun;

pub use heun::Heun;

use crate::{Denoiser, Process};
use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry;

/// A rule that moves x from time `t` to a less noisy `s`. It owns what it remembers between steps: one is made a run.
pub trait Sampler: Send + Sync + std::fmt::Debug {
    /// x at `s` from `x` at `t`; times are one for all samples or one a sample. At `s = 0` it returns clean data, and the
    /// model is never asked at t = 0.
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, t: &[f64], s: &[f64], z: &mut Noise) -> Result<Tensor>;
}

registry! {
    /// Any sampler, as configurations name it.
    pub enum AnySampler: Sampler = "sampler" { Heun }
}

/// Where a run is: after step `step` of `steps`, at time `t`.
pub struct At<'a> {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// The time that x is at.
    pub t: f64,
    /// The samples, `[B, ...]`.
    pub x: &'a Tensor,
}

/// Runs `sampler` from `x` at `times[0]` through all `times`, telling `watch` after each step.
pub fn run(
    m: &dyn Denoiser,
    sampler: &mut dyn Sampler,
    times: &[f64],
    x: &Tensor,
    z: &mut Noise,
    mut watch: impl FnMut(At) -> Result<()>,
) -> Result<Tensor> {
    if times.iter().any(|t| !t.is_finite()) {
        bail!("the grid of times {times:?} is not finite; look at the span of the process {:?}", m.process());
    }
    let mut x = x.detach();
    for (i, pair) in times.windows(2).enumerate() {
        x = sampler.step(m, &x, &pair[..1], &pair[1..], z)?.detach();
        watch(At { step: i + 1, steps: times.len() - 1, t: pair[1], x: &x })?;
    }
    Ok(x)
}

/// A draw from the prior at the end of the span, sigma z, `[B, ...]`.
pub fn prior(process: &dyn Process, shape: &[usize], dtype: DType, device: &Device, z: &mut Noise) -> Result<Tensor> {
    z.normal(shape, dtype, device)?.affine(process.marginal(process.span().1).sigma, 0.)
}
