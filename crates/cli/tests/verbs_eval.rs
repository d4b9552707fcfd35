//! `langevin eval` and log p of `apply`: on models whose answers are known, and what they refuse.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{Dir, numbers, off, read_tensors, spec, write_tensors};
use langevin::data::{Loader, LoaderOptions};
use langevin::dynamics::Mixture;
use langevin::dynamics::process::{AnyProcess, Edm};
use langevin::models::mixture::exact;
use langevin::models::{AnyNet, Head, ModelSpec};
use langevin::ops::noise::Noise;
use serde_json::Value;
use std::io::{BufRead, BufReader};

fn eight() -> (ModelSpec, Mixture) {
    let spec = exact("exact:8-gaussians", AnyProcess::named("edm").unwrap()).unwrap();
    let AnyNet::MixtureConfig(net) = &spec.net else { panic!("{spec:?}") };
    let mixture = net.mixture().unwrap();
    (spec, mixture)
}

/// Mean and standard error of -log p of the density of `exact:8-gaussians` at sigma 0.002, at the points that seed 3 takes.
fn truth(n: usize) -> (f64, f64) {
    let data = langevin::data::open("toy:8-gaussians:test", &Default::default()).unwrap();
    let options = LoaderOptions { batch: n, seed: 3, flip: false, dequantise: false };
    let x = Loader::new(data.into(), options).unwrap().batch(0).unwrap().x.to_dtype(DType::F64).unwrap();
    let edm = Edm::default();
    let log_p = numbers(&eight().1.under(&edm).log_p(&x, &[0.002]).unwrap());
    let (mean, error) = langevin::ops::stats::mean_and_error(&log_p);
    (-mean, error)
}

fn json(dir: &Dir, name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(dir.path(name)).unwrap()).unwrap()
}

#[test]
fn three_likelihoods_agree_with_the_truth_and_each_other() {
    let dir = Dir::new();
    let ran = dir
        .run("eval bits exact:8-gaussians --data toy:8-gaussians:test -n 100 --seed 3 --levels 100 --json bits.json");
    let table = ran.ok().to_string();
    let found = json(&dir, "bits.json");
    let (truth, scatter) = truth(100);
    // the entropy of eight separate modes: ln 8 + ln(2 pi e v), and the points scatter about it
    let entropy = 8f64.ln() + (2. * std::f64::consts::PI * std::f64::consts::E * 0.0225).ln();
    assert!((truth - entropy).abs() < 5. * scatter);
    for method in ["ode", "energy", "ais"] {
        let figure = &found["methods"][method]["figure"];
        let (mean, error, own) =
            (figure["mean"].as_f64().unwrap(), figure["error"].as_f64().unwrap(), figure["own"].as_f64().unwrap());
        // the prior is off by (1/80)^2 at the noisy end, the solver by its tolerance
        assert!((mean - truth).abs() < 5. * own + 1e-3, "{method}: {mean} +- {own}, not {truth}");
        assert!((error - scatter).abs() < 1e-2, "{method}: {error} {scatter}");
        assert!(method != "ais" || own > 1e-4, "{own}");
        assert_eq!(found["methods"][method]["log_p"].as_array().unwrap().len(), 100);
        let line = table.lines().find(|line| line.starts_with(method)).unwrap();
        assert!(line.contains(&format!("{mean:.4}")) && line.contains(&format!("{error:.4}")), "{line}");
    }
    let pairs = found["differences"].as_array().unwrap();
    assert_eq!(pairs.len(), 3);
    for pair in pairs {
        let (mean, error) = (pair["mean"].as_f64().unwrap(), pair["error"].as_f64().unwrap());
        assert!(mean.abs() < 5. * error + 1e-3, "{pair}");
    }
    for words in
        ["nats", "+- method", "ode - ais", "sigma 0.00200", "N(0, 80.00000^2)", "exact divergence", "100 of toy"]
    {
        assert!(table.contains(words), "no {words:?} in\n{table}");
    }
}

