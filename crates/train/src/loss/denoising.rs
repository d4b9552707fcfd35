//! Denoising score matching: E lambda(t) |x0-hat(x_t) - x_0|^2, x_t = alpha x_0 + sigma eps. [Vincent11; Karras22, eq. 8]
//!
//! Asked of the network's output, where it has unit size: lambda c_out^2 |F - (x_0 - c_skip x_t) / c_out|^2, a mean over
//! components. Its minimum is the exact denoiser, where it is the mean of lambda times the variance of x_0 given x_t.

use crate::level::{self, AnyLevel, Draw};
use crate::weight::AnyWeight;
use candle_core::{Result, Tensor, bail};
use langevin_dynamics::{Denoiser, Preconditioned, Process};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{combine, mean_per_sample, scale};

/// The loss of every parametrisation.
#[derive(Clone, Debug, Default)]
pub struct Denoising {
    /// How much an error counts at each level.
    pub weight: AnyWeight,
    /// Which levels are drawn.
    pub level: AnyLevel,
}

impl Denoising {
    /// The levels of a batch; each sample's loss is to be multiplied with its factor.
    pub fn draws(&self, process: &dyn Process, batch: usize, z: &mut Noise) -> Result<Vec<Draw>> {
        level::draws(self.level.get(), process, batch, z)
    }

    /// lambda |x0-hat - x_0|^2 of each sample at its level, averaged over components: `[B, ...] -> [B]`.
    ///
    /// Inside `grad::value_and_grad` it can be differentiated in the network's weights. `sigma_data` is that of the model.
    pub fn losses(
        &self,
        model: &Preconditioned,
        sigma_data: f64,
        x0: &Tensor,
        draws: &[Draw],
        z: &mut Noise,
    ) -> Result<Tensor> {
        if draws.len() != x0.dim(0)? {
            bail!("denoising loss: {} levels for a batch of {}", draws.len(), x0.dim(0)?);
        }
        let t: Vec<f64> = draws.iter().map(|d| d.t).collect();
        let (mut alpha, mut sigma, mut of_x0, mut of_eps, mut weight) = (vec![], vec![], vec![], vec![], vec![]);
        for &t in &t {
            let m = model.process().marginal(t);
            let c = model.coefficients(t);
            alpha.push(m.alpha);
            sigma.push(m.sigma);
            // the target in x_0 and eps, so that what cancels does so here, in f64
            of_x0.push((1. - c.c_skip * m.alpha) / c.c_out);
            of_eps.push(-c.c_skip * m.sigma / c.c_out);
            weight.push(self.weight.get().lambda(&m, sigma_data) * c.c_out * c.c_out);
        }
        let eps = z.normal_like(x0)?;
        let x = combine(&alpha, x0, &sigma, &eps)?; // [B, ...]
        let target = combine(&of_x0, x0, &of_eps, &eps)?; // [B, ...]
        let error = (model.output(&x, &t)? - target)?;
        scale(&mean_per_sample(&error.sqr()?)?, &weight) // [B]
    }
}
