//! Weighed particles that go along a ladder: what sequential Monte Carlo and annealed importance sampling have in common.
//! \[Neal01; DelMoral06; Doucet22; Thornton25\]
//!
//! From rung to rung a particle at x moves to y, drawn from k(y | x), and is weighed against a way back q(x | y):
//! log w += E(x) - E'(y) + ln q(x | y) - ln k(y | x). A step is weighed by the k that was drawn from, so that sums of weights have
//! no bias, whatever k and q are: means of weights are ratios of normalisers. Between the steps a kernel that leaves the density of
//! a rung as it is may move the particles, which changes no weight.

use super::Ladder;
use crate::density::Evaluated;
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::stats::log_sum_exp;

/// Where the particles are, what they weigh, and what they weighed before they were drawn again.
#[derive(Clone, Debug)]
pub struct Particles {
    /// Where they are, `[N, ...]`.
    pub at: Evaluated,
    /// Their log weights since they were last drawn, `[N]`.
    pub log_w: Vec<f64>,
    /// The sum of ln of the mean weights at which particles were drawn again.
    gathered: f64,
}

impl Particles {
    /// `x` `[N, ...]`, draws of [`Ladder::start`], weighed as particles of the first rung.
    pub fn start(ladder: &dyn Ladder, x: &Tensor) -> Result<Self> {
        let at = ladder.density(0).evaluate(x)?;
        let start = ladder.log_start(x, ladder.precision(0))?;
        let log_w = at.energy()?.iter().zip(start).map(|(energy, start)| lost_is_nothing(-energy - start)).collect();
        Ok(Self { at, log_w, gathered: 0. })
    }

    /// Particles at `x` `[N, ...]` of a rung, of the weights `log_w` `[N]`.
    pub fn weighed(ladder: &dyn Ladder, rung: usize, x: &Tensor, log_w: Vec<f64>) -> Result<Self> {
        if x.dim(0)? != log_w.len() {
            bail!("particles: {} weights for {} of them; give one each", log_w.len(), x.dim(0)?);
        }
        Ok(Self { at: ladder.density(rung).evaluate(x)?, log_w, gathered: 0. })
    }

    /// The particles of `rung` at the next one, with what the step adds to their weights.
    pub fn step(mut self, ladder: &dyn Ladder, rung: usize, z: &mut Noise) -> Result<Self> {
        if rung + 1 >= ladder.rungs() {
            bail!("particles: there is no rung after {rung} on a ladder of {}", ladder.rungs());
        }
        let (x, kernels) = ladder.propose(rung, &self.at, ladder.precision(rung), z)?;
        if kernels.len() != self.log_w.len() {
            bail!(
                "particles: the ladder weighs {} proposals of {}; each needs its own",
                kernels.len(),
                self.log_w.len()
            );
        }
        let next = ladder.density(rung + 1).evaluate(&x)?;
        let energies = self.at.energy()?.iter().zip(next.energy()?);
        for (log_w, ((before, after), kernels)) in self.log_w.iter_mut().zip(energies.zip(kernels)) {
            *log_w = lost_is_nothing(*log_w + (before - after + kernels));
        }
        Ok(Self { at: next, ..self })
    }

    /// The particles of `rung` at the next one, drawn again where their effective number falls below the part `resample` of them;
    /// and that part before.
    pub fn advance(self, ladder: &dyn Ladder, rung: usize, resample: f64, z: &mut Noise) -> Result<(Self, f64)> {
        let next = self.step(ladder, rung, z)?;
        let share = next.effective(&ladder.name(rung + 1))?;
        Ok((if share < resample { next.resampled(z)? } else { next }, share))
    }

    /// The estimate of log Z: ln of the mean weight of the particles as they were first drawn.
    pub fn log_z(&self) -> f64 {
        self.gathered + log_sum_exp(&self.log_w) - (self.log_w.len() as f64).ln()
    }

    /// The effective part of the particles, (sum w)^2 / (N sum w^2). Errors if none is left, naming the place: "t = 0.3".
    pub fn effective(&self, place: &str) -> Result<f64> {
        let squares: Vec<f64> = self.log_w.iter().map(|w| 2. * w).collect();
        let effective = (2. * log_sum_exp(&self.log_w) - log_sum_exp(&squares)).exp() / self.log_w.len() as f64;
        if !effective.is_finite() {
            bail!("particles: at {place} the energies of all {} are not finite; take more levels", self.log_w.len());
        }
        Ok(effective)
    }

    /// As many particles, drawn in proportion to their weights, all of one weight: systematic resampling.
    pub fn resampled(self, z: &mut Noise) -> Result<Self> {
        let n = self.log_w.len();
        let u = z.uniform(n)?.first().copied().unwrap_or(0.);
        let at = self.at.select(&systematic(&self.log_w, u))?;
        Ok(Self { at, gathered: self.log_z(), log_w: vec![0.; n] })
    }
}

/// A weight that is no number is that of a particle, or of a chain, that is lost.
pub(super) fn lost_is_nothing(log_w: f64) -> f64 {
    if log_w.is_nan() { f64::NEG_INFINITY } else { log_w }
}

/// Indices in proportion to exp(log_w): particle i is taken for each of the points (u + k)/N in its part of the line.
fn systematic(log_w: &[f64], u: f64) -> Vec<u32> {
    let (n, total) = (log_w.len(), log_sum_exp(log_w));
    let (mut below, mut taken) = (0., Vec::with_capacity(n));
    for (i, w) in log_w.iter().enumerate() {
        below += (w - total).exp() * n as f64;
        while taken.len() < n && taken.len() as f64 + u < below {
            taken.push(i as u32);
        }
    }
    // rounding may leave the last point beyond the line
    let last = taken.last().copied().unwrap_or(0);
    taken.resize(n, last);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_particle_is_taken_as_often_as_its_weight_says() {
        let w: [f64; 4] = [0.5, 0.25, 0., 0.25];
        let log_w: Vec<f64> = w.iter().map(|w| w.ln() + 3.).collect();
        for u in [0., 0.3, 0.999] {
            assert_eq!(systematic(&log_w, u), [0, 0, 1, 3]);
        }
        // on the mean over u: 10 x 0.123 = 1.23
        let log_w: Vec<f64> = [0.123f64, 0.877].iter().map(|w| w.ln()).chain([f64::NEG_INFINITY; 8]).collect();
        let count = |u: f64| systematic(&log_w, u).iter().filter(|&&i| i == 0).count();
        let mean = (0..1000).map(|k| count((f64::from(k) + 0.5) / 1000.)).sum::<usize>() as f64 / 1000.;
        assert!((mean - 1.23).abs() < 1e-9, "{mean}");
    }
}
