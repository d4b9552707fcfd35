//! Reading files that may be gzipped, missing or wrong: every error is one sentence that names the file.

use candle_core::Result;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

/// What a file of a data set may hold at most, unpacked: more is a damaged header or a trap.
pub(crate) const MOST_BYTES: u64 = 8 << 30;

/// The file's bytes as a stream, unpacked if they are gzip, whatever the file is called.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Read>> {
    let at = path.display();
    if path.is_dir() {
        bail!("{at} is a folder where a file was expected; name the file");
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => bail!("{at} does not exist; check the path"),
        Err(e) => bail!("cannot open {at}: {e}; check the path and its permissions"),
    };
    let mut file = BufReader::with_capacity(1 << 16, file);
    let start = match file.fill_buf() {
        Ok(start) => start,
        Err(e) => bail!("cannot read {at}: {e}"),
    };
    if start.is_empty() {
        bail!("{at} is empty; fetch or write it again");
    }
    Ok(if start.starts_with(&[0x1f, 0x8b]) { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// Up to `most` bytes. Memory grows with what is really there, never with what a header claims.
pub(crate) fn read_up_to(from: &mut dyn Read, most: u64, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match from.take(most).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(e) => bail!("{name} is damaged or cut short ({e}); fetch it again"),
    }
}
