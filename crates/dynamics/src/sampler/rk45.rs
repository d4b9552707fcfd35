//! Dormand-Prince 5(4) on the probability-flow ODE, in the angle atan(sigma/alpha), with steps of each sample's own size.
//! \[Song21, section 4.3; Dormand & Prince 1980\]

use super::{Sampler, Step, Stepper, above_zero};
use crate::Denoiser;
use crate::ode::{Field, Place, Solver, State, angle, radii};
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::{PerSample, choose, combine, scale};
use serde::{Deserialize, Serialize};

/// Adaptive: it stops at the times of the grid, and steps between them as the tolerance asks (2 steps are enough).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rk45 {
    /// Absolute error of a step, in units of the data.
    pub atol: f64,
    /// Error of a step relative to x.
    pub rtol: f64,
    /// Steps tried, at most, between two times of the grid.
    pub max_steps: usize,
}

struct Rk45Run<'a> {
    options: &'a Rk45,
    pace: Vec<f64>, // the last step size of each sample
}

impl Default for Rk45 {
    fn default() -> Self {
        Self { atol: 1e-4, rtol: 1e-4, max_steps: 1000 }
    }
}

impl Named for Rk45 {
    const NAME: &'static str = "rk45";
    const ABOUT: &'static str =
        "probability-flow ODE, adaptive Dormand-Prince 5(4), each sample at its own pace [Song21]";
}

impl Sampler for Rk45 {
    fn check(&self) -> Result<()> {
        above_zero("atol", self.atol)?;
        above_zero("rtol", self.rtol)?;
        above_zero("max_steps", self.max_steps as f64)
    }

    fn start(&self, _times: &[f64]) -> Box<dyn Stepper + '_> {
        Box::new(Rk45Run { options: self, pace: vec![] })
    }

    fn order(&self) -> Option<u32> {
        Some(5)
    }
}

impl Stepper for Rk45Run<'_> {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, Step { t, s }: Step, _: &mut Noise) -> Result<Tensor> {
        let (process, &Rk45 { atol, rtol, max_steps }) = (m.process(), self.options);
        let (n, low) = (x.dim(0)?, process.span().0);
        // clean data are out of the model's reach: the ODE ends at the span's low end, and is denoised from there
        let to: Vec<f64> = (0..n).map(|i| if s.at(i) > 0. { s.at(i) } else { low.min(t.at(i)) }).collect();
        let from: Vec<f64> = (0..n).map(|i| angle(process, t.at(i))).collect();
        let end: Vec<f64> = to.iter().map(|&t| angle(process, t)).collect();
        if self.pace.len() != n {
            self.pace = vec![0.05; n];
        }
        let solver = Solver { name: "rk45", atol, rtol, max_steps };
        let start = State { y: scale(x, &radii(process, t, |r| 1. / r))?, beside: vec![vec![]; n] };
        let (state, _) = solver.solve(&mut Flow(m), start, (from, end), &mut self.pace)?;
        let x = scale(&state.y, &radii(process, &to, |r| r))?;
        if (0..n).all(|i| s.at(i) > 0.) {
            return Ok(x);
        }
        choose(&(0..n).map(|i| s.at(i) > 0.).collect::<Vec<_>>(), &x, &m.x0(&x, &to)?)
    }
}

/// The probability-flow ODE alone.
struct Flow<'a>(&'a dyn Denoiser);

impl Field for Flow<'_> {
    fn slope(&mut self, rows: &[u32], theta: &[f64], y: &Tensor) -> Result<State> {
        let place = Place::at(self.0.process(), y, theta)?;
        let (a, b) = place.factors();
        let x0 = self.0.x0(&place.x, &place.t)?;
        Ok(State { y: combine(&a, y, &b, &x0)?, beside: vec![vec![]; rows.len()] })
    }

    fn whole_batch(&self) -> bool {
        self.0.whole_batch()
    }
}
