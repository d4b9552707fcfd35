//! Replica exchange along the noise levels: each level that is reached stays alive, its chains move by a kernel and swap
//! places with those of its neighbours; at the end the least noisy are denoised.
//!
//! Levels are compared in y = x/alpha, where neighbours overlap; constants cancel, so energies need no normaliser. Where
//! there is next to no signal x is a draw of the level already, and the level is left out.

use super::report::{AtLevel, Report, adapted};
use super::transfer::{Ends, carried, ends, lands};
use super::{Sampler, above_zero};
use crate::Denoiser;
use crate::mcmc::{AnyKernel, Hmc, Rung, Score, Unscaled, sweep};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
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
    /// The levels that are kept, the last of those in the report, and their times.
    #[serde(skip)]
    ladder: Vec<Rung>,
    #[serde(skip)]
    times: Vec<Vec<f64>>,
    #[serde(skip)]
    done: usize, // sweeps of the run
    #[serde(skip)]
    report: Report,
}

impl Default for Tempering {
    fn default() -> Self {
        let (kernel, report) = (Hmc::default().into(), Report::default());
        Self { kernel, sweeps: 6, rungs: 16, adapt: 0, ladder: vec![], times: vec![], done: 0, report }
    }
}

impl Named for Tempering {
    const NAME: &'static str = "tempering";
    const ABOUT: &'static str =
        "replica exchange between all noise levels reached so far [Swendsen & Wang 1986; Geyer 1991]";
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
        self.times.clear();
        (self.report, self.done) = (Report::default(), 0);
    }

    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, t: &[f64], s: &[f64], z: &mut Noise) -> Result<Tensor> {
        let ends = ends(m.process(), t, s)?;
        if ends.iter().any(Ends::starts_from_noise) {
            return if lands(s) { m.x0(x, t) } else { carried(&ends, x) };
        }
        self.add(m, x, t, z)?;
        for _ in 0..self.sweeps {
            self.sweep(m, z)?;
        }
        let Some(rung) = self.ladder.last() else { bail!("tempering: no levels") };
        let x = Unscaled::new(m, t).scaled(&rung.at.x)?;
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
        // step sizes go on from those of the level above
        let last = self.ladder.last().filter(|_| self.adapt > 0);
        let kernel = last.map_or(&self.kernel, |last| &last.kernel);
        let mut rung = Rung::new(&level, &level.of(x)?, kernel, &level.length())?;
        rung.at = adapted(&level, rung.kernel.get_mut(), (rung.at, &rung.length), self.adapt, z)?;
        if self.ladder.len() == self.rungs {
            self.ladder.remove(0);
            self.times.remove(0);
        }
        self.ladder.push(rung);
        self.times.push(t.to_vec());
        self.report.levels.push(AtLevel::new(m.process(), t));
        Ok(())
    }

    /// A step of every chain at its level, and swaps: each pair in every second sweep, a new one in the first of its own if
    /// there is one sweep a level.
    fn sweep(&mut self, m: &dyn Denoiser, z: &mut Noise) -> Result<()> {
        let levels: Vec<Unscaled> = self.times.iter().map(|t| Unscaled::new(m, t)).collect();
        let densities: Vec<&dyn Score> = levels.iter().map(|level| level as &dyn Score).collect();
        let place = self.report.levels.len().saturating_sub(1); // of the last
        let swept = sweep(&mut self.ladder, &densities, place + self.done, z)?;
        self.done += 1;
        let mut kept = self.report.levels.iter_mut().rev().zip(self.ladder.iter().zip(swept).rev());
        kept.try_for_each(|(level, (rung, swept))| level.add(&rung.at, swept))
    }
}
