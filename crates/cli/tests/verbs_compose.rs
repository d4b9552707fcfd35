//! `langevin sample --compose` and `--report`: what they draw, write and refuse.

mod common;

use candle_core::Tensor;
use common::{Dir, numbers, spec};
use langevin::dynamics::process::Edm;
use langevin::models::{Head, ModelSpec};

fn array(dir: &Dir, name: &str) -> Tensor {
    Tensor::read_npz_by_name(dir.path(name), &["arr_0"]).unwrap().remove(0)
}

/// The variance along an axis about the nearest mode of points of exact:8-gaussians.
fn variance(x: &[f64]) -> f64 {
    let far = |p: &[f64]| {
        let mode = |k: u32| f64::from(k) * std::f64::consts::TAU / 8.;
        let square = |k: u32| (p[0] - 1.4 * mode(k).cos()).powi(2) + (p[1] - 1.4 * mode(k).sin()).powi(2);
        (0..8).map(square).fold(f64::INFINITY, f64::min)
    };
    x.chunks(2).map(far).sum::<f64>() / x.len() as f64
}

/// The power of a mixture whose modes are far apart has modes as many times narrower: 0.15^2 / w along each axis. As drawn
/// without a word of the sampler, and by every other way. A mean of 2 n squares of normals has the relative error
/// sqrt(1 / n); particles are fewer than their number, by half at most.
#[test]
fn a_power_is_as_narrow_as_it_should_be() {
    let dir = Dir::new();
    let cases = [
        ("2*a", 2., 4000, ""),
        ("8*a", 8., 4000, ""),
        ("4*a", 4., 1000, "sampler.name=pc sampler.corrector.name=hmc sampler.corrector_steps=4 sampler.steps=40"),
        ("4*a", 4., 1000, "sampler.name=annealed-mcmc sampler.kernel.name=hmc sampler.steps=40"),
    ];
    for (text, weight, n, sampler) in cases {
        let ran = dir.run(&format!("sample --let a=exact:8-gaussians --compose {text} -n {n} --npz a.npz {sampler}"));
        assert_eq!(ran.ok(), "a.npz\n");
        let (found, truth) = (variance(&numbers(&array(&dir, "a.npz"))), 0.15f64.powi(2) / weight);
        let bound = 5. * (2. / f64::from(n)).sqrt();
        assert!(
            (found / truth - 1.).abs() < bound,
            "{text} {sampler}: {found:.5}, exact {truth:.5}, within {bound:.3}"
        );
    }
}

/// Times or divided by a Gaussian, modes keep their places nearly and have shares in closed form: of modes of variance s
/// at a distance r from a Gaussian of variance v, exp(-r^2 / 2(s + v)) for a & b and exp(r^2 / 2(v - s/2)) for 2*a & !b.
#[test]
fn modes_have_their_shares() {
    const RUNS: usize = 12;
    let dir = Dir::new();
    let (n, s, v) = (2000, 0.15f64.powi(2), 0.5);
    let rates = [("a & b", -0.5 / (s + v)), ("2*a & !b", 0.5 / (v - s / 2.))];
    for (text, rate) in rates {
        let models = "--let a=exact:8-gaussians --let b=exact:gaussian-2d";
        let mode = |k: usize| {
            let angle = k as f64 * std::f64::consts::TAU / 8.;
            [1.4 * angle.cos(), 1.4 * angle.sin()]
        };
        let square = |p: &[f64], q: &[f64]| (p[0] - q[0]).powi(2) + (p[1] - q[1]).powi(2);
        // of each of several populations, whose spread tells the error of their mean
        let found: Vec<[f64; 8]> = (0..RUNS)
            .map(|run| {
                let (seeds, text) = (format!("{}-{}", run * n, (run + 1) * n - 1), text.replace(' ', ""));
                let ran = dir.run(&format!("sample {models} --compose {text} --seeds {seeds} --npz a.npz"));
                assert_eq!(ran.ok(), "a.npz\n");
                let mut found = [0.; 8];
                for p in numbers(&array(&dir, "a.npz")).chunks(2) {
                    let near = |i: &usize, j: &usize| square(p, &mode(*i)).total_cmp(&square(p, &mode(*j)));
                    found[(0..8).min_by(near).unwrap()] += 1. / n as f64;
                }
                found
            })
            .collect();
        let weights: Vec<f64> = (0..8).map(|k| (rate * square(&mode(k), &[0.7, 0.])).exp()).collect();
        for (k, weight) in weights.iter().enumerate() {
            let truth = weight / weights.iter().sum::<f64>();
            let runs = RUNS as f64;
            let mean = found.iter().map(|shares| shares[k]).sum::<f64>() / runs;
            let spread = found.iter().map(|shares| (shares[k] - mean).powi(2)).sum::<f64>() / (runs - 1.);
            let error = (spread / runs).max(truth * (1. - truth) / (runs * n as f64)).sqrt();
            assert!((mean - truth).abs() < 5. * error, "{text}, mode {k}: {mean:.4} +- {error:.4}, exact {truth:.4}");
            assert!(error < 0.02, "{text}, mode {k}: an error of {error:.4} tells nothing");
        }
    }
}

