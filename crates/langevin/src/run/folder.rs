//! The folder of a run: what lies where, who may write in it, and the log that a kill cannot tear.

use super::Learns;
use crate::error::{Usage, usage};
use anyhow::{Context, Result, bail};
use langevin_models::atomic;
use serde_json::Value;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

const SNAPSHOTS: &str = "snapshots";
const SAMPLES: &str = "samples";

/// A run folder that this process alone writes in.
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// A new folder at `out`, or the first free one of runs/NAME, runs/NAME-2, ..., with the configuration of its run.
    pub fn create(out: Option<&Path>, name: &str, config: &str) -> Result<Self> {
        let folder = match out {
            Some(path) => Self::named(path)?,
            None => Self::numbered(name)?,
        };
        crate::output::save(&folder.config_file(), config.as_bytes())?;
        Ok(folder)
    }

    /// The folder of a run to go on with.
    pub fn open(path: &Path) -> Result<Self> {
        Self::config_of(path)?;
        Self::lock(path)?.map_or_else(|| busy(path), Ok)
    }

    /// A new folder at the path that the user gave.
    fn named(path: &Path) -> Result<Self> {
        if path.exists() && !path.is_dir() {
            return usage(Usage::of("out", "this is a file; give a folder").value(path.display()));
        }
        match Self::free(path)? {
            Some(folder) => Ok(folder),
            None if has_run(path) => usage(format!(
                "{0} already holds a run; go on with --resume {0}, or give another --out",
                path.display()
            )),
            None => busy(path),
        }
    }

    /// The first free folder of runs/NAME, runs/NAME-2, ...
    fn numbered(name: &str) -> Result<Self> {
        let paths = (1..).map(|n| Path::new("runs").join(if n == 1 { name.into() } else { format!("{name}-{n}") }));
        let mut free = paths.filter(|path| !path.exists() || path.is_dir()).map(|path| Self::free(&path));
        free.find_map(Result::transpose).context("no free name under runs/")?
    }

    /// The folder `path`, made if need be; `None` if it holds a run, or another process is beginning one there.
    fn free(path: &Path) -> Result<Option<Self>> {
        if has_run(path) {
            return Ok(None);
        }
        fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self::lock(path)?.filter(|_| !has_run(path))) // a run may have begun and ended since
    }

    /// What its run was started with.
    pub fn config<C: Learns>(&self) -> Result<C> {
        let path = self.config_file();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        C::parse(&text, &[]).with_context(|| path.display().to_string())
    }

    /// The configuration of the run in `path`.
    pub fn config_of(path: &Path) -> Result<PathBuf> {
        let config = path.join("config.toml");
        if !config.is_file() {
            return usage(Usage::of("resume", "no run lies there (no config.toml)").value(path.display()));
        }
        Ok(config)
    }

    /// Locks `path`; `None` if another process has. The lock belongs to the process, not to the file: one left by a killed
    /// process blocks nobody.
    fn lock(path: &Path) -> Result<Option<Self>> {
        let file = path.join(".lock");
        let lock = OpenOptions::new().create(true).write(true).truncate(false).open(&file);
        let lock = lock.with_context(|| format!("cannot write in {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {
                let folder = Self { path: path.to_path_buf(), _lock: lock };
                folder.remove_stale();
                Ok(Some(folder))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("cannot lock {}", file.display())),
        }
    }

    /// Removes what killed processes left half written.
    fn remove_stale(&self) {
        atomic::remove_stale(&self.path, &["config.toml.", "data.json.", "log.jsonl.", "model.safetensors."]);
        for folder in [SNAPSHOTS, SAMPLES] {
            atomic::remove_stale(&self.path.join(folder), &["step-", "filters-step-"]);
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// That configuration.
    pub fn config_file(&self) -> PathBuf {
        self.path.join("config.toml")
    }
    /// What the run keeps of its data.
    pub fn data(&self) -> PathBuf {
        Self::data_of(&self.path)
    }
    /// The same of the run in `path`.
    pub fn data_of(path: &Path) -> PathBuf {
        path.join("data.json")
    }
    /// The averaged weights.
    pub fn model(&self) -> PathBuf {
        self.path.join("model.safetensors")
    }
    /// The snapshot of a step; averages beside the first are numbered from 2.
    pub fn snapshot(&self, step: u64, track: usize) -> PathBuf {
        let number = if track == 0 { String::new() } else { format!(".{}", track + 1) };
        self.path.join(SNAPSHOTS).join(format!("step-{step}{number}.safetensors"))
    }
    /// The folder of states.
    pub fn state(&self) -> PathBuf {
        Self::state_of(&self.path)
    }
    /// The folder of states of the run in `path`.
    pub fn state_of(path: &Path) -> PathBuf {
        path.join("state")
    }
    /// The picture of a step.
    pub fn samples(&self, step: u64) -> PathBuf {
        self.path.join(SAMPLES).join(format!("step-{step}.png"))
    }
    /// Whether there are samples of a step; those of a table are a .csv.
    pub fn has_samples(&self, step: u64) -> bool {
        let picture = self.samples(step);
        picture.is_file() || picture.with_extension("csv").is_file()
    }
    /// The folder of event files.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tb")
    }

    /// The log, cut back to the steps up to `step`: what a killed run wrote after its last checkpoint is written again, all of
    /// it where there is none.
    pub fn log(&self, step: u64) -> Result<Log> {
        let path = self.path.join("log.jsonl");
        let old = fs::read_to_string(&path).unwrap_or_default();
        let kept: String = old
            .lines()
            .filter(|line| step_of(line).is_some_and(|s| s <= step && step > 0))
            .flat_map(|line| [line, "\n"])
            .collect();
        if kept.len() != old.len() {
            crate::output::save(&path, kept.as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path);
        Ok(Log(file.with_context(|| format!("cannot write {}", path.display()))?, path))
    }
}

fn has_run(path: &Path) -> bool {
    path.join("config.toml").exists()
}

fn busy<T>(path: &Path) -> Result<T> {
    bail!("another process is training in {}; wait for it, or stop it", path.display())
}

fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line).ok()?.get("step")?.as_u64()
}

/// `log.jsonl`, one object a line.
pub struct Log(File, PathBuf);

impl Log {
    /// Adds a line.
    pub fn line(&mut self, value: &Value) -> Result<()> {
        writeln!(self.0, "{value}").with_context(|| format!("cannot write {}", self.1.display()))
    }
}
