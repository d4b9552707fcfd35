//! What has parameters: U-Net, MLP, energies, the restricted Boltzmann machine, checkpoints.
//!
//! A [`Model`] is a network, the process that it denoises and what its output means; its [`ModelSpec`] is all that is
//! needed to rebuild it from its weights. An [`Rbm`] is a family of its own.
//!
//! Sources, by the keys that the files use (those of `langevin-dynamics` beside):
//! - \[Smolensky86\] Information processing in dynamical systems: foundations of harmony theory
//! - \[Hinton12\] A practical guide to training restricted Boltzmann machines
//! - \[Salakhutdinov08\] On the quantitative analysis of deep belief networks, ICML 2008

pub mod atomic;
mod blocks;
pub mod checkpoint;
pub mod diffusers;
mod embed;
pub mod energy;
mod level;
pub mod mixture;
pub mod mlp;
pub mod model;
pub mod net;
pub mod params;
mod pickle;
mod prefix;
pub mod rbm;
pub mod tensors;
pub mod torch;
pub mod unet;

pub use energy::{Form, GradNet};
pub use langevin_dynamics::Potential;
pub use model::{Head, Model, ModelSpec, plain};
pub use net::{AnyNet, NetConfig};
pub use rbm::{Rbm, RbmLadder, RbmSpec};
