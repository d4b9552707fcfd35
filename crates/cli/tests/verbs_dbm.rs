//! A deep Boltzmann machine from the command line: trained, stopped and gone on with, drawn from, completed and weighed.

mod common;

use common::Dir;

const SMALL: &str = "train.batch=20 train.sample_every=0 train.snapshot_every=0 loss.persistent=10";

/// A small machine of the digits, trained for a moment.
fn dbm(dir: &Dir, layers: &str, out: &str) {
    let steps = "train.steps=24 loss.pretrain=6 sampler.steps=20";
    let ran = dir.run(&format!("train dbm-mnist --data digits model.layers={layers} {SMALL} {steps} --out {out}"));
    assert!(ran.ok().contains(&format!("model: {out}/model.safetensors")), "{}", ran.stdout);
}

fn figures(dir: &Dir, file: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(dir.path(file)).unwrap()).unwrap()
}

#[test]
fn a_deep_machine_is_a_model_as_others_are() {
    let dir = Dir::new();
    dbm(&dir, "[12,14]", "dbm");
    let info = dir.run("info dbm");
    for words in ["1 x 28 x 28 of bits", "dbm, ", "24 of 24 steps", "layers = [", "pretrain = 6"] {
        assert!(info.ok().contains(words), "{words} in {}", info.stdout);
    }
    let arrays = |args: &str| {
        dir.run(&format!("sample dbm --npz s.npz {args}")).ok();
        let all = candle_core::Tensor::read_npz(dir.path("s.npz")).unwrap();
        let levels = &all.iter().find(|(name, _)| name == "arr_0").unwrap().1;
        levels.flatten_all().unwrap().to_vec1::<u8>().unwrap()
    };
    for way in ["mcmc", "tempering sampler.rungs=4 sampler.sweeps=5", "annealed-mcmc sampler.rungs=6"] {
        let (all, one) = (
            arrays(&format!("--seeds 0-4 --batch 5 sampler.name={way}")),
            arrays(&format!("--seeds 3 sampler.name={way}")),
        );
        assert_eq!(all.len(), 5 * 784, "latent units are no pixels");
        assert!(all.iter().all(|&level| level == 0 || level == 255) && all[3 * 784..4 * 784] == one);
    }
    dir.run("inpaint dbm --data digits:test -n 2 --mask half --out half.png").ok();
    dir.run("look filters dbm --out filters.png").ok();
    let ran = dir.run("detect dbm noise:uniform --fit-samples 60 --held-out-samples 100 --scores energy --out d.csv");
    ran.ok();
    let table = std::fs::read_to_string(dir.path("d.csv")).unwrap();
    assert!(table.lines().skip(1).all(|line| line.ends_with(",1")), "all are flagged");
}

/// log p is a bound where latent units are many, and the sum where they are few.
#[test]
fn a_bound_is_called_a_bound() {
    let dir = Dir::new();
    for (layers, out, bound) in [("[12,14]", "many", true), ("[12,3]", "few", false)] {
        dbm(&dir, layers, out);
        let ran = dir.run(&format!(
            "eval ais {out} --data digits:test -n 30 --rungs 300 --particles 40 --reverse 20 --json a.json"
        ));
        assert!(ran.ok().contains("log Z, exact"), "{}", ran.stdout);
        assert_eq!(ran.stdout.contains("log p, bound") && ran.stdout.contains("a bound of the mean"), bound);
        assert_eq!(ran.stdout.contains("mean log p"), !bound, "{}", ran.stdout);
        let found = figures(&dir, "a.json");
        let number = |path: &str| found.pointer(path).and_then(serde_json::Value::as_f64).unwrap();
        assert_eq!(found["found"]["bound"].as_bool(), Some(bound));
        let (value, error, exact) =
            (number("/found/log_z/value"), number("/found/log_z/error"), number("/found/exact"));
        assert!((value - exact).abs() < 5. * error.max(1e-3), "{value} +- {error} for {exact}");
        let back = |path: &str| number(&format!("/found/reverse/{path}"));
        let error = back("log_z/error").hypot(error);
        assert!((back("log_z/value") - exact).abs() < 1. + 4. * error, "{found}");
        let apart = back("upper/value") - back("lower/value") - (back("log_z/value") - value);
        assert!(apart.abs() < 1e-9, "{apart}");
    }
}

/// Stopped in any phase and gone on with, a run ends with the same weights.
#[test]
fn a_run_goes_on_in_every_phase() {
    let dir = Dir::new();
    let train = |out: &str, steps: u64, every: u64| {
        let phases = format!("train.steps={steps} loss.pretrain=4 train.checkpoint_every={every} train.decay=constant");
        dir.run(&format!("train dbm-mnist --data digits model.layers=[6,5] {SMALL} {phases} --out {out}")).ok();
    };
    train("whole", 12, 12);
    let weights = |out: &str| {
        let all =
            candle_core::safetensors::load(dir.path(out).join("model.safetensors"), &candle_core::Device::Cpu).unwrap();
        let numbers = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        all.iter().map(|(name, t)| (name.clone(), numbers(t))).collect::<std::collections::BTreeMap<_, _>>()
    };
    for stop in [3, 6, 10] {
        let out = format!("cut{stop}");
        train(&out, stop.max(4), stop);
        dir.run(&format!("train --resume {out} train.steps=12")).ok();
        assert!(weights("whole") == weights(&out), "stopped after {stop}");
    }
}

#[test]
fn tables_of_bits_are_learnt() {
    let dir = Dir::new();
    let rows: String = (0..60).map(|i| format!("{0},{0},{1}\n", i % 2, i / 2 % 2)).collect();
    std::fs::write(dir.path("bits.csv"), format!("a,b,c\n{rows}")).unwrap();
    let small = "model.layers=[4,3] train.steps=3000 train.sample_every=0 train.snapshot_every=0 loss.pretrain=500 train.lr=0.2";
    dir.run(&format!(
        "train dbm-mnist --data bits.csv {small} train.batch=20 loss.persistent=20 sampler.steps=50 --out table"
    ))
    .ok();
    dir.run("sample table -n 100 --out drawn.csv").ok();
    let drawn = std::fs::read_to_string(dir.path("drawn.csv")).unwrap();
    let like = drawn.lines().skip(1).filter(|row| row.starts_with("0,0,") || row.starts_with("1,1,")).count();
    assert!(like > 70, "{drawn}");
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = Dir::new();
    for (change, words) in [
        ("model.layers=[500]", "family rbm"),
        ("model.layers=[500,0]", "layers"),
        ("model.hidden=3", "hidden"),
        ("loss.pretrain=0", "loss.pretrain is 0"),
        ("loss.pretrain=90001", "90000"),
        ("model.mean_field=0", "mean_field"),
        ("loss.kernel=mala", "mala"),
    ] {
        dir.run(&format!("train dbm-mnist --data digits {change} --out run")).fails(2, &[words]);
    }
    dir.run("train rbm-digits loss.pretrain=10 --out run").fails(2, &["several layers"]);
    assert!(!dir.path("run").exists(), "a mistake leaves no folder");
}
