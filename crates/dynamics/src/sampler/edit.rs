//! What the ODE's reversibility and a known noise allow: encoding, interpolation, and starting from an image.

use super::{AnySampler, run};
use crate::denoiser::each;
use crate::{Denoiser, Process};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{combine, norm_per_sample, sum_per_sample, to_host};

/// Data to noise: the ODE from the last time of `times` that is above 0, back to `times[0]`. \[Song21, section 4.3\]
///
/// `x` `[B, ...]` is clean data and enters as alpha x. `times` is the falling grid that would sample it. Errors if the
/// sampler is not one for the ODE.
pub fn encode(m: &dyn Denoiser, sampler: &AnySampler, times: &[f64], x: &Tensor) -> Result<Tensor> {
    if sampler.get().order().is_none() {
        bail!("`{}` draws noise and has no way back; encode with euler, heun or rk45", sampler.name());
    }
    let rising: Vec<f64> = times.iter().rev().copied().filter(|&t| t > 0.).collect();
    let Some(&first) = rising.first() else {
        bail!("encoding needs a time above 0 in the grid {times:?}");
    };
    let x = x.affine(m.process().marginal(first).alpha, 0.)?;
    run(m, sampler.get(), &rising, &x, &mut Noise::seeds(&[]), |_| Ok(()))
}

/// x_t = alpha x0 + sigma eps, where a run from an image begins: `x0` and `eps` `[B, ...]`.
pub fn noised(process: &dyn Process, x0: &Tensor, t: &[f64], eps: &Tensor) -> Result<Tensor> {
    combine(&each(process, t, |m| m.alpha), x0, &each(process, t, |m| m.sigma), eps)
}

/// The end of the grid `times` that `strength` keeps: all of it at 1, nothing but its last time at 0. [SDEdit, 2108.01073]
///
/// A run from an image starts with [`noised`] at the first time that is left.
pub fn cut(times: &[f64], strength: f64) -> Result<&[f64]> {
    if !(0. ..=1.).contains(&strength) {
        bail!("strength {strength}: give a number from 0 (the image as it is) to 1 (nothing of it)");
    }
    let steps = times.len().saturating_sub(1);
    Ok(&times[steps - (steps as f64 * strength).round() as usize..])
}

/// Spherical interpolation of noises, sample by sample: `a` at weight 0, `b` at weight 1, along the arc between, so that
/// what lies between two draws has the norm of a draw. `a`, `b` `[B, ...]`. [Shoemake 1985]
pub fn slerp(a: &Tensor, b: &Tensor, weight: f64) -> Result<Tensor> {
    let dots = to_host(&sum_per_sample(&(a * b)?)?)?;
    let norms = norm_per_sample(a)?.into_iter().zip(norm_per_sample(b)?);
    let weights = dots.iter().zip(norms).map(|(dot, (a, b))| {
        let angle = (dot / (a * b)).clamp(-1., 1.).acos();
        if angle.sin() < 1e-6 || angle.is_nan() {
            return (1. - weight, weight); // parallel, opposite, or nothing: the straight line
        }
        (((1. - weight) * angle).sin() / angle.sin(), (weight * angle).sin() / angle.sin())
    });
    let (of_a, of_b): (Vec<_>, Vec<_>) = weights.unzip();
    combine(&of_a, a, &of_b, b)
}
