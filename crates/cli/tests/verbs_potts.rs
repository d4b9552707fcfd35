//! An RBM whose visible units have several states, from the command line: tables of integers, and images of few grey levels.

mod common;

use common::Dir;
use serde_json::Value;

/// Rows of integers 0 to 3, in which `b` is `a` turned over and `c` is on its own.
fn rows(n: usize) -> String {
    let row = |i: usize| format!("{},{},{}\n", i % 4, 3 - i % 4, i / 4 % 3);
    format!("a,b,c\n{}", (0..n).map(row).collect::<String>())
}

#[test]
fn tables_of_integers_are_drawn_as_tables() {
    let dir = Dir::new();
    std::fs::write(dir.path("rows.csv"), rows(60)).unwrap();
    let small = "model.states=4 model.hidden=8 train.steps=3000 train.batch=20 train.sample_every=0 train.lr=0.1 \
                 sampler.steps=200";
    dir.run(&format!("train rbm-potts --data rows.csv {small} --out table")).ok();
    let info = dir.run("info table");
    for words in ["3 of integers 0 to 3", "visible = \"potts\"", "states = 4", "a, b, c"] {
        assert!(info.ok().contains(words), "{words} in {}", info.stdout);
    }
    // its configuration is that of the run, and is taken again
    let again = dir.run("train table/config.toml --dry-run");
    assert_eq!(again.ok().trim_end(), std::fs::read_to_string(dir.path("table/config.toml")).unwrap().trim_end());
    dir.run("train --resume table train.steps=3002").ok();
    dir.run("sample table -n 400 --out drawn.csv").ok();
    let drawn = std::fs::read_to_string(dir.path("drawn.csv")).unwrap();
    let (head, lines) = drawn.split_once('\n').unwrap();
    assert_eq!(head, "a,b,c");
    let cells: Vec<Vec<usize>> =
        lines.lines().map(|row| row.split(',').map(|cell| cell.parse().unwrap()).collect()).collect();
    assert!(cells.iter().flatten().all(|&cell| cell < 4));
    let like = cells.iter().filter(|row| row[0] + row[1] == 3 && row[2] < 3).count();
    assert!(cells.len() == 400 && like > 300, "{like} of {}", cells.len());
    // likelihoods, from both sides and exact
    let ran = dir.run("eval ais table --data rows.csv --rungs 300 --particles 100 --reverse 20 --json a.json");
    assert!(ran.ok().contains("log Z, exact") && ran.stdout.contains("log Z, reverse"), "{}", ran.stdout);
    let found: Value = serde_json::from_slice(&std::fs::read(dir.path("a.json")).unwrap()).unwrap();
    let number = |path: &str| found.pointer(path).and_then(Value::as_f64).unwrap();
    let (value, error, exact) = (number("/found/log_z/value"), number("/found/log_z/error"), number("/found/exact"));
    assert!((value - exact).abs() < 4. * error.max(1e-2), "{value} +- {error} for {exact}");
    // ln 12 is what is not known of a row
    assert!((number("/found/mean") + 12f64.ln()).abs() < 1., "{}", number("/found/mean"));
    // rows that break the rule have more energy
    std::fs::write(dir.path("off.csv"), "a,b,c\n0,0,0\n3,3,1\n1,1,3\n2,0,3\n").unwrap();
    dir.run("eval ood table --data rows.csv --ood off.csv --fit-samples 30 --json o.json").ok();
    let found: Value = serde_json::from_slice(&std::fs::read(dir.path("o.json")).unwrap()).unwrap();
    let line = found["table"].as_array().unwrap().iter().find(|line| line["score"] == "energy").unwrap();
    assert!(line["auroc"]["value"].as_f64().unwrap() > 0.95, "{line}");
    dir.run("detect table off.csv --fit-samples 30 --held-out-samples 20 --scores energy --out d.csv").ok();
    for (cell, how) in [("4", "row 2, column b is 4"), ("1.5", "row 2, column b is 1.5")] {
        std::fs::write(dir.path("other.csv"), format!("a,b,c\n0,1,1\n1,{cell},0\n")).unwrap();
        dir.run("train rbm-potts --data other.csv model.states=4 --out other").fails(1, &[how, "integers 0 to 3"]);
        assert!(!dir.path("other").exists(), "a mistake leaves no folder");
        dir.run("eval ais table --data other.csv").fails(2, &[how]);
    }
}

