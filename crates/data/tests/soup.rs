//! No bytes, however odd, make a reader panic, hang or ask for memory that the file does not have.

use langevin_data::{Columns, Options, open, partial};
use proptest::prelude::*;
use std::fs;
use tempfile::tempdir;

/// Opens `bytes` under each name; what comes of it does not matter, only that something does.
fn feed(names: &[&str], spec: &str, bytes: &[u8]) {
    let dir = tempdir().unwrap();
    for name in names {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let spec = spec.replace("DIR", dir.path().to_str().unwrap());
    if let Ok(data) = open(&spec, &Options::default()) {
        assert!(!data.is_empty() && data.get(&[0]).is_ok());
    }
}

fn soup() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn idx(bytes in soup(), magic in 0u8..5, sizes in prop::array::uniform3(0u32..20)) {
        let names = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"];
        feed(&names, "mnist=DIR", &bytes);
        feed(&names, "mnist=DIR", &[&[0, 0, 8, magic][..], &bytes].concat());
        feed(&names, "mnist=DIR", &[&[0, 0, 8, 3][..], &sizes.map(u32::to_be_bytes).concat(), &bytes].concat());
        feed(&names, "mnist=DIR", &[&[0x1f, 0x8b, 8, 0][..], &bytes].concat());
    }

    #[test]
    fn cifar(bytes in soup(), n in 1usize..3) {
        feed(&["test_batch.bin"], "cifar10:test=DIR", &bytes);
        feed(&["test_batch.bin"], "cifar10:test=DIR", &bytes.iter().cycle().take(n * 3073 * bytes.len().min(1)).copied().collect::<Vec<_>>());
    }

    #[test]
    fn csv(bytes in soup(), text in "(sep=[,;|]\n)?[-0-9.,;e\\t\n\r\"a#| \u{e9}]{0,120}", names in prop::collection::vec("[a1e]", 1..4)) {
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let latin: Vec<u8> = text.chars().map(|c| c as u8).collect();
        let d = names.len();
        let columns = Columns { names, mean: vec![0.; d], std: vec![1.; d] };
        for bytes in [&bytes[..], text.as_bytes(), &latin, &[b"\xff\xfe", &utf16[..]].concat()] {
            feed(&["x.csv"], "DIR/x.csv", bytes);
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), bytes).unwrap();
            for known in [None, Some(&columns)] {
                if let Ok(table) = partial(file.path(), known) {
                    let mut cells = table.values.iter().enumerate();
                    let written = |(i, v): (usize, &f64)| v.is_nan() || table.texts.get(i).parse() == Ok(*v);
                    assert!(table.values.len() % table.names.len() == 0 && cells.all(written));
                }
            }
        }
    }

    #[test]
    fn npz(bytes in soup(), header in "\\PC{0,80}", damage in prop::collection::vec((0usize..400, any::<u8>()), 0..6)) {
        feed(&["x.npz"], "DIR/x.npz", &bytes);
        let good = savez("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 4, 4, 3), }", &[7; 48]);
        feed(&["x.npz"], "DIR/x.npz", &savez(&header, &bytes));
        let mut bad = good;
        for (at, value) in damage {
            let at = at % bad.len();
            bad[at] = value;
        }
        feed(&["x.npz"], "DIR/x.npz", &bad);
    }

    #[test]
    fn images(bytes in soup()) {
        feed(&["x.png", "y.jpg", "z.gif", "u.bmp", "v.webp"], "DIR", &bytes);
        feed(&["x.png"], "DIR", &[b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &bytes[..]].concat());
        feed(&["x.bmp"], "DIR", &[b"BM", &bytes[..]].concat());
        feed(&["x.gif"], "DIR", &[b"GIF89a", &bytes[..]].concat());
    }
}

/// A stored zip with the one member `arr_0.npy`.
fn savez(header: &str, data: &[u8]) -> Vec<u8> {
    let npy = [&b"\x93NUMPY\x01\x00"[..], &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat();
    let size = (npy.len() as u32).to_le_bytes();
    let mut crc = flate2::Crc::new();
    crc.update(&npy);
    let common = [&[20, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &crc.sum().to_le_bytes(), &size, &size, &[9, 0, 0, 0]].concat();
    let mut out = [&b"PK\x03\x04"[..], &common, b"arr_0.npy", &npy].concat();
    let at = (out.len() as u32).to_le_bytes();
    let directory = [&b"PK\x01\x02\x14\x00"[..], &common, &[0; 14], b"arr_0.npy"].concat();
    out.extend(&directory);
    out.extend(
        [&b"PK\x05\x06\0\0\0\0\x01\0\x01\0"[..], &(directory.len() as u32).to_le_bytes(), &at, &[0, 0]].concat(),
    );
    out
}

#[test]
fn the_soup_has_a_good_file_in_it() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("x.npz");
    fs::write(&path, savez("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 4, 4, 3), }", &[7; 48])).unwrap();
    assert_eq!(open(path.to_str().unwrap(), &Options::default()).unwrap().len(), 1);
}
