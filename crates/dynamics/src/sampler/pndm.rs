//! PNDM: linear multistep on eps, with DDIM's step as the transfer: x_s = r (x - sigma_t e) + sigma_s e, r = alpha_s/alpha_t,
//! e = (55 e_t - 59 e_1 + 37 e_2 - 9 e_3)/24. \[Liu22, "PNDM", 2202.09778, eq. 9, 11 and 12; Alg. 2\]
//!
//! It needs times evenly spaced in t, and divides by alpha: a step from alpha = 0 is DDIM's, and is not remembered.

use super::Sampler;
use super::transfer::{Ends, ends, lands, of, sum, towards};
use crate::Denoiser;
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// One evaluation a step, after the warm-up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pndm {
    /// Begin with one Heun step and shorter formulas (PLMS), not with three Runge-Kutta steps of four evaluations.
    pub skip_prk_steps: bool,
    #[serde(skip)]
    past: VecDeque<Tensor>, // eps, newest first
}

impl Named for Pndm {
    const NAME: &'static str = "pndm";
    const ABOUT: &'static str =
        "PNDM: 4-step Adams-Bashforth on eps for the probability-flow ODE, times even in t [Liu22]";
}

impl Sampler for Pndm {
    fn begin(&mut self, _: &[f64]) {
        self.past.clear();
    }

    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, t: &[f64], s: &[f64], _: &mut Noise) -> Result<Tensor> {
        let step = ends(m.process(), t, s)?;
        if step.iter().any(|e| e.t.alpha < 1e-6 * e.t.sigma) {
            return towards(&step, x, &m.x0(x, t)?);
        }
        let eps = m.eps(x, t)?;
        self.past.push_front(eps.clone());
        self.past.truncate(4);
        let along = |eps: &Tensor| transfer(&step, x, eps);
        if lands(s) && self.past.len() < 4 {
            return along(&eps);
        }
        let e = &self.past;
        match (e.len(), self.skip_prk_steps) {
            (1, true) => along(&weighted(&[(0.5, &eps), (0.5, &m.eps(&along(&eps)?, s)?)])?),
            (2, true) => along(&weighted(&[(1.5, &e[0]), (-0.5, &e[1])])?),
            (3, true) => along(&weighted(&[(23. / 12., &e[0]), (-16. / 12., &e[1]), (5. / 12., &e[2])])?),
            (4, _) => {
                along(&weighted(&[(55. / 24., &e[0]), (-59. / 24., &e[1]), (37. / 24., &e[2]), (-9. / 24., &e[3])])?)
            }
            _ => {
                let mid: Vec<f64> = (0..t.len().max(s.len())).map(|i| 0.5 * (pick(t, i) + pick(s, i))).collect();
                let half = ends(m.process(), t, &mid)?;
                let e2 = m.eps(&transfer(&half, x, &eps)?, &mid)?;
                let e3 = m.eps(&transfer(&half, x, &e2)?, &mid)?;
                let e4 = m.eps(&along(&e3)?, s)?;
                along(&weighted(&[(1. / 6., &eps), (1. / 3., &e2), (1. / 3., &e3), (1. / 6., &e4)])?)
            }
        }
    }

    fn order(&self) -> Option<u32> {
        Some(2)
    }
}

fn pick(v: &[f64], i: usize) -> f64 {
    v[if v.len() == 1 { 0 } else { i }]
}

fn weighted(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    sum(&terms.iter().map(|&(w, e)| (vec![w], e)).collect::<Vec<_>>())
}

/// x moved along a constant eps: (alpha_s/alpha_t) (x - sigma_t eps) + sigma_s eps.
fn transfer(step: &[Ends], x: &Tensor, eps: &Tensor) -> Result<Tensor> {
    let r = |e: &Ends| e.s.alpha / e.t.alpha;
    sum(&[(of(step, r), x), (of(step, |e| e.s.sigma - r(e) * e.t.sigma), eps)])
}
