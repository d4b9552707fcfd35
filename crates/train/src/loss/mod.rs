//! What is minimised.

mod denoising;
mod distillation;

pub use denoising::{Denoising, Noisy};
pub use distillation::Teacher;
