//! Which scores find what does not belong, as options.

use clap::Args;
use langevin::scoring;

/// Which scores, and what they are fitted to
#[derive(Args, Clone, Debug)]
pub struct Scores {
    /// Scores to use (see `langevin list scores`) [default: all that the model can give, but for likelihood, which is slow]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub scores: Vec<String>,
    /// Noise levels sigma/alpha of every score, in units of the data, such as 0.2,1 [default: each score's own]
    #[arg(long, value_name = "LEVELS", value_delimiter = ',')]
    pub levels: Vec<f64>,
    /// Data that the scores are fitted to [default: what the run was trained on]
    #[arg(long, value_name = "SPEC")]
    pub fit: Option<String>,
    /// Samples that the scores are fitted to [default: 1000, but half of the data where held-out samples of detect are of the
    /// same]
    #[arg(long, value_name = "N")]
    pub fit_samples: Option<usize>,
    /// Class that the model is told of every sample, by its name or number; data that belong are then those of that class,
    /// where they have labels [default: none, which takes a model without classes or one trained with train.label_dropout]
    #[arg(long, value_name = "CLASS|none")]
    pub class: Option<String>,
    /// Samples at a time
    #[arg(long, default_value_t = 100)]
    pub batch: usize,
}

impl Scores {
    /// What they ask for.
    pub fn asked(&self) -> scoring::Scoring {
        let Self { scores, levels, fit, fit_samples, class, batch } = self.clone();
        scoring::Scoring { scores, levels, fit, fit_samples, class, batch }
    }
}
