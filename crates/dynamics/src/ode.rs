//! Dormand-Prince 5(4) with steps of each sample's own size, and the variable in which the probability-flow ODE is smooth.
//! [Dormand & Prince 1980; PI control: Hairer & Wanner II, IV.2]
//!
//! The variable is the angle theta = atan(sigma/alpha), in which y = x / sqrt(alpha^2 + sigma^2) obeys
//! dy/dtheta = cos(theta) eps - sin(theta) x0. It is smooth and finite from pure noise (pi/2) to data (0), and the same
//! curve for every process. Sample n has its own theta, and steps by its own error.

use crate::{Marginal, Process};
use candle_core::{Result, Tensor, bail};
use langevin_ops::shape::{choose, mean_per_sample, scale, to_host};

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

/// Points, and numbers of each sample that are integrated beside them.
pub(crate) struct State {
    /// `[B, ...]`.
    pub y: Tensor,
    /// As many for each of the B samples; empty where nothing is.
    pub beside: Vec<Vec<f64>>,
}

/// What is integrated: d State / d theta.
pub(crate) trait Field {
    /// The derivative for the samples `rows` of the batch, at `theta`, each sample's own.
    fn slope(&mut self, rows: &[u32], theta: &[f64], y: &Tensor) -> Result<State>;

    /// Told before each step of the samples `going`, which are still on their way. Whether this made another field of it,
    /// whose slope at the start of the step is not yet known.
    fn anew(&mut self, _going: &[u32]) -> Result<bool> {
        Ok(false)
    }

    /// Whether `rows` must always be the whole batch.
    fn whole_batch(&self) -> bool;

    /// Told after each step which part of the way lies behind, on the mean over samples.
    fn watch(&mut self, _part: f64) -> Result<()> {
        Ok(())
    }
}

/// The tolerance of a step.
pub(crate) struct Solver {
    /// Whose options they are, for the message.
    pub name: &'static str,
    /// Absolute error of a step: of y, and of a number beside it a component of y.
    pub atol: f64,
    /// Error of a step relative to y, and to the number beside it.
    pub rtol: f64,
    /// Steps tried at most.
    pub max_steps: usize,
}

/// Samples still on their way.
struct Rows {
    id: Vec<u32>,
    theta: Vec<f64>,
    from: Vec<f64>,
    end: Vec<f64>,
    h: Vec<f64>,
    last: Vec<f64>, // the error of the last accepted step
    at: State,
    k: Option<State>, // the slope there, once known
}

impl State {
    fn select(&self, rows: &[u32]) -> Result<Self> {
        let index = Tensor::new(rows, self.y.device())?;
        let beside = rows.iter().map(|&i| self.beside[i as usize].clone()).collect();
        Ok(Self { y: self.y.index_select(&index, 0)?, beside })
    }

    /// `self` where `mask`, else `other`, sample by sample.
    fn choose(self, mask: &[bool], other: &Self) -> Result<Self> {
        let pairs = mask.iter().zip(self.beside.into_iter().zip(&other.beside));
        let beside = pairs.map(|(&mask, (a, b))| if mask { a } else { b.clone() }).collect();
        Ok(Self { y: choose(mask, &self.y, &other.y)?, beside })
    }

    fn plus(&self, d: &Self) -> Result<Self> {
        let sum = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a + b).collect();
        Ok(Self { y: (&self.y + &d.y)?, beside: self.beside.iter().zip(&d.beside).map(sum).collect() })
    }
}

impl Rows {
    fn keep(&mut self, rows: &[u32]) -> Result<()> {
        (self.at, self.k) = (self.at.select(rows)?, self.k.take().map(|k| k.select(rows)).transpose()?);
        self.id = rows.iter().map(|&i| self.id[i as usize]).collect();
        for v in [&mut self.theta, &mut self.from, &mut self.end, &mut self.h, &mut self.last] {
            *v = rows.iter().map(|&i| v[i as usize]).collect();
        }
        Ok(())
    }

    fn arrived(&self, i: usize) -> bool {
        self.theta[i] == self.end[i]
    }
}

