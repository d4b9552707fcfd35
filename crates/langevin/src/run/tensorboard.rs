//! TensorBoard event files: TFRecords (length, masked CRC, bytes, masked CRC) of the protocol buffer `Event`.
//!
//! Written here, since the crate for it ends the process when a disk is full; a scalar is three nested fields.

use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// How the names of event files begin, before the time.
const NAME: &str = "events.out.tfevents.";

/// An event file in a folder, open for writing.
pub struct Events {
    file: BufWriter<File>,
    path: PathBuf,
}

impl Events {
    /// A new event file of a run that has made `done` steps. TensorBoard reads all files of a folder in the order of their
    /// names. At the start of a session, other than the first, it forgets the steps from there on, which a killed run had
    /// not saved.
    pub fn create(folder: &Path, done: u64) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let last = last(folder);
        let name = format!("{NAME}{}.{}", (now() as u64).max(last.map_or(0, |last| last + 1)), std::process::id());
        let path = folder.join(name);
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut events = Self { file: BufWriter::new(file), path };
        let mut version = event(0);
        field(&mut version, 3, b"brain.Event:2");
        events.record(&version)?;
        let mut start = event(if done == 0 { 0 } else { done + 1 }); // the first step that comes again
        field(&mut start, 7, &[1 << 3, 1]); // session_log { status: START }
        // once more where the files before may be of a version that wrote none
        (0..=usize::from(last.is_some())).try_for_each(|_| events.record(&start))?;
        events.flush()?;
        Ok(events)
    }

    /// One number at one step.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<()> {
        let mut scalar = vec![];
        field(&mut scalar, 1, tag.as_bytes());
        scalar.push(2 << 3 | 5); // simple_value, 32 bits
        scalar.extend((value as f32).to_le_bytes());
        let mut summary = vec![];
        field(&mut summary, 1, &scalar);
        let mut event = event(step);
        field(&mut event, 5, &summary);
        self.record(&event)
    }

    /// Makes what was written visible to readers.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn record(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let parts = [&length[..], &masked_crc(&length), data, &masked_crc(data)].concat();
        self.file.write_all(&parts).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The greatest time in the names of the event files in `folder`.
fn last(folder: &Path) -> Option<u64> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let number = |name: OsString| name.to_str()?.strip_prefix(NAME)?.split('.').next()?.parse().ok();
    names.filter_map(number).max()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0., |d| d.as_secs_f64())
}

fn masked_crc(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// `Event { wall_time = 1, step = 2 }`.
fn event(step: u64) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend(now().to_le_bytes());
    out.push(2 << 3);
    varint(&mut out, step);
    out
}

/// A field of bytes with a length before them.
fn field(out: &mut Vec<u8>, number: u8, data: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, data.len() as u64);
    out.extend(data);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_framed_as_tensorflow_frames_it() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut events = Events::create(folder.path(), 299)?;
        events.scalar("loss", 300, 0.5)?;
        events.flush()?;
        let bytes = fs::read(&events.path)?;
        let mut at = 0;
        let mut records = vec![];
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into()?) as usize;
            assert_eq!(bytes[at + 8..at + 12], masked_crc(&bytes[at..at + 8]));
            let data = &bytes[at + 12..at + 12 + length];
            assert_eq!(bytes[at + 12 + length..at + 16 + length], masked_crc(data));
            records.push(data);
            at += 16 + length;
        }
        assert_eq!(records.len(), 3);
        assert_eq!(records[0][11..], *b"\x1a\x0dbrain.Event:2");
        // step 300, then session_log { status: START }
        assert_eq!(records[1][9..], *b"\x10\xac\x02\x3a\x02\x08\x01");
        // step 300 as a varint, then summary { value { tag: "loss", simple_value: 0.5 } }
        assert_eq!(records[2][9..], *b"\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f");
        // the check value of CRC-32C, and its mask in TensorFlow's crc32c.h
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        Ok(())
    }
}
