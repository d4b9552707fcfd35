//! Walks reference cases: every folder under `$LANGEVIN_REFERENCE/FAMILY`, or the copies beside the tests, these or those of the
//! dynamics.
#![allow(dead_code)] // each test file uses its part

use candle_core::{Device, Tensor};
use langevin_ops::shape::to_host;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The greatest of `errors`, which are not negative; NaN if one is, so that no bound holds for it.
pub fn greatest(errors: impl IntoIterator<Item = f64>) -> f64 {
    errors.into_iter().fold(0., |most, error| if error.is_nan() || error > most { error } else { most })
}

/// What a case says, and its tensors.
pub struct Case {
    pub name: String,
    pub json: serde_json::Value,
    tensors: HashMap<String, Tensor>,
}

impl Case {
    pub fn number(&self, key: &str) -> f64 {
        self.json[key].as_f64().unwrap_or_else(|| panic!("{}: no number {key}", self.name))
    }

    pub fn tensor(&self, key: &str) -> Vec<f64> {
        to_host(self.tensors.get(key).unwrap_or_else(|| panic!("{}: no tensor {key}", self.name))).unwrap()
    }
}

/// Every case of `family`, which may be of several folders or one; panics if there is none.
pub fn cases(family: &str) -> Vec<Case> {
    let copies = ["tests/reference", "../dynamics/tests/reference"]
        .map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))
        .into_iter()
        .find(|folder| folder.join(family).is_dir())
        .unwrap_or_default();
    let root = std::env::var_os("LANGEVIN_REFERENCE").map_or(copies, PathBuf::from).join(family);
    let entries = std::fs::read_dir(&root).unwrap_or_else(|e| panic!("cannot read {}: {e}", root.display()));
    let mut folders: Vec<_> = entries.map(|e| e.unwrap().path()).filter(|p| p.join("case.json").exists()).collect();
    folders.sort();
    assert!(!folders.is_empty(), "no cases under {}", root.display());
    let open = |folder: &PathBuf| Case {
        name: folder.file_name().unwrap().to_string_lossy().into_owned(),
        json: serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap(),
        tensors: candle_core::safetensors::load(folder.join("tensors.safetensors"), &Device::Cpu).unwrap(),
    };
    folders.iter().map(open).collect()
}
