//! Densities p ~ exp(-E), by what is known of them: values, a score, or the conditionals of blocks.
//!
//! [`Energy`] gives values, of states of any kind: points, spins, bits. A [`Differentiable`] one gives a [`Score`] too, by
//! autodiff; a score may also be all that is known. [`Conditionals`] is what Gibbs sampling needs. A [`Density`] says which of
//! them it has: what it has not is `None`, never a value made up. Any closure `x -> E(x)` `[B]` that can be differentiated is one.
//!
//! ```
//! # use langevin_dynamics::{Density, Differentiable, Energy};
//! # use langevin_ops::{Tensor, Result, shape::sum_per_sample};
//! struct Bowl { width: f64 }
//!
//! impl Energy for Bowl {
//!     fn energy(&self, x: &Tensor) -> Result<Tensor> {
//!         sum_per_sample(&(x.sqr()? * (0.5 / self.width.powi(2)))?)
//!     }
//! }
//! impl Differentiable for Bowl {} // its score is that of autodiff
//! impl Density for Bowl {
//!     fn as_differentiable(&self) -> Option<&dyn Differentiable> {
//!         Some(self)
//!     }
//! }
//! ```

use candle_core::{Result, Tensor, bail};
use langevin_ops::grad::gradient;
use langevin_ops::noise::Noise;
use langevin_ops::shape::{choose, to_host};

/// Values of an energy: p ~ exp(-E), E up to one constant.
pub trait Energy {
    /// E of each state of `x` `[B, ...]`: `[B]`.
    fn energy(&self, x: &Tensor) -> Result<Tensor>;
}

/// An energy of operations that can be differentiated in its state: it has a [`Score`], minus its gradient.
pub trait Differentiable: Energy + Score {
    /// E `[B]` and grad E, the shape of `x`, in one pass.
    fn energy_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        gradient(x, |x| self.energy(x))
    }
}

/// A score: the gradient of a log-density.
pub trait Score {
    /// grad log p, the shape of `x` `[B, ...]`.
    fn score(&self, x: &Tensor) -> Result<Tensor>;
}

/// The distribution of one block of a state given all the rest of it, for every block: what Gibbs sampling draws from.
pub trait Conditionals {
    /// Number of blocks. They may overlap, and together they are the whole state.
    fn blocks(&self) -> usize;

    /// The states `x` `[B, ...]` with block `block` drawn anew given the rest, or moved by a step that leaves its distribution given
    /// the rest as it is: an RBM draws its visible units so, through hidden ones that are drawn first and forgotten. Where `clamped`
    /// (the shape of `x`, or one that broadcasts to it) is not 0 a state stays as it is, and what else is in the block is drawn given
    /// that too; numbers of a block that are independent given the rest may all be drawn and put back by [`unclamped`].
    ///
    /// A move must be reversible, as both of these are, for
    /// [`Kernel::step_back`](crate::mcmc::Kernel::step_back) of Gibbs to be the reversal of its step.
    fn draw(&self, block: usize, x: &Tensor, clamped: Option<&Tensor>, z: &mut Noise) -> Result<Tensor>;
}

/// A density of which nothing but its conditionals is asked, so that nothing else is computed.
pub struct Blocks<'a>(pub &'a dyn Conditionals);

impl Density for Blocks<'_> {
    fn as_conditionals(&self) -> Option<&dyn Conditionals> {
        Some(self.0)
    }
}

/// `drawn` where nothing is clamped, else `x`.
pub fn unclamped(x: &Tensor, drawn: Tensor, clamped: Option<&Tensor>) -> Result<Tensor> {
    let Some(clamped) = clamped else { return Ok(drawn) };
    clamped.ne(0.)?.broadcast_as(x.shape())?.contiguous()?.where_cond(x, &drawn)
}

/// What of a density a kernel may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// [`Density::as_energy`].
    Energy,
    /// [`Density::as_score`].
    Score,
    /// [`Density::as_conditionals`].
    Conditionals,
}

