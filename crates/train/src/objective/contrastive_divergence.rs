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
use candle_core::{Error, Result, Tensor, bail};
use langevin_data::Batch;
use langevin_dynamics::density::{Blocks, Capability, Density, Energy};
use langevin_dynamics::mcmc::{AnyKernel, Chains, Gibbs, Stats, StepSizes};
use langevin_models::family::Contrast;
use langevin_models::{DensityModel, Rbm, Unnormalised, plain};
use langevin_ops::noise::Noise;
use langevin_ops::registry::Named;
use langevin_ops::shape::{mean_per_sample, to_host};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A density whose energy can be differentiated in its parameters.
pub trait EnergyGradient: Trainable + Density {
    /// E of each of the states `x` `[B, ...]`, and the gradient of the sum of `factors` (one a state) times E, in the order of the
    /// parameters. By autodiff, where the model knows no closed form.
    ///
    /// Errors if it has no energy.
    fn energy_gradient(&self, x: &Tensor, factors: &[f64], at: &Context) -> Result<(Vec<f64>, Vec<Tensor>)> {
        by_graph(self.as_energy(), x, factors, at)
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
        no_layers()
    }

    /// The gradient as it is with units less `offsets`, one of [`EnergyGradient::unit_means`] a layer.
    fn centred(&self, grads: Vec<Tensor>, _offsets: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(grads)
    }
}

/// The gradient of the energy by autodiff.
fn by_graph(energy: Option<&dyn Energy>, x: &Tensor, factors: &[f64], at: &Context) -> Result<(Vec<f64>, Vec<Tensor>)> {
    match energy {
        Some(energy) => at.weighed(factors, || energy.energy(x)),
        None => bail!("loss contrastive-divergence: the model gives no energy; take a model that has one"),
    }
}

fn no_layers() -> Result<Vec<Tensor>> {
    bail!("loss.centred is for models with layers of units, such as an RBM; set it to false")
}

/// As its body knows it.
impl EnergyGradient for DensityModel {
    fn contrast(&self, x: &Tensor, k: usize, factors: &[f64], noise: &mut Noise) -> Result<Option<Contrast>> {
        self.body().contrast(x, k, factors, noise)
    }

    fn energy_gradient(&self, x: &Tensor, factors: &[f64], at: &Context) -> Result<(Vec<f64>, Vec<Tensor>)> {
        match self.body().energy_gradient(x, factors)? {
            Some(closed) => Ok(closed),
            None => by_graph(self.as_energy(), x, factors, at),
        }
    }

    fn unit_means(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        self.body().unit_means(x)?.map_or_else(no_layers, Ok)
    }

    fn centred(&self, grads: Vec<Tensor>, offsets: &[Tensor]) -> Result<Vec<Tensor>> {
        self.body().centred(grads, offsets)
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

    fn centred(&self, grads: Vec<Tensor>, offsets: &[Tensor]) -> Result<Vec<Tensor>> {
        Unnormalised::centred(self, grads, offsets)
    }
}

/// The loss of densities that can be drawn from by Markov chains.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContrastiveDivergence {
    /// Steps of the chains before each update.
    pub k: usize,
    /// Steps before the first update, from where they grow evenly over the run to `k`; absent: `k` all along. The first updates,
    /// from which a model that knows nothing learns as much by few steps, are then sooner done. \[Salakhutdinov08\]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k_first: Option<usize>,
    /// Chains that go on from update to update (PCD); 0: each batch begins its own at its data (CD).
    pub persistent: usize,
    /// What moves them.
    pub kernel: AnyKernel,
    /// Half of this times the squares of the weights, but not of the biases, is added to the loss, whose gradient is then centred.
    pub weight_decay: f64,
    /// Centred gradients: those of units less their means over the data so far, which does not depend on what is called 0
    /// and 1. \[Montavon12; Melchior16\]
    pub centred: bool,
}

impl Default for ContrastiveDivergence {
    fn default() -> Self {
        Self { k: 1, k_first: None, persistent: 0, kernel: Gibbs {}.into(), weight_decay: 0., centred: false }
    }
}

impl Named for ContrastiveDivergence {
    const NAME: &'static str = "contrastive-divergence";
    const ABOUT: &'static str =
        "data against chains of the model, k steps from the data or persistent [Hinton02; Tieleman08]";
}

