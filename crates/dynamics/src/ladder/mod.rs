//! An ordered family of densities, from one that is easy to draw from to the one that is wanted: noise levels, temperatures,
//! powers of one density over another, products of these.
//!
//! What goes along it is written once for all of them: [`Annealed`] (annealed MCMC: chains move at each rung in turn),
//! [`Exchange`] (replica exchange: chains at all rungs, which swap) and [`Particles`] (weighed states: annealed importance
//! sampling, and sequential Monte Carlo with resampling), and [`Reverse`] (chains that go back from given states: reverse annealing).
//!
//! ```
//! # use langevin_dynamics::ladder::{Annealed, Ladder, Tempered};
//! # use langevin_dynamics::mcmc::Mala;
//! # use langevin_ops::{Tensor, Device, DType, noise::Noise, shape::sum_per_sample};
//! # fn main() -> langevin_ops::Result<()> {
//! let ring = |x: &Tensor| sum_per_sample(&x.sqr()?)?.sqrt()?.affine(4., -8.)?.sqr();
//! let ladder = Tempered::new(&ring, vec![1. / 16., 1. / 4., 1.])?; // inverse temperatures
//! let mut noise = Noise::seeds(&[1, 2, 3]);
//! let x = noise.normal((3, 2), DType::F64, &Device::Cpu)?;
//! let (x, visits) = Annealed::new(&Mala::default(), 20, 20).run(&ladder, &x, &mut noise)?;
//! assert!(x.dims() == [3, 2] && visits.iter().all(|visit| visit.stats.nan == 0));
//! # Ok(()) }
//! ```

mod annealed;
mod exchange;
mod levels;
mod particles;
mod reverse;

pub use annealed::{Annealed, visit};
pub use exchange::{Exchange, Swept, swap, sweep};
pub use levels::{NoiseLevel, NoiseLevels, Rescaled, RescaledLevels};
pub use particles::Particles;
pub use reverse::{MOST_CHAINS, Reverse};

use crate::density::{Density, Evaluated, Given, Weighted};
use crate::mcmc::Stats;
use crate::mcmc::diagnostics::Trace;
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::shape::PerSample;

/// Densities in order. Rungs are counted from 0, the first.
pub trait Ladder {
    /// How many there are.
    fn rungs(&self) -> usize;

    /// The density at a rung.
    fn density(&self, rung: usize) -> Box<dyn Density + '_>;

    /// Its unit of length, by which kernels measure their first steps: one for all samples, or one a sample.
    fn length(&self, _rung: usize) -> Vec<f64> {
        vec![1.]
    }

    /// What tells the rung from the others, for messages: "t = 0.3".
    fn name(&self, rung: usize) -> String {
        format!("rung {rung}")
    }

    /// States `x` `[B, ...]` of a rung as states of the next, where nothing but their scale differs.
    fn carry(&self, _rung: usize, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }

    /// What a rung adds to the precision of pure noise, in units of 1/sigma^2, for ladders of noise levels: 1 for a model, 0 for an
    /// energy that is none of noisy data.
    fn precision(&self, _rung: usize) -> f64 {
        0.
    }

    /// Proposes states of the next rung for those `at` this one: y, drawn from a k(y | x), and ln q(x | y) - ln k(y | x) of each,
    /// q any normalised density that leads back. `precision` is that of the ladder which is asked, of which this may be a part.
    /// The default is y = x, which weighs by the energies alone.
    fn propose(&self, _rung: usize, at: &Evaluated, _precision: f64, _z: &mut Noise) -> Result<(Tensor, Vec<f64>)> {
        Ok((at.x.clone(), vec![0.; at.x.dim(0)?]))
    }

    /// Draws like `x` `[B, ...]` to begin with, near the first rung of the ladder of that precision.
    fn start(&self, _like: &Tensor, _precision: f64, _z: &mut Noise) -> Result<Tensor> {
        bail!("this ladder knows no density to begin at; give one whose first rung can be drawn from")
    }

    /// ln of the normalised density that [`Ladder::start`] draws from, at `x` `[B, ...]`.
    fn log_start(&self, _x: &Tensor, _precision: f64) -> Result<Vec<f64>> {
        bail!("this ladder knows no density to begin at; give one whose first rung can be drawn from")
    }
}

/// What happened to chains at one rung.
#[derive(Clone, Debug, Default)]
pub struct Visit {
    /// What the kernel did.
    pub stats: Stats,
    /// The exchanges with the rung before, for replica exchange.
    pub swaps: Option<Stats>,
    /// The effective part of all particles before any are drawn again, for weighed ones.
    pub particles: Option<f64>,
    /// The course of the chains.
    pub trace: Trace,
}

impl Visit {
    /// What a sweep of replica exchange did here, which left the chains `at`, if that is to be noted.
    pub(crate) fn add(&mut self, at: Option<&Evaluated>, swept: &Swept) -> Result<()> {
        self.stats += swept.moved;
        if let Some(swaps) = swept.swapped {
            *self.swaps.get_or_insert_default() += swaps;
        }
        at.map_or(Ok(()), |at| self.trace.record(at))
    }

