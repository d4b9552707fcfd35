//! `langevin info`, `list`, `ema`, `export`, `check`, `bench`, and what the program says of itself.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{Dir, ddpm, numbers, spec};
use langevin::models::{Form, Head, ModelSpec, checkpoint};
use serde_json::json;
use std::collections::BTreeMap;

#[test]
fn info_says_what_a_file_is() {
    let dir = Dir::new();
    let config = dir.run("train toy:two-moons train.steps=700 --dry-run").ok().to_string();
    let extra = [("langevin.run", config.clone()), ("langevin.step", "300".to_string())];
    dir.model("run/model.safetensors", &spec(&[2], None, Head::Energy), &extra);
    let ran = dir.run("info run");
    let said = ran.ok();
    for fact in
        ["samples      2", "mlp, ", "energy, residual", "edm", "0.5000", "300 of 700 steps", "toy:two-moons", &config]
    {
        assert!(said.contains(fact.trim_end()), "no {fact:?} in\n{said}");
    }
    dir.model("m.safetensors", &spec(&[3, 8, 8], Some(4), Head::Denoiser), &[]);
    let ran = dir.run("info m.safetensors");
    assert!(
        ran.ok().contains("3 x 8 x 8")
            && ran.stdout.contains("a plain network")
            && ran.stdout.contains("classes      4")
    );
    dir.model("bad.safetensors", &spec(&[2], None, Head::Energy), &[("langevin.run", "data = 3".into())]);
    dir.run("info bad.safetensors").fails(2, &["bad.safetensors", "data"]);
    dir.run("info nowhere").fails(2, &["nowhere"]);
}

#[test]
fn the_sampler_of_the_run_is_the_default() {
    let dir = Dir::new();
    let config = dir.run("train toy:two-moons sampler.name=euler sampler.steps=5 --dry-run").ok().to_string();
    dir.model("m.safetensors", &spec(&[2], None, Head::Energy), &[("langevin.run", config)]);
    dir.run("sample m.safetensors -n 3 --out a.png sampler.clip=true").ok();
    let png = String::from_utf8_lossy(&std::fs::read(dir.path("a.png")).unwrap()).into_owned();
    assert!(png.contains("\"euler\"") && png.contains("steps = 5") && png.contains("clip = true"));
}

#[test]
fn everything_that_has_a_name_is_listed() {
    let dir = Dir::new();
    let all = dir.run("list");
    for name in [
        "digits",
        "toy:two-moons",
        "edm",
        "velocity",
        "heun",
        "karras",
        "min-snr",
        "log-normal",
        "adamw",
        "power",
        "unet",
        "residual",
    ] {
        assert!(all.ok().contains(&format!("  {name} ")), "{name}");
    }
    let samplers = dir.run("list samplers");
    assert!(samplers.ok().starts_with("euler ") && !samplers.stdout.contains("karras"));
    dir.run("list things").fails(2, &["things", "samplers", "presets"]);
}

