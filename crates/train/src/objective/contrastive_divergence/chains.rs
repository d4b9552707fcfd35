//! Where the chains of contrastive divergence begin, and how they move: by the model itself, by one with fast weights beside its own
//! (\[Tieleman09\]), or by parallel tempering along the model's ladder (\[Desjardins10\]).

use super::{ContrastiveDivergence, EnergyGradient, Kept, Run};
use crate::objective::Context;
use crate::optim::not_negative;
use crate::series::Series;
use candle_core::{DType, Result, Tensor, bail};
use langevin_dynamics::density::{Blocks, Capability, Density};
use langevin_dynamics::ladder;
use langevin_dynamics::mcmc::{AnyKernel, Chains, Stats};
use langevin_ops::shape::to_host;

/// What of the fast weights is left after a step. \[Tieleman09\]
const FADES: f64 = 0.95;

/// Keeps the noise of latent units apart from that of the chains.
const LATENT: u64 = 2;

/// Replicas of all chains together, at most.
const MOST: usize = 1 << 20;

/// The states that chains have come to.
pub(super) struct Walked {
    /// Those of the model, `[N, ...]`.
    pub(super) states: Tensor,
    /// Those of all replicas, if there are more: `[R N, ...]`, the model's last.
    pub(super) replicas: Option<Tensor>,
    /// What chains tell of their way.
    pub(super) series: Option<Series>,
}

impl ContrastiveDivergence {
    /// Errors, naming the option, if one of the chains is out of its range.
    pub(super) fn check_chains(&self) -> Result<()> {
        let replicas = self.tempering.unwrap_or(1);
        if self.tempering.is_some_and(|rungs| rungs < 2) || replicas.saturating_mul(self.persistent) > MOST {
            bail!(
                "loss.tempering is {replicas}; give at least 2 rungs, and at most 2^20 chains on all of them together"
            );
        }
        for (on, key) in [(self.tempering.is_some(), "tempering"), (self.fast_rate.is_some(), "fast_rate")] {
            if on && self.persistent == 0 {
                bail!("loss.{key} is for chains that go on from step to step; set loss.persistent, or leave it out");
            }
        }
        if self.tempering.is_some() && self.fast_rate.is_some() {
            bail!("loss.tempering and loss.fast_rate both make chains mix; leave one of the two out");
        }
        if self.tempering.is_some() && !matches!(self.kernel, AnyKernel::Gibbs(_)) {
            let name = self.kernel.name();
            bail!("loss.tempering moves its chains by gibbs, and loss.kernel is {name}; leave one of the two out");
        }
        self.fast_rate.map_or(Ok(()), |rate| not_negative("loss.fast_rate", rate))
    }

    /// Errors if the model has not what the chains need.
    pub(super) fn suits_chains<M: EnergyGradient>(&self, model: &M) -> Result<()> {
        if let Some(rungs) = self.tempering {
            model.rungs(None, rungs)?;
        }
        match self.fast_rate {
            Some(_) => {
                let none: Vec<_> = model.vars().iter().map(|(_, var)| var.zeros_like()).collect::<Result<_>>()?;
                model.shifted(&none).map(drop)
            }
            None => Ok(()),
        }
    }

    /// Chains that are kept: of all replicas.
    pub(super) fn kept_chains(&self) -> usize {
        self.persistent * self.tempering.unwrap_or(1)
    }

    /// The fast weights after a part with this gradient: they fade at the first part of a step.
    pub(super) fn faded(&self, fast: &[Tensor], grads: &[Tensor], first: bool) -> Result<Vec<Tensor>> {
        let Some(rate) = self.fast_rate else { return Ok(vec![]) };
        let fades = if first { FADES } else { 1. };
        let one = |(i, grad): (usize, &Tensor)| match fast.get(i) {
            Some(fast) => (fast * fades)? - (grad * rate)?,
            None => grad * -rate,
        };
        grads.iter().enumerate().map(one).collect()
    }
}