    /// Other chains that took the same way, beside these.
    pub fn append(&mut self, other: Self) {
        self.stats += other.stats;
        match (&mut self.swaps, other.swaps) {
            (Some(own), Some(other)) => *own += other,
            (own, other) => *own = own.or(other),
        }
        // of two populations the worse
        self.particles = self.particles.zip(other.particles).map(|(own, other)| own.min(other));
        self.trace.append(other.trace);
    }
}

/// One density, or a ladder, at rising powers: E_i = beta_i E, with beta the inverse temperature.
pub struct Tempered<'a> {
    of: Of<'a>,
    betas: Vec<f64>,
}

enum Of<'a> {
    Density(&'a dyn Density),
    Ladder(&'a dyn Ladder),
}

impl<'a> Tempered<'a> {
    /// `density` at the inverse temperatures `betas`, a rung each.
    ///
    /// Errors unless all are above 0.
    pub fn new(density: &'a dyn Density, betas: Vec<f64>) -> Result<Self> {
        Self::of(Of::Density(density), betas)
    }

    fn of(of: Of<'a>, betas: Vec<f64>) -> Result<Self> {
        match betas.iter().find(|beta| !(beta.is_finite() && **beta > 0.)) {
            Some(bad) => bail!("tempered: an inverse temperature is {bad}; all must be numbers above 0"),
            None => Ok(Self { of, betas }),
        }
    }

    /// Each rung of `ladder` at its inverse temperature, so that both change along the way.
    ///
    /// Errors unless there is one number a rung, above 0.
    pub fn along(ladder: &'a dyn Ladder, betas: Vec<f64>) -> Result<Self> {
        if betas.len() != ladder.rungs() {
            bail!("tempered: {} inverse temperatures for {} rungs; give one each", betas.len(), ladder.rungs());
        }
        Self::of(Of::Ladder(ladder), betas)
    }
}

impl Tempered<'_> {
    fn ladder(&self) -> Result<&dyn Ladder> {
        match self.of {
            Of::Density(_) => bail!(
                "a density at another temperature cannot be drawn from; give a ladder from a base, as Geometric is"
            ),
            Of::Ladder(ladder) => Ok(ladder),
        }
    }
}

impl Ladder for Tempered<'_> {
    fn rungs(&self) -> usize {
        self.betas.len()
    }

    fn density(&self, rung: usize) -> Box<dyn Density + '_> {
        let beta = self.betas[rung];
        match self.of {
            Of::Density(density) => {
                density.tempered(beta).unwrap_or_else(|| Box::new(Weighted(vec![(beta, Box::new(density))])))
            }
            Of::Ladder(ladder) => Box::new(Weighted(vec![(beta, ladder.density(rung))])),
        }
    }

    /// That of the density, times sqrt(1 / beta).
    fn length(&self, rung: usize) -> Vec<f64> {
        let own = match self.of {
            Of::Density(_) => vec![1.],
            Of::Ladder(ladder) => ladder.length(rung),
        };
        own.into_iter().map(|length| length / self.betas[rung].sqrt()).collect()
    }

    fn name(&self, rung: usize) -> String {
        match self.of {
            Of::Density(_) => format!("beta = {}", self.betas[rung]),
            Of::Ladder(ladder) => format!("{}, beta = {}", ladder.name(rung), self.betas[rung]),
        }
    }

    fn carry(&self, rung: usize, x: &Tensor) -> Result<Tensor> {
        match self.of {
            Of::Density(_) => Ok(x.clone()),
            Of::Ladder(ladder) => ladder.carry(rung, x),
        }
    }

    fn precision(&self, rung: usize) -> f64 {
        match self.of {
            Of::Density(_) => 0.,
            Of::Ladder(ladder) => self.betas[rung] * ladder.precision(rung),
        }
    }

    fn propose(&self, rung: usize, at: &Evaluated, precision: f64, z: &mut Noise) -> Result<(Tensor, Vec<f64>)> {
        match self.of {
            Of::Density(_) => Ok((at.x.clone(), vec![0.; at.x.dim(0)?])),
            Of::Ladder(ladder) => ladder.propose(rung, at, precision, z),
        }
    }

    fn start(&self, like: &Tensor, precision: f64, z: &mut Noise) -> Result<Tensor> {
        self.ladder()?.start(like, precision, z)
    }

    fn log_start(&self, x: &Tensor, precision: f64) -> Result<Vec<f64>> {
        self.ladder()?.log_start(x, precision)
    }
}

/// A normalised density that can be drawn from: E = -ln p.
pub trait Base: Density {
    /// Independent draws of the shape, type and device of `like` `[B, ...]`.
    fn draw(&self, like: &Tensor, z: &mut Noise) -> Result<Tensor>;
}