/// What is drawn only nearly is said, and what cannot be drawn so is refused.
#[test]
fn what_is_not_exact_is_said() {
    let dir = Dir::new();
    dir.model("d.safetensors", &spec(&[2], None, Head::Denoiser), &[]);
    let of = |args: &str| dir.run(&format!("sample -n 4 --npz a.npz sampler.steps=4 {args}"));
    let exact = "--let a=exact:8-gaussians --compose";
    for name in ["heun", "rk45", "ddpm"] {
        let ran = of(&format!("{exact} 2*a sampler.name={name}"));
        ran.ok();
        assert!(ran.stderr.contains(&format!("sampler.name={name} has no steps of MCMC")), "{}", ran.stderr);
    }
    for quiet in [format!("{exact} a sampler.name=heun"), format!("{exact} 2*a")] {
        let ran = of(&quiet);
        ran.ok();
        assert!(!ran.stderr.contains("draws"), "{}", ran.stderr);
    }
    let ran = of("--let d=d.safetensors --compose 2*d");
    ran.ok();
    assert!(ran.stderr.contains("pc draws \"2*d\" approximately"), "{}", ran.stderr);
    of(&format!("{exact} 2*a sampler.clip=true")).fails(2, &["sampler.clip = true", "MCMC of smc", "leave it out"]);
    let alone = "sample exact:8-gaussians -n 4 --npz a.npz sampler.steps=4 sampler.name=annealed-mcmc";
    dir.run(&format!("{alone} sampler.clip=true")).fails(2, &["sampler.clip = true"]);
    of(&format!("{exact} 2*a sampler.kernel=langevin"))
        .fails(2, &["langevin has no test of acceptance", "mala or hmc"]);
    // steps that never end anywhere are told of without a report
    let ran = dir.run(&format!("{alone} sampler.kernel.name=mala sampler.kernel.step=1e300 sampler.adapt=0"));
    ran.ok();
    assert!(ran.stderr.contains("accepted less than 5% of its proposals at 4 of 4 noise levels"), "{}", ran.stderr);
}