/// Annealing costs by the points, and does what is typed; with few points too it says the truth within its error.
#[test]
fn annealing_costs_by_the_points() {
    let dir = Dir::new();
    let run = |rest: &str| {
        let args =
            format!("eval bits exact:8-gaussians --data toy:8-gaussians:test --method energy,ais {rest} --json x.json");
        let said = dir.run(&args).ok().to_string();
        let found = json(&dir, "x.json");
        let how = ["runs", "particles", "levels"].map(|key| found["methods"]["ais"]["how"][key].as_u64().unwrap());
        (said, how, found)
    };
    let (said, how, found) = run("-n 8");
    assert_eq!(how, [8, 16, 50]);
    assert!(said.contains("8 runs of 16 particles, 50 levels for 8 points"), "{said}");
    let of = |method: &str, key: &str| found["methods"][method]["figure"][key].as_f64().unwrap();
    let (own, data) = (of("ais", "own"), of("ais", "error"));
    assert!((of("ais", "mean") - of("energy", "mean")).abs() < 5. * own + 1e-3, "{own}");
    assert!(own < data, "the error of log Z {own} is greater than that over the points {data}");
    assert_eq!(run("-n 64").1, [8, 32, 200]);
    let (said, how, _) = run("-n 8 --levels 21");
    assert!(how == [8, 16, 21] && said.contains("21 levels for 8 points"), "{said}");
    let (said, how, _) = run("-n 8 --runs 3 --particles 5 --levels 21");
    assert!(how == [3, 5, 21] && said.contains("3 runs of 5 particles, 21 levels;"), "{said}");
}

/// Work of minutes says within seconds how far it is, and prints the figure of a method before it has those of the others.
#[test]
fn long_work_says_how_far_it_is() {
    let dir = Dir::new();
    let mut child = dir.start(
        "eval bits exact:8-gaussians --data toy:8-gaussians:test -n 4 --method energy,ais --levels 100000 --runs 100",
    );
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let table: Vec<String> = lines.by_ref().take(2).map(Result::unwrap).collect();
    assert!(table[0].starts_with("method") && table[1].starts_with("energy"), "{table:?}");
    let said = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .find(|line| line.contains(" levels, "));
    child.kill().unwrap();
    child.wait().unwrap();
    let said = said.unwrap();
    assert!(said.contains(" of 10000000 levels, ") && said.ends_with(" left"), "{said}");
}

/// Ctrl-C keeps the figures that are known, in the file too.
#[cfg(unix)]
#[test]
fn a_stopped_measurement_keeps_what_it_knows() {
    let dir = Dir::new();
    let mut child = dir
        .start("eval bits exact:8-gaussians --data toy:8-gaussians:test -n 4 --levels 100000 --runs 100 --json x.json");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().map(Result::unwrap).any(|line| line.starts_with("energy ")));
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(130), "{said}");
    assert!(said.contains("stopped during ais; x.json has the figures of ode and energy"), "{said}");
    assert!(rest.iter().any(|line| line.starts_with("ode - energy")), "{rest:?}");
    let methods = &json(&dir, "x.json")["methods"];
    assert!(methods["ais"].is_null() && methods["ode"]["log_p"].as_array().unwrap().len() == 4);
}

/// Probes mean Hutchinson, whatever the number of dimensions; with the exact divergence they are refused.
#[test]
fn probes_are_not_passed_over() {
    let dir = Dir::new();
    let run =
        |rest: &str| dir.run(&format!("eval bits exact:8-gaussians --data toy:8-gaussians -n 3 --method ode {rest}"));
    assert!(run("").ok().contains("exact divergence"));
    assert!(run("--probes 3").ok().contains("hutchinson, 3 rademacher probes"));
    assert!(run("--probe normal").ok().contains("hutchinson, 1 normal probes"));
    assert!(run("--divergence hutchinson").ok().contains("hutchinson, 1 rademacher probes"));
    for probes in ["--probes 3", "--probe normal", "--probes 1"] {
        run(&format!("--divergence exact {probes}")).fails(2, &["--divergence exact", "--probes"]);
    }
}