/// From a base to a target by the geometric path, E_i = (1 - beta_i) E_base + beta_i E_target: that of annealed importance
/// sampling. \[Neal01\]
pub struct Geometric<'a> {
    base: &'a dyn Base,
    target: &'a dyn Density,
    betas: Vec<f64>,
}

impl<'a> Geometric<'a> {
    /// A rung for each of the rising `betas`, the first 0 and the last 1.
    ///
    /// Errors if they are not so.
    pub fn new(base: &'a dyn Base, target: &'a dyn Density, betas: Vec<f64>) -> Result<Self> {
        let rise = betas.windows(2).all(|pair| pair[0] < pair[1]);
        if !(rise && betas.first() == Some(&0.) && betas.last() == Some(&1.)) {
            bail!("a geometric path has powers that rise from 0 to 1, not {betas:?}");
        }
        Ok(Self { base, target, betas })
    }
}

impl Ladder for Geometric<'_> {
    fn rungs(&self) -> usize {
        self.betas.len()
    }

    fn density(&self, rung: usize) -> Box<dyn Density + '_> {
        let beta = self.betas[rung];
        let base: &dyn Density = self.base;
        Box::new(Weighted(vec![(1. - beta, Box::new(base)), (beta, Box::new(self.target))]))
    }

    fn name(&self, rung: usize) -> String {
        format!("beta = {}", self.betas[rung])
    }

    fn start(&self, like: &Tensor, _precision: f64, z: &mut Noise) -> Result<Tensor> {
        self.base.draw(like, z)
    }

    fn log_start(&self, x: &Tensor, _precision: f64) -> Result<Vec<f64>> {
        Ok(self.base.evaluate(x)?.energy()?.iter().map(|energy| -energy).collect())
    }
}

/// The product of the densities of two ladders, rung by rung: the sum of their energies. States are carried, proposed and
/// begun as the first ladder says.
pub struct Product<'a> {
    first: &'a dyn Ladder,
    second: &'a dyn Ladder,
}

impl<'a> Product<'a> {
    /// Errors unless both have as many rungs.
    pub fn new(first: &'a dyn Ladder, second: &'a dyn Ladder) -> Result<Self> {
        if first.rungs() != second.rungs() {
            bail!("a product of ladders of {} and {} rungs; give two of one length", first.rungs(), second.rungs());
        }
        Ok(Self { first, second })
    }
}

impl Ladder for Product<'_> {
    fn rungs(&self) -> usize {
        self.first.rungs()
    }

    fn density(&self, rung: usize) -> Box<dyn Density + '_> {
        Box::new(Weighted(vec![(1., self.first.density(rung)), (1., self.second.density(rung))]))
    }

    /// Of independent lengths a and b that of the product of two Gaussians, 1 / sqrt(1/a^2 + 1/b^2).
    fn length(&self, rung: usize) -> Vec<f64> {
        let (a, b) = (self.first.length(rung), self.second.length(rung));
        (0..a.len().max(b.len())).map(|i| (a.at(i).powi(-2) + b.at(i).powi(-2)).powf(-0.5)).collect()
    }

    fn name(&self, rung: usize) -> String {
        self.first.name(rung)
    }

    fn carry(&self, rung: usize, x: &Tensor) -> Result<Tensor> {
        self.first.carry(rung, x)
    }

    fn precision(&self, rung: usize) -> f64 {
        self.first.precision(rung) + self.second.precision(rung)
    }

    fn propose(&self, rung: usize, at: &Evaluated, precision: f64, z: &mut Noise) -> Result<(Tensor, Vec<f64>)> {
        self.first.propose(rung, at, precision, z)
    }

    fn start(&self, like: &Tensor, precision: f64, z: &mut Noise) -> Result<Tensor> {
        self.first.start(like, precision, z)
    }

    fn log_start(&self, x: &Tensor, precision: f64) -> Result<Vec<f64>> {
        self.first.log_start(x, precision)
    }
}

/// A ladder with some parts of its states held as they are at every rung.
pub struct Conditioned<'a> {
    ladder: &'a dyn Ladder,
    clamped: Tensor,
}

impl<'a> Conditioned<'a> {
    /// `ladder` given the numbers at which `clamped` `[1, ...]` is not 0, the same of all states.
    ///
    /// Errors if it is another number of masks, or if a rung has no conditionals.
    pub fn new(ladder: &'a dyn Ladder, clamped: Tensor) -> Result<Self> {
        if clamped.dim(0)? != 1 {
            bail!("conditioned: {} masks; give one for all states, which may be drawn again", clamped.dim(0)?);
        }
        for rung in 0..ladder.rungs() {
            Given::new(ladder.density(rung), clamped.clone())?;
        }
        Ok(Self { ladder, clamped })
    }
}

impl Ladder for Conditioned<'_> {
    fn rungs(&self) -> usize {
        self.ladder.rungs()
    }

    fn density(&self, rung: usize) -> Box<dyn Density + '_> {
        Box::new(Given::held(self.ladder.density(rung), self.clamped.clone()))
    }

    fn name(&self, rung: usize) -> String {
        self.ladder.name(rung)
    }
}
