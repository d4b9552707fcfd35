//! Densities of a family from the command line: an RBM trained, looked at, drawn from, completed and weighed.

mod common;

use common::Dir;
use std::path::Path;

/// A small RBM of the digits, trained for a moment.
fn rbm(dir: &Dir) {
    let small =
        "model.hidden=12 train.steps=30 train.batch=20 train.sample_every=0 loss.persistent=10 sampler.steps=20";
    let ran = dir.run(&format!("train rbm-digits {small} --out rbm --threads 2"));
    assert!(ran.ok().contains("model: rbm/model.safetensors"), "{}", ran.stdout);
}

fn pixels(path: &Path) -> (u32, u32, Vec<u8>) {
    let picture = image::open(path).unwrap().to_luma8();
    (picture.width(), picture.height(), picture.into_raw())
}

#[test]
fn a_run_leaves_weights_samples_filters_and_a_log() {
    let dir = Dir::new();
    rbm(&dir);
    for file in ["model.safetensors", "config.toml", "data.json", "samples/step-30.png", "samples/filters-step-30.png"]
    {
        assert!(dir.path("rbm").join(file).is_file(), "{file}");
    }
    let log = std::fs::read_to_string(dir.path("rbm/log.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    for key in ["loss", "energy_data", "energy_chains", "reconstruction_error"] {
        assert!(last[key].as_f64().is_some_and(f64::is_finite), "{key} in {last}");
    }
    let info = dir.run("info rbm");
    for words in ["1 x 28 x 28 of bits", "rbm, ", "30 of 30 steps", "family = \"rbm\""] {
        assert!(info.ok().contains(words), "{words} in {}", info.stdout);
    }
    // its configuration is that of the run, and is taken again
    let again = dir.run("train rbm/config.toml --dry-run");
    assert_eq!(again.ok().trim_end(), std::fs::read_to_string(dir.path("rbm/config.toml")).unwrap().trim_end());
    assert!(dir.run("train --resume rbm").ok().contains("this run is finished"));
}

#[test]
fn a_sample_is_that_of_its_seed_in_any_batch() {
    let dir = Dir::new();
    rbm(&dir);
    let arrays = |args: &str| {
        dir.run(&format!("sample rbm --npz s.npz {args}")).ok();
        let all = candle_core::Tensor::read_npz(dir.path("s.npz")).unwrap();
        let levels = &all.iter().find(|(name, _)| name == "arr_0").unwrap().1;
        levels.flatten_all().unwrap().to_vec1::<u8>().unwrap()
    };
    let all = arrays("--seeds 0-4 --batch 5");
    assert!(all.iter().all(|&level| level == 0 || level == 255) && all.contains(&255));
    assert_eq!(all, arrays("--seeds 0-4 --batch 2"));
    assert_eq!(all[3 * 784..4 * 784], arrays("--seeds 3")[..]);
    assert_ne!(all, arrays("--seeds 0-4 sampler.steps=21"));
    for way in ["tempering sampler.rungs=4 sampler.sweeps=5", "annealed-mcmc sampler.rungs=6"] {
        assert_eq!(arrays(&format!("--seeds 0-2 sampler.name={way}")).len(), 3 * 784);
    }
    let ran =
        dir.run("sample rbm -n 4 sampler.name=tempering sampler.rungs=4 sampler.sweeps=5 --report=r.json --out s.png");
    assert!(ran.ok().contains("swapped"), "{}", ran.stdout);
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path("r.json")).unwrap()).unwrap();
    assert_eq!(report.as_array().map(Vec::len), Some(4));
    assert!(report[0]["rung"].is_string() && report[1]["swaps"].as_f64().is_some(), "{report}");
}

