//! From noise to data, one step at a time.
//!
//! A sampler is one short file that reads like the paper's box: options, which [`start`](Sampler::start) a [`Stepper`]. The loop,
//! progress and trajectories are here, once; guidance and clipping wrap the denoiser, so no sampler knows of them.

mod annealed_langevin;
mod annealed_mcmc;
mod consistency;
mod ddim;
mod ddpm;
mod dpmpp_2m;
mod dpmpp_2m_sde;
mod dpmpp_3m;
pub mod edit;
mod edm_stochastic;
mod euler;
mod euler_maruyama;
mod heun;
mod parts;
mod pc;
mod pndm;
mod reverse_diffusion;
mod rk45;
mod smc;
mod tempering;
mod unipc;

pub use annealed_langevin::AnnealedLangevin;
pub use annealed_mcmc::AnnealedMcmc;
pub use consistency::ConsistencySampler;
pub use ddim::Ddim;
pub use ddpm::{Ddpm, Variance};
pub use dpmpp_2m::Dpmpp2m;
pub use dpmpp_2m_sde::Dpmpp2mSde;
pub use dpmpp_3m::Dpmpp3m;
pub use edm_stochastic::EdmStochastic;
pub use euler::Euler;
pub use euler_maruyama::EulerMaruyama;
pub use heun::Heun;
pub use parts::multistep::{Extrapolate, Second};
pub use parts::report::{AtLevel, Report};
pub(crate) use parts::transfer::{Interval, PURE, carried};
pub use pc::{Norms, Pc};
pub use pndm::{Mixed, Pndm};
pub use reverse_diffusion::ReverseDiffusion;
pub use rk45::Rk45;
pub use smc::Smc;
pub use tempering::Tempering;
pub use unipc::{Bh, UniPc};

use crate::{Denoiser, Process};
use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry;

/// One step of a run, from the times `t` to the less noisy `s`; each is one for all samples, or one a sample.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Where x is.
    pub t: &'a [f64],
    /// Where it goes; 0 is clean data.
    pub s: &'a [f64],
}

impl Step<'_> {
    /// Whether every sample ends at clean data.
    pub fn is_final(&self) -> bool {
        self.s.iter().all(|&s| s <= 0.)
    }
}

/// What a sampler needs of the model and of where a run begins, beyond a score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The model must have an energy.
    pub energy: bool,
    /// The model must be a consistency function, which leads to the end of the trajectory of the ODE, in place of a denoiser.
    pub consistency: bool,
    /// The run must begin at draws of the prior, N(0, sigma^2 / [`Denoiser::prior_precision`]), and not at a noised image: it
    /// weighs what it is given as such draws, or begins others beside them, and cannot see whether they are.
    pub prior: bool,
    /// The samples of a run are one population: a sample then depends on the others.
    pub population: bool,
}

/// A rule that moves x from noise to data: its options. What it remembers between steps is in a [`Stepper`].
pub trait Sampler: Send + Sync + std::fmt::Debug {
    /// Errors, naming the option, if one is out of its range.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// A run through `times`, which has not begun.
    fn start(&self, times: &[f64]) -> Box<dyn Stepper + '_>;

    /// What it asks of the model and of the start of a run.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Its order of convergence to the probability-flow ODE, which it then solves in both directions; none if it draws
    /// noise.
    fn order(&self) -> Option<u32> {
        None
    }

    /// Whether its runs report what MCMC did.
    fn reports(&self) -> bool {
        false
    }

    /// Whether it moves x by MCMC at the levels of a run, with a test of acceptance or without.
    fn mcmc(&self) -> bool {
        self.reports()
    }
}

/// A run of a sampler: what it remembers between its steps.
pub trait Stepper {
    /// x at `step.s` from `x` `[B, ...]` at `step.t`. At s = 0 it returns clean data, and the model is never evaluated at t = 0.
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor>;

    /// What MCMC did so far, for a sampler that [`Sampler::reports`].
    fn report(&self) -> Option<&Report> {
        None
    }
}

