//! Contrastive divergence: the gradient of -log p is the mean of dE over the data less that over the model, whose states are
//! those of chains that have made k steps: from the data (CD-k), or from where they were (PCD). \[Hinton02; Tieleman08\]
//!
//! The loss of a batch is the mean of E over the data less that over the chains: it says whether both agree, not how good the
//! model is.

use super::{Context, Objective, Part, Training, describe};
use crate::optim::not_negative;
use crate::options::TrainOptions;
use crate::series::Series;
use crate::state::moved;
use crate::trainable::Trainable;
use candle_core::{Result, Tensor, bail};
use langevin_data::Batch;
use langevin_dynamics::density::{Capability, Conditionals, Density};
use langevin_dynamics::mcmc::{AnyKernel, Chains, Gibbs};
use langevin_models::Rbm;
use langevin_ops::linear::linear;
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::{mean_per_sample, to_host};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// States that chains have reached, energies of their starts and then of them, and a gradient.
pub type Contrast = (Tensor, Vec<f64>, Vec<Tensor>);

/// A density whose energy can be differentiated in its parameters.
pub trait EnergyGradient: Trainable + Density {
    /// E of each of the states `x` `[B, ...]`, and the gradient of the sum of `factors` (one a state) times E, in the order of the
    /// parameters. By autodiff, where the model knows no closed form.
    ///
    /// Errors if it has no energy.
    fn energy_gradient(&self, x: &Tensor, factors: &[f64], at: &Context) -> Result<(Vec<f64>, Vec<Tensor>)> {
        match self.as_energy() {
            Some(energy) => at.weighed(factors, || energy.energy(x)),
            None => bail!("loss contrastive-divergence: the model gives no energy; take a model that has one"),
        }
    }

    /// The states after `k` steps of Gibbs sampling from `x` `[B, ...]`, and [`EnergyGradient::energy_gradient`] of both, `x` first:
    /// the same numbers, if the model knows a shorter way to them.
    fn contrast(&self, _x: &Tensor, _k: usize, _factors: &[f64], _noise: &mut Noise) -> Result<Option<Contrast>> {
        Ok(None)
    }

    /// The means over the states `x` `[B, ...]` of what centring subtracts, layer by layer.
    ///
    /// Errors if the model has no layers of units.
    fn unit_means(&self, _x: &Tensor) -> Result<Vec<Tensor>> {
        bail!("loss.centred is for models with layers of units, such as an RBM; set it to false")
    }

    /// The gradient as it is with units less `offsets`, one of [`EnergyGradient::unit_means`] a layer.
    fn centred(&self, grads: Vec<Tensor>, _offsets: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(grads)
    }
}

impl EnergyGradient for Rbm {
    fn energy_gradient(&self, x: &Tensor, factors: &[f64], _: &Context) -> Result<(Vec<f64>, Vec<Tensor>)> {
        self.free_energy_grad(x, factors)
    }

    fn contrast(&self, x: &Tensor, k: usize, factors: &[f64], noise: &mut Noise) -> Result<Option<Contrast>> {
        Rbm::contrast(self, x, k, factors, noise).map(Some)
    }

    fn unit_means(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        Ok(Rbm::unit_means(self, x)?.into())
    }

    /// With m and l the offsets of visible and hidden units: dW' = dW - m dc^T - db l^T, db' = db - dW' l, dc' = dc - dW'^T m.
    fn centred(&self, grads: Vec<Tensor>, offsets: &[Tensor]) -> Result<Vec<Tensor>> {
        let ([dc, db, dw], [m, l]) = (grads.as_slice(), offsets) else {
            bail!("RBM: {} gradients and {} offsets; there are three and two", grads.len(), offsets.len());
        };
        let column = |v: &Tensor| v.unsqueeze(1);
        let dw = ((dw - linear(&column(m)?, &column(dc)?, None)?)? - linear(&column(db)?, &column(l)?, None)?)?;
        let along = |v: &Tensor, w: &Tensor| linear(&v.unsqueeze(0)?, w, None)?.squeeze(0);
        Ok(vec![(dc - along(m, &dw.t()?)?)?, (db - along(l, &dw)?)?, dw])
    }
}

