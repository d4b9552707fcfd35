//! The state of a run on disk: all that a run needs to go on as if it had never stopped, in `step-N.safetensors`.
//!
//! Weights, moments, averages and what the objective remembers, with a checksum over every bit of them. A file is written
//! beside, synced and renamed, so a kill at any instant leaves the last ones whole; the last two are kept.

mod old;

use crate::inplace::{self, Float};
use crate::trainable::Trainable;
use crate::trainer::Trainer;
use candle_core::{DType, Device, Error, Result, Tensor, bail};
use langevin_models::model::plain;
use langevin_models::{atomic, tensors};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const KEPT: usize = 2;
/// How the names of states begin.
const STATE: &str = "step-";
const SUM: &str = "langevin.sum";
const STEP: &str = "langevin.step";
/// How the names of the weights begin.
const WEIGHTS: &str = "weights/";
/// How the names of what the objective remembers begin.
pub(crate) const LOSS: &str = "loss/";

/// The last step in `dir` whose state is whole.
pub fn last_checkpoint(dir: &Path) -> Option<u64> {
    let whole = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| open(&bytes).is_ok());
    states(dir).ok()?.into_iter().find(|(_, path)| whole(path)).map(|(step, _)| step)
}

impl<M: Trainable> Trainer<M> {
    /// Writes the state of this step to `dir`, and removes all but the last two.
    ///
    /// Errors in one sentence that names the file; what was there is then untouched.
    pub fn save_state(&self, dir: &Path) -> Result<()> {
        let made = fs::create_dir_all(dir);
        made.map_err(|e| Error::Msg(format!("cannot make the folder `{}`: {e}", dir.display())))?;
        let tensors = self.state_tensors()?;
        for (name, t) in &tensors {
            if !inplace::sum_of_squares(std::slice::from_ref(t))?.is_finite() {
                bail!("step {}: `{name}` is not finite, so this state is not saved over good ones", self.step);
            }
        }
        let mut metadata = self.identity()?;
        metadata.insert(STEP.into(), self.step.to_string());
        let sum = checksum(tensors.iter().map(|(name, t)| (name, t)), &metadata)?;
        metadata.insert(SUM.into(), sum);
        tensors::save(&path(dir, self.step), &tensors, &metadata)?;
        atomic::remove_stale(dir, &[STATE]);
        for (_, old) in states(dir)?.into_iter().filter(|(n, _)| *n <= self.step).skip(KEPT) {
            let _ = fs::remove_file(old); // one too many does no harm
        }
        Ok(())
    }

    /// Goes on from the last good state in `dir`, if there is one; returns a sentence for each that is damaged.
    ///
    /// Errors if there are states but none is good, one cannot be read, or one is of another run.
    pub fn resume(&mut self, dir: &Path) -> Result<Vec<String>> {
        atomic::remove_stale(dir, &[STATE]);
        let mut refused = Vec::new();
        for (step, path) in states(dir)? {
            let read = fs::read(&path);
            let bytes = read.map_err(|e| Error::Msg(format!("cannot read `{}`: {e}", path.display())))?;
            match open(&bytes) {
                Ok((tensors, metadata)) => {
                    self.take(step, tensors, &metadata).map_err(|e| named(&path, &e))?;
                    return Ok(refused);
                }
                Err(e) => refused.push(format!("{}; it is not used", named(&path, &e))),
            }
        }
        match refused.as_slice() {
            [] => Ok(refused),
            [.., last] => bail!(
                "no state in `{}` is whole, the last because {last}; delete that folder to start again from step 0",
                dir.display()
            ),
        }
    }

    fn state_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let named = |prefix: &'static str| move |(name, t): (String, Tensor)| (format!("{prefix}{name}"), t);
        let mut all: Vec<_> = self.model.weights().into_iter().map(named(WEIGHTS)).collect();
        all.extend(self.optim.tensors());
        all.extend(self.ema.tensors());
        all.extend(self.training.state()?.into_iter().map(named(LOSS)));
        Ok(all)
    }

    /// What must be the same for a run to go on, as JSON by key.
    fn identity(&self) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::from([
            ("run.model".into(), json("model", self.model.spec())?),
            ("run.loss".into(), json("loss", &self.objective.description()?)?),
            ("run.optimiser".into(), json("optimiser", &self.optimiser)?),
            ("run.ema".into(), json("ema", &self.profile)?),
            ("run.train".into(), json("train", &self.options.identity())?),
        ]))
    }

    fn take(
        &mut self,
        step: u64,
        mut tensors: BTreeMap<String, Tensor>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<()> {
        if metadata.get(STEP) != Some(&step.to_string()) {
            bail!("is named after step {step} but is another's; give it its own name back");
        }
        let mut saved = values(metadata);
        old::renewed(&mut tensors, &mut saved)?;
        for (key, json) in values(&self.identity()?) {
            if saved.get(&key) != Some(&json) {
                let key = key.trim_start_matches("run.");
                bail!("is of a run with another `{key}`; that cannot change when a run goes on");
            }
        }
        for (name, var) in self.model.vars() {
            match tensors.get(&format!("{WEIGHTS}{name}")) {
                Some(t) if t.dims() == var.dims() => inplace::set(var, &moved(t, var)?)?,
                _ => bail!("does not hold the weight `{name}` of this model"),
            }
        }
        let distil = self.options.distil();
        if self.first && step > distil {
            self.begin_anew()?;
        }
        let begins_anew = distil > 0 && step == distil;
        self.optim.restore(self.updates(step), &tensors)?;
        self.ema.restore(&tensors)?;
        // what the first objective remembers is of no use to the other
        if self.first || !begins_anew {
            let own = |(name, t): (&String, &Tensor)| Some((name.strip_prefix(LOSS)?.to_string(), t.clone()));
            self.training.restore(&self.model, &tensors.iter().filter_map(own).collect())?;
        }
        self.step = step;
        Ok(())
    }
}

