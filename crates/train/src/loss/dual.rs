//! Dual score matching: the energy's derivative in the noise level is matched beside its gradient in x. \[Guth25\]
//!
//! In y = x/alpha with rho = sigma/alpha, the mean of dE/d ln rho given x is that of D - |eps|^2, as the mean of sigma grad E
//! is that of eps. The loss of a sample is lambda rho^2 (|sigma grad E - eps|^2 / D + w (dE/d ln rho - D + |eps|^2)^2 / 2D):
//! both parts have a variance of at most 1 where nothing is known. The second ties the levels together, so that E has one
//! free constant in place of one a level, and -E is log p_t once that is known. A sample tells it one number where it tells
//! the first D, so that its gradient is the noisier: w is best small, about 1/D as the variances of the two have it (the paper's
//! weights are w = 1/2D).
//!
//! The equation of Fokker and Planck says what that derivative is for a score that is known:
//! dE/d ln rho = sigma^2 (Laplacian of E - |grad E|^2) \[Lai23; Plainer25\]. With w' (dE/d ln rho - that)^2 / 2D in the loss,
//! values agree with what their own score says of them, by the probability flow or by importance sampling. It needs no
//! data, so it can be asked at the model's own samples too, where a sampler comes and data do not. The Laplacian is a second
//! difference of energies along random signs; gradients go through all of it (held fixed on one side it is not stable).

use super::{Denoising, Noisy};
use candle_core::{Result, Tensor, bail};
use langevin_dynamics::noisy::Jet;
use langevin_dynamics::{Denoiser, NoisyEnergy, Preconditioned};
use langevin_ops::shape::{combine, mean_per_sample, scale, sum_per_sample};

/// How far, in units of the noise, the energy's second difference reaches: its rounding in f32 and its bias are then both
/// small beside what one random direction scatters.
const REACH: f64 = 0.03;

impl Denoising {
    /// The loss of each sample, `[B]`; inside `grad::value_and_grad` it can be differentiated in the network's weights.
    ///
    /// `sigma_data` is that of the model. The Fokker-Planck equation counts if `signs` are given: random signs, the shape
    /// of x. Errors if the model has no energy.
    pub fn dual_errors(
        &self,
        model: &Preconditioned,
        sigma_data: f64,
        noisy: &Noisy,
        signs: Option<&Tensor>,
    ) -> Result<Tensor> {
        let jet = energy(model)?.jet(&noisy.x, &noisy.t)?;
        let (rises, d) = (rises(model, &noisy.x, &noisy.t, &jet)?, numbers(&noisy.x));
        let space = (scale(&jet.gradient, &sigmas(model, &noisy.t))? - &noisy.eps)?;
        let known = (sum_per_sample(&noisy.eps.sqr()?)? - d)?;
        let mut loss = (mean_per_sample(&space.sqr()?)? + ((&rises + known)?.sqr()? * (self.time / (2. * d)))?)?;
        if let Some(signs) = signs {
            let off = (rises - flow(model, &noisy.x, &noisy.t, &jet, signs)?)?;
            loss = (loss + (off.sqr()? * (self.fokker_planck / (2. * d)))?)?;
        }
        self.weighed(model, sigma_data, &noisy.t, &loss)
    }

    /// The part of the Fokker-Planck equation in the loss alone, `[B]`, at places `x` `[B, ...]` that need not be data.
    pub fn flow_errors(
        &self,
        model: &Preconditioned,
        sigma_data: f64,
        x: &Tensor,
        t: &[f64],
        signs: &Tensor,
    ) -> Result<Tensor> {
        let jet = energy(model)?.jet(x, t)?;
        let off = (rises(model, x, t, &jet)? - flow(model, x, t, &jet, signs)?)?;
        self.weighed(model, sigma_data, t, &(off.sqr()? * (self.fokker_planck / (2. * numbers(x))))?)
    }

    /// lambda rho^2 times `loss` `[B]`.
    fn weighed(&self, model: &Preconditioned, sigma_data: f64, t: &[f64], loss: &Tensor) -> Result<Tensor> {
        let weight = |&t: &f64| {
            let m = model.process().marginal(t);
            self.weight.get().lambda(&m, sigma_data) * (m.sigma / m.alpha).powi(2)
        };
        scale(loss, &t.iter().map(weight).collect::<Vec<_>>())
    }
}

/// Numbers in a sample.
fn numbers(x: &Tensor) -> f64 {
    x.elem_count() as f64 / x.dims().first().copied().unwrap_or(1).max(1) as f64
}

fn sigmas(model: &Preconditioned, t: &[f64]) -> Vec<f64> {
    t.iter().map(|&t| model.process().marginal(t).sigma).collect()
}

/// dE/d ln rho of y = x/alpha, `[B]`: (dE/dt + d ln alpha/dt (x . grad E - D)) / (d ln rho/dt).
fn rises(model: &Preconditioned, x: &Tensor, t: &[f64], jet: &Jet) -> Result<Tensor> {
    let (mut of_dt, mut of_x) = (vec![], vec![]);
    for &t in t {
        let m = model.process().marginal(t);
        let (stretch, rate) = (m.drift(), m.dsigma / m.sigma - m.drift()); // d ln alpha/dt, d ln rho/dt
        of_dt.push(1. / rate);
        of_x.push(stretch / rate);
    }
    let along = sum_per_sample(&(x * &jet.gradient)?)?;
    combine(&of_dt, &jet.dt, &of_x, &(along - numbers(x))?)
}

/// What it should be, `[B]`: sigma^2 (Laplacian of E - |grad E|^2), the Laplacian along `signs` \[Hutchinson 1989\].
fn flow(model: &Preconditioned, x: &Tensor, t: &[f64], jet: &Jet, signs: &Tensor) -> Result<Tensor> {
    let (energy, sigma) = (energy(model)?, sigmas(model, t));
    let by = scale(signs, &sigma.iter().map(|sigma| REACH * sigma).collect::<Vec<_>>())?;
    let around = (energy.energy_at(&(x + &by)?, t)? + energy.energy_at(&(x - &by)?, t)?)?;
    let curvature = ((around - (&jet.energy * 2.)?)? / REACH.powi(2))?;
    curvature - sum_per_sample(&scale(&jet.gradient, &sigma)?.sqr()?)?
}

fn energy<'a>(model: &'a Preconditioned) -> Result<&'a dyn NoisyEnergy> {
    match model.noisy_energy() {
        Some(energy) => Ok(energy),
        None => bail!("loss.time: the model is a plain denoiser and has no energy; use model.head = \"energy\""),
    }
}
