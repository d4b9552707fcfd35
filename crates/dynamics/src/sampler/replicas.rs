//! Replica exchange inside a reverse process: other runs of it follow, each a level behind the one before, and chains of
//! neighbours swap places after each step of a kernel.
//!
//! A run is at the density of its level and independent of the others, so neighbours are at the product of both densities,
//! which a swap leaves as it is; levels that one and the same run came through would not be. \[Geyer 1991\]

use super::Sampler;
use super::report::{AtLevel, Report, adapted};
use super::transfer::{Ends, ends};
use crate::denoiser::{Denoiser, each};
use crate::mcmc::{AnyKernel, Rung, Score, Unscaled, sweep};
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::shape::scale;

/// The runs that follow one.
#[derive(Clone, Debug, Default)]
pub struct Replicas {
    /// Of the grid.
    times: Vec<f64>,
    /// From the last of them on: x, and the kernel with the step sizes that it has found.
    behind: Vec<(Tensor, AnyKernel)>,
    /// Of them and of the one that is followed, at its end: from where to where each goes next.
    ways: Vec<(Vec<f64>, Vec<f64>)>,
    sweeps: usize,
}

/// What corrects each run.
pub(super) struct Correction<'a> {
    /// The kernel of the run that is followed.
    pub kernel: &'a mut AnyKernel,
    /// Its steps that adapt step sizes, then those with swaps.
    pub steps: (usize, usize),
    /// Runs in all.
    pub runs: usize,
}

impl Replicas {
    /// None yet, of a run through `times`.
    pub(super) fn begin(times: &[f64]) -> Self {
        Self { times: times.to_vec(), ..Self::default() }
    }

    /// The chains `x` of the run that is followed, at `t` on their way to `s`, moved and swapped with those behind.
    pub(super) fn corrected(
        &mut self,
        m: &dyn Denoiser,
        x: &Tensor,
        (t, s): (&[f64], &[f64]),
        by: &mut Correction,
        report: &mut Report,
        z: &mut Noise,
    ) -> Result<Tensor> {
        self.ways.push((t.to_vec(), s.to_vec()));
        if self.ways.len() > by.runs {
            self.ways.remove(0);
        }
        if self.ways.len() > self.behind.len() + 1 {
            self.join(m, x, by.kernel, z)?;
        }
        let levels: Vec<Unscaled> = self.ways.iter().map(|(t, _)| Unscaled::new(m, t)).collect();
        // where there is next to no signal x is a draw of the level already
        let noise = |(t, s): &(Vec<f64>, Vec<f64>)| Ok(ends(m.process(), t, s)?.iter().any(Ends::starts_from_noise));
        let first = self.ways.iter().map(noise).collect::<Result<Vec<_>>>()?.iter().filter(|&&noise| noise).count();
        let own = (x.clone(), by.kernel.clone());
        let mut rungs = vec![];
        for (level, (x, kernel)) in levels.iter().zip(self.behind.iter().chain([&own])).skip(first) {
            let mut rung = Rung::new(level, &level.of(x)?, kernel, &level.length())?;
            rung.at = adapted(level, rung.kernel.get_mut(), (rung.at, &rung.length), by.steps.0, z)?;
            rungs.push(rung);
        }
        let densities: Vec<&dyn Score> = levels.iter().skip(first).map(|level| level as &dyn Score).collect();
        let mut found = AtLevel::new(m.process(), t);
        for _ in 0..by.steps.1 {
            // two runs are one pair, which need not wait for another
            let turn = if rungs.len() == 2 { 0 } else { self.sweeps };
            let swept = sweep(&mut rungs, &densities, turn, z)?;
            self.sweeps += 1;
            if let (Some(rung), Some(swept)) = (rungs.last(), swept.last()) {
                found.add(&rung.at, *swept)?;
            }
        }
        if !rungs.is_empty() {
            report.levels.push(found);
        }
        let mut moved = levels.iter().skip(first).zip(rungs);
        for (run, (level, rung)) in self.behind.iter_mut().skip(first).zip(&mut moved) {
            *run = (level.scaled(&rung.at.x)?, rung.kernel);
        }
        let Some((level, rung)) = moved.next() else { return Ok(x.clone()) };
        *by.kernel = rung.kernel;
        level.scaled(&rung.at.x)
    }

    /// Those behind take their next step by the predictor, which remembers nothing after it.
    pub(super) fn follow(&mut self, m: &dyn Denoiser, by: &mut dyn Sampler, z: &mut Noise) -> Result<()> {
        by.begin(&self.times);
        for ((x, _), (t, s)) in self.behind.iter_mut().zip(&self.ways) {
            *x = by.step(m, x, t, s, z)?.detach();
            by.begin(&self.times);
        }
        Ok(())
    }

    /// Another run begins behind all others, with noise of its own.
    fn join(&mut self, m: &dyn Denoiser, x: &Tensor, kernel: &AnyKernel, z: &mut Noise) -> Result<()> {
        let Some((t, _)) = self.ways.first() else { return Ok(()) };
        let std = each(m.process(), t, |at| at.sigma / m.prior_precision().sqrt());
        let start = scale(&z.normal_like(x)?, &std)?;
        let mut kernel = kernel.clone();
        kernel.get_mut().begin();
        self.behind.insert(0, (start, kernel));
        Ok(())
    }
}
