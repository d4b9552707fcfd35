//! What an expression makes of numbers of its models: its energy with the derivatives, and its precision at pure noise.

use super::Expression;

/// A number of each model.
pub(super) type Numbers<'a> = &'a dyn Fn(&str) -> f64;

impl Expression {
    /// The energy, from those of the models.
    pub(super) fn energy(&self, energies: Numbers) -> f64 {
        match self {
            Self::Model(name) => energies(name),
            Self::Weighted(w, part) => w * part.energy(energies),
            Self::Product(parts) => parts.iter().map(|part| part.energy(energies)).sum(),
            Self::Mixture(parts) => {
                let logs = logs(parts, energies);
                let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                -top - logs.iter().map(|log| (log - top).exp()).sum::<f64>().ln()
            }
        }
    }

    /// Gives `add` the name of each model, and `share` times dE/dE_k: the weight of its derivatives in those of the energy.
    pub(super) fn shares(&self, energies: Numbers, share: f64, add: &mut dyn FnMut(&str, f64)) {
        match self {
            Self::Model(name) => add(name, share),
            Self::Weighted(w, part) => part.shares(energies, w * share, add),
            Self::Product(parts) => parts.iter().for_each(|part| part.shares(energies, share, add)),
            Self::Mixture(parts) => {
                let energy = self.energy(energies);
                for (log, (_, part)) in logs(parts, energies).iter().zip(parts) {
                    part.shares(energies, share * (log + energy).exp(), add);
                }
            }
        }
    }

    /// The precision at the prior end, from those of the models: weights add up, and the widest of a mixture counts.
    pub(super) fn precision(&self, precisions: Numbers) -> f64 {
        let of = |part: &Self| part.precision(precisions);
        match self {
            Self::Model(name) => precisions(name),
            Self::Weighted(w, part) => w * of(part),
            Self::Product(parts) => parts.iter().map(of).sum(),
            Self::Mixture(parts) => parts.iter().map(|(_, part)| of(part)).fold(f64::INFINITY, f64::min),
        }
    }

    /// By how many times the precisions of the parts of a mixture in it differ at most.
    pub(super) fn unevenness(&self, precisions: Numbers) -> f64 {
        let of = |part: &Self| part.unevenness(precisions);
        match self {
            Self::Model(_) => 1.,
            Self::Weighted(_, part) => of(part),
            Self::Product(parts) => parts.iter().map(of).fold(1., f64::max),
            Self::Mixture(parts) => {
                let widest = self.precision(precisions);
                parts.iter().map(|(_, part)| of(part).max(part.precision(precisions) / widest)).fold(1., f64::max)
            }
        }
    }
}

/// ln(ratio) - E of each part of a mixture.
fn logs(parts: &[(Option<f64>, Expression)], energies: Numbers) -> Vec<f64> {
    parts.iter().map(|(ratio, part)| ratio.unwrap_or(1.).ln() - part.energy(energies)).collect()
}
