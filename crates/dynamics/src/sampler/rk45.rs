//! Dormand-Prince 5(4) on the probability-flow ODE, with steps of each sample's own size.
//! [Dormand & Prince 1980; PI control: Hairer & Wanner II, IV.2]
//!
//! The variable is the angle theta = atan(sigma/alpha), in which y = x / sqrt(alpha^2 + sigma^2) obeys
//! dy/dtheta = cos(theta) eps - sin(theta) x0. It is smooth and finite from pure noise (pi/2) to data (0), and the same
//! curve for every process. Sample n has its own theta, and steps by its own error.

use super::{Sampler, above_zero};
use crate::mcmc::choose;
use crate::{Denoiser, Process};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::{mean_per_sample, scale, to_host};
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
    #[serde(skip)]
    pace: Vec<f64>, // the last step size of each sample
}

impl Default for Rk45 {
    fn default() -> Self {
        Self { atol: 1e-4, rtol: 1e-4, max_steps: 1000, pace: vec![] }
    }
}

impl Named for Rk45 {
    const NAME: &'static str = "rk45";
    const ABOUT: &'static str =
        "probability-flow ODE, adaptive Dormand-Prince 5(4), each sample at its own pace [Song21]";
}

// the tableau: rows of A; row 6 is the 5th-order result; E is 5th minus 4th order
const C: [f64; 7] = [0., 0.2, 0.3, 0.8, 8. / 9., 1., 1.];
const A: [&[f64]; 7] = [
    &[],
    &[1. / 5.],
    &[3. / 40., 9. / 40.],
    &[44. / 45., -56. / 15., 32. / 9.],
    &[19372. / 6561., -25360. / 2187., 64448. / 6561., -212. / 729.],
    &[9017. / 3168., -355. / 33., 46732. / 5247., 49. / 176., -5103. / 18656.],
    &[35. / 384., 0., 500. / 1113., 125. / 192., -2187. / 6784., 11. / 84.],
];
const E: [f64; 7] = [71. / 57600., 0., -71. / 16695., 71. / 1920., -17253. / 339200., 22. / 525., -1. / 40.];

impl Sampler for Rk45 {
    fn check(&self) -> Result<()> {
        above_zero("atol", self.atol)?;
        above_zero("rtol", self.rtol)?;
        above_zero("max_steps", self.max_steps as f64)
    }

    fn begin(&mut self, _: &[f64]) {
        self.pace.clear();
    }

    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, t: &[f64], s: &[f64], _: &mut Noise) -> Result<Tensor> {
        let process = m.process();
        let (n, low) = (x.dim(0)?, process.span().0);
        let at = |v: &[f64], i: usize| v[if v.len() == 1 { 0 } else { i }];
        // clean data are out of the model's reach: the ODE ends at the span's low end, and is denoised from there
        let to: Vec<f64> = (0..n).map(|i| if at(s, i) > 0. { at(s, i) } else { low.min(at(t, i)) }).collect();
        let from: Vec<f64> = (0..n).map(|i| angle(process, at(t, i))).collect();
        let end: Vec<f64> = to.iter().map(|&t| angle(process, t)).collect();
        let y = scale(x, &radii(process, t, |r| 1. / r))?;
        let y = self.solve(m, y, from, end)?;
        let x = scale(&y, &radii(process, &to, |r| r))?;
        if (0..n).all(|i| at(s, i) > 0.) {
            return Ok(x);
        }
        choose(&(0..n).map(|i| at(s, i) > 0.).collect::<Vec<_>>(), &x, &m.x0(&x, &to)?)
    }

    fn order(&self) -> Option<u32> {
        Some(5)
    }
}

/// theta = atan(sigma/alpha).
fn angle(process: &dyn Process, t: f64) -> f64 {
    let m = process.marginal(t);
    m.sigma.atan2(m.alpha)
}

fn radii(process: &dyn Process, t: &[f64], f: impl Fn(f64) -> f64) -> Vec<f64> {
    crate::denoiser::each(process, t, |m| f(m.alpha.hypot(m.sigma)))
}

/// dy/dtheta at `theta`, each sample's own.
fn slope(m: &dyn Denoiser, y: &Tensor, theta: &[f64]) -> Result<Tensor> {
    let t: Vec<f64> = theta.iter().map(|theta| m.process().t_at(-2. * theta.tan().ln())).collect();
    // the marginal of that very t, so that a clamp at an end of the span does no harm
    let marginals: Vec<_> = t.iter().map(|&t| m.process().marginal(t)).collect();
    let of = |f: fn(f64, f64) -> f64| marginals.iter().map(|m| f(m.alpha, m.sigma)).collect::<Vec<_>>();
    let x = scale(y, &of(|a, s| a.hypot(s)))?;
    let x0 = m.x0(&x, &t)?;
    // v = (alpha eps - sigma x0)/r with eps = (x - alpha x0)/sigma
    scale(y, &of(|a, s| a / s))? - scale(&x0, &of(|a, s| a.hypot(s) / s))?
}

/// Samples still on their way.
struct Rows {
    id: Vec<u32>,
    theta: Vec<f64>,
    end: Vec<f64>,
    h: Vec<f64>,
    last: Vec<f64>, // the error of the last accepted step
    y: Tensor,
    k: Tensor, // the slope at y
}

