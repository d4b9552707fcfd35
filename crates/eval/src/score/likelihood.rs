//! Minus the log-likelihood by the probability-flow ODE, -log p_t(alpha x) at some noise levels: for any score.
//!
//! The mean over the levels of its z-score. It costs some hundred evaluations of the model a sample, so it is used only where
//! it is asked for.
//!
//! Where it fails: as the energy, on what is smooth and plain. \[Nalisnick18\]

use super::{Detector, Rule, check_levels, mean_z, rows, times};
use candle_core::{Result, Tensor, bail};
use langevin_dynamics::Denoiser;
use langevin_dynamics::likelihood::{Divergence, Flow, Probe};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// The likelihood by the ODE.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Likelihood {
    /// Noise levels sigma / alpha, in units of the data.
    pub levels: Vec<f64>,
    /// Absolute and relative error of a step of the ODE.
    pub tolerance: f64,
    /// Random vectors for the divergence; 0: it is exact, by as many products as a sample has numbers.
    pub probes: usize,
}

impl Default for Likelihood {
    fn default() -> Self {
        Self { levels: vec![0.1], tolerance: 1e-3, probes: 1 }
    }
}

impl Named for Likelihood {
    const NAME: &'static str = "likelihood";
    const ABOUT: &'static str = "-log p by the ODE, for any score; slow, and passes smooth images [Nalisnick18]";
}

impl Likelihood {
    fn flow(&self) -> Flow {
        let divergence = match self.probes {
            0 => Divergence::Exact,
            probes => Divergence::Hutchinson { probes, probe: Probe::Rademacher },
        };
        Flow { atol: self.tolerance, rtol: self.tolerance, divergence, ..Flow::default() }
    }
}

impl Detector for Likelihood {
    fn check(&self) -> Result<()> {
        if !(self.tolerance > 0. && self.tolerance < 1.) {
            bail!("tolerance is {}; give a number between 0 and 1, such as 1e-3", self.tolerance);
        }
        self.flow().check()?;
        check_levels(&self.levels)
    }

    fn slow(&self) -> bool {
        true
    }

    fn evaluations(&self) -> usize {
        100 * self.levels.len() * self.probes.max(1) // as far as a solver can be foreseen
    }

    fn levels(&mut self) -> &mut Vec<f64> {
        &mut self.levels
    }

    fn features(&self, m: &dyn Denoiser, x: &Tensor, z: &mut Noise) -> Result<Vec<Vec<f64>>> {
        self.features_watched(m, x, z, &mut |_| Ok(()))
    }

    fn features_watched(
        &self,
        m: &dyn Denoiser,
        x: &Tensor,
        z: &mut Noise,
        watch: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Vec<Vec<f64>>> {
        let (times, mut columns) = (times(m.process(), &self.levels)?, vec![]);
        for (i, &t) in times.iter().enumerate() {
            let clean = x.affine(m.process().marginal(t).alpha, 0.)?;
            let mut on = |part| watch((i as f64 + part) / times.len() as f64);
            let found = self.flow().log_p(m, &clean, &[t], z, &mut on)?;
            columns.push(found.log_p.into_iter().map(|log_p| -log_p).collect());
        }
        Ok(rows(&columns, x.dim(0)?))
    }

    fn fit(&self, rows: &[Vec<f64>]) -> Result<Rule> {
        mean_z(rows)
    }
}
