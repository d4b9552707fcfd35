//! Denoising score matching: E lambda(t) |x0-hat(x_t) - x_0|^2, x_t = alpha x_0 + sigma eps. [Vincent11; Karras22, eq. 8]
//!
//! Asked of the network's output, where it has unit size: lambda c_out^2 |F - (x_0 - c_skip x_t) / c_out|^2, a mean over
//! components. Its minimum is the exact denoiser, where it is the mean of lambda times the variance of x_0 given x_t.

use crate::level::{self, AnyLevel, Draw};
use crate::weight::AnyWeight;
use candle_core::{Result, Tensor, bail};
use langevin_dynamics::{Denoiser, Preconditioned, Process};
use langevin_models::ModelSpec;
use langevin_ops::noise::Noise;
use langevin_ops::shape::{combine, mean_per_sample, scale};
use serde::{Deserialize, Serialize};

/// The loss of every parametrisation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Denoising {
    /// How much an error counts at each level.
    pub weight: AnyWeight,
    /// Which levels are drawn.
    pub level: AnyLevel,
    /// How much the energy's derivative in the noise level counts beside its gradient in x; 0: not at all. With it the
    /// values of the energy are learnt, up to one constant (see [`super::dual`]).
    #[serde(skip_serializing_if = "is_zero")]
    pub time: f64,
    /// How much it counts, beside `time`, that this derivative is what the Fokker-Planck equation makes of the energy's
    /// gradient and Laplacian (see [`super::dual`]).
    #[serde(skip_serializing_if = "is_zero")]
    pub fokker_planck: f64,
    /// The model's own samples in each batch, beside the data, at which the Fokker-Planck equation counts too.
    #[serde(skip_serializing_if = "none")]
    pub walkers: usize,
}

fn is_zero(v: &f64) -> bool {
    *v == 0.
}

fn none(v: &usize) -> bool {
    *v == 0
}

/// Data with noise, each sample at a level of its own.
pub struct Noisy {
    /// The clean data x_0, `[B, ...]`.
    pub x0: Tensor,
    /// The noise.
    pub eps: Tensor,
    /// x_t = alpha x_0 + sigma eps.
    pub x: Tensor,
    /// The time of each sample.
    pub t: Vec<f64>,
}

impl Noisy {
    /// `x0` `[B, ...]` at the times `t`, one a sample, with noise from `z`.
    pub fn new(process: &dyn Process, x0: &Tensor, t: Vec<f64>, z: &mut Noise) -> Result<Self> {
        if t.len() != x0.dim(0)? {
            bail!("noisy data: {} levels for a batch of {}", t.len(), x0.dim(0)?);
        }
        let (alpha, sigma): (Vec<_>, Vec<_>) =
            t.iter().map(|&t| process.marginal(t)).map(|m| (m.alpha, m.sigma)).unzip();
        let eps = z.normal_like(x0)?;
        let x = combine(&alpha, x0, &sigma, &eps)?;
        Ok(Self { x0: x0.clone(), eps, x, t })
    }

    /// (x_0 - c_skip x_t) / c_out, what the network of `model` would give if it knew x_0.
    pub fn target(&self, model: &Preconditioned) -> Result<Tensor> {
        // in x_0 and eps, so that what cancels does so here, in f64
        let parts = self.t.iter().map(|&t| {
            let (m, c) = (model.process().marginal(t), model.coefficients(t));
            ((1. - c.c_skip * m.alpha) / c.c_out, -c.c_skip * m.sigma / c.c_out)
        });
        let (of_x0, of_eps): (Vec<_>, Vec<_>) = parts.unzip();
        combine(&of_x0, &self.x0, &of_eps, &self.eps)
    }
}

impl Denoising {
    /// Errors, naming the option, if it makes no sense for a model of `spec`.
    pub fn check(&self, spec: &ModelSpec) -> Result<()> {
        self.weight.get().check()?;
        self.level.get().check()?;
        if !(self.time.is_finite() && self.time >= 0.) {
            bail!("loss.time is {}; it must be a number of at least 0, 0.001 is usual", self.time);
        }
        if !(self.fokker_planck.is_finite() && self.fokker_planck >= 0.) {
            bail!("loss.fokker_planck is {}; it must be a number of at least 0", self.fokker_planck);
        }
        if self.fokker_planck > 0. && self.time == 0. {
            bail!("loss.fokker_planck goes with loss.time, which is 0; 0.001 is usual");
        }
        if self.walkers > 0 && self.fokker_planck == 0. {
            bail!("loss.walkers is {}, for loss.fokker_planck, which is 0; 0.01 is usual", self.walkers);
        }
        if self.walkers == 1 || self.walkers > 4096 {
            bail!("loss.walkers is {}; give 0 for none, or 2 to 4096, half a batch is usual", self.walkers);
        }
        if spec.normalised != (self.time > 0.) {
            bail!(
                "loss.time = {} and model.normalised = {} do not go together: an energy learns its normaliser by \
                 loss.time above 0, and only by that",
                self.time,
                spec.normalised
            );
        }
        if spec.normalised && spec.process.get().discrete().is_some() {
            bail!("loss.time: process {} has steps and no continuous time; use vp", spec.process.name());
        }
        Ok(())
    }

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
        let noisy = Noisy::new(model.process(), x0, draws.iter().map(|d| d.t).collect(), z)?;
        self.errors(model, sigma_data, &noisy, &noisy.target(model)?)
    }

    /// lambda c_out^2 |F - target|^2 of each sample, averaged over components: `[B]`. As [`Denoising::losses`] where
    /// `target`, the shape of x, is that of the data.
    pub fn errors(&self, model: &Preconditioned, sigma_data: f64, noisy: &Noisy, target: &Tensor) -> Result<Tensor> {
        let weight = |&t: &f64| {
            let (m, c) = (model.process().marginal(t), model.coefficients(t));
            self.weight.get().lambda(&m, sigma_data) * c.c_out * c.c_out
        };
        let weights: Vec<f64> = noisy.t.iter().map(weight).collect();
        let error = (model.output(&noisy.x, &noisy.t)? - target)?;
        scale(&mean_per_sample(&error.sqr()?)?, &weights) // [B]
    }
}