#[test]
fn an_average_of_another_length_is_rebuilt_from_snapshots() {
    let dir = Dir::new();
    dir.run("ema run --std 0.1").fails(2, &["run"]);
    let spec = spec(&[2], None, Head::Energy);
    dir.model("run/model.safetensors", &spec, &[]);
    dir.run("ema run --std 0.1").fails(1, &["snapshots", "ema.name=power"]);
    dir.run("ema run --std 0.4").fails(2, &["--std 0.4"]);
    // averages of theta(k) = k: under the profile k^gamma the mean is (gamma + 1) / (gamma + 2) of the last step
    let model = langevin::models::Model::new(spec.clone(), 3, DType::F32, &Device::Cpu).unwrap();
    let gamma = |width: f64| langevin::train::ema::exponent(width).unwrap();
    let mean = |width: f64, step: u64| (gamma(width) + 1.) / (gamma(width) + 2.) * step as f64;
    std::fs::create_dir(dir.path("run/snapshots")).unwrap();
    for step in (100..=1000).step_by(100) {
        for (number, width) in [("", 0.05), (".2", 0.10)] {
            let fill = |t: Tensor| (t.zeros_like().unwrap() + mean(width, step)).unwrap();
            let weights: Vec<_> = checkpoint::weights(&model).into_iter().map(|(name, t)| (name, fill(t))).collect();
            let notes = [("langevin.sigma_rel", width.to_string()), ("langevin.step", step.to_string())];
            let notes: BTreeMap<_, _> = notes.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
            let path = dir.path(&format!("run/snapshots/step-{step}{number}.safetensors"));
            checkpoint::save(&path, &spec, &weights, &notes).unwrap();
        }
    }
    assert_eq!(dir.run("ema run --std 0.07").ok(), "run/ema-0.07.safetensors\n");
    dir.run("ema run --std 0.07 --step 600 --out b.safetensors").ok();
    for (file, step) in [("run/ema-0.07.safetensors", 1000), ("b.safetensors", 600)] {
        let (model, notes) = checkpoint::load(&dir.path(file), DType::F32, &Device::Cpu).unwrap();
        let found = numbers(model.vars()[0].1.as_tensor())[0];
        let expected = mean(0.07, step);
        assert!((found - expected).abs() < 0.005 * step as f64, "{file}: {found}, not {expected}");
        assert_eq!(
            (notes["langevin.step"].as_str(), notes["langevin.sigma_rel"].as_str()),
            (&*step.to_string(), "0.07")
        );
    }
    let weights: Vec<_> = checkpoint::weights(&model)
        .into_iter()
        .map(|(name, t)| (name, (t.zeros_like().unwrap() + 1e38).unwrap()))
        .collect();
    checkpoint::save(&dir.path("large.safetensors"), &spec, &weights, &BTreeMap::new()).unwrap();
    dir.run("sample large.safetensors -n 2 sampler.steps=2").fails(1, &["not finite"]);
    dir.run("ema run --std 0.07 --step 50").fails(1, &["step 50"]);
    dir.run("ema run --std 0.07 --out no/b.safetensors").fails(1, &["no folder"]);
}

#[test]
fn bench_prints_the_line_of_the_peer() {
    let dir = Dir::new();
    let ran = dir.run("bench --net mnist --case forward --batch 1 --runs 2");
    let words: Vec<_> = ran.ok().split_whitespace().collect();
    assert_eq!((words.len(), words[0], words[1]), (6, "mnist/forward", "batch=1"));
    let number = |i: usize, key: &str| words[i].strip_prefix(key).unwrap().parse::<f64>().unwrap();
    assert!(number(2, "params=") > 1e5);
    assert!(number(3, "median_ms=") >= number(4, "min_ms=") && number(4, "min_ms=") > 0.);
    #[cfg(target_os = "linux")]
    assert!(number(5, "peak_mib=") > 5.);
    dir.run("bench --batch 0").fails(2, &["--batch"]);
}

#[test]
fn licences_and_completions() {
    let dir = Dir::new();
    let ran = dir.run("--licences");
    for words in ["MIT License", "Apache License", "Attribution-Share Alike 3.0", "Juan Cazala"] {
        assert!(ran.ok().contains(words), "{words}");
    }
    assert!(dir.run("completions bash").ok().contains("langevin"));
}

#[test]
fn devices_that_are_not_there() {
    let dir = Dir::new();
    dir.model("m.safetensors", &spec(&[2], None, Head::Energy), &[]);
    dir.run("sample m.safetensors --device gpu").fails(2, &["gpu", "cuda"]);
    dir.run("sample m.safetensors --device cpu:x").fails(2, &["cpu:x"]);
    dir.run_with("sample m.safetensors", 0).fails(2, &["--threads 0"]);
    for threads in [1025, usize::MAX] {
        dir.run_with("sample m.safetensors", threads).fails(2, &[&format!("--threads {threads}"), "1 to 1024"]);
    }
}