/// The share of a new batch in the means that centring subtracts. \[Melchior16\]
const SLIDE: f64 = 0.01;

/// Where the chains, the offsets and the step sizes are saved.
const CHAINS: &str = "chains";
const OFFSET: &str = "offset/";
const SIZES: &str = "sizes";

/// So many samples of a batch tell how well they are reconstructed, where no chain of the loss begins at them.
const TELLING: usize = 16;

/// Keeps the noise of reconstructions apart from that of the chains.
const RECONSTRUCTION: u64 = 1;

impl<M: EnergyGradient> Objective<M> for ContrastiveDivergence {
    fn description(&self) -> Result<Value> {
        describe(self)
    }

    fn check(&self, _: &M::Spec, _: &TrainOptions) -> Result<()> {
        if self.k == 0 || self.k > 1_000_000 {
            bail!("loss.k is {}; give 1 to 1000000 steps of the chains", self.k);
        }
        if let Some(first) = self.k_first.filter(|first| !(1..=self.k).contains(first)) {
            bail!("loss.k_first is {first} and loss.k is {}; the steps grow from at least 1 to loss.k", self.k);
        }
        if self.persistent > 1 << 20 {
            bail!("loss.persistent is {}; give at most 2^20 chains, or 0 for none that persist", self.persistent);
        }
        let adapts = match &self.kernel {
            AnyKernel::Mala(mala) => mala.adapt > 0,
            AnyKernel::Hmc(hmc) => hmc.adapt > 0,
            other => other.get().adapts(),
        };
        if self.persistent == 0 && adapts {
            bail!(
                "loss.kernel {} adapts its steps, which chains that begin anew at each batch cannot keep; set loss.persistent, \
                 or loss.kernel.adapt = 0",
                self.kernel.name()
            );
        }
        not_negative("loss.weight_decay", self.weight_decay)?;
        self.kernel.get().check()
    }

    fn start(&self, model: &M) -> Result<Box<dyn Training<M>>> {
        let density: &dyn Density = model;
        let suits = density.check(self.kernel.get().needs());
        suits.map_err(|e| Error::Msg(format!("loss.kernel {}: {}", self.kernel.name(), plain(&e))))?;
        density.check(Capability::Energy)?;
        Ok(Box::new(Run { options: self.clone(), kept: Kept::default(), next: None }))
    }
}

/// What a run remembers.
#[derive(Clone, Default)]
struct Kept {
    /// Where the persistent chains are, once they have begun.
    chains: Option<Tensor>,
    /// The step sizes that they have found, for a kernel that adapts.
    sizes: StepSizes,
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

impl Run {
    /// The states of `model` after k steps from `start` `[N, ...]`, and what these did.
    fn walked<M: EnergyGradient>(
        &self,
        model: &M,
        start: &Tensor,
        sizes: &mut StepSizes,
        at: &Context,
    ) -> Result<(Tensor, Stats)> {
        let (kernel, mut noise) = (self.options.kernel.get(), at.noise(start.dim(0)?));
        let blocks = model.as_conditionals().filter(|_| self.draws_blocks()).map(Blocks);
        let density: &dyn Density = match &blocks {
            Some(blocks) => blocks,
            None => model,
        };
        let mut chains = Chains::new(density, start)?;
        chains.sizes = std::mem::take(sizes);
        let mut stats = Stats::default();
        for _ in 0..self.steps(at) {
            stats += kernel.step(density, &mut chains, &mut noise)?;
        }
        *sizes = chains.sizes;
        Ok((chains.at.x, stats))
    }

    /// The mean squared difference between some samples of `x` and what one step draws of each, where whole states are drawn.
    fn reconstruction<M: EnergyGradient>(&self, model: &M, x: &Tensor, at: &Context) -> Result<Option<Series>> {
        let Some(conditionals) = model.as_conditionals().filter(|_| self.draws_blocks()) else { return Ok(None) };
        let (blocks, few) = (Blocks(conditionals), x.dim(0)?.min(TELLING));
        let x = x.narrow(0, 0, few)?;
        let mut chains = Chains::new(&blocks, &x)?;
        self.options.kernel.get().step(&blocks, &mut chains, &mut at.noise_for(RECONSTRUCTION, few))?;
        Ok(Some(reconstruction_error(&x, &chains.at.x)?))
    }