#[test]
fn what_is_known_of_a_picture_stays_as_it_is() {
    let dir = Dir::new();
    rbm(&dir);
    dir.run("inpaint rbm --data digits:test -n 2 --mask half --out half.png").ok();
    // tiles of 84 pixels, three for each of 28, with a gap of 4: the picture, what is known of it, its completion
    let (width, height, all) = pixels(&dir.path("half.png"));
    assert_eq!((width, height), (4 + 3 * 88, 4 + 2 * 88));
    let at = |row: u32, column: u32, x: u32, y: u32| {
        all[((4 + row * 88 + 3 * y) * width + 4 + column * 88 + 3 * x) as usize]
    };
    let every = || (0..2).flat_map(|row| (0..28).flat_map(move |y| (0..28).map(move |x| (row, x, y))));
    let (mut hidden, mut known) = (0, 0);
    for (row, x, y) in every() {
        let [picture, seen, drawn] = [0, 1, 2].map(|column| at(row, column, x, y));
        assert!([0, 255].contains(&picture) && [0, 255].contains(&drawn));
        if seen == picture {
            known += 1;
            assert_eq!(drawn, picture);
        } else {
            hidden += 1;
            assert_eq!(seen, 128);
        }
    }
    assert_eq!((hidden, known), (2 * 28 * 14, 2 * 28 * 14));
    // one picture, several times
    dir.run("sample rbm --seeds 1 --images one").ok();
    dir.run("inpaint rbm --input one/1.png --mask half -n 3 --out three.png").ok();
    assert_eq!(pixels(&dir.path("three.png")).0, 4 + 5 * 88);
}

#[test]
fn log_z_is_that_of_enumeration() {
    let dir = Dir::new();
    rbm(&dir);
    let ran = dir.run("eval ais rbm --data digits:test -n 50 --rungs 300 --particles 40 --json a.json");
    assert!(ran.ok().contains("log Z, exact") && ran.stdout.contains("mean log p"), "{}", ran.stdout);
    let found: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path("a.json")).unwrap()).unwrap();
    let number = |path: &str| found.pointer(path).and_then(serde_json::Value::as_f64).unwrap();
    let (value, error, exact) = (number("/found/log_z/value"), number("/found/log_z/error"), number("/found/exact"));
    assert!((value - exact).abs() < 5. * error.max(1e-3), "{value} +- {error} for {exact}");
    let log_p = found["found"]["log_p"].as_array().unwrap();
    let mean = log_p.iter().map(|v| v.as_f64().unwrap()).sum::<f64>() / log_p.len() as f64;
    assert!(log_p.len() == 50 && (mean - number("/found/mean")).abs() < 1e-9 && mean < 0.);
}

/// What goes back from samples gives log Z and the mean of log p from the other side.
#[test]
fn both_sides_of_log_p_are_told() {
    let dir = Dir::new();
    rbm(&dir);
    let args = "eval ais rbm --data digits:test -n 50 --rungs 200 --particles 40";
    let ran = dir.run(&format!("{args} --reverse 20 --chains 3 --json a.json"));
    for words in ["log Z, reverse", "mean log p, upper", "mean log p, lower", "upper and lower of 20", "from each: 3"] {
        assert!(ran.ok().contains(words), "{words} in {}", ran.stdout);
    }
    let found: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path("a.json")).unwrap()).unwrap();
    let number = |path: &str| found.pointer(path).and_then(serde_json::Value::as_f64).unwrap();
    let back = |path: &str| number(&format!("/found/reverse/{path}"));
    assert!(["log_z/error", "upper/error", "lower/error"].into_iter().all(|path| back(path) > 0.));
    // the energies of the same samples are in both
    let (above, below) = (back("log_z/value"), number("/found/log_z/value"));
    assert!((back("upper/value") - back("lower/value") - (above - below)).abs() < 1e-9);
    let error = back("log_z/error").hypot(number("/found/log_z/error"));
    assert!((above - below).abs() < 1. + 4. * error && (above - number("/found/exact")).abs() < 1. + 4. * error);
    let list = |path: &str| found.pointer(path).and_then(serde_json::Value::as_array).unwrap().clone();
    let (places, log_p) = (list("/found/reverse/places"), list("/found/reverse/log_p"));
    assert!(places.len() == 20 && log_p.len() == 20 && number("/found/reverse/chains") == 3.);
    assert!(places.iter().all(|place| list("/places").contains(place)), "of those measured");
    let mean = log_p.iter().map(|v| v.as_f64().unwrap()).sum::<f64>() / 20.;
    assert!((mean - back("lower/value")).abs() < 1e-9);
    // a sample's own chains are the same among others
    dir.run(&format!("{args} --reverse 40 --chains 3 --json b.json")).ok();
    let other: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path("b.json")).unwrap()).unwrap();
    let more: Vec<_> = other["found"]["reverse"]["places"]
        .as_array()
        .unwrap()
        .iter()
        .zip(other["found"]["reverse"]["log_p"].as_array().unwrap())
        .collect();
    let shared = places.iter().zip(&log_p).filter(|pair| more.contains(pair)).count();
    let common = places.iter().filter(|place| more.iter().any(|(other, _)| other == place)).count();
    assert!(shared == common && common > 0, "{shared} of {common}");
    let none = dir.run(&format!("{args} --reverse 0 --json c.json"));
    assert!(!none.ok().contains("reverse") && !none.stdout.contains("lower"), "{}", none.stdout);
    // a machine of one rung between is far from both
    let few = dir.run("eval ais rbm --data digits:test -n 50 --rungs 2 --particles 40 --reverse 20");
    few.ok();
    assert!(few.stderr.contains("take more --rungs"), "{}", few.stderr);
}

