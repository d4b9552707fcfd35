//! The energy E(x, t) at some noise levels, of the data alone or with noise added: minus the log-density, up to constants.
//!
//! The mean over the levels of (E - mean) / std, mean and std those of training data.
//!
//! Where it fails: smooth and plain images have more density than what a model was trained on, however little they are
//! like it, so their energy is lower and they pass. \[Nalisnick18\]

use super::{Detector, Rule, check_levels, energy_of, mean_z, rows, times};
use candle_core::{Result, Tensor, bail};
use langevin_dynamics::Denoiser;
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::to_host;
use serde::{Deserialize, Serialize};

/// The energy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Energy {
    /// Noise levels sigma / alpha, in units of the data.
    pub levels: Vec<f64>,
    /// Draws of noise over which the energy of x_t is averaged; 0: the energy of alpha x, without noise.
    pub draws: usize,
}

impl Default for Energy {
    fn default() -> Self {
        Self { levels: vec![0.2], draws: 0 }
    }
}

impl Named for Energy {
    const NAME: &'static str = "energy";
    const ABOUT: &'static str = "E(x, t), minus the log-density; passes smooth images [Nalisnick18]";
}

impl Detector for Energy {
    fn check(&self) -> Result<()> {
        check_draws(self.draws)?;
        check_levels(&self.levels)
    }

    fn needs_energy(&self) -> bool {
        true
    }

    fn evaluations(&self) -> usize {
        self.levels.len() * self.draws.max(1)
    }

    fn levels(&mut self) -> &mut Vec<f64> {
        &mut self.levels
    }

    fn features(&self, m: &dyn Denoiser, x: &Tensor, z: &mut Noise) -> Result<Vec<Vec<f64>>> {
        let energy = energy_of(m)?;
        let at = |&t: &f64| {
            let marginal = m.process().marginal(t);
            let clean = x.affine(marginal.alpha, 0.)?;
            if self.draws == 0 {
                return to_host(&energy.energy_at(&clean, &[t])?);
            }
            let mut sum = vec![0.; x.dim(0)?];
            for _ in 0..self.draws {
                let noisy = (&clean + z.normal_like(x)?.affine(marginal.sigma, 0.)?)?;
                let energies = to_host(&energy.energy_at(&noisy, &[t])?)?;
                sum.iter_mut().zip(energies).for_each(|(sum, e)| *sum += e / self.draws as f64);
            }
            Ok(sum)
        };
        let columns = times(m.process(), &self.levels)?.iter().map(at).collect::<Result<Vec<_>>>()?;
        Ok(rows(&columns, x.dim(0)?))
    }

    fn fit(&self, rows: &[Vec<f64>]) -> Result<Rule> {
        mean_z(rows)
    }
}

/// Errors if there are too many.
pub(super) fn check_draws(draws: usize) -> Result<()> {
    if draws > 10_000 {
        bail!("draws is {draws}; give at most 10000");
    }
    Ok(())
}
