//! What MCMC did at each noise level, as a table for people and as JSON.

use anyhow::Result;
use langevin_dynamics::sampler::{AtLevel, Report};
use serde_json::{Value, json};

/// Prints the table, noisiest level first.
pub fn show(report: &Report) -> Result<()> {
    let swaps = report.levels.iter().any(|level| level.swaps.is_some());
    let last = if swaps { "  swapped" } else { "" };
    crate::say!("level     sigma  accepted  diverged  lost  error of dE       ESS      of   R-hat{last}")?;
    for (i, level) in report.levels.iter().enumerate() {
        let AtLevel { noise, stats, swaps, trace, .. } = level;
        let swaps = swaps.map(|swaps| format!("    {:.3}", swaps.acceptance())).unwrap_or_default();
        crate::say!(
            "{:>5}  {noise:>8.4}  {:>8.3}  {:>8}  {:>4}  {:>11.1e}  {:>8.0}  {:>6}  {:>6.3}{swaps}",
            i + 1,
            stats.acceptance(),
            stats.diverged,
            stats.nan,
            stats.mean_error(),
            trace.ess(),
            trace.chains() * trace.steps(),
            trace.r_hat(),
        )?;
    }
    Ok(())
}

/// The same as JSON: an array with an object a level; null for what cannot be said.
pub fn json(report: &Report) -> Value {
    let one = |level: &AtLevel| {
        let AtLevel { t, noise, stats, swaps, particles, trace } = level;
        json!({
            "t": t, "sigma": noise, "chains": trace.chains(), "steps": trace.steps(),
            "acceptance": stats.acceptance(), "diverged": stats.diverged, "lost": stats.nan,
            "energy_error": stats.mean_error(), "ess": trace.ess(), "r_hat": trace.r_hat(),
            "swaps": swaps.map(|swaps| swaps.acceptance()), "particles": particles,
        })
    };
    report.levels.iter().map(one).collect()
}