/// At much noise all is the Gaussian of that noise, whose entropy noisy points have, and clean ones have not.
#[test]
fn noisy_points_have_the_entropy_of_the_noise() {
    let dir = Dir::new();
    let run = |rest: &str| {
        let args = format!(
            "eval bits exact:8-gaussians --data toy:8-gaussians:test -n 400 --method energy --t-min 30 {rest} --json x.json"
        );
        (dir.run(&args).ok().to_string(), json(&dir, "x.json"))
    };
    let entropy = (2. * std::f64::consts::PI * std::f64::consts::E * (900. + 0.0225 + 2.)).ln();
    let (said, found) = run("--noised");
    let figure = &found["methods"]["energy"]["figure"];
    let (mean, error) = (figure["mean"].as_f64().unwrap(), figure["error"].as_f64().unwrap());
    assert!((mean - entropy).abs() < 5. * error && error < 0.06, "{mean} +- {error}, not {entropy}");
    assert!(said.contains("the noise of it") && found["noised"] == true, "{said}");
    let (said, found) = run("");
    let mean = found["methods"]["energy"]["figure"]["mean"].as_f64().unwrap();
    assert!((entropy - mean - 1.).abs() < 0.02 && said.contains("as they are"), "{mean} {entropy}\n{said}");
}

