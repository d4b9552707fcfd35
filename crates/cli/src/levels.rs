//! What MCMC did at each noise level, as a table.

use anyhow::Result;
use langevin::dynamics::ladder::Visit;
use langevin::dynamics::mcmc::diagnostics::{LEAST, Trace};
use langevin::dynamics::sampler::AtLevel;
use langevin::sample::Walked;

/// Prints the table: noisiest level first, or rung by rung.
pub fn show(walked: &Walked) -> Result<()> {
    let (head, visits): (_, Vec<(String, &Visit)>) = match walked {
        Walked::Levels(report) => {
            let level = |(i, level): (usize, &AtLevel)| format!("{:>5}  {:>8.4}", i + 1, level.noise);
            let names = report.levels.iter().enumerate().map(level);
            ("level     sigma".to_string(), names.zip(report.levels.iter().map(|level| &level.visit)).collect())
        }
        Walked::Rungs(rungs) => {
            let width = rungs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
            (
                format!("{:<width$}", "rung"),
                rungs.iter().map(|(name, visit)| (format!("{name:<width$}"), visit)).collect(),
            )
        }
    };
    let swaps = visits.iter().any(|(_, visit)| visit.swaps.is_some());
    let particles = visits.iter().any(|(_, visit)| visit.particles.is_some());
    let last = [(swaps, "  swapped"), (particles, "  particles")];
    let last: String = last.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
    crate::say!("{head}  accepted  diverged  lost  error of dE       ESS      of   R-hat{last}")?;
    for (name, Visit { stats, swaps, particles, trace }) in &visits {
        let swaps = swaps.map(|swaps| format!("    {:.3}", swaps.acceptance())).unwrap_or_default();
        let particles = particles.map(|share| format!("      {share:.3}")).unwrap_or_default();
        crate::say!(
            "{name}  {:>8.3}  {:>8}  {:>4}  {:>11.1e}  {:>8}  {:>6}  {:>6}{swaps}{particles}",
            stats.acceptance(),
            stats.diverged,
            stats.nan,
            stats.mean_error(),
            if stuck(trace) { "stuck".into() } else { known(trace.ess(), 0) },
            trace.chains() * trace.steps(),
            known(trace.r_hat(), 3),
        )?;
    }
    if matches!(walked, Walked::Levels(_)) && visits.iter().any(|(_, visit)| visit.trace.steps() < LEAST) {
        crate::talk!(
            "ESS and R-hat take {LEAST} steps at a level: sampler.steps_per_level={LEAST}, or \
             sampler.corrector_steps={LEAST} of pc"
        );
    }
    Ok(())
}

/// Whether no chain of a level ever moved.
fn stuck(trace: &Trace) -> bool {
    trace.chains() > 0 && trace.stuck() == trace.chains()
}

/// A number with so many decimals, where there is one: too few steps tell neither ESS nor R-hat.
fn known(v: f64, decimals: usize) -> String {
    if v.is_nan() { "-".into() } else { format!("{v:.decimals$}") }
}
