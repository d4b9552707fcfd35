//! `langevin hub`: files of the Hugging Face Hub listed, downloaded and uploaded.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use langevin::download::{repo, wrong};
use langevin::error::usage;
use langevin::hub::{Id, Push, Settings};
use langevin::models::atomic;
use std::fs;
use std::path::{Path, PathBuf};

/// Files of the Hugging Face Hub: list, download, upload
#[derive(Parser)]
#[command(after_long_help = "\
A repository is owner/name, or owner/name@REVISION for a branch, a tag or a commit; datasets/owner/name for a data \
set. Downloads go to the cache that Python's huggingface_hub has too, are gone on with after a cut, and are compared \
with their hash. HF_TOKEN opens private repositories; HF_HUB_OFFLINE=1 uses the cache alone; HF_ENDPOINT, HF_HOME, \
HF_HUB_CACHE and HF_HUB_DOWNLOAD_TIMEOUT mean what they mean there.

Examples:
  langevin hub ls google/ddpm-cifar10-32
  # the whole repository; prints its folder
  langevin hub get google/ddpm-cifar10-32
  langevin hub get google/ddpm-cifar10-32 '*.json' --out ddpm      some files, copied to a folder
  langevin hub push exported me/digits --private                   a folder, as one commit")]
pub struct Hub {
    /// What to do
    #[command(subcommand)]
    pub verb: HubVerb,
}

/// What `langevin hub` does
#[derive(Subcommand)]
pub enum HubVerb {
    /// List the files of a repository and their sizes in bytes
    #[command(after_long_help = "Example:\n  langevin hub ls google/ddpm-cifar10-32@main")]
    Ls {
        /// owner/name[@REVISION]
        repo: String,
    },
    /// Download files, and say where they are
    #[command(after_long_help = "\
Examples:
  langevin hub get google/ddpm-cifar10-32
  langevin hub get google/ddpm-cifar10-32 config.json diffusion_pytorch_model.safetensors
  langevin hub get google/ddpm-cifar10-32 '*.json' --out ddpm")]
    Get {
        /// owner/name[@REVISION]
        repo: String,
        /// Files, or patterns such as 'unet/*' [default: all files]
        #[arg(value_name = "FILE")]
        files: Vec<String>,
        /// Copy them to this folder, besides the cache
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Upload a folder as one commit, and say where it is; needs a token that may write, in HF_TOKEN
    #[command(after_long_help = "\
Examples:
  langevin hub push exported me/digits
  langevin hub push exported me/digits --private --revision wip")]
    Push {
        /// The folder
        dir: PathBuf,
        /// owner/name; it is created where it does not exist
        repo: String,
        /// Nobody else sees the repository, if it is created
        #[arg(long)]
        private: bool,
        /// The branch, created where it does not exist [default: main]
        #[arg(long, value_name = "R")]
        revision: Option<String>,
    },
}

/// Carries out `langevin hub`.
pub fn run(args: &Hub) -> Result<()> {
    match &args.verb {
        HubVerb::Ls { repo } => ls(repo),
        HubVerb::Get { repo, files, out } => get(repo, files, out.as_deref()),
        HubVerb::Push { dir, repo, private, revision } => push(dir, repo, *private, revision.as_deref()),
    }
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
    let address = langevin::hub::push(&Push { folder: dir, to, private, message }, &settings).or_else(wrong)?;
    crate::say!("{address}")
}
