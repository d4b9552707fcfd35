//! The cache of huggingface_hub: `models--OWNER--NAME/{blobs/ETAG, refs/REVISION, snapshots/COMMIT/PATH}`, and `.locks`.
//!
//! Blobs bear the hash of their contents; snapshots are links to them. Every path here has passed [`safe`](crate::safe).

use crate::check::contents;
use crate::id::{Id, is_commit};
use crate::{Error, Result};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
#[cfg(unix)]
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::Builder;

/// Files below this are compared with their hash whenever they are found. Some clients keep the text of an error
/// as the file, and such texts are small.
const SMALL: u64 = 1 << 20;

/// A repository's part of the cache.
pub(crate) struct Cache {
    folder: PathBuf,
    locks: PathBuf,
}

impl Cache {
    pub(crate) fn new(root: &Path, id: &Id) -> Self {
        let name = format!("{}--{}", id.kind(), id.name.replace('/', "--"));
        Self { folder: root.join(&name), locks: root.join(".locks").join(name) }
    }

    /// The commit that a revision stood for when it was last looked up.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.into());
        }
        let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_string()).filter(|commit| is_commit(commit))
    }

    /// Notes what a revision stands for.
    pub(crate) fn note(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        put(&path, |beside| File::create_new(beside)?.write_all(commit.as_bytes()))
    }

    /// The folder of a commit's files.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// A file that is there, and, if it is small, is what its name says.
    pub(crate) fn find(&self, commit: &str, path: &str) -> Option<PathBuf> {
        let path = self.snapshot(commit).join(path);
        let meta = fs::metadata(&path).ok().filter(|meta| meta.is_file())?;
        (meta.len() > SMALL || crate::check(&path).is_ok()).then_some(path)
    }

    /// The paths and sizes of a commit's files that are there.
    pub(crate) fn list(&self, commit: &str) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        let mut folders = vec![(self.snapshot(commit), String::new())];
        while let Some((folder, prefix)) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
                match fs::metadata(entry.path()) {
                    Ok(meta) if meta.is_dir() => folders.push((entry.path(), format!("{path}/"))),
                    Ok(meta) => found.push((path, meta.len())),
                    Err(_) => {} // a link to nothing
                }
            }
        }
        found.sort();
        found
    }

    /// Where contents of this name are kept.
    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Whether contents are there and whole, as far as size tells; small ones are compared with their hash.
    pub(crate) fn has(&self, etag: &str, size: Option<u64>) -> bool {
        let path = self.blob(etag);
        match fs::metadata(&path) {
            Ok(meta) if meta.len() > SMALL => size.is_none_or(|size| size == meta.len()),
            Ok(_) => contents(&path, etag, size).is_ok(),
            Err(_) => false,
        }
    }

    /// Puts contents where the commit has them.
    pub(crate) fn link(&self, etag: &str, commit: &str, path: &str) -> Result<PathBuf> {
        let (blob, at) = (self.blob(etag), self.snapshot(commit).join(path));
        let up = "../".repeat(path.matches('/').count() + 2);
        let target = format!("{up}blobs/{etag}");
        if fs::read_link(&at).is_ok_and(|now| now == Path::new(&target)) {
            return Ok(at);
        }
        put(&at, |beside| match symlink(&target, beside) {
            Ok(()) => Ok(()),
            Err(_) => fs::copy(&blob, beside).map(drop),
        })?;
        Ok(at)
    }

    /// Waits until no other process downloads the same contents. None where the file system has no locks.
    pub(crate) fn lock(&self, etag: &str, waiting: impl FnOnce()) -> Result<Option<File>> {
        let path = self.locks.join(format!("{etag}.lock"));
        make(&self.locks)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| Error::local(&path, e))?;
        let mut waiting = Some(waiting);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => {
                    if let Some(tell) = waiting.take() {
                        tell();
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(TryLockError::Error(_)) => return Ok(None),
            }
        }
    }
}

/// Not every user of other systems may make links; copies do as well.
#[cfg(not(unix))]
fn symlink(_: &str, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Makes a folder and those above it.
pub(crate) fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::local(folder, e))
}

/// Writes a file beside its place under a name that nobody else has, and renames it.
fn put(path: &Path, write: impl Fn(&Path) -> std::io::Result<()>) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    make(folder)?;
    let beside = Builder::new().prefix(".").suffix(".tmp").make_in(folder, write);
    let put = beside.and_then(|beside| Ok(beside.into_temp_path().persist(path)?));
    put.map_err(|e| Error::local(path, e))
}
