//! Energies of noisy data: E(x, t) with p_t in proportion to exp(-E(., t)), and its derivatives in x and in t.
//!
//! A network that is a gradient, F = grad h, under a parametrisation has the energy
//! E(x, t) = a |x|^2 + b h(c_in x, c_noise) \[Salimans & Ho 2021\]. Where it also knows its normaliser at every noise level,
//! E gains D/2 ln(2 pi (alpha^2 sigma_data^2 + sigma^2)) + n(c_noise), and -E is log p_t up to one constant. \[Guth25\]

use crate::denoiser::{Denoiser, Preconditioned};
use candle_core::{Result, Tensor, bail};
use langevin_ops::grad;
use langevin_ops::shape::{PerSample, combine, scale, sum_per_sample};
use std::f64::consts::PI;

/// The energy at one place, with its derivatives.
#[derive(Clone, Debug)]
pub struct Jet {
    /// E(x, t), `[B]`.
    pub energy: Tensor,
    /// grad_x E, the shape of x: minus the score.
    pub gradient: Tensor,
    /// dE/dt at fixed x, `[B]`.
    pub dt: Tensor,
}

/// A denoiser whose score is the gradient of an energy. Times are one for all samples or one a sample, where sigma(t) > 0.
pub trait NoisyEnergy: Denoiser {
    /// E(x, t), `[B]`, made of operations that can be differentiated unless a model says otherwise: the score is -grad_x E.
    fn energy_at(&self, x: &Tensor, t: &[f64]) -> Result<Tensor>;

    /// E `[B]` and grad_x E, the shape of `x`, in one pass.
    fn energy_grad(&self, x: &Tensor, t: &[f64]) -> Result<(Tensor, Tensor)> {
        grad::gradient(x, |x| self.energy_at(x, t))
    }

    /// E, grad_x E and dE/dt in one pass. Inside `grad::value_and_grad` they can be differentiated again.
    fn jet(&self, x: &Tensor, t: &[f64]) -> Result<Jet>;

    /// Whether exp(-E(., t)) is meant to have one integral at every t. Otherwise its constant is free at each t: values at
    /// different times cannot be compared.
    fn normalised(&self) -> bool;
}

/// The host numbers that make E of h, at one time.
#[derive(Clone, Copy)]
struct Parts {
    a: f64,
    b: f64,
    c_in: f64,
    c_noise: f64,
    /// ln(2 pi (alpha^2 sigma_data^2 + sigma^2)) / 2, a dimension.
    gaussian: f64,
}

impl Parts {
    fn map(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            a: f(self.a, other.a),
            b: f(self.b, other.b),
            c_in: f(self.c_in, other.c_in),
            c_noise: f(self.c_noise, other.c_noise),
            gaussian: f(self.gaussian, other.gaussian),
        }
    }
}

/// Relative step of the derivatives in t: fourth-order differences in f64 are then good to about 1e-11.
pub(crate) const STEP: f64 = 1e-3;

impl Preconditioned<'_> {
    fn parts(&self, t: f64) -> Result<Parts> {
        let m = self.process().marginal(t);
        if m.sigma <= 0. {
            bail!("energy: t = {t} is clean data, where the energy is not defined; give a time above 0");
        }
        let ((a, b), c) = (self.energy_coefficients(t), self.coefficients(t));
        let variance = (m.alpha * self.sigma_data()).powi(2) + m.sigma.powi(2);
        Ok(Parts { a, b, c_in: c.c_in, c_noise: c.c_noise, gaussian: 0.5 * (2. * PI * variance).ln() })
    }

    /// d/dt of [`Preconditioned::parts`].
    fn slopes(&self, t: f64) -> Result<Parts> {
        if self.process().discrete().is_some() {
            bail!("dE/dt: {:?} has steps and no continuous time; use a continuous process such as vp", self.process());
        }
        let at = |by: f64| self.parts(t * (1. + by * STEP));
        let near = at(1.)?.map(at(-1.)?, |up, down| up - down);
        let far = at(2.)?.map(at(-2.)?, |up, down| up - down);
        Ok(near.map(far, |near, far| (8. * near - far) / (12. * STEP * t)))
    }

    fn all<T>(&self, x: &Tensor, t: &[f64], f: impl Fn(f64) -> Result<T>) -> Result<Vec<T>> {
        t.check(x.dim(0)?, "times of the energy")?;
        t.iter().map(|&t| f(t)).collect()
    }
}

