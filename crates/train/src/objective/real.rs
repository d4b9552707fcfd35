//! What losses of densities over real numbers share: the energy with its gradient, noise several times a sample, and runs that
//! remember nothing.

use super::{Context, Part, Training};
use crate::trainable::Trainable;
use candle_core::{Result, Tensor, bail};
use langevin_data::Batch;
use langevin_dynamics::{Density, Differentiable};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;

/// A loss of an energy that is a mean over samples of the data and remembers nothing.
pub trait Losses: Named + Clone + Send + Sync + 'static {
    /// The loss of each sample of `x` `[B, ...]`: `[B]`. Its noise comes from `z`, a stream a sample.
    ///
    /// Inside `grad::value_and_grad` it can be differentiated in the parameters of the energy.
    fn losses(&self, energy: &dyn Differentiable, x: &Tensor, z: &mut Noise) -> Result<Tensor>;
}

/// Such a loss under way.
struct Run<L>(L);

/// Starts `loss` on `model`.
///
/// Errors if that has no energy of real numbers.
pub(super) fn start<M: Trainable + Density, L: Losses>(loss: &L, model: &M) -> Result<Box<dyn Training<M>>> {
    energy(model, L::NAME)?;
    Ok(Box::new(Run(loss.clone())))
}

impl<M: Trainable + Density, L: Losses> Training<M> for Run<L> {
    fn part(&mut self, model: &M, batch: &Batch, at: &Context) -> Result<Part> {
        let (energy, mut z) = (energy(model, L::NAME)?, at.noise(batch.x.dim(0)?));
        at.mean(|| self.0.losses(energy, &batch.x, &mut z))
    }
}

/// The energy of `model`.
///
/// Errors, naming the `loss`, if it is of states that cannot be moved a little, such as bits.
pub(super) fn energy<'a, M: Density>(model: &'a M, loss: &str) -> Result<&'a dyn Differentiable> {
    match model.as_differentiable() {
        Some(energy) => Ok(energy),
        None => bail!(
            "loss.name is {loss}, which needs an energy of real numbers that can be differentiated in them, and this density \
             has none; take contrastive-divergence, or a family of real numbers"
        ),
    }
}

/// Errors, naming the option of the loss, unless `value` is a number above 0.
pub(super) fn positive(option: &str, value: f64) -> Result<()> {
    if !(value > 0. && value.is_finite()) {
        bail!("loss.{option} is {value}; it must be a finite number above 0");
    }
    Ok(())
}

/// Errors, naming the option of the loss, unless `value` is from 1 to 4096.
pub(super) fn count(option: &str, value: usize) -> Result<()> {
    if !(1..=4096).contains(&value) {
        bail!("loss.{option} is {value}; give 1 to 4096");
    }
    Ok(())
}

/// `k` draws for each of the states `x` `[B, ...]`, by `draw` of the shape `[B, k, ...]` of zeros: `[k B, ...]`, the first draws of all
/// states before the second.
pub(super) fn several(x: &Tensor, k: usize, draw: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let (n, shape) = (x.dim(0)?, &x.dims()[1..]);
    // the streams of noise belong to samples
    let drawn = draw(&Tensor::zeros([&[n, k], shape].concat(), x.dtype(), x.device())?)?;
    drawn.transpose(0, 1)?.contiguous()?.reshape([&[k * n], shape].concat())
}

/// `k` copies of the states `x` `[B, ...]`: `[k B, ...]`, in the order of [`several`].
pub(super) fn copies(x: &Tensor, k: usize) -> Result<Tensor> {
    Tensor::cat(&vec![x; k], 0)
}

/// ln of the sum of exp(v) over the first dimension: `[K, B] -> [B]`.
pub(super) fn log_sum_exp(v: &Tensor) -> Result<Tensor> {
    let top = v.detach().max_keepdim(0)?;
    v.broadcast_sub(&top)?.exp()?.sum(0)?.log()? + top.squeeze(0)?
}
