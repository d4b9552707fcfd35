//! Scores of a sample that are higher the less it belongs to the data of a model.
//!
//! A [`Detector`] reads some numbers of each sample off the model; the [`Rule`] that it fits to those of training data makes
//! one of them. None is good at everything: each says where it is known to fail.

mod energy;
mod likelihood;
mod reconstruction;
mod rule;
mod score_norms;
mod typicality;

pub use energy::Energy;
pub use likelihood::Likelihood;
pub use reconstruction::Reconstruction;
pub use rule::{Gaussian, Rule, mean_z};
pub use score_norms::ScoreNorms;
pub use typicality::{Of, Typicality};

use candle_core::{Result, Tensor, bail};
use langevin_dynamics::{Denoiser, NoisyEnergy, Process};
use langevin_ops::noise::Noise;
use langevin_ops::registry;

/// A way to tell what does not belong to the data of a model.
pub trait Detector: Send + Sync + std::fmt::Debug {
    /// Errors, naming the option, if one is out of its range.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Whether it asks for values of an energy, which a plain denoiser has not.
    fn needs_energy(&self) -> bool {
        false
    }

    /// Whether it takes so long that it is used only where it is named.
    fn slow(&self) -> bool {
        false
    }

    /// About how often it asks the model about a sample: what tells how long it takes beside others.
    fn evaluations(&self) -> usize;

    /// The noise levels sigma / alpha at which it asks the model, to change them.
    fn levels(&mut self) -> &mut Vec<f64>;

    /// What it reads off the model about each sample of clean data `x` `[B, ...]`: a row of numbers each. `z` has `B`
    /// streams.
    fn features(&self, m: &dyn Denoiser, x: &Tensor, z: &mut Noise) -> Result<Vec<Vec<f64>>>;

    /// As [`features`](Self::features); on the way `watch` is told which part of it lies behind, where it is long.
    fn features_watched(
        &self,
        m: &dyn Denoiser,
        x: &Tensor,
        z: &mut Noise,
        _watch: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Vec<Vec<f64>>> {
        self.features(m, x, z)
    }

    /// What makes one number of a row, higher the less its sample belongs, fitted to the rows of training data.
    fn fit(&self, rows: &[Vec<f64>]) -> Result<Rule>;
}

registry! {
    /// Any detector, as command lines name it.
    pub enum AnyDetector: Detector = "score" { Energy, ScoreNorms, Typicality, Reconstruction, Likelihood } check Detector::check
}

/// The time of a noise level sigma / alpha. Errors if the process does not reach it.
pub fn time(process: &dyn Process, level: f64) -> Result<f64> {
    let t = process.t_at(-2. * level.ln());
    let of = |t: f64| process.marginal(t).sigma / process.marginal(t).alpha;
    let off = (of(t) / level).ln().abs();
    if off.is_nan() || off > 0.05 {
        let (low, high) = process.span();
        bail!("levels: {level} is no noise level of the process, which has {:.2e} to {:.2e}", of(low), of(high));
    }
    Ok(t)
}

/// The times of noise levels.
pub fn times(process: &dyn Process, levels: &[f64]) -> Result<Vec<f64>> {
    levels.iter().map(|&level| time(process, level)).collect()
}

/// Errors unless there are levels, each a number above 0.
fn check_levels(levels: &[f64]) -> Result<()> {
    if let Some(bad) = levels.iter().find(|level| !(level.is_finite() && **level > 0.)) {
        bail!("levels: {bad} is no noise level; give numbers above 0, sigma / alpha in units of the data");
    }
    if levels.is_empty() || levels.len() > 1000 {
        bail!("levels: {} of them; give 1 to 1000", levels.len());
    }
    Ok(())
}

/// `n` levels from `low` to `high`, evenly on a logarithmic scale.
fn geometric(low: f64, high: f64, n: usize) -> Vec<f64> {
    let at = |i: usize| low * (high / low).powf(i as f64 / (n.max(2) - 1) as f64);
    // to three digits, so that they can be read where they are printed
    (0..n).map(|i| format!("{:.2e}", at(i)).parse().unwrap_or(at(i))).collect()
}

/// The energy of a model, or why there is none.
fn energy_of(m: &dyn Denoiser) -> Result<&dyn NoisyEnergy> {
    match m.noisy_energy() {
        Some(energy) => Ok(energy),
        None => bail!(
            "this model has a score but no energy: its output is not the gradient of a scalar; use score-norms or \
             reconstruction, or train with model.head = \"energy\""
        ),
    }
}

/// Columns, one number a sample each, as a row a sample.
fn rows(columns: &[Vec<f64>], samples: usize) -> Vec<Vec<f64>> {
    (0..samples).map(|i| columns.iter().filter_map(|column| column.get(i).copied()).collect()).collect()
}
