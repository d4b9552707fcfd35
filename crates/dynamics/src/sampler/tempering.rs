//! Replica exchange along the noise levels: each level that is reached stays alive, its chains move by a kernel and swap
//! places with those of its neighbours; at the end the least noisy are denoised.
//!
//! Levels are compared in y = x/alpha, where neighbours overlap; constants cancel, so energies need no normaliser. Where
//! there is next to no signal x is a draw of the level already, and the level is left out.

use super::report::{AtLevel, Report, adapted};
use super::transfer::{Ends, carried, ends, lands};
use super::{Sampler, above_zero};
use crate::denoiser::{Denoiser, each};
use crate::mcmc::{AnyKernel, Hmc, Level, Score, View, tempering::swap};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::scale;
use serde::{Deserialize, Serialize};

/// At the k-th level k times `sweeps` steps of the kernel, as long as there are fewer levels than `rungs`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tempering {
    /// What moves the chains of a level.
    pub kernel: AnyKernel,
    /// Steps of the kernel at every level, and swaps after each, whenever a level is added.
    pub sweeps: usize,
    /// Most levels that are kept; the noisiest is let go for a new one.
    pub rungs: usize,
    /// Steps at a new level before those in which each chain adapts its step size there, for a kernel with a test of
    /// acceptance; 0 leaves the size as the kernel has it, in units of sigma, which is short where the data are wider. That a
    /// size follows the place of its chain moves the shares of far modes: by up to 0.03 for a few leapfrogs under cosine.
    pub adapt: usize,
    #[serde(skip)]
    ladder: Vec<Rung>,
    #[serde(skip)]
    done: usize, // sweeps of the run
    #[serde(skip)]
    report: Report,
}

/// A level that is kept, the chains in y.
#[derive(Clone, Debug)]
struct Rung {
    t: Vec<f64>,
    at: View,
    kernel: AnyKernel,
    /// Its place in the report.
    place: usize,
}

impl Default for Tempering {
    fn default() -> Self {
        let (kernel, report) = (Hmc::default().into(), Report::default());
        Self { kernel, sweeps: 6, rungs: 16, adapt: 0, ladder: vec![], done: 0, report }
    }
}

impl Named for Tempering {
    const NAME: &'static str = "tempering";
    const ABOUT: &'static str =
        "replica exchange between all noise levels reached so far [Swendsen & Wang 1986; Geyer 1991]";
}

/// A level's density of y = x/alpha.
struct Unscaled<'a> {
    level: Level<'a>,
    alpha: Vec<f64>,
}

impl<'a> Unscaled<'a> {
    fn new(model: &'a dyn Denoiser, t: &'a [f64]) -> Self {
        Self { level: Level { model, t }, alpha: each(model.process(), t, |m| m.alpha) }
    }
}

impl Score for Unscaled<'_> {
    fn score(&self, y: &Tensor) -> Result<Tensor> {
        scale(&self.level.score(&scale(y, &self.alpha)?)?, &self.alpha)
    }

    fn look(&self, y: &Tensor) -> Result<View> {
        let View { score, energy, .. } = self.level.look(&scale(y, &self.alpha)?)?;
        Ok(View { x: y.detach(), score: scale(&score, &self.alpha)?, energy })
    }
}

impl Sampler for Tempering {
    fn check(&self) -> Result<()> {
        above_zero("sweeps", self.sweeps as f64)?;
        if self.rungs < 2 {
            bail!("rungs is {}; give at least 2, or there is nothing to swap with", self.rungs);
        }
        self.kernel.get().check()
    }

    fn begin(&mut self, _times: &[f64]) {
        self.ladder.clear();
        (self.report, self.done) = (Report::default(), 0);
    }

    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, t: &[f64], s: &[f64], z: &mut Noise) -> Result<Tensor> {
        let ends = ends(m.process(), t, s)?;
        if ends.iter().any(Ends::starts_from_noise) {
            return if lands(s) { m.x0(x, t) } else { carried(&ends, x) };
        }
        self.add(m, x, t, z)?;
        for _ in 0..self.sweeps {
            self.moves(m, z)?;
            self.swaps(m, z)?;
        }
        let Some(rung) = self.ladder.last() else { bail!("tempering: no levels") };
        let x = scale(&rung.at.x, &each(m.process(), t, |m| m.alpha))?;
        if lands(s) { m.x0(&x, t) } else { carried(&ends, &x) }
    }

    fn report(&self) -> Option<&Report> {
        Some(&self.report)
    }
}

impl Tempering {
    /// The chains `x` at `t` as a new level.
    fn add(&mut self, m: &dyn Denoiser, x: &Tensor, t: &[f64], z: &mut Noise) -> Result<()> {
        let level = Unscaled::new(m, t);
        let inverse: Vec<f64> = level.alpha.iter().map(|alpha| 1. / alpha).collect();
        // step sizes go on from those of the level above
        let last = self.ladder.last().filter(|_| self.adapt > 0);
        let mut kernel = last.map_or(&self.kernel, |last| &last.kernel).clone();
        let at = level.look(&scale(x, &inverse)?)?;
        let at = adapted(&level, kernel.get_mut(), (at, &lengths(m, t)), self.adapt, z)?;
        if self.ladder.len() == self.rungs {
            self.ladder.remove(0);
        }
        let place = self.report.levels.len();
        self.ladder.push(Rung { t: t.to_vec(), at, kernel, place });
        self.report.levels.push(AtLevel::new(m.process(), t));
        Ok(())
    }

    /// A step of every chain at its level.
    fn moves(&mut self, m: &dyn Denoiser, z: &mut Noise) -> Result<()> {
        for rung in &mut self.ladder {
            let level = Unscaled::new(m, &rung.t);
            let (at, stats) = rung.kernel.get_mut().advance(&level, &rung.at, &lengths(m, &rung.t), z)?;
            rung.at = at;
            if let Some(level) = self.report.levels.get_mut(rung.place) {
                level.stats += stats;
                level.trace.record(&rung.at)?;
            }
        }
        Ok(())
    }

    /// Every second pair of neighbours swaps, those that did not in the last sweep; a new pair does in the first of its own
    /// if there is one sweep a level.
    fn swaps(&mut self, m: &dyn Denoiser, z: &mut Noise) -> Result<()> {
        let first = self.ladder.first().map_or(0, |rung| rung.place);
        let from = (first + self.done + 1) % 2;
        self.done += 1;
        for pair in self.ladder.get_mut(from..).unwrap_or_default().chunks_exact_mut(2) {
            let [hot, cold] = pair else { continue };
            let levels = (Unscaled::new(m, &hot.t), Unscaled::new(m, &cold.t));
            let (at_hot, at_cold, stats) = swap(&levels.0, &levels.1, &hot.at, &cold.at, z)?;
            (hot.at, cold.at) = (at_hot, at_cold);
            if let Some(level) = self.report.levels.get_mut(cold.place) {
                *level.swaps.get_or_insert_default() += stats;
            }
        }
        Ok(())
    }
}

/// The unit of length of y at each time, sigma/alpha.
fn lengths(m: &dyn Denoiser, t: &[f64]) -> Vec<f64> {
    each(m.process(), t, |m| m.sigma / m.alpha)
}