/// A mixture of a power and the density itself, half of each: the power is a quarter as wide, and has the integral
/// (1/8)^3 (2 pi v)^-3 / 4.
#[test]
fn estimated_ratios_mix_half_and_half() {
    let dir = Dir::new();
    let args = "sample --let a=exact:8-gaussians --compose 4*a|a --estimate-ratios=256 -n 1000 --batch 1000";
    let ran = dir.run(&format!("{args} --npz a.npz"));
    ran.ok();
    let line = ran.stderr.lines().find(|line| line.starts_with("log-ratio of `4*a`: ")).unwrap();
    let number = |word: usize| line.split([' ', ',']).nth(word).unwrap().parse::<f64>().unwrap();
    let truth = 4f64.ln() + 3. * (8. * std::f64::consts::TAU * 0.15f64.powi(2)).ln();
    let (found, error) = (number(3), number(5));
    assert!((found - truth).abs() < 5. * error && error < 0.1, "{line}, exact {truth}");
    assert!(ran.stderr.contains("log-ratio of `a`: ") && ran.stderr.contains("draws of its prior"), "{}", ran.stderr);
    // the square of a distance is exponential, of mean 1 or 1/4: its mean is 5/8, its variance 43/64; unweighed it were 0.89
    let spread = variance(&numbers(&array(&dir, "a.npz"))) / 0.15f64.powi(2);
    assert!((spread - 0.625).abs() < 5. * (43. / 64. / 1000f64).sqrt(), "{spread}");

    // parts of parts come first, and ratios are those of densities
    let few = "-n 3 sampler.steps=3 --npz b.npz --estimate-ratios=8 --compose";
    let ran = dir.run(&format!("sample --let a=exact:8-gaussians {few} 2*(2*a|a)&a|0.3:a"));
    assert!(ran.ok() == "b.npz\n");
    let said: Vec<_> = ran.stderr.lines().filter_map(|line| line.split('`').nth(1)).collect();
    assert_eq!(said, ["a", "2*a", "2*((2*a) | a) & a"], "{}", ran.stderr);
    assert!(ran.stderr.contains("--estimate-ratios=32"), "{}", ran.stderr);
}