fn json(key: &str, thing: &impl Serialize) -> Result<String> {
    serde_json::to_string(thing).map_err(|e| Error::Msg(format!("`{key}` cannot be written as JSON: {e}")))
}

/// What texts of JSON say, to be compared. Each number comes from a text, once: only then are equal ones equal to the bit.
fn values(texts: &BTreeMap<String, String>) -> BTreeMap<String, Value> {
    texts.iter().filter_map(|(key, text)| Some((key.clone(), serde_json::from_str(text).ok()?))).collect()
}

/// `t` with the dtype and on the device of `like`.
pub(crate) fn moved(t: &Tensor, like: &Tensor) -> Result<Tensor> {
    t.to_dtype(like.dtype())?.to_device(like.device())
}

fn path(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("{STATE}{step}.safetensors"))
}

fn named(path: &Path, e: &Error) -> Error {
    Error::Msg(format!("`{}` {}", path.display(), plain(e)))
}

/// The states in `dir`, the last first; none if there is no such folder.
fn states(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => bail!("cannot read the folder `{}`: {e}", dir.display()),
    };
    let step = |name: &str| name.strip_prefix(STATE)?.strip_suffix(".safetensors")?.parse().ok();
    let paths = entries.flatten().map(|entry| entry.path());
    let mut found: Vec<(u64, PathBuf)> =
        paths.filter_map(|path| Some((step(path.file_name()?.to_str()?)?, path))).collect();
    found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    Ok(found)
}

type Whole = (BTreeMap<String, Tensor>, BTreeMap<String, String>);

/// The contents of a state file whose checksum is right.
fn open(bytes: &[u8]) -> Result<Whole> {
    let tensors::Contents { tensors, mut metadata } = tensors::parse(bytes)?;
    let Some(sum) = metadata.remove(SUM) else { bail!("is not the state of a run: it has no checksum") };
    if checksum(tensors.iter(), &metadata)? != sum {
        bail!("is damaged: its checksum is wrong");
    }
    Ok((tensors, metadata))
}

/// A 64-bit sum over names, shapes, texts and every bit of the numbers. Each word enters by a bijection of the state,
/// so a change of any one word changes the result for certain.
fn checksum<'a>(
    tensors: impl Iterator<Item = (&'a String, &'a Tensor)>,
    metadata: &BTreeMap<String, String>,
) -> Result<String> {
    fn mix(sum: u64, word: u64) -> u64 {
        (sum ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    }
    fn text(sum: u64, text: &str) -> u64 {
        text.bytes().fold(mix(sum, text.len() as u64), |sum, byte| mix(sum, byte.into()))
    }
    fn numbers<T: Float>(sum: u64, t: &Tensor) -> Result<u64> {
        inplace::read::<T, u64>(t, |v| v.iter().fold(sum, |sum, v| mix(sum, v.bits())))
    }
    let mut sorted: Vec<_> = tensors.collect();
    sorted.sort_by_key(|(name, _)| *name);
    let mut sum = metadata.iter().fold(1, |sum, (key, value)| text(text(sum, key), value));
    for (name, t) in sorted {
        sum = text(sum, name);
        sum = t.dims().iter().fold(sum, |sum, &d| mix(sum, d as u64));
        let t = t.to_device(&Device::Cpu)?.contiguous()?;
        sum = match t.dtype() {
            DType::F64 => numbers::<f64>(sum, &t)?,
            DType::F32 => numbers::<f32>(sum, &t)?,
            _ => numbers::<f32>(sum, &t.to_dtype(DType::F32)?)?,
        };
    }
    Ok(format!("{sum:016x}"))
}
