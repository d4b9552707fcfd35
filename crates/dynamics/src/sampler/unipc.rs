//! UniPC: a multistep predictor whose result is corrected by the model's next x0, at no extra evaluation.
//! \[Zhao23, "UniPC", 2302.04867, Alg. 1 and 2 with B(h), data prediction\]
//!
//! x_s = keep x + gain m0 - alpha_s B(h) sum_k rho_k (m_k - m0) / r_k, where m_k are remembered x0 at lambda_k,
//! r_k = (lambda_k - lambda_t)/h, and rho solves R rho = b (their eq. 8); the corrector has the new x0 among them, r = 1.

use super::parts::multistep::{Extrapolate, History};
use super::parts::transfer::{Interval, euler_step, of, sum};
use super::{Sampler, Step, Stepper};
use crate::Denoiser;
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// The function B(h), which changes terms beyond the order alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bh {
    /// B = -h.
    Bh1,
    /// B = e^-h - 1.
    #[default]
    Bh2,
}

/// One evaluation a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UniPc {
    /// Order of the predictor, 1 to 3; the corrector adds one.
    pub order: usize,
    /// The function B(h).
    pub bh: Bh,
    /// Whether to correct.
    pub corrector: bool,
    /// Steps, counted from 0, whose result is not corrected all the same.
    pub disable_corrector: Vec<usize>,
    /// What is extrapolated.
    pub extrapolate: Extrapolate,
    /// Whether the last steps are of lower order.
    pub lower_order_final: bool,
}

/// A run: what was told so far.
struct UniPcRun<'a> {
    options: &'a UniPc,
    history: History,
    last: Option<Last>,
}

/// The step before: where it began, and with which order.
struct Last {
    x: Tensor,
    t: Vec<f64>,
    order: usize,
}

impl Default for UniPc {
    fn default() -> Self {
        Self {
            order: 2,
            bh: Bh::default(),
            corrector: true,
            disable_corrector: vec![],
            extrapolate: Extrapolate::default(),
            lower_order_final: true,
        }
    }
}

impl Named for UniPc {
    const NAME: &'static str = "unipc";
    const ABOUT: &'static str = "UniPC: multistep predictor-corrector for the probability-flow ODE [Zhao23]";
}

impl Sampler for UniPc {
    fn check(&self) -> Result<()> {
        if !(1..=3).contains(&self.order) {
            bail!("order is {}; it must be 1, 2 or 3", self.order);
        }
        Ok(())
    }

    fn start(&self, times: &[f64]) -> Box<dyn Stepper + '_> {
        Box::new(UniPcRun { options: self, history: History::new(times), last: None })
    }

    fn order(&self) -> Option<u32> {
        // the last step is not corrected, and of order 1
        Some(if self.order > 1 || self.corrector { 2 } else { 1 })
    }
}

impl Stepper for UniPcRun<'_> {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, _: &mut Noise) -> Result<Tensor> {
        let options = self.options;
        let x0 = m.x0(x, step.t)?;
        let m0 = options.extrapolate.of(m.process(), x, &x0, step.t)?;
        let done = self.history.done();
        let x = match self.last.take() {
            Some(last) if options.corrector && !options.disable_corrector.contains(&(done - 1)) => {
                self.correct(m, &last, step.t, &m0)?
            }
            _ => x.clone(),
        };
        self.history.push(m.process(), step.t, &m0);
        let order = options.order.clamp(1, 3);
        let order = if options.lower_order_final { order.min(self.history.left()) } else { order };
        let ends = step.intervals(m.process())?;
        if options.extrapolate == Extrapolate::Eps && ends.iter().any(|e| !e.h().is_finite()) {
            return euler_step(&ends, &x, &x0); // and the next x is not corrected
        }
        let each = ends.iter().enumerate();
        let weigh = |(i, e)| options.predictor(&options.extrapolate.interval(e), &self.lambdas(i), order);
        let weights: Vec<_> = each.map(weigh).collect();
        let next = self.history.mix(&weights, &x)?;
        self.last = Some(Last { x, t: step.t.to_vec(), order });
        Ok(next)
    }
}