#[test]
fn what_does_not_belong_has_more_energy() {
    let dir = Dir::new();
    rbm(&dir);
    let ran = dir.run("eval ood rbm --data digits:test --ood noise:uniform -n 60 --fit-samples 60 --json o.json");
    assert!(ran.ok().contains("energy") && ran.stdout.contains("typicality"), "{}", ran.stdout);
    assert!(ran.stderr.contains("by the energy of the rbm"), "{}", ran.stderr);
    let found = std::fs::read_to_string(dir.path("o.json")).unwrap();
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    let line = found["table"].as_array().unwrap().iter().find(|line| line["score"] == "energy").unwrap();
    assert!(line["auroc"]["value"].as_f64().unwrap() > 0.99, "{line}");
    let ran = dir.run("detect rbm noise:uniform --fit-samples 60 --held-out-samples 100 --scores energy --out d.csv");
    ran.ok();
    let table = std::fs::read_to_string(dir.path("d.csv")).unwrap();
    assert!(table.lines().skip(1).all(|line| line.ends_with(",1")), "all are flagged");
}

#[test]
fn tables_of_bits_are_drawn_as_tables() {
    let dir = Dir::new();
    let rows: String = (0..40).map(|i| format!("{0},{0},{1}\n", i % 2, i / 2 % 2)).collect();
    std::fs::write(dir.path("bits.csv"), format!("a,b,c\n{rows}")).unwrap();
    let small = "model.hidden=4 train.steps=2000 train.batch=20 train.sample_every=0 train.lr=0.3 sampler.steps=50";
    dir.run(&format!("train rbm-digits --data bits.csv {small} --out table")).ok();
    dir.run("sample table -n 100 --out drawn.csv").ok();
    let drawn = std::fs::read_to_string(dir.path("drawn.csv")).unwrap();
    let (head, rows) = drawn.split_once('\n').unwrap();
    assert_eq!(head, "a,b,c");
    let like = rows.lines().filter(|row| row.starts_with("0,0,") || row.starts_with("1,1,")).count();
    assert!(like > 70 && rows.lines().all(|row| row.split(',').all(|cell| ["0", "1"].contains(&cell))), "{like}");
    std::fs::write(dir.path("other.csv"), "a,b,c\n0,1,1\n1,0.5,0\n").unwrap();
    dir.run("train rbm-digits --data other.csv --out other").fails(1, &["row 2, column b is 0.5"]);
    assert!(!dir.path("other").exists(), "a mistake leaves no folder");
}

/// Two groups of rows, in units of their own: `a` near 100 or 400, `b` near 0.1 or 0.5 with it.
fn grouped(rows: usize) -> String {
    let wave = |i: usize, by: f64| (i as f64 * by).sin();
    let row = |i: usize| match i % 2 {
        0 => format!("{},{}", 100. + 20. * wave(i, 1.3), 0.1 + 0.02 * wave(i, 2.1)),
        _ => format!("{},{}", 400. + 20. * wave(i, 1.3), 0.5 + 0.02 * wave(i, 2.1)),
    };
    format!("a,b\n{}\n", (0..rows).map(row).collect::<Vec<_>>().join("\n"))
}

