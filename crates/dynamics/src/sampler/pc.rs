//! Predictor-corrector: Langevin steps at the noise level t, then any sampler's step to s. \[Song21, Alg. 2 to 5\]
//!
//! The step size of the Langevin dynamics is eps = 2 a (snr |z| / |score|)^2, a = alpha_t^2 / alpha_s^2 (1 where data
//! are not scaled). In many dimensions |z| / |score| is nearly sigma; in few it varies from point to point, and a step
//! size that depends on x draws from another density (near p / eps): hence the choice of [`Norms`].
//! Any other kernel may correct in its place, with a test of acceptance or without; its first unit of length is sigma. So corrected,
//! a reverse process that is not quite that of the densities still arrives, as for products of models. \[Du23, Alg. 1\]
//! With `replicas` chains leave modes that the kernel does not lead out of.

use super::parts::replicas::Replicas;
use super::parts::report::{AtLevel, Report};
use super::parts::transfer::Interval;
use super::{AnySampler, Needs, ReverseDiffusion, Sampler, Step, Stepper, above_zero};
use crate::Denoiser;
use crate::ladder::{Annealed, NoiseLevels};
use crate::mcmc::{AnyKernel, langevin};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::{PerSample, norm_per_sample};
use serde::{Deserialize, Serialize};

/// The norms that make the step size of the corrector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norms {
    /// |z| / |score| = sigma, as it is in many dimensions: the same for all samples, and no bias beyond Langevin's own.
    #[default]
    Level,
    /// Each sample's own; at most 2 sigma, since the score vanishes at a mode.
    Sample,
    /// Means over the batch, as the authors' code has it: a sample then depends on its batch.
    Batch,
}

/// One evaluation a corrector step, and those of the predictor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pc {
    /// The sampler that goes from t to s, by the score: neither one of MCMC nor one for consistency functions.
    pub predictor: Box<AnySampler>,
    /// Steps of the corrector before each prediction.
    pub corrector_steps: usize,
    /// The kernel that corrects, with its own step size; the paper's Langevin step, by `snr` and `norms`, if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrector: Option<AnyKernel>,
    /// Steps before those at each level in which each chain adapts its step size, for a kernel with a test of acceptance; 0 leaves
    /// the size as the kernel has it, in units of sigma, where chains stand still once sigma is far below the data's width.
    pub adapt: usize,
    /// Runs that are followed at once for replica exchange, each a level behind the one before, whose chains swap places with
    /// those of their neighbours after each step of the corrector, every second pair in turn; 1 for none. A run costs as much as
    /// the first, and a swap two evaluations of an energy, or twelve of a score alone. Chains that were swapped have no past, so
    /// that a predictor of several steps begins anew at each. Levels of d numbers overlap where sigma changes by a part of about
    /// 1/sqrt(d): in images chains swap on a grid of hundreds of levels only.
    pub replicas: usize,
    /// Ratio of the norms of the step along the score and of the noise.
    pub snr: f64,
    /// The norms that make the step size.
    pub norms: Norms,
}

impl Default for Pc {
    fn default() -> Self {
        let predictor = Box::new(ReverseDiffusion::default().into());
        let norms = Norms::default();
        Self { predictor, corrector_steps: 1, corrector: None, adapt: 4, replicas: 1, snr: 0.16, norms }
    }
}

impl Named for Pc {
    const NAME: &'static str = "pc";
    const ABOUT: &'static str =
        "a corrector, Langevin or any MCMC kernel, before each step of any other sampler [Song21, Alg. 2 to 5]";
}

impl Sampler for Pc {
    fn check(&self) -> Result<()> {
        above_zero("snr", self.snr)?;
        if let Some(kernel) = &self.corrector {
            kernel.check_by_score()?;
        }
        above_zero("replicas", self.replicas as f64)?;
        if self.replicas > 1 && self.corrector.as_ref().is_none_or(|kernel| !kernel.get().exact()) {
            bail!(
                "replicas is {}: swaps are accepted by a test, and so must be the steps between them; give corrector=mala or hmc",
                self.replicas
            );
        }
        if self.replicas > 1 && self.corrector_steps == 0 {
            bail!(
                "replicas is {} and corrector_steps 0: chains swap after steps of the corrector; give at least 1",
                self.replicas
            );
        }
        let why = match self.predictor.get() {
            of if of.needs().consistency => "asks for a consistency function, which has no score to correct by",
            of if of.needs().population => "goes on from particles of its own, whatever the corrector makes of x",
            of if of.mcmc() => "takes steps of MCMC at every level itself",
            of => return of.check(),
        };
        let name = self.predictor.name();
        bail!("predictor {name} {why}; use sampler.name={name} alone, or another predictor such as reverse-diffusion")
    }

