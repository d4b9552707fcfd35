//! Whether a file is what the Hub says that it is.
//!
//! Files in the cache bear the names of their contents: large ones their SHA-256, small ones git's SHA-1 of them.

use crate::{Error, ErrorKind, Result};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// Whether this ETag is a hash of the contents.
pub(crate) fn is_hash(etag: &str) -> bool {
    matches!(etag.len(), 40 | 64) && etag.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Reads a whole file of the cache and compares it with its name. Files whose names are no hashes pass.
///
/// # Errors
/// [`ErrorKind::Damaged`] where it is not what its name says, [`ErrorKind::Local`] where it cannot be read.
pub fn check(path: &Path) -> Result<()> {
    let blob = fs::canonicalize(path).map_err(|e| Error::local(path, e))?;
    let name = blob.file_name().unwrap_or_default().to_string_lossy();
    contents(&blob, &name, None)
}

/// Compares a file with the hash and the size that the server announced.
pub(crate) fn contents(path: &Path, etag: &str, size: Option<u64>) -> Result<()> {
    let bad = |why: String| Err(Error::new(ErrorKind::Damaged, why));
    let length = fs::metadata(path).map_err(|e| Error::local(path, e))?.len();
    if let Some(size) = size.filter(|&size| size != length) {
        return bad(format!("it has {length} bytes where {size} were announced"));
    }
    let (kind, found) = match etag.len() {
        _ if !is_hash(etag) => return Ok(()),
        64 => ("SHA-256", hash(path, Sha256::new())?),
        _ => ("git SHA-1", hash(path, Sha1::new_with_prefix(format!("blob {length}\0")))?),
    };
    if found == etag.to_lowercase() { Ok(()) } else { bad(format!("it has the wrong {kind}, so it is damaged")) }
}

fn hash(path: &Path, mut hash: impl Digest) -> Result<String> {
    let mut file = File::open(path).map_err(|e| Error::local(path, e))?;
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece).map_err(|e| Error::local(path, e))? {
            0 => return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => hash.update(&piece[..n]),
        }
    }
}