#[test]
fn tables_of_real_numbers_keep_their_units() {
    let dir = Dir::new();
    std::fs::write(dir.path("rows.csv"), grouped(200)).unwrap();
    let small = "model.hidden=3 train.steps=3000 train.lr=0.05 train.batch=50 train.sample_every=0 sampler.steps=50";
    dir.run(&format!("train rbm-gaussian --data rows.csv {small} --out table")).ok();
    let info = dir.run("info table");
    for words in ["2 of real numbers", "visible = \"gaussian\"", "a, b"] {
        assert!(info.ok().contains(words), "{words} in {}", info.stdout);
    }
    dir.run("sample table -n 4000 --out drawn.csv").ok();
    let drawn = std::fs::read_to_string(dir.path("drawn.csv")).unwrap();
    let (head, rows) = drawn.split_once('\n').unwrap();
    assert_eq!(head, "a,b");
    let rows: Vec<[f64; 2]> = rows
        .lines()
        .map(|row| {
            let mut cells = row.split(',').map(|cell| cell.parse().unwrap());
            [cells.next().unwrap(), cells.next().unwrap()]
        })
        .collect();
    let mean = |i: usize| rows.iter().map(|row| row[i]).sum::<f64>() / 4000.;
    assert!((mean(0) - 250.).abs() < 60. && (mean(1) - 0.3).abs() < 0.08, "{} {}", mean(0), mean(1));
    // both columns rise together, as far as a variance of 1 each lets them: independent ones do so in 2000 rows
    let like = rows.iter().filter(|row| (row[0] > 250.) == (row[1] > 0.3)).count();
    assert!(like > 2250, "{like}");
    let ran = dir.run("eval ais table --data rows.csv --rungs 300 --particles 100 --json a.json");
    assert!(ran.ok().contains("log Z, exact"), "{}", ran.stdout);
    let found: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path("a.json")).unwrap()).unwrap();
    let number = |path: &str| found.pointer(path).and_then(serde_json::Value::as_f64).unwrap();
    let (value, error, exact) = (number("/found/log_z/value"), number("/found/log_z/error"), number("/found/exact"));
    assert!((value - exact).abs() < 4. * error.max(1e-3), "{value} +- {error} for {exact}");
    std::fs::write(dir.path("off.csv"), "a,b\n900,0.1\n-700,0.9\n").unwrap();
    let ran = dir.run("eval ood table --data rows.csv --ood off.csv --fit-samples 100 --json o.json");
    assert!(ran.ok().contains("energy"), "{}", ran.stdout);
    let found: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path("o.json")).unwrap()).unwrap();
    let line = found["table"].as_array().unwrap().iter().find(|line| line["score"] == "energy").unwrap();
    assert_eq!(line["auroc"]["value"].as_f64(), Some(1.), "{line}");
    // there is a score, by which other kernels move
    for kernel in ["mala sampler.adapt=20", "langevin", "hmc sampler.adapt=20"] {
        dir.run(&format!("sample table -n 3 sampler.kernel={kernel} sampler.steps=30 --out k.csv")).ok();
    }
    std::fs::write(dir.path("gap.csv"), "a,b\n100,\n").unwrap();
    dir.run("impute table --data gap.csv --out g.csv").fails(2, &["family rbm", "denoises"]);
    dir.run("inpaint table --data rows.csv --mask half").fails(2, &["not one of images"]);
    dir.run("eval ais table --data digits:test").fails(2, &["--data digits:test"]);
}

#[test]
fn pictures_of_greys_are_completed() {
    let dir = Dir::new();
    let small =
        "model.hidden=12 train.steps=30 train.batch=20 train.sample_every=0 loss.persistent=10 sampler.steps=20";
    dir.run(&format!("train rbm-gaussian {small} --out greys --threads 2")).ok();
    assert!(dir.path("greys/samples/filters-step-30.png").is_file());
    dir.run("inpaint greys --data digits:test -n 1 --mask half --out half.png").ok();
    let (width, _, all) = pixels(&dir.path("half.png"));
    let at = |column: u32, x: u32, y: u32| all[((4 + 3 * y) * width + 4 + column * 88 + 3 * x) as usize];
    let every = || (0..28).flat_map(|y| (0..28).map(move |x| (x, y)));
    assert!(every().any(|(x, y)| ![0, 255].contains(&at(0, x, y))), "grey levels stay");
    for (x, y) in every() {
        let [picture, seen, drawn] = [0, 1, 2].map(|column| at(column, x, y));
        assert!(if x < 14 { seen == picture && drawn == picture } else { seen == 128 });
    }
    assert!(every().any(|(x, y)| at(2, x, y) != at(0, x, y)));
}

