//! EDM's stochastic sampler: raise the noise a little, then Heun from there. \[Karras22, Alg. 2\]
//!
//! The paper's sigma is sigma/alpha for processes that scale the data; raising it from t to t' is the forward step
//! x_t' = r x + S_noise sqrt(sigma_t'^2 - r^2 sigma_t^2) z, r = alpha_t'/alpha_t.

use super::heun::{STEEP, correct};
use super::parts::transfer::{Interval, euler_step, of, sum};
use super::{Sampler, Step, Stepper, not_negative};
use crate::{Denoiser, Process};
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// Two evaluations a step, one for the last.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EdmStochastic {
    /// Noise raised over the whole run, as a sum of relative gains of sigma; 0 is Heun.
    pub s_churn: f64,
    /// sigma/alpha below which none is added.
    pub s_min: f64,
    /// sigma/alpha above which none is added.
    pub s_max: f64,
    /// Standard deviation of the added noise; slightly above 1 makes up for detail that a network removes.
    pub s_noise: f64,
}

struct EdmRun<'a> {
    options: &'a EdmStochastic,
    steps: usize,
}

impl Default for EdmStochastic {
    fn default() -> Self {
        Self { s_churn: 40., s_min: 0.05, s_max: 50., s_noise: 1. }
    }
}

impl Named for EdmStochastic {
    const NAME: &'static str = "edm-stochastic";
    const ABOUT: &'static str = "Heun with noise added back at every step [Karras22, Alg. 2]";
}

impl Sampler for EdmStochastic {
    fn check(&self) -> Result<()> {
        not_negative("s_churn", self.s_churn)?;
        not_negative("s_min", self.s_min)?;
        not_negative("s_max", self.s_max)?;
        not_negative("s_noise", self.s_noise)
    }

    fn start(&self, times: &[f64]) -> Box<dyn Stepper + '_> {
        Box::new(EdmRun { options: self, steps: times.len().saturating_sub(1) })
    }

    fn order(&self) -> Option<u32> {
        (self.s_churn == 0.).then_some(2)
    }
}

impl Stepper for EdmRun<'_> {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, Step { t, s }: Step, z: &mut Noise) -> Result<Tensor> {
        let raised: Vec<f64> = t.iter().map(|&t| self.options.raised(m.process(), t, self.steps)).collect();
        let x = if raised == t { x.clone() } else { self.options.churn(m.process(), x, t, &raised, z)? };
        let step = Step { t: &raised, s };
        let ends = step.intervals(m.process())?;
        let x0 = m.x0(&x, &raised)?;
        let euler = euler_step(&ends, &x, &x0)?;
        if step.is_final() {
            return Ok(euler);
        }
        correct(m, &ends, &x, &x0, &euler, step, STEEP)
    }
}

impl EdmStochastic {
    /// The time whose sigma/alpha is 1 + gamma times that of `t`, within the span, in a run of so many steps.
    fn raised(&self, process: &dyn Process, t: f64, steps: usize) -> f64 {
        let sigma = (-0.5 * process.log_snr(t)).exp();
        let gamma = (self.s_churn / steps.max(1) as f64).min(2f64.sqrt() - 1.);
        if gamma <= 0. || !(self.s_min..=self.s_max).contains(&sigma) {
            return t;
        }
        process.t_at(-2. * (sigma * (1. + gamma)).ln()).max(t)
    }

    fn churn(&self, process: &dyn Process, x: &Tensor, t: &[f64], raised: &[f64], z: &mut Noise) -> Result<Tensor> {
        let up = Step { t: raised, s: t }.intervals(process)?; // from t up to raised: s is the less noisy end
        let noise = z.normal_like(x)?;
        sum(&[(of(&up, Interval::ratio), x), (of(&up, |e| self.s_noise * e.variance().sqrt()), &noise)])
    }
}
