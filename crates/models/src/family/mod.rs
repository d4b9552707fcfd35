//! Families of densities that no process belongs to: restricted Boltzmann machines, and what comes beside them.
//!
//! A family is a struct of options, a [`Family`], that builds a body, an [`Unnormalised`] density: p(x) = exp(-E(x)) / Z. A
//! [`DensityModel`] is a body with its weights and its [`DensitySpec`], which is all that is needed to rebuild it from them. What
//! a body does not know of itself is `None`; the model makes an error of it, where it is asked for, that names the family.

mod log_z;
mod model;
mod raise;
mod spec;

pub use log_z::Ais;
pub use model::DensityModel;
pub use raise::Raise;
pub(crate) use spec::described;
pub use spec::{DensitySpec, States};

pub use crate::dbm::{DbmConfig, Greedy, GreedyContrast};
pub use crate::mlp_energy::{Activation, MlpEnergyConfig};
pub use crate::rbm::RbmConfig;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use langevin_dynamics::{Density, Ladder};
use langevin_ops::noise::Noise;
use langevin_ops::registry;

/// Options from which a density is built.
pub trait Family: Send + Sync + std::fmt::Debug {
    /// What its states are.
    fn states(&self) -> States;

    /// Latent units: numbers of a state that no data have. Where there are some states are rows `[B, numbers of the data + latent]`,
    /// the data's first.
    fn latent(&self) -> usize {
        0
    }

    /// Errors, naming the option, if it makes no sense for data of `shape`.
    fn check(&self, shape: &[usize]) -> Result<()>;

    /// The density over data of `shape`, of parameters that `vb` gives.
    ///
    /// Errors in one sentence that names the option.
    fn build(&self, shape: &[usize], vb: VarBuilder) -> Result<Box<dyn Unnormalised>>;
}

registry! {
    /// Any family of densities, as weights files and configurations name it.
    pub enum AnyFamily: Family = "family" { RbmConfig, DbmConfig, MlpEnergyConfig }
}

/// A restricted Boltzmann machine.
impl Default for AnyFamily {
    fn default() -> Self {
        RbmConfig::default().into()
    }
}

/// States that chains have reached, energies of their starts and then of them, and a gradient.
pub type Contrast = (Tensor, Vec<f64>, Vec<Tensor>);

/// ln of the sum of exp(-E) over latent units, given data.
#[derive(Clone, Debug)]
pub struct Inferred {
    /// Of each sample.
    pub log_sum: Vec<f64>,
    /// Whether it is the sum, or a bound from below.
    pub exact: bool,
}

/// A density p(x) = exp(-E(x)) / Z over states `[B, ...]`, and what more is known of it than a density says. What is not said here
/// is not known: `None`.
pub trait Unnormalised: Density + Send + Sync {
    /// `n` states at which chains begin, a stream of `z` each: wide, so that chains are not all at one mode.
    fn begin(&self, n: usize, z: &mut Noise) -> Result<Tensor>;

    /// E of each of the states `x` `[B, ...]`, and the gradient of the sum of `factors` (one a state) times E in closed form, in the
    /// order of the parameters' names.
    fn energy_gradient(&self, _x: &Tensor, _factors: &[f64]) -> Result<Option<(Vec<f64>, Vec<Tensor>)>> {
        Ok(None)
    }

    /// The states after `k` steps of Gibbs sampling from `x` `[B, ...]`, and [`Unnormalised::energy_gradient`] of both, `x` first: the
    /// same numbers by a shorter way.
    fn contrast(&self, _x: &Tensor, _k: usize, _factors: &[f64], _z: &mut Noise) -> Result<Option<Contrast>> {
        Ok(None)
    }

    /// The means of the latent units given data `x` `[B, ...]`, as training infers them: `[B, latent]`. `None` if there are none.
    fn latent_means(&self, _x: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// ln of the sum of exp(-E) over the latent units given data `x` `[B, ...]`. `None` if there are none.
    fn log_sum_latent(&self, _x: &Tensor) -> Result<Option<Inferred>> {
        Ok(None)
    }

    /// Pairs of layers that can be trained one after the other before all are trained together; 1 if there is but one.
    fn layers(&self) -> usize {
        1
    }

    /// What data `x` `[B, ...]` say of one pair of layers alone. `None` if there is but one.
    fn greedy(&self, _greedy: Greedy, _x: &Tensor, _z: &mut Noise) -> Result<Option<GreedyContrast>> {
        Ok(None)
    }

    /// The means over the states `x` `[B, ...]` of units, layer by layer, for centred gradients.
    fn unit_means(&self, _x: &Tensor) -> Result<Option<Vec<Tensor>>> {
        Ok(None)
    }

    /// The gradient `grads` as it is with units less `offsets`, one of [`Unnormalised::unit_means`] a layer.
    fn centred(&self, grads: Vec<Tensor>, _offsets: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(grads)
    }

    /// The gradient of a loss whose derivatives in what drives the units of each hidden layer are `pulls`, in the order of the parameters,
    /// where the units of all layers have the means `means` of [`Unnormalised::unit_means`]; without any, nothing. `None` if it has no
    /// such layers.
    fn driven(&self, _means: &[Tensor], _pulls: &[Tensor]) -> Result<Option<Vec<Tensor>>> {
        Ok(None)
    }

    /// `rungs` densities over states in f64, from one that is normalised and can be drawn from to this one. `means` are those of the
    /// data as [`States::rows`], to which the first is fitted; without them it is fitted to what the density says of itself.
    ///
    /// Errors if there are fewer than 2 rungs, or means that cannot be.
    fn ladder(&self, _means: Option<&[f64]>, _rungs: usize) -> Result<Option<Box<dyn Ladder + '_>>> {
        Ok(None)
    }

    /// ln Z, in f64, where it is known without an estimate in seconds.
    fn log_z_exact(&self) -> Result<Option<f64>> {
        Ok(None)
    }

    /// What each of its H units looks for, to be looked at: `[H, ...]`.
    fn filters(&self) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// The states `x` `[B, ...]` without the noise of their last draw, the means of their numbers given the means of their hidden units:
    /// bits as grey levels, to be looked at.
    fn smoothed(&self, _x: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// The means of its hidden units given states `[B, ...]`, `[B, H]`: features of them.
    fn features(&self, _x: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }
}
