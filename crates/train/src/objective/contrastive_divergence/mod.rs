//! Contrastive divergence: the gradient of -log p is the mean of dE over the data less that over the model, whose states are
//! those of chains that have made k steps: from the data (CD-k), or from where they were (PCD). \[Hinton02; Tieleman08\]
//!
//! The loss of a batch is the mean of E over the data less that over the chains: it says whether both agree, not how good the
//! model is.

mod chains;
mod gradient;
mod pretraining;
mod sparsity;

pub use gradient::EnergyGradient;

use super::{Context, Objective, Part, Training, describe};
use crate::optim::not_negative;
use crate::options::TrainOptions;
use crate::series::Series;
use crate::state::moved;
use candle_core::{Error, Result, Tensor, bail};
use chains::Walked;
use langevin_data::Batch;
use langevin_dynamics::density::{Blocks, Capability, Density};
use langevin_dynamics::mcmc::{AnyKernel, Chains, Gibbs, StepSizes};
use langevin_models::plain;
use langevin_ops::registry::Named;
use langevin_ops::shape::{mean_per_sample, to_host};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

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
    /// Rungs from independent units to the model, at each of which every persistent chain has a replica: they swap places after each
    /// step, so that chains come from mode to mode; absent: none. The model's own are those of the last rung. \[Desjardins10\]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tempering: Option<usize>,
    /// The rate of fast weights, which are learnt beside the model's own and added to them for the chains alone, and of which each step
    /// leaves 95%: they push chains away from where these have been; absent: none. \[Tieleman09\]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fast_rate: Option<f64>,
    /// Steps in which each pair of layers of a deep machine is first trained alone, from the lowest, by chains of one step that begin at
    /// the data; absent: none. \[Salakhutdinov09\]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<u64>,
    /// How often hidden units should be on, above 0 and below 1; absent: nothing is asked. \[Hinton12, section 11\]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<f64>,
    /// How much it costs that they are not, times the cross entropy; absent: 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity_cost: Option<f64>,
    /// Half of this times the squares of the weights, but not of the biases, is added to the loss, whose gradient is then centred.
    pub weight_decay: f64,
    /// Centred gradients: those of units less their means over the data so far, which does not depend on what is called 0
    /// and 1. \[Montavon12; Melchior16\]
    pub centred: bool,
}

impl Default for ContrastiveDivergence {
    fn default() -> Self {
        Self {
            k: 1,
            k_first: None,
            persistent: 0,
            kernel: Gibbs {}.into(),
            tempering: None,
            fast_rate: None,
            pretrain: None,
            sparsity: None,
            sparsity_cost: None,
            weight_decay: 0.,
            centred: false,
        }
    }
}

impl Named for ContrastiveDivergence {
    const NAME: &'static str = "contrastive-divergence";
    const ABOUT: &'static str =
        "data against chains of the model, k steps from the data or persistent [Hinton02; Tieleman08]";
}

/// The share of a new batch in the means that centring subtracts. \[Melchior16\]
const SLIDE: f64 = 0.01;

/// By what names all that a run remembers is saved.
const CHAINS: &str = "chains";
const OFFSET: &str = "offset/";
const SIZES: &str = "sizes";
const FROZEN: &str = "frozen/";
const FAST: &str = "fast/";
const ACTIVE: &str = "active/";
const MEANS: &str = "means/";

/// So many samples of a batch tell how well they are reconstructed, where no chain of the loss begins at them.
const TELLING: usize = 16;

/// Keeps the noise of reconstructions apart from that of the chains.
const RECONSTRUCTION: u64 = 1;

impl<M: EnergyGradient> Objective<M> for ContrastiveDivergence {
    fn description(&self) -> Result<Value> {
        describe(self)
    }

    fn check(&self, _: &M::Spec, options: &TrainOptions) -> Result<()> {
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
        pretraining::check(self, options)?;
        self.check_chains()?;
        self.check_sparsity()?;
        not_negative("loss.weight_decay", self.weight_decay)?;
        self.kernel.get().check()
    }

