//! Files that are written beside their place and then renamed: a kill at any instant leaves the old file or the new one.
//!
//! The temporary file is `.NAME.XXXXXX.partial` with six random characters: no two writers share one, and none follows a link.

use candle_core::{Result, bail};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use tempfile::{Builder, NamedTempFile};

const SUFFIX: &str = ".partial";

/// The temporary files and folders of this process.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Writes a file beside `path`, syncs it to the disk and renames it to `path`: whatever happens, `path` holds the old
/// contents or the new, never a part. A link at `path` is replaced.
///
/// Errors in one sentence that names the file; what was there is then untouched.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    if path.file_name().is_none() {
        bail!("`{}` is not the name of a file", path.display());
    }
    let written = beside(path).and_then(|(_listed, mut file)| {
        write(file.as_file_mut())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)
    });
    if let Err(e) = written {
        bail!("could not write `{}`: {e}", path.display());
    }
    // the rename itself is on the disk once the folder is; not every system can sync a folder
    if let Ok(folder) = File::open(folder_of(path)) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// An empty file beside `path`, to be renamed to it; it goes away if it is not.
pub fn beside(path: &Path) -> io::Result<(Unfinished, NamedTempFile)> {
    let prefix = prefix(path.file_name().unwrap_or_default());
    let make = || builder(&prefix, 0o666).tempfile_in(folder_of(path));
    Unfinished::new(make, |file| file.path())
}

/// Makes a folder beside `path`, fills it and renames it to `path`, where nothing or an empty folder is; if that fails,
/// nothing is left of it.
pub fn make_folder<E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let cannot = |e: io::Error| io::Error::new(e.kind(), format!("cannot make the folder `{}`: {e}", path.display()));
    let prefix = prefix(path.file_name().unwrap_or_default());
    let make = || builder(&prefix, 0o777).tempdir_in(folder_of(path));
    let (_listed, folder) = Unfinished::new(make, |folder| folder.path()).map_err(cannot)?;
    fill(folder.path())?;
    if path.is_dir() {
        fs::remove_dir(path).map_err(cannot)?;
    }
    fs::rename(folder.path(), path).map_err(cannot)?;
    let _ = folder.keep(); // its old name is nobody's now
    Ok(())
}

/// Removes the temporary files in `folder` that killed processes left of files whose names begin with one of `names`.
/// Nobody else may be writing these.
pub fn remove_stale(folder: &Path, names: &[&str]) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let of = name.strip_prefix('.').filter(|name| name.ends_with(SUFFIX));
        if of.is_some_and(|of| names.iter().any(|name| of.starts_with(name))) {
            let _ = fs::remove_file(entry.path()); // it is in nobody's way
        }
    }
}

/// Removes all that this process has half written. For a program that ends at once: writes that begin or end after it wait
/// for ever.
pub fn abandon() {
    let unfinished = unfinished();
    for path in unfinished.iter() {
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    std::mem::forget(unfinished);
}

/// A temporary file or folder that [`abandon`] knows of, as long as this lives.
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// What `make` makes, at the path that `path` says.
    fn new<T>(make: impl FnOnce() -> io::Result<T>, path: impl FnOnce(&T) -> &Path) -> io::Result<(Self, T)> {
        let mut unfinished = unfinished(); // before the file is there: none is overlooked
        let made = make().map_err(without_path)?;
        let path = path(&made).to_path_buf();
        unfinished.insert(path.clone());
        Ok((Self(path), made))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        unfinished().remove(&self.0);
    }
}

/// The error of the system, for that of `tempfile` names the temporary file.
fn without_path(e: io::Error) -> io::Error {
    let inner = e.get_ref().and_then(|e| e.source()).and_then(|e| e.downcast_ref::<io::Error>());
    inner.and_then(io::Error::raw_os_error).map_or(e, io::Error::from_raw_os_error)
}

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(|e| e.into_inner())
}

/// How the temporary file of `name` begins. A name has 255 bytes at most, a character up to 4.
fn prefix(name: &OsStr) -> String {
    format!(".{}.", name.to_string_lossy().chars().take(56).collect::<String>())
}

/// Makes temporary files or folders with the permissions `mode` less the umask.
fn builder(prefix: &str, mode: u32) -> Builder<'_, 'static> {
    let mut builder = Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    builder.prefix(prefix).suffix(SUFFIX);
    builder
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
