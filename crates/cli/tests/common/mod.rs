//! Tiny models in a fresh folder, and the program run on them.

#![allow(dead_code)] // each test file uses its part

use assert_cmd::Command;
use candle_core::{DType, Device, Tensor};
use langevin::dynamics::predict::AnyParametrisation;
use langevin::dynamics::process::AnyProcess;
use langevin::models::mlp::MlpConfig;
use langevin::models::unet::UNetConfig;
use langevin::models::{AnyNet, Head, Model, ModelSpec, checkpoint};
use langevin::ops::noise::Noise;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder of its own.
pub struct Dir(TempDir);

impl Dir {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// With the runs of earlier versions, and what else is in `old`.
    pub fn of_old_runs() -> Self {
        let dir = Self::new();
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old"), &dir.path(""));
        dir
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the program in this folder on two threads.
    pub fn run(&self, args: &str) -> Ran {
        self.run_with(args, 2)
    }

    /// The same in the folder `name` of it.
    pub fn run_at(&self, name: &str, args: &str) -> Ran {
        self.run_in(self.path(name), args, 2)
    }

    /// Starts the program in this folder; its stdout and stderr are pipes.
    pub fn start(&self, args: &str) -> std::process::Child {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_langevin"));
        command.current_dir(self.0.path()).args(args.split_whitespace()).env("HF_HUB_OFFLINE", "1");
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    }

    pub fn run_with(&self, args: &str, threads: usize) -> Ran {
        self.run_in(self.path(""), args, threads)
    }

    fn run_in(&self, folder: PathBuf, args: &str, threads: usize) -> Ran {
        let mut command = Command::cargo_bin("langevin").unwrap();
        command.current_dir(folder).args(args.split_whitespace());
        let verb = args.split_whitespace().next().unwrap_or_default();
        if ["sample", "apply", "check", "bench", "eval", "detect", "look"].contains(&verb) {
            command.args(["--threads", &threads.to_string()]);
        }
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", self.path("home"));
        Ran::of(args, command.output().unwrap())
    }

    /// A model with random weights as `name`.
    pub fn model(&self, name: &str, spec: &ModelSpec, extra: &[(&str, String)]) -> PathBuf {
        self.save(name, spec, extra, Model::new(spec.clone(), 3, DType::F32, &Device::Cpu).unwrap())
    }

    /// The same with noise added to every weight: layers that start at zero have something to say, too.
    pub fn stirred(&self, name: &str, spec: &ModelSpec, extra: &[(&str, String)]) -> PathBuf {
        let model = Model::new(spec.clone(), 3, DType::F32, &Device::Cpu).unwrap();
        for (i, (_, var)) in model.vars().iter().enumerate() {
            let noise = Noise::seeds(&[i as u64]).normal((1, var.elem_count()), DType::F32, &Device::Cpu).unwrap();
            var.set(&(var.as_tensor() + (noise * 0.2).unwrap().reshape(var.shape()).unwrap()).unwrap()).unwrap();
        }
        self.save(name, spec, extra, model)
    }

    fn save(&self, name: &str, spec: &ModelSpec, extra: &[(&str, String)], model: Model) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let extra: BTreeMap<_, _> = extra.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
        checkpoint::save(&path, spec, &checkpoint::weights(&model), &extra).unwrap();
        path
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &to),
            false => assert!(std::fs::copy(&path, &to).is_ok()),
        }
    }
}

/// What the program did.
pub struct Ran {
    args: String,
    code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Of the program that was run with `args`.
    pub fn of(args: &str, out: std::process::Output) -> Self {
        Self {
            args: args.into(),
            code: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into(),
            stderr: String::from_utf8_lossy(&out.stderr).into(),
        }
    }

    pub fn code(&self) -> i32 {
        self.code
    }

    /// It must have worked; its stdout.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "langevin {}\n{}", self.args, self.stderr);
        &self.stdout
    }

    /// It must have failed with `code`, with one line on stderr that has all of `words`, and nothing on stdout.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        let Self { args, stdout, stderr, .. } = self;
        assert_eq!(self.code, code, "langevin {args}\n{stderr}");
        assert_eq!(stdout, "", "langevin {args}");
        let waited = |line: &str| line.ends_with(" left") || line.ends_with(" so far"); // on a busy machine
        let lines: Vec<_> = stderr.lines().filter(|line| !line.starts_with("warning:") && !waited(line)).collect();
        assert!(lines.len() == 1 && lines[0].starts_with("error: "), "langevin {args}\n{stderr}");
        for word in words {
            assert!(stderr.contains(word), "langevin {args}: no {word:?} in\n{stderr}");
        }
    }
}

pub fn spec(shape: &[usize], classes: Option<usize>, head: Head) -> ModelSpec {
    let net: AnyNet = match shape.len() {
        3 => UNetConfig { channels: vec![4, 8], attention: vec![], groups: Some(2), ..UNetConfig::default() }.into(),
        _ => MlpConfig { width: 8, layers: 1, dropout: 0. }.into(),
    };
    ModelSpec::energy(shape).head(head).net(net).classes(classes)
}

/// A denoiser of images as the first DDPM: what diffusers has a scheduler for.
pub fn ddpm(shape: &[usize]) -> ModelSpec {
    ModelSpec {
        process: AnyProcess::named("table").unwrap(),
        predict: AnyParametrisation::named("eps").unwrap(),
        sigma_data: 1.,
        normalised: false,
        from_zero: false,
        ..spec(shape, None, Head::Denoiser)
    }
}

pub fn write_tensors(path: &Path, tensors: &[(&str, Tensor)]) {
    let bytes = safetensors::serialize(tensors.iter().map(|(name, t)| (*name, t)), None).unwrap();
    std::fs::write(path, bytes).unwrap();
}

pub fn read_tensors(path: &Path) -> std::collections::HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

pub fn numbers(t: &Tensor) -> Vec<f64> {
    langevin::ops::shape::to_host(t).unwrap()
}

/// The largest difference; infinite if one is NaN.
#[track_caller]
pub fn off(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let worst = |top: f64, off: f64| if off.is_nan() { f64::INFINITY } else { top.max(off.abs()) };
    numbers(a).iter().zip(numbers(b)).map(|(a, b)| a - b).fold(0., worst)
}
