//! `langevin train` from a model that is there already.

mod common;

use common::{Dir, ddpm, off, read_tensors, spec, write_tensors};
use langevin::models::{Head, ModelSpec};
use std::fs;

/// A folder with `denoiser.safetensors`, and the same as `folder`, which diffusers could have written.
fn folder() -> Dir {
    let dir = Dir::new();
    dir.model("denoiser.safetensors", &ddpm(&[1, 28, 28]), &[]);
    dir.run("export denoiser.safetensors folder").ok();
    let weights = dir.path("folder/unet/diffusion_pytorch_model.safetensors");
    let tensors = read_tensors(&weights);
    write_tensors(&weights, &tensors.iter().map(|(name, t)| (name.as_str(), t.clone())).collect::<Vec<_>>());
    dir
}

const TINY: &str = "train.batch=2 train.log_every=1 sampler.steps=2";

#[test]
fn a_denoiser_of_diffusers_trains_on_with_its_weights_process_and_loss() {
    let dir = folder();
    let args =
        format!("train digits --out run model.from=folder model.head=denoiser {TINY} train.steps=1 train.lr=1e-9");
    let ran = dir.run(&args);
    assert!(!ran.ok().contains("relative error") && ran.stderr.contains("weights of folder"), "{}", ran.stderr);
    let (before, after) = (dir.path("denoiser.safetensors"), dir.path("run/model.safetensors"));
    let (before, after) = (read_tensors(&before), read_tensors(&after));
    assert_eq!(before.len(), after.len());
    assert!(before.iter().all(|(name, t)| off(t, &after[name]) < 1e-6));
    let config = fs::read_to_string(dir.path("run/config.toml")).unwrap();
    for line in ["distil = 0", "channels = [4, 8]", "name = \"table\"", "name = \"eps\"", "unit-eps", "discrete"] {
        assert!(config.contains(line), "no {line:?} in\n{config}");
    }
    // the file that it wrote is a configuration that means the same
    let again = dir.run("train run/config.toml --dry-run");
    assert_eq!(again.ok(), config);
}

#[test]
fn an_energy_first_learns_the_score_and_says_how_far_it_is() {
    let dir = folder();
    let ran = dir.run(&format!("train digits --out run model.from=folder {TINY} train.steps=8 train.lr=3e-3"));
    let said = ran.ok();
    assert!(said.contains("score at step 0, by sigma/alpha:") && said.contains("score at step 2, by sigma/alpha:"));
    let rows: Vec<Vec<f64>> = said
        .lines()
        .filter(|line| line.starts_with("  "))
        .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
        .collect();
    assert!(rows.len() == 4 && rows.iter().all(|row| row.len() == 8), "{said}");
    assert_eq!(rows[0], rows[2], "levels");
    assert_ne!(rows[1], rows[3], "errors");
    let log = fs::read_to_string(dir.path("run/log.jsonl")).unwrap();
    assert_eq!(log.matches("score_error_by_log_sigma").count(), 2, "{log}");
    assert!(fs::read_to_string(dir.path("run/config.toml")).unwrap().contains("distil = 2"), "a quarter of the steps");
    dir.run("sample run -n 2 sampler.steps=2 --out a.png").ok();
    // an energy of ours goes on as it is
    let more = dir.run(&format!("train digits --out more model.from=run {TINY} train.steps=1"));
    assert!(!more.ok().contains("relative error"));
    let config = fs::read_to_string(dir.path("more/config.toml")).unwrap();
    assert!(config.contains("distil = 0") && config.contains("discrete"), "its loss too:\n{config}");
}

#[test]
fn a_variance_exploding_model_keeps_its_range() {
    let dir = folder();
    let scheduler = r#"{"_class_name": "ScoreSdeVeScheduler", "sigma_max": 20.0}"#;
    fs::write(dir.path("folder/scheduler/scheduler_config.json"), scheduler).unwrap();
    dir.run(&format!("train digits --out run model.from=folder model.head=denoiser {TINY} train.steps=1")).ok();
    let config = fs::read_to_string(dir.path("run/config.toml")).unwrap();
    assert!(config.contains("from_zero = true") && config.contains("sigma_max = 20.0"), "{config}");
    // told so by the model alone, as it was by the scheduler
    let drawn = |args: &str| {
        dir.run(&format!("sample {args} -n 1 sampler.name=euler sampler.steps=3 sampler.grid=karras --npz a.npz")).ok();
        fs::read(dir.path("a.npz")).unwrap()
    };
    dir.run(&format!(
        "train digits --out same model.from=folder model.head=denoiser {TINY} train.steps=1 train.lr=1e-30"
    ))
    .ok();
    assert!(drawn("folder") == drawn("same"));
}

#[test]
fn label_dropout_makes_a_null_class() {
    let dir = Dir::new();
    let small = "train.batch=8 model.net.width=8 model.net.layers=1 train.steps=2";
    dir.run(&format!("train toy:two-moons --out run model.conditional=true train.label_dropout=0.2 {small}")).ok();
    assert!(dir.run("info run").ok().contains("2, and none"));
    dir.run("sample run --class none -n 2 sampler.steps=2").ok();
    dir.run("sample run --class 1 --guidance 2 -n 2 sampler.steps=2").ok();
    // what starts from it hides classes as often
    let more = dir.run(&format!("train toy:two-moons --out more model.from=run {small}"));
    assert!(!more.ok().contains("relative error") && !more.stderr.contains("start fresh"), "{}", more.stderr);
    assert!(fs::read_to_string(dir.path("more/config.toml")).unwrap().contains("label_dropout = 0.2"));
    dir.run("train toy:two-moons --out no train.label_dropout=0.1").fails(2, &["label_dropout", "conditional = true"]);
    // what no data can make right is found without them
    for (changes, words) in [
        ("model.predict=eps model.form=noise-norm", ["noise-norm", "edm"]),
        ("model.normalised=true loss.time=0", ["loss.time = 0", "model.normalised = true"]),
        ("loss.time=0.01", ["loss.time = 0.01", "model.normalised = false"]),
        ("model.head=denoiser model.normalised=true loss.time=0.01", ["normalised", "head"]),
        ("model.normalised=true loss.time=0.01 train.second_order=finite-difference", ["loss.time", "exact"]),
    ] {
        dir.run(&format!("train toy:two-moons --dry-run {changes}")).fails(2, &words);
    }
    dir.run("train toy:two-moons --out no model.conditional=true train.label_dropout=1").fails(2, &["below 1"]);
}

