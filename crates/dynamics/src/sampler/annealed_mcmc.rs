//! Annealed MCMC: at each noise level some steps of any kernel, and nothing between the levels but the scale of the data;
//! at the end the denoised x0. With a test of acceptance it follows energies that no reverse process leads through, such
//! as products of models. \[Du23, Alg. 1\]

use super::report::Report;
use super::transfer::{carried, ends, lands};
use super::{Sampler, above_zero};
use crate::Denoiser;
use crate::mcmc::{AnyKernel, Mala};
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

/// `adapt + steps_per_level` steps of the kernel a level; its first unit of length is sigma.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnnealedMcmc {
    /// What moves the chains.
    pub kernel: AnyKernel,
    /// Its steps at each time of the grid.
    pub steps_per_level: usize,
    /// Steps before those at each level in which each chain adapts its step size, for a kernel with a test of acceptance; 0 leaves
    /// the size as the kernel has it, in units of sigma, where chains stand still once sigma is far below the data's width.
    pub adapt: usize,
    /// What the kernel did in the last run.
    #[serde(skip)]
    pub report: Report,
}

impl Default for AnnealedMcmc {
    fn default() -> Self {
        Self { kernel: Mala::default().into(), steps_per_level: 10, adapt: 10, report: Report::default() }
    }
}

impl Named for AnnealedMcmc {
    const NAME: &'static str = "annealed-mcmc";
    const ABOUT: &'static str = "some steps of any MCMC kernel at every noise level in turn [Du23, Alg. 1]";
}

impl Sampler for AnnealedMcmc {
    fn check(&self) -> Result<()> {
        above_zero("steps_per_level", self.steps_per_level as f64)?;
        self.kernel.get().check()
    }

    fn begin(&mut self, _times: &[f64]) {
        self.kernel.get_mut().begin();
        self.report = Report::default();
    }

    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, t: &[f64], s: &[f64], z: &mut Noise) -> Result<Tensor> {
        let x = self.report.steps(m, self.kernel.get_mut(), (x, t), (self.adapt, self.steps_per_level), z)?;
        if lands(s) { m.x0(&x, t) } else { carried(&ends(m.process(), t, s)?, &x) }
    }

    fn report(&self) -> Option<&Report> {
        Some(&self.report)
    }
}
