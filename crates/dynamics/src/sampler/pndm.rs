//! PNDM: linear multistep on eps, with DDIM's step as the transfer: x_s = r (x - sigma_t e) + sigma_s e, r = alpha_s/alpha_t,
//! e = (55 e_t - 59 e_1 + 37 e_2 - 9 e_3)/24. \[Liu22, "PNDM", 2202.09778, eq. 9, 11 and 12; Alg. 2\]
//!
//! It needs times evenly spaced in t, and divides by alpha: a step from alpha = 0 is DDIM's, and is not remembered.

use super::parts::transfer::{Interval, euler_step, of, sum};
use super::{Sampler, Step, Stepper};
use crate::denoiser::each;
use crate::{Denoiser, Process};
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::PerSample;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What the multistep formulas mix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mixed {
    /// The noise.
    #[default]
    Eps,
    /// v = (alpha x - x0)/sigma as told along the way, made noise at the end; for processes that preserve variance. So
    /// diffusers has it for networks that predict v.
    V,
}

/// One evaluation a step, after the warm-up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pndm {
    /// Begin with one Heun step and shorter formulas (PLMS), not with three Runge-Kutta steps of four evaluations.
    pub skip_prk_steps: bool,
    /// What the formulas mix.
    pub mix: Mixed,
}

struct PndmRun<'a> {
    options: &'a Pndm,
    past: VecDeque<Tensor>, // newest first
}

impl Named for Pndm {
    const NAME: &'static str = "pndm";
    const ABOUT: &'static str =
        "PNDM: 4-step Adams-Bashforth on eps for the probability-flow ODE, times even in t [Liu22]";
}

impl Sampler for Pndm {
    fn start(&self, _times: &[f64]) -> Box<dyn Stepper + '_> {
        Box::new(PndmRun { options: self, past: VecDeque::new() })
    }

    fn order(&self) -> Option<u32> {
        Some(2)
    }
}

impl Stepper for PndmRun<'_> {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, _: &mut Noise) -> Result<Tensor> {
        let (ends, Pndm { mix, skip_prk_steps }, s) = (step.intervals(m.process())?, self.options, step.s);
        if ends.iter().any(|e| e.t.alpha < 1e-6 * e.t.sigma) {
            return euler_step(&ends, x, &m.x0(x, step.t)?);
        }
        let first = mix.of(m, x, step.t)?;
        self.past.push_front(first.clone());
        self.past.truncate(4);
        let along = |mixed: &Tensor| mix.transfer(&ends, x, mixed);
        if step.is_final() && self.past.len() < 4 {
            return along(&first);
        }
        let e = &self.past;
        match (e.len(), *skip_prk_steps) {
            (1, true) => along(&weighted(&[(0.5, &first), (0.5, &mix.of(m, &along(&first)?, s)?)])?),
            (2, true) => along(&weighted(&[(1.5, &e[0]), (-0.5, &e[1])])?),
            (3, true) => along(&weighted(&[(23. / 12., &e[0]), (-16. / 12., &e[1]), (5. / 12., &e[2])])?),
            (4, _) => {
                along(&weighted(&[(55. / 24., &e[0]), (-59. / 24., &e[1]), (37. / 24., &e[2]), (-9. / 24., &e[3])])?)
            }
            _ => {
                let (upper, lower) = halves(m.process(), step);
                let half = |to: &[f64], mixed: &Tensor| {
                    mix.transfer(&Step { t: step.t, s: to }.intervals(m.process())?, x, mixed)
                };
                let second = mix.of(m, &half(&upper, &first)?, &lower)?;
                let third = mix.of(m, &half(&lower, &second)?, &lower)?;
                let fourth = mix.of(m, &along(&third)?, s)?;
                along(&weighted(&[(1. / 6., &first), (1. / 3., &second), (1. / 3., &third), (1. / 6., &fourth)])?)
            }
        }
    }
}

impl Mixed {
    fn of(self, m: &dyn Denoiser, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        match self {
            Self::Eps => m.eps(x, t),
            Self::V => {
                let of = |f: fn(f64, f64) -> f64| each(m.process(), t, |m| f(m.alpha, m.sigma));
                sum(&[(of(|a, s| a / s), x), (of(|_, s| -1. / s), &m.x0(x, t)?)])
            }
        }
    }

    /// x moved along a constant eps: (alpha_s/alpha_t) (x - sigma_t eps) + sigma_s eps; eps = alpha v + sigma x.
    fn transfer(self, ends: &[Interval], x: &Tensor, mixed: &Tensor) -> Result<Tensor> {
        let r = |e: &Interval| e.s.alpha / e.t.alpha;
        let of_eps = |e: &Interval| e.s.sigma - r(e) * e.t.sigma;
        match self {
            Self::Eps => sum(&[(of(ends, r), x), (of(ends, of_eps), mixed)]),
            Self::V => {
                sum(&[(of(ends, |e| r(e) + of_eps(e) * e.t.sigma), x), (of(ends, |e| of_eps(e) * e.t.alpha), mixed)])
            }
        }
    }
}

/// The times half-way that a Runge-Kutta step goes to first, and is told of. Between entries of a table that lie an odd
/// number apart they are the two in the middle, as diffusers has it.
fn halves(process: &dyn Process, step: Step) -> (Vec<f64>, Vec<f64>) {
    let both = (0..step.t.len().max(step.s.len())).map(|i| {
        let (t, s) = (step.t.at(i), step.s.at(i));
        let entries = process.discrete().is_some() && t.fract() == 0. && s.fract() == 0.;
        let half = if entries { (0.5 * (t - s)).floor() } else { 0.5 * (t - s) };
        if half > 0. { (t - half, s + half) } else { (0.5 * (t + s), 0.5 * (t + s)) }
    });
    both.unzip()
}

fn weighted(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    sum(&terms.iter().map(|&(w, e)| (vec![w], e)).collect::<Vec<_>>())
}