    fn start(&self, times: &[f64]) -> Box<dyn Stepper + '_> {
        let predictor = self.predictor.get().start(times);
        let corrector = match self.corrector.as_ref().map(AnyKernel::get) {
            None => Corrector::Paper,
            Some(kernel) if self.replicas > 1 => Corrector::Replicas(Box::new(Replicas::new(self, kernel, times))),
            Some(kernel) => Corrector::Kernel(Annealed::new(kernel, self.adapt, self.corrector_steps)),
        };
        Box::new(PcRun { options: self, predictor, corrector, report: Report::default() })
    }

    /// With norms over the batch each step of the corrector depends on all of it.
    fn needs(&self) -> Needs {
        let over_batch = self.corrector.is_none() && self.corrector_steps > 0 && self.norms == Norms::Batch;
        let of = self.predictor.get().needs();
        Needs { population: over_batch || of.population, prior: self.replicas > 1 || of.prior, ..of }
    }

    fn reports(&self) -> bool {
        self.corrector.is_some()
    }

    fn mcmc(&self) -> bool {
        true
    }
}

/// What corrects x at a level.
enum Corrector<'a> {
    /// The Langevin steps of the paper.
    Paper,
    /// Steps of a kernel.
    Kernel(Annealed<'a>),
    /// The same with swaps between several runs.
    Replicas(Box<Replicas<'a>>),
}

struct PcRun<'a> {
    options: &'a Pc,
    predictor: Box<dyn Stepper + 'a>,
    corrector: Corrector<'a>,
    report: Report,
}

impl Stepper for PcRun<'_> {
    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor> {
        let x = match &mut self.corrector {
            Corrector::Paper => self.options.corrected(m, x, step, z)?,
            Corrector::Kernel(chains) => {
                let (at, visit) = chains.rung(&NoiseLevels::new(m, [step.t]), 0, x, z)?;
                self.report.levels.push(AtLevel::new(m.process(), step.t, visit));
                at.x
            }
            Corrector::Replicas(behind) => {
                let (x, visit) = behind.corrected(m, x, step, z)?;
                self.report.levels.extend(visit.map(|visit| AtLevel::new(m.process(), step.t, visit)));
                if !step.is_final() {
                    behind.follow(m, z)?;
                    self.predictor = behind.predictor(); // the chains that were swapped have no past
                }
                x
            }
        };
        if step.is_final() { m.x0(&x, step.t) } else { self.predictor.step(m, &x, step, z) }
    }

    fn report(&self) -> Option<&Report> {
        self.options.corrector.as_ref().map(|_| &self.report)
    }
}

impl Pc {
    /// After the Langevin steps of the paper.
    fn corrected(&self, m: &dyn Denoiser, x: &Tensor, step: Step, z: &mut Noise) -> Result<Tensor> {
        let (ends, mut x) = (step.intervals(m.process())?, x.clone());
        for _ in 0..self.corrector_steps {
            let score = m.score(&x, step.t)?;
            let noise = z.normal_like(&x)?;
            let eps = self.step_size(&ends, &score, &noise)?;
            x = langevin(&x, &score, &eps, &noise)?;
        }
        Ok(x)
    }

    fn step_size(&self, ends: &[Interval], score: &Tensor, noise: &Tensor) -> Result<Vec<f64>> {
        let sigma = |i: usize| ends.at(i).t.sigma;
        let ratios: Vec<f64> = match self.norms {
            Norms::Level => (0..ends.len()).map(sigma).collect(),
            Norms::Sample => {
                let norms = norm_per_sample(noise)?.into_iter().zip(norm_per_sample(score)?);
                norms.enumerate().map(|(i, (noise, score))| (noise / score).min(2. * sigma(i))).collect()
            }
            Norms::Batch => {
                let sum = |v: Vec<f64>| v.iter().sum::<f64>();
                vec![sum(norm_per_sample(noise)?) / sum(norm_per_sample(score)?)]
            }
        };
        let n = ends.len().max(ratios.len());
        let at = |i: usize| {
            let (e, ratio) = (&ends[i.min(ends.len() - 1)], ratios[i.min(ratios.len() - 1)]);
            let a = if e.s.sigma == 0. { 1. } else { e.ratio().powi(2) };
            2. * a * (self.snr * ratio).powi(2)
        };
        Ok((0..n).map(at).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_predict_is_refused() {
        let names = ["pc", "annealed-langevin", "annealed-mcmc", "tempering", "smc", "consistency"];
        for predictor in AnySampler::defaults() {
            let name = predictor.name();
            let read = serde_json::from_str::<AnySampler>(&format!(r#"{{"name": "pc", "predictor": "{name}"}}"#));
            let pc = Pc { predictor: Box::new(predictor), ..Pc::default() };
            let (own, of) = (&pc as &dyn Sampler, pc.predictor.get());
            assert_eq!(own.needs(), of.needs(), "{name}");
            assert!(own.mcmc() && of.needs().prior == (name == "smc"), "{name}");
            assert_eq!(read.is_err(), names.contains(&name), "{name}: {read:?}");
            if let Err(why) = read {
                let why = why.to_string();
                assert!(why.contains(&format!("predictor {name} ")) && why.contains("reverse-diffusion"), "{why}");
                assert!(why.contains(&format!("sampler.name={name}")), "{why}");
            }
        }
    }
}