/// What is known of a density at some states.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// The states, `[B, ...]`.
    pub x: Tensor,
    /// The energy of each, where values are known.
    pub energy: Option<Vec<f64>>,
    /// grad log p at each, the shape of `x`, where it is known.
    pub score: Option<Tensor>,
}

/// A density over states `[B, ...]`, by what is known of it. What is not said here is not known, so that kernels refuse it.
pub trait Density {
    /// The energy with its gradient, if both are known: then values and score are, too.
    fn as_differentiable(&self) -> Option<&dyn Differentiable> {
        None
    }

    /// The values, if they are known.
    fn as_energy(&self) -> Option<&dyn Energy> {
        self.as_differentiable().map(|energy| energy as &dyn Energy)
    }

    /// The score, if it is known.
    fn as_score(&self) -> Option<&dyn Score> {
        self.as_differentiable().map(|energy| energy as &dyn Score)
    }

    /// The conditionals of blocks, if they can be drawn from.
    fn as_conditionals(&self) -> Option<&dyn Conditionals> {
        None
    }

    /// The density at an inverse temperature, p^beta, if more is known of it than that its energy is beta E: its conditionals.
    fn tempered(&self, _beta: f64) -> Option<Box<dyn Density + '_>> {
        None
    }

    /// All that is known at `x`. Nothing of it keeps a graph. A density that gives value and score in one pass does so here.
    fn evaluate(&self, x: &Tensor) -> Result<Evaluated> {
        let x = x.detach();
        if let Some(energy) = self.as_differentiable() {
            let found = energy.energy_grad(&x)?;
            return Evaluated::of_gradient(x, found);
        }
        let energy = self.as_energy().map(|e| to_host(&e.energy(&x)?.detach())).transpose()?;
        let score = self.as_score().map(|s| Ok::<_, candle_core::Error>(s.score(&x)?.detach())).transpose()?;
        Ok(Evaluated { x, energy, score })
    }
}

impl dyn Density + '_ {
    /// Whether it has what is asked.
    pub fn has(&self, capability: Capability) -> bool {
        match capability {
            Capability::Energy => self.as_energy().is_some(),
            Capability::Score => self.as_score().is_some(),
            Capability::Conditionals => self.as_conditionals().is_some(),
        }
    }

    /// Errors, with what to do, if it has not what `capability` asks.
    pub fn check(&self, capability: Capability) -> Result<()> {
        match capability {
            _ if self.has(capability) => Ok(()),
            Capability::Energy => {
                bail!("the density gives no values, and this needs its energy; give one with an energy")
            }
            Capability::Score => {
                bail!(
                    "the density has no score, which this kernel moves by; take a kernel for its states, such as gibbs"
                )
            }
            Capability::Conditionals => {
                bail!(
                    "the density has no blocks that can be drawn given the rest, as the kernel gibbs needs; take mala, hmc or langevin"
                )
            }
        }
    }
}

impl Evaluated {
    /// From E `[B]` and grad E at `x`.
    pub fn of_gradient(x: Tensor, (energy, gradient): (Tensor, Tensor)) -> Result<Self> {
        Ok(Self { score: Some(gradient.neg()?.detach()), energy: Some(to_host(&energy.detach())?), x })
    }

    /// The score. Errors if it is not known.
    pub fn score(&self) -> Result<&Tensor> {
        match &self.score {
            Some(score) => Ok(score),
            None => bail!(
                "the density has no score, which this kernel moves by; take a kernel for its states, such as gibbs"
            ),
        }
    }

    /// The energies. Errors if they are not known.
    pub fn energy(&self) -> Result<&[f64]> {
        match &self.energy {
            Some(energy) => Ok(energy),
            None => bail!("the density has a score but no energy to weigh states by"),
        }
    }

