//! Replica exchange inside a reverse process: other runs of it follow, each a level behind the one before, and chains of
//! neighbours swap places after each step of a kernel.
//!
//! A run is at the density of its level and independent of the others, so neighbours are at the product of both densities,
//! which a swap leaves as it is; levels that one and the same run came through would not be. \[Geyer 1991\]

use super::transfer::Interval;
use crate::denoiser::{Denoiser, each};
use crate::ladder::{Ladder, RescaledLevels, Visit, sweep};
use crate::mcmc::{Chains, Kernel, StepSizes};
use crate::sampler::{Pc, Step, Stepper};
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::shape::scale;

/// The runs that follow one.
pub(in crate::sampler) struct Replicas<'a> {
    options: &'a Pc,
    kernel: &'a dyn Kernel,
    /// Of the grid.
    times: Vec<f64>,
    /// From the last of them on: x, and the step sizes that it has found.
    behind: Vec<(Tensor, StepSizes)>,
    /// The step sizes of the run that is followed.
    sizes: StepSizes,
    /// Of those behind and of the one that is followed, at its end: from where to where each goes next.
    next: Vec<(Vec<f64>, Vec<f64>)>,
    sweeps: usize,
}

impl<'a> Replicas<'a> {
    /// None yet, of a run through `times` whose corrector is `kernel`.
    pub fn new(options: &'a Pc, kernel: &'a dyn Kernel, times: &[f64]) -> Self {
        let (times, sizes) = (times.to_vec(), StepSizes::default());
        Self { options, kernel, times, behind: vec![], sizes, next: vec![], sweeps: 0 }
    }

    /// The chains `x` of the run that is followed, at the start of `step`, moved and swapped with those behind; and what
    /// happened to them, unless there is next to no signal there.
    pub fn corrected(
        &mut self,
        m: &dyn Denoiser,
        x: &Tensor,
        step: Step,
        z: &mut Noise,
    ) -> Result<(Tensor, Option<Visit>)> {
        self.next.push((step.t.to_vec(), step.s.to_vec()));
        if self.next.len() > self.options.replicas {
            self.next.remove(0);
        }
        if self.next.len() > self.behind.len() + 1 {
            self.join(m, x, z)?;
        }
        // where there is next to no signal x is a draw of the level already
        let noise = |(t, s): &(Vec<f64>, Vec<f64>)| {
            Ok(Step { t, s }.intervals(m.process())?.iter().any(Interval::starts_from_noise))
        };
        let first = self.next.iter().map(noise).collect::<Result<Vec<_>>>()?.iter().filter(|&&noise| noise).count();
        let next = self.next.clone();
        let levels = RescaledLevels::new(m, next.iter().skip(first).map(|(t, _)| t.as_slice()));
        let own = (x.clone(), std::mem::take(&mut self.sizes));
        let mut runs: Vec<Chains> = vec![];
        for (i, (x, sizes)) in self.behind.iter().chain([&own]).skip(first).enumerate() {
            let (density, y) = (levels.density(i), levels.level(i).y(x)?);
            let mut chains = Chains { at: density.evaluate(&y)?, length: levels.length(i), sizes: sizes.clone() };
            chains.adapt(density.as_ref(), self.kernel, self.options.adapt, z)?;
            runs.push(chains);
        }
        let mut visit = Visit::default();
        for _ in 0..self.options.corrector_steps {
            // two runs are one pair, which need not wait for another
            let turn = if runs.len() == 2 { 0 } else { self.sweeps };
            let swept = sweep(self.kernel, &levels, 0, &mut runs, turn, z)?;
            self.sweeps += 1;
            if let (Some(chains), Some(swept)) = (runs.last(), swept.last()) {
                visit.add(Some(&chains.at), swept)?;
            }
        }
        let mut moved = runs.into_iter().enumerate();
        for (run, (i, chains)) in self.behind.iter_mut().skip(first).zip(&mut moved) {
            *run = (levels.level(i).x(&chains.at.x)?, chains.sizes);
        }
        let Some((own_rung, chains)) = moved.next() else {
            self.sizes = own.1;
            return Ok((x.clone(), None));
        };
        self.sizes = chains.sizes;
        Ok((levels.level(own_rung).x(&chains.at.x)?, Some(visit)))
    }

    /// A run of the predictor that remembers nothing.
    pub fn predictor(&self) -> Box<dyn Stepper + 'a> {
        self.options.predictor.get().start(&self.times)
    }

    /// Those behind take their next step, each as the first of a run.
    pub fn follow(&mut self, m: &dyn Denoiser, z: &mut Noise) -> Result<()> {
        for i in 0..self.behind.len().min(self.next.len()) {
            let (t, s) = &self.next[i];
            self.behind[i].0 = self.predictor().step(m, &self.behind[i].0, Step { t, s }, z)?.detach();
        }
        Ok(())
    }

    /// Another run begins behind all others, with noise of its own.
    fn join(&mut self, m: &dyn Denoiser, x: &Tensor, z: &mut Noise) -> Result<()> {
        let Some((t, _)) = self.next.first() else { return Ok(()) };
        let std = each(m.process(), t, |at| at.sigma / m.prior_precision().sqrt());
        self.behind.insert(0, (scale(&z.normal_like(x)?, &std)?, StepSizes::default()));
        Ok(())
    }
}