#[test]
fn options_that_mean_nothing_are_refused() {
    let dir = Dir::new();
    rbm(&dir);
    for (args, words) in [
        ("train digits model.family=rbm", &["model.family", "rbm-digits"][..]),
        ("train rbm-digits process.name=vp", &["process"]),
        ("train rbm-digits model.net.width=3", &["net"]),
        ("train rbm-digits data.dequantise=true", &["data.dequantise"]),
        ("train digits data.binarise=sample", &["data.binarise"]),
        ("train rbm-digits model.visible=gaussian", &["data.binarise", "rbm-gaussian"]),
        ("train rbm-gaussian data.binarise=threshold", &["data.binarise", "real numbers"]),
        ("train rbm-gaussian model.visible=poisson", &["visible", "poisson", "gaussian"]),
        ("train rbm-digits loss.name=denoising", &["denoising", "contrastive-divergence"]),
        ("train rbm-digits model.family=rbn", &["rbn", "rbm, dbm, mlp"]),
        ("sample rbm --class 3", &["--class"]),
        ("sample rbm --guidance 2", &["--guidance"]),
        ("sample rbm --gif a.gif", &["--gif"]),
        ("sample rbm --from a.png", &["--from"]),
        ("sample rbm sampler.name=heun", &["heun", "tempering"]),
        ("sample rbm noise=torch", &["noise=torch"]),
        ("inpaint rbm --data digits:test --task superres=2", &["--task"]),
        ("inpaint rbm --data digits:test --mask half --method dps", &["--method"]),
        ("inpaint rbm --data digits:test --mask half --noise 0.1", &["--noise"]),
        ("detect rbm digits:test --maps m", &["--maps"]),
        ("detect rbm digits:test --levels 0.5", &["--levels"]),
        ("detect rbm digits:test --scores score-norms", &["score-norms", "typicality"]),
        ("eval ais rbm --data digits:test --rungs 1", &["rungs"]),
        ("eval ais exact:gaussian-2d --data toy:rings", &["eval bits"]),
        ("look filters exact:gaussian-2d", &["no filters"]),
        ("eval ais rbm --data digits:test -n 1", &["-n", "at least 2"]),
        ("eval ais rbm --data digits:test --steps-per-rung 0", &["steps-per-rung"]),
        ("eval ais rbm --data digits:test --reverse 1", &["--reverse is 1", "at least 2"]),
        ("eval ais rbm --data digits:test --chains 0", &["--chains is 0"]),
        ("eval ais rbm --data digits:test --chains 2000000", &["--chains is 2000000"]),
        ("eval ais rbm --data digits:test --reverse 0 --chains 2", &["--chains", "--reverse 0"]),
        ("train rbm-digits sampler.kernel=hmc", &["sampler.kernel", "hmc"]),
        ("train rbm-digits loss.kernel=mala", &["loss.kernel mala"]),
        ("train rbm-digits train.recompute=true", &["train.recompute"]),
        ("sample rbm sampler.kernel=mala", &["sampler.kernel", "mala"]),
        ("sample rbm sampler.adapt=5", &["sampler.adapt", "gibbs"]),
        ("sample rbm sampler.name=tempering sampler.rungs=1", &["rungs is 1", "2 to"]),
    ] {
        dir.run(args).fails(2, words);
    }
    dir.run("train rbm-digits --data toy:two-moons --out moons").fails(1, &["toy:two-moons", "row 1"]);
    assert!(!dir.path("moons").exists(), "a mistake leaves no folder");
    for args in [
        "eval bits rbm --data digits:test",
        "export rbm folder",
        "look curl rbm",
        "impute rbm --data a.csv --out b.csv",
    ] {
        dir.run(args).fails(2, &["family rbm", "denoises", "eval ais"]);
    }
}
