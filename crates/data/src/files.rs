//! Reading files that may be gzipped, missing or wrong: every error is one sentence that names the file.

use candle_core::Result;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

/// What a file of a data set may hold at most, unpacked: more is a damaged header or a trap.
pub(crate) const MOST_BYTES: u64 = 8 << 30;

/// Packed data may unpack to this in any case, and to `RATIO` times their own size: tables and images of zeros reach some
/// tens, files made to fill the memory a thousand.
const ALWAYS_UNPACKED: u64 = 128 << 20;
const RATIO: u64 = 100;

/// What is unpacked from data of `packed` bytes; reading on is an error where that is more than data ever are.
pub(crate) fn unpacked(from: impl Read, packed: u64) -> impl Read {
    let most = packed.saturating_mul(RATIO).max(ALWAYS_UNPACKED);
    Unpacked { from, packed, most, left: most }
}

struct Unpacked<R> {
    from: R,
    packed: u64,
    most: u64,
    left: u64,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(into)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            let why = format!(
                "unpacks from {} to more than {} bytes, over {RATIO} times its size, which could fill the memory; if it is \
                 right, unpack it yourself and give what comes of it",
                self.packed, self.most
            );
            std::io::Error::new(ErrorKind::FileTooLarge, why)
        })?;
        Ok(n)
    }
}

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
    // of a pipe nobody knows the length
    let length = file.metadata().ok().filter(|meta| meta.is_file()).map_or(u64::MAX, |meta| meta.len());
    let mut file = BufReader::with_capacity(1 << 16, file);
    let start = match file.fill_buf() {
        Ok(start) => start,
        Err(e) => bail!("cannot read {at}: {e}"),
    };
    if start.is_empty() {
        bail!("{at} is empty; fetch or write it again");
    }
    Ok(match start.starts_with(&[0x1f, 0x8b]) {
        true => Box::new(unpacked(MultiGzDecoder::new(file), length)),
        false => Box::new(file),
    })
}

/// Up to `most` bytes. Memory grows with what is really there, never with what a header claims.
pub(crate) fn read_up_to(from: &mut dyn Read, most: u64, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match from.take(most).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(e) if e.kind() == ErrorKind::FileTooLarge => bail!("{name} {e}"),
        Err(e) => bail!("{name} is damaged or cut short ({e}); fetch it again"),
    }
}
