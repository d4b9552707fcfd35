//! `langevin lab`, and runs of network energies of the plane.

mod common;

use common::Dir;

#[test]
fn every_method_comes_to_a_density_and_the_same_twice() {
    let dir = Dir::new();
    let lab = "lab toy:8-gaussians --evaluations 40000 --threads 2";
    let ran = dir.run(&format!("{lab} --json a.json --out a.png"));
    let table = ran.ok();
    for name in ["cd", "pcd", "sm", "ssm", "ssm-vr", "dsm", "nce", "cnce", "info-nce", "ed", "diffusion", "dual"] {
        let line = table
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")))
            .unwrap_or_else(|| panic!("{name}: {table}"));
        assert!(line.contains(" of 8 ") && !line.contains("failed"), "{line}");
        assert!(ran.stderr.contains(&format!("{name}: KL ")), "a line of progress: {}", ran.stderr);
    }
    let json =
        |file: &str| -> serde_json::Value { serde_json::from_slice(&std::fs::read(dir.path(file)).unwrap()).unwrap() };
    let found = json("a.json");
    let methods = found["methods"].as_array().unwrap();
    assert_eq!(methods.len(), 12);
    for row in methods {
        let asked = row["evaluations"].as_u64().unwrap();
        assert!(asked > 20_000 && asked <= 40_000, "{row}");
        assert!(row["figures"]["kl"].as_f64().unwrap() > 0., "{row}");
        let tells = ["nce", "dual"].contains(&row["method"].as_str().unwrap());
        assert_eq!(row["log_z_error"].is_number(), tells, "{row}");
    }
    // the same figures, seconds aside
    dir.run(&format!("{lab} --methods nce,pcd --json b.json --out b.png")).ok();
    for again in json("b.json")["methods"].as_array().unwrap() {
        let first = methods.iter().find(|row| row["method"] == again["method"]).unwrap();
        for key in ["steps", "evaluations", "claimed_log_z", "figures"] {
            assert_eq!(first[key], again[key], "{key} of {}", again["method"]);
        }
    }
    assert_eq!(std::fs::read(dir.path("a.png")).unwrap()[1..4], *b"PNG");
}

#[test]
fn what_the_lab_cannot_do_is_refused_by_name() {
    let dir = Dir::new();
    for (args, words) in [
        ("lab toy:pinwheel", &["toy:pinwheel", "not known", "toy:8-gaussians", "toy:rings"][..]),
        ("lab digits", &["digits", "toy:checkerboard"]),
        ("lab toy:rings --methods nce,mle", &["--methods mle", "info-nce"]),
        ("lab toy:rings --evaluations 0", &["--evaluations 0"]),
        ("lab toy:rings --seconds 0", &["--seconds 0"]),
        ("lab toy:rings --out page.gif", &["page.gif", "png"]),
    ] {
        dir.run(args).fails(2, words);
    }
}

#[test]
fn a_network_energy_is_trained_drawn_from_and_weighed() {
    let dir = Dir::new();
    let small = "train.steps=40 train.batch=64 model.widths=[16,16] sampler.sweeps=20 sampler.rungs=4 --threads 2";
    dir.run(&format!("train ebm-toy {small} --out toy")).ok();
    assert!(std::fs::read_to_string(dir.path("toy/log.jsonl")).unwrap().contains("\"log_z\""));
    dir.run("train --resume toy train.steps=60").ok();
    assert!(dir.run("sample toy -n 5 --out s.csv").ok().contains("s.csv"));
    let ran =
        dir.run("eval ais toy --data toy:8-gaussians:test -n 50 --rungs 50 --particles 20 --reverse 5 --json a.json");
    assert!(ran.ok().contains("log Z, exact"), "{}", ran.stdout);
    let found: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path("a.json")).unwrap()).unwrap();
    let (exact, log_z) = (found["found"]["exact"].as_f64().unwrap(), &found["found"]["log_z"]);
    let (value, error) = (log_z["value"].as_f64().unwrap(), log_z["error"].as_f64().unwrap());
    assert!((value - exact).abs() < 5. * error + 0.05, "{value} +- {error} for {exact}");
    for (args, words) in [
        ("train ebm-toy loss.name=contrastive-divergence", &["gibbs", "mala"][..]),
        ("train ebm-toy loss.name=score-matching loss.slices=0", &["loss.slices"]),
        ("train rbm-digits loss.name=score-matching", &["score-matching", "real numbers"]),
        ("train ebm-toy model.confine=-1", &["confine"]),
        ("train ebm-toy sampler.kernel.name=gibbs", &["gibbs", "mala"]),
    ] {
        dir.run(args).fails(2, words);
    }
}
