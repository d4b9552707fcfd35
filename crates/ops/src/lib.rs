//! Tensors that may be differentiated as often as you like, and noise that can be repeated.
//!
//! Everything else in Langevin stands on three promises made here:
//! - [`grad`]: a gradient taken inside a loss can itself be differentiated, and callers cannot get that wrong;
//! - the ops ([`conv`], [`norm`], [`attend`], ...) are closed under differentiation, on every device ([`tape`]);
//! - [`noise::Noise`]: every random number belongs to the seed of its sample, whatever the batch.
//!
//! This is the only crate with `unsafe` code, and the only one that knows candle's traps.

pub mod act;
pub mod attend;
mod basic;
mod bridge;
pub mod check;
mod conditions;
mod context;
pub mod conv;
pub mod fir;
pub mod grad;
mod kernel;
pub mod linalg;
pub mod linear;
pub mod memory;
pub mod noise;
pub mod norm;
mod product;
mod recompute;
pub mod registry;
pub mod resample;
pub mod shape;
pub mod signals;
pub mod stats;
pub mod tape;
pub mod threads;

pub use candle_core::{DType, Device, Result, Tensor, Var, bail};
pub use conditions::Conditions;
