//! What is minimised.

mod denoising;
mod distillation;
pub mod dual;

pub use denoising::{Denoising, Noisy};
pub use distillation::Teacher;