registry! {
    /// Any sampler, as configurations name it.
    pub enum AnySampler: Sampler = "sampler" {
        Euler, Heun, Rk45, EulerMaruyama, ReverseDiffusion, Ddpm, Ddim, Dpmpp2m, Dpmpp2mSde, Dpmpp3m, UniPc, Pndm, Pc,
        AnnealedLangevin, AnnealedMcmc, Tempering, Smc, EdmStochastic, ConsistencySampler
    } check Sampler::check
}

/// Errors, naming the option, unless `value` is a number above 0.
fn above_zero(name: &str, value: f64) -> Result<()> {
    if !(value.is_finite() && value > 0.) {
        bail!("{name} is {value}; it must be a number above 0");
    }
    Ok(())
}

/// Errors, naming the option, unless `value` is a number of at least 0.
fn not_negative(name: &str, value: f64) -> Result<()> {
    if !(value.is_finite() && value >= 0.) {
        bail!("{name} is {value}; it must be a number of at least 0");
    }
    Ok(())
}

/// Where a run is: after step `step` of `steps`, at time `t`.
pub struct At<'a> {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// The time that x is at.
    pub t: f64,
    /// The samples, `[B, ...]`.
    pub x: &'a Tensor,
}

/// What a run drew.
pub struct Drawn {
    /// The samples, `[B, ...]`.
    pub x: Tensor,
    /// What MCMC did, for a sampler that has any.
    pub report: Option<Report>,
}

/// Runs `sampler` from `x` at `times[0]` through all `times`, telling `watch` after each step. `x` is any noisy data, but
/// draws of the prior where [`Needs::prior`].
pub fn run(
    m: &dyn Denoiser,
    sampler: &dyn Sampler,
    times: &[f64],
    x: &Tensor,
    z: &mut Noise,
    watch: impl FnMut(At) -> Result<()>,
) -> Result<Tensor> {
    let steps: Vec<(f64, f64)> = times.windows(2).map(|pair| (pair[0], pair[1])).collect();
    Ok(follow(m, sampler, &steps, x, z, watch)?.x)
}

/// The same through steps (t, s), each from t to s. Where s is not the next t, what is at s is taken to be at the next
/// t: some schedulers of diffusers do so.
pub fn follow(
    m: &dyn Denoiser,
    sampler: &dyn Sampler,
    steps: &[(f64, f64)],
    x: &Tensor,
    z: &mut Noise,
    watch: impl FnMut(At) -> Result<()>,
) -> Result<Drawn> {
    sampler.check()?;
    let mut run = sampler.start(&times(steps));
    let x = drive(m, run.as_mut(), steps, x, z, watch)?;
    Ok(Drawn { x, report: run.report().cloned() })
}

/// The times of steps (t, s): where each begins, and where the last ends.
pub fn times(steps: &[(f64, f64)]) -> Vec<f64> {
    steps.iter().map(|step| step.0).chain(steps.last().map(|step| step.1)).collect()
}

/// Takes a run that has not begun from `x` through `steps`, telling `watch` after each.
pub fn drive(
    m: &dyn Denoiser,
    run: &mut dyn Stepper,
    steps: &[(f64, f64)],
    x: &Tensor,
    z: &mut Noise,
    mut watch: impl FnMut(At) -> Result<()>,
) -> Result<Tensor> {
    if steps.iter().any(|(t, s)| !t.is_finite() || !s.is_finite()) {
        let times = times(steps);
        bail!("the grid of times {times:?} is not finite; look at the span of the process {:?}", m.process());
    }
    let mut x = x.detach();
    for (i, &(t, s)) in steps.iter().enumerate() {
        x = run.step(m, &x, Step { t: &[t], s: &[s] }, z)?.detach();
        watch(At { step: i + 1, steps: steps.len(), t: s, x: &x })?;
    }
    Ok(x)
}

/// A draw from the prior, sigma(t) z, `[B, ...]`; `t` is where the grid begins, mostly the end of the span.
pub fn prior(
    process: &dyn Process,
    t: f64,
    shape: &[usize],
    dtype: DType,
    device: &Device,
    z: &mut Noise,
) -> Result<Tensor> {
    z.normal(shape, dtype, device)?.affine(process.marginal(t).sigma, 0.)
}
