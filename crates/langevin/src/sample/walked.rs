//! What the chains of MCMC did while samples were drawn: told apart by noise levels, or by the rungs of a ladder.

use langevin_dynamics::ladder::Visit;
use langevin_dynamics::sampler::{AtLevel, Report};
use serde_json::{Value, json};

/// What the chains of MCMC did.
#[derive(Clone, Debug)]
pub enum Walked {
    /// At each noise level.
    Levels(Report),
    /// At each rung of a ladder that leads to a density, by its name; the density alone where there is no ladder.
    Rungs(Vec<(String, Visit)>),
}

impl Walked {
    pub(super) fn visits(&mut self) -> Box<dyn Iterator<Item = &mut Visit> + '_> {
        match self {
            Self::Levels(report) => Box::new(report.levels.iter_mut().map(|level| &mut level.visit)),
            Self::Rungs(rungs) => Box::new(rungs.iter_mut().map(|(_, visit)| visit)),
        }
    }

    /// The chains of another batch, which went the same way, beside these.
    pub(super) fn append(&mut self, other: Self) {
        match (self, other) {
            (Self::Levels(own), Self::Levels(other)) => own.append(other),
            (Self::Rungs(own), Self::Rungs(other)) => {
                own.iter_mut().zip(other).for_each(|((_, own), (_, other))| own.append(other));
            }
            _ => {} // one drawing has one kind of chains
        }
    }
}

/// Acceptance below this part is no sampling.
const STUCK: f64 = 0.05;

/// Notes at which levels or rungs chains hardly moved, report or none.
pub fn warn(walked: &Walked) {
    match walked {
        Walked::Levels(report) => {
            let visits = report.levels.iter().map(|level| &level.visit).collect::<Vec<_>>();
            let places = |first: usize, last: usize| {
                let [first, last] = [first, last].map(|i| report.levels[i].noise);
                format!("{} noise levels, sigma {first:.4} to {last:.4}", visits.len())
            };
            let more = "take a smaller step of the kernel, or more sampler.steps (--report shows each level)";
            stuck(&visits, places, more);
            let more = "take more sampler.steps (of a model with a score alone, swaps are refused too where its line \
                        integral is not known well enough)";
            apart(&visits, "noise levels", more);
        }
        Walked::Rungs(rungs) => {
            let visits = rungs.iter().map(|(_, visit)| visit).collect::<Vec<_>>();
            let places =
                |first: usize, last: usize| format!("{} rungs, {} to {}", visits.len(), rungs[first].0, rungs[last].0);
            stuck(&visits, places, "take a smaller step of the kernel, or more steps (--report shows each rung)");
            apart(&visits, "rungs", "take more sampler.rungs");
        }
    }
}

/// Notes where proposals were hardly accepted: of all `places`, between the first and the last of those.
fn stuck(visits: &[&Visit], places: impl Fn(usize, usize) -> String, more: &str) {
    let stuck: Vec<usize> = (0..visits.len()).filter(|&i| visits[i].stats.acceptance() < STUCK).collect();
    if let (Some(&first), Some(&last)) = (stuck.first(), stuck.last()) {
        crate::note!(
            "MCMC accepted less than {:.0}% of its proposals at {} of {}: what is drawn hardly moved there; {more}",
            100. * STUCK,
            stuck.len(),
            places(first, last)
        );
    }
}

/// Notes where replicas hardly swapped.
fn apart(visits: &[&Visit], places: &str, more: &str) {
    let swaps: Vec<f64> = visits.iter().filter_map(|visit| visit.swaps.map(|swaps| swaps.acceptance())).collect();
    let few = swaps.iter().filter(|rate| **rate < STUCK).count();
    if few > 0 {
        crate::note!(
            "replica exchange swapped less than {:.0}% at {few} of {} {places}: neighbours are too far apart for samples of \
             so many numbers, {more}",
            100. * STUCK,
            swaps.len()
        );
    }
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
