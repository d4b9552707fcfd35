//! What multistep samplers remember, and the step of DPM-Solver++ of order 1 to 3, as an ODE or an SDE. \[Lu22, Alg. 2\]
//!
//! With lambda = ln(alpha/sigma), h its gain and H = (1 + eta) h, variation of constants gives
//! x_s = (sigma_s/sigma_t) e^(-eta h) x + alpha_s [(1 - e^-H) D0 + phi2 D1 - phi3 D2] + sigma_s sqrt(1 - e^(-2 eta h)) z
//! where D1 and D2 are h and h^2/2 times the derivatives of x0 in lambda, by differences of what is remembered, and
//! phi2 = (e^-H - 1)/H + 1, phi3 = phi2/H - 1/2. Where h is infinite (from alpha = 0, to sigma = 0) D0 is all there is.

use super::transfer::{Interval, euler_step, of, sum};
use crate::denoiser::eps_from;
use crate::sampler::{Step, Stepper};
use crate::{Denoiser, Marginal, Process};
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::shape::PerSample;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The factor of the first difference in a 2nd-order step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Second {
    /// (1 - e^-H)/2, the value of x0 half-way.
    #[default]
    Midpoint,
    /// phi2 = (e^-H - 1)/H + 1, x0 linear in lambda.
    Heun,
}

/// What is extrapolated from step to step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extrapolate {
    /// The clean data, as DPM-Solver++ has it.
    #[default]
    X0,
    /// The noise, as DPM-Solver had it: less stable, and not for a step to clean data beyond first order. \[Lu22\]
    Eps,
}

impl Extrapolate {
    /// The ends in which a formula for x0 is that for eps: x_t = sigma eps + alpha x_0 with its letters exchanged.
    pub(crate) fn interval(self, e: &Interval) -> Interval {
        let swap = |m: &Marginal| Marginal { alpha: m.sigma, sigma: m.alpha, dalpha: m.dsigma, dsigma: m.dalpha };
        match self {
            Self::X0 => *e,
            Self::Eps => Interval { t: swap(&e.t), s: swap(&e.s) },
        }
    }

    /// The same for lambda.
    pub(crate) fn lambdas(self, mut lambdas: Vec<f64>) -> Vec<f64> {
        if self == Self::Eps {
            lambdas.iter_mut().for_each(|lambda| *lambda = -*lambda);
        }
        lambdas
    }

    /// What is extrapolated, of x0.
    pub(crate) fn of(self, process: &dyn Process, x: &Tensor, x0: &Tensor, t: &[f64]) -> Result<Tensor> {
        match self {
            Self::X0 => Ok(x0.clone()),
            Self::Eps => eps_from(process, x, x0, t),
        }
    }
}

/// The last x0 (or eps) that the model told, newest first, and where the run is.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    past: VecDeque<(Vec<f64>, Tensor)>,
    steps: usize,
    done: usize,
}

/// How many x0 are kept.
const KEPT: usize = 3;

impl History {
    /// Of a run through `times`.
    pub fn new(times: &[f64]) -> Self {
        Self { steps: times.len().saturating_sub(1), ..Self::default() }
    }

    /// Remembers `x0` told at `t`; a step begins.
    pub fn push(&mut self, process: &dyn Process, t: &[f64], x0: &Tensor) {
        let lambda = t.iter().map(|&t| 0.5 * process.log_snr(t)).collect();
        self.past.push_front((lambda, x0.clone()));
        self.past.truncate(KEPT);
        self.done += 1;
    }

    /// Steps left with the one that has begun, if the run was announced.
    pub fn left(&self) -> usize {
        if self.steps < self.done { usize::MAX } else { self.steps - self.done + 1 }
    }

    /// Steps that have begun.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Steps of the run, if it was announced.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// lambda of sample `i`, newest first, as far as it is finite: nothing is learned from an x0 told at alpha = 0.
    pub fn lambdas(&self, i: usize) -> Vec<f64> {
        let each = self.past.iter().map(|(lambda, _)| lambda.at(i));
        each.take_while(|lambda| lambda.is_finite()).collect()
    }

