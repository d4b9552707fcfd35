//! Runs of the program as it was, in `old`, open, draw and go on with the numbers that they had then.

mod common;

use common::{Dir, numbers, off, read_tensors};
use serde_json::Value;
use std::fs;

/// What another CPU may make of a number.
const NEAR: f64 = 1e-4;

/// What `run` says of `asked.safetensors` must be what `told` holds.
#[track_caller]
fn says(dir: &Dir, run: &str, told: &str) {
    let args = format!("apply {run} --input asked.safetensors --output now.safetensors --what x0,score,energy");
    dir.run(&args).ok();
    let (now, then) = (read_tensors(&dir.path("now.safetensors")), read_tensors(&dir.path(told)));
    assert_eq!(then.len(), 3);
    for (name, then) in &then {
        let largest = numbers(then).into_iter().map(f64::abs).fold(1., f64::max);
        let off = off(&now[name], then);
        assert!(off < NEAR * largest, "{run}, {name}: {off} of {largest}");
    }
}

/// All numbers in a line of a log but the times, in order.
fn logged(line: &Value, found: &mut Vec<f64>) {
    match line {
        Value::Object(line) => {
            line.iter().filter(|(key, _)| *key != "images_per_s").for_each(|(_, v)| logged(v, found))
        }
        Value::Array(all) => all.iter().for_each(|v| logged(v, found)),
        number => found.push(number.as_f64().unwrap()),
    }
}

/// The last lines in the log of `run` must be those of `later`.
#[track_caller]
fn went_on(dir: &Dir, run: &str, later: &str) {
    let lines = |file: &str| -> Vec<Value> {
        let text = fs::read_to_string(dir.path(file)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (now, then) = (lines(&format!("{run}/log.jsonl")), lines(later));
    for (now, then) in now[now.len() - then.len()..].iter().zip(&then) {
        let (mut of_now, mut of_then) = (vec![], vec![]);
        logged(now, &mut of_now);
        logged(then, &mut of_then);
        assert_eq!(of_now.len(), of_then.len(), "{now} {then}");
        for (a, b) in of_now.iter().zip(&of_then) {
            assert!((a - b).abs() < NEAR * b.abs().max(1.), "{a}, not {b}, in {now}");
        }
    }
}

/// A normalised energy of classes with a null class, trained with walkers, its levels by importance, its average a power.
#[test]
fn a_density_opens_draws_and_goes_on() {
    let dir = Dir::of_old_runs();
    assert!(dir.run("info density").ok().contains("2: left, right, and none"));
    says(&dir, "density", "density.safetensors");
    dir.run("sample density --seeds 0-3 --class left --guidance 2 --npz now.npz").ok();
    let drawn = |file: &str| candle_core::Tensor::read_npz_by_name(dir.path(file), &["arr_0"]).unwrap().remove(0);
    let levels = |file: &str| drawn(file).flatten_all().unwrap().to_vec1::<u8>().unwrap();
    let (now, then) = (levels("now.npz"), levels("drawn.npz"));
    assert!(now.len() == then.len() && now.iter().zip(&then).all(|(a, b)| a.abs_diff(*b) <= 1), "{now:?} {then:?}");
    let ran = dir.run("train --resume density --data imgs train.steps=48 train.log_every=2");
    assert!(ran.ok().contains("resumed at step 40"));
    went_on(&dir, "density", "density-later.jsonl");
    says(&dir, "density", "density-later.safetensors");
}

/// A run that was killed while it learnt the output of the model above: it needs its teacher again, and lets it go.
#[test]
fn a_distillation_goes_on_where_it_was() {
    let dir = Dir::of_old_runs();
    says(&dir, "distilled", "distilled.safetensors");
    let config = dir.path("distilled/config.toml");
    let moved = fs::read_to_string(&config).unwrap().replace("/data/density", &dir.path("density").to_string_lossy());
    fs::write(&config, moved).unwrap();
    let ran = dir.run("train --resume distilled --data imgs sampler.steps=2");
    assert!(ran.ok().contains("resumed at step 2") && ran.stdout.contains("score at step 4"), "{}", ran.stdout);
    went_on(&dir, "distilled", "distilled-later.jsonl");
    says(&dir, "distilled", "distilled-later.safetensors");
}