/// The loss of densities that can be drawn from by Markov chains.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContrastiveDivergence {
    /// Steps of the chains before each update.
    pub k: usize,
    /// Chains that go on from update to update (PCD); 0: each batch begins its own at its data (CD).
    pub persistent: usize,
    /// What moves them.
    pub kernel: AnyKernel,
    /// Half of this times the squares of the weights, but not of the biases, is added to the loss.
    pub weight_decay: f64,
    /// Centred gradients: those of units less their means over the data so far, which does not depend on what is called 0
    /// and 1. \[Montavon12; Melchior16\]
    pub centred: bool,
}

impl Default for ContrastiveDivergence {
    fn default() -> Self {
        Self { k: 1, persistent: 0, kernel: Gibbs {}.into(), weight_decay: 0., centred: false }
    }
}

impl Named for ContrastiveDivergence {
    const NAME: &'static str = "contrastive-divergence";
    const ABOUT: &'static str =
        "data against chains of the model, k steps from the data or persistent [Hinton02; Tieleman08]";
}

/// The share of a new batch in the means that centring subtracts. \[Melchior16\]
const SLIDE: f64 = 0.01;

/// Where the chains and the offsets are saved.
const CHAINS: &str = "chains";
const OFFSET: &str = "offset/";

impl<M: EnergyGradient> Objective<M> for ContrastiveDivergence {
    fn description(&self) -> Result<Value> {
        describe(self)
    }

    fn check(&self, _: &M::Spec, _: &TrainOptions) -> Result<()> {
        if self.k == 0 || self.k > 1_000_000 {
            bail!("loss.k is {}; give 1 to 1000000 steps of the chains", self.k);
        }
        if self.persistent > 1 << 20 {
            bail!("loss.persistent is {}; give at most 2^20 chains, or 0 for none that persist", self.persistent);
        }
        if self.kernel.get().adapts() {
            bail!(
                "loss.kernel {} adapts its steps, which no run keeps from batch to batch; take gibbs or langevin",
                self.kernel.name()
            );
        }
        not_negative("loss.weight_decay", self.weight_decay)?;
        self.kernel.get().check()
    }

    fn start(&self, model: &M) -> Result<Box<dyn Training<M>>> {
        let density: &dyn Density = model;
        density.check(self.kernel.get().needs())?;
        density.check(Capability::Energy)?;
        Ok(Box::new(Run { options: self.clone(), kept: Kept::default(), next: None }))
    }
}

/// What a run remembers.
#[derive(Clone, Default)]
struct Kept {
    /// Where the persistent chains are, once they have begun.
    chains: Option<Tensor>,
    /// What centring subtracts, a layer each.
    offsets: Vec<Tensor>,
}

/// The loss under way.
struct Run {
    options: ContrastiveDivergence,
    kept: Kept,
    /// The same after the parts of a step that has not moved the model yet.
    next: Option<Kept>,
}

/// A density of which nothing but its conditionals is asked, so that nothing else is computed.
struct Blocks<'a>(&'a dyn Conditionals);

impl Density for Blocks<'_> {
    fn as_conditionals(&self) -> Option<&dyn Conditionals> {
        Some(self.0)
    }
}

impl Run {
    /// The states of `model` after k steps from `start` `[N, ...]`.
    fn walked<M: EnergyGradient>(&self, model: &M, start: &Tensor, at: &Context) -> Result<Tensor> {
        let (kernel, mut noise) = (self.options.kernel.get(), at.noise(start.dim(0)?));
        let blocks = model.as_conditionals().filter(|_| kernel.needs() == Capability::Conditionals).map(Blocks);
        let density: &dyn Density = match &blocks {
            Some(blocks) => blocks,
            None => model,
        };
        let mut chains = Chains::new(density, start)?;
        for _ in 0..self.options.k {
            kernel.step(density, &mut chains, &mut noise)?;
        }
        Ok(chains.at.x)
    }

    /// The states after k steps from `start`, and energies and gradient of `x` and them.
    fn contrast<M: EnergyGradient>(
        &self,
        model: &M,
        x: &Tensor,
        start: &Tensor,
        factors: &[f64],
        at: &Context,
    ) -> Result<Contrast> {
        if self.options.persistent == 0 && matches!(self.options.kernel, AnyKernel::Gibbs(_)) {
            let shorter = model.contrast(x, self.options.k, factors, &mut at.noise(x.dim(0)?))?;
            if let Some(contrast) = shorter {
                return Ok(contrast);
            }
        }
        let walked = self.walked(model, start, at)?;
        let (energies, grads) = model.energy_gradient(&Tensor::cat(&[x, &walked], 0)?, factors, at)?;
        Ok((walked, energies, grads))
    }

