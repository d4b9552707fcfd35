//! Conformal p-values: how odd a score is among those of held-out data, (1 + #{held out >= score}) / (n + 1).
//!
//! For a sample that comes from where the held-out data come from, p <= alpha happens with a chance of at most alpha, whatever
//! the score and its distribution. \[Vovk05; Bates21\]

use candle_core::{Result, bail};

/// Scores of held-out data, in order.
#[derive(Clone, Debug)]
pub struct HeldOut(Vec<f64>);

impl HeldOut {
    /// Errors if there are none, or one is not a number.
    pub fn new(mut scores: Vec<f64>) -> Result<Self> {
        if scores.is_empty() || scores.iter().any(|score| score.is_nan()) {
            bail!("p-values: the {} scores of held-out data must be numbers, at least one", scores.len());
        }
        scores.sort_by(f64::total_cmp);
        Ok(Self(scores))
    }

    /// The p-value of a score that is higher the less its sample belongs.
    pub fn p_value(&self, score: f64) -> f64 {
        let below = self.0.partition_point(|&held_out| held_out < score);
        (1 + self.0.len() - below) as f64 / (self.0.len() + 1) as f64
    }
}
