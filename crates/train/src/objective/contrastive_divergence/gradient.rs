//! What contrastive divergence asks of a density: the gradient of its energy in its parameters, and what is known of its units.

use crate::objective::Context;
use crate::trainable::Trainable;
use candle_core::{Result, Tensor, bail};
use langevin_dynamics::Ladder;
use langevin_dynamics::density::{Density, Energy};
use langevin_models::family::{Contrast, Greedy, GreedyContrast};
use langevin_models::{DensityModel, Rbm, Unnormalised};
use langevin_ops::noise::Noise;

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

    /// Data `x` `[B, ...]` as states, with the means of latent units beside them.
    fn completed(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }

    /// Data `x` `[B, ...]` as states, with latent units drawn.
    fn completed_by(&self, x: &Tensor, _noise: &mut Noise) -> Result<Tensor> {
        Ok(x.clone())
    }

    /// What of states is data.
    fn data_of(&self, states: &Tensor) -> Result<Tensor> {
        Ok(states.clone())
    }

    /// Pairs of layers that may be trained one after the other before all are trained together; 1 if there is but one.
    fn layers(&self) -> usize {
        1
    }

    /// What data `x` `[B, ...]` say of one pair of layers alone.
    ///
    /// Errors if there is but one.
    fn greedy(&self, _greedy: Greedy, _x: &Tensor, _noise: &mut Noise) -> Result<GreedyContrast> {
        one_layer()
    }

    /// The density whose parameters are these and what `by` adds to each.
    ///
    /// Errors if the model cannot be made anew.
    fn shifted(&self, _by: &[Tensor]) -> Result<Box<dyn Density + '_>> {
        bail!("loss.fast_rate is for models that can be made anew with other weights; leave it out")
    }

    /// The means over states `x` `[B, ...]` of their numbers, to which a ladder is fitted.
    fn means(&self, x: &Tensor) -> Result<Tensor> {
        x.detach().flatten_from(1)?.mean(0)
    }

    /// So many densities from independent numbers, with these [`EnergyGradient::means`], to the model.
    ///
    /// Errors if it knows none.
    fn rungs(&self, _means: Option<&[f64]>, _n: usize) -> Result<Box<dyn Ladder + '_>> {
        bail!("loss.tempering is for models that know a ladder of densities, such as an RBM; leave it out")
    }

    /// The gradient of a loss whose derivatives in what drives the units of each hidden layer are `pulls`, where the units of all layers
    /// have the means `means`, see [`EnergyGradient::unit_means`]; without any, nothing.
    ///
    /// Errors if the model has no layers of units.
    fn driven(&self, _means: &[Tensor], _pulls: &[Tensor]) -> Result<Vec<Tensor>> {
        bail!("loss.sparsity is for models with layers of hidden units, such as an RBM; leave it out")
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

pub(super) fn one_layer<T>() -> Result<T> {
    bail!("loss.pretrain is for models with several layers of hidden units, such as a dbm; leave it out")
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

    fn completed(&self, x: &Tensor) -> Result<Tensor> {
        DensityModel::completed(self, x)
    }

    fn completed_by(&self, x: &Tensor, noise: &mut Noise) -> Result<Tensor> {
        DensityModel::completed_by(self, x, 0, noise)
    }

    fn data_of(&self, states: &Tensor) -> Result<Tensor> {
        self.spec.data_of(states)
    }

    fn layers(&self) -> usize {
        self.body().layers()
    }

    fn shifted(&self, by: &[Tensor]) -> Result<Box<dyn Density + '_>> {
        let added = self.weights().into_iter().zip(by).map(|((name, t), by)| Ok((name, (t + by)?)));
        Ok(Box::new(self.with(added.collect::<Result<Vec<_>>>()?)?))
    }

    fn means(&self, x: &Tensor) -> Result<Tensor> {
        self.sums(x)? / x.dim(0)? as f64
    }

    fn rungs(&self, means: Option<&[f64]>, n: usize) -> Result<Box<dyn Ladder + '_>> {
        self.ladder(means, n)
    }

    fn driven(&self, means: &[Tensor], pulls: &[Tensor]) -> Result<Vec<Tensor>> {
        match self.body().driven(means, pulls)? {
            Some(grads) => Ok(grads),
            None => bail!("loss.sparsity is for models with layers of hidden units, such as an RBM; leave it out"),
        }
    }

    fn greedy(&self, greedy: Greedy, x: &Tensor, noise: &mut Noise) -> Result<GreedyContrast> {
        self.body().greedy(greedy, x, noise)?.map_or_else(one_layer, Ok)
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
