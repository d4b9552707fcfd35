//! The model's own samples: walkers that go down its noise levels while it learns, a level a batch, and start again from pure
//! noise. They show the loss the places that a sampler comes to and data do not.

use crate::level::{Level, LogSnr};
use crate::loss::Noisy;
use candle_core::{Result, Tensor, bail};
use langevin_dynamics::sampler::{Ddpm, prior};
use langevin_dynamics::{Cond, Sampler};
use langevin_models::Model;
use langevin_ops::noise::Noise;

/// Levels from pure noise to the least, even in log SNR.
const LEVELS: u64 = 64;

/// Walkers, spread over the levels.
#[derive(Debug, Default)]
pub(crate) struct Walkers {
    /// Where they were at the last batch, `[W, ...]`; none before the first.
    pub x: Option<Tensor>,
}

/// Walkers at one batch.
pub(crate) struct At {
    pub x: Tensor,
    /// The time of each.
    pub t: Vec<f64>,
    /// The class of each, for a model that is told it.
    pub labels: Option<Tensor>,
}

impl Walkers {
    /// `number` walkers at batch `n`, each a level below where it was, by an ancestral step; the first time at the data
    /// `x0`, with the noise of their levels.
    pub fn advance(&mut self, model: &Model, number: usize, n: u64, x0: &Tensor, z: &mut Noise) -> Result<At> {
        let process = model.spec.process.get();
        let (low, high) = process.span();
        // levels that walker i has gone since it was walker i of the first descent
        let gone: Vec<u64> = (0..number as u64).map(|i| n + i * LEVELS / number as u64).collect();
        let time = |gone: u64| LogSnr {}.time(process, 1. - (gone % LEVELS) as f64 / (LEVELS - 1) as f64);
        let t: Vec<f64> = gone.iter().map(|&gone| time(gone)).collect();
        let labels = model.spec.classes.map(|classes| {
            let label = |(i, gone): (usize, &u64)| ((i as u64 + gone / LEVELS * number as u64) % classes as u64) as u32;
            Tensor::new(gone.iter().enumerate().map(label).collect::<Vec<_>>(), model.device())
        });
        let labels = labels.transpose()?;
        let mut shape = x0.dims().to_vec();
        shape[0] = number;
        let x = match &self.x {
            None => {
                let rows: Vec<u32> = (0..number).map(|i| (i % x0.dims()[0].max(1)) as u32).collect();
                let data = x0.index_select(&Tensor::new(rows, x0.device())?, 0)?;
                Noisy::new(process, &data, t.clone(), z)?.x
            }
            Some(x) if x.dims() == shape => {
                let new = |gone: u64| gone % LEVELS == 0;
                let (from, to): (Vec<_>, Vec<_>) =
                    gone.iter().map(|&gone| if new(gone) { (high, low) } else { (time(gone - 1), time(gone)) }).unzip();
                let denoiser = model.denoiser(Cond { labels: labels.clone(), dropout: None })?;
                let moved = Ddpm::default().step(&denoiser, x, &from, &to, z)?;
                let pure = prior(process, high, &shape, x.dtype(), x.device(), z)?;
                let rows = gone.iter().enumerate().map(|(i, &gone)| (i + if new(gone) { number } else { 0 }) as u32);
                let rows = Tensor::new(rows.collect::<Vec<_>>(), x.device())?;
                Tensor::cat(&[moved, pure], 0)?.index_select(&rows, 0)?
            }
            Some(x) => bail!("walkers of shape {:?}, where {shape:?} are wanted", x.dims()),
        };
        let x = x.detach();
        self.x = Some(x.clone());
        Ok(At { x, t, labels })
    }
}
