//! Energy-based, score-based and diffusion generative models: train, sample, score and evaluate.
//!
//! Every model is an energy whose score is its gradient by autodiff, or says which of the two it has. The parts, from the ground
//! up:
//!
//! - [`ops`]: tensors that may be differentiated as often as you like, seeded noise, registries of interchangeable things;
//! - [`data`]: data sets as batches;
//! - [`dynamics`]: densities and ladders of them, MCMC, noise processes, samplers, likelihoods, composition, inverse problems;
//! - [`models`]: networks, energies, checkpoints, the format of diffusers;
//! - [`train`]: objectives, optimisers, averages, the trainer and its state;
//! - [`eval`]: bits per dimension, detection, PSNR and SSIM, the shape of energies;
//! - [`hub`]: files of the Hugging Face Hub.
//!
//! A density of one's own, drawn from by Hamiltonian Monte Carlo:
//!
//! ```
//! use langevin::dynamics::mcmc::{Chains, Hmc, Kernel};
//! use langevin::ops::{noise::Noise, shape::sum_per_sample};
//! use langevin::{DType, Device, Result, Tensor};
//!
//! fn main() -> Result<()> {
//!     // E(x) = 2 (|x| - 3)^2: a ring of radius 3
//!     let ring = |x: &Tensor| sum_per_sample(&x.sqr()?)?.sqrt()?.affine(1., -3.)?.sqr()?.affine(2., 0.);
//!     let mut noise = Noise::seeds(&[1, 2, 3]);
//!     let mut chains = Chains::new(&ring, &noise.normal((3, 2), DType::F64, &Device::Cpu)?)?;
//!     let stats = Hmc::default().run(&ring, &mut chains, 200, &mut noise)?;
//!     assert!(stats.acceptance() > 0.5);
//!     Ok(())
//! }
//! ```
//!
//! `examples/own_loss.rs` trains a model and a loss that are not of this workspace, with checkpoints, resumption and a log.

pub use langevin_data as data;
pub use langevin_dynamics as dynamics;
pub use langevin_eval as eval;
pub use langevin_hub as hub;
pub use langevin_models as models;
pub use langevin_ops as ops;
pub use langevin_train as train;

pub use candle_core::Error;
pub use langevin_ops::{DType, Device, Result, Tensor, Var, bail};
