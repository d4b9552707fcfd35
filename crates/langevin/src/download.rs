//! Repositories of the Hugging Face Hub whose downloads are watched.

use crate::error::usage;
use crate::watch::Progress;
use anyhow::Result;
use langevin_hub::{Error, ErrorKind, Event, Repo};
use std::sync::Mutex;

/// The repository `name`, OWNER/NAME\[@REVISION\].
pub fn repo(name: &str) -> Result<Repo> {
    let shown: Mutex<Option<(String, Progress)>> = Mutex::new(None);
    let repo = Repo::parse(name).or_else(wrong)?;
    Ok(repo.watched(move |event| {
        let Ok(mut shown) = shown.lock() else { return };
        match event {
            Event::Note(text) => crate::note!("{text}"),
            Event::Bytes { file, done, size } => {
                if shown.as_ref().is_none_or(|(name, _)| name != file) {
                    let new = Progress::bytes(file, size.unwrap_or(0));
                    if let Some((_, old)) = shown.replace((file.into(), new)) {
                        old.done();
                    }
                }
                if let Some((_, progress)) = shown.as_mut() {
                    progress.at(done);
                }
                if size == Some(done)
                    && let Some((_, progress)) = shown.take()
                {
                    progress.done();
                }
            }
        }
    }))
}

/// A name that makes no sense is a mistake of who asks.
pub fn wrong<T>(e: Error) -> Result<T> {
    if e.kind() == ErrorKind::Input { usage(e.to_string()) } else { Err(e.into()) }
}