    fn start(&self, model: &M) -> Result<Box<dyn Training<M>>> {
        let density: &dyn Density = model;
        let suits = density.check(self.kernel.get().needs());
        suits.map_err(|e| Error::Msg(format!("loss.kernel {}: {}", self.kernel.name(), plain(&e))))?;
        density.check(Capability::Energy)?;
        if self.pretrain.is_some() && model.layers() == 1 {
            return gradient::one_layer();
        }
        self.suits_chains(model)?;
        self.suits_sparsity(model)?;
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
    /// The biases of the layers that pre-training has gone past.
    frozen: Vec<Tensor>,
    /// What is added to the parameters for the chains alone, a tensor each.
    fast: Vec<Tensor>,
    /// How often hidden units have been on, a layer each.
    active: Vec<Tensor>,
    /// The means of the data, to which the ladder of tempered chains is fitted: one tensor.
    means: Vec<Tensor>,
}

/// The loss under way.
struct Run {
    options: ContrastiveDivergence,
    kept: Kept,
    /// The same after the parts of a step that has not moved the model yet.
    next: Option<Kept>,
}

impl Run {
    /// The mean squared difference between some samples of `x` and what one step draws of each, where whole states are drawn.
    fn reconstruction<M: EnergyGradient>(&self, model: &M, x: &Tensor, at: &Context) -> Result<Option<Series>> {
        let Some(conditionals) = model.as_conditionals().filter(|_| self.draws_blocks()) else { return Ok(None) };
        let (blocks, few) = (Blocks(conditionals), x.dim(0)?.min(TELLING));
        let (x, mut noise) = (x.narrow(0, 0, few)?, at.noise_for(RECONSTRUCTION, few));
        let mut chains = Chains::new(&blocks, &model.completed_by(&x, &mut noise)?)?;
        self.options.kernel.get().step(&blocks, &mut chains, &mut noise)?;
        Ok(Some(reconstruction_error(&x, &model.data_of(&chains.at.x)?)?))
    }

    /// Steps of the chains before the update under way.
    fn steps(&self, at: &Context) -> usize {
        let ContrastiveDivergence { k, k_first, .. } = self.options;
        let first = k_first.unwrap_or(k) as u64;
        let grown = (k as u64 + 1 - first) as u128 * u128::from(at.step) / u128::from(at.options.steps.max(1));
        k.min(first as usize + grown as usize)
    }

