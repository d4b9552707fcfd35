//! DPM-Solver++ (3M): three-step, 3rd order, in lambda = ln(alpha/sigma); with eta > 0 the "3M SDE" of k-diffusion.
//!
//! D2 is taken as the authors' code has it, half of what Taylor's formula asks: the order that shows is 2.

use super::multistep::{Dpmpp, History, Second};
use super::{Sampler, not_negative};
use crate::Denoiser;
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// One evaluation a step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dpmpp3m {
    /// How the first difference enters a 2nd-order step.
    pub second: Second,
    /// Fresh noise: 0 none (the ODE), 1 as much as the reverse SDE of [Song21].
    pub eta: f64,
    #[serde(skip)]
    history: History,
}

impl Named for Dpmpp3m {
    const NAME: &'static str = "dpmpp-3m";
    const ABOUT: &'static str = "DPM-Solver++ (3M), the ODE, or an SDE with eta > 0 [Lu22; k-diffusion]";
}

impl Sampler for Dpmpp3m {
    fn check(&self) -> Result<()> {
        not_negative("eta", self.eta)
    }

    fn begin(&mut self, times: &[f64]) {
        self.history.begin(times);
    }

    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, t: &[f64], s: &[f64], z: &mut Noise) -> Result<Tensor> {
        Dpmpp { order: 3, eta: self.eta, second: self.second }.step(&mut self.history, m, x, t, s, z)
    }

    fn order(&self) -> Option<u32> {
        (self.eta == 0.).then_some(2)
    }
}
