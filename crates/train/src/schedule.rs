//! The learning rate at step n: linear warm-up, then constant or along a cosine to 0.
//! lr(n) = lr min(1, (n+1)/warmup) * (1 + cos(pi (n-warmup)/(steps-warmup))) / 2. \[Loshchilov17\]

use serde::{Deserialize, Serialize};

/// What the learning rate does after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// It stays.
    #[default]
    Constant,
    /// It falls to 0 at the last step along half a cosine.
    Cosine,
}

/// The learning rate of each step.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Highest learning rate.
    pub lr: f64,
    /// Steps over which it grows from lr / warmup to lr.
    pub warmup: u64,
    /// What comes after.
    pub decay: Decay,
    /// Length of the run.
    pub steps: u64,
}

impl Schedule {
    /// The learning rate of step `n`, from 0.
    pub fn at(&self, n: u64) -> f64 {
        if n < self.warmup {
            return self.lr * (n + 1) as f64 / self.warmup as f64;
        }
        match self.decay {
            Decay::Constant => self.lr,
            Decay::Cosine => {
                let part = (n - self.warmup) as f64 / self.steps.saturating_sub(self.warmup).max(1) as f64;
                self.lr * 0.5 * (1. + (std::f64::consts::PI * part.min(1.)).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_then_stays_or_falls() {
        let constant = Schedule { lr: 2., warmup: 4, decay: Decay::Constant, steps: 14 };
        assert_eq!((0..6).map(|n| constant.at(n)).collect::<Vec<_>>(), [0.5, 1., 1.5, 2., 2., 2.]);
        let cosine = Schedule { decay: Decay::Cosine, ..constant };
        assert_eq!(cosine.at(4), 2.);
        assert!((cosine.at(9) - 1.).abs() < 1e-15);
        assert!((cosine.at(13) - (1. - (0.1 * std::f64::consts::PI).cos())).abs() < 1e-15); // the last step still moves
        assert_eq!(cosine.at(14), 0.);
        assert_eq!(Schedule { warmup: 0, ..constant }.at(0), 2.);
    }
}
