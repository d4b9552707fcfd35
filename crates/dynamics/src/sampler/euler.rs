//! Euler on the probability-flow ODE in the variables x/alpha, sigma/alpha: x_s = (sigma_s/sigma_t) x + gain x0.
//!
//! There dx/dsigma = eps \[Karras22, Alg. 1 without its correction\], so a step is exact for a constant x0; it is DDIM
//! with eta = 0 [SongDDIM, eq. 13]. Written in x and x0 it starts from alpha = 0 as from anywhere else.

use super::Sampler;
use super::transfer::{ends, towards};
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
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, t: &[f64], s: &[f64], _: &mut Noise) -> Result<Tensor> {
        towards(&ends(m.process(), t, s)?, x, &m.x0(x, t)?)
    }

    fn order(&self) -> Option<u32> {
        Some(1)
    }
}
