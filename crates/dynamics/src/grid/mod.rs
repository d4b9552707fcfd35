//! The times that a sampler visits: from the prior down to clean data.
//!
//! Continuous grids (karras, log-snr, beta, uniform) fit any process; leading, trailing and linspace pick entries of a table
//! as diffusers does, and have an analogue for continuous processes.

mod beta;
mod karras;
mod leading;
mod linspace;
mod log_snr;
mod trailing;
mod uniform;

pub use beta::Beta;
pub use karras::Karras;
pub use leading::Leading;
pub use linspace::Linspace;
pub use log_snr::LogSnr;
pub use trailing::Trailing;
pub use uniform::Uniform;

use crate::Process;
use crate::denoiser::reaches_pure_noise;
use candle_core::{Result, bail};
use langevin_ops::registry;

/// A spacing of times.
pub trait Grid: Send + Sync + std::fmt::Debug {
    /// The `steps` >= 1 falling times in the span at which the model is asked, the most noisy first.
    fn spaced(&self, process: &dyn Process, steps: usize) -> Vec<f64>;

    /// Errors, naming the option, if the options make no grid.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// `steps + 1` falling times, from the end of the span (the prior) to 0 (clean data).
    ///
    /// Errors if there are no steps, or more than the grid can tell apart.
    fn times(&self, process: &dyn Process, steps: usize) -> Result<Vec<f64>> {
        self.check()?;
        if steps == 0 {
            bail!("0 steps: a sampler needs at least 1");
        }
        let mut times = self.spaced(process, steps);
        times.push(0.);
        if let Some(pair) = times.windows(2).find(|pair| pair[0].is_nan() || pair[0] <= pair[1]) {
            bail!(
                "{steps} steps are too many for the grid {self:?} of {process:?}: times {} and {} do not fall; \
                 take fewer steps or another grid",
                pair[0],
                pair[1]
            );
        }
        Ok(times)
    }
}

registry! {
    /// Any grid, as configurations name it.
    pub enum AnyGrid: Grid = "grid" { Karras, LogSnr, Beta, Uniform, Leading, Trailing, Linspace } check Grid::check
}

/// `n` numbers from `from` to `to`, both with it exactly; `from` alone for one.
fn line(from: f64, to: f64, n: usize) -> impl Iterator<Item = f64> {
    (0..n).map(move |i| from * (1. - part(i, n)) + to * part(i, n))
}

/// i/(n-1), 0 for n = 1.
fn part(i: usize, n: usize) -> f64 {
    i as f64 / (n.max(2) - 1) as f64
}

/// sigma/alpha at the data end and at the prior end. It has no end where alpha goes to 0: such a process is spaced
/// from 1000, where nothing of the data is seen, and its first step goes there from pure noise.
fn noise_ratios(process: &dyn Process) -> (f64, f64) {
    let (low, high) = process.span();
    let ratio = |t: f64| (-0.5 * process.log_snr(t)).exp();
    (ratio(low), if reaches_pure_noise(process) { 1000. } else { ratio(high) })
}

/// The times of these log SNRs, but the first at the very end of the span.
fn at_log_snrs(process: &dyn Process, log_snrs: impl Iterator<Item = f64>) -> Vec<f64> {
    let end = process.span().1;
    log_snrs.enumerate().map(|(i, log_snr)| if i == 0 { end } else { process.t_at(log_snr) }).collect()
}
