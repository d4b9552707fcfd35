//! How much of a sample is lost when noise is added and taken away again: |x - x0(alpha x + sigma eps)|^2 / D at some levels.
//!
//! The mean over the levels of its z-score, with mean and std of training data. \[Graham22\]
//!
//! Where it fails: on plain images, which are easily painted again whatever they show, and at one level alone: little
//! noise hides nothing, much noise hides all.

use super::energy::check_draws;
use super::{Detector, Rule, check_levels, mean_z, rows, times};
use candle_core::{Result, Tensor, bail};
use langevin_dynamics::Denoiser;
use langevin_dynamics::sampler::{self, Heun};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::{mean_per_sample, to_host};
use serde::{Deserialize, Serialize};

/// The error of reconstruction.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reconstruction {
    /// Noise levels sigma / alpha, in units of the data.
    pub levels: Vec<f64>,
    /// Draws of noise over which the error is averaged.
    pub draws: usize,
    /// Steps back to clean data: 1 takes the noise away at once, more follow the probability-flow ODE.
    pub steps: usize,
}

impl Default for Reconstruction {
    fn default() -> Self {
        Self { levels: vec![0.5, 1., 2.], draws: 1, steps: 1 }
    }
}

impl Named for Reconstruction {
    const NAME: &'static str = "reconstruction";
    const ABOUT: &'static str = "|x - x0(x_t)|^2: what is lost by adding noise and taking it away [Graham22]";
}

impl Reconstruction {
    /// Clean data from `x` at time `t`, the shape of `x`.
    fn back(&self, m: &dyn Denoiser, x: &Tensor, t: f64, z: &mut Noise) -> Result<Tensor> {
        let process = m.process();
        let (from, to) = (process.log_snr(t), process.log_snr(process.span().0));
        let at = |i: usize| process.t_at(from + (to - from) * i as f64 / self.steps as f64);
        let times: Vec<f64> = std::iter::once(t).chain((1..self.steps).map(at)).chain([0.]).collect();
        // its last step, to t = 0, is x0 itself
        sampler::run(m, &Heun::default(), &times, x, z, |_| Ok(()))
    }
}

impl Detector for Reconstruction {
    fn check(&self) -> Result<()> {
        if self.draws == 0 || self.steps == 0 || self.steps > 10_000 {
            bail!("draws is {} and steps {}; give at least 1 of each, and at most 10000", self.draws, self.steps);
        }
        check_draws(self.draws)?;
        check_levels(&self.levels)
    }

    fn evaluations(&self) -> usize {
        self.levels.len() * self.draws * (2 * self.steps).saturating_sub(1)
    }

    fn levels(&mut self) -> &mut Vec<f64> {
        &mut self.levels
    }

    fn features(&self, m: &dyn Denoiser, x: &Tensor, z: &mut Noise) -> Result<Vec<Vec<f64>>> {
        let at = |&t: &f64| {
            let marginal = m.process().marginal(t);
            let mut sum = vec![0.; x.dim(0)?];
            for _ in 0..self.draws {
                let noisy = (x.affine(marginal.alpha, 0.)? + z.normal_like(x)?.affine(marginal.sigma, 0.)?)?;
                let lost = mean_per_sample(&(self.back(m, &noisy, t, z)? - x)?.sqr()?)?;
                sum.iter_mut().zip(to_host(&lost)?).for_each(|(sum, lost)| *sum += lost / self.draws as f64);
            }
            Ok(sum)
        };
        let columns = times(m.process(), &self.levels)?.iter().map(at).collect::<Result<Vec<_>>>()?;
        Ok(rows(&columns, x.dim(0)?))
    }

    fn fit(&self, rows: &[Vec<f64>]) -> Result<Rule> {
        mean_z(rows)
    }
}