    /// Some of the states, in this order.
    pub fn select(&self, rows: &[u32]) -> Result<Self> {
        let index = Tensor::new(rows, self.x.device())?;
        let pick = |x: &Tensor| x.index_select(&index, 0);
        let energy = |energy: &Vec<f64>| rows.iter().filter_map(|&row| energy.get(row as usize)).copied().collect();
        Ok(Self {
            x: pick(&self.x)?,
            energy: self.energy.as_ref().map(energy),
            score: self.score.as_ref().map(pick).transpose()?,
        })
    }

    /// Chain by chain: this where `mask`, else `other`.
    pub(crate) fn where_else(self, mask: &[bool], other: &Self) -> Result<Self> {
        if mask.iter().all(|&here| here) {
            return Ok(self);
        }
        let energy = match (&self.energy, &other.energy) {
            (Some(a), Some(b)) => {
                Some(mask.iter().zip(a.iter().zip(b)).map(|(&here, (a, b))| if here { *a } else { *b }).collect())
            }
            _ => None,
        };
        let score = match (&self.score, &other.score) {
            (Some(a), Some(b)) => Some(choose(mask, a, b)?),
            _ => None,
        };
        Ok(Self { x: choose(mask, &self.x, &other.x)?, energy, score })
    }
}

impl<F: Fn(&Tensor) -> Result<Tensor>> Energy for F {
    fn energy(&self, x: &Tensor) -> Result<Tensor> {
        self(x)
    }
}

impl<F: Fn(&Tensor) -> Result<Tensor>> Differentiable for F {}

impl<E: Differentiable + ?Sized> Score for E {
    fn score(&self, x: &Tensor) -> Result<Tensor> {
        self.energy_grad(x)?.1.neg()
    }
}

impl<F: Fn(&Tensor) -> Result<Tensor>> Density for F {
    fn as_differentiable(&self) -> Option<&dyn Differentiable> {
        Some(self)
    }
}

impl Density for &(dyn Density + '_) {
    fn as_differentiable(&self) -> Option<&dyn Differentiable> {
        (**self).as_differentiable()
    }

    fn as_energy(&self) -> Option<&dyn Energy> {
        (**self).as_energy()
    }

    fn as_score(&self) -> Option<&dyn Score> {
        (**self).as_score()
    }

    fn as_conditionals(&self) -> Option<&dyn Conditionals> {
        (**self).as_conditionals()
    }

    fn tempered(&self, beta: f64) -> Option<Box<dyn Density + '_>> {
        (**self).tempered(beta)
    }

    fn evaluate(&self, x: &Tensor) -> Result<Evaluated> {
        (**self).evaluate(x)
    }
}

/// A density with some of its parts held as they are: that of the rest given them. Blocks are drawn so, and energies are those of
/// whole states; it has no score, since a kernel that moves by one would move what is held.
pub struct Given<'a> {
    density: Box<dyn Density + 'a>,
    clamped: Tensor,
}

impl<'a> Given<'a> {
    /// `density` given the numbers of a state at which `clamped` `[1 or B, ...]` is not 0. With one mask a sample the states keep
    /// their order: particles that are drawn again do not.
    ///
    /// Errors if the density has no conditionals.
    pub fn new(density: Box<dyn Density + 'a>, clamped: Tensor) -> Result<Self> {
        if !density.has(Capability::Conditionals) {
            bail!(
                "parts of a state are held where blocks can be drawn given the rest, and this density has no conditionals"
            );
        }
        Ok(Self::held(density, clamped))
    }

    /// The same, unasked: without conditionals it has none either.
    pub(crate) fn held(density: Box<dyn Density + 'a>, clamped: Tensor) -> Self {
        Self { density, clamped }
    }
}

impl Energy for Given<'_> {
    fn energy(&self, x: &Tensor) -> Result<Tensor> {
        match self.density.as_energy() {
            Some(energy) => energy.energy(x),
            None => bail!("the density gives no values"),
        }
    }
}

