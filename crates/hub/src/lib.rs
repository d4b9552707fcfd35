//! Files of the Hugging Face Hub: downloaded, checked, cached, offline.
//!
//! ```no_run
//! let repo = langevin_hub::Repo::parse("google/ddpm-cifar10-32@main")?;
//! let config = repo.file("config.json")?; // a path in the cache, downloaded where need be
//! # Ok::<(), langevin_hub::Error>(())
//! ```
//!
//! The cache is the one that Python's huggingface_hub keeps: what one of the two downloaded, the other finds.
//! Downloads are by a client of our own, as hf-hub 1.0 resumes none, checks none, and waits for ever; uploads are hf-hub's.

mod cache;
mod check;
mod download;
mod error;
mod http;
mod id;
mod push;
mod repo;
mod settings;

pub use check::check;
pub use error::{Error, ErrorKind, Result};
pub use id::{Id, safe};
pub use push::{Push, push};
pub use repo::{Entry, Event, Repo};
pub use settings::Settings;