    /// The states after k steps from `start`, and energies and gradient of `x` and them.
    fn contrast<M: EnergyGradient>(
        &self,
        model: &M,
        (x, start): (&Tensor, &Tensor),
        factors: &[f64],
        kept: &mut Kept,
        at: &Context,
    ) -> Result<(Walked, Vec<f64>, Vec<Tensor>)> {
        if self.options.persistent == 0 && matches!(self.options.kernel, AnyKernel::Gibbs(_)) {
            let shorter = model.contrast(x, self.steps(at), factors, &mut at.noise(x.dim(0)?))?;
            if let Some((states, energies, grads)) = shorter {
                return Ok((Walked { states, replicas: None, series: None }, energies, grads));
            }
        }
        let walked = self.walked(model, start, kept, at)?;
        let (energies, grads) = model.energy_gradient(&Tensor::cat(&[x, &walked.states], 0)?, factors, at)?;
        Ok((walked, energies, grads))
    }
}

impl ContrastiveDivergence {
    /// Adds the gradient of the decay of weights, or of one of them, of which a part with this `share` of the step has its share.
    fn decay<M: EnergyGradient>(&self, model: &M, only: Option<usize>, share: f64, grads: &mut [Tensor]) -> Result<()> {
        if self.weight_decay > 0. {
            let weights = grads.iter_mut().zip(model.vars()).filter(|(_, (_, var))| var.rank() > 1);
            for (_, (g, (_, var))) in weights.enumerate().filter(|(i, _)| only.is_none_or(|only| only == *i)) {
                *g = (&*g + (var.as_detached_tensor() * (self.weight_decay * share))?)?;
            }
        }
        Ok(())
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
        let samples = batch.x.dim(0)?;
        let mut kept = self.next.take().filter(|_| at.part > 0).unwrap_or_else(|| self.kept.clone());
        if let Some(layer) = self.options.layer(model, at.step) {
            let part = pretraining::part(&self.options, layer, (model, &batch.x, at), &mut kept)?;
            self.next = Some(kept);
            return Ok(part);
        }
        pretraining::ended(&self.options, model, at, &mut kept);
        let start = self.start(model, &kept, &batch.x, at)?;
        let x = &model.completed(&batch.x)?;
        if self.options.tempering.is_some() {
            kept.means = slid(&kept.means, vec![model.means(x)?])?;
        }
        let chains = if self.options.persistent == 0 { samples } else { self.options.persistent };
        let (each, share) = (1. / at.total as f64, samples as f64 / at.total as f64);
        let mut factors = vec![each; samples];
        factors.resize(samples + chains, -share / chains as f64);
        let (walked, energies, mut grads) = self.contrast(model, (x, &start), &factors, &mut kept, at)?;
        let (data, of_chains) = energies.split_at(samples);
        self.options.decay(model, None, share, &mut grads)?;
        if self.options.centred {
            kept.offsets = slid(&kept.offsets, model.unit_means(x)?)?;
            grads = model.centred(grads, &kept.offsets)?;
        }
        kept.fast = self.options.faded(&kept.fast, &grads, at.part == 0)?;
        self.options.sparse(model, (x, share), &mut kept.active, &mut grads)?;
        let level = mean(of_chains);
        let mut series = vec![Series::mean("energy_data", mean(data)), Series::mean("energy_chains", level)];
        series.extend(walked.series);
        if self.options.persistent == 0 {
            series.push(reconstruction_error(&batch.x, &model.data_of(&walked.states)?)?);
        } else {
            kept.chains = Some(walked.replicas.unwrap_or(walked.states));
            series.extend(self.reconstruction(model, &batch.x, at)?);
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
        let Kept { chains, sizes, offsets, frozen, fast, active, means } = &self.kept;
        let sizes = sizes.numbers()?.map(|sizes| (SIZES.to_string(), sizes));
        let mut all: Vec<_> = chains.iter().map(|chains| (CHAINS.to_string(), chains.clone())).chain(sizes).collect();
        for (name, these) in [(OFFSET, offsets), (FROZEN, frozen), (FAST, fast), (ACTIVE, active), (MEANS, means)] {
            all.extend(these.iter().enumerate().map(|(i, t)| (format!("{name}{i}"), t.clone())));
        }
        Ok(all)
    }

    fn restore(&mut self, model: &M, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let Some((_, like)) = model.vars().first() else { bail!("the model has no parameters") };
        let chains = state.get(CHAINS).map(|chains| moved(chains, like)).transpose()?;
        let n = self.options.kept_chains();
        if let Some(chains) = chains.as_ref().filter(|chains| chains.dims().first() != Some(&n)) {
            bail!("holds chains of shape {:?} where there are {n}", chains.dims());
        }
        let all = |of: &str| {
            let these = (0..).map_while(|i| state.get(&format!("{of}{i}")));
            these.map(|t| moved(t, like)).collect::<Result<Vec<_>>>()
        };
        let sizes = match state.get(SIZES) {
            Some(t) if t.dims() == [self.options.persistent + 1, 4] => {
                StepSizes::of_numbers(self.options.kernel.name(), t)?
            }
            Some(t) => bail!("holds step sizes of shape {:?} for {} chains", t.dims(), self.options.persistent),
            None => StepSizes::default(),
        };
        let (offsets, frozen, fast, active) = (all(OFFSET)?, all(FROZEN)?, all(FAST)?, all(ACTIVE)?);
        self.kept = Kept { chains, sizes, offsets, frozen, fast, active, means: all(MEANS)? };
        self.next = None;
        Ok(())
    }
}
