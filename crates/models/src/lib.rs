//! What has parameters: U-Net, MLP, energies, restricted and deep Boltzmann machines, checkpoints.
//!
//! A [`Model`] is a network, the process that it denoises and what its output means; its [`ModelSpec`] is all that is
//! needed to rebuild it from its weights. A [`DensityModel`] is a density that no process belongs to, of a [`Family`] such as that
//! of the [`Rbm`], described by its [`DensitySpec`]; an [`AnyChainSampler`]
//! draws from it, [`Ais`] gives its log Z, and [`Raise`] a log p that is rather too small.
//!
//! Sources, by the keys that the files use (those of `langevin-dynamics` beside):
//! - \[Smolensky86\] Information processing in dynamical systems: foundations of harmony theory
//! - \[Ngiam11\] Learning deep energy models, ICML 2011
//! - \[Hinton12\] A practical guide to training restricted Boltzmann machines
//! - \[Montavon12\] Deep Boltzmann machines and the centering trick
//! - \[Melchior16\] How to center deep Boltzmann machines, JMLR 17
//! - \[Salakhutdinov07\] Salakhutdinov, Mnih and Hinton, Restricted Boltzmann machines for collaborative filtering, ICML 2007
//! - \[Tubiana19\] Learning protein constitutive motifs from sequence data, eLife 8
//! - \[Salakhutdinov09\] Salakhutdinov and Hinton, Deep Boltzmann machines, AISTATS 2009
//! - \[Salakhutdinov08\] On the quantitative analysis of deep belief networks, ICML 2008

pub mod atomic;
mod blocks;
pub mod checkpoint;
pub mod dbm;
pub mod diffusers;
pub mod draw;
mod embed;
pub mod energy;
pub mod family;
mod level;
pub mod mixture;
pub mod mlp;
mod mlp_energy;
pub mod model;
pub mod net;
pub mod params;
mod pickle;
mod prefix;
pub mod rbm;
pub mod tensors;
pub mod torch;
pub mod unet;

pub use dbm::{Dbm, DbmConfig, DbmSpec};
pub use draw::{AnyChainSampler, ChainSampler, Drawn, Held};
pub use energy::{Form, GradNet};
pub use family::{
    Ais, AnyFamily, DensityModel, DensitySpec, Family, MlpEnergyConfig, Raise, RbmConfig, States, Unnormalised,
};
pub use langevin_dynamics::Potential;
pub use model::{Head, Model, ModelSpec, plain};
pub use net::{AnyNet, NetConfig};
pub use rbm::{Rbm, RbmLadder, RbmSpec, Visible};
