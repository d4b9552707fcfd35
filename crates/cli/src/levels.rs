//! What MCMC did at each noise level, as a table for people and as JSON.

use anyhow::Result;
use langevin::dynamics::ladder::Visit;
use langevin::dynamics::mcmc::diagnostics::{LEAST, Trace};
use langevin::dynamics::sampler::{AtLevel, Report};
use langevin::sample::Walked;
use serde_json::{Value, json};

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

/// Acceptance below this part is no sampling.
const STUCK: f64 = 0.05;

/// Says on stderr at which levels chains hardly moved, report or none.
pub fn warn(walked: &Walked) {
    let Walked::Levels(report) = walked else { return };
    let stuck: Vec<&AtLevel> = report.levels.iter().filter(|level| level.visit.stats.acceptance() < STUCK).collect();
    if let (Some(first), Some(last)) = (stuck.first(), stuck.last()) {
        crate::talk!(
            "MCMC accepted less than {:.0}% of its proposals at {} of {} noise levels, sigma {:.4} to {:.4}: what \
             is drawn hardly moved there; take a smaller step of the kernel, or more sampler.steps (--report shows \
             each level)",
            100. * STUCK,
            stuck.len(),
            report.levels.len(),
            first.noise,
            last.noise
        );
    }
    let swaps: Vec<f64> = report.levels.iter().filter_map(|level| level.visit.swaps.map(|s| s.acceptance())).collect();
    let few = swaps.iter().filter(|rate| **rate < STUCK).count();
    if few > 0 {
        crate::talk!(
            "replica exchange swapped less than {:.0}% at {few} of {} noise levels: neighbours are too far apart \
             for samples of so many numbers, take more sampler.steps (of a model with a score alone, swaps are \
             refused too where its line integral is not known well enough)",
            100. * STUCK,
            swaps.len()
        );
    }
}

/// A number with so many decimals, where there is one: too few steps tell neither ESS nor R-hat.
fn known(v: f64, decimals: usize) -> String {
    if v.is_nan() { "-".into() } else { format!("{v:.decimals$}") }
}

/// A sum over all chains to nine digits: the last ones depend on the order in which they were added.
fn summed(v: f64) -> f64 {
    format!("{v:.8e}").parse().unwrap_or(v)
}

/// The same as JSON: an array with an object a level; `stuck` counts the chains that never moved; null for what cannot be
/// said, and for an infinite R-hat.
pub fn json(walked: &Walked) -> Value {
    match walked {
        Walked::Levels(report) => levels(report),
        Walked::Rungs(rungs) => rungs.iter().map(|(name, visit)| with(json!({ "rung": name }), visit)).collect(),
    }
}

fn levels(Report { levels }: &Report) -> Value {
    levels.iter().map(|AtLevel { t, noise, visit }| with(json!({ "t": t, "sigma": noise }), visit)).collect()
}

/// `place` with what chains did there.
fn with(mut place: Value, Visit { stats, swaps, particles, trace }: &Visit) -> Value {
    let Value::Object(did) = json!({
        "chains": trace.chains(), "steps": trace.steps(),
        "acceptance": stats.acceptance(), "diverged": stats.diverged, "lost": stats.nan,
        "energy_error": summed(stats.mean_error()), "ess": trace.ess(), "ess_bulk": trace.ess_bulk(),
        "ess_tail": trace.ess_tail(), "r_hat": trace.r_hat(), "stuck": trace.stuck(),
        "swaps": swaps.map(|swaps| swaps.acceptance()), "particles": particles,
    }) else {
        return place;
    };
    if let Value::Object(place) = &mut place {
        place.extend(did);
    }
    place
}
