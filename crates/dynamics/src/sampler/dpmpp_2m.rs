//! DPM-Solver++ (2M): two-step, 2nd order, in lambda = ln(alpha/sigma), on the model's x0. \[Lu22, Alg. 2\]

use super::parts::multistep::{Dpmpp, Extrapolate, History, Multistep, Second};
use super::{Sampler, Stepper};
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// One evaluation a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dpmpp2m {
    /// How the first difference enters a 2nd-order step.
    pub second: Second,
    /// What is extrapolated: eps makes it the older DPM-Solver.
    pub extrapolate: Extrapolate,
    /// Whether the last steps of a run of fewer than 15 are of lower order. \[Lu22, App. F\]
    pub lower_order_final: bool,
    /// Whether the last step is Euler's in any run; one to clean data always is.
    pub euler_at_final: bool,
}

impl Default for Dpmpp2m {
    fn default() -> Self {
        Self {
            second: Second::default(),
            extrapolate: Extrapolate::default(),
            lower_order_final: true,
            euler_at_final: false,
        }
    }
}

impl Named for Dpmpp2m {
    const NAME: &'static str = "dpmpp-2m";
    const ABOUT: &'static str = "DPM-Solver++ (2M), the probability-flow ODE [Lu22]";
}

impl Sampler for Dpmpp2m {
    fn start(&self, times: &[f64]) -> Box<dyn Stepper + '_> {
        let Self { second, extrapolate, lower_order_final, euler_at_final } = *self;
        let rule = Dpmpp {
            order: 2,
            eta: 0.,
            second,
            extrapolate,
            lower_order_final,
            euler_at_final,
            sign_of_diffusers: false,
        };
        Box::new(Multistep { rule, history: History::new(times) })
    }

    fn order(&self) -> Option<u32> {
        Some(2)
    }
}
