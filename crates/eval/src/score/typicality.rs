//! How far the energy of a sample is from what is usual: |E - mean E| / std, of training data. \[Nalisnick19, one sample\]
//!
//! Data do not lie where their density is highest, but where it is as high as it typically is: a sample of less energy than
//! that does not belong either. What is typical is the energy, or the Gaussian energy of the norms of the score.
//!
//! Where it fails: on what has just the energy of the data.

use super::{Detector, Energy, Rule, ScoreNorms};
use candle_core::{Result, Tensor, bail};
use langevin_dynamics::Denoiser;
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// What is typical.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Of {
    /// The energy of the model.
    #[default]
    Energy,
    /// That of the Gaussian fitted to the norms of its score.
    ScoreNorms,
}

/// The distance from what is typical.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Typicality {
    /// Whose typical value it is.
    pub of: Of,
    /// Noise levels sigma / alpha, in units of the data.
    pub levels: Vec<f64>,
    /// With `of = "score-norms"`, by how much their variances are enlarged.
    pub ridge: f64,
}

impl Default for Typicality {
    fn default() -> Self {
        Self { of: Of::Energy, levels: Energy::default().levels, ridge: ScoreNorms::default().ridge }
    }
}

impl Named for Typicality {
    const NAME: &'static str = "typicality";
    const ABOUT: &'static str = "|E - its mean over training data|: less energy is odd too [Nalisnick19]";
}

impl Typicality {
    /// The detector whose score is compared with its typical value.
    fn base(&self) -> Box<dyn Detector> {
        match self.of {
            Of::Energy => Box::new(Energy { levels: self.levels.clone(), draws: 0 }),
            Of::ScoreNorms => Box::new(ScoreNorms { levels: self.levels.clone(), ridge: self.ridge }),
        }
    }
}

impl Detector for Typicality {
    fn check(&self) -> Result<()> {
        self.base().check()
    }

    fn needs_energy(&self) -> bool {
        self.of == Of::Energy
    }

    fn evaluations(&self) -> usize {
        self.base().evaluations()
    }

    fn levels(&mut self) -> &mut Vec<f64> {
        &mut self.levels
    }

    fn features(&self, m: &dyn Denoiser, x: &Tensor, z: &mut Noise) -> Result<Vec<Vec<f64>>> {
        self.base().features(m, x, z)
    }

    fn fit(&self, rows: &[Vec<f64>]) -> Result<Rule> {
        let energy = self.base().fit(rows)?;
        let of: Vec<f64> = rows.iter().map(|row| energy(row)).collect();
        let n = of.len() as f64;
        let mean = of.iter().sum::<f64>() / n;
        let std = (of.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / (n - 1.)).sqrt();
        if !(std > 0. && std.is_finite()) {
            bail!("the energy of the training data does not vary; choose other levels");
        }
        Ok(Box::new(move |row| (energy(row) - mean).abs() / std))
    }
}