impl Run {
    /// Where the chains of the data `x` begin: at its samples in turn, if there are none that go on.
    pub(super) fn start<M: EnergyGradient>(&self, model: &M, kept: &Kept, x: &Tensor, at: &Context) -> Result<Tensor> {
        let x = match &kept.chains {
            Some(chains) => return Ok(chains.clone()),
            None => model.completed_by(x, &mut at.noise_for(LATENT, x.dim(0)?))?,
        };
        match self.options.persistent {
            0 => Ok(x),
            chains => {
                let rows = x.dim(0)? as u32;
                let replica = (0..chains as u32).map(|i| i % rows);
                let all = (0..self.options.tempering.unwrap_or(1)).flat_map(|_| replica.clone());
                x.index_select(&Tensor::from_iter(all.collect::<Vec<_>>(), x.device())?, 0)
            }
        }
    }

    /// The states of `model` after the steps of the update under way from `start`.
    pub(super) fn walked<M: EnergyGradient>(
        &self,
        model: &M,
        start: &Tensor,
        kept: &mut Kept,
        at: &Context,
    ) -> Result<Walked> {
        if let Some(rungs) = self.options.tempering {
            return self.tempered(model, start, (rungs, kept), at);
        }
        let shifted = match kept.fast.is_empty() {
            true => None,
            false => Some(model.shifted(&kept.fast)?),
        };
        let density: &dyn Density = match &shifted {
            Some(shifted) => shifted.as_ref(),
            None => model,
        };
        let (kernel, mut noise) = (self.options.kernel.get(), at.noise(start.dim(0)?));
        let blocks = density.as_conditionals().filter(|_| self.draws_blocks()).map(Blocks);
        let density: &dyn Density = match &blocks {
            Some(blocks) => blocks,
            None => density,
        };
        let mut chains = Chains::new(density, start)?;
        chains.sizes = std::mem::take(&mut kept.sizes);
        let mut stats = Stats::default();
        for _ in 0..self.steps(at) {
            stats += kernel.step(density, &mut chains, &mut noise)?;
        }
        kept.sizes = chains.sizes;
        let proposes = self.options.kernel.get().exact() && !self.draws_blocks();
        let series = proposes.then(|| Series::mean("acceptance", stats.acceptance()));
        Ok(Walked { states: chains.at.x, replicas: None, series })
    }

    /// The same by chains at every rung of the model's ladder, `[R N, ...]`, which swap places with their neighbours after each step.
    /// The first is fitted to the means of the data so far.
    fn tempered<M: EnergyGradient>(
        &self,
        model: &M,
        start: &Tensor,
        (rungs, kept): (usize, &Kept),
        at: &Context,
    ) -> Result<Walked> {
        let means = kept.means.first().map(to_host).transpose()?;
        let (ladder, n, steps) = (model.rungs(means.as_deref(), rungs)?, start.dim(0)? / rungs, self.steps(at));
        let wide = start.to_dtype(DType::F64)?;
        let replica = |rung: usize| {
            let density = ladder.density(rung);
            Chains::new(density.as_ref(), &wide.narrow(0, rung * n, n)?)
        };
        let mut chains = (0..rungs).map(replica).collect::<Result<Vec<_>>>()?;
        let (mut swaps, mut noise) = (Stats::default(), at.noise(n));
        for step in 0..steps {
            let turn = (at.batch() as usize).wrapping_mul(steps).wrapping_add(step);
            let swept = ladder::sweep(self.options.kernel.get(), ladder.as_ref(), 0, &mut chains, turn, &mut noise)?;
            swept.iter().filter_map(|swept| swept.swapped).for_each(|swapped| swaps += swapped);
        }
        let all: Vec<_> = chains.iter().map(|chains| &chains.at.x).collect();
        let all = Tensor::cat(&all, 0)?.to_dtype(start.dtype())?;
        let states = all.narrow(0, (rungs - 1) * n, n)?.contiguous()?;
        Ok(Walked { states, replicas: Some(all), series: Some(Series::mean("swapped", swaps.acceptance())) })
    }

    pub(super) fn draws_blocks(&self) -> bool {
        self.options.kernel.get().needs() == Capability::Conditionals
    }
}
