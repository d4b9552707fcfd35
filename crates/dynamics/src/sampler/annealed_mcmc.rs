//! Annealed MCMC: at each noise level some steps of any kernel, and nothing between the levels but the scale of the data;
//! at the end the denoised x0. With a test of acceptance it follows energies that no reverse process leads through, such
//! as products of models. \[Du23, Alg. 1\]

use super::parts::report::{AtLevel, Report};
use super::{Sampler, Step, Stepper, above_zero};
use crate::Denoiser;
use crate::ladder::{Annealed, Ladder, NoiseLevels};
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
}

impl Default for AnnealedMcmc {
    fn default() -> Self {
        Self { kernel: Mala::default().into(), steps_per_level: 10, adapt: 10 }
    }
}

impl Named for AnnealedMcmc {
    const NAME: &'static str = "annealed-mcmc";
    const ABOUT: &'static str = "some steps of any MCMC kernel at every noise level in turn [Du23, Alg. 1]";
}

impl Sampler for AnnealedMcmc {
    fn check(&self) -> Result<()> {
        above_zero("steps_per_level", self.steps_per_level as f64)?;
        self.kernel.check_by_score()
    }

    fn start(&self, _times: &[f64]) -> Box<dyn Stepper + '_> {
        let chains = Annealed::new(self.kernel.get(), self.adapt, self.steps_per_level);
        Box::new(AnnealedRun { chains, report: Report::default() })
    }

    fn reports(&self) -> bool {
        true
    }
}

struct AnnealedRun<'a> {
    chains: Annealed<'a>,
    report: Report,
}

impl Stepper for AnnealedRun<'_> {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor> {
        let levels = NoiseLevels::new(m, [step.t, step.s]);
        let (at, visit) = self.chains.rung(&levels, 0, x, z)?;
        self.report.levels.push(AtLevel::new(m.process(), step.t, visit));
        if step.is_final() { m.x0(&at.x, step.t) } else { levels.carry(0, &at.x) }
    }

    fn report(&self) -> Option<&Report> {
        Some(&self.report)
    }
}
