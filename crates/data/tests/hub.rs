//! Datasets from a Hub: a small server of our own, in every mood that the real one may have.
#![cfg(feature = "hub")]
#![allow(clippy::print_stdout)] // how a test hears from the process it started

#[path = "../../hub/tests/common/mod.rs"]
mod server;

use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use langevin_data::{Options, open};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use server::{Faults, Hub};
use std::io::Cursor;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tempfile::tempdir;

const TRAIN: &str = "datasets/ylecun/mnist/mnist/train/0000.parquet";
const TEST: &str = "datasets/ylecun/mnist/mnist/test/0000.parquet";

/// A parquet file with the columns of the Hub's converted datasets.
fn parquet(column: &str, images: &[Vec<u8>], labels: &[i64]) -> Vec<u8> {
    let schema = format!(
        "message m {{ optional group {column} {{ optional binary bytes; optional binary path (UTF8); }} optional int64 label; }}"
    );
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let mut out = vec![];
    let mut file = SerializedFileWriter::new(&mut out, schema, Default::default()).unwrap();
    let mut rows = file.next_row_group().unwrap();
    let n = images.len();
    let bytes: Vec<ByteArray> = images.iter().map(|image| image.clone().into()).collect();
    let mut next = rows.next_column().unwrap().unwrap();
    next.typed::<ByteArrayType>().write_batch(&bytes, Some(&vec![2; n]), None).unwrap();
    next.close().unwrap();
    let mut next = rows.next_column().unwrap().unwrap();
    next.typed::<ByteArrayType>().write_batch(&[], Some(&vec![1; n]), None).unwrap();
    next.close().unwrap();
    let mut next = rows.next_column().unwrap().unwrap();
    next.typed::<Int64Type>().write_batch(labels, Some(&vec![1; n]), None).unwrap();
    next.close().unwrap();
    rows.close().unwrap();
    file.close().unwrap();
    out
}

fn grey(value: u8) -> Vec<u8> {
    let mut out = Cursor::new(vec![]);
    GrayImage::from_pixel(28, 28, Luma([value])).write_to(&mut out, ImageFormat::Png).unwrap();
    out.into_inner()
}

fn mnist() -> [(&'static str, Vec<u8>); 2] {
    let train = parquet("image", &[grey(10), grey(200), grey(30)], &[3, 1, 4]);
    let test = parquet("image", &[grey(7), grey(8)], &[9, 0]);
    [(TRAIN, train), (TEST, test)]
}

/// What a fresh process says of `spec`; environments are read once a process.
fn opened(spec: &str, hub: &str, home: &Path, more: &[(&str, &str)]) -> String {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "fresh_process", "--ignored", "--nocapture"])
        .env_remove("HF_HUB_OFFLINE")
        .env_remove("HF_HUB_CACHE")
        .env_remove("HUGGINGFACE_HUB_CACHE")
        .envs([("HF_ENDPOINT", hub), ("HF_HOME", home.to_str().unwrap()), ("LANGEVIN_SPEC", spec)])
        .envs([("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")])
        .envs(more.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let said: Vec<&str> = text.lines().filter_map(|line| line.split_once("SAID ").map(|(_, said)| said)).collect();
    assert_eq!(said.len(), 1, "{text}\n{}", String::from_utf8_lossy(&out.stderr));
    said[0].to_string()
}

#[test]
#[ignore = "run by the other tests in a process of its own"]
fn fresh_process() {
    let spec = std::env::var("LANGEVIN_SPEC").unwrap_or("digits".into());
    match open(&spec, &Options::default()) {
        Err(e) => println!("\nSAID {}", e.to_string().replace('\n', "<newline>")),
        Ok(data) => {
            let batch = data.get(&(0..data.len()).collect::<Vec<_>>()).unwrap();
            let labels: Vec<u32> = batch.labels().unwrap().to_vec1().unwrap();
            let x: Vec<f32> = batch.x.flatten_from(1).unwrap().to_vec2::<f32>().unwrap().concat();
            let value = |i: usize| ((x[i] + 1.) * 127.5).round();
            let each: usize = data.shape().iter().product();
            let firsts: Vec<f32> = (0..data.len()).map(|i| value(i * each)).collect();
            println!("\nSAID {:?} {labels:?} {firsts:?} {}", data.shape(), value(5));
        }
    }
}

