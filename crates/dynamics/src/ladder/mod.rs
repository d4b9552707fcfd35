//! An ordered family of densities, from one that is easy to draw from to the one that is wanted: noise levels, temperatures,
//! powers of one density over another, products of these.
//!
//! What goes along it is written once for all of them: [`Annealed`] (annealed MCMC: chains move at each rung in turn),
//! [`Exchange`] (replica exchange: chains at all rungs, which swap) and [`Particles`] (weighed states: annealed importance
//! sampling, and sequential Monte Carlo with resampling).
//!
//! ```
//! # use langevin_dynamics::ladder::{Annealed, Ladder, Tempered};
//! # use langevin_dynamics::mcmc::Mala;
//! # use langevin_ops::{Tensor, Device, DType, noise::Noise, shape::sum_per_sample};
//! # fn main() -> langevin_ops::Result<()> {
//! let ring = |x: &Tensor| sum_per_sample(&x.sqr()?)?.sqrt()?.affine(4., -8.)?.sqr();
//! let ladder = Tempered::new(&ring, vec![1. / 16., 1. / 4., 1.]); // inverse temperatures
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

pub use annealed::{Annealed, visit};
pub use exchange::{Exchange, Swept, swap, sweep};
pub use levels::{NoiseLevel, NoiseLevels, Rescaled, RescaledLevels};
pub use particles::Particles;

use crate::density::{Density, Evaluated, Weighted};
use crate::mcmc::Stats;
use crate::mcmc::diagnostics::Trace;
use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_ops::noise::Noise;

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

    /// Proposes states of the next rung for those `at` this one: y, drawn from a k(y | x), and ln q(x | y) - ln k(y | x) of each,
    /// q any normalised density that leads back. The default is y = x, which weighs by the energies alone; a ladder whose
    /// [`Ladder::carry`] changes volumes has its own.
    fn propose(&self, rung: usize, at: &Evaluated, _z: &mut Noise) -> Result<(Tensor, Vec<f64>)> {
        Ok((self.carry(rung, &at.x)?, vec![0.; at.x.dim(0)?]))
    }

    /// Draws `[B, ...]` to begin with, near the first rung.
    fn start(&self, _shape: &[usize], _dtype: DType, _device: &Device, _z: &mut Noise) -> Result<Tensor> {
        bail!("this ladder knows no density to begin at; give one whose first rung can be drawn from")
    }

    /// ln of the normalised density that [`Ladder::start`] draws from, at `x` `[B, ...]`.
    fn log_start(&self, _x: &Tensor) -> Result<Vec<f64>> {
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
    /// What a sweep of replica exchange did here, which left the chains `at`.
    pub(crate) fn add(&mut self, at: &Evaluated, swept: &Swept) -> Result<()> {
        self.stats += swept.moved;
        if let Some(swaps) = swept.swapped {
            *self.swaps.get_or_insert_default() += swaps;
        }
        self.trace.record(at)
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
    pub fn new(density: &'a dyn Density, betas: Vec<f64>) -> Self {
        Self { of: Of::Density(density), betas }
    }

    /// Each rung of `ladder` at its inverse temperature, so that both change along the way.
    ///
    /// Errors unless there is one number a rung.
    pub fn along(ladder: &'a dyn Ladder, betas: Vec<f64>) -> Result<Self> {
        if betas.len() != ladder.rungs() {
            bail!("tempered: {} inverse temperatures for {} rungs; give one each", betas.len(), ladder.rungs());
        }
        Ok(Self { of: Of::Ladder(ladder), betas })
    }
}

/// A borrowed density.
struct By<'a>(&'a dyn Density);

impl Density for By<'_> {
    fn as_energy(&self) -> Option<&dyn crate::density::Energy> {
        self.0.as_energy()
    }

    fn as_score(&self) -> Option<&dyn crate::density::Score> {
        self.0.as_score()
    }

    fn as_conditionals(&self) -> Option<&dyn crate::density::Conditionals> {
        self.0.as_conditionals()
    }

    fn evaluate(&self, x: &Tensor) -> Result<Evaluated> {
        self.0.evaluate(x)
    }
}

impl Ladder for Tempered<'_> {
    fn rungs(&self) -> usize {
        self.betas.len()
    }

    fn density(&self, rung: usize) -> Box<dyn Density + '_> {
        let of: Box<dyn Density + '_> = match self.of {
            Of::Density(density) => Box::new(By(density)),
            Of::Ladder(ladder) => ladder.density(rung),
        };
        Box::new(Weighted(vec![(self.betas[rung], of)]))
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

    fn propose(&self, rung: usize, at: &Evaluated, z: &mut Noise) -> Result<(Tensor, Vec<f64>)> {
        let (Of::Ladder(ladder), beta) = (&self.of, self.betas[rung]) else {
            return Ok((at.x.clone(), vec![0.; at.x.dim(0)?]));
        };
        // the ladder proposes by its own score
        let own = at.score.as_ref().map(|score| score / beta).transpose()?;
        ladder.propose(rung, &Evaluated { score: own, ..at.clone() }, z)
    }

    fn start(&self, shape: &[usize], dtype: DType, device: &Device, z: &mut Noise) -> Result<Tensor> {
        match self.of {
            Of::Density(_) => bail!(
                "a density at another temperature cannot be drawn from; give a ladder from a base, as Geometric is"
            ),
            Of::Ladder(ladder) => ladder.start(shape, dtype, device, z),
        }
    }

    fn log_start(&self, x: &Tensor) -> Result<Vec<f64>> {
        match self.of {
            Of::Density(_) => bail!(
                "a density at another temperature cannot be drawn from; give a ladder from a base, as Geometric is"
            ),
            Of::Ladder(ladder) => ladder.log_start(x),
        }
    }
}

/// A normalised density that can be drawn from: E = -ln p.
pub trait Base: Density {
    /// Independent draws `[B, ...]`.
    fn draw(&self, shape: &[usize], dtype: DType, device: &Device, z: &mut Noise) -> Result<Tensor>;
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
        Box::new(Weighted(vec![(1. - beta, Box::new(By(self.base))), (beta, Box::new(By(self.target)))]))
    }

    fn name(&self, rung: usize) -> String {
        format!("beta = {}", self.betas[rung])
    }

    fn start(&self, shape: &[usize], dtype: DType, device: &Device, z: &mut Noise) -> Result<Tensor> {
        self.base.draw(shape, dtype, device, z)
    }

    fn log_start(&self, x: &Tensor) -> Result<Vec<f64>> {
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

    fn length(&self, rung: usize) -> Vec<f64> {
        self.first.length(rung)
    }

    fn name(&self, rung: usize) -> String {
        self.first.name(rung)
    }

    fn carry(&self, rung: usize, x: &Tensor) -> Result<Tensor> {
        self.first.carry(rung, x)
    }

    fn propose(&self, rung: usize, at: &Evaluated, z: &mut Noise) -> Result<(Tensor, Vec<f64>)> {
        // by the score of the product, which only makes the proposal better
        self.first.propose(rung, at, z)
    }

    fn start(&self, shape: &[usize], dtype: DType, device: &Device, z: &mut Noise) -> Result<Tensor> {
        self.first.start(shape, dtype, device, z)
    }

    fn log_start(&self, x: &Tensor) -> Result<Vec<f64>> {
        self.first.log_start(x)
    }
}
