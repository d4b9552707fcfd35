//! Heun, 2nd order, on the probability-flow ODE: x_s = x + (s-t)/2 (d_t + d_s), Euler to s = 0. \[Karras22, Alg. 1\]
//!
//! The paper's variables are x/alpha and sigma/alpha, with slope d = eps. The same step in x and x0 is
//! x_s = euler + 1/2 k gain (x0_s - x0_t), k = (sigma_t/alpha_t) / (sigma_s/alpha_s), whose k is infinite from alpha = 0.
//! A step with an end above sigma/alpha = 1000 (`angle_above`) is therefore taken in the angle theta = atan(sigma/alpha), where
//! y = x / sqrt(alpha^2 + sigma^2) has the finite slope cos(theta) eps - sin(theta) x0 everywhere.

use super::parts::transfer::{Interval, euler_step, of, sum};
use super::{Sampler, Step, Stepper, above_zero};
use crate::{Denoiser, Marginal};
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::PerSample;
use serde::{Deserialize, Serialize};

/// sigma/alpha from which a step is taken in the angle.
pub(super) const STEEP: f64 = 1e3;

/// Two evaluations a step, one for the last.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Heun {
    /// sigma/alpha from which a step is taken in the angle.
    pub angle_above: f64,
}

impl Default for Heun {
    fn default() -> Self {
        Self { angle_above: STEEP }
    }
}

impl Named for Heun {
    const NAME: &'static str = "heun";
    const ABOUT: &'static str = "probability-flow ODE, 2nd order, two evaluations a step [Karras22, Alg. 1]";
}

impl Sampler for Heun {
    fn check(&self) -> Result<()> {
        above_zero("angle_above", self.angle_above)
    }

    fn start(&self, _times: &[f64]) -> Box<dyn Stepper + '_> {
        Box::new(self)
    }

    fn order(&self) -> Option<u32> {
        Some(2)
    }
}

impl Stepper for &Heun {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, _: &mut Noise) -> Result<Tensor> {
        let ends = step.intervals(m.process())?;
        let x0 = m.x0(x, step.t)?;
        let euler = euler_step(&ends, x, &x0)?;
        if step.is_final() {
            return Ok(euler);
        }
        correct(m, &ends, x, &x0, &euler, step, self.angle_above)
    }
}

/// The second half of the step: the trapezoid over the slope at x and that at `guess`, Euler's result at `s`.
pub(super) fn correct(
    m: &dyn Denoiser,
    ends: &[Interval],
    x: &Tensor,
    x0: &Tensor,
    guess: &Tensor,
    step: Step,
    steep: f64,
) -> Result<Tensor> {
    // samples that end at clean data keep Euler's step: for them we evaluate at t and discard the result
    let Step { t, s } = step;
    let times: Vec<f64> = (0..ends.len()).map(|i| if s.at(i) > 0. { s.at(i) } else { t.at(i) }).collect();
    let next = m.x0(guess, &times)?;
    let weights = of(ends, |e| weights(e, steep));
    let column = |i: usize| of(&weights, |w| w[i]);
    sum(&[(column(0), x), (column(1), x0), (column(2), guess), (column(3), &next)])
}

/// The numbers of x, x0 at t, Euler's guess, and x0 there.
fn weights(e: &Interval, steep: f64) -> [f64; 4] {
    if e.s.sigma == 0. {
        return [0., 0., 1., 0.];
    }
    let steep = |m: &Marginal| m.sigma >= steep * m.alpha;
    if !steep(&e.t) && !steep(&e.s) {
        let half = 0.5 * e.gain() / e.decay();
        return [0., -half, 1., half];
    }
    // y_s = y + dtheta/2 (v_t + v_s) with v = (alpha eps - sigma x0)/r and eps = (x - alpha x0)/sigma
    let (rt, rs) = (e.t.alpha.hypot(e.t.sigma), e.s.alpha.hypot(e.s.sigma));
    let half = 0.5 * (e.s.sigma.atan2(e.s.alpha) - e.t.sigma.atan2(e.t.alpha));
    let slope = |m: &Marginal, r: f64| (m.alpha / (m.sigma * r), -r / m.sigma); // of x, of x0
    let ((tx, t0), (sx, s0)) = (slope(&e.t, rt), slope(&e.s, rs));
    [rs * (1. / rt + half * tx), rs * half * t0, rs * half * sx, rs * half * s0]
}
