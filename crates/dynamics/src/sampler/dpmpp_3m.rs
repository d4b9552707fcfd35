//! DPM-Solver++ (3M): three-step, 3rd order, in lambda = ln(alpha/sigma); with eta > 0 the "3M SDE" of k-diffusion.
//!
//! D2 is taken as the authors' code has it, half of what Taylor's formula asks: the order that shows is 2.

use super::parts::multistep::{Dpmpp, Extrapolate, History, Multistep, Second};
use super::{Sampler, Stepper, not_negative};
use candle_core::{Result, bail};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// One evaluation a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dpmpp3m {
    /// How the first difference enters a 2nd-order step.
    pub second: Second,
    /// Fresh noise: 0 none (the ODE), 1 as much as the reverse SDE of \[Song21\].
    pub eta: f64,
    /// What is extrapolated: eps makes it the older DPM-Solver, and wants eta = 0.
    pub extrapolate: Extrapolate,
    /// Whether the last steps of a run of fewer than 15 are of lower order. \[Lu22, App. F\]
    pub lower_order_final: bool,
    /// Whether the last step is Euler's in any run; one to clean data always is.
    pub euler_at_final: bool,
    /// With eta > 0, whether the last term has the sign that diffusers gives it, which costs accuracy: for its own
    /// trajectories.
    pub sign_of_diffusers: bool,
}

impl Default for Dpmpp3m {
    fn default() -> Self {
        Self {
            second: Second::default(),
            eta: 0.,
            extrapolate: Extrapolate::default(),
            lower_order_final: true,
            euler_at_final: false,
            sign_of_diffusers: false,
        }
    }
}

impl Named for Dpmpp3m {
    const NAME: &'static str = "dpmpp-3m";
    const ABOUT: &'static str = "DPM-Solver++ (3M), the ODE, or an SDE with eta > 0 [Lu22; k-diffusion]";
}

impl Sampler for Dpmpp3m {
    fn check(&self) -> Result<()> {
        if self.extrapolate == Extrapolate::Eps && self.eta != 0. {
            bail!("eta is {} with extrapolate = \"eps\", which has no noisy form here; set eta = 0", self.eta);
        }
        not_negative("eta", self.eta)
    }

    fn start(&self, times: &[f64]) -> Box<dyn Stepper + '_> {
        let Self { second, eta, extrapolate, lower_order_final, euler_at_final, sign_of_diffusers } = *self;
        let rule = Dpmpp { order: 3, eta, second, extrapolate, lower_order_final, euler_at_final, sign_of_diffusers };
        Box::new(Multistep { rule, history: History::new(times) })
    }

    fn order(&self) -> Option<u32> {
        (self.eta == 0.).then_some(2)
    }
}