/// Another process and time, random probes, and one batch or many: the same figures.
#[test]
fn figures_do_not_depend_on_the_batch() {
    let dir = Dir::new();
    let rows: String =
        (0..8).map(|i| (0..12).map(|j| format!("{}", (i * j) % 5)).collect::<Vec<_>>().join(",") + "\n").collect();
    std::fs::write(dir.path("rows.csv"), rows).unwrap();
    let run = |batch: usize| {
        let args = format!(
            "eval bits exact:gaussian-12d:vp --data rows.csv -n 6 --method ode --divergence hutchinson --probes 3 --t-min 0.1 \
             --batch {batch} --json {batch}.json"
        );
        let ran = dir.run(&args);
        assert!(ran.ok().contains("3 rademacher probes") && ran.stdout.contains("6 of rows.csv"), "{}", ran.stdout);
        json(&dir, &format!("{batch}.json"))["methods"]["ode"]["log_p"].as_array().unwrap().clone()
    };
    let (one, all) = (run(4), run(64));
    for (a, b) in one.iter().zip(&all) {
        assert!((a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-9);
    }
}

/// Rows are in the units of the model: its columns' where it has some, matched by name, and else their own.
#[test]
fn tables_are_as_the_model_learnt_them() {
    let dir = Dir::new();
    let rows: Vec<[f64; 12]> =
        (0..4).map(|i| std::array::from_fn(|j| (f64::from(i) + 1.7 * j as f64).sin() * 0.8)).collect();
    let text = |row: &[f64; 12]| row.map(|v| v.to_string()).join(",") + "\n";
    std::fs::write(dir.path("rows.csv"), rows.iter().map(text).collect::<String>()).unwrap();
    dir.run("eval bits exact:gaussian-12d --data rows.csv --method ode --json exact.json").ok();
    let found = json(&dir, "exact.json");
    // along the ODE x - m grows by as much as its deviation does, to where the prior N(0, end^2) takes it
    let (t, end) = (found["t"].as_f64().unwrap(), found["prior"]["std"].as_f64().unwrap());
    let growth = ((0.36 + end * end) / (0.36 + t * t)).sqrt();
    let nats = |row: &[f64; 12]| {
        let mean = |j: usize| 0.1 * j as f64 - 0.55;
        let square: f64 = row.iter().enumerate().map(|(j, v)| (mean(j) + growth * (v - mean(j))).powi(2)).sum();
        6. * (std::f64::consts::TAU * end * end).ln() + square / (2. * end * end) - 12. * growth.ln()
    };
    // log p of each row, and which row it is
    let log_p = found["methods"]["ode"]["log_p"].as_array().unwrap();
    let mut places: Vec<u64> =
        found["places"].as_array().unwrap().iter().map(|place| place.as_u64().unwrap()).collect();
    for (log_p, &place) in log_p.iter().zip(&places) {
        let exact = -nats(&rows[place as usize]);
        assert!((log_p.as_f64().unwrap() - exact).abs() < 1e-4, "row {place}: {log_p}, exact {exact}");
    }
    places.sort_unstable();
    assert_eq!(places, [0, 1, 2, 3]);
    let (mean, truth) =
        (found["methods"]["ode"]["figure"]["mean"].as_f64().unwrap(), rows.iter().map(nats).sum::<f64>() / 4.);
    assert!((mean - truth).abs() < 1e-4 && found["columns"].is_null(), "{mean}, exact {truth}");

    let columns = r#"{"names":["a","b","c"],"mean":[10,0,1000],"std":[2,0.1,50]}"#.to_string();
    dir.model("table.safetensors", &spec(&[3], None, Head::Energy), &[("langevin.columns", columns)]);
    let bits = |table: &str| {
        std::fs::write(dir.path("t.csv"), table).unwrap();
        dir.run("eval bits table.safetensors --data t.csv --method ode")
    };
    let plain = bits("a,b,c\n11,0.05,1020\n8,-0.1,970\n");
    assert!(
        plain.ok().contains(&format!("{:+.4} nats", 10f64.ln())) && plain.stdout.contains("scaled as those"),
        "{}",
        plain.stdout
    );
    assert_eq!(bits("c,b,a\n1020,0.05,11\n970,-0.1,8\n").ok(), plain.stdout);
    bits("c,b,d\n1020,0.05,11\n970,-0.1,8\n").fails(2, &["--data t.csv", "c, b, d", "a, b, c"]);
    // a constant column adds nothing to the units, and no row can have another value in it
    let columns = r#"{"names":["a","b","c"],"mean":[10,7e-9,1000],"std":[2,0,50]}"#.to_string();
    dir.model("constant.safetensors", &spec(&[3], None, Head::Energy), &[("langevin.columns", columns)]);
    let bits = |table: &str| {
        std::fs::write(dir.path("t.csv"), table).unwrap();
        dir.run("eval bits constant.safetensors --data t.csv --method ode")
    };
    let found = bits("a,b,c\n11,7e-9,1020\n8,7e-9,970\n");
    let words = [format!("{:+.4} nats", 100f64.ln()), "constant       b: ".into()];
    assert!(words.iter().all(|words| found.ok().contains(words)), "{}", found.stdout);
    bits("a,b,c\n11,7e-9,1020\n8,9e-9,970\n").fails(2, &["--data t.csv: row 2", "(b)", "no density"]);
    dir.run("eval bits table.safetensors --data t.csv --method ode --max-steps 0").fails(2, &["--max-steps 0"]);
    dir.run("eval bits exact:gaussian-12d --data rows.csv --method ode --max-steps 2")
        .fails(1, &["max_steps", "after 2"]);
}

/// Images: bits per dimension of dequantised pixels, for a network under each class, by the ODE; a plain network says why
/// it has no more.
#[test]
fn images_are_told_in_bits() {
    let dir = Dir::new();
    dir.model("m.safetensors", &spec(&[1, 28, 28], Some(10), Head::Denoiser), &[]);
    let args = "eval bits m.safetensors --data digits:test -n 3 --rtol 1e-2 --atol 1e-2 --json m.json";
    let ran = dir.run(args);
    for words in ["bits/dim", "+7 bits/dim", "256 levels", "hutchinson, 1 rademacher", "F32"] {
        assert!(ran.ok().contains(words), "no {words:?} in\n{}", ran.stdout);
    }
    for words in ["not by energy", "not by ais", "plain denoiser"] {
        assert!(ran.stderr.contains(words), "no {words:?} in\n{}", ran.stderr);
    }
    let found = json(&dir, "m.json");
    let bits = |log_p: &Value| 7. - log_p.as_f64().unwrap() / (784. * std::f64::consts::LN_2);
    let log_p = found["methods"]["ode"]["log_p"].as_array().unwrap();
    let mean = log_p.iter().map(bits).sum::<f64>() / 3.;
    assert!((found["methods"]["ode"]["figure"]["mean"].as_f64().unwrap() - mean).abs() < 1e-9);

    // told nothing, one trained with label dropout has another density than told the classes
    let null = ModelSpec { null_class: true, ..spec(&[1, 28, 28], Some(10), Head::Energy) };
    dir.stirred("null.safetensors", &null, &[]);
    let ais = |class: &str| {
        let few = "--data digits:test -n 2 --method ais --levels 4 --particles 2 --runs 2";
        dir.run(&format!("eval bits null.safetensors {few} {class}")).ok().to_string()
    };
    assert!(ais("") != ais("--class none") && ais("--class none") != ais("--class 0"));
    dir.run("eval bits m.safetensors --data digits:test --method ode --class none")
        .fails(2, &["--class none", "label_dropout"]);
}

#[test]
fn what_cannot_be_measured_is_one_sentence() {
    let dir = Dir::new();
    dir.model("plain.safetensors", &spec(&[2], None, Head::Denoiser), &[]);
    dir.model("free.safetensors", &spec(&[2], None, Head::Energy), &[]);
    let run = |model: &str, rest: &str| dir.run(&format!("eval bits {model} --data toy:8-gaussians {rest}"));
    run("plain.safetensors", "--method ais").fails(2, &["--method ais", "plain denoiser"]);
    run("free.safetensors", "--method energy").fails(2, &["free at each t", "model.normalised=true", "--method ais"]);
    run("exact:8-gaussians", "--t-min 0").fails(2, &["--t-min 0", "0.002", "80"]);
    run("exact:8-gaussians", "--t-min 80").fails(2, &["--t-min 80"]);
    run("exact:8-gaussians", "--class 1").fails(2, &["--class 1", "without classes"]);
    run("exact:8-gaussians", "-n 1").fails(2, &["-n 1"]);
    run("exact:8-gaussians", "--rtol 0").fails(2, &["rtol"]);
    run("exact:8-gaussians", "--levels 1").fails(2, &["levels"]);
    run("exact:8-gaussians", "--moves 1 --kernel langevin")
        .fails(2, &["langevin", "no test of acceptance", "mala or hmc"]);
    run("exact:8-gaussians", "--kernel gibbs").fails(2, &["gibbs", "mala"]);
    run("exact:8-gaussians", "--json no/x.json").fails(1, &["no folder"]);
    run("exact:gaussian-12d", "").fails(2, &["[2]", "[12]"]);
    run("exact:nine", "").fails(2, &["exact:nine", "exact:8-gaussians"]);
    run("exact:8-gaussians:warp", "").fails(2, &["warp", "edm"]);
    dir.run("eval bits exact:8-gaussians --data nothing").fails(2, &["--data nothing"]);
    std::fs::write(dir.path("one.csv"), "a,b\n1,2\n").unwrap();
    dir.run("eval bits exact:8-gaussians --data one.csv").fails(2, &["one.csv", "1 samples", "takes 2"]);
}

#[test]
fn log_p_of_given_points() {
    let dir = Dir::new();
    let (_, mixture) = eight();
    let x = mixture.sample(5, &mut Noise::seeds(&[0, 1, 2, 3, 4])).unwrap();
    let edm = Edm::default();
    for (t, model) in [(None, "exact:8-gaussians"), (Some(0.5), "exact:8-gaussians")] {
        let mut tensors = vec![("sample", x.clone())];
        tensors.extend(t.map(|t: f64| ("timestep", Tensor::new(&[t], &Device::Cpu).unwrap())));
        write_tensors(&dir.path("x.safetensors"), &tensors);
        let ran = dir.run(&format!("apply {model} --input x.safetensors --output y.safetensors --what logp"));
        ran.ok();
        assert!(ran.stderr.contains("by the energy"), "{}", ran.stderr);
        let truth = mixture.under(&edm).log_p(&x, &[t.unwrap_or(0.002)]).unwrap();
        assert!(off(&read_tensors(&dir.path("y.safetensors"))["logp"], &truth) < 0.01);
    }
    // an energy whose constant is free goes along the ODE
    dir.model("free.safetensors", &spec(&[2], None, Head::Energy), &[]);
    let x = x.to_dtype(DType::F32).unwrap();
    write_tensors(&dir.path("x.safetensors"), &[("sample", x)]);
    let ran = dir.run("apply free.safetensors --input x.safetensors --output y.safetensors --what logp");
    ran.ok();
    assert!(ran.stderr.contains("exact divergence"), "{}", ran.stderr);
    let y = &read_tensors(&dir.path("y.safetensors"))["logp"];
    assert!(y.dims() == [5] && numbers(y).iter().all(|v| v.is_finite()));
    write_tensors(
        &dir.path("x.safetensors"),
        &[
            ("sample", Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap()),
            ("timestep", Tensor::new(&[80f64], &Device::Cpu).unwrap()),
        ],
    );
    dir.run("apply free.safetensors --input x.safetensors --output y.safetensors --what logp")
        .fails(1, &["80", "log p"]);
}