    /// Where the chains of a batch `x` begin: at its samples in turn, if there are none that go on.
    fn start(&self, kept: &Kept, x: &Tensor) -> Result<Tensor> {
        match &kept.chains {
            _ if self.options.persistent == 0 => Ok(x.clone()),
            Some(chains) => Ok(chains.clone()),
            None => {
                let rows = x.dim(0)? as u32;
                let index = Tensor::from_iter((0..self.options.persistent as u32).map(|i| i % rows), x.device())?;
                x.index_select(&index, 0)
            }
        }
    }
}

/// The offsets after a batch of these means.
fn slid(offsets: &[Tensor], means: Vec<Tensor>) -> Result<Vec<Tensor>> {
    if offsets.is_empty() {
        return Ok(means);
    }
    offsets.iter().zip(means).map(|(offset, mean)| (offset * (1. - SLIDE))? + (mean * SLIDE)?).collect()
}

fn mean(v: &[f64]) -> f64 {
    v.iter().sum::<f64>() / v.len() as f64
}

impl<M: EnergyGradient> Training<M> for Run {
    fn part(&mut self, model: &M, batch: &Batch, at: &Context) -> Result<Part> {
        let (x, samples) = (&batch.x, batch.x.dim(0)?);
        let mut kept = self.next.take().filter(|_| at.part > 0).unwrap_or_else(|| self.kept.clone());
        let start = self.start(&kept, x)?;
        let chains = start.dim(0)?;
        let (each, share) = (1. / at.total as f64, samples as f64 / at.total as f64);
        let mut factors = vec![each; samples];
        factors.resize(samples + chains, -share / chains as f64);
        let (walked, energies, mut grads) = self.contrast(model, x, &start, &factors, at)?;
        let (data, of_chains) = energies.split_at(samples);
        if self.options.centred {
            kept.offsets = slid(&kept.offsets, model.unit_means(x)?)?;
            grads = model.centred(grads, &kept.offsets)?;
        }
        if self.options.weight_decay > 0. {
            for (g, (_, var)) in grads.iter_mut().zip(model.vars()).filter(|(_, (_, var))| var.rank() > 1) {
                *g = (&*g + (var.as_detached_tensor() * (self.options.weight_decay * share))?)?;
            }
        }
        let level = mean(of_chains);
        let mut series = vec![Series::mean("energy_data", mean(data)), Series::mean("energy_chains", level)];
        if self.options.persistent == 0 {
            let off = to_host(&mean_per_sample(&(x - &walked)?.sqr()?)?)?;
            series.push(Series::mean("reconstruction_error", mean(&off)));
        } else {
            kept.chains = Some(walked);
        }
        self.next = Some(kept);
        Ok(Part { losses: data.iter().map(|energy| energy - level).collect(), grads, series })
    }

    fn updated(&mut self) {
        if let Some(next) = self.next.take() {
            self.kept = next;
        }
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let chains = self.kept.chains.iter().map(|chains| (CHAINS.to_string(), chains.clone()));
        let offsets = self.kept.offsets.iter().enumerate().map(|(i, offset)| (format!("{OFFSET}{i}"), offset.clone()));
        Ok(chains.chain(offsets).collect())
    }

    fn restore(&mut self, model: &M, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let Some((_, like)) = model.vars().first() else { bail!("the model has no parameters") };
        let chains = state.get(CHAINS).map(|chains| moved(chains, like)).transpose()?;
        if let Some(chains) = chains.as_ref().filter(|chains| chains.dims().first() != Some(&self.options.persistent)) {
            bail!("holds chains of shape {:?} where there are {}", chains.dims(), self.options.persistent);
        }
        let offsets = (0..).map_while(|i| state.get(&format!("{OFFSET}{i}"))).map(|offset| moved(offset, like));
        self.kept = Kept { chains, offsets: offsets.collect::<Result<_>>()? };
        self.next = None;
        Ok(())
    }
}
