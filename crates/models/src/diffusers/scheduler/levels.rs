//! The noise levels sigma/alpha that diffusers' solvers visit, and what they tell the network there.

use super::spacing::{Spacing, interpolate};
use candle_core::Result;
use langevin_dynamics::grid::{Beta, Karras, LogSnr};

/// How levels are spaced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Space {
    /// As the timesteps are.
    Entries,
    /// Evenly in the logarithm over the whole table, with the end among them (`interpolation_type`).
    LogLinear,
    Karras,
    /// Evenly in the logarithm: `use_exponential_sigmas`, and `use_lu_lambdas` with its rho = 1.
    Exponential,
    Beta,
}

/// The timestep of a level, which the network is told: between entries of the table, as it is or rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Timestep {
    Exact,
    Rounded,
    Truncated,
    /// ln(sigma/alpha) / 4.
    LogSigma,
}

/// Where the last step leads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    Clean,
    /// The first entry of the table.
    First,
    /// Where it begins.
    Stay,
}

/// `use_flow_sigmas`: levels are the noise s in x = (1 - s) x_0 + s eps.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlowLevels {
    /// `flow_shift`: s becomes shift s / (1 + (shift - 1) s).
    pub shift: f64,
    /// UniPC's: from pure noise, but 1e-6. DPM-Solver's begin one entry before.
    pub from_noise: bool,
}

/// How a solver makes its levels.
#[derive(Clone, Debug)]
pub(super) struct Levels {
    /// sigma/alpha of the entries of the table, the least noisy first.
    pub sigmas: Vec<f64>,
    pub spacing: Spacing,
    /// The entries that DPM-Solver and UniPC space their timesteps over; none for the Euler family.
    pub solver: Option<usize>,
    pub space: Space,
    /// `sigma_min` and `sigma_max`.
    pub range: (Option<f64>, Option<f64>),
    pub timestep: Timestep,
    pub end: End,
    pub flow: Option<FlowLevels>,
    /// Whether the start has standard deviation sqrt(sigma^2 + 1), not sigma, at level sigma.
    pub with_data: bool,
}

/// The levels of a run.
pub(super) struct Visit {
    /// Where the model is asked, falling.
    pub levels: Vec<f64>,
    /// What it is told there.
    pub timesteps: Vec<f64>,
    /// Where the last step leads: 0 is clean data.
    pub end: f64,
}

impl Levels {
    pub fn visit(&self, steps: usize) -> Result<Visit> {
        let mut visit = match (self.flow, self.space) {
            (Some(flow), Space::Entries) => self.flow(flow, steps),
            _ => self.table(steps)?,
        };
        if self.end == End::Stay {
            visit.end = visit.levels.last().copied().unwrap_or(0.);
        }
        Ok(visit)
    }

    fn table(&self, steps: usize) -> Result<Visit> {
        let all = &self.sigmas;
        let timesteps = match self.solver {
            Some(last) => self.spacing.solver(last, steps),
            None => self.spacing.ancestral(steps).into_iter().map(|t| f64::from(t as f32)).collect(),
        };
        let first = if self.end == End::First { all[0] } else { 0. };
        let visited = |t: &f64| interpolate(all, *t);
        let (high, low) = match (self.solver, self.space) {
            (None, Space::Karras | Space::Exponential | Space::Beta) => {
                (timesteps.first().map_or(0., visited), timesteps.last().map_or(0., visited))
            }
            _ => (all[all.len() - 1], all[0]),
        };
        let (high, low) = (self.range.1.unwrap_or(high), self.range.0.unwrap_or(low));
        let levels = match self.space {
            Space::Entries => {
                self.spacing.check(&timesteps)?;
                let levels: Vec<f64> = timesteps.iter().map(visited).collect();
                return Ok(Visit { timesteps: self.of_entries(&timesteps, &levels), levels, end: first });
            }
            Space::LogLinear => {
                let mut levels = LogSnr {}.levels(all[all.len() - 1], all[0], steps + 1);
                let end = levels.pop().unwrap_or(0.);
                return Ok(Visit { timesteps: self.of_entries(&timesteps, &levels), levels, end });
            }
            Space::Karras => Karras::default().levels(high, low, steps),
            Space::Exponential => LogSnr {}.levels(high, low, steps),
            Space::Beta => Beta::default().levels(high, low, steps),
        };
        if self.flow.is_some() {
            let levels: Vec<f64> = levels.iter().map(|s| single(s / (1. + s))).collect();
            return Ok(Visit { timesteps: self.of_flow(&levels), levels, end: first });
        }
        let told = levels.iter().map(|&level| match self.timestep {
            Timestep::Exact => self.between(level),
            Timestep::Rounded => self.between(level).round_ties_even(),
            Timestep::Truncated => self.between(level).trunc(),
            Timestep::LogSigma => level.ln() / 4.,
        });
        Ok(Visit { timesteps: told.collect(), levels, end: first })
    }

    fn flow(&self, flow: FlowLevels, steps: usize) -> Visit {
        let (n, total) = (steps as f64, self.spacing.total as f64);
        let fall = 1. - 1. / total; // from 1 to 1/total in n strides
        let shift = |s: f64| single(flow.shift * s / (1. + (flow.shift - 1.) * s));
        let levels: Vec<f64> = match flow.from_noise {
            true => (0..steps).map(|i| shift(1. - fall * i as f64 / n).min(single(1. - 1e-6))).collect(),
            false => (1..=steps).rev().map(|i| shift(fall * i as f64 / n)).collect(),
        };
        let end = if self.end == End::First { self.sigmas[0] } else { 0. };
        Visit { timesteps: self.of_flow(&levels), levels, end }
    }

    fn of_entries(&self, timesteps: &[f64], levels: &[f64]) -> Vec<f64> {
        match self.timestep {
            Timestep::LogSigma => levels.iter().map(|level| level.ln() / 4.).collect(),
            _ => timesteps.to_vec(),
        }
    }

    fn of_flow(&self, levels: &[f64]) -> Vec<f64> {
        levels.iter().map(|s| (s * self.spacing.total as f64).trunc()).collect()
    }

    /// The timestep of a level, on the straight line in the logarithm between entries.
    fn between(&self, level: f64) -> f64 {
        let below = self.sigmas.iter().rposition(|&sigma| level >= sigma).unwrap_or(0).min(self.sigmas.len() - 2);
        let (low, high) = (self.sigmas[below].ln(), self.sigmas[below + 1].ln());
        below as f64 + ((low - level.ln()) / (low - high)).clamp(0., 1.)
    }
}

/// As diffusers keeps its levels, in single precision: near pure noise 1 - s depends on it.
fn single(s: f64) -> f64 {
    f64::from(s as f32)
}
