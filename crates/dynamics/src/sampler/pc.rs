//! Predictor-corrector: Langevin steps at the noise level t, then any sampler's step to s. \[Song21, Alg. 2 to 5\]
//!
//! The step size of the Langevin dynamics is eps = 2 a (snr |z| / |score|)^2, a = alpha_t^2 / alpha_s^2 (1 where data
//! are not scaled). In many dimensions |z| / |score| is nearly sigma; in few it varies from point to point, and a step
//! size that depends on x draws from another density (near p / eps): hence the choice of [`Norms`].
//! Any other kernel may correct in its place, with a test of acceptance or without; its first unit of length is sigma. So corrected,
//! a reverse process that is not quite that of the densities still arrives, as for products of models. \[Du23, Alg. 1\]
//! With `replicas` chains leave modes that the kernel does not lead out of.

use super::replicas::{Correction, Replicas};
use super::report::Report;
use super::transfer::{Ends, ends, lands};
use super::{AnySampler, ReverseDiffusion, Sampler, above_zero};
use crate::Denoiser;
use crate::mcmc::{AnyKernel, langevin};
use candle_core::{Result, Tensor, bail};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::norm_per_sample;
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
    /// What the kernel did in the last run.
    #[serde(skip)]
    pub report: Report,
    /// The runs behind, in a run with `replicas`.
    #[serde(skip)]
    pub behind: Replicas,
}

impl Default for Pc {
    fn default() -> Self {
        let predictor = Box::new(ReverseDiffusion::default().into());
        let (norms, report, behind) = (Norms::default(), Report::default(), Replicas::default());
        Self { predictor, corrector_steps: 1, corrector: None, adapt: 4, replicas: 1, snr: 0.16, norms, report, behind }
    }
}

impl Named for Pc {
    const NAME: &'static str = "pc";
    const ABOUT: &'static str =
        "a corrector, Langevin or any MCMC kernel, before each step of any other sampler [Song21, Alg. 2 to 5]";
}

impl Sampler for Pc {
    fn begin(&mut self, times: &[f64]) {
        self.predictor.get_mut().begin(times);
        if let Some(kernel) = &mut self.corrector {
            kernel.get_mut().begin();
        }
        (self.report, self.behind) = (Report::default(), Replicas::begin(times));
    }

    fn check(&self) -> Result<()> {
        above_zero("snr", self.snr)?;
        if let Some(kernel) = &self.corrector {
            kernel.get().check()?;
        }
        above_zero("replicas", self.replicas as f64)?;
        if self.replicas > 1 && self.corrector.as_ref().is_none_or(|kernel| !kernel.get().corrected()) {
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
            of if of.wants_consistency() => "asks for a consistency function, which has no score to correct by",
            of if of.population() => "goes on from particles of its own, whatever the corrector makes of x",
            of if of.mcmc() => "takes steps of MCMC at every level itself",
            of => return of.check(),
        };
        let name = self.predictor.name();
        bail!("predictor {name} {why}; use sampler.name={name} alone, or another predictor such as reverse-diffusion")
    }

    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, t: &[f64], s: &[f64], z: &mut Noise) -> Result<Tensor> {
        let x = match &mut self.corrector {
            Some(kernel) if self.replicas > 1 => {
                let mut by = Correction { kernel, steps: (self.adapt, self.corrector_steps), runs: self.replicas };
                let x = self.behind.corrected(m, x, (t, s), &mut by, &mut self.report, z)?;
                if !lands(s) {
                    self.behind.follow(m, self.predictor.get_mut(), z)?;
                }
                x
            }
            Some(kernel) => self.report.steps(m, kernel.get_mut(), (x, t), (self.adapt, self.corrector_steps), z)?,
            None => self.corrected(m, x, &ends(m.process(), t, s)?, t, z)?,
        };
        if lands(s) { m.x0(&x, t) } else { self.predictor.get_mut().step(m, &x, t, s, z) }
    }

    fn wants_consistency(&self) -> bool {
        self.predictor.get().wants_consistency()
    }

    fn wants_energy(&self) -> bool {
        self.predictor.get().wants_energy()
    }

    /// With norms over the batch each step of the corrector depends on all of it.
    fn population(&self) -> bool {
        let over_batch = self.corrector.is_none() && self.corrector_steps > 0 && self.norms == Norms::Batch;
        over_batch || self.predictor.get().population()
    }

    fn wants_prior(&self) -> bool {
        self.replicas > 1 || self.predictor.get().wants_prior()
    }

    fn mcmc(&self) -> bool {
        true
    }

    fn report(&self) -> Option<&Report> {
        self.corrector.as_ref().map(|_| &self.report)
    }
}

impl Pc {
    /// After the Langevin steps of the paper.
    fn corrected(&self, m: &dyn Denoiser, x: &Tensor, ends: &[Ends], t: &[f64], z: &mut Noise) -> Result<Tensor> {
        let mut x = x.clone();
        for _ in 0..self.corrector_steps {
            let score = m.score(&x, t)?;
            let noise = z.normal_like(&x)?;
            let eps = self.step_size(ends, &score, &noise)?;
            x = langevin(&x, &score, &eps, &noise)?;
        }
        Ok(x)
    }

    fn step_size(&self, ends: &[Ends], score: &Tensor, noise: &Tensor) -> Result<Vec<f64>> {
        let sigma = |i: usize| ends[if ends.len() == 1 { 0 } else { i }].t.sigma;
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
            assert_eq!(own.wants_consistency(), of.wants_consistency(), "{name}");
            assert_eq!((own.wants_energy(), own.population()), (of.wants_energy(), of.population()), "{name}");
            assert_eq!(own.wants_prior(), of.wants_prior(), "{name}");
            assert!(own.mcmc() && of.wants_prior() == (name == "smc"), "{name}");
            assert_eq!(read.is_err(), names.contains(&name), "{name}: {read:?}");
            if let Err(why) = read {
                let why = why.to_string();
                assert!(why.contains(&format!("predictor {name} ")) && why.contains("reverse-diffusion"), "{why}");
                assert!(why.contains(&format!("sampler.name={name}")), "{why}");
            }
        }
    }
}