fn pixels(path: &std::path::Path) -> (u32, Vec<u8>) {
    let picture = image::open(path).unwrap().to_luma8();
    (picture.width(), picture.into_raw())
}

#[test]
fn images_of_few_greys_are_learnt_and_completed() {
    let dir = Dir::new();
    let small = "model.states=4 model.hidden=12 train.steps=30 train.batch=20 train.sample_every=0 \
                 loss.persistent=10 sampler.steps=20";
    dir.run(&format!("train rbm-potts {small} --out greys --threads 2")).ok();
    for file in ["samples/step-30.png", "samples/filters-step-30.png"] {
        assert!(dir.path("greys").join(file).is_file(), "{file}");
    }
    dir.run("sample greys -n 3 --npz s.npz").ok();
    let all = candle_core::Tensor::read_npz(dir.path("s.npz")).unwrap();
    let levels = &all.iter().find(|(name, _)| name == "arr_0").unwrap().1;
    let levels = levels.flatten_all().unwrap().to_vec1::<u8>().unwrap();
    assert!(levels.iter().all(|level| [0, 85, 170, 255].contains(level)) && levels.contains(&170));
    for way in ["tempering sampler.rungs=4 sampler.sweeps=5", "annealed-mcmc sampler.rungs=6"] {
        dir.run(&format!("sample greys -n 2 --out w.png sampler.name={way}")).ok();
    }
    dir.run("inpaint greys --data digits:test -n 1 --mask half --out half.png").ok();
    let (width, all) = pixels(&dir.path("half.png"));
    let at = |column: u32, x: u32, y: u32| all[((4 + 3 * y) * width + 4 + column * 88 + 3 * x) as usize];
    let every = || (0..28).flat_map(|y| (0..28).map(move |x| (x, y)));
    for (x, y) in every() {
        let [picture, seen, drawn] = [0, 1, 2].map(|column| at(column, x, y));
        assert!([picture, drawn].iter().all(|grey| [0, 85, 170, 255].contains(grey)));
        assert!(if x < 14 { seen == picture && drawn == picture } else { seen == 128 });
    }
    assert!(every().any(|(x, y)| at(2, x, y) != at(0, x, y)));
    let ran = dir.run("eval ais greys --data digits:test -n 20 --rungs 100 --particles 10 --reverse 4");
    assert!(ran.ok().contains("log Z, exact"), "{}", ran.stdout);
    dir.run("look filters greys").ok();
}

#[test]
fn options_that_mean_nothing_are_refused() {
    let dir = Dir::new();
    for (args, words) in [
        ("train rbm-digits model.visible=potts", &["states", "is missing", "2 to 256"][..]),
        ("train rbm-digits model.visible=potts model.states=4", &["data.binarise", "rbm-potts"]),
        ("train rbm-digits model.states=4", &["states", "is 4", "bernoulli"]),
        ("train rbm-gaussian model.states=4", &["states", "is 4", "gaussian"]),
        ("train rbm-potts model.visible=gaussian", &["states", "is 8", "gaussian"]),
        ("train rbm-potts model.states=1", &["states", "is 1", "2 to 256"]),
        ("train rbm-potts model.states=257", &["states", "is 257", "2 to 256"]),
        ("train rbm-potts model.states=many", &["states", "whole number", "many"]),
        ("train rbm-potts model.visible=poisson", &["visible", "poisson", "potts"]),
        ("train rbm-potts data.binarise=sample", &["data.binarise", "integers 0 to 7"]),
        ("train rbm-potts data.dequantise=true", &["data.dequantise"]),
        ("train rbm-potts loss.kernel=mala", &["loss.kernel mala"]),
    ] {
        dir.run(args).fails(2, words);
    }
    let listed = dir.run("list presets");
    assert!(listed.ok().contains("rbm-potts"), "{}", listed.stdout);
}
