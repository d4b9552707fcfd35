//! `.npz` files as NumPy and this program write them, packed files, and headers that claim too much.

use flate2::write::{DeflateEncoder, GzEncoder};
use flate2::{Compression, Crc};
use langevin_data::{Columns, Dataset, Kind, Options, Scaling, open};
use std::fs;
use std::io::{Cursor, Write};
use tempfile::{TempDir, tempdir};
use zip::CompressionMethod::Stored;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

fn npy(dtype: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
    let fortran = if fortran { "True" } else { "False" };
    let header = format!("{{'descr': '{dtype}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
    [&b"\x93NUMPY\x01\x00"[..], &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// How a .npz file is written.
#[derive(Clone, Copy)]
enum By {
    /// As np.savez does it, by Python's zipfile: lengths of 64 bits only where they must be.
    Stored,
    /// By the zip crate, with lengths of 64 bits.
    Wide,
    /// As np.savez_compressed.
    Deflated,
}

/// A .npz file of these arrays.
fn savez(arrays: &[(&str, Vec<u8>)], by: By) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    let options = SimpleFileOptions::default().compression_method(Stored).large_file(matches!(by, By::Wide));
    for (name, bytes) in arrays {
        match by {
            By::Deflated => return deflated(arrays),
            _ => zip.start_file(format!("{name}.npy"), options).unwrap(),
        }
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A zip of deflated members.
fn deflated(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut directory) = (vec![], vec![]);
    for (name, data) in members {
        let mut packed = DeflateEncoder::new(vec![], Compression::best());
        packed.write_all(data).unwrap();
        let packed = packed.finish().unwrap();
        let mut crc = Crc::new();
        crc.update(data);
        let (name, offset) = (format!("{name}.npy"), out.len() as u32);
        let common = [
            &[20, 0, 0, 0, 8, 0, 0, 0, 0, 0][..],
            &crc.sum().to_le_bytes(),
            &(packed.len() as u32).to_le_bytes(),
            &(data.len() as u32).to_le_bytes(),
            &[name.len() as u8, 0, 0, 0],
        ]
        .concat();
        out.extend([b"PK\x03\x04", &common[..], name.as_bytes(), &packed].concat());
        directory.extend([b"PK\x01\x02\x14\0", &common[..], &[0; 10], &offset.to_le_bytes(), name.as_bytes()].concat());
    }
    let (n, at) = (members.len() as u8, out.len() as u32);
    out.extend(&directory);
    out.extend([&b"PK\x05\x06\0\0\0\0"[..], &[n, 0, n, 0], &(directory.len() as u32).to_le_bytes()].concat());
    out.extend([&at.to_le_bytes()[..], &[0, 0]].concat());
    out
}

fn file(name: &str, bytes: &[u8]) -> (TempDir, String) {
    let dir = tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    let spec = path.to_str().unwrap().to_string();
    (dir, spec)
}

fn opened(bytes: &[u8], scaling: Scaling) -> Result<Box<dyn Dataset>, String> {
    let (_dir, spec) = file("x.npz", bytes);
    open(&spec, &Options { scaling, ..Options::default() }).map_err(|e| e.to_string())
}

fn numbers(data: &dyn Dataset) -> Vec<f32> {
    let all: Vec<usize> = (0..data.len()).collect();
    data.get(&all).unwrap().x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Two images [4, 5, 3] with labels, in C's order and in Fortran's.
fn arrays(fortran: bool) -> Vec<(&'static str, Vec<u8>)> {
    let dims = [2, 4, 5, 3];
    let value = |n: usize, y: usize, x: usize, c: usize| (n * 100 + y * 20 + x * 3 + c) as u8;
    let pixels: Vec<u8> = (0..120)
        .map(|i| match fortran {
            false => value(i / 60, i / 15 % 4, i / 3 % 5, i % 3),
            true => value(i % dims[0], i / 2 % 4, i / 8 % 5, i / 40),
        })
        .collect();
    let labels: Vec<u8> = [4i32, 1].iter().flat_map(|label| label.to_be_bytes()).collect();
    vec![("arr_0", npy("|u1", fortran, "(2, 4, 5, 3)", &pixels)), ("arr_1", npy(">i4", false, "(2,)", &labels))]
}

#[test]
fn every_way_of_writing_gives_the_same_images() {
    let reference = numbers(&*opened(&savez(&arrays(false), By::Stored), Scaling::Own).unwrap());
    assert_eq!(
        reference[60 + 20 + 5 * 2 + 3],
        f32::from(100u8 + 40 + 9 + 1) / 127.5 - 1.,
        "image 1, green, row 2, column 3"
    );
    for fortran in [false, true] {
        for by in [By::Stored, By::Wide, By::Deflated] {
            let data = opened(&savez(&arrays(fortran), by), Scaling::Own).unwrap();
            assert_eq!((data.len(), data.shape(), data.classes()), (2, &[3, 4, 5][..], Some(5)));
            assert_eq!(numbers(&*data), reference);
            assert_eq!(data.labels(&[1, 0]).unwrap().unwrap().to_vec1::<u32>().unwrap(), [1, 4]);
        }
    }
}

/// Checksums are compared, of arrays that are stored and of those that are packed.
#[test]
fn a_changed_bit_is_an_error() {
    for by in [By::Stored, By::Wide, By::Deflated] {
        let whole = savez(&arrays(false), by);
        let data = (whole.len() / 4..whole.len() / 3).chain([100]);
        for at in data {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            if let Ok(data) = opened(&bytes, Scaling::Own) {
                panic!("byte {at} changed and {} images were read", data.len());
            }
        }
    }
}

#[test]
fn rows_of_numbers_are_a_table() {
    let rows = [[1f64, 10., -3.], [2., 30., -3.5], [6., 20., 4.]];
    let flat = || rows.iter().flatten().copied();
    let every = [
        ("<f4", flat().flat_map(|v| (v as f32).to_le_bytes()).collect::<Vec<u8>>()),
        (">f4", flat().flat_map(|v| (v as f32).to_be_bytes()).collect()),
        ("<f8", flat().flat_map(f64::to_le_bytes).collect()),
        (">f8", flat().flat_map(f64::to_be_bytes).collect()),
    ];
    for (dtype, bytes) in every {
        let file = savez(&[("arr_0", npy(dtype, false, "(3, 3)", &bytes))], By::Stored);
        let table = opened(&file, Scaling::No).unwrap();
        assert_eq!((table.kind(), table.len(), table.shape()), (Kind::Table, 3, &[3][..]));
        assert_eq!(numbers(&*table), flat().map(|v| v as f32).collect::<Vec<_>>(), "{dtype}");
        let own = opened(&file, Scaling::Own).unwrap();
        let means = &own.columns().unwrap().mean;
        assert!(means[..2] == [3., 20.] && (means[2] + 2.5 / 3.).abs() < 1e-12, "{means:?}");
        assert!(numbers(&*own).iter().sum::<f32>().abs() < 1e-5);
        // in the order of the model's columns
        let names = ["a", "b", "c"].map(String::from).to_vec();
        let like = Columns { names, mean: vec![1., 0., 0.], std: vec![2., 10., 1.] };
        let x = numbers(&*opened(&file, Scaling::Like(like)).unwrap());
        assert_eq!(x[3..6], [0.5, 3., -3.5]);
        let two = Columns { names: vec!["a".into(), "b".into()], mean: vec![0., 0.], std: vec![1., 1.] };
        assert!(opened(&file, Scaling::Like(two)).err().unwrap().contains("a, b"));
    }
    let labels = ("arr_1", npy("<i8", false, "(1,)", &[0; 8]));
    let nan: Vec<u8> = [1f32, f32::NAN].iter().flat_map(|v| v.to_le_bytes()).collect();
    let why = opened(&savez(&[("arr_0", npy("<f4", false, "(1, 2)", &nan))], By::Stored), Scaling::No).err().unwrap();
    assert!(why.contains("row 0, column 1") && why.contains("NaN"), "{why}");
    let points: Vec<u8> = [1f32, 2.].iter().flat_map(|v| v.to_le_bytes()).collect();
    let file = savez(&[("arr_0", npy("<f4", false, "(1, 2)", &points)), labels], By::Stored);
    assert!(opened(&file, Scaling::No).unwrap().notes()[0].contains("arr_1 is left out"));
}

#[test]
fn what_is_no_image_is_refused() {
    for (dtype, shape, bytes, words) in [
        ("|u1", "(1, 4, 4, 4)", 64, "1 or 3 channels"),
        ("|u1", "(1, 4, 4, 2)", 32, "1 or 3 channels"),
        ("|u1", "(1, 2, 2)", 4, "at least 4"),
        ("<f4", "(1, 4, 4, 1)", 64, "not uint8"),
        ("<f4", "(16,)", 64, "[16]"),
        ("|b1", "(1, 4, 4)", 16, "not uint8"),
        ("<U4", "(1,)", 16, "not uint8"),
    ] {
        let file = savez(&[("arr_0", npy(dtype, false, shape, &vec![0; bytes]))], By::Stored);
        let why = opened(&file, Scaling::Own).err().unwrap();
        assert!(why.contains(words) && why.contains("x.npz"), "{dtype} {shape}: {why}");
    }
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(vec![], Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// Files that unpack to a thousand times their size are refused before they fill the memory; others are read.
#[test]
fn packed_data_are_bounded_by_their_size() {
    let large = b"0,0\n".repeat(36 << 20);
    let small = b"0,1\n1,0\n".repeat(1 << 10);
    let (_dir, spec) = file("x.csv", &gz(&large));
    let why = open(&spec, &Options::default()).err().unwrap().to_string();
    assert!(why.contains("x.csv") && why.contains("unpack it yourself"), "{why}");
    let packed = gz(&small);
    assert!(packed.len() * 100 < small.len());
    let (_dir, spec) = file("x.csv", &packed);
    assert_eq!(open(&spec, &Options::default()).unwrap().len(), 2 << 10);

    // far below the bound any ratio will do
    let sparse = b"0,0\n0,1\n".repeat(12 << 20);
    let (_dir, spec) = file("x.csv", &gz(&sparse));
    assert_eq!(open(&spec, &Options::default()).unwrap().len(), 24 << 20);

    let array = |n: usize| npy("|u1", false, &format!("({n}, 64, 64)"), &vec![0; n << 12]);
    let why = opened(&savez(&[("arr_0", array(36 << 10))], By::Deflated), Scaling::Own).err().unwrap();
    assert!(why.contains("x.npz") && why.contains("unpack it yourself"), "{why}");
    assert_eq!(opened(&savez(&[("arr_0", array(1 << 10))], By::Deflated), Scaling::Own).unwrap().len(), 1 << 10);

    let dir = tempdir().unwrap();
    let spec = format!("mnist={}", dir.path().display());
    let header = |n: u32, h: u32, w: u32| [0x803, n, h, w].map(u32::to_be_bytes).concat();
    fs::write(dir.path().join("train-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 1, 7]).unwrap();
    for (header, words) in [
        (header(1, 60_000, 60_000), "a side of 60000 pixels"),
        (header(1, 4, 5_000), "a side of 5000 pixels"),
        (header(144 << 20, 4, 4), "unpack it yourself"),
    ] {
        let zeros = if words.contains("side") { vec![] } else { vec![0; 144 << 20] };
        fs::write(dir.path().join("train-images-idx3-ubyte"), gz(&[header, zeros].concat())).unwrap();
        let why = open(&spec, &Options::default()).err().unwrap().to_string();
        assert!(why.contains(words) && why.contains("train-images"), "{why}");
    }
}
