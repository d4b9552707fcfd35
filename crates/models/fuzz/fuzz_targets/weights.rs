//! Any bytes as a weights file of either format: tensors no larger than twice the file, or one sentence.
//!
//! From crates/models: `RUSTC_BOOTSTRAP=1 cargo fuzz run weights`. After a first byte of 255 comes a bare pickle, which
//! is put into a zip as PyTorch does, so that its checksum does not stand in the way.
#![no_main]

use langevin_models::{diffusers::weights, plain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let zipped;
    let bytes = match bytes {
        [255, pickle @ ..] => {
            zipped = zip(&[("x/data.pkl", pickle), ("x/data/0", &[0; 32])]);
            &zipped
        }
        bytes => bytes,
    };
    match weights::parse(bytes) {
        Ok(tensors) => {
            let held: usize = tensors.values().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum();
            assert!(held <= 2 * bytes.len());
        }
        Err(e) => assert_eq!(plain(&e).lines().count(), 1, "{}", plain(&e)),
    }
});

/// A zip of stored members.
fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (vec![], vec![]);
    for (name, bytes) in members {
        let (size, at) = ((bytes.len() as u32).to_le_bytes(), (out.len() as u32).to_le_bytes());
        // version, flags, method, time and date; checksum, both sizes, lengths of the name and of more
        let mut about = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        about.extend([crc32(bytes).to_le_bytes(), size, size, [name.len() as u8, 0, 0, 0]].concat());
        out.extend([b"PK\x03\x04", &about[..], name.as_bytes(), bytes].concat());
        directory.extend([b"PK\x01\x02\x14\0", &about[..], &[0; 10], &at, name.as_bytes()].concat());
    }
    let (size, at) = ((directory.len() as u32).to_le_bytes(), (out.len() as u32).to_le_bytes());
    let n = members.len() as u8;
    out.extend([&directory[..], b"PK\x05\x06\0\0\0\0", &[n, 0, n, 0], &size, &at, &[0, 0]].concat());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}
