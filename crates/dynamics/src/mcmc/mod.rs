//! Markov chains that leave p ~ exp(-E) as it is: what they need of a model, and the kernels.
//!
//! [`Score`] is enough for Langevin dynamics; [`Energy`] adds values. Any closure `x -> E(x)` `[B]` is an [`Energy`], its
//! score by autodiff. What goes wrong in a chain is counted in [`Stats`]; an error means that the program cannot go on.
//!
//! ```
//! # use langevin_dynamics::mcmc::{Chain, Kernel, Langevin, Stats};
//! # use langevin_ops::{Tensor, Device, DType, noise::Noise, shape::sum_per_sample};
//! # fn main() -> langevin_ops::Result<()> {
//! let bowl = |x: &Tensor| sum_per_sample(&(x.sqr()? * 0.5)?); // E = |x|^2 / 2: a standard normal
//! let mut chain = Chain { x: Tensor::zeros((2, 3), DType::F64, &Device::Cpu)? };
//! let stats = Langevin { step: 0.1 }.run(&bowl, &mut chain, 100, &mut Noise::seeds(&[1, 2]))?;
//! assert_eq!(stats.nan, 0);
//! # Ok(()) }
//! ```

mod langevin;

pub(crate) use langevin::choose;
pub use langevin::{Langevin, langevin};

use crate::Denoiser;
use candle_core::{Result, Tensor};
use langevin_ops::grad::gradient;
use langevin_ops::noise::Noise;
use std::ops::AddAssign;

/// A density known by its score alone.
pub trait Score {
    /// grad log p, the shape of `x` `[B, ...]`.
    fn score(&self, x: &Tensor) -> Result<Tensor>;
}

/// A density known up to its constant: p ~ exp(-E).
pub trait Energy {
    /// E of each sample of `x` `[B, ...]`: `[B]`.
    fn energy(&self, x: &Tensor) -> Result<Tensor>;

    /// E `[B]` and grad E, the shape of `x`, in one pass.
    fn energy_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        gradient(x, |x| self.energy(x))
    }
}

impl<F: Fn(&Tensor) -> Result<Tensor>> Energy for F {
    fn energy(&self, x: &Tensor) -> Result<Tensor> {
        self(x)
    }
}

impl<E: Energy + ?Sized> Score for E {
    fn score(&self, x: &Tensor) -> Result<Tensor> {
        self.energy_grad(x)?.1.neg()
    }
}

/// A denoiser's density at one noise level.
pub struct Level<'a> {
    /// The model.
    pub model: &'a dyn Denoiser,
    /// The time, one for all samples or one a sample.
    pub t: &'a [f64],
}

impl Score for Level<'_> {
    fn score(&self, x: &Tensor) -> Result<Tensor> {
        self.model.score(x, self.t)
    }
}

/// Chains that run beside each other, one a sample.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Where they are, `[B, ...]`.
    pub x: Tensor,
}

/// What happened in the steps of a set of chains.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Proposals made, over all chains.
    pub proposed: u64,
    /// Proposals accepted; a kernel without a test accepts all that are finite.
    pub accepted: u64,
    /// Proposals given up since their energy ran away.
    pub diverged: u64,
    /// Proposals that were not finite; their chains stay where they were.
    pub nan: u64,
}

impl Stats {
    /// The part of proposals that was accepted; NaN if there were none.
    pub fn acceptance(&self) -> f64 {
        self.accepted as f64 / self.proposed as f64
    }
}

impl AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.proposed += other.proposed;
        self.accepted += other.accepted;
        self.diverged += other.diverged;
        self.nan += other.nan;
    }
}

/// A rule that moves chains and leaves the density of `M` as it is (up to the error that it states).
pub trait Kernel<M: ?Sized> {
    /// One step of every chain.
    fn step(&mut self, m: &M, chain: &mut Chain, z: &mut Noise) -> Result<Stats>;

    /// `steps` steps.
    fn run(&mut self, m: &M, chain: &mut Chain, steps: usize, z: &mut Noise) -> Result<Stats> {
        let mut stats = Stats::default();
        for _ in 0..steps {
            stats += self.step(m, chain, z)?;
        }
        Ok(stats)
    }
}