#[test]
fn changes_have_the_last_word() {
    let dir = folder();
    let inside = "process={name=\"edm\",sigma_min=0.02,sigma_max=100.0}";
    let ran =
        dir.run(&format!("train digits --out edm model.from=folder model.predict=edm {inside} {TINY} train.steps=4"));
    assert!(ran.ok().contains("score at step 1") && ran.ok().contains("0.020"), "{}", ran.stdout);
    let ran =
        dir.run(&format!("train digits --out wide model.from=folder model.net.channels=[8,8] {TINY} train.steps=4"));
    assert!(ran.ok().contains("score at step 1"), "another network learns the output from fresh weights");
    assert!(ran.stderr.contains("start fresh"), "{}", ran.stderr);
    let said = dir.run("train digits model.from=folder train.distil=7 loss.weight=edm --dry-run").ok().to_string();
    assert!(said.contains("distil = 7") && said.contains("name = \"edm\"") && said.contains("name = \"discrete\""));
    // a file that names it has the last word, too
    let text = "[data]\nspec = \"digits\"\n[model]\nfrom = \"folder\"\npredict = \"v\"\nnet = \"unet\"\n";
    fs::write(dir.path("mine.toml"), text).unwrap();
    let said = dir.run("train mine.toml --dry-run").ok().to_string();
    assert!(said.contains("name = \"v\"") && said.contains("name = \"table\""), "{said}");
    let told = dir.run("train digits model.from=folder process=vp --dry-run").ok().to_string();
    assert!(told.contains("name = \"vp\"") && !told.contains("beta_schedule"), "{told}");
}

#[test]
fn each_mistake_is_one_sentence_and_leaves_no_run() {
    let dir = folder();
    dir.run("train digits --resume runs/digits")
        .fails(2, &["digits", "leave it out: langevin train --resume runs/digits"]);
    dir.model("points.safetensors", &spec(&[2], None, Head::Energy), &[]);
    dir.model("colour.safetensors", &ddpm(&[3, 28, 28]), &[]);
    dir.model("classes.safetensors", &ModelSpec { classes: Some(3), ..ddpm(&[1, 28, 28]) }, &[]);
    for (change, code, words) in [
        ("model.from=nowhere", 2, vec!["model.from", "nowhere"]),
        ("model.from=points.safetensors", 1, vec!["[2]"]),
        ("model.from=colour.safetensors", 1, vec!["[3, 28, 28]", "[1, 28, 28]"]),
        ("model.from=classes.safetensors train.distil=4", 1, vec!["3 classes", "train.distil=0"]),
        ("model.from=folder process=edm model.predict=edm", 1, vec!["0.0100", "process"]),
        ("model.from=folder train.distil=9 train.steps=8", 2, vec!["train.distil", "8"]),
        ("model.from=folder train.distil=-1", 2, vec!["train.distil"]),
        ("model.from=folder model.from_zero=true", 1, vec!["from_zero"]),
        ("model.from=3", 2, vec!["from"]),
    ] {
        let ran = dir.run(&format!("train digits --out run {change}"));
        let said: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("error")).collect();
        assert_eq!((ran.code(), said.len()), (code, 1), "{change}: {}", ran.stderr);
        assert!(words.iter().all(|word| said[0].contains(word)), "{change}: {said:?}");
        assert!(!dir.path("run").exists(), "{change}");
    }
}

/// What the first line of a table is, as it is decided and as the user says; it stays so for the run.
#[test]
fn the_first_line_of_a_table_is_names_or_a_row() {
    let dir = Dir::new();
    let rows: String = (0..30).map(|i| format!("{},{}\n", 2000 + i % 7, 2010 + i % 5)).collect();
    fs::write(dir.path("years.csv"), format!("2003,2012\n{rows}")).unwrap();
    let args = "model.net.width=8 model.net.layers=1 train.steps=2 train.batch=4 sampler.steps=2";
    let ran = dir.run(&format!("train toy --data years.csv --out row {args}"));
    ran.ok();
    assert!(ran.stderr.contains("(2003, 2012) is read as a row of numbers; data.header=true"), "{}", ran.stderr);
    let ran = dir.run(&format!("train toy --data years.csv --out names {args} data.header=true"));
    ran.ok();
    assert!(!ran.stderr.contains("data.header"), "{}", ran.stderr);
    for (run, names, n) in [("row", "1,2", 31), ("names", "2003,2012", 30)] {
        let facts = fs::read_to_string(dir.path(&format!("{run}/data.json"))).unwrap();
        let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
        assert_eq!(facts["samples"], n);
        dir.run(&format!("sample {run} -n 3 --out s.csv sampler.steps=2")).ok();
        assert_eq!(fs::read_to_string(dir.path("s.csv")).unwrap().lines().next(), Some(names));
        dir.run(&format!("train --resume {run} train.steps=3")).ok();
    }
    dir.run("train digits --out no data.header=true").fails(2, &["data.header", "digits"]);
    dir.run("train toy --data years.csv --out no data.header=maybe").fails(2, &["data.header"]);
}
