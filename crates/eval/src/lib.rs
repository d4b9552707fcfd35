//! What models are measured by: likelihoods, detection of what does not belong, the shape of energies.
//!
//! Sources, by the keys that the files use:
//! - \[DeLong88\] Comparing the areas under two or more correlated receiver operating characteristic curves, Biometrics 44
//! - \[Nalisnick18\] Do deep generative models know what they don't know?, 1810.09136
//! - \[Nalisnick19\] Detecting out-of-distribution inputs to deep generative models using typicality, 1906.02994
//! - \[Mahmood20\] Multiscale score matching for out-of-distribution detection, 2010.13132
//! - \[Graham22\] Denoising diffusion models for out-of-distribution detection, 2211.07740
//! - \[Chao22\] On investigating the conservative property of score-based generative models, 2209.12753
//! - \[Lin16\] Approximating spectral densities of large matrices, SIAM Review 58, 1308.5467
//! - \[Vovk05\] Algorithmic learning in a random world
//! - \[Bates21\] Testing for outliers with conformal p-values, 2104.08279

pub mod bits;
pub mod look;
pub mod maps;
pub mod p_value;
pub mod psnr;
pub mod roc;
pub mod score;
pub mod ssim;

pub use p_value::HeldOut;
pub use roc::{Interval, Roc};
pub use score::{AnyDetector, Detector, Rule};
