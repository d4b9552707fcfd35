//! Hamiltonian Monte Carlo: momenta p ~ N(0, M), some leapfrog steps, and the test of acceptance on
//! H = E(q) + p . M^-1 p / 2. \[Neal 2011, 1206.1901\]
//!
//! A leapfrog step is p += e/2 s(q), q += e M^-1 p, p += e/2 s(q), with s = -grad E; M is diagonal.

use super::step_size::check;
use super::{Chains, Difference, Kernel, Proposal, Stats, difference};
use crate::density::{Capability, Density, Evaluated};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::{PerSample, dot_per_sample, scale};
use serde::{Deserialize, Serialize};

/// As many scores a step as it has leapfrog steps, and five more where the energy is not known.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hmc {
    /// The size e of a leapfrog step, in units of the length of the density.
    pub step: f64,
    /// Leapfrog steps before each test.
    pub leapfrogs: usize,
    /// The size varies by up to this part of itself from step to step, so that no orbit is closed.
    pub jitter: f64,
    /// The diagonal of M^-1, best the variances of the density: one number a number of a sample; empty for ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inverse_mass: Vec<f64>,
    /// Steps over which each chain adapts its step size, after which it stays; 0 for none. Until then what is drawn is off.
    pub adapt: usize,
    /// The rate of acceptance that adaptation aims at.
    pub target: f64,
}

impl Default for Hmc {
    fn default() -> Self {
        Self { step: 0.3, leapfrogs: 5, jitter: 0.2, inverse_mass: vec![], adapt: 0, target: 0.8 }
    }
}

impl Named for Hmc {
    const NAME: &'static str = "hmc";
    const ABOUT: &'static str = "Hamiltonian Monte Carlo: leapfrog steps, then a test of acceptance [Neal 2011]";
}

/// `steps` leapfrog steps of sizes `e` (one for all chains or one a chain) from `at` with momenta `p`: where they lead, and
/// the momenta there. `inverse_mass` is `[1, ...]`; ones if absent.
pub fn leapfrog(
    m: &dyn Density,
    at: &Evaluated,
    p: &Tensor,
    e: &[f64],
    inverse_mass: Option<&Tensor>,
    steps: usize,
) -> Result<(Evaluated, Tensor)> {
    m.check(Capability::Score)?;
    let score_of = |x: &Tensor| m.as_score().map_or_else(|| bail!("the density has no score"), |m| m.score(x));
    let half: Vec<f64> = e.iter().map(|e| 0.5 * e).collect();
    let (mut at, mut p) = (at.clone(), (p + scale(at.score()?, &half)?)?);
    for i in 1..=steps {
        let velocity = velocity(&p, inverse_mass)?;
        let x = (&at.x + scale(&velocity, e)?)?;
        if i == steps {
            at = m.evaluate(&x)?;
            p = (p + scale(at.score()?, &half)?)?;
        } else {
            let score = score_of(&x)?.detach();
            p = (p + scale(&score, e)?)?;
            at = Evaluated { x, score: Some(score), energy: None };
        }
    }
    Ok((at, p))
}

fn velocity(p: &Tensor, inverse_mass: Option<&Tensor>) -> Result<Tensor> {
    inverse_mass.map_or_else(|| Ok(p.clone()), |inverse| p.broadcast_mul(inverse))
}

/// p . M^-1 p / 2, `[B]`.
fn kinetic(p: &Tensor, inverse_mass: Option<&Tensor>) -> Result<Vec<f64>> {
    Ok(dot_per_sample(p, &velocity(p, inverse_mass)?)?.into_iter().map(|square| 0.5 * square).collect())
}

impl Hmc {
    /// M^-1 as `[1, ...]` for samples as in `x`; `None` for ones.
    fn metric(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let (own, numbers) = (self.inverse_mass.len(), x.elem_count() / x.dim(0)?.max(1));
        if own == 0 {
            return Ok(None);
        }
        if own != numbers {
            bail!("hmc: inverse_mass has {own} numbers and a sample {numbers}; give one each, or none");
        }
        let mut dims = x.dims().to_vec();
        dims[0] = 1;
        Tensor::from_slice(&self.inverse_mass, dims, x.device())?.to_dtype(x.dtype()).map(Some)
    }

    /// The end of the trajectory from `at` with momenta `p` and step sizes `e`, one for all chains or one a chain.
    pub fn propose(&self, m: &dyn Density, at: &Evaluated, p: &Tensor, e: &[f64]) -> Result<Proposal> {
        let metric = self.metric(&at.x)?;
        let (to, end) = leapfrog(m, at, p, e, metric.as_ref(), self.leapfrogs)?;
        let Difference { value, error } = difference(m, at, &to)?;
        let (before, after) = (kinetic(p, metric.as_ref())?, kinetic(&end, metric.as_ref())?);
        let log_ratio =
            value.iter().zip(before.iter().zip(&after)).map(|(rise, (before, after))| before - after - rise);
        Ok(Proposal { to, log_ratio: log_ratio.collect(), error })
    }
}

impl Kernel for Hmc {
    fn check(&self) -> Result<()> {
        check("hmc", self.step, self.target)?;
        if self.leapfrogs == 0 {
            bail!("hmc: leapfrogs is 0; give at least 1");
        }
        if !(0. ..1.).contains(&self.jitter) {
            bail!("hmc: jitter is {}; it must be at least 0 and below 1", self.jitter);
        }
        match self.inverse_mass.iter().find(|m| !(m.is_finite() && **m > 0.)) {
            Some(bad) => bail!("hmc: inverse_mass has the number {bad}; all must be above 0"),
            None => Ok(()),
        }
    }

    fn exact(&self) -> bool {
        true
    }

    fn adapts(&self) -> bool {
        true
    }

    /// The step itself, which is reversible: only while it adapts its size is it not.
    fn step_back(&self, m: &dyn Density, chains: &mut Chains, z: &mut Noise) -> Result<Stats> {
        if self.adapt > 0 {
            bail!("hmc: adapt is {}, and steps whose size adapts have no reversal; give adapt = 0", self.adapt);
        }
        self.step(m, chains, z)
    }

    fn step(&self, m: &dyn Density, chains: &mut Chains, z: &mut Noise) -> Result<Stats> {
        let batch = chains.at.x.dim(0)?;
        let mut p = z.normal_like(&chains.at.x)?;
        if let Some(inverse) = self.metric(&chains.at.x)? {
            p = p.broadcast_div(&inverse.sqrt()?)?;
        }
        let mut e = chains.sizes.times("hmc", &chains.length, batch, self.step)?;
        if self.jitter > 0. {
            let u = z.uniform(batch)?;
            e = (0..batch).map(|i| e.at(i) * (1. + self.jitter * (2. * u[i] - 1.))).collect();
        }
        let settled = self.propose(m, &chains.at, &p, &e)?.accept_reject(&chains.at, &z.uniform(batch)?)?;
        chains.sizes.adapt(&settled.probability, self.target, self.adapt);
        chains.at = settled.at;
        Ok(settled.stats)
    }
}
