//! Euler on the probability-flow ODE in the variables x/alpha, sigma/alpha: x_s = (sigma_s/sigma_t) x + gain x0.
//!
//! There dx/dsigma = eps \[Karras22, Alg. 1 without its correction\], so a step is exact for a constant x0; it is DDIM
//! with eta = 0 [SongDDIM, eq. 13]. Written in x and x0 it starts from alpha = 0 as from anywhere else.

use super::parts::transfer::euler_step;
use super::{Sampler, Step, Stepper};
use crate::Denoiser;
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// One evaluation a step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Euler {}

impl Named for Euler {
    const NAME: &'static str = "euler";
    const ABOUT: &'static str = "probability-flow ODE, 1st order, one evaluation a step [Song21, Karras22]";
}

impl Sampler for Euler {
    fn start(&self, _times: &[f64]) -> Box<dyn Stepper + '_> {
        Box::new(self)
    }

    fn order(&self) -> Option<u32> {
        Some(1)
    }
}

impl Stepper for &Euler {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, _: &mut Noise) -> Result<Tensor> {
        euler_step(&step.intervals(m.process())?, x, &m.x0(x, step.t)?)
    }
}