#[test]
fn downloads_once_then_needs_no_network() {
    let (hub, home) = (Hub::start(mnist()), tempdir().unwrap());
    let train = "[1, 28, 28] [3, 1, 4] [10.0, 200.0, 30.0] 10";
    assert_eq!(opened("mnist", &hub.address, home.path(), &[]), train);
    assert!(hub.log().len() >= 4);
    assert_eq!(opened("mnist:test", &hub.address, home.path(), &[]), "[1, 28, 28] [9, 0] [7.0, 8.0] 7");
    assert_eq!(opened("mnist", &hub.address, home.path(), &[("HF_HUB_OFFLINE", "1")]), train);
    assert!(hub.log().is_empty(), "a cached dataset asks for nothing");
}

#[test]
fn cifar_stands_upright_and_fashion_is_found() {
    let home = tempdir().unwrap();
    // Red grows down the rows, green along the columns.
    let picture = RgbImage::from_fn(32, 32, |x, y| Rgb([8 * y as u8, 4 * x as u8, 9]));
    let mut png = Cursor::new(vec![]);
    picture.write_to(&mut png, ImageFormat::Png).unwrap();
    let file = parquet("img", &[png.into_inner()], &[6]);
    let mut files = vec![];
    for split in ["train", "test"] {
        files.push((format!("datasets/cifar10/plain_text/{split}/0000.parquet"), file.clone()));
        let at = "datasets/zalando-datasets/fashion_mnist/fashion_mnist";
        files.push((format!("{at}/{split}/0000.parquet"), parquet("image", &[grey(50)], &[2])));
    }
    let hub = Hub::start(files.iter().map(|(path, bytes)| (&**path, bytes.clone())));
    // Pixel 5 of the first row is red: 0 in a picture that stands, 40 in one that lies.
    assert_eq!(opened("cifar10", &hub.address, home.path(), &[]), "[3, 32, 32] [6] [0.0] 0");
    assert_eq!(opened("fashion-mnist", &hub.address, home.path(), &[]), "[1, 28, 28] [2] [50.0] 50");
}

#[test]
fn what_goes_wrong_is_said_and_mended() {
    let (hub, home) = (Hub::start(mnist()), tempdir().unwrap());
    let says = |parts: &[&str]| {
        let said = opened("mnist", &hub.address, home.path(), &[("HF_HUB_DOWNLOAD_TIMEOUT", "1")]);
        let parts = [&["cannot get mnist from the Hub", "mnist=DIR"], parts].concat();
        parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} is not in: {said}"));
        assert!(!said.contains("<newline>"), "{said}");
    };
    hub.faults(Faults { silent: true, ..Faults::default() });
    says(&["sent nothing for 1 s", &hub.address]);
    hub.faults(Faults { garble: true, ..Faults::default() });
    says(&["train/0000.parquet", "wrong SHA-256"]);
    hub.faults(Faults { status: Some((403, "GET", 9)), ..Faults::default() });
    says(&["the server forbids it: 403"]);
    // A connection that is cut is no trouble; nor is what another client left in the cache: the text of an error.
    hub.faults(Faults { cut: 1, ..Faults::default() });
    let whole = "[1, 28, 28] [3, 1, 4] [10.0, 200.0, 30.0] 10";
    assert_eq!(opened("mnist", &hub.address, home.path(), &[]), whole);
    let blobs = home.path().join("hub/datasets--ylecun--mnist/blobs");
    for blob in std::fs::read_dir(blobs).unwrap() {
        std::fs::write(blob.unwrap().path(), "<html>403</html>").unwrap();
    }
    assert_eq!(opened("mnist", &hub.address, home.path(), &[]), whole);
}

#[test]
fn absent_files_and_offline() {
    let (hub, home) = (Hub::start([("datasets/ylecun/mnist/README.md", vec![])]), tempdir().unwrap());
    let said = opened("mnist", &hub.address, home.path(), &[]);
    assert!(said.contains("no such file") && said.contains("mnist=DIR"), "{said}");
    hub.log();
    let said = opened("mnist", &hub.address, home.path(), &[("HF_HUB_OFFLINE", "1")]);
    assert!(said.contains("HF_HUB_OFFLINE is set") && said.contains("not in the cache"), "{said}");
    assert!(hub.log().is_empty());
    let nobody = "http://127.0.0.1:9"; // the port of `discard`, where nothing listens
    let said = opened("cifar10", nobody, home.path(), &[]);
    assert!(said.contains("no connection") && said.contains("cifar10=DIR"), "{said}");
}

#[test]
fn pictures_that_are_none_are_an_error() {
    let mut files = mnist();
    files[0].1 = parquet("image", &[b"no picture".to_vec()], &[1]);
    let (hub, home) = (Hub::start(files), tempdir().unwrap());
    let said = opened("mnist", &hub.address, home.path(), &[]);
    assert!(said.contains("cannot be decoded") && said.contains("mnist=DIR"), "{said}");
}
