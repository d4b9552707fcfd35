//! SDE-DPM-Solver++ (2M): the same two steps on the reverse SDE, whose linear part and noise are exact. \[Lu22, eq. 18\]

use super::multistep::{Dpmpp, History, Second};
use super::{Sampler, not_negative};
use crate::Denoiser;
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// One evaluation a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dpmpp2mSde {
    /// How the first difference enters a 2nd-order step.
    pub second: Second,
    /// Fresh noise: 0 none (the ODE), 1 as much as the reverse SDE of \[Song21\].
    pub eta: f64,
    #[serde(skip)]
    history: History,
}

impl Default for Dpmpp2mSde {
    fn default() -> Self {
        Self { second: Second::default(), eta: 1., history: History::default() }
    }
}

impl Named for Dpmpp2mSde {
    const NAME: &'static str = "dpmpp-2m-sde";
    const ABOUT: &'static str = "DPM-Solver++ (2M) on the reverse SDE [Lu22; k-diffusion]";
}

impl Sampler for Dpmpp2mSde {
    fn check(&self) -> Result<()> {
        not_negative("eta", self.eta)
    }

    fn begin(&mut self, times: &[f64]) {
        self.history.begin(times);
    }

    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, t: &[f64], s: &[f64], z: &mut Noise) -> Result<Tensor> {
        Dpmpp { order: 2, eta: self.eta, second: self.second }.step(&mut self.history, m, x, t, s, z)
    }

    fn order(&self) -> Option<u32> {
        (self.eta == 0.).then_some(2)
    }
}