    /// `w[0]` x plus the others times what is remembered, newest first.
    pub fn mix(&self, weights: &[[f64; 1 + KEPT]], x: &Tensor) -> Result<Tensor> {
        let mut terms = vec![(of(weights, |w| w[0]), x)];
        terms.extend(self.past.iter().enumerate().map(|(k, (_, x0))| (of(weights, |w| w[k + 1]), x0)));
        sum(&terms)
    }
}

/// A run of one of them.
pub(crate) struct Multistep {
    pub rule: Dpmpp,
    pub history: History,
}

impl Stepper for Multistep {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor> {
        self.rule.step(&mut self.history, m, x, step, z)
    }
}

/// What tells the members of the family apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dpmpp {
    pub order: usize,
    pub eta: f64,
    pub second: Second,
    pub extrapolate: Extrapolate,
    pub lower_order_final: bool,
    pub euler_at_final: bool,
    pub sign_of_diffusers: bool,
}

impl Dpmpp {
    /// One step; `history` holds what was told before `t`.
    pub fn step(
        self,
        history: &mut History,
        m: &dyn Denoiser,
        x: &Tensor,
        step: Step,
        z: &mut Noise,
    ) -> Result<Tensor> {
        let ends = step.intervals(m.process())?;
        let x0 = m.x0(x, step.t)?;
        history.push(m.process(), step.t, &self.extrapolate.of(m.process(), x, &x0, step.t)?);
        if self.extrapolate == Extrapolate::Eps && ends.iter().any(|e| !e.h().is_finite()) {
            return euler_step(&ends, x, &x0);
        }
        // the last steps of a short run are of lower order [Lu22, App. F]
        let order = match history.left() {
            1 if self.euler_at_final => 1,
            left if self.lower_order_final && history.steps() < 15 => self.order.min(left),
            _ => self.order,
        };
        let weigh = |(i, e): (usize, &Interval)| {
            self.weights(&self.extrapolate.interval(e), &self.extrapolate.lambdas(history.lambdas(i)), order)
        };
        let weights: Vec<_> = ends.iter().enumerate().map(weigh).collect();
        let mean = history.mix(&weights, x)?;
        let of_z = of(&ends, |e| e.s.sigma * (1. - e.decay().powf(2. * self.eta)).max(0.).sqrt());
        if self.eta == 0. || of_z.iter().all(|&v| v == 0.) {
            return Ok(mean);
        }
        mean + sum(&[(of_z, &z.normal_like(x)?)])
    }

    /// The numbers of x and of the remembered x0, given their `lambdas`, newest (at t) first.
    fn weights(self, e: &Interval, lambdas: &[f64], order: usize) -> [f64; 1 + KEPT] {
        let h = e.h();
        let total = e.decay().powf(1. + self.eta); // e^-H
        let x = e.keep() * e.decay().powf(self.eta);
        let constant = if self.eta == 0. { e.gain() } else { e.s.alpha * (1. - total) };
        let known = order.min(lambdas.len());
        if known < 2 || !h.is_finite() || h == 0. {
            return [x, constant, 0., 0.];
        }
        let big_h = (1. + self.eta) * h;
        let phi2 = (-big_h).exp_m1() / big_h + 1.;
        let r0 = (lambdas[0] - lambdas[1]) / h;
        if known == 2 {
            let c = match self.second {
                Second::Midpoint => 0.5 * constant,
                Second::Heun => e.s.alpha * phi2,
            } / r0;
            return [x, constant + c, -c, 0.];
        }
        let half = if self.sign_of_diffusers && self.eta > 0. { -0.5 } else { 0.5 };
        let (b1, b2) = (e.s.alpha * phi2, e.s.alpha * (phi2 / big_h - half));
        let r1 = (lambdas[1] - lambdas[2]) / h;
        // D1 = d0 + q (d0 - d1), D2 = (d0 - d1)/(r0 + r1) of the divided differences d0 = (m0 - m1)/r0, d1 = (m1 - m2)/r1
        let q = r0 / (r0 + r1);
        let c = b1 * q - b2 / (r0 + r1);
        let (of_d0, of_d1) = ((b1 + c) / r0, -c / r1);
        [x, constant + of_d0, of_d1 - of_d0, -of_d1]
    }
}