    /// Steps of the chains before the update under way.
    fn steps(&self, at: &Context) -> usize {
        let ContrastiveDivergence { k, k_first, .. } = self.options;
        let first = k_first.unwrap_or(k) as u64;
        let grown = (k as u64 + 1 - first) as u128 * u128::from(at.step) / u128::from(at.options.steps.max(1));
        k.min(first as usize + grown as usize)
    }

    fn draws_blocks(&self) -> bool {
        self.options.kernel.get().needs() == Capability::Conditionals
    }

    /// The states after k steps from `start`, and energies and gradient of `x` and them; and the share of proposals that were
    /// accepted, for a kernel that proposes.
    fn contrast<M: EnergyGradient>(
        &self,
        model: &M,
        x: &Tensor,
        start: &Tensor,
        factors: &[f64],
        (sizes, at): (&mut StepSizes, &Context),
    ) -> Result<(Contrast, Option<Series>)> {
        if self.options.persistent == 0 && matches!(self.options.kernel, AnyKernel::Gibbs(_)) {
            let shorter = model.contrast(x, self.steps(at), factors, &mut at.noise(x.dim(0)?))?;
            if let Some(contrast) = shorter {
                return Ok((contrast, None));
            }
        }
        let (walked, stats) = self.walked(model, start, sizes, at)?;
        let (energies, grads) = model.energy_gradient(&Tensor::cat(&[x, &walked], 0)?, factors, at)?;
        let proposes = self.options.kernel.get().exact() && !self.draws_blocks();
        let accepted = proposes.then(|| Series::mean("acceptance", stats.acceptance()));
        Ok(((walked, energies, grads), accepted))
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

/// The mean squared difference between the states `x` and `y`.
fn reconstruction_error(x: &Tensor, y: &Tensor) -> Result<Series> {
    let off = to_host(&mean_per_sample(&(x - y)?.sqr()?)?)?;
    Ok(Series::mean("reconstruction_error", mean(&off)))
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
        let (contrast, accepted) = self.contrast(model, x, &start, &factors, (&mut kept.sizes, at))?;
        let (walked, energies, mut grads) = contrast;
        let (data, of_chains) = energies.split_at(samples);
        if self.options.weight_decay > 0. {
            for (g, (_, var)) in grads.iter_mut().zip(model.vars()).filter(|(_, (_, var))| var.rank() > 1) {
                *g = (&*g + (var.as_detached_tensor() * (self.options.weight_decay * share))?)?;
            }
        }
        if self.options.centred {
            kept.offsets = slid(&kept.offsets, model.unit_means(x)?)?;
            grads = model.centred(grads, &kept.offsets)?;
        }
        let level = mean(of_chains);
        let mut series = vec![Series::mean("energy_data", mean(data)), Series::mean("energy_chains", level)];
        series.extend(accepted);
        if self.options.persistent == 0 {
            series.push(reconstruction_error(x, &walked)?);
        } else {
            kept.chains = Some(walked);
            series.extend(self.reconstruction(model, x, at)?);
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
        let sizes = self.kept.sizes.numbers()?.map(|sizes| (SIZES.to_string(), sizes));
        Ok(chains.chain(offsets).chain(sizes).collect())
    }

    fn restore(&mut self, model: &M, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let Some((_, like)) = model.vars().first() else { bail!("the model has no parameters") };
        let chains = state.get(CHAINS).map(|chains| moved(chains, like)).transpose()?;
        if let Some(chains) = chains.as_ref().filter(|chains| chains.dims().first() != Some(&self.options.persistent)) {
            bail!("holds chains of shape {:?} where there are {}", chains.dims(), self.options.persistent);
        }
        let offsets = (0..).map_while(|i| state.get(&format!("{OFFSET}{i}"))).map(|offset| moved(offset, like));
        let sizes = match state.get(SIZES) {
            Some(t) if t.dims() == [self.options.persistent + 1, 4] => {
                StepSizes::of_numbers(self.options.kernel.name(), t)?
            }
            Some(t) => bail!("holds step sizes of shape {:?} for {} chains", t.dims(), self.options.persistent),
            None => StepSizes::default(),
        };
        self.kept = Kept { chains, offsets: offsets.collect::<Result<_>>()?, sizes };
        self.next = None;
        Ok(())
    }
}
