//! Dual score matching: the energy's derivative in the noise level is matched beside its gradient in x. \[Guth25\]
//!
//! In y = x/alpha with rho = sigma/alpha, the mean of dE/d ln rho given x is that of D - |eps|^2, as the mean of sigma grad E
//! is that of eps. The loss of a sample is lambda rho^2 (|sigma grad E - eps|^2 / D + w (dE/d ln rho - D + |eps|^2)^2 / 2D):
//! both parts have a variance of at most 1 where nothing is known. The second ties the levels together, so that E has one
//! free constant in place of one a level, and -E is log p_t once that is known. A sample tells it one number where it tells
//! the first D, so that its gradient is the noisier: w is best small, about 1/D as the variances of the two have it (the paper's
//! weights are w = 1/2D).

use super::{Denoising, Noisy};
use candle_core::{Result, Tensor, bail};
use langevin_dynamics::{Denoiser, Preconditioned};
use langevin_ops::shape::{combine, mean_per_sample, per_sample, scale, sum_per_sample};

impl Denoising {
    /// The loss of each sample, `[B]`; inside `grad::value_and_grad` it can be differentiated in the network's weights.
    ///
    /// `sigma_data` is that of the model. Errors if it has no energy.
    pub fn dual_errors(&self, model: &Preconditioned, sigma_data: f64, noisy: &Noisy) -> Result<Tensor> {
        let Some(energy) = model.noisy_energy() else {
            bail!("loss.time: the model is a plain denoiser and has no energy; use model.head = \"energy\"");
        };
        let d = (noisy.x.elem_count() / noisy.t.len().max(1)) as f64;
        let (mut sigma, mut weight, mut of_dt, mut of_x) = (vec![], vec![], vec![], vec![]);
        for &t in &noisy.t {
            let m = model.process().marginal(t);
            let (stretch, rate) = (m.drift(), m.dsigma / m.sigma - m.drift()); // d ln alpha/dt, d ln rho/dt
            sigma.push(m.sigma);
            weight.push(self.weight.get().lambda(&m, sigma_data) * (m.sigma / m.alpha).powi(2));
            of_dt.push(1. / rate);
            of_x.push(stretch / rate);
        }
        let jet = energy.jet(&noisy.x, &noisy.t)?;
        let space = mean_per_sample(&(scale(&jet.gradient, &sigma)? - &noisy.eps)?.sqr()?)?;
        // (dE/dt + d ln alpha/dt (x . grad E - D)) / (d ln rho/dt)
        let along = sum_per_sample(&(&noisy.x * &jet.gradient)?)?;
        let rises = combine(&of_dt, &jet.dt, &of_x, &(along - d)?)?;
        let known = (sum_per_sample(&noisy.eps.sqr()?)? - d)?;
        let time = ((rises + known)?.sqr()? * (self.time / (2. * d)))?;
        (space + time)? * per_sample(&weight, &noisy.x.flatten_from(1)?.narrow(1, 0, 1)?.squeeze(1)?)?
    }
}
