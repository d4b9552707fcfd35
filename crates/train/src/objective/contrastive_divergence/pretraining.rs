//! Layer-wise pre-training of deep machines, before all layers are trained together. \[Salakhutdinov09\]

use super::{ContrastiveDivergence, EnergyGradient, Kept, mean, slid};
use crate::objective::{Context, Part};
use crate::options::TrainOptions;
use crate::series::Series;
use candle_core::{Result, Tensor, bail};
use langevin_models::family::Greedy;

/// Errors, naming the option, if it is out of its range.
pub(super) fn check(options: &ContrastiveDivergence, train: &TrainOptions) -> Result<()> {
    match options.pretrain {
        Some(steps) if !(1..=train.steps).contains(&steps) => {
            bail!("loss.pretrain is {steps}; give 1 to train.steps, which is {}, or leave it out", train.steps)
        }
        _ => Ok(()),
    }
}

impl ContrastiveDivergence {
    /// The upper layer of the pair that is trained alone after `step` steps, from 1.
    pub(super) fn layer<M: EnergyGradient>(&self, model: &M, step: u64) -> Option<usize> {
        let layer = step.checked_div(self.pretrain?)? + 1;
        (layer <= model.layers() as u64).then_some(layer as usize)
    }
}

/// The part of the step of data `x` that trains the pair below `layer` alone.
pub(super) fn part<M: EnergyGradient>(
    options: &ContrastiveDivergence,
    layer: usize,
    (model, x, at): (&M, &Tensor, &Context),
    kept: &mut Kept,
) -> Result<Part> {
    let first = options.pretrain.is_some_and(|steps| at.step.is_multiple_of(steps)) && at.part == 0;
    if first {
        kept.offsets.clear(); // they are of other layers
    }
    let samples = x.dim(0)?;
    let greedy = Greedy { layer, k: 1, factor: 1. / at.total as f64, frozen: &mut kept.frozen };
    let found = model.greedy(greedy, x, &mut at.noise(samples))?;
    if options.centred {
        kept.offsets = slid(&kept.offsets, found.means.clone())?;
    }
    let ([data, chains], errors) = (found.energies.clone(), mean(&found.errors));
    let mut grads = found.grads(options.centred.then_some(kept.offsets.as_slice()))?;
    options.decay(model, Some(layer - 1), samples as f64 / at.total as f64, &mut grads)?;
    let level = mean(&chains);
    let series = vec![
        Series::mean("energy_data", mean(&data)),
        Series::mean("energy_chains", level),
        Series::mean("reconstruction_error", errors),
    ];
    Ok(Part { losses: data.iter().map(|energy| energy - level).collect(), grads, series })
}

/// Forgets what was kept for pre-training, at the first step after it.
pub(super) fn ended<M: EnergyGradient>(options: &ContrastiveDivergence, model: &M, at: &Context, kept: &mut Kept) {
    let last = options.pretrain.map(|steps| steps.saturating_mul(model.layers() as u64));
    if last == Some(at.step) && at.part == 0 {
        kept.offsets.clear();
        kept.frozen.clear();
    }
}
