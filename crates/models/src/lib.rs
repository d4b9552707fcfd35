//! What has parameters: U-Net, MLP, energies, checkpoints.
//!
//! A [`Model`] is a network, the process that it denoises and what its output means; its [`ModelSpec`] is all that is
//! needed to rebuild it from its weights.

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
pub mod tensors;
pub mod torch;
pub mod unet;

pub use energy::{Form, GradNet};
pub use langevin_dynamics::Potential;
pub use model::{Head, Model, ModelSpec, plain};
pub use net::{AnyNet, NetConfig};
