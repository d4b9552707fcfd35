//! The timesteps that diffusers' schedulers visit, with numpy's arithmetic and rounding.

use super::keys::Keys;
use candle_core::{Result, bail};

/// `timestep_spacing`. \[2305.08891, table 2\]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Linspace,
    Leading,
    Trailing,
}

/// `timestep_spacing` and `steps_offset` over a table of `total` entries.
#[derive(Clone, Debug)]
pub(super) struct Spacing {
    pub kind: Kind,
    pub offset: usize,
    pub total: usize,
}

impl Spacing {
    pub fn read(c: &Keys, default: &str, total: usize) -> Result<Self> {
        let kinds = [("linspace", Kind::Linspace), ("leading", Kind::Leading), ("trailing", Kind::Trailing)];
        let kind = c.choice("timestep_spacing", default, &kinds)?;
        Ok(Self { kind, offset: c.count("steps_offset", 0)?, total })
    }

    /// Falling timesteps of `steps` steps, of DDPM, DDIM, PNDM and the Euler family; linspace is not rounded.
    pub fn ancestral(&self, steps: usize) -> Vec<f64> {
        match self.kind {
            Kind::Linspace => linspace(self.total as f64 - 1., steps).into_iter().rev().collect(),
            Kind::Leading => (0..steps).rev().map(|i| (i * (self.total / steps) + self.offset) as f64).collect(),
            Kind::Trailing => self.trailing(self.total, steps),
        }
    }

    /// Falling timesteps of DPM-Solver and UniPC, which keep one more step for the end; `last` entries are used.
    pub fn solver(&self, last: usize, steps: usize) -> Vec<f64> {
        match self.kind {
            Kind::Linspace => {
                let all = linspace(last as f64 - 1., steps + 1).into_iter().rev();
                all.take(steps).map(f64::round_ties_even).collect()
            }
            Kind::Leading => (1..=steps).rev().map(|i| (i * (last / (steps + 1)) + self.offset) as f64).collect(),
            Kind::Trailing => self.trailing(last, steps),
        }
    }

    /// round(arange(last, 0, -total/steps)) - 1.
    fn trailing(&self, last: usize, steps: usize) -> Vec<f64> {
        let (last, stride) = (last as f64, self.total as f64 / steps as f64);
        let stride = last - (last - stride); // as numpy takes it, from the second number
        let each = (0..=steps).map(|i| (last - i as f64 * stride).round_ties_even() - 1.);
        each.take(steps).filter(|t| *t >= 0.).collect()
    }

    /// Errors if a timestep is beyond the table, or two steps fall on one.
    pub fn check(&self, timesteps: &[f64]) -> Result<()> {
        if let Some(far) = timesteps.iter().find(|t| **t > self.total as f64 - 1.) {
            bail!(
                "scheduler: {} steps with steps_offset = {} begin at timestep {far} of a table of {}; take fewer steps",
                timesteps.len(),
                self.offset,
                self.total
            );
        }
        if let Some(pair) = timesteps.windows(2).find(|pair| pair[0] <= pair[1]) {
            bail!("scheduler: {} steps are too many: two of them fall on timestep {}", timesteps.len(), pair[1]);
        }
        Ok(())
    }
}

/// `n` numbers from 0 to `to`, as numpy's linspace computes them.
fn linspace(to: f64, n: usize) -> Vec<f64> {
    if n == 1 {
        return vec![0.];
    }
    let stride = to / (n - 1) as f64;
    (0..n).map(|i| if i + 1 == n { to } else { i as f64 * stride }).collect()
}

/// What stands at the fractional place `at` of `values`, on the straight line between its neighbours.
pub(super) fn interpolate(values: &[f64], at: f64) -> f64 {
    let top = values.len() - 1;
    let below = (at.max(0.).floor() as usize).min(top);
    let part = (at - below as f64).clamp(0., 1.);
    values[below] + (values[(below + 1).min(top)] - values[below]) * part
}
