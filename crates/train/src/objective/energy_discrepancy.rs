//! Energy discrepancy: E ln(w/M + 1/M sum_j exp(E(x) - E(y + sqrt(t) z_j))) with y = x + sqrt(t) z, all z normal. \[Schroeder23\]
//!
//! It goes from score matching (t to 0) to maximum likelihood (t to infinity). With w = 1 it is least at the density of the data for
//! every M: given y, the data are told from M states that are moved as they are. With other w it is so as M grows.

use super::conditional_nce::rise;
use super::real::{self, Losses, copies, log_sum_exp, several};
use super::{Objective, Training, describe};
use crate::optim::not_negative;
use crate::options::TrainOptions;
use crate::trainable::Trainable;
use candle_core::{Result, Tensor};
use langevin_dynamics::{Density, Differentiable};
use langevin_ops::act::softplus;
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Energy discrepancy of an energy over real numbers, moved by Gaussian noise.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnergyDiscrepancy {
    /// Variance of the noise, in the units of the data squared.
    pub t: f64,
    /// States M that each sample is compared with.
    pub samples: usize,
    /// The weight that keeps the loss bounded from below; 1 has no bias.
    pub w: f64,
}

impl Default for EnergyDiscrepancy {
    fn default() -> Self {
        Self { t: 0.25, samples: 16, w: 1. }
    }
}

impl Named for EnergyDiscrepancy {
    const NAME: &'static str = "energy-discrepancy";
    const ABOUT: &'static str = "energies of data against those of data moved there and back by noise [Schroeder23]";
}

impl Losses for EnergyDiscrepancy {
    fn losses(&self, energy: &dyn Differentiable, x: &Tensor, z: &mut Noise) -> Result<Tensor> {
        let (m, sigma) = (self.samples, self.t.sqrt());
        let there = (x + (z.normal_like(x)? * sigma)?)?;
        let back = (several(x, m, |like| z.normal_like(like))? * sigma)?;
        let all = log_sum_exp(&rise(energy, x, &(copies(&there, m)? + back)?)?)?;
        let log_m = (m as f64).ln();
        match self.w {
            0. => all - log_m,
            w => softplus(&(all - w.ln())?)? + (w.ln() - log_m),
        }
    }
}

impl<M: Trainable + Density> Objective<M> for EnergyDiscrepancy {
    fn description(&self) -> Result<Value> {
        describe(self)
    }

    fn check(&self, _: &M::Spec, _: &TrainOptions) -> Result<()> {
        real::positive("t", self.t)?;
        real::count("samples", self.samples)?;
        not_negative("loss.w", self.w)
    }

    fn start(&self, model: &M) -> Result<Box<dyn Training<M>>> {
        real::start(self, model)
    }
}
