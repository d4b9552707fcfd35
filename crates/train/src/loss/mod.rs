//! What is minimised.

mod denoising;

pub use denoising::Denoising;
