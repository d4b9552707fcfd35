//! A file that is written while work goes on: beside its place, and put there when it is finished.

use anyhow::{Context, Result};
use langevin_models::atomic::{self, Unfinished};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file on its way to `path`. Dropped before [`finish`](Self::finish) it goes away, and what was at `path` is untouched.
pub struct Pending {
    file: NamedTempFile,
    /// A program that ends at once removes it.
    _listed: Option<Unfinished>,
    path: PathBuf,
}

impl Pending {
    /// An empty file for `path`; one for a pipe or a device lies in the folder of temporary files.
    pub fn create(path: &Path) -> Result<Self> {
        let file = if super::is_special(path) {
            NamedTempFile::new().map(|file| (file, None))
        } else {
            atomic::beside(path).map(|(listed, file)| (file, Some(listed)))
        };
        let (file, listed) = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file, _listed: listed, path: path.to_path_buf() })
    }

    /// Puts the file in its place.
    pub fn finish(self) -> Result<()> {
        let Self { mut file, _listed, path } = self;
        let put = |path: &Path| -> io::Result<()> {
            if super::is_special(path) {
                file.rewind()?;
                return io::copy(&mut file, &mut OpenOptions::new().write(true).open(path)?).map(|_| ());
            }
            file.as_file().sync_all()?;
            file.persist(path).map_err(|e| e.error)?;
            // the rename itself is on the disk once the folder is; not every system can sync a folder
            let _ = File::open(super::folder(path)).and_then(|folder| folder.sync_all());
            Ok(())
        };
        put(&path).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Read for Pending {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.read(bytes)
    }
}

impl Seek for Pending {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
