//! MNIST, Fashion-MNIST and CIFAR-10 from the Hugging Face Hub, through candle-datasets; cached, then offline.
//!
//! candle-datasets' own download may keep the text of an error as the file and wait for ever, and it panics on what it
//! cannot decode. So langevin-hub fetches and checks the files before it reads them.

use crate::{Images, spec::Split};
use candle_core::{Result, Tensor};
use candle_datasets::vision;
use langevin_hub::Repo;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// The branch on which the Hub keeps every dataset as parquet files.
const REVISION: &str = "refs/convert/parquet";

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
    let repo = Repo::parse(&format!("datasets/{}@{REVISION}", source.id)).map_err(|e| e.to_string())?;
    for part in ["train", "test"] {
        let file = format!("{}/{part}/0000.parquet", source.folder);
        if let Some(cached) = repo.cached(&file) {
            if whole(&cached).is_ok() {
                continue;
            }
            discard(&cached);
        }
        let path = repo.file(&file).map_err(|e| e.to_string())?;
        whole(&path).inspect_err(|_| discard(&path))?;
    }
    Ok(())
}

/// Its contents are those of its name, and begin and end with PAR1, as parquet files do.
fn whole(path: &Path) -> Fetched<()> {
    langevin_hub::check(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let ends = || {
        let (mut file, mut start, mut end) = (File::open(path)?, [0; 4], [0; 4]);
        file.read_exact(&mut start)?;
        file.seek(SeekFrom::End(-4))?;
        file.read_exact(&mut end)?;
        Ok::<_, std::io::Error>([start, end])
    };
    if ends().is_ok_and(|ends| ends == [*b"PAR1"; 2]) {
        return Ok(());
    }
    Err("what the server sent is not a parquet file".into())
}

/// Takes a file that is not what it should be out of the cache.
fn discard(path: &Path) {
    if let Ok(blob) = fs::canonicalize(path) {
        let _ = fs::remove_file(blob);
    }
    let _ = fs::remove_file(path);
}