impl Rows {
    fn keep(&mut self, rows: &[u32]) -> Result<()> {
        let index = Tensor::new(rows, self.y.device())?;
        (self.y, self.k) = (self.y.index_select(&index, 0)?, self.k.index_select(&index, 0)?);
        self.id = rows.iter().map(|&i| self.id[i as usize]).collect();
        for v in [&mut self.theta, &mut self.end, &mut self.h, &mut self.last] {
            *v = rows.iter().map(|&i| v[i as usize]).collect();
        }
        Ok(())
    }
}

impl Rk45 {
    fn solve(&mut self, m: &dyn Denoiser, y: Tensor, theta: Vec<f64>, end: Vec<f64>) -> Result<Tensor> {
        let n = theta.len();
        if self.pace.len() != n {
            self.pace = vec![0.05; n];
        }
        let k = slope(m, &y, &theta)?;
        let mut rows =
            Rows { id: (0..n as u32).collect(), theta, end, h: self.pace.clone(), last: vec![1e-4; n], y, k };
        let mut finished: Vec<(Vec<u32>, Tensor)> = vec![];
        for tried in 0.. {
            let (going, done): (Vec<u32>, Vec<u32>) =
                (0..rows.id.len() as u32).partition(|&i| rows.theta[i as usize] != rows.end[i as usize]);
            if !done.is_empty() {
                let index = Tensor::new(done.as_slice(), rows.y.device())?;
                let ids = done.iter().map(|&i| rows.id[i as usize]).collect();
                finished.push((ids, rows.y.index_select(&index, 0)?));
                if going.is_empty() {
                    break;
                }
                rows.keep(&going)?;
            }
            if tried == self.max_steps {
                bail!(
                    "rk45: after {tried} steps {} of {n} samples are not at the next time; raise atol and rtol \
                     (now {:e}, {:e}) or max_steps",
                    rows.id.len(),
                    self.atol,
                    self.rtol
                );
            }
            self.attempt(m, &mut rows)?;
        }
        let mut place = vec![0u32; n]; // where in the finished rows sample i is
        for (row, &id) in finished.iter().flat_map(|(ids, _)| ids).enumerate() {
            place[id as usize] = row as u32;
        }
        let all = Tensor::cat(&finished.iter().map(|(_, y)| y).collect::<Vec<_>>(), 0)?;
        all.index_select(&Tensor::new(place, all.device())?, 0)
    }

    /// One step of every row: taken where its error allows, and the size of the next in any case.
    fn attempt(&mut self, m: &dyn Denoiser, rows: &mut Rows) -> Result<()> {
        let n = rows.id.len();
        let h: Vec<f64> = (0..n)
            .map(|i| {
                let left = rows.end[i] - rows.theta[i];
                if rows.h[i] >= left.abs() { left } else { rows.h[i].copysign(left) }
            })
            .collect();
        let along = |weights: &[f64], k: &[Tensor]| -> Result<Option<Tensor>> {
            let mut total: Option<Tensor> = None;
            for (w, k) in weights.iter().zip(k).filter(|(w, _)| **w != 0.) {
                let term = scale(k, &h.iter().map(|h| w * h).collect::<Vec<_>>())?;
                total = Some(match total {
                    None => term,
                    Some(total) => (total + term)?,
                });
            }
            Ok(total)
        };
        let mut k = vec![rows.k.clone()];
        let mut next = rows.y.clone();
        for stage in 1..7 {
            next = match along(A[stage], &k)? {
                Some(dy) => (&rows.y + dy)?,
                None => rows.y.clone(),
            };
            let theta: Vec<f64> = (0..n).map(|i| rows.theta[i] + C[stage] * h[i]).collect();
            k.push(slope(m, &next, &theta)?);
        }
        let error = match along(&E, &k)? {
            Some(error) => self.relative(&error, &rows.y, &next)?,
            None => vec![0.; n],
        };
        let taken: Vec<bool> = error.iter().map(|e| e.is_nan() || *e <= 1.).collect(); // a NaN is one sample lost, not the batch
        rows.y = choose(&taken, &next, &rows.y)?;
        rows.k = choose(&taken, &k[6], &rows.k)?;
        for i in 0..n {
            let e = error[i].max(1e-10);
            if error[i].is_nan() {
                rows.theta[i] = rows.end[i];
            } else if taken[i] {
                let factor = (0.9 * e.powf(-0.7 / 5.) * rows.last[i].powf(0.4 / 5.)).clamp(0.2, 10.);
                let arrives = h[i] == rows.end[i] - rows.theta[i];
                rows.theta[i] = if arrives { rows.end[i] } else { rows.theta[i] + h[i] };
                rows.h[i] = (h[i].abs() * factor).max(if arrives { rows.h[i] } else { 0. });
                rows.last[i] = e.max(1e-4);
                self.pace[rows.id[i] as usize] = rows.h[i];
            } else {
                rows.h[i] = h[i].abs() * (0.9 * e.powf(-0.2)).clamp(0.2, 1.);
            }
        }
        Ok(())
    }

    /// The error of each sample in units of its tolerance: root mean square of error / (atol + rtol max(|y|, |next|)).
    fn relative(&self, error: &Tensor, y: &Tensor, next: &Tensor) -> Result<Vec<f64>> {
        let bound = y.abs()?.maximum(&next.abs()?)?.affine(self.rtol, self.atol)?;
        Ok(to_host(&mean_per_sample(&(error / bound)?.sqr()?)?)?.into_iter().map(f64::sqrt).collect())
    }
}
