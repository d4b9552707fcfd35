//! `langevin apply`, on our models and on networks of diffusers: its numbers, and what it refuses.

#![allow(clippy::print_stdout)] // a line a case

mod common;

use candle_core::{DType, Device, Tensor};
use common::{Dir, off, read_tensors, spec, write_tensors};
use langevin::dynamics::{Cond, Denoiser};
use langevin::models::{Head, checkpoint};
use langevin::ops::noise::Noise;
use std::path::{Path, PathBuf};

fn input(dims: &[usize]) -> Tensor {
    Noise::seeds(&(0..dims[0] as u64).collect::<Vec<_>>()).normal(dims, DType::F32, &Device::Cpu).unwrap()
}

fn one_d(v: &[f64]) -> Tensor {
    Tensor::new(v, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
}

#[test]
fn the_views_of_a_model_agree() {
    let dir = Dir::new();
    let file = dir.model("m.safetensors", &spec(&[1, 8, 8], Some(3), Head::Energy), &[]);
    let (x, t) = (input(&[2, 1, 8, 8]), [0.3, 2.]);
    let labels = Tensor::new(&[2i64, 0], &Device::Cpu).unwrap();
    write_tensors(
        &dir.path("x.safetensors"),
        &[("sample", x.clone()), ("timestep", one_d(&t)), ("class_labels", labels)],
    );
    let args = "apply m.safetensors --input x.safetensors --output y.safetensors --what x0,eps,score,energy,output";
    assert_eq!(dir.run(args).ok(), "y.safetensors\n");
    let y = read_tensors(&dir.path("y.safetensors"));
    let (model, _) = checkpoint::load(&file, DType::F32, &Device::Cpu).unwrap();
    let cond = Cond::class(Tensor::new(&[2u32, 0], &Device::Cpu).unwrap());
    let m = model.denoiser(cond.clone()).unwrap();
    assert!(off(&y["x0"], &m.x0(&x, &[t[0] as f32 as f64, 2.]).unwrap()) < 1e-5);
    assert!(off(&y["energy"], &model.energy(&x, &[t[0] as f32 as f64, 2.], &cond).unwrap()) < 1e-3);
    // x = x0 + sigma eps, score = -eps / sigma, with sigma = t under edm
    for (i, sigma) in t.into_iter().enumerate() {
        let at = |name: &str| y[name].get(i).unwrap();
        let back = (at("x0") + (at("eps") * sigma).unwrap()).unwrap();
        assert!(off(&back, &x.get(i).unwrap()) < 1e-5);
        assert!(off(&(at("score") * -sigma).unwrap(), &at("eps")) < 1e-4);
    }
    assert_eq!(y["output"].dims(), x.dims());
}

#[test]
fn each_mistake_is_one_sentence() {
    let dir = Dir::new();
    dir.model("m.safetensors", &spec(&[1, 8, 8], None, Head::Denoiser), &[]);
    dir.model("c.safetensors", &spec(&[1, 8, 8], Some(3), Head::Energy), &[]);
    let apply = |model: &str, what: &str| {
        dir.run(&format!("apply {model}.safetensors --input x.safetensors --output y.safetensors --what {what}"))
    };
    apply("m", "x0").fails(2, &["x.safetensors", "no such file"]);
    std::fs::write(dir.path("x.safetensors"), "no tensors").unwrap();
    apply("m", "x0").fails(1, &["x.safetensors"]);
    let give = |tensors: &[(&str, Tensor)]| write_tensors(&dir.path("x.safetensors"), tensors);
    let (x, t) = (input(&[2, 1, 8, 8]), one_d(&[0.5]));
    give(&[("samples", x.clone())]);
    apply("m", "x0").fails(1, &["`sample`", "samples"]);
    give(&[("sample", x.to_dtype(DType::U8).unwrap())]);
    apply("m", "x0").fails(1, &["U8", "f32"]);
    give(&[("sample", input(&[2, 3, 8, 8])), ("timestep", t.clone())]);
    apply("m", "x0").fails(1, &["[2, 3, 8, 8]", "[B, 1, 8, 8]"]);
    give(&[("sample", x.clone())]);
    apply("m", "x0").fails(1, &["timestep"]);
    give(&[("sample", x.clone()), ("timestep", one_d(&[1., 2., 3.]))]);
    apply("m", "x0").fails(1, &["3 numbers", "batch of 2"]);
    give(&[("sample", x.clone()), ("timestep", one_d(&[1., 1e9]))]);
    apply("m", "x0").fails(1, &["1000000000", "process"]);
    give(&[("sample", x.clone()), ("timestep", t.clone())]);
    apply("m", "energy").fails(1, &["denoiser", "energy"]);
    apply("m", "colour").fails(2, &["colour", "x0"]);
    apply("m", "score --energy cubic").fails(2, &["cubic", "residual"]);
    apply("m", "x0 --energy residual").fails(2, &["x0"]);
    apply("c", "x0").fails(1, &["class_labels", "0 to 2"]);
    give(&[("sample", x.clone()), ("timestep", t.clone()), ("class_labels", one_d(&[3.]))]);
    apply("c", "x0").fails(1, &["class 3", "0 to 2"]);
    apply("m", "x0").fails(1, &["without classes"]);
    give(&[("sample", x), ("timestep", t)]);
    let to = "apply m.safetensors --input x.safetensors --what x0 --output";
    dir.run(&format!("{to} no/y.safetensors")).fails(1, &["no folder"]);
    #[cfg(target_os = "linux")]
    dir.run(&format!("{to} /dev/full")).fails(1, &["/dev/full", "space"]);
    assert!(!dir.path("y.safetensors").exists());
}

/// Folders of reference cases of a family: `$LANGEVIN_REFERENCE/FAMILY`, or the copies kept with the models.
fn cases(family: &str) -> Vec<PathBuf> {
    let copies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/reference");
    let root = std::env::var_os("LANGEVIN_REFERENCE").map_or(copies, PathBuf::from).join(family);
    let mut found: Vec<_> = std::fs::read_dir(&root)
        .unwrap_or_else(|e| panic!("{}: {e}", root.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").exists() || path.join("unet").exists())
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no cases in {}", root.display());
    found
}

#[test]
fn networks_of_diffusers_give_their_output() {
    let dir = Dir::new();
    let mut checked = 0;
    for case in cases("unet") {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let io = case.join("io.safetensors");
        if !io.exists() {
            continue;
        }
        let args = format!("apply {} --input {} --output y.safetensors", case.display(), io.display());
        let ran = dir.run(&args);
        if ran.stderr.contains("not supported") {
            println!("{name}: {}", ran.stderr.trim());
            continue;
        }
        ran.ok();
        let expected = &read_tensors(&io)["output"];
        let largest = common::numbers(expected).iter().fold(0f64, |m, v| m.max(v.abs()));
        let error = off(&read_tensors(&dir.path("y.safetensors"))["output"], expected) / largest;
        println!("{name}: {error:.1e}");
        assert!(error < 1e-4, "{name}: {error}");
        checked += 1;
    }
    assert!(checked > 0);
}

#[test]
fn networks_of_diffusers_are_energies_in_each_form() {
    let dir = Dir::new();
    let mut checked = 0;
    for case in cases("energy") {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let Some(form) = ["residual", "inner-product", "squared-norm"].into_iter().find(|form| name.ends_with(form))
        else {
            println!("{name}: the name ends in no form");
            continue;
        };
        let io = read_tensors(&case.join("io.safetensors"));
        for (dtype, most) in [(DType::F64, 1e-8), (DType::F32, 1e-3)] {
            let x = io["sample"].to_dtype(dtype).unwrap();
            write_tensors(&dir.path("x.safetensors"), &[("sample", x), ("timestep", io["timestep"].clone())]);
            let args = format!(
                "apply {} --input x.safetensors --output y.safetensors --what energy,score --energy {form}",
                case.display()
            );
            dir.run(&args).ok();
            let y = read_tensors(&dir.path("y.safetensors"));
            for what in ["energy", "score"] {
                let largest = common::numbers(&io[what]).iter().fold(0f64, |m, v| m.max(v.abs()));
                let error = off(&y[what], &io[what]) / largest;
                println!("{name} {what} {dtype:?}: {error:.1e}");
                assert!(error < most, "{name} {what} {dtype:?}: {error}");
            }
        }
        checked += 1;
    }
    assert!(checked > 0);
}
