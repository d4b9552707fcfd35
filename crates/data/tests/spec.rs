//! What users may type, and what they are told when it cannot be read.

use flate2::{Compression, write::GzEncoder};
use image::{GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use langevin_data::{Columns, Dataset, Kind, Options, Scaling, open};
use std::fs;
use std::io::Write;
use std::path::Path;
use tempfile::{TempDir, tempdir};

fn dir() -> TempDir {
    tempdir().unwrap()
}

fn data(spec: &str) -> Box<dyn Dataset> {
    open(spec, &Options::default()).unwrap()
}

/// The one sentence of the error, which must hold all of `parts`.
#[track_caller]
fn fails(spec: &str, parts: &[&str]) -> String {
    let error = match open(spec, &Options::default()) {
        Ok(data) => panic!("{spec} opened with {} samples", data.len()),
        Err(e) => e.to_string(),
    };
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert!(!error.contains('\n'), "more than a line: {error}");
    error
}

fn write(path: impl AsRef<Path>, bytes: &[u8]) -> String {
    fs::write(&path, bytes).unwrap();
    path.as_ref().to_str().unwrap().to_string()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(vec![], Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn idx_images(n: u32, h: u32, w: u32) -> Vec<u8> {
    let mut out = [0x803, n, h, w].map(u32::to_be_bytes).concat();
    out.extend((0..n * h * w).map(|i| (i % 251) as u8));
    out
}

fn idx_labels(labels: &[u8]) -> Vec<u8> {
    [[0, 0, 8, 1], (labels.len() as u32).to_be_bytes()].concat().into_iter().chain(labels.iter().copied()).collect()
}

/// A folder with both splits of a tiny MNIST, and the specification that opens it.
fn mnist() -> (TempDir, String) {
    let dir = dir();
    write(dir.path().join("train-images-idx3-ubyte"), &idx_images(3, 5, 4));
    write(dir.path().join("train-labels-idx1-ubyte"), &idx_labels(&[7, 0, 9]));
    write(dir.path().join("t10k-images-idx3-ubyte.gz"), &gz(&idx_images(2, 5, 4)));
    write(dir.path().join("t10k-labels-idx1-ubyte.gz"), &gz(&idx_labels(&[1, 2])));
    let spec = format!("mnist={}", dir.path().display());
    (dir, spec)
}

#[test]
fn digits_are_built_in() {
    let (train, test) = (data("digits"), data("digits:test"));
    assert_eq!((train.len(), test.len()), (9_000, 1_000));
    assert_eq!(train.shape(), [1, 28, 28]);
    assert_eq!((train.kind(), train.classes()), (Kind::Image, Some(10)));
    let labels: Vec<u32> = test.get(&(0..1000).collect::<Vec<_>>()).unwrap().labels().unwrap().to_vec1().unwrap();
    assert!((0..10).all(|digit| labels.iter().filter(|&&l| l == digit).count() == 100));
    let all: Vec<usize> = (0..9000).collect();
    let labels: Vec<u32> = train.get(&all).unwrap().labels().unwrap().to_vec1().unwrap();
    let counts: Vec<usize> = (0..10).map(|digit| labels.iter().filter(|&&l| l == digit).count()).collect();
    assert_eq!(counts, [901, 1027, 891, 932, 880, 763, 914, 970, 844, 878]);
    let x: Vec<f32> = test.get(&[0]).unwrap().x.flatten_all().unwrap().to_vec1().unwrap();
    assert!(x.iter().all(|x| (-1. ..=1.).contains(x)) && x[0] == -1.);
    // The mean and spread of MNIST's own pixels are 33.3 and 78.6 of 255.
    assert!((langevin_data::std(&*train).unwrap() - 0.616).abs() < 0.01);
    assert!(langevin_data::digits::NOTICE.contains("Attribution-Share Alike 3.0"));
    assert!(train.get(&[9000]).unwrap_err().to_string().contains("9000"));
}

#[test]
fn idx_plain_and_gzipped() {
    let (_dir, spec) = mnist();
    let train = data(&spec);
    assert_eq!((train.len(), train.shape(), train.classes()), (3, &[1, 5, 4][..], Some(10)));
    let batch = train.get(&[2, 0]).unwrap();
    assert_eq!(batch.labels().unwrap().to_vec1::<u32>().unwrap(), [9, 7]);
    let x: Vec<f32> = batch.x.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(x[..2], [40. / 127.5 - 1., 41. / 127.5 - 1.]);
    let test = data(&spec.replace("mnist=", "fashion-mnist:test="));
    assert_eq!(test.len(), 2);
    assert_eq!(data(&spec.replace("mnist=", "digits=")).len(), 3);
}

#[test]
fn idx_errors() {
    let (dir, spec) = mnist();
    let images = dir.path().join("train-images-idx3-ubyte");
    let whole = idx_images(3, 5, 4);
    write(&images, &whole[..whole.len() - 1]);
    fails(&spec, &["train-images-idx3-ubyte is cut short", "promises 60 bytes", "59 are there", "fetch it again"]);
    write(&images, &whole[..9]);
    fails(&spec, &["train-images-idx3-ubyte", "cut short in its header"]);
    write(&images, &[&whole[..], &[0]].concat());
    fails(&spec, &["more bytes than the 60"]);
    write(&images, &idx_labels(&[1, 2, 3]));
    fails(&spec, &["not an IDX file of images", "[0, 0, 8, 1]"]);
    write(&images, b"<html>404</html>");
    fails(&spec, &["not an IDX file of images"]);
    write(&images, &idx_images(2, 5, 4));
    fails(&spec, &["2 images", "3 labels", "train-labels"]);
    write(&images, &idx_images(3, 1, 1));
    fails(&spec, &["1x1", "at least 4"]);
    write(&images, b"");
    fails(&spec, &["is empty"]);
    let packed = gz(&whole);
    write(&images, &packed[..packed.len() / 2]);
    fails(&spec, &["train-images-idx3-ubyte is damaged or cut short"]);
    // Sizes that no memory holds: refused from the header alone.
    for sizes in [[0x803, u32::MAX, u32::MAX, u32::MAX], [0x803, 100_000, 10_000, 8]] {
        write(&images, &sizes.map(u32::to_be_bytes).concat());
        fails(&spec, &["train-images-idx3-ubyte", "fetch it again"]);
    }
    write(&images, &whole);
    write(dir.path().join("train-labels-idx1-ubyte"), &idx_labels(&[1, 2, 10]));
    fails(&spec, &["label 10 of image 2"]);
    fs::remove_file(&images).unwrap();
    fails(&spec, &["has no train-images-idx3-ubyte (plain or .gz)", "four standard IDX files of mnist"]);
    fails("mnist=/nowhere/at/all", &["/nowhere/at/all is not a folder"]);
}

#[test]
fn cifar_files() {
    let dir = dir();
    let spec = format!("cifar10={}", dir.path().display());
    let record = |label: u8| [vec![label], (0..3072).map(|i| (i / 12) as u8).collect()].concat();
    for i in 1..=5 {
        write(dir.path().join(format!("data_batch_{i}.bin")), &[record(i), record(0)].concat());
    }
    fails(&spec.replace('=', ":test="), &["has no test_batch.bin", "CIFAR-10"]);
    let data = data(&spec);
    assert_eq!((data.len(), data.shape(), data.classes()), (10, &[3, 32, 32][..], Some(10)));
    let batch = data.get(&[2]).unwrap();
    assert_eq!(batch.labels().unwrap().to_vec1::<u32>().unwrap(), [2]);
    // Red first, row by row: pixel (c, y, x) is byte 1024 c + 32 y + x.
    let x: Vec<Vec<Vec<f32>>> = batch.x.squeeze(0).unwrap().to_vec3().unwrap();
    assert_eq!(x[1][3][4], ((1024 + 96 + 4) / 12) as f32 / 127.5 - 1.);
    write(dir.path().join("data_batch_3.bin"), &record(1)[..3000]);
    fails(&spec, &["data_batch_3.bin", "3000 bytes", "3073"]);
    write(dir.path().join("data_batch_3.bin"), &record(200));
    fails(&spec, &["data_batch_3.bin", "label 200 of image 0"]);
}

#[test]
fn folder_scales_crops_and_tells() {
    let dir = dir();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("cats/deep")).unwrap();
    fs::create_dir_all(at("dogs")).unwrap();
    // Left half red, right half blue, twice as wide as high: the crop keeps the middle.
    let wide = RgbImage::from_fn(40, 20, |x, _| if x < 20 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) });
    wide.save(at("cats/deep/wide.png")).unwrap();
    RgbaImage::from_pixel(20, 30, Rgba([0, 255, 0, 0])).save(at("dogs/clear.png")).unwrap();
    GrayImage::from_pixel(1, 1, Luma([9])).save(at("dogs/dot.png")).unwrap();
    write(at("dogs/broken.jpg"), b"not a picture");
    write(at("dogs/list.txt"), b"hello");
    write(at("dogs/.hidden"), b"");
    let data = open(dir.path().to_str().unwrap(), &Options { size: Some(10), ..Options::default() }).unwrap();
    assert_eq!((data.len(), data.shape(), data.classes()), (2, &[3, 10, 10][..], Some(2)));
    let batch = data.get(&[0, 1]).unwrap();
    assert_eq!(batch.labels().unwrap().to_vec1::<u32>().unwrap(), [0, 1]);
    let x: Vec<f32> = batch.x.flatten_all().unwrap().to_vec1().unwrap();
    assert!(x[0] > 0.99 && x[9] < -0.99, "red on the left, none on the right: {:?}", &x[..10]);
    assert!(x[300..].iter().all(|&x| x == 1.), "transparent is white");
    let notes = data.notes().join("\n");
    for part in [
        "scaled and cropped to 10x10",
        "2 classes from the subfolders: cats, dogs",
        "dot.png: 1x1",
        "broken.jpg",
        "list.txt: not an",
    ] {
        assert!(notes.contains(part), "{part:?} is not in: {notes}");
    }
    assert!(!notes.contains("hidden"));
    let error =
        open(dir.path().to_str().unwrap(), &Options { size: Some(0), ..Options::default() }).err().unwrap().to_string();
    assert!(error.contains("size = 0"), "{error}");
}

