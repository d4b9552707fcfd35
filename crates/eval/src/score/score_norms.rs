//! How steep the density is at a sample, at many noise levels: the logarithms of sigma_t |score(alpha x, t)|.
//!
//! A Gaussian with full covariance is fitted to those of training data; the score is its energy. The norms are blind to
//! where the density is low, and see where its shape is not that of the data. \[Mahmood20, there with a mixture\]
//!
//! Where it fails: on what differs from the data in its meaning alone, not in texture, stroke or smoothness at any scale.

use super::{Detector, Gaussian, Rule, check_levels, geometric, rows, times};
use candle_core::{Result, Tensor, bail};
use langevin_dynamics::Denoiser;
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::norm_per_sample;
use serde::{Deserialize, Serialize};

/// The norms of the score.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreNorms {
    /// Noise levels sigma / alpha, in units of the data.
    pub levels: Vec<f64>,
    /// By how much the variances are enlarged, relatively.
    pub ridge: f64,
}

impl Default for ScoreNorms {
    fn default() -> Self {
        Self { levels: geometric(0.05, 5., 10), ridge: 1e-3 }
    }
}

impl Named for ScoreNorms {
    const NAME: &'static str = "score-norms";
    const ABOUT: &'static str = "norms of the score at many noise levels, under a Gaussian fit (MSMA) [Mahmood20]";
}

impl Detector for ScoreNorms {
    fn check(&self) -> Result<()> {
        check_ridge(self.ridge)?;
        check_levels(&self.levels)
    }

    fn evaluations(&self) -> usize {
        self.levels.len()
    }

    fn levels(&mut self) -> &mut Vec<f64> {
        &mut self.levels
    }

    fn features(&self, m: &dyn Denoiser, x: &Tensor, _: &mut Noise) -> Result<Vec<Vec<f64>>> {
        let at = |&t: &f64| {
            let marginal = m.process().marginal(t);
            let score = m.score(&x.affine(marginal.alpha, 0.)?, &[t])?.detach();
            let norms = norm_per_sample(&score)?;
            Ok(norms.into_iter().map(|norm| (marginal.sigma * norm).ln()).collect())
        };
        let columns = times(m.process(), &self.levels)?.iter().map(at).collect::<Result<Vec<_>>>()?;
        Ok(rows(&columns, x.dim(0)?))
    }

    fn fit(&self, rows: &[Vec<f64>]) -> Result<Rule> {
        let gaussian = Gaussian::fit(rows, self.ridge)?;
        Ok(Box::new(move |row| gaussian.energy(row)))
    }
}

/// Errors unless it is a number of at least 0.
pub(super) fn check_ridge(ridge: f64) -> Result<()> {
    if !(ridge.is_finite() && ridge >= 0.) {
        bail!("ridge is {ridge}; it must be a number of at least 0");
    }
    Ok(())
}
