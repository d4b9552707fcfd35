//! logit(u) normal, with u the part of the span: t = low + (high - low) / (1 + exp(-mean - std n)). \[Esser24, eq. 19\]

use super::{Level, normal_quantile};
use candle_core::{Result, bail};
use langevin_dynamics::Process;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// The times of Stable Diffusion 3: more of the middle, where flow matching is hard.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogitNormal {
    /// Mean of the logit; above 0 trains more noise.
    pub mean: f64,
    /// Its standard deviation.
    pub std: f64,
}

impl Default for LogitNormal {
    fn default() -> Self {
        Self { mean: 0., std: 1. }
    }
}

impl Named for LogitNormal {
    const NAME: &'static str = "logit-normal";
    const ABOUT: &'static str = "the logit of t normal, for flow matching [Esser24]";
}

impl Level for LogitNormal {
    fn time(&self, process: &dyn Process, u: f64) -> f64 {
        let (low, high) = process.span();
        low + (high - low) / (1. + (-self.mean - self.std * normal_quantile(u)).exp())
    }

    fn check(&self) -> Result<()> {
        if !(self.mean.is_finite() && self.std.is_finite() && self.std >= 0.) {
            bail!("mean {} and std {} must be finite numbers, std 0 or above", self.mean, self.std);
        }
        Ok(())
    }
}
