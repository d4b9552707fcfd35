//! `langevin sample --compose` and `--report`: what they draw, write and refuse.

mod common;

use candle_core::Tensor;
use common::{Dir, numbers, spec};
use langevin_models::Head;

fn array(dir: &Dir, name: &str) -> Tensor {
    Tensor::read_npz_by_name(dir.path(name), &["arr_0"]).unwrap().remove(0)
}

/// The power of a mixture whose modes are far apart has modes as many times narrower: 0.15^2 / 4 along each axis.
#[test]
fn a_power_is_as_narrow_as_it_should_be() {
    let dir = Dir::new();
    let args = "sample --let a=exact:8-gaussians --compose 4*a -n 400 --batch 400 --npz";
    for sampler in
        ["pc sampler.corrector.name=hmc", "annealed-mcmc sampler.kernel.name=hmc sampler.kernel.step=0.5", "smc"]
    {
        dir.run(&format!("{args} a.npz sampler.steps=40 sampler.name={sampler}")).ok();
        let x = numbers(&array(&dir, "a.npz"));
        let far = |p: &[f64]| {
            let mode = |k: u32| f64::from(k) * std::f64::consts::TAU / 8.;
            let square = |k: u32| (p[0] - 1.4 * mode(k).cos()).powi(2) + (p[1] - 1.4 * mode(k).sin()).powi(2);
            (0..8).map(square).fold(f64::INFINITY, f64::min)
        };
        let mean = x.chunks(2).map(far).sum::<f64>() / 400.;
        let truth = 2. * 0.15f64.powi(2) / 4.;
        // a sum of two squares of normals has the standard deviation of its mean; particles are fewer than their number
        assert!((mean / truth - 1.).abs() < 5. / 200f64.sqrt(), "{sampler}: {mean}, exact {truth}");
    }
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
        }
        assert_eq!(levels[1]["swaps"].is_number(), more == "swapped");
        assert_eq!(levels[1]["particles"].is_number(), more == "particles");
    }
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
    of("--compose d sampler.name=smc").fails(2, &["sampler.name=smc", "leave it out"]);
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
    of("--let a=a.safetensors,class=x --compose d&a").fails(2, &["--class x", "0 to 2"]);
    of("--let a=d.safetensors,class=0 --compose d&a").fails(2, &["without classes"]);
    of("--let &=d.safetensors --compose d").fails(2, &["is no name"]);
    of("--let a --compose d").fails(2, &["NAME=MODEL"]);
    of("--let e=exact:8-gaussians:vp --compose d&e").fails(2, &["must denoise the same process"]);
    of("--let e=d.safetensors --compose d").fails(2, &["`e` is not in \"d\""]);
}
