//! MNIST, Fashion-MNIST and CIFAR-10 from the Hugging Face Hub, through candle-datasets; cached, then offline.
//!
//! hf-hub 1.0 may keep the text of an error as the file, checks no hash, has no timeouts and ignores `HF_HUB_OFFLINE`,
//! and candle-datasets panics on what it cannot decode. So the files are fetched and checked here before it reads them.

use crate::{Images, spec::Split};
use candle_core::{Result, Tensor};
use candle_datasets::vision;
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync, RepoTypeDataset};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The branch on which the Hub keeps every dataset as parquet files.
const REVISION: &str = "refs/convert/parquet";
/// Nothing new for so long is a server that does not answer; `HF_HUB_DOWNLOAD_TIMEOUT` (seconds) overrides it.
const PATIENCE: u64 = 60;

/// A dataset as candle-datasets asks for it.
struct Source {
    id: &'static str,
    folder: &'static str,
    shape: [usize; 3],
    load: fn() -> Result<vision::Dataset>,
}

fn source(name: &str) -> Result<Source> {
    Ok(match name {
        "mnist" => Source { id: "ylecun/mnist", folder: "mnist", shape: [1, 28, 28], load: vision::mnist::load },
        "fashion-mnist" => Source {
            id: "zalando-datasets/fashion_mnist",
            folder: "fashion_mnist",
            shape: [1, 28, 28],
            load: vision::fashion_mnist::load,
        },
        "cifar10" => Source { id: "cifar10", folder: "plain_text", shape: [3, 32, 32], load: cifar10 },
        _ => bail!("{name} is not on the Hub"),
    })
}

/// candle-datasets gives CIFAR-10 from the Hub as [N, C, W, H].
fn cifar10() -> Result<vision::Dataset> {
    let set = vision::cifar::load()?;
    let upright = |x: &Tensor| x.permute((0, 1, 3, 2));
    Ok(vision::Dataset { train_images: upright(&set.train_images)?, test_images: upright(&set.test_images)?, ..set })
}

/// A split of one of the three datasets, downloaded if it is not cached yet.
pub(crate) fn open(name: &str, split: Split) -> Result<Images> {
    let source = source(name)?;
    let fetched = fetch(&source);
    let set = match fetched.and_then(|()| load(&source)) {
        Ok(set) => set,
        Err(why) => bail!("cannot get {name} from the Hub: {why}; or name a folder with its files: {name}=DIR"),
    };
    let (x, labels) = match split {
        Split::Train => (set.train_images, set.train_labels),
        Split::Test => (set.test_images, set.test_labels),
    };
    let pixels = bytes(&x)?;
    let labels: Vec<u8> = labels.to_vec1()?;
    let labels = labels.into_iter().map(u32::from).collect();
    Images::new(&format!("{name} from the Hub"), source.shape, pixels, Some((labels, set.labels)))
}

/// x / 255 back to bytes, some images at a time to save memory.
fn bytes(x: &Tensor) -> Result<Vec<u8>> {
    let n = x.dim(0)?;
    let mut out = Vec::with_capacity(x.elem_count());
    for first in (0..n).step_by(1000) {
        let some: Vec<f32> = x.narrow(0, first, (n - first).min(1000))?.flatten_all()?.to_vec1()?;
        out.extend(some.into_iter().map(|x| (x * 255.).round() as u8));
    }
    Ok(out)
}

type Fetched<T> = std::result::Result<T, String>;

/// What candle-datasets reads from the cached files. Whatever it panics on is an error here.
fn load(source: &Source) -> Fetched<vision::Dataset> {
    let load = source.load;
    match std::thread::spawn(load).join() {
        Ok(Ok(set)) => Ok(set),
        Ok(Err(e)) => Err(format!("the cached files of {} cannot be read ({e}); delete them", source.id)),
        Err(_) => Err(format!("the cached files of {} hold images that cannot be decoded; delete them", source.id)),
    }
}

