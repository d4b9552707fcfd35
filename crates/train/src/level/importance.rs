//! Levels drawn in proportion to sqrt(E[L^2]), the density of least variance; the loss is divided by it again.
//! \[Nichol21, eq. 18\], in bins of equal probability of another distribution.

use super::{AnyLevel, Draw, Level, LogSnr};
use candle_core::{Result, bail};
use langevin_dynamics::Process;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Where another distribution puts u uniform on [0, 1), this one has density q(u), constant in each bin, and a factor 1/q.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Importance {
    /// The distribution whose mean loss is trained.
    pub base: Box<AnyLevel>,
    /// Bins of u; with the base `log-snr` they are bins of log SNR.
    pub bins: usize,
    /// Last losses that each bin remembers; until all bins have as many, q is uniform.
    pub history: usize,
    /// Part of q that stays uniform, so that no factor exceeds its inverse.
    pub uniform: f64,
    #[serde(skip)]
    seen: Seen,
}

/// The last losses of each bin, and the edges that they make.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// `[bins, history]`, in rings.
    losses: Vec<f64>,
    /// Losses seen of each bin.
    counts: Vec<u64>,
    /// Cumulative q at the bins' edges, `[bins + 1]`; empty while q is uniform.
    edges: Vec<f64>,
}

impl Default for Importance {
    fn default() -> Self {
        Self { base: Box::new(LogSnr {}.into()), bins: 32, history: 10, uniform: 0.1, seen: Seen::default() }
    }
}

impl Named for Importance {
    const NAME: &'static str = "importance";
    const ABOUT: &'static str =
        "levels of another distribution (base) in proportion to their loss, unbiased [Nichol21]";
}

impl Importance {
    /// Cumulative q from what was seen.
    fn edges(&self) -> Vec<f64> {
        let full = |&n: &u64| n >= self.history as u64;
        if self.seen.counts.len() != self.bins || !self.seen.counts.iter().all(full) {
            return vec![];
        }
        let root = |ring: &[f64]| (ring.iter().map(|l| l * l).sum::<f64>() / ring.len() as f64).sqrt();
        let roots: Vec<f64> = self.seen.losses.chunks(self.history).map(root).collect();
        let total: f64 = roots.iter().sum();
        if !(total > 0. && total.is_finite()) {
            return vec![];
        }
        let part = |root: f64| self.uniform / self.bins as f64 + (1. - self.uniform) * root / total;
        let mut sum = 0.;
        let mut edges: Vec<f64> = std::iter::once(0.)
            .chain(roots.into_iter().map(|r| {
                sum += part(r);
                sum
            }))
            .collect();
        edges[self.bins] = 1.;
        edges
    }
}

impl Level for Importance {
    fn time(&self, process: &dyn Process, u: f64) -> f64 {
        self.base.get().time(process, u)
    }

    fn draw(&self, process: &dyn Process, v: f64) -> Draw {
        let edges = &self.seen.edges;
        if edges.is_empty() {
            return Draw { t: self.time(process, v), factor: 1., u: v };
        }
        let bin = edges.partition_point(|&e| e <= v).clamp(1, self.bins) - 1;
        let mass = edges[bin + 1] - edges[bin];
        let u = ((bin as f64 + (v - edges[bin]) / mass) / self.bins as f64).clamp(0., 1. - f64::EPSILON);
        Draw { t: self.time(process, u), factor: 1. / (mass * self.bins as f64), u }
    }

    fn observe(&mut self, draws: &[Draw], losses: &[f64]) {
        self.seen.losses.resize(self.bins * self.history, 0.);
        self.seen.counts.resize(self.bins, 0);
        for (draw, &loss) in draws.iter().zip(losses) {
            let bin = ((draw.u * self.bins as f64) as usize).min(self.bins - 1);
            let slot = (self.seen.counts[bin] % self.history as u64) as usize;
            self.seen.losses[bin * self.history + slot] = loss;
            self.seen.counts[bin] += 1;
        }
        self.seen.edges = self.edges();
    }

    fn state(&self) -> Vec<f64> {
        self.seen.counts.iter().map(|&n| n as f64).chain(self.seen.losses.iter().copied()).collect()
    }

    fn restore(&mut self, state: &[f64]) -> Result<()> {
        let n = self.bins;
        if !state.is_empty() && state.len() != n * (1 + self.history) {
            bail!("{} saved numbers for {n} bins of {} losses", state.len(), self.history);
        }
        let (counts, losses) = state.split_at(n.min(state.len()));
        self.seen = Seen { losses: losses.to_vec(), counts: counts.iter().map(|&n| n as u64).collect(), edges: vec![] };
        self.seen.edges = self.edges();
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if matches!(*self.base, AnyLevel::Importance(_)) {
            bail!("base is importance itself; give another distribution, such as log-snr");
        }
        if !(1..=10_000).contains(&self.bins) || !(1..=10_000).contains(&self.history) {
            bail!("bins {} and history {} must be from 1 to 10000", self.bins, self.history);
        }
        if !(self.uniform > 0. && self.uniform <= 1.) {
            bail!("uniform is {}; it must be above 0 and at most 1", self.uniform);
        }
        self.base.get().check()
    }
}

#[cfg(test)]
mod tests {
    use super::super::draws;
    use super::*;
    use langevin_dynamics::process::Edm;
    use langevin_ops::noise::Noise;

    #[test]
    fn expectations_do_not_change_and_vary_less() -> Result<()> {
        let (process, n) = (Edm::default(), 64);
        // a loss with a peak, of which a uniform batch sees little
        let loss = |t: f64| (-(t.ln() - 1.).powi(2) * 8.).exp();
        let mut level = Importance::default();
        let moments = |level: &Importance, from: u64| -> Result<(f64, f64)> {
            let (mut sum, mut spread) = (0., 0.);
            for step in from..from + 400 {
                let d = draws(level, &process, n, &mut Noise::of_step(1, step, n))?;
                let mean = d.iter().map(|d| d.factor * loss(d.t)).sum::<f64>() / n as f64;
                (sum, spread) = (sum + mean, spread + mean * mean);
            }
            Ok((sum / 400., spread / 400. - (sum / 400.).powi(2)))
        };
        let (before, plain) = moments(&level, 0)?;
        for step in 0..50 {
            let d = draws(&level, &process, n, &mut Noise::of_step(2, step, n))?;
            let losses: Vec<f64> = d.iter().map(|d| loss(d.t)).collect();
            level.observe(&d, &losses);
        }
        assert!(!level.seen.edges.is_empty());
        let (after, reweighted) = moments(&level, 1000)?;
        // integral of the loss over ln t, over the width of the span
        let exact = (std::f64::consts::PI / 8.).sqrt() / (80f64 / 0.002).ln();
        for (mean, variance) in [(before, plain), (after, reweighted)] {
            let error = (variance / 400.).sqrt();
            assert!((mean - exact).abs() < 4. * error && error < 0.01 * exact, "{mean} for {exact} +- {error}");
        }
        assert!(reweighted < 0.5 * plain, "variance {reweighted}, was {plain}");
        let mut again = Importance::default();
        again.restore(&level.state())?;
        assert_eq!(again.draw(&process, 0.3), level.draw(&process, 0.3));
        assert!(again.restore(&[1.]).is_err());
        Ok(())
    }
}
