//! RePaint: replacement that again and again goes some levels back up, by noise, and down again, so that what was drawn
//! and what was measured come to agree. [Lugmayr22, Alg. 1 and its jumps]

use super::replace::Replaced;
use super::{Measured, Method};
use crate::Process;
use crate::sampler::Stepper;
use candle_core::{Result, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Steps of a run at most.
const MOST: usize = 10_000_000;

/// Ancestral steps with replacement and resampling. The paper has 250 steps with jump = 10 and resample = 10.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RePaint {
    /// Levels of a jump back, j.
    pub jump: usize,
    /// How often each stretch of so many levels is gone down, r; 1 is replacement alone.
    pub resample: usize,
}

impl Default for RePaint {
    fn default() -> Self {
        Self { jump: 5, resample: 5 }
    }
}

impl Named for RePaint {
    const NAME: &'static str = "repaint";
    const ABOUT: &'static str = "replacement that goes back up and down again until the parts agree [Lugmayr22]";
}

impl RePaint {
    /// The steps (t, s) through `times`: down, and `resample` - 1 times back from every `jump`-th level, counted from the
    /// data; but not from times below `from`.
    pub fn path(&self, times: &[f64], from: f64) -> impl Iterator<Item = (f64, f64)> {
        let (jump, last) = (self.jump.max(1), times.len().saturating_sub(1));
        let mut back = vec![0; last + 1]; // times left to go back from each level
        for i in (jump..=last).rev().step_by(jump).filter(|&i| times[i] >= from) {
            back[i] = self.resample.saturating_sub(1);
        }
        let (mut at, mut came_down) = (0, false);
        std::iter::from_fn(move || {
            let before = at;
            came_down = !(came_down && back[at] > 0);
            if !came_down {
                back[at] -= 1;
                at -= jump;
            } else if at < last {
                at += 1;
            } else {
                return None;
            }
            Some((times[before], times[at]))
        })
    }
}

impl Method for RePaint {
    fn check(&self) -> Result<()> {
        if self.jump == 0 || self.resample == 0 {
            bail!("repaint: jump is {} and resample {}; both must be at least 1", self.jump, self.resample);
        }
        Ok(())
    }

    fn start<'a>(&'a self, measured: &'a Measured, _times: &[f64]) -> Result<Box<dyn Stepper + 'a>> {
        Ok(Box::new(Replaced::new(measured)?))
    }

    fn route(&self, process: &dyn Process, measured: &Measured, times: &[f64]) -> Result<Vec<(f64, f64)>> {
        let levels = times.len().saturating_sub(1);
        if self.jump > levels && self.resample > 1 {
            bail!(
                "repaint: a jump of {} levels does not fit into {levels} steps; lower jump or raise the number of steps",
                self.jump
            );
        }
        // where nothing is put in its place, going back would only forget it
        let lowest = Replaced::new(measured)?.lowest(process, times);
        let route: Vec<(f64, f64)> = self.path(times, lowest).take(MOST + 1).collect();
        if route.len() > MOST {
            bail!(
                "repaint: jump {} and resample {} make more than {MOST} steps of {levels}; lower resample",
                self.jump,
                self.resample
            );
        }
        Ok(route)
    }
}
