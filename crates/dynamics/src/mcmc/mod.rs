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

pub mod diagnostics;
mod difference;
pub mod hmc;
mod langevin;
pub mod mala;
mod metropolis;
mod step_size;
pub mod tempering;

pub use difference::Difference;
pub use hmc::Hmc;
pub(crate) use langevin::choose;
pub use langevin::{Langevin, langevin};
pub use mala::Mala;
pub use metropolis::Proposal;
pub use step_size::StepSize;
pub use tempering::{Rung, Swept, sweep};

use crate::denoiser::{Denoiser, each};
use candle_core::{Result, Tensor};
use langevin_ops::grad::gradient;
use langevin_ops::noise::Noise;
use langevin_ops::registry;
use langevin_ops::shape::{scale, to_host};
use std::ops::AddAssign;

/// What a kernel knows of the places where its chains are.
#[derive(Clone, Debug)]
pub struct View {
    /// The places, `[B, ...]`.
    pub x: Tensor,
    /// grad log p there, the shape of `x`.
    pub score: Tensor,
    /// The energy there, one a chain; `None` where only a score is known.
    pub energy: Option<Vec<f64>>,
}

/// A density known by its score alone.
pub trait Score {
    /// grad log p, the shape of `x` `[B, ...]`.
    fn score(&self, x: &Tensor) -> Result<Tensor>;

    /// The score at `x`, and the energy where it is known. Neither keeps a graph.
    fn look(&self, x: &Tensor) -> Result<View> {
        let x = x.detach();
        Ok(View { score: self.score(&x)?.detach(), x, energy: None })
    }

    /// E(to) - E(from) of each chain: exact where both energies are known, else the line integral of the score along the
    /// straight path, five evaluations more.
    fn delta_energy(&self, from: &View, to: &View) -> Result<Difference> {
        match (&from.energy, &to.energy) {
            (Some(before), Some(after)) => Ok(difference::of_energies(before, after, to.x.dtype())),
            _ => difference::along_the_path(self, from, to),
        }
    }
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

    fn look(&self, x: &Tensor) -> Result<View> {
        seen(x, |x| self.energy_grad(x))
    }
}

fn seen(x: &Tensor, energy_grad: impl FnOnce(&Tensor) -> Result<(Tensor, Tensor)>) -> Result<View> {
    let x = x.detach();
    let (energy, grad) = energy_grad(&x)?;
    Ok(View { score: grad.neg()?.detach(), energy: Some(to_host(&energy.detach())?), x })
}

/// A denoiser's density at one noise level: an energy where the model has one, else a score.
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

    fn look(&self, x: &Tensor) -> Result<View> {
        let Some(energy) = self.model.noisy_energy() else {
            let x = x.detach();
            return Ok(View { score: self.score(&x)?.detach(), x, energy: None });
        };
        seen(x, |x| energy.energy_grad(x, self.t))
    }
}

/// That density as one of y = x/alpha, where neighbouring levels overlap. `alpha` is one for all samples or one a sample.
pub struct Unscaled<'a> {
    /// Of x.
    pub level: Level<'a>,
    /// What a sample is scaled by there.
    pub alpha: Vec<f64>,
}

impl<'a> Unscaled<'a> {
    /// At the times `t`, one for all samples or one a sample.
    pub fn new(model: &'a dyn Denoiser, t: &'a [f64]) -> Self {
        Self { level: Level { model, t }, alpha: each(model.process(), t, |m| m.alpha) }
    }

    /// Its unit of length, sigma/alpha.
    pub fn length(&self) -> Vec<f64> {
        each(self.level.model.process(), self.level.t, |m| m.sigma / m.alpha)
    }

    /// y of `x`.
    pub fn of(&self, x: &Tensor) -> Result<Tensor> {
        scale(x, &self.alpha.iter().map(|alpha| 1. / alpha).collect::<Vec<_>>())
    }

    /// x of `y`.
    pub fn scaled(&self, y: &Tensor) -> Result<Tensor> {
        scale(y, &self.alpha)
    }
}

impl Score for Unscaled<'_> {
    fn score(&self, y: &Tensor) -> Result<Tensor> {
        scale(&self.level.score(&self.scaled(y)?)?, &self.alpha)
    }

    fn look(&self, y: &Tensor) -> Result<View> {
        let View { score, energy, .. } = self.level.look(&self.scaled(y)?)?;
        Ok(View { x: y.detach(), score: scale(&score, &self.alpha)?, energy })
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

/// A kernel that needs a score alone, and uses energies where they are known: a [`Kernel`] of every [`Score`].
pub trait ScoreKernel: Send + Sync + std::fmt::Debug {
    /// Errors, naming the option, if one is out of its range.
    fn check(&self) -> Result<()>;

    /// Whether a test of acceptance makes it leave a density exactly as it is.
    fn corrected(&self) -> bool {
        true
    }

    /// Other chains begin: what was adapted to the last ones is forgotten.
    fn begin(&mut self) {}

    /// The same chains come to another density: over the next `steps` steps, in place of the kernel's own, each adapts its
    /// step size from where it stands. A kernel without a test of acceptance has nothing to adapt by.
    fn adapt_again(&mut self, _steps: usize) {}

    /// One step of every chain from where `at` saw it. `length` is the unit of length of the density, one for all chains or
    /// one a chain: sigma for noisy data, 1 where step sizes are absolute.
    fn advance(&mut self, m: &dyn Score, at: &View, length: &[f64], z: &mut Noise) -> Result<(View, Stats)>;
}

registry! {
    /// Any kernel of a score, as configurations name it.
    pub enum AnyKernel: ScoreKernel = "kernel" { Langevin, Mala, Hmc } check ScoreKernel::check
}

/// A density of any size behind a reference of one.
struct By<'a, M: ?Sized>(&'a M);

impl<M: Score + ?Sized> Score for By<'_, M> {
    fn score(&self, x: &Tensor) -> Result<Tensor> {
        self.0.score(x)
    }

    fn look(&self, x: &Tensor) -> Result<View> {
        self.0.look(x)
    }

    fn delta_energy(&self, from: &View, to: &View) -> Result<Difference> {
        self.0.delta_energy(from, to)
    }
}

impl<M: Score + ?Sized, K: ScoreKernel + ?Sized> Kernel<M> for K {
    fn step(&mut self, m: &M, chain: &mut Chain, z: &mut Noise) -> Result<Stats> {
        self.run(m, chain, 1, z)
    }

    fn run(&mut self, m: &M, chain: &mut Chain, steps: usize, z: &mut Noise) -> Result<Stats> {
        self.check()?;
        let m = By(m);
        let (mut at, mut stats) = (m.look(&chain.x)?, Stats::default());
        for _ in 0..steps {
            let (next, more) = self.advance(&m, &at, &[1.], z)?;
            at = next;
            stats += more;
        }
        chain.x = at.x;
        Ok(stats)
    }
}
