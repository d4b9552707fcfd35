//! Predictor-corrector: Langevin steps at the noise level t, then any sampler's step to s. [Song21, Alg. 2 to 5]
//!
//! The step size of the Langevin dynamics is eps = 2 a (snr |z| / |score|)^2, a = alpha_t^2 / alpha_s^2 (1 where data
//! are not scaled), with the norms of each sample itself; near a stationary point of the density, where the score
//! vanishes, it is held at 4 times 2 a (snr sigma)^2, its value for a sample of pure noise.

use super::transfer::{Ends, ends, lands, of};
use super::{AnySampler, ReverseDiffusion, Sampler};
use crate::Denoiser;
use crate::mcmc::langevin;
use candle_core::{Result, Tensor};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::norm_per_sample;
use serde::{Deserialize, Serialize};

/// One evaluation a corrector step, and those of the predictor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pc {
    /// The sampler that goes from t to s.
    pub predictor: Box<AnySampler>,
    /// Langevin steps before each prediction.
    pub corrector_steps: usize,
    /// Ratio of the norms of the step along the score and of the noise.
    pub snr: f64,
    /// One step size for the whole batch, by mean norms, as the authors' code has it; a sample then depends on its batch.
    pub shared_step: bool,
}

impl Default for Pc {
    fn default() -> Self {
        let predictor = Box::new(ReverseDiffusion::default().into());
        Self { predictor, corrector_steps: 1, snr: 0.16, shared_step: false }
    }
}

impl Named for Pc {
    const NAME: &'static str = "pc";
    const ABOUT: &'static str = "Langevin corrector before each step of any other sampler [Song21, Alg. 2 to 5]";
}

impl Sampler for Pc {
    fn begin(&mut self, times: &[f64]) {
        self.predictor.get_mut().begin(times);
    }

    fn step(&mut self, m: &dyn Denoiser, x: &Tensor, t: &[f64], s: &[f64], z: &mut Noise) -> Result<Tensor> {
        let ends = ends(m.process(), t, s)?;
        let mut x = x.clone();
        for _ in 0..self.corrector_steps {
            let score = m.score(&x, t)?;
            let noise = z.normal_like(&x)?;
            let eps = self.step_size(&ends, &norm_per_sample(&score)?, &norm_per_sample(&noise)?);
            x = langevin(&x, &score, &eps, &noise)?;
        }
        if lands(s) { m.x0(&x, t) } else { self.predictor.get_mut().step(m, &x, t, s, z) }
    }
}

impl Pc {
    fn step_size(&self, ends: &[Ends], score: &[f64], noise: &[f64]) -> Vec<f64> {
        let a = of(ends, |e| if e.s.sigma == 0. { 1. } else { e.ratio().powi(2) });
        let size = |a: f64, score: f64, noise: f64| 2. * a * (self.snr * noise / score).powi(2);
        let at = |v: &[f64], i: usize| v[if v.len() == 1 { 0 } else { i }];
        if self.shared_step {
            let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len().max(1) as f64;
            return a.iter().map(|&a| size(a, mean(score), mean(noise))).collect();
        }
        let sigma = of(ends, |e| e.t.sigma);
        (0..score.len())
            .map(|i| size(at(&a, i), score[i], noise[i]).min(8. * at(&a, i) * (self.snr * at(&sigma, i)).powi(2)))
            .collect()
    }
}
