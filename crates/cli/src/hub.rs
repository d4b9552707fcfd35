//! `langevin hub`: files of the Hugging Face Hub listed, downloaded and uploaded.

use crate::args::{Hub, HubVerb};
use crate::progress::Progress;
use crate::run::usage;
use anyhow::{Context, Result};
use langevin_hub::{Error, Event, Id, Kind, Push, Repo, Settings};
use langevin_models::atomic;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

/// Carries out `langevin hub`.
pub fn run(args: &Hub) -> Result<()> {
    match &args.verb {
        HubVerb::Ls { repo } => ls(repo),
        HubVerb::Get { repo, files, out } => get(repo, files, out.as_deref()),
        HubVerb::Push { dir, repo, private, revision } => push(dir, repo, *private, revision.as_deref()),
    }
}

/// A repository whose downloads are seen on stderr.
pub fn repo(name: &str) -> Result<Repo> {
    let shown: Mutex<Option<(String, Progress)>> = Mutex::new(None);
    let repo = Repo::parse(name).or_else(wrong)?;
    Ok(repo.watched(move |event| {
        let Ok(mut shown) = shown.lock() else { return };
        match event {
            Event::Note(text) => crate::talk!("{text}"),
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

/// A name that makes no sense is wrong usage.
fn wrong<T>(e: Error) -> Result<T> {
    if e.kind() == Kind::Input { usage(e.to_string()) } else { Err(e.into()) }
}

fn ls(name: &str) -> Result<()> {
    let files = repo(name)?.files()?;
    let width = files.iter().map(|file| file.size.to_string().len()).max().unwrap_or(0);
    for file in &files {
        crate::say!("{:>width$}  {}", file.size, file.path)?;
    }
    let all: u64 = files.iter().map(|file| file.size).sum();
    let s = if files.len() == 1 { "" } else { "s" };
    crate::talk!("{} file{s}, {:.1} MB", files.len(), all as f64 / 1e6);
    Ok(())
}

fn get(name: &str, files: &[String], out: Option<&Path>) -> Result<()> {
    let repo = repo(name)?;
    if files.is_empty() && out.is_none() {
        return crate::say!("{}", repo.snapshot(&[]).or_else(wrong)?.display());
    }
    // Names that are no patterns need no listing.
    let plain = !files.is_empty() && files.iter().all(|file| !file.contains(['*', '?', '[', '{']));
    let wanted: Vec<String> = if plain {
        files.to_vec()
    } else {
        let patterns: Vec<&str> = files.iter().map(String::as_str).collect();
        repo.matching(&patterns).or_else(wrong)?.into_iter().map(|entry| entry.path).collect()
    };
    for path in &wanted {
        let cached = repo.file(path).or_else(wrong)?;
        match out.map(|out| out.join(path)) {
            Some(to) => copy(&cached, &to)?,
            None => crate::say!("{}", cached.display())?,
        }
    }
    out.map_or(Ok(()), |out| crate::say!("{}", out.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot write {}", to.display()))?;
    }
    let mut cached = fs::File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    Ok(atomic::write_atomic(to, |file| std::io::copy(&mut cached, file).map(drop))?)
}

fn push(dir: &Path, name: &str, private: bool, revision: Option<&str>) -> Result<()> {
    if !dir.is_dir() {
        return usage(format!("there is no folder {}", dir.display()));
    }
    let name = revision.map_or(name.to_string(), |revision| format!("{name}@{revision}"));
    let to = Id::parse(&name).or_else(wrong)?;
    let message = "Upload by langevin";
    let settings = Settings::from_env().or_else(wrong)?;
    let address = langevin_hub::push(&Push { folder: dir, to, private, message }, &settings).or_else(wrong)?;
    crate::say!("{address}")
}