#[test]
fn an_export_is_a_folder_of_diffusers() {
    let dir = Dir::new();
    dir.model("energy.safetensors", &spec(&[1, 8, 8], None, Head::Energy), &[]);
    dir.model("table.safetensors", &ddpm(&[1, 8, 8]), &[]);
    let index = |name: &str| {
        let text = std::fs::read_to_string(dir.path(name).join("model_index.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    assert_eq!(dir.run("export energy.safetensors a sampler.steps=5").ok(), "a\n");
    assert_eq!(index("a")["levels"].as_array().unwrap().len(), 5);
    assert_eq!(index("a")["form"], "residual");
    for file in ["pipeline.py", "README.md", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"] {
        assert!(dir.path("a").join(file).is_file(), "{file}");
    }
    dir.run("export table.safetensors b").ok();
    assert_eq!(index("b")["_class_name"], "DDPMPipeline");
    assert!(dir.path("b/scheduler/scheduler_config.json").is_file());
    // the folder stays a model of ours, with its run
    let config = dir.run("train digits sampler.name=euler sampler.steps=4 --dry-run").ok().to_string();
    let notes = [("langevin.run", config), ("langevin.step", "123".to_string())];
    dir.model("run.safetensors", &spec(&[1, 8, 8], None, Head::Energy), &notes);
    dir.run("export run.safetensors e").ok();
    let said = dir.run("info e").ok().to_string();
    assert!(said.contains("energy, residual") && said.contains("123 of 3000") && said.contains("steps = 4"), "{said}");
    let card = std::fs::read_to_string(dir.path("e/README.md")).unwrap();
    assert!(card.contains("`digits` for 123 steps of 32 samples") && card.contains("name = \"euler\""), "{card}");
    assert_eq!(index("e")["levels"].as_array().unwrap().len(), 4);
    // what the run's sampler does, the exported pipeline does
    let config = dir.run("train digits sampler.clip=true sampler.angle_above=7 --dry-run").ok().to_string();
    let clips = [("langevin.run", config)];
    dir.model("clips.safetensors", &spec(&[1, 8, 8], None, Head::Energy), &clips);
    dir.run("export clips.safetensors f").ok();
    assert_eq!((&index("f")["clip"], &index("f")["angle_above"]), (&json!(true), &json!(7.)));
    assert_eq!((&index("a")["clip"], &index("a")["angle_above"]), (&json!(false), &json!(1000.)));
    assert_eq!((&index("a")["second_order"], &index("e")["second_order"]), (&json!(true), &json!(false)));
    dir.model("clipped.safetensors", &ddpm(&[1, 8, 8]), &clips);
    dir.run("export clipped.safetensors g").ok();
    let clips = |name: &str| {
        let text = std::fs::read_to_string(dir.path(name).join("scheduler/scheduler_config.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["clip_sample"].clone()
    };
    assert_eq!((clips("b"), clips("g")), (json!(false), json!(true)));
    // which keys would have made a DDPMPipeline of it
    let scaled = ModelSpec { sigma_data: 0.5, ..ddpm(&[1, 8, 8]) };
    dir.model("scaled.safetensors", &scaled, &[]);
    let ran = dir.run("export scaled.safetensors j sampler.steps=3");
    assert!(ran.ok() == "j\n" && ran.stderr.contains("trained with model.sigma_data=1 as well"), "{}", ran.stderr);
    assert!(
        dir.run("export energy.safetensors k")
            .stderr
            .contains("model.head=denoiser, process.name=table, model.predict=eps")
    );
    // no pipeline of diffusers tells a class, and a form in the noise level is told it
    dir.model("told.safetensors", &ModelSpec { classes: Some(3), ..ddpm(&[1, 8, 8]) }, &[]);
    dir.run("export told.safetensors h").ok();
    assert_eq!(index("h")["_class_name"], json!(["pipeline", "LangevinPipeline"]));
    let card = std::fs::read_to_string(dir.path("h/README.md")).unwrap();
    assert!(card.contains("batch_size=4, class_labels=[0, 1, 2, 0]") && card.contains("no class"), "{card}");
    let by_noise = ModelSpec { form: Form::NoiseNorm, ..spec(&[1, 8, 8], None, Head::Energy) };
    dir.model("noise-norm.safetensors", &by_noise, &[]);
    dir.run("export noise-norm.safetensors i sampler.steps=3").ok();
    for level in index("i")["levels"].as_array().unwrap() {
        let [alpha, sigma, ratio] = ["alpha", "sigma", "ratio"].map(|key| level[key].as_f64().unwrap());
        assert!((ratio * 0.5 * alpha / sigma - 1.).abs() < 1e-12, "{level}");
    }
    let pipeline = std::fs::read_to_string(dir.path("i/pipeline.py")).unwrap();
    for (form, _) in Form::ALL {
        assert!(pipeline.contains(&format!("\"{form}\": lambda")), "{form}");
    }
    dir.run("sample b/unet/diffusion_pytorch_model.safetensors -n 1 sampler.steps=2").ok();
    dir.run("export table.safetensors b").fails(2, &["b is there already"]);
    dir.run("export energy.safetensors c sampler.name=ddpm").fails(2, &["ddpm", "heun"]);
    assert!(!dir.path("c").exists() && !dir.path(".c.partial").exists());
    dir.model("points.safetensors", &spec(&[2], None, Head::Energy), &[]);
    dir.run("export points.safetensors d").fails(1, &["mlp"]);
}
