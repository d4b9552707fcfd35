//! Markov chains that leave p ~ exp(-E) as it is: the kernels, and what happened in them.
//!
//! A [`Kernel`] is options alone; where chains are, and the step sizes that they have found, is in [`Chains`]. A kernel says
//! what it [`needs`](Kernel::needs) of a [`Density`]: Langevin dynamics a score, Gibbs sampling conditionals. Values make
//! tests of acceptance exact. What goes wrong in a chain is counted in [`Stats`]; an error means that the program cannot go on.
//!
//! ```
//! # use langevin_dynamics::mcmc::{Chains, Kernel, Langevin};
//! # use langevin_ops::{Tensor, Device, DType, noise::Noise, shape::sum_per_sample};
//! # fn main() -> langevin_ops::Result<()> {
//! let bowl = |x: &Tensor| sum_per_sample(&(x.sqr()? * 0.5)?); // E = |x|^2 / 2: a standard normal
//! let mut chains = Chains::new(&bowl, &Tensor::zeros((2, 3), DType::F64, &Device::Cpu)?)?;
//! let stats = Langevin { step: 0.1 }.run(&bowl, &mut chains, 100, &mut Noise::seeds(&[1, 2]))?;
//! assert_eq!(stats.nan, 0);
//! # Ok(()) }
//! ```

pub mod diagnostics;
mod difference;
mod gibbs;
pub mod hmc;
mod langevin;
pub mod mala;
mod metropolis;
mod step_size;

pub use difference::{Difference, difference};
pub use gibbs::Gibbs;
pub use hmc::Hmc;
pub use langevin::{Langevin, langevin};
pub use mala::Mala;
pub(crate) use metropolis::REFUSED;
pub use metropolis::{Proposal, Settled};
pub use step_size::StepSizes;

use crate::density::{Capability, Density, Evaluated};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry;
use std::ops::AddAssign;

/// Chains that run beside each other, one a sample: where they are, and what they have adapted to.
#[derive(Clone, Debug)]
pub struct Chains {
    /// Where they are, and what the density is there.
    pub at: Evaluated,
    /// The unit of length of the density, one for all chains or one a chain: sigma for noisy data, 1 where step sizes are
    /// absolute.
    pub length: Vec<f64>,
    /// The step sizes that they have found with one kernel; another begins anew.
    pub sizes: StepSizes,
}

impl Chains {
    /// Chains of the density `m` that begin at `x` `[B, ...]`, in units of length 1.
    pub fn new(m: &dyn Density, x: &Tensor) -> Result<Self> {
        Ok(Self { at: m.evaluate(x)?, length: vec![1.], sizes: StepSizes::default() })
    }

    /// The same in other units of length, one for all chains or one a chain.
    pub fn in_units(self, length: Vec<f64>) -> Self {
        Self { length, ..self }
    }

    /// Over `steps` steps of `kernel` each chain adapts its step size to the density `m`, from where it stands, in place of the
    /// kernel's own adaptation. Nothing happens for a kernel without a test of acceptance, which has nothing to adapt by.
    pub fn adapt(&mut self, m: &dyn Density, kernel: &dyn Kernel, steps: usize, z: &mut Noise) -> Result<()> {
        if steps > 0 && kernel.adapts() {
            self.sizes.again(steps);
            for _ in 0..steps {
                kernel.step(m, self, z)?;
            }
        }
        Ok(())
    }
}

/// What happened in the steps of a set of chains.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Proposals made, over all chains.
    pub proposed: u64,
    /// Proposals accepted; a kernel without a test accepts all that are finite.
    pub accepted: u64,
    /// Proposals refused since their energy ran away: a step size that is too large.
    pub diverged: u64,
    /// Proposals that were not finite; their chains stay where they were.
    pub nan: u64,
    /// The sum over proposals, but for those that diverged or were lost, of how far their energy difference may be off.
    pub error: f64,
}

impl Stats {
    /// The part of proposals that was accepted; NaN if there were none.
    pub fn acceptance(&self) -> f64 {
        self.accepted as f64 / self.proposed as f64
    }

    /// How far the energy difference of a proposal may be off, on average over those that neither diverged nor were lost; NaN
    /// if there were none.
    pub fn mean_error(&self) -> f64 {
        self.error / (self.proposed - self.diverged - self.nan) as f64
    }
}

impl AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.proposed += other.proposed;
        self.accepted += other.accepted;
        self.diverged += other.diverged;
        self.nan += other.nan;
        self.error += other.error;
    }
}

/// A rule that moves chains and leaves a density as it is (up to the error that it states): options alone.
pub trait Kernel: Send + Sync + std::fmt::Debug {
    /// Errors, naming the option, if one is out of its range.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// What of a density it cannot do without.
    fn needs(&self) -> Capability {
        Capability::Score
    }

    /// Whether it leaves a density exactly as it is: by a test of acceptance, or by drawing from conditionals. Where it does not,
    /// weights and swaps would be wrong, and it is refused.
    fn exact(&self) -> bool;

    /// Whether a rate of acceptance tells it how long its steps may be, by [`StepSizes::adapt`].
    fn adapts(&self) -> bool {
        false
    }

    /// One step of every chain of the density `m`, from where `chains` was evaluated.
    fn step(&self, m: &dyn Density, chains: &mut Chains, z: &mut Noise) -> Result<Stats>;

    /// One step of every chain by the reversal T' of the kernel's step T, that with p(a) T(b | a) = p(b) T'(a | b): what the step may
    /// have been that led there. Where T is reversible it is T itself.
    ///
    /// Errors if the kernel knows none.
    fn step_back(&self, _m: &dyn Density, _chains: &mut Chains, _z: &mut Noise) -> Result<Stats> {
        bail!("{self:?} has no reversal that is known; take gibbs, or mala or hmc with adapt = 0")
    }

    /// `steps` steps of chains that may come from another density.
    ///
    /// Errors if an option is out of its range, or if the density has not what the kernel needs.
    fn run(&self, m: &dyn Density, chains: &mut Chains, steps: usize, z: &mut Noise) -> Result<Stats> {
        self.check()?;
        m.check(self.needs())?;
        chains.at = m.evaluate(&chains.at.x)?;
        let mut stats = Stats::default();
        for _ in 0..steps {
            stats += self.step(m, chains, z)?;
        }
        Ok(stats)
    }
}

registry! {
    /// Any kernel, as configurations name it.
    pub enum AnyKernel: Kernel = "kernel" { Langevin, Mala, Hmc, Gibbs } check Kernel::check
}

impl AnyKernel {
    /// Errors if it needs what a density known by its score has not, such as that of noisy data.
    pub fn check_by_score(&self) -> Result<()> {
        match self.get().needs() {
            Capability::Conditionals => bail!(
                "kernel {} draws blocks given the rest, which is not known of noisy data; use langevin, mala or hmc",
                self.name()
            ),
            _ => self.get().check(),
        }
    }
}
