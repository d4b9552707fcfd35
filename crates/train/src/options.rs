//! The numbers of a run.

use crate::schedule::{Decay, Schedule};
use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How the loss of an energy's score is differentiated in the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecondOrder {
    /// By gradients of gradients.
    #[default]
    Exact,
    /// As a central difference of first-order gradients: slower, in less memory, good to about 1%.
    FiniteDifference,
}

/// How long, how much at a time, how fast, and what is kept how often.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// Updates of the weights.
    pub steps: u64,
    /// The first so many of them learn the output of the model that the run starts from. Then training begins anew from
    /// there: the learning rate warms up again, and the optimiser forgets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distil: Option<u64>,
    /// Samples in a batch.
    pub batch: usize,
    /// Batches whose gradients are averaged for one update.
    pub accumulate: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// Steps over which the learning rate grows to that.
    pub warmup: u64,
    /// What the learning rate does then: "constant" or "cosine".
    pub decay: Decay,
    /// Largest global norm of the gradient; a longer one is shortened to it. 0: as it is.
    pub clip: f64,
    /// Probability with which a sample's class is hidden, so that a model of classes learns the data without them too: its
    /// null class. \[HoSalimans22\]
    #[serde(skip_serializing_if = "never")]
    pub label_dropout: f64,
    /// How the gradient of an energy's score is taken: "exact" or "finite-difference".
    pub second_order: SecondOrder,
    /// Compute the inside of the network's blocks again in the backward pass instead of keeping it: slower, in less memory.
    pub recompute: bool,
    /// All randomness of the run comes from it.
    pub seed: u64,
    /// Steps between states to go on from.
    pub checkpoint_every: u64,
    /// Steps between snapshots of the averaged weights; 0: none.
    pub snapshot_every: u64,
    /// Steps between pictures of samples; 0: none but the last.
    pub sample_every: u64,
    /// Steps between lines of the log.
    pub log_every: u64,
}

/// The keys that may be others when a run goes on.
const MAY_CHANGE: [&str; 7] =
    ["steps", "second_order", "recompute", "checkpoint_every", "snapshot_every", "sample_every", "log_every"];

/// For serde: what is never done is not written.
fn never(probability: &f64) -> bool {
    *probability == 0.
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            steps: 10_000,
            distil: None,
            batch: 64,
            accumulate: 1,
            lr: 1e-3,
            warmup: 100,
            decay: Decay::Cosine,
            clip: 1.,
            label_dropout: 0.,
            second_order: SecondOrder::Exact,
            recompute: false,
            seed: 0,
            checkpoint_every: 1000,
            snapshot_every: 1000,
            sample_every: 0,
            log_every: 50,
        }
    }
}

impl TrainOptions {
    /// Errors, naming the key, if a number makes no sense.
    pub fn check(&self) -> Result<()> {
        for (key, value, most) in [
            ("steps", self.steps, u32::MAX as u64),
            ("batch", self.batch as u64, 1 << 20),
            ("accumulate", self.accumulate as u64, 1 << 16),
            ("checkpoint_every", self.checkpoint_every, u64::MAX),
            ("log_every", self.log_every, u64::MAX),
        ] {
            if value == 0 || value > most {
                bail!("train.{key} is {value}; it must be from 1 to {most}");
            }
        }
        if self.distil() > self.steps {
            bail!("train.distil is {}; it must be at most train.steps, {}", self.distil(), self.steps);
        }
        if !(self.lr > 0. && self.lr.is_finite()) {
            bail!("train.lr is {}; it must be a finite number above 0", self.lr);
        }
        if !(self.clip >= 0. && self.clip.is_finite()) {
            bail!("train.clip is {}; it must be a finite number, 0 for no clipping", self.clip);
        }
        if !(0. ..1.).contains(&self.label_dropout) {
            bail!("train.label_dropout is {}; it must be a probability from 0 to below 1", self.label_dropout);
        }
        Ok(())
    }

    /// What must be the same for a run to go on, as JSON: all keys but those that may change.
    pub(crate) fn identity(&self) -> Value {
        let options = Self { distil: self.distil.filter(|&steps| steps > 0), ..self.clone() };
        let mut all = serde_json::to_value(options).unwrap_or_default();
        if let Value::Object(all) = &mut all {
            all.retain(|key, _| !MAY_CHANGE.contains(&key.as_str()));
        }
        all
    }

    /// How many steps learn another model's output.
    pub fn distil(&self) -> u64 {
        self.distil.unwrap_or(0)
    }

    /// The learning rate of step `n`, from 0: warm-up and decay once for the distillation and once for what follows.
    pub fn lr_at(&self, n: u64) -> f64 {
        let (first, steps) = if n < self.distil() { (0, self.distil()) } else { (self.distil(), self.steps) };
        let Self { lr, warmup, decay, .. } = *self;
        Schedule { lr, warmup, decay, steps: steps - first }.at(n - first)
    }
}
