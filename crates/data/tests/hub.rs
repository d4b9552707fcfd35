//! Datasets from a Hub: a small server of our own, in every mood that the real one may have.
#![cfg(feature = "hub")]
#![allow(clippy::print_stdout)] // how a test hears from the process it started

use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use langevin_data::{Options, open};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::tempdir;

const TRAIN: &str = "/datasets/ylecun/mnist/resolve/refs%2Fconvert%2Fparquet/mnist/train/0000.parquet";
const TEST: &str = "/datasets/ylecun/mnist/resolve/refs%2Fconvert%2Fparquet/mnist/test/0000.parquet";

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Well,
    /// This many GETs are answered by 403, though their HEADs succeeded.
    Forbids(usize),
    /// Bytes of the right number, but others.
    Garbles,
    Truncates,
    Silent,
}

struct Hub {
    files: HashMap<String, Vec<u8>>,
    mood: Mutex<Mood>,
    requests: AtomicUsize,
    address: String,
}

impl Hub {
    fn start(files: HashMap<String, Vec<u8>>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let hub = Arc::new(Self { files, mood: Mutex::new(Mood::Well), requests: AtomicUsize::new(0), address });
        let serving = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hub = serving.clone();
                std::thread::spawn(move || hub.answer(stream));
            }
        });
        hub
    }

    fn be(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
        let request = lines.next()?;
        lines.find(|line| line.is_empty())?;
        self.requests.fetch_add(1, Ordering::SeqCst);
        let (method, path) = request.rsplit_once(' ')?.0.split_once(' ')?;
        let body = self.files.get(path).or_else(|| self.files.get(&path.replace("refs/convert/", "refs%2Fconvert%2F")));
        let Some(body) = body else {
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nX-Error-Code: EntryNotFound\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return Some(());
        };
        let mut mood = self.mood.lock().unwrap();
        let (mut sent, mut status) = (body.clone(), "200 OK");
        match &mut *mood {
            Mood::Silent => {
                drop(mood);
                std::thread::sleep(std::time::Duration::from_secs(30));
                return Some(());
            }
            Mood::Forbids(n) if method == "GET" && *n > 0 => {
                *n -= 1;
                (sent, status) = (b"<html>no</html>".to_vec(), "403 Forbidden");
            }
            Mood::Garbles => sent[body.len() / 2] ^= 1,
            _ => {}
        }
        let etag: String = Sha256::digest(body).iter().map(|b| format!("{b:02x}")).collect();
        let head = format!(
            "HTTP/1.1 {status}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            "0123456789".repeat(4),
            sent.len()
        );
        let _ = stream.write_all(head.as_bytes());
        if method == "GET" {
            let end = if *mood == Mood::Truncates { sent.len() / 2 } else { sent.len() };
            let _ = stream.write_all(&sent[..end]);
        }
        Some(())
    }
}

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

fn mnist() -> HashMap<String, Vec<u8>> {
    let train = parquet("image", &[grey(10), grey(200), grey(30)], &[3, 1, 4]);
    let test = parquet("image", &[grey(7), grey(8)], &[9, 0]);
    HashMap::from([(TRAIN.to_string(), train), (TEST.to_string(), test)])
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
            let labels: Vec<u32> = batch.labels.unwrap().to_vec1().unwrap();
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
    let asked = hub.requests.load(Ordering::SeqCst);
    assert!(asked >= 4);
    assert_eq!(opened("mnist:test", &hub.address, home.path(), &[]), "[1, 28, 28] [9, 0] [7.0, 8.0] 7");
    assert_eq!(opened("mnist", &hub.address, home.path(), &[("HF_HUB_OFFLINE", "1")]), train);
    assert_eq!(hub.requests.load(Ordering::SeqCst), asked, "a cached dataset asks for nothing");
}

#[test]
fn cifar_stands_upright_and_fashion_is_found() {
    let home = tempdir().unwrap();
    // Red grows down the rows, green along the columns.
    let picture = RgbImage::from_fn(32, 32, |x, y| Rgb([8 * y as u8, 4 * x as u8, 9]));
    let mut png = Cursor::new(vec![]);
    picture.write_to(&mut png, ImageFormat::Png).unwrap();
    let file = parquet("img", &[png.into_inner()], &[6]);
    let at =
        |split: &str| format!("/datasets/cifar10/resolve/refs%2Fconvert%2Fparquet/plain_text/{split}/0000.parquet");
    let mut files = HashMap::from([(at("train"), file.clone()), (at("test"), file)]);
    for split in ["train", "test"] {
        let at = "/datasets/zalando-datasets/fashion_mnist/resolve/refs%2Fconvert%2Fparquet/fashion_mnist";
        files.insert(format!("{at}/{split}/0000.parquet"), parquet("image", &[grey(50)], &[2]));
    }
    let hub = Hub::start(files);
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
    hub.be(Mood::Silent);
    says(&["sent nothing for 1 s", &hub.address]);
    hub.be(Mood::Truncates);
    says(&["train/0000.parquet", "connection was lost"]);
    hub.be(Mood::Garbles);
    says(&["wrong SHA-256"]);
    hub.be(Mood::Forbids(99));
    says(&["not a parquet file"]);
    // An error's text that was kept as the file is noticed and fetched anew.
    hub.be(Mood::Forbids(1));
    let said = opened("mnist", &hub.address, home.path(), &[]);
    assert_eq!(said, "[1, 28, 28] [3, 1, 4] [10.0, 200.0, 30.0] 10");
}

#[test]
fn absent_files_and_offline() {
    let (hub, home) = (Hub::start(HashMap::new()), tempdir().unwrap());
    let said = opened("mnist", &hub.address, home.path(), &[]);
    assert!(said.contains("no such file on the server") && said.contains("mnist=DIR"), "{said}");
    let asked = hub.requests.load(Ordering::SeqCst);
    let said = opened("mnist", &hub.address, home.path(), &[("HF_HUB_OFFLINE", "1")]);
    assert!(said.contains("HF_HUB_OFFLINE is set") && said.contains("not in the cache"), "{said}");
    assert_eq!(hub.requests.load(Ordering::SeqCst), asked);
    let nobody = "http://127.0.0.1:9"; // the port of `discard`, where nothing listens
    let said = opened("cifar10", nobody, home.path(), &[]);
    assert!(said.contains("no connection") && said.contains("cifar10=DIR"), "{said}");
}

#[test]
fn pictures_that_are_none_are_an_error() {
    let mut files = mnist();
    files.insert(TRAIN.into(), parquet("image", &[b"no picture".to_vec()], &[1]));
    let (hub, home) = (Hub::start(files), tempdir().unwrap());
    let said = opened("mnist", &hub.address, home.path(), &[]);
    assert!(said.contains("cannot be decoded") && said.contains("mnist=DIR"), "{said}");
}
