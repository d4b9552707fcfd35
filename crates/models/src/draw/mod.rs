//! How samples of a density are drawn by Markov chains: a registry of ways, each of which says what its chains did.
//!
//! Every sample has chains of its own, by the stream of its own seed, so that it is the same in any batch. Parts of a state may be
//! held as they are, where the density has conditionals: what is drawn is the rest given them, as inpainting wants it.

mod annealed;
mod mcmc;
mod tempering;

pub use annealed::Annealed;
pub use mcmc::Mcmc;
pub use tempering::Tempering;

use crate::family::DensityModel;
use candle_core::{DType, Result, Tensor, bail};
use langevin_dynamics::Ladder;
use langevin_dynamics::density::unclamped;
use langevin_dynamics::ladder::{Conditioned, Visit};
use langevin_dynamics::mcmc::AnyKernel;
use langevin_ops::noise::Noise;
use langevin_ops::registry;
use langevin_ops::shape::to_host;
use std::ops::RangeInclusive;

/// Data of which a part is held.
#[derive(Clone, Debug)]
pub struct Held {
    /// What is held, `[1 or N, ...]`; the other numbers do not matter.
    pub states: Tensor,
    /// Not 0 where a number is held, `[1 or N, ...]`. Ways along a ladder take one mask for all samples.
    pub mask: Tensor,
}

impl Held {
    /// `x` with what is held in its place.
    fn put(&self, x: &Tensor) -> Result<Tensor> {
        let like = |t: &Tensor| t.to_dtype(x.dtype())?.to_device(x.device());
        unclamped(&like(&self.states)?.broadcast_as(x.shape())?, x.clone(), Some(&like(&self.mask)?))
    }

    /// The same of states with so many latent units behind the numbers of the data, none of which is held.
    fn beside(&self, latent: usize) -> Result<Self> {
        let padded = |t: &Tensor| t.flatten_from(1)?.pad_with_zeros(1, 0, latent);
        match latent {
            0 => Ok(self.clone()),
            _ => Ok(Self { states: padded(&self.states)?, mask: padded(&self.mask)? }),
        }
    }

    fn mask_like(&self, x: &Tensor) -> Result<Tensor> {
        self.mask.to_dtype(x.dtype())?.to_device(x.device())
    }

    /// Errors unless it is of `n` samples of this shape.
    fn check(&self, n: usize, shape: &[usize]) -> Result<()> {
        for (t, what) in [(&self.states, "states"), (&self.mask, "mask")] {
            if !matches!(t.dims(), [some, each @ ..] if each == shape && [1, n].contains(some)) {
                bail!("held {what} of shape {:?} for {n} samples of {shape:?}; give [1 or N, ...]", t.dims());
            }
        }
        Ok(())
    }
}

/// So many times on their way it is noted where chains are.
const NOTED: usize = 200;

/// What was drawn.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// The samples, `[N, ...]`: states, latent units among them.
    pub states: Tensor,
    /// What the chains did, by the name of the density: of each rung of a ladder, the last the density itself.
    pub visits: Vec<(String, Visit)>,
}

/// Told after each step how many are done, of how many in all; an error stops the drawing.
pub type Watch<'a> = &'a mut dyn FnMut(usize, usize) -> Result<()>;

/// A way to draw: options alone.
pub trait ChainSampler: Send + Sync + std::fmt::Debug {
    /// What moves its chains.
    fn kernel(&self) -> &AnyKernel;

    /// Errors, naming the option, if one is out of its range.
    fn check(&self) -> Result<()>;

    /// A sample of `model` for each of the `n` streams of `z`, given what is `held`, of a shape that [`AnyChainSampler::draw`] has
    /// checked.
    ///
    /// Errors if the density has not what the way needs.
    fn draw(&self, model: &DensityModel, n: usize, held: Option<&Held>, z: &mut Noise, watch: Watch) -> Result<Drawn>;
}

registry! {
    /// Any way to draw samples of a density, as configurations name it.
    pub enum AnyChainSampler: ChainSampler = "sampler" { Mcmc, Tempering, Annealed } check ChainSampler::check
}

/// Chains of the density alone.
impl Default for AnyChainSampler {
    fn default() -> Self {
        Mcmc::default().into()
    }
}

impl AnyChainSampler {
    /// A sample of `model` for each of `seeds`, a state `[N, ...]`, given what is `held`. `watch` is told after each step.
    ///
    /// Errors, naming it, if an option is out of its range, or if the density has not what the way needs.
    pub fn draw(&self, model: &DensityModel, seeds: &[u64], held: Option<&Held>, watch: Watch) -> Result<Drawn> {
        self.get().check()?;
        if seeds.is_empty() {
            bail!("no seeds, and so no samples; give one a sample");
        }
        for (name, var) in model.vars() {
            if !to_host(var)?.iter().all(|w| w.is_finite()) {
                bail!("the weight `{name}` is not finite, and no sample would mean anything; train anew");
            }
        }
        held.map_or(Ok(()), |held| held.check(seeds.len(), &model.spec.shape))?;
        if let Some(held) = held {
            let known = to_host(&held.put(&held.states.zeros_like()?)?)?;
            let states = model.spec.states();
            if let Some(bad) = known.iter().find(|v| !states.has(**v)) {
                bail!("a number that is held is {bad}; states of this {} are {states}", model.spec.family.name());
            }
        }
        let held = held.map(|held| held.beside(model.spec.latent())).transpose()?;
        let drawn = self.get().draw(model, seeds.len(), held.as_ref(), &mut Noise::seeds(seeds), watch)?;
        Ok(Drawn { states: drawn.states.to_dtype(model.dtype())?, ..drawn })
    }
}

/// Errors, naming the option, unless `value` is `among` those that it may be.
fn count(name: &str, value: usize, among: RangeInclusive<usize>) -> Result<()> {
    if !among.contains(&value) {
        bail!("sampler.{name} is {value}; give {} to {}", among.start(), among.end());
    }
    Ok(())
}

/// Errors if there are steps in which `kernel` is to find its step sizes, and it has none.
fn adapts(kernel: &AnyKernel, steps: usize) -> Result<()> {
    if steps > 0 && !kernel.get().adapts() {
        bail!("sampler.adapt is {steps}, and the kernel {} finds no step sizes; leave it out", kernel.name());
    }
    count("adapt", steps, 0..=100_000_000)
}

/// Draws of the first rung of `ladder` for the `n` streams of `z` with what is held in their place, in f64, and the ladder given that.
fn begin<'a>(
    model: &DensityModel,
    ladder: &'a dyn Ladder,
    n: usize,
    held: Option<&Held>,
    z: &mut Noise,
) -> Result<(Tensor, Option<Conditioned<'a>>)> {
    let shape = [&[n], model.spec.state_shape().as_slice()].concat();
    let x = ladder.start(&Tensor::zeros(shape, DType::F64, model.device())?, ladder.precision(0), z)?;
    let Some(held) = held else { return Ok((x, None)) };
    Ok((held.put(&x)?, Some(Conditioned::new(ladder, held.mask_like(&x)?)?)))
}
