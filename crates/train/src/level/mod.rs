//! Which noise levels a batch is trained at: t = Q(u), u uniform, with Q the quantile function of their distribution.
//!
//! The u of a batch are stratified, u_i = (i + U_i) / B, so that each batch sees all levels \[Kingma21, app. I.1\].

mod discrete;
mod importance;
mod log_normal;
mod log_snr;
mod logit_normal;
mod normal;
mod uniform;

pub use discrete::Discrete;
pub use importance::Importance;
pub use log_normal::LogNormal;
pub use log_snr::LogSnr;
pub use logit_normal::LogitNormal;
pub use normal::quantile as normal_quantile;
pub use uniform::Uniform;

use candle_core::{Result, bail};
use langevin_dynamics::Process;
use langevin_ops::noise::Noise;
use langevin_ops::registry;

/// One level that was drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// The time.
    pub t: f64,
    /// What the loss there is multiplied with, so that its mean is that of the distribution itself.
    pub factor: f64,
    /// Where t lies in the distribution, in [0, 1): t = Q(u).
    pub u: f64,
}

/// A distribution of noise levels.
pub trait Level: Send + Sync + std::fmt::Debug {
    /// Q(u), rising with `u` in [0, 1), in the span of `process`.
    fn time(&self, process: &dyn Process, u: f64) -> f64;

    /// The level that belongs to a uniform `u`; with another density than that of [`Level::time`], its factor says so.
    fn draw(&self, process: &dyn Process, u: f64) -> Draw {
        Draw { t: self.time(process, u), factor: 1., u }
    }

    /// Learns from the weighted loss of each draw, without its factor.
    fn observe(&mut self, _draws: &[Draw], _losses: &[f64]) {}

    /// What it has learnt, to be saved.
    fn state(&self) -> Vec<f64> {
        vec![]
    }

    /// Takes [`Level::state`] back.
    fn restore(&mut self, state: &[f64]) -> Result<()> {
        if !state.is_empty() {
            bail!("{} saved numbers for noise levels that keep none", state.len());
        }
        Ok(())
    }

    /// Errors, naming the option, if it makes no sense.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

registry! {
    /// Any distribution of noise levels, as configurations name it.
    pub enum AnyLevel: Level = "level" { LogNormal, Uniform, LogSnr, LogitNormal, Discrete, Importance } check Level::check
}

impl Default for AnyLevel {
    fn default() -> Self {
        Self::LogNormal(LogNormal::default())
    }
}

/// The stratified levels of a batch.
pub fn draws(level: &dyn Level, process: &dyn Process, batch: usize, z: &mut Noise) -> Result<Vec<Draw>> {
    let below_one = 1. - f64::EPSILON / 2.;
    let stratum = |(i, u): (usize, f64)| ((i as f64 + u) / batch as f64).min(below_one);
    Ok(z.uniform(batch)?.into_iter().enumerate().map(stratum).map(|u| level.draw(process, u)).collect())
}

/// ln(sigma / alpha) at `t`, within the bounds that numbers can bear.
pub fn log_ratio(process: &dyn Process, t: f64) -> f64 {
    (-0.5 * process.log_snr(t)).clamp(-MOST, MOST)
}

/// ln(1e4): beyond it there is only noise, or none.
const MOST: f64 = 9.210340371976184;

#[cfg(test)]
mod tests {
    use super::*;
    use langevin_dynamics::process::AnyProcess;

    fn at(level: &dyn Level, process: &str, n: usize) -> Vec<f64> {
        let process = AnyProcess::named(process).unwrap();
        let mut times: Vec<f64> = Vec::new();
        for step in 0..4 {
            let mut z = Noise::of_step(7, step, n / 4);
            times.extend(draws(level, process.get(), n / 4, &mut z).unwrap().iter().map(|d| d.t));
        }
        times
    }

    /// The histogram of `f(t)` against the probability of each bin.
    fn histogram(values: Vec<f64>, from: f64, to: f64, probability: impl Fn(f64, f64) -> f64) {
        let bins = 20;
        for i in 0..bins {
            let (a, b) =
                (from + (to - from) * i as f64 / bins as f64, from + (to - from) * (i + 1) as f64 / bins as f64);
            let got = values.iter().filter(|v| (a..b).contains(*v)).count() as f64 / values.len() as f64;
            let p = probability(a, b);
            assert!((got - p).abs() < 2e-3, "bin [{a}, {b}): {got}, should be {p}");
        }
    }

    /// The integral of a normal density with mean `m` and deviation `s` over [a, b], by Simpson.
    fn normal_mass(m: f64, s: f64, a: f64, b: f64) -> f64 {
        let density = |x: f64| (-0.5 * ((x - m) / s).powi(2)).exp() / (s * (2. * std::f64::consts::PI).sqrt());
        let h = (b - a) / 200.;
        (0..100)
            .map(|i| a + 2. * h * i as f64)
            .map(|x| (density(x) + 4. * density(x + h) + density(x + 2. * h)) * h / 3.)
            .sum()
    }

    #[test]
    fn histograms_are_the_densities() {
        let n = 40_000;
        histogram(at(&Uniform {}, "vp", n), 1e-3, 1., |a, b| (b - a) / (1. - 1e-3));
        let (low, high) = (0.002f64.ln(), 80f64.ln());
        let logs = |level: &dyn Level| at(level, "edm", n).into_iter().map(f64::ln).collect::<Vec<_>>();
        histogram(logs(&LogSnr {}), low, high, |a, b| (b - a) / (high - low));
        histogram(logs(&LogNormal::default()), -5., 3., |a, b| normal_mass(-1.2, 1.2, a, b));
        let logit = |t: f64| (t / (1. - t)).ln();
        let flow = at(&LogitNormal { mean: 0.3, std: 0.8 }, "flow", n);
        histogram(flow.into_iter().map(logit).collect(), -2., 2.5, |a, b| normal_mass(0.3, 0.8, a, b));
        let table = at(&Discrete::default(), "table", n);
        assert!(table.iter().all(|t| t.fract() == 0. && (1. ..=1000.).contains(t)));
        histogram(table, 0.5, 1000.5, |a, b| (b - a) / 1000.);
    }

    #[test]
    fn every_level_stays_in_every_span_and_rises() {
        for level in AnyLevel::defaults() {
            for process in AnyProcess::defaults() {
                let (low, high) = process.get().span();
                let times: Vec<f64> = (0..200).map(|i| level.get().draw(process.get(), i as f64 / 200.).t).collect();
                assert!(times.iter().all(|t| (low..=high).contains(t)), "{level:?} {process:?}");
                assert!(times.windows(2).all(|w| w[0] <= w[1] + 1e-9), "{level:?} {process:?}");
            }
        }
    }
}