/// Models of other processes are taken as of the first: two times the density under two processes is its square.
#[test]
fn parts_may_be_of_different_processes() {
    let dir = Dir::new();
    let models = "--let a=exact:8-gaussians:flow --let b=exact:8-gaussians";
    let ran = dir.run(&format!("sample {models} --compose a&b -n 1000 --batch 1000 --npz a.npz"));
    ran.ok();
    for words in
        ["`b` denoises edm, and is taken as of flow", "from sigma/alpha 80.0000 to 0.0020, which all of them know"]
    {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    let spread = variance(&numbers(&array(&dir, "a.npz"))) / 0.15f64.powi(2);
    assert!((spread - 0.5).abs() < 5. * 0.5 / 1000f64.sqrt(), "{spread}");
}

#[test]
fn compositions_are_written_as_samples_are() {
    let dir = Dir::new();
    dir.model("a.safetensors", &spec(&[1, 8, 8], Some(3), Head::Energy), &[]);
    dir.model("b.safetensors", &spec(&[1, 8, 8], None, Head::Denoiser), &[]);
    dir.model("p.safetensors", &spec(&[2], None, Head::Energy), &[]);
    let images = "sample --let a=a.safetensors,class=2 --let b=b.safetensors --compose a&0.5*b --temperature 2 -n 3";
    let ran = dir.run(&format!("{images} sampler.steps=3 --out g.png --images each --npz a.npz"));
    assert_eq!(ran.ok(), "g.png\neach\na.npz\n");
    assert_eq!(array(&dir, "a.npz").dims(), [3, 8, 8, 1]);
    assert!(dir.path("each/2.png").exists());
    let png = String::from_utf8_lossy(&std::fs::read(dir.path("g.png")).unwrap()).into_owned();
    assert!(png.contains("a & 0.5*b") && png.contains("class=2"));
    // batches do not change a sample
    dir.run(&format!("{images} sampler.steps=3 --npz b.npz --batch 2")).ok();
    assert!(common::off(&array(&dir, "a.npz"), &array(&dir, "b.npz")) <= 1.);
    // the first change may stand where a model stands elsewhere
    let points = dir.run("sample --let p=p.safetensors --compose p -n 5 sampler.name=smc sampler.steps=4");
    assert_eq!(points.ok(), "samples.png\n");
    assert!(dir.run("sample sampler.steps=4 --let p=p.safetensors --compose 2*p -n 5 --out c.csv").ok() == "c.csv\n");
}

#[test]
fn tables_are_composed_in_their_own_columns() {
    let dir = Dir::new();
    let model = |name: &str, columns: &str| {
        let extra: Vec<_> =
            Some(columns).filter(|c| !c.is_empty()).map(|c| ("langevin.columns", c.to_string())).into_iter().collect();
        dir.model(&format!("{name}.safetensors"), &spec(&[3], None, Head::Energy), &extra);
    };
    model("a", r#"{"names":["age","kg","m"],"mean":[50,70,1000],"std":[0,0,0]}"#);
    model("b", r#"{"names":["age","kg","m"],"mean":[50,70,1000],"std":[0,0,0]}"#);
    model("turned", r#"{"names":["kg","age","m"],"mean":[50,70,1000],"std":[0,0,0]}"#);
    model("other", r#"{"names":["age","kg","m"],"mean":[50,71,1000],"std":[0,0,0]}"#);
    model("none", "");
    let with = |b: &str| {
        dir.run(&format!(
            "sample --let a=a.safetensors --let {b}={b}.safetensors --compose a&{b} -n 2 sampler.steps=3 --out t.csv"
        ))
    };
    assert_eq!(with("b").ok(), "t.csv\n");
    assert_eq!(std::fs::read_to_string(dir.path("t.csv")).unwrap(), "age,kg,m\n50,70,1000\n50,70,1000\n");
    with("turned").fails(2, &["age, kg, m", "kg, age, m"]);
    with("other").fails(2, &["column kg", "70", "71", "one table"]);
    with("none").fails(2, &["`a` has the columns", "`none` has none"]);
}

#[test]
fn what_mcmc_did_is_shown_level_by_level() {
    let dir = Dir::new();
    dir.model("m.safetensors", &spec(&[2], None, Head::Energy), &[]);
    let args = "sample m.safetensors -n 6 --npz a.npz --batch 4 sampler.steps=3 --report=levels.json";
    for (sampler, more) in [
        ("annealed-mcmc sampler.kernel=hmc", ""),
        ("pc sampler.corrector=mala sampler.corrector_steps=5", ""),
        ("pc sampler.corrector=mala sampler.replicas=2 sampler.corrector_steps=2", "swapped"),
        ("tempering", "swapped"),
        ("smc", "particles"),
    ] {
        let ran = dir.run(&format!("{args} sampler.name={sampler}"));
        let lines: Vec<&str> = ran.ok().lines().collect();
        assert_eq!(lines[..2], ["a.npz", "levels.json"]);
        assert!(lines[2].starts_with("level     sigma  accepted") && lines[2].ends_with(more), "{}", lines[2]);
        assert_eq!(lines.len(), 6, "{sampler}");
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path("levels.json")).unwrap()).unwrap();
        let levels = json.as_array().unwrap();
        assert_eq!(levels.len(), 3);
        for level in levels {
            assert_eq!(level["chains"], 6, "{sampler}");
            let rate = level["acceptance"].as_f64().unwrap();
            assert!(rate > 0. && rate <= 1., "{sampler} {level}");
            // from 4 steps at a level on there is an ESS and an R-hat, and with fewer it is said what they take
            let known = level["steps"].as_u64().unwrap() >= 4;
            assert_eq!([level["ess"].is_number(), level["r_hat"].is_number()], [known; 2], "{sampler} {level}");
            assert_eq!(ran.stderr.contains("ESS and R-hat take 4 steps"), !known, "{sampler}");
        }
        assert_eq!(levels[1]["swaps"].is_number(), more == "swapped");
        assert_eq!(levels[1]["particles"].is_number(), more == "particles");
    }
    // levels of 768 numbers in three steps have little in common
    dir.model("images.safetensors", &spec(&[3, 16, 16], None, Head::Energy), &[]);
    let few =
        "sample images.safetensors -n 2 sampler.steps=3 sampler.name=pc sampler.corrector=mala sampler.replicas=2";
    let ran = dir.run(few);
    ran.ok();
    assert!(ran.stderr.contains("replica exchange swapped less than 5% at 1 of 2"), "{}", ran.stderr);
    dir.run(&format!("{few} --interpolate 1,2")).fails(2, &["--interpolate: pc", "sampler.replicas=1"]);
    dir.run("sample m.safetensors --report").fails(2, &["--report: heun has no steps of MCMC", "annealed-mcmc"]);
    let score = dir.model("d.safetensors", &spec(&[2], None, Head::Denoiser), &[]);
    dir.run(&format!("sample {} sampler.name=smc -n 3", score.display()))
        .fails(1, &["no energy to weigh", "annealed-mcmc"]);
}

#[test]
fn what_cannot_be_composed_is_refused() {
    let dir = Dir::new();
    dir.model("a.safetensors", &spec(&[2], Some(3), Head::Energy), &[]);
    dir.model("d.safetensors", &spec(&[2], None, Head::Denoiser), &[]);
    dir.model("i.safetensors", &spec(&[1, 8, 8], None, Head::Energy), &[]);
    let of = |args: &str| dir.run(&format!("sample --let d=d.safetensors {args}"));
    of("--compose d&").fails(2, &["character 3 of \"d&\" is the end"]);
    of("--compose d&e").fails(2, &["no model `e`"]);
    of("--compose !d").fails(2, &["add up to -1"]);
    of("--compose d|d").fails(2, &["`d` has a score alone"]);
    of("--compose d --temperature 0").fails(2, &["temperature is 0"]);
    of("--compose d sampler.name=smc").fails(2, &["sampler.name = smc", "leave it out"]);
    of("--compose d sampler.name=consistency").fails(2, &["consistency"]);
    for option in ["--guide d.safetensors", "--guidance-interval 1,2", "--encode", "--strength 0.3", "--guidance 2"] {
        let ran = of(&format!("--compose d {option}"));
        let name = option.split(' ').next().unwrap();
        assert!(
            ran.code() == 2 && ran.stderr.contains("cannot be used with") && ran.stderr.contains(name),
            "{}",
            ran.stderr
        );
    }
    of("--compose d d.safetensors").fails(2, &["--let a=d.safetensors"]);
    of("--let d=d.safetensors --compose d").fails(2, &["two models of this name"]);
    of("--let i=i.safetensors --compose d&i").fails(2, &["shape [2], those of `i` [1, 8, 8]"]);
    of("--let a=a.safetensors --compose d&a").fails(2, &["this model has classes", ",class=2"]);
    of("--let a=a.safetensors,class=3 --compose d&a").fails(2, &["0 to 2"]);
    of("--let a=a.safetensors,class=x --compose d&a").fails(2, &["--let a=a.safetensors,class=x: ", "0 to 2"]);
    of("--let a=d.safetensors,class=0 --compose d&a").fails(2, &["without classes"]);
    of("--let &=d.safetensors --compose d").fails(2, &["is no name"]);
    of("--let a --compose d").fails(2, &["NAME=MODEL"]);
    of("--let e=exact:8-gaussians --compose d|e --estimate-ratios").fails(2, &["`d` has a score alone"]);
    of("--compose 2*d --estimate-ratios").fails(2, &["--estimate-ratios: there is no mixture in \"2*d\""]);
    of("--let e=exact:8-gaussians --compose e|2*e&d --estimate-ratios=1").fails(2, &["--estimate-ratios=1", "2 to"]);
    dir.model("e.safetensors", &spec(&[2], None, Head::Energy), &[]);
    of("--let e=e.safetensors --compose e|2:d").fails(2, &["`d` has a score alone"]);
    dir.run("sample --let e=e.safetensors --let x=exact:8-gaussians --compose x|e")
        .fails(2, &["`e` is part of a mixture", "--estimate-ratios", "such as 1:e"]);
    let far = ModelSpec { process: Edm { sigma_min: 1e3, sigma_max: 1e4 }.into(), ..spec(&[2], None, Head::Denoiser) };
    dir.model("far.safetensors", &far, &[]);
    of("--let f=far.safetensors --compose d&f").fails(2, &["none in common"]);
    of("--let e=d.safetensors --compose d").fails(2, &["`e` is not in \"d\""]);
}