impl Conditionals for Given<'_> {
    fn blocks(&self) -> usize {
        self.density.as_conditionals().map_or(0, |conditionals| conditionals.blocks())
    }

    fn draw(&self, block: usize, x: &Tensor, clamped: Option<&Tensor>, z: &mut Noise) -> Result<Tensor> {
        let Some(conditionals) = self.density.as_conditionals() else { bail!("there are no blocks to draw") };
        let both = match clamped {
            Some(more) => self.clamped.ne(0.)?.broadcast_add(&more.ne(0.)?)?,
            None => self.clamped.clone(),
        };
        conditionals.draw(block, x, Some(&both), z)
    }
}

impl Density for Given<'_> {
    fn as_energy(&self) -> Option<&dyn Energy> {
        self.density.as_energy().map(|_| self as &dyn Energy)
    }

    fn as_conditionals(&self) -> Option<&dyn Conditionals> {
        self.density.as_conditionals().map(|_| self as &dyn Conditionals)
    }

    fn evaluate(&self, x: &Tensor) -> Result<Evaluated> {
        Ok(Evaluated { score: None, ..self.density.evaluate(x)? })
    }
}

/// A sum of energies, each times its weight: a product of powers of densities. Parts of weight 0 are left out; a part of weight 1
/// that is alone keeps its conditionals.
pub struct Weighted<'a>(pub Vec<(f64, Box<dyn Density + 'a>)>);

impl Weighted<'_> {
    fn sum(&self, of: impl Fn(&dyn Density) -> Result<Tensor>) -> Result<Tensor> {
        let mut total: Option<Tensor> = None;
        for (weight, density) in self.0.iter().filter(|(weight, _)| *weight != 0.) {
            let term = (of(density.as_ref())? * *weight)?;
            total = Some(match total {
                Some(total) => (total + term)?,
                None => term,
            });
        }
        total.map_or_else(|| bail!("a sum of no energies"), Ok)
    }
}

impl Energy for Weighted<'_> {
    fn energy(&self, x: &Tensor) -> Result<Tensor> {
        self.sum(|density| match density.as_energy() {
            Some(energy) => energy.energy(x),
            None => bail!("a sum of energies: one of the densities gives no values"),
        })
    }
}

impl Score for Weighted<'_> {
    fn score(&self, x: &Tensor) -> Result<Tensor> {
        self.sum(|density| match density.as_score() {
            Some(score) => score.score(x),
            None => bail!("a sum of energies: one of the densities has no score"),
        })
    }
}

impl Density for Weighted<'_> {
    fn as_energy(&self) -> Option<&dyn Energy> {
        self.0.iter().all(|(_, density)| density.has(Capability::Energy)).then_some(self)
    }

    fn as_score(&self) -> Option<&dyn Score> {
        self.0.iter().all(|(_, density)| density.has(Capability::Score)).then_some(self)
    }

    fn as_conditionals(&self) -> Option<&dyn Conditionals> {
        let mut parts = self.0.iter().filter(|(weight, _)| *weight != 0.);
        match (parts.next(), parts.next()) {
            (Some((1., density)), None) => density.as_conditionals(),
            _ => None,
        }
    }

    fn evaluate(&self, x: &Tensor) -> Result<Evaluated> {
        let x = x.detach();
        let (mut energy, mut score) = (None::<Vec<f64>>, None::<Tensor>);
        let (has_energy, has_score) = (self.as_energy().is_some(), self.as_score().is_some());
        for (weight, density) in self.0.iter().filter(|(weight, _)| *weight != 0.) {
            let part = density.evaluate(&x)?;
            if let Some(part) = part.energy.filter(|_| has_energy) {
                energy = Some(match energy {
                    Some(sum) => sum.iter().zip(&part).map(|(sum, part)| sum + weight * part).collect(),
                    None => part.iter().map(|part| weight * part).collect(),
                });
            }
            if let Some(part) = part.score.filter(|_| has_score) {
                let part = (part * *weight)?;
                score = Some(match score {
                    Some(sum) => (sum + part)?,
                    None => part,
                });
            }
        }
        Ok(Evaluated { x, energy, score })
    }
}
