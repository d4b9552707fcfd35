//! SDE-DPM-Solver++ (2M): the same two steps on the reverse SDE, whose linear part and noise are exact. \[Lu22, eq. 18\]

use super::parts::multistep::{Dpmpp, Extrapolate, History, Multistep, Second};
use super::{Sampler, Stepper, not_negative};
use candle_core::Result;
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
    /// Whether the last steps of a run of fewer than 15 are of lower order. \[Lu22, App. F\]
    pub lower_order_final: bool,
    /// Whether the last step is Euler's in any run; one to clean data always is.
    pub euler_at_final: bool,
}

impl Default for Dpmpp2mSde {
    fn default() -> Self {
        Self { second: Second::default(), eta: 1., lower_order_final: true, euler_at_final: false }
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

    fn start(&self, times: &[f64]) -> Box<dyn Stepper + '_> {
        let Self { second, eta, lower_order_final, euler_at_final } = *self;
        let rule = Dpmpp {
            order: 2,
            eta,
            second,
            extrapolate: Extrapolate::X0,
            lower_order_final,
            euler_at_final,
            sign_of_diffusers: false,
        };
        Box::new(Multistep { rule, history: History::new(times) })
    }

    fn order(&self) -> Option<u32> {
        (self.eta == 0.).then_some(2)
    }
}