impl UniPcRun<'_> {
    /// What the formulas take for lambda, newest first.
    fn lambdas(&self, i: usize) -> Vec<f64> {
        self.options.extrapolate.lambdas(self.history.lambdas(i))
    }

    /// x at `t` again, from where the last step began, now that what is extrapolated is known there: `m0`.
    fn correct(&self, m: &dyn Denoiser, last: &Last, t: &[f64], m0: &Tensor) -> Result<Tensor> {
        let ends = Step { t: &last.t, s: t }.intervals(m.process())?;
        let each = ends.iter().enumerate();
        let weigh =
            |(i, e)| self.options.corrector(&self.options.extrapolate.interval(e), &self.lambdas(i), last.order);
        let weights: Vec<_> = each.map(weigh).collect();
        let old = self.history.mix(&of(&weights, |w| [w[0], w[1], w[2], w[3]]), &last.x)?;
        old + sum(&[(of(&weights, |w| w[4]), m0)])
    }
}

impl UniPc {
    /// The numbers of x and of the remembered x0.
    fn predictor(&self, e: &Interval, lambdas: &[f64], order: usize) -> [f64; 4] {
        let (h, order) = (e.h(), order.min(lambdas.len()));
        let mut w = [e.keep(), e.gain(), 0., 0.];
        if order < 2 || !h.is_finite() || h == 0. {
            return w;
        }
        let r: Vec<f64> = lambdas[1..order].iter().map(|l| (l - lambdas[0]) / h).collect();
        let (b, scale) = self.right_side(h, order - 1);
        let rho = if order == 2 { vec![0.5] } else { vandermonde(&r, &b) };
        spread(&mut w, -e.s.alpha * scale, &rho, &r);
        w
    }

    /// The numbers of x, of the x0 remembered then, and of the new x0.
    fn corrector(&self, e: &Interval, lambdas: &[f64], order: usize) -> [f64; 5] {
        let (h, order) = (e.h(), order.min(lambdas.len()).max(1));
        let mut w = [e.keep(), e.gain(), 0., 0.];
        if !h.is_finite() {
            // from alpha = 0: the trapezoid in alpha/sigma, the limit of order 1 with bh2
            return [w[0], 0.5 * w[1], 0., 0., 0.5 * w[1]];
        }
        let mut r: Vec<f64> = lambdas[1..order].iter().map(|l| (l - lambdas[0]) / h).collect();
        r.push(1.);
        let (b, scale) = self.right_side(h, order);
        let mut rho = if order == 1 { vec![0.5] } else { vandermonde(&r, &b) };
        let new = -e.s.alpha * scale * rho.pop().unwrap_or(0.);
        spread(&mut w, -e.s.alpha * scale, &rho, &r);
        [w[0], w[1] - new, w[2], w[3], new]
    }

    /// b_1..b_n and B(h).
    fn right_side(&self, h: f64, n: usize) -> (Vec<f64>, f64) {
        let scale = match self.bh {
            Bh::Bh1 => -h,
            Bh::Bh2 => (-h).exp_m1(),
        };
        // b_i = i! h phi_(i+1)(-h) / B with phi_(k+1) = (phi_k - 1/k!)/(-h)
        let (mut phi, mut factorial) = ((-h).exp_m1() / -h - 1., 1.);
        let b = (1..=n).map(|i| {
            let b = phi * factorial / scale;
            factorial *= (i + 1) as f64;
            phi = phi / -h - 1. / factorial;
            b
        });
        (b.collect(), scale)
    }
}

/// Adds `scale sum_k rho_k (m_k - m0) / r_k` to the numbers of x, m0, m1, m2.
fn spread(w: &mut [f64; 4], scale: f64, rho: &[f64], r: &[f64]) {
    for (k, (rho, r)) in rho.iter().zip(r).enumerate() {
        w[k + 2] = scale * rho / r;
        w[1] -= scale * rho / r;
    }
}

/// rho with sum_k r_k^(i-1) rho_k = b_i, by Gauss with pivoting; at most 3 unknowns.
fn vandermonde(r: &[f64], b: &[f64]) -> Vec<f64> {
    let n = r.len();
    let mut a: Vec<Vec<f64>> = (0..n).map(|i| r.iter().map(|r| r.powi(i as i32)).chain([b[i]]).collect()).collect();
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs())).unwrap_or(k);
        a.swap(k, pivot);
        for i in k + 1..n {
            let (f, row) = (a[i][k] / a[k][k], a[k].clone());
            a[i].iter_mut().zip(row).for_each(|(a, b)| *a -= f * b);
        }
    }
    let mut rho = vec![0.; n];
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| a[i][j] * rho[j]).sum();
        rho[i] = (a[i][n] - known) / a[i][i];
    }
    rho
}
