//! The format of diffusers, all that is known of it: networks (`UNet2DModel`) with their weights, schedulers, the folders of
//! pipelines that hold both, and how a model of ours is written as such a folder.
//!
//! Its defaults, rounding and names of old versions are kept here; what is read is in the terms of the other modules.

mod card;
mod config;
pub mod describe;
mod export;
mod network;
pub mod pipeline;
mod scheduler;
pub mod weights;

pub use card::Trained;
pub use config::Config;
pub use export::{Drawing, Export, WEIGHTS};
pub use network::{Files, Network, is_network, load, open};
pub use pipeline::Pipeline;
pub use scheduler::{Plan, Scheduler};