/// Sees to it that both files are in the cache and whole.
fn fetch(source: &Source) -> Fetched<()> {
    let client = HFClientSync::new().map_err(|e| e.to_string())?;
    let endpoint = HFClient::new().map(|c| c.endpoint().to_string()).map_err(|e| e.to_string())?;
    let (owner, name) = hf_hub::split_id(source.id);
    let repo = client.dataset(owner, name);
    for part in ["train", "test"] {
        let file = format!("{}/{part}/0000.parquet", source.folder);
        let cached = ask(&repo, &file, Ask::Cache).and_then(|path| whole(&path));
        if cached.is_ok() {
            continue;
        }
        if offline() {
            return Err(format!("HF_HUB_OFFLINE is set, and {file} of {} is not in the cache", source.id));
        }
        let from = |why| format!("{file} of {} at {endpoint}: {why}; check the network", source.id);
        let first = ask(&repo, &file, Ask::Network).map_err(from)?;
        if whole(&first).is_err() {
            // Only a forced download replaces what is there.
            let again = ask(&repo, &file, Ask::Force).map_err(from)?;
            if let Err(why) = whole(&again) {
                discard(&again);
                return Err(from(why));
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Ask {
    Cache,
    Network,
    Force,
}

/// One file's path in the cache. A server that falls silent is given up.
fn ask(repo: &HFRepositorySync<RepoTypeDataset>, file: &str, how: Ask) -> Fetched<PathBuf> {
    let (repo, file) = (repo.clone(), file.to_string());
    let (to, done) = channel();
    let cache = HFClient::new().map(|c| c.cache_dir().to_path_buf()).unwrap_or_default();
    std::thread::spawn(move || {
        let request = repo.download_file().filename(file).revision(REVISION);
        let _ = to.send(match how {
            Ask::Cache => request.local_files_only(true).send(),
            Ask::Network => request.send(),
            Ask::Force => request.force_download(true).send(),
        });
    });
    let patience = std::env::var("HF_HUB_DOWNLOAD_TIMEOUT").ok().and_then(|s| s.parse().ok()).unwrap_or(PATIENCE);
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        match done.recv_timeout(Duration::from_millis(500)) {
            Ok(answer) => return answer.map_err(|e| reason(&e)),
            Err(RecvTimeoutError::Disconnected) => return Err("the download stopped unexpectedly".into()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = incomplete(&cache);
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() >= Duration::from_secs(patience) {
            return Err(format!("the server has sent nothing for {patience} s"));
        }
    }
}

/// The bytes that unfinished downloads have so far, in any repository of the cache.
fn incomplete(cache: &Path) -> u64 {
    let list = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().filter_map(|entry| entry.ok());
    let blobs = list(cache.to_path_buf()).flat_map(|repo| list(repo.path().join("blobs")));
    let parts = blobs.filter(|blob| blob.file_name().to_string_lossy().ends_with(".incomplete"));
    parts.filter_map(|part| part.metadata().ok()).map(|part| part.len()).sum()
}

fn reason(e: &HFError) -> String {
    match e {
        HFError::EntryNotFound { .. } => "there is no such file on the server".into(),
        HFError::AuthRequired { .. } => "there is no such dataset, or it needs a token (set HF_TOKEN)".into(),
        HFError::Request { source, .. } if source.is_connect() => "no connection".into(),
        HFError::Request { .. } => "the connection was lost".into(),
        HFError::Http { context } => format!("the server answered {}", context.status),
        other => other.to_string(),
    }
}

/// A parquet file begins and ends with PAR1, and large files are cached under their SHA-256.
fn whole(path: &Path) -> Fetched<()> {
    let unreadable = |e: std::io::Error| format!("{} cannot be read: {e}", path.display());
    let blob = fs::canonicalize(path).map_err(unreadable)?;
    let mut file = fs::File::open(&blob).map_err(unreadable)?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 16]);
    let (mut start, mut end) = (Vec::<u8>::new(), Vec::<u8>::new());
    loop {
        let n = file.read(&mut piece).map_err(unreadable)?;
        if n == 0 {
            break;
        }
        hash.update(&piece[..n]);
        start.extend(piece[..n].iter().take(4 - start.len().min(4)));
        end.extend_from_slice(&piece[n.saturating_sub(4)..n]);
        end.drain(..end.len().saturating_sub(4));
    }
    if start != b"PAR1" || end != b"PAR1" {
        return Err("what the server sent is not a parquet file".into());
    }
    let name = blob.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    let is_hash = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hash && name != hex { Err("what the server sent has the wrong SHA-256".into()) } else { Ok(()) }
}

/// Takes a file that is not what it should be out of the cache.
fn discard(path: &Path) {
    if let Ok(blob) = fs::canonicalize(path) {
        let _ = fs::remove_file(blob);
    }
    let _ = fs::remove_file(path);
}

fn offline() -> bool {
    let set = std::env::var("HF_HUB_OFFLINE").unwrap_or_default().to_lowercase();
    matches!(set.as_str(), "1" | "true" | "yes" | "on")
}
