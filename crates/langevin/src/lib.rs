//! Energy-based, score-based and diffusion generative models: train, sample, score and evaluate.
//!
//! A model opened by its name, of a run, of the Hugging Face Hub, or an exact one; its samples, its density, and a run of one's own:
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let model = langevin::open("runs/digits")?;
//! let samples = model.sample().seeds(0..64).sampler("heun").set("sampler.steps=20").draw()?;
//! samples.save_png("digits.png")?;
//! let config = langevin::Config::named("digits", &["train.steps=2000"])?;
//! langevin::Run::new(config, Some("runs/mine".as_ref()), &langevin::Device::Cpu)?.train(&mut ())?;
//! # Ok(())
//! # }
//! ```
//!
//! Errors say what is wrong and what to do; [`error::Usage`] has the option as data. What long work says while it goes on is for
//! a [`watch::Watch`].
//!
//! The rooms: [`open`](mod@open) models; [`config`]urations and [`run`]s; what [`sample`]s are drawn and how, of several models
//! at once ([`compose`]) or given a measurement ([`inverse`]); [`likelihood`]; [`scoring`] what does not belong; [`output`] of
//! pictures, arrays and tables; [`density`]s of families, such as the restricted Boltzmann machine; the [`lab`], which
//! compares all ways to learn one; what a model says of tensors ([`apply`]). Beneath them, from the ground
//! up, are crates of their own:
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

pub mod apply;
pub mod bits;
pub mod bounds;
pub mod classes;
pub mod compose;
pub mod config;
pub mod density;
pub mod detect;
pub mod download;
pub mod error;
pub mod inverse;
pub mod keeps;
pub mod lab;
pub mod likelihood;
pub mod ood;
pub mod open;
pub mod output;
pub mod run;
pub mod sample;
pub mod scoring;
pub mod watch;

pub use config::{Config, DensityConfig};
pub use open::{AnyOpened, Opened, OpenedDensity};
pub use run::Run;

/// The model called `name`, in f32 on the CPU: a run folder, RUN@STEP, a weights file, a folder of diffusers, OWNER/NAME of the
/// Hugging Face Hub, or exact:NAME.
///
/// Errors, naming what is there, if it means none.
pub fn open(name: &str) -> anyhow::Result<Opened> {
    open::open(name, &Device::Cpu)
}

/// As [`open`](fn@open), of a density of a family as well.
pub fn open_any(name: &str) -> anyhow::Result<AnyOpened> {
    open::open_any(name, &Device::Cpu)
}

pub use langevin_data as data;
pub use langevin_dynamics as dynamics;
pub use langevin_eval as eval;
pub use langevin_hub as hub;
pub use langevin_models as models;
pub use langevin_ops as ops;
pub use langevin_train as train;

pub use candle_core::Error;
pub use langevin_ops::{DType, Device, Result, Tensor, Var, bail};

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