#[test]
fn folder_keeps_a_common_size_and_grey() {
    let dir = dir();
    for i in 0..3u8 {
        GrayImage::from_pixel(12, 8, Luma([i * 100])).save(dir.path().join(format!("{i}.png"))).unwrap();
    }
    let data = data(dir.path().to_str().unwrap());
    assert_eq!((data.shape(), data.classes()), (&[1, 8, 12][..], None));
    let x: Vec<f32> = data.get(&[2]).unwrap().x.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(x[5], 200. / 127.5 - 1.);
    assert!(data.notes().is_empty());
}

#[test]
fn folder_errors() {
    let dir = dir();
    let spec = dir.path().to_str().unwrap();
    fails(spec, &[spec, "has no image that can be read", "png, jpg"]);
    GrayImage::from_pixel(1, 1, Luma([9])).save(dir.path().join("dot.png")).unwrap();
    fails(spec, &["dot.png: 1x1 pixels are too few"]);
}

fn npy(dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n");
    [&b"\x93NUMPY\x01\x00"[..], &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn crc(data: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(data);
    crc.sum()
}

/// A zip of uncompressed or deflated members, as np.savez and np.savez_compressed write.
fn zip(members: &[(&str, Vec<u8>)], deflate: bool) -> Vec<u8> {
    let (mut out, mut directory) = (vec![], vec![]);
    for (name, data) in members {
        let packed = if deflate {
            let mut out = flate2::write::DeflateEncoder::new(vec![], Compression::fast());
            out.write_all(data).unwrap();
            out.finish().unwrap()
        } else {
            data.clone()
        };
        let offset = out.len() as u32;
        let mut common = vec![20, 0, 0, 0, if deflate { 8 } else { 0 }, 0, 0, 0, 0, 0];
        common.extend(crc(data).to_le_bytes());
        common.extend((packed.len() as u32).to_le_bytes());
        common.extend((data.len() as u32).to_le_bytes());
        common.extend([name.len() as u8, 0, 0, 0]);
        out.extend([&b"PK\x03\x04"[..], &common[..], name.as_bytes(), &packed].concat());
        directory.extend(
            [&b"PK\x01\x02\x14\x00"[..], &common[..], &[0; 10][..], &offset.to_le_bytes(), name.as_bytes()].concat(),
        );
    }
    let (n, at) = (members.len() as u8, out.len() as u32);
    out.extend(&directory);
    out.extend([&b"PK\x05\x06\0\0\0\0"[..], &[n, 0, n, 0][..], &(directory.len() as u32).to_le_bytes()].concat());
    out.extend(at.to_le_bytes());
    out.extend([0, 0]);
    out
}

#[test]
fn npz_files() {
    let dir = dir();
    let path = dir.path().join("x.npz");
    let pixels: Vec<u8> = (0..2 * 4 * 5 * 3).map(|i| i as u8).collect();
    let labels: Vec<u8> = [3i64, 1].iter().flat_map(|l| l.to_le_bytes()).collect();
    let arrays = [("arr_0.npy", npy("|u1", "(2, 4, 5, 3)", &pixels)), ("arr_1.npy", npy("<i8", "(2,)", &labels))];
    for deflate in [false, true] {
        let spec = write(&path, &zip(&arrays, deflate));
        let data = data(&spec);
        assert_eq!((data.len(), data.shape(), data.classes()), (2, &[3, 4, 5][..], Some(4)));
        let batch = data.get(&[1]).unwrap();
        assert_eq!(batch.labels().unwrap().to_vec1::<u32>().unwrap(), [3, 1][1..]);
        let x: Vec<Vec<Vec<f32>>> = batch.x.squeeze(0).unwrap().to_vec3().unwrap();
        assert_eq!(x[2][1][3], (60 + 15 + 9 + 2) as f32 / 127.5 - 1.);
    }
    let fails_with = |arrays: &[(&str, Vec<u8>)], parts: &[&str]| {
        let spec = write(&path, &zip(arrays, false));
        fails(&spec, &[&["x.npz"], parts].concat())
    };
    fails_with(&[("arr_0.npy", npy("<f4", "(2, 4, 5, 3)", &pixels.repeat(4)))], &["dtype <f4, not uint8"]);
    fails_with(&[("images.npy", vec![])], &["no arr_0", "images"]);
    fails_with(&[("arr_0.npy", npy("|u1", "(3, 4, 5, 3)", &pixels))], &["cut short", "needs 180 bytes, 120"]);
    fails_with(&[("arr_0.npy", npy("|u1", "(2, 60)", &pixels))], &["[2, 60]", "[N, H, W, C]"]);
    fails_with(&[("arr_0.npy", npy("|u1", "(99999999999, 99999999999, 4, 3)", &pixels))], &["impossible shape"]);
    fails_with(&[("arr_0.npy", npy("|u1", "(1000, 1000, 1000, 3)", &pixels))], &["cut short"]);
    fails_with(&[arrays[0].clone(), ("arr_1.npy", npy("<i8", "(1,)", &labels))], &["arr_1", "2 images"]);
    fails_with(&[arrays[0].clone(), ("arr_1.npy", npy("<i8", "(2,)", &[255; 16]))], &["label 0 in arr_1 is negative"]);
    fails_with(&[arrays[0].clone(), ("arr_1.npy", npy("<f8", "(2,)", &labels))], &["arr_1 has the dtype <f8"]);
    fails_with(&[("arr_0.npy", b"oops".to_vec())], &["not an array"]);
    let whole = zip(&arrays, false);
    fails(&write(&path, &whole[..whole.len() - 30]), &["x.npz is not a .npz file or is cut short"]);
    fails(dir.path().join("no.npz").to_str().unwrap(), &["no.npz does not exist"]);
}

#[test]
fn csv_tables() {
    let dir = dir();
    let path = dir.path().join("t.csv");
    let spec = write(&path, b"\xef\xbb\xbfage, height,one\n1, 10,5\r\n3,20,5\n5,30,5\n");
    let table = data(&spec);
    assert_eq!((table.len(), table.shape(), table.kind()), (3, &[3][..], Kind::Table));
    let columns = table.columns().unwrap();
    assert_eq!(columns.names, ["age", "height", "one"]);
    assert_eq!(columns.mean, [3., 20., 5.]);
    assert_eq!(columns.std[2], 0.);
    assert!(table.notes()[0].contains("one"));
    let x = table.get(&[0, 2]).unwrap().x;
    let rows: Vec<Vec<f32>> = x.to_vec2().unwrap();
    assert!((rows[0][0] + 1.5f32.sqrt()).abs() < 1e-6 && rows[0][2] == 0.);
    let back = columns.restore(&x).unwrap();
    assert!((back[1][0] - 5.).abs() < 1e-6 && (back[1][1] - 30.).abs() < 1e-5);
    for text in ["1;2\n3;4\n", "1\t2\n3\t4", "1,2\n\n3,4\n"] {
        let table = data(&write(&path, text.as_bytes()));
        assert_eq!((table.len(), table.columns().unwrap().names[1].as_str()), (2, "2"), "{text:?}");
    }
}

/// Constant columns are given back exactly, whatever a sampler made of them; other values in them are infinitely far.
#[test]
fn constant_columns() {
    let dir = dir();
    let path = dir.path().join("t.csv");
    // the third differs by rounding alone; the fourth once, and is not constant; the fifth by little
    let row = |i: i32| {
        let sum = if i % 2 == 0 { 0.3 } else { 0.1 + 0.2 };
        format!("{i},7e-6,{sum},{},{}\n", i / 40, 1e9 + 1e-5 * f64::from(i % 2))
    };
    let rows: String = (0..41).map(row).collect();
    let table = data(&write(&path, format!("a,tare,sum,flag,clock\n{rows}").as_bytes()));
    let columns = table.columns().unwrap().clone();
    assert_eq!(columns.constant().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(columns.mean[1], 7e-6);
    let note = &table.notes()[0];
    assert!(note.contains("tare = 0.000007") && !note.contains("flag") && !note.contains("clock"), "{note}");
    assert!(table.get(&(0..41).collect::<Vec<_>>()).unwrap().x.max_all().unwrap().to_scalar::<f32>().unwrap() < 10.);
    for x in [-1f32, 0.3, f32::NAN] {
        let back = columns.restore(&candle_core::Tensor::new(&[[x; 5]], &candle_core::Device::Cpu).unwrap()).unwrap();
        assert_eq!(back[0][1], 7e-6);
    }
    // another value is told of, and does not vanish in the unit of the column
    let like = Options { scaling: Scaling::Like(columns), ..Options::default() };
    let spec = write(&path, b"a,tare,sum,flag,clock\n1,7e-6,0.3,0,1e9\n1,8e-6,0.3,0,1e9\n1,7e-6,0.2,1,1e9\n");
    let other = open(&spec, &like).unwrap();
    let x: Vec<Vec<f32>> = other.get(&[0, 1, 2]).unwrap().x.to_vec2().unwrap();
    assert_eq!([x[0][1], x[1][1], x[2][1], x[2][2]], [0., f32::INFINITY, 0., f32::NEG_INFINITY]);
    let note = &other.notes()[0];
    assert!(note.contains("learnt: 2, such as") && note.contains("0.000008 in column tare"), "{note}");
}

/// The squares of small and of large numbers are none of the f64.
#[test]
fn columns_of_any_size_are_standardised() {
    let dir = dir();
    let path = dir.path().join("t.csv");
    for size in ["e-200", "e0", "e200", "e-320"] {
        let text = ["1", "2", "3", "5"].map(|v| format!("{v}{size},{v}\n")).concat();
        let x: Vec<Vec<f32>> = data(&write(&path, text.as_bytes())).get(&[0, 1, 2, 3]).unwrap().x.to_vec2().unwrap();
        let tolerance = if size == "e-320" { 1e-2 } else { 1e-6 };
        assert!(x.iter().all(|row| (row[0] - row[1]).abs() < tolerance), "{size}: {x:?}");
    }
}

/// As a model learnt them: by name, by its moments, whatever else is in the table.
#[test]
fn csv_tables_for_a_model() {
    let dir = dir();
    let path = dir.path().join("t.csv");
    let like = |mean: [f64; 2]| {
        Scaling::Like(Columns { names: vec!["a".into(), "b".into()], mean: mean.into(), std: vec![2., 0.5] })
    };
    let rows = |text: &str, scaling: Scaling| -> Result<Vec<Vec<f32>>, String> {
        let spec = write(&path, text.as_bytes());
        let data = open(&spec, &Options { scaling, ..Options::default() }).map_err(|e| e.to_string())?;
        Ok(data.get(&(0..data.len()).collect::<Vec<_>>()).unwrap().x.to_vec2().unwrap())
    };
    assert_eq!(rows("a,b\n3,1\n5,7\n", like([1., 1.])).unwrap(), [[1., 0.], [2., 12.]]);
    // in another order; one row; beside a cell that is far out; where f32 has no digits left for 3
    assert_eq!(rows("b,a\n1,3\n7,5\n", like([1., 1.])).unwrap(), [[1., 0.], [2., 12.]]);
    assert_eq!(rows("a,b\n3,1\n", like([1., 1.])).unwrap(), [[1., 0.]]);
    assert_eq!(rows("a,b\n3,1\n1e12,1\n", like([1., 1.])).unwrap()[0], [1., 0.]);
    assert_eq!(rows("a,b\n1000000003,1\n", like([1e9 + 1., 1.])).unwrap(), [[1., 0.]]);
    for (text, named) in
        [("a,c\n1,2\n", "a, c"), ("1,2\n", "1, 2"), ("a,b,c\n1,2,3\n", "a, b, c"), ("b,b\n1,2\n", "b, b")]
    {
        let why = rows(text, like([0., 0.])).unwrap_err();
        assert!(why.contains("t.csv") && why.contains(named) && why.contains("trained on a, b:"), "{why}");
    }
    // of one name twice no order but their own is known
    let twice = Scaling::Like(Columns { names: vec!["a".into(), "a".into()], mean: vec![0.; 2], std: vec![1.; 2] });
    assert_eq!(rows("a,a\n1,2\n", twice.clone()).unwrap(), [[1., 2.]]);
    assert!(rows("a,b\n1,2\n", twice).is_err());
    assert_eq!(rows("5,9\n", Scaling::No).unwrap(), [[5., 9.]]);
    let why = rows("a,b\n1,\n", like([0., 0.])).unwrap_err();
    assert!(why.contains("column b") && why.contains("langevin impute") && !why.contains("train on"), "{why}");
}

#[test]
fn csv_errors() {
    let dir = dir();
    let with = |text: &str, parts: &[&str]| {
        let spec = write(dir.path().join("t.csv"), text.as_bytes());
        fails(&spec, &[&["t.csv"], parts].concat())
    };
    with("", &["is empty"]);
    with("\n\n", &["no rows of numbers"]);
    with("a,b\n", &["no rows of numbers"]);
    with("a,b\n1,2\n3\n", &["line 3", "1 cells where the first line has 2"]);
    with("a,b\n1,2\n3,x4\n", &["line 3, column b", "\"x4\" is not a finite number"]);
    with("1,2x\n3,4\n", &["line 1, column 2", "2x"]);
    with("a,b\n1,\n3,4\n", &["line 2, column b", "empty", "langevin impute"]);
    with("1,2\n3,inf\n", &["line 2, column 2"]);
    with("1,2\n3,NaN\n", &["line 2, column 2", "NaN"]);
    with("1,2\n", &["one row"]);
    with("1,2\n1,2\n", &["every column is constant"]);
    with("1e308,2\n-1e308,2\n1e308,3\n", &["too large"]);
}

#[test]
fn cells_may_be_missing_where_it_is_asked_for() {
    let dir = dir();
    let path = dir.path().join("t.csv");
    write(&path, b"a,b\n1,\nNaN,4\nna,5e1\n");
    let table = langevin_data::partial(&path, None).unwrap();
    assert_eq!(table.names, ["a", "b"]);
    let missing: Vec<bool> = table.values.iter().map(|v| v.is_nan()).collect();
    assert_eq!(missing, [false, true, true, false, true, false]);
    assert_eq!((table.values[0], table.values[3], table.values[5]), (1., 4., 50.));
    assert_eq!((0..6).map(|i| table.texts.get(i)).collect::<Vec<_>>(), ["1", "", "NaN", "4", "na", "5e1"]);
    write(&path, b"a,b\n1,x\n");
    let why = langevin_data::partial(&path, None).unwrap_err().to_string();
    assert!(why.contains("line 2, column b") && why.contains("\"x\""), "{why}");
    write(&path, b"a,b\n1,2,3\n");
    assert!(langevin_data::partial(&path, None).unwrap_err().to_string().contains("3 cells"));
}

#[test]
fn parts_that_are_held_out() {
    for (spec, part) in [
        ("digits", Some("digits:test")),
        ("digits:train", Some("digits:test")),
        ("mnist=some/where", Some("mnist:test=some/where")),
        ("mnist:train=some/where", Some("mnist:test=some/where")),
        ("toy:rings", Some("toy:rings:test")),
        ("rotate:90=cifar10", Some("rotate:90=cifar10:test")),
        ("rotate:90=some/where", None),
        ("digits:test", None),
        ("mnist:test=some/where", None),
        ("mnist:valid", None),
        ("some/where", None),
        ("rows.csv", None),
    ] {
        assert_eq!(langevin_data::held_out(spec).as_deref(), part, "{spec}");
    }
}

#[test]
fn names_that_are_none() {
    fails("digit", &["\"digit\"", "did you mean digits?", "mnist", "toy:two-moons", "FILE.csv"]);
    fails("fashion_mnist", &["did you mean fashion-mnist?"]);
    fails("CIFAR-10", &["did you mean cifar10?"]);
    fails("toy:two-moon", &["did you mean toy:two-moons?"]);
    fails("pinwheel", &["did you mean toy:pinwheel?"]);
    assert!(!fails("imagenet", &["imagenet", "the names are"]).contains("did you mean"));
    fails("digits:valid", &["digits has no split `valid`", "digits:test"]);
    fails("toy:rings=x", &["computed"]);
    fails("cats=/tmp", &["cats"]);
    fails("./no/such", &["./no/such does not exist"]);
    fails("", &["\"\""]);
    let dir = dir();
    fails(&write(dir.path().join("x.txt"), b"x"), &["x.txt is a file of no kind"]);
    fails(&write(dir.path().join("x.png"), b"x"), &["x.png is one image", "the folder"]);
}