/// One number of each.
fn column(parts: &[Parts], f: impl Fn(&Parts) -> f64) -> Vec<f64> {
    parts.iter().map(f).collect()
}

/// One number a sample, `[B]` with the type and device of `x`; `v` is one for all or one a sample.
pub(crate) fn filled(v: &[f64], x: &Tensor) -> Result<Tensor> {
    let batch = x.dim(0)?;
    let v: Vec<f64> = (0..batch).map(|i| v.at(i)).collect();
    Tensor::from_vec(v, batch, x.device())?.to_dtype(x.dtype())
}

impl NoisyEnergy for Preconditioned<'_> {
    fn energy_at(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        let Some(potential) = self.net().potential() else {
            bail!("energy: the network's output is not the gradient of a scalar");
        };
        let parts = self.all(x, t, |t| self.parts(t))?;
        let c_noise = filled(&column(&parts, |p| p.c_noise), x)?;
        let h = potential.h(&scale(x, &column(&parts, |p| p.c_in))?, &c_noise, self.cond())?;
        let energy = combine(&column(&parts, |p| p.a), &sum_per_sample(&x.sqr()?)?, &column(&parts, |p| p.b), &h)?;
        if !potential.normalised() {
            return Ok(energy);
        }
        let numbers = (x.elem_count() / x.dim(0)?.max(1)) as f64;
        energy + (potential.log_normaliser(&c_noise)? + filled(&column(&parts, |p| numbers * p.gaussian), x)?)?
    }

    /// The derivative in t is that in tau at 0, of E with its coefficients c(t) + c'(t) tau: exact, and one pass with that
    /// in x, since both are read off the gradient of one leaf [x, tau].
    fn jet(&self, x: &Tensor, t: &[f64]) -> Result<Jet> {
        let Some(potential) = self.net().potential() else {
            bail!("energy: the network's output is not the gradient of a scalar");
        };
        let (parts, slopes) = (self.all(x, t, |t| self.parts(t))?, self.all(x, t, |t| self.slopes(t))?);
        let shape = x.shape().clone();
        let batch = x.dim(0)?;
        let numbers = shape.elem_count() / batch.max(1);
        let tau = Tensor::zeros((batch, 1), x.dtype(), x.device())?;
        let leaf = Tensor::cat(&[&x.detach().reshape((batch, numbers))?, &tau], 1)?;
        let (energy, gradient) = grad::gradient(&leaf, |leaf| {
            let x = leaf.narrow(1, 0, numbers)?.contiguous()?.reshape(&shape)?;
            let tau = leaf.narrow(1, numbers, 1)?.contiguous()?.reshape(batch)?; // [B]
            let moved = |f: fn(&Parts) -> f64, by: f64| -> Result<Tensor> {
                let part = |parts: &[Parts]| filled(&parts.iter().map(|p| by * f(p)).collect::<Vec<_>>(), &x);
                part(&parts)? + (part(&slopes)? * &tau)?
            };
            let mut ones = vec![1; shape.rank()];
            ones[0] = batch;
            let c_in = moved(|p| p.c_in, 1.)?.reshape(ones)?.broadcast_as(&shape)?;
            let c_noise = moved(|p| p.c_noise, 1.)?;
            let h = potential.h(&(&x * c_in)?, &c_noise, self.cond())?;
            let energy = ((moved(|p| p.a, 1.)? * sum_per_sample(&x.sqr()?)?)? + (moved(|p| p.b, 1.)? * h)?)?;
            if !potential.normalised() {
                return Ok(energy);
            }
            energy + (potential.log_normaliser(&c_noise)? + moved(|p| p.gaussian, numbers as f64)?)?
        })?;
        Ok(Jet {
            energy,
            gradient: gradient.narrow(1, 0, numbers)?.contiguous()?.reshape(&shape)?,
            dt: gradient.narrow(1, numbers, 1)?.contiguous()?.reshape(batch)?,
        })
    }

    fn normalised(&self) -> bool {
        self.net().potential().is_some_and(|potential| potential.normalised())
    }
}