impl Solver {
    /// The state at `end` from that at `from`, each sample's own, and how often each sample was asked about. `pace` is the
    /// size of each sample's first step, and afterwards of its last.
    ///
    /// A sample that comes to NaN is lost, and has it at its end; the others go on.
    pub fn solve(
        &self,
        field: &mut dyn Field,
        at: State,
        (from, end): (Vec<f64>, Vec<f64>),
        pace: &mut [f64],
    ) -> Result<(State, Vec<usize>)> {
        let n = from.len();
        let mut evaluations = vec![0; n];
        let (id, theta) = ((0..n as u32).collect(), from.clone());
        let mut rows = Rows { id, theta, from, end, h: pace.to_vec(), last: vec![1e-4; n], at, k: None };
        let mut finished: Vec<(Vec<u32>, State)> = vec![];
        for tried in 0.. {
            let (done, going): (Vec<u32>, Vec<u32>) =
                (0..rows.id.len() as u32).partition(|&i| rows.arrived(i as usize));
            if going.is_empty() {
                finished.push((rows.id, rows.at));
                break;
            }
            if !done.is_empty() && !field.whole_batch() {
                finished.push((done.iter().map(|&i| rows.id[i as usize]).collect(), rows.at.select(&done)?));
                rows.keep(&going)?;
            }
            if tried == self.max_steps {
                bail!(
                    "{}: after {tried} steps {} of {n} samples are not at the next time; raise atol and rtol \
                     (now {:e}, {:e}) or max_steps",
                    self.name,
                    going.len(),
                    self.atol,
                    self.rtol
                );
            }
            self.attempt(field, &mut rows, pace, &mut evaluations)?;
            let part = |i: usize| (rows.theta[i] - rows.from[i]) / (rows.end[i] - rows.from[i]);
            let parts = (0..rows.id.len()).map(|i| if rows.arrived(i) { 1. } else { part(i) });
            field.watch((parts.sum::<f64>() + (n - rows.id.len()) as f64) / n as f64)?;
        }
        let mut place = vec![0u32; n]; // where in the finished rows sample i is
        for (row, &id) in finished.iter().flat_map(|(ids, _)| ids).enumerate() {
            place[id as usize] = row as u32;
        }
        let y = Tensor::cat(&finished.iter().map(|(_, state)| &state.y).collect::<Vec<_>>(), 0)?;
        let beside = finished.into_iter().flat_map(|(_, state)| state.beside).collect();
        Ok((State { y, beside }.select(&place)?, evaluations))
    }

    /// One step of every row: taken where its error allows, and the size of the next in any case.
    fn attempt(
        &self,
        field: &mut dyn Field,
        rows: &mut Rows,
        pace: &mut [f64],
        evaluations: &mut [usize],
    ) -> Result<()> {
        let n = rows.id.len();
        let going: Vec<u32> = (0..n).filter(|&i| !rows.arrived(i)).map(|i| rows.id[i]).collect();
        let anew = field.anew(&going)?;
        let (first, asked) = match rows.k.take() {
            Some(known) if !anew => (known, 6),
            _ => (field.slope(&rows.id, &rows.theta, &rows.at.y)?, 7),
        };
        for (i, &id) in rows.id.iter().enumerate() {
            evaluations[id as usize] += if rows.arrived(i) { 0 } else { asked };
        }
        let h: Vec<f64> = (0..n)
            .map(|i| {
                let left = rows.end[i] - rows.theta[i];
                if rows.h[i] >= left.abs() { left } else { rows.h[i].copysign(left) }
            })
            .collect();
        let mut k: Vec<State> = vec![];
        let mut next = State { y: rows.at.y.clone(), beside: rows.at.beside.clone() };
        for stage in 1..7 {
            let so_far: Vec<&State> = std::iter::once(&first).chain(&k).collect();
            next = rows.at.plus(&along(A[stage], &so_far, &h)?)?;
            let theta: Vec<f64> = (0..n).map(|i| rows.theta[i] + C[stage] * h[i]).collect();
            k.push(field.slope(&rows.id, &theta, &next.y)?);
        }
        let all: Vec<&State> = std::iter::once(&first).chain(&k).collect();
        let error = self.relative(&along(&E, &all, &h)?, &rows.at, &next)?;
        let taken: Vec<bool> = error.iter().map(|e| e.is_nan() || *e <= 1.).collect(); // a NaN is one sample lost, not the batch
        rows.at = next.choose(&taken, &rows.at)?;
        if let Some(last) = k.pop() {
            rows.k = Some(last.choose(&taken, &first)?);
        }
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
                pace[rows.id[i] as usize] = rows.h[i];
            } else {
                rows.h[i] = h[i].abs() * (0.9 * e.powf(-0.2)).clamp(0.2, 1.);
            }
        }
        Ok(())
    }

    /// The error of each sample in units of its tolerance: of y the root mean square of error / (atol + rtol max(|y|,
    /// |next|)); of each number beside it the same with atol a component of y; the largest of them.
    fn relative(&self, error: &State, at: &State, next: &State) -> Result<Vec<f64>> {
        let bound = at.y.abs()?.maximum(&next.y.abs()?)?.affine(self.rtol, self.atol)?;
        let of_y = to_host(&mean_per_sample(&(&error.y / bound)?.sqr()?)?)?;
        let atol = self.atol * (at.y.elem_count() / of_y.len().max(1)) as f64;
        let beside = |i: usize| {
            let pairs = error.beside[i].iter().zip(at.beside[i].iter().zip(&next.beside[i]));
            pairs.map(|(e, (a, b))| e.abs() / (atol + self.rtol * a.abs().max(b.abs())))
        };
        // unlike f64::max, this keeps a NaN
        let larger = |a: f64, b: f64| if a >= b || a.is_nan() { a } else { b };
        Ok(of_y.into_iter().enumerate().map(|(i, e)| beside(i).fold(e.sqrt(), larger)).collect())
    }
}

