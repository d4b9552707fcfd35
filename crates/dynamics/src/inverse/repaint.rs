//! RePaint: replacement that again and again goes some levels back up, by noise, and down again, so that what was drawn
//! and what was measured come to agree. [Lugmayr22, Alg. 1 and its jumps]

use super::replace::Replaced;
use super::{Measured, Method};
use crate::Process;
use crate::sampler::Sampler;
use candle_core::{Result, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

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
    pub fn path(&self, times: &[f64], from: f64) -> Vec<(f64, f64)> {
        let last = times.len().saturating_sub(1);
        let mut back = vec![0; last + 1]; // times left to go back from each level
        for i in (self.jump..=last).rev().step_by(self.jump).filter(|&i| times[i] >= from) {
            back[i] = self.resample - 1;
        }
        let (mut at, mut path) = (0, vec![]);
        while at < last {
            path.push((times[at], times[at + 1]));
            at += 1;
            if back[at] > 0 {
                back[at] -= 1;
                path.push((times[at], times[at - self.jump]));
                at -= self.jump;
            }
        }
        path
    }
}

impl Method for RePaint {
    fn check(&self) -> Result<()> {
        if self.jump == 0 || self.resample == 0 {
            bail!("repaint: jump is {} and resample {}; both must be at least 1", self.jump, self.resample);
        }
        Ok(())
    }

    fn sampler<'a>(&self, seen: &'a Measured) -> Result<Box<dyn Sampler + 'a>> {
        Ok(Box::new(Replaced::new(seen)?))
    }

    fn route(&self, process: &dyn Process, seen: &Measured, times: &[f64]) -> Vec<(f64, f64)> {
        // where nothing is put in its place, going back would only forget it
        let lowest = Replaced::new(seen).map_or(f64::INFINITY, |replaced| replaced.lowest(process, times));
        self.path(times, lowest)
    }
}
