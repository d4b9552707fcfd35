//! Replica exchange along the noise levels: each level that is reached stays alive, its chains move by a kernel and swap
//! places with those of its neighbours; at the end the least noisy are denoised.
//!
//! Levels are compared in y = x/alpha, where neighbours overlap; constants cancel, so energies need no normaliser. Where
//! there is next to no signal x is a draw of the level already, and the level is left out.

use super::parts::report::{AtLevel, Report};
use super::parts::transfer::{Interval, carried};
use super::{Sampler, Step, Stepper, above_zero};
use crate::Denoiser;
use crate::ladder::{Exchange, RescaledLevels};
use crate::mcmc::{AnyKernel, Hmc};
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
}

impl Default for Tempering {
    fn default() -> Self {
        Self { kernel: Hmc::default().into(), sweeps: 6, rungs: 16, adapt: 0 }
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
        self.kernel.check_by_score()
    }

    fn start(&self, _times: &[f64]) -> Box<dyn Stepper + '_> {
        let exchange = Exchange::new(self.kernel.get(), self.adapt);
        Box::new(TemperingRun { options: self, exchange, times: vec![], report: Report::default() })
    }

    fn reports(&self) -> bool {
        true
    }
}

struct TemperingRun<'a> {
    options: &'a Tempering,
    exchange: Exchange<'a>,
    /// Of the levels reached so far.
    times: Vec<Vec<f64>>,
    report: Report,
}

impl Stepper for TemperingRun<'_> {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor> {
        let ends = step.intervals(m.process())?;
        if ends.iter().any(Interval::starts_from_noise) {
            return if step.is_final() { m.x0(x, step.t) } else { carried(&ends, x) };
        }
        self.times.push(step.t.to_vec());
        let levels = RescaledLevels::new(m, self.times.iter().map(Vec::as_slice));
        let level = levels.level(self.times.len() - 1);
        self.exchange.join(&levels, &level.y(x)?, self.options.rungs, z)?;
        for _ in 0..self.options.sweeps {
            self.exchange.sweep(&levels, z)?;
        }
        let reached = self.times.iter().zip(self.exchange.visits());
        self.report.levels = reached.map(|(t, visit)| AtLevel::new(m.process(), t, visit.clone())).collect();
        let x = level.x(&self.exchange.last()?.x)?;
        if step.is_final() { m.x0(&x, step.t) } else { carried(&ends, &x) }
    }

    fn report(&self) -> Option<&Report> {
        Some(&self.report)
    }
}