/// h times the sum of slopes, each with its weight.
fn along(weights: &[f64], k: &[&State], h: &[f64]) -> Result<State> {
    let mut y: Option<Tensor> = None;
    let mut beside: Vec<Vec<f64>> = k.first().map(|k| k.beside.clone()).unwrap_or_default();
    beside.iter_mut().flatten().for_each(|v| *v = 0.);
    for (w, k) in weights.iter().zip(k).filter(|(w, _)| **w != 0.) {
        let of: Vec<f64> = h.iter().map(|h| w * h).collect();
        let term = scale(&k.y, &of)?;
        y = Some(match y {
            None => term,
            Some(y) => (y + term)?,
        });
        for ((sums, k), h) in beside.iter_mut().zip(&k.beside).zip(&of) {
            sums.iter_mut().zip(k).for_each(|(sum, k)| *sum += h * k);
        }
    }
    match y {
        Some(y) => Ok(State { y, beside }),
        None => bail!("a sum of no slopes"),
    }
}

/// theta = atan(sigma/alpha).
pub(crate) fn angle(process: &dyn Process, t: f64) -> f64 {
    let m = process.marginal(t);
    m.sigma.atan2(m.alpha)
}

/// `f` of sqrt(alpha^2 + sigma^2), by which x = y times it.
pub(crate) fn radii(process: &dyn Process, t: &[f64], f: impl Fn(f64) -> f64) -> Vec<f64> {
    crate::denoiser::each(process, t, |m| f(m.alpha.hypot(m.sigma)))
}

/// What a model is asked about y at `theta`.
pub(crate) struct Place {
    /// x = y sqrt(alpha^2 + sigma^2).
    pub x: Tensor,
    /// The time of each sample.
    pub t: Vec<f64>,
    marginals: Vec<Marginal>,
}

impl Place {
    /// Of `y` at `theta`, each sample's own.
    pub fn at(process: &dyn Process, y: &Tensor, theta: &[f64]) -> Result<Self> {
        let t: Vec<f64> = theta.iter().map(|theta| process.t_at(-2. * theta.tan().ln())).collect();
        // the marginal of that very t, so that a clamp at an end of the span does no harm
        let marginals: Vec<_> = t.iter().map(|&t| process.marginal(t)).collect();
        let x = scale(y, &marginals.iter().map(|m| m.alpha.hypot(m.sigma)).collect::<Vec<_>>())?;
        Ok(Self { x, t, marginals })
    }

    /// (a, b) of each sample in dy/dtheta = a y + b x0 = (alpha eps - sigma x0)/r, where eps = (r y - alpha x0)/sigma.
    pub fn factors(&self) -> (Vec<f64>, Vec<f64>) {
        let of = |m: &Marginal| (m.alpha / m.sigma, -m.alpha.hypot(m.sigma) / m.sigma);
        self.marginals.iter().map(of).unzip()
    }
}
