//! What is typed counts, wherever it stands among the changes; what cannot be honoured beside something else is an error that
//! names it.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{Dir, ddpm, read_tensors, spec, write_tensors};
use langevin::models::{Head, ModelSpec};
use std::fs;

/// The configuration that `train` resolves `changes` to.
#[track_caller]
fn config(dir: &Dir, changes: &[&str]) -> toml::Table {
    dir.run(&format!("train digits --dry-run {}", changes.join(" "))).ok().parse().unwrap()
}

fn at<'a>(config: &'a toml::Table, key: &str) -> &'a toml::Value {
    let mut parts = key.split('.');
    let first = &config[parts.next().unwrap()];
    parts.fold(first, |at, part| &at[part])
}

/// Every order of `of`.
fn orders<'a>(of: &[&'a str]) -> Vec<Vec<&'a str>> {
    if of.len() < 2 {
        return vec![of.to_vec()];
    }
    let with = |i: usize| {
        let rest: Vec<&str> = of.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, one)| *one).collect();
        orders(&rest).into_iter().map(move |order| [vec![of[i]], order].concat()).collect::<Vec<_>>()
    };
    (0..of.len()).flat_map(with).collect()
}

#[test]
fn changes_mean_the_same_in_every_order() {
    let dir = Dir::new();
    for (changes, key, value) in [
        (&["sampler.steps=7", "sampler.eta=0.5", "sampler.name=ddim"][..], "sampler.eta", "0.5"),
        (
            &["sampler.kernel.leapfrogs=3", "sampler.name=annealed-mcmc", "sampler.kernel=hmc"],
            "sampler.kernel.leapfrogs",
            "3",
        ),
        (
            &["sampler.predictor.eta=1", "sampler.predictor.name=ddim", "sampler.name=pc"],
            "sampler.predictor.eta",
            "1.0",
        ),
        (&["sampler.corrector.step=0.2", "sampler.corrector=mala", "sampler.name=pc"], "sampler.corrector.step", "0.2"),
        (&["sampler.grid.a=0.7", "sampler.grid=beta", "sampler.name=euler"], "sampler.grid.a", "0.7"),
        (&["optimiser.momentum=0.5", "optimiser=sgd"], "optimiser.momentum", "0.5"),
        (&["model.net.layers=3", "model.net={name=\"mlp\",width=32}"], "model.net.width", "32"),
        (&["loss.level.p_mean=-1", "loss.level=log-normal"], "loss.level.p_mean", "-1.0"),
        (
            &["loss.level.base.p_mean=-1", "loss.level.base=log-normal", "loss.level=importance"],
            "loss.level.base.p_mean",
            "-1.0",
        ),
        (&["ema.sigma_rel=[0.1,0.2]", "ema.name=power"], "ema.sigma_rel", "[0.1, 0.2]"),
    ] {
        let all: Vec<_> = orders(changes).iter().map(|order| config(&dir, order)).collect();
        assert_eq!(at(&all[0], key).to_string(), value, "{changes:?}");
        assert!(all.iter().all(|one| *one == all[0]), "{changes:?}");
    }
}

#[test]
fn the_options_of_another_thing_go_with_it_and_others_stay() {
    let dir = Dir::new();
    let text = "[data]\nspec = \"digits\"\n[model]\nnet = { name = \"mlp\", width = 16 }\n[sampler]\nname = \"ddim\"\n\
                eta = 0.7\nsteps = 9\ngrid = { name = \"karras\", rho = 5.0 }\n[loss]\nlevel = { name = \"discrete\", steps = 50 }\n";
    fs::write(dir.path("mine.toml"), text).unwrap();
    let of = |changes: &str| -> toml::Table {
        dir.run(&format!("train mine.toml --dry-run {changes}")).ok().parse().unwrap()
    };
    // the same name again replaces nothing; in short it is the thing with its own defaults
    let read = of("sampler.name=ddim sampler.grid.name=karras");
    assert_eq!((at(&read, "sampler.eta"), at(&read, "sampler.grid.rho")), (&0.7.into(), &5.0.into()));
    let read = of("sampler=ddim sampler.grid=karras");
    assert_eq!((at(&read, "sampler.eta"), at(&read, "sampler.grid.rho")), (&0.0.into(), &7.0.into()));
    assert_eq!(at(&read, "sampler.steps"), &9.into());
    // so does the name that a loss without one has
    assert_eq!(at(&of("loss.name=denoising"), "loss.level.steps"), &50.into());
    let density = |changes: &str| dir.run(&format!("train digits-density --dry-run {changes}")).ok().to_string();
    assert_eq!(density("loss.name=dual"), density(""));
    // another name does; what all samplers have stays with the sampler, and with nothing else
    let other = of("sampler.name=heun sampler.grid=leading loss.level=log-normal");
    assert_eq!(at(&other, "sampler.steps"), &9.into());
    assert!(at(&other, "sampler").get("eta").is_none() && at(&other, "sampler.grid").get("rho").is_none());
    assert!(at(&other, "loss.level").get("steps").is_none());
    // an option of a thing that only a default names
    let config =
        config(&dir, &["optimiser.weight_decay=0.3", "loss.level.p_mean=-1", "ema.decay=0.5", "process.sigma_max=9"]);
    assert_eq!(
        (at(&config, "optimiser.name"), at(&config, "loss.level.name")),
        (&"adamw".into(), &"log-normal".into())
    );
    assert_eq!((at(&config, "optimiser.weight_decay"), at(&config, "ema.decay")), (&0.3.into(), &0.5.into()));
    // a whole section in its place
    assert_eq!(at(&of("sampler={name=\"heun\"}"), "sampler.steps"), &18.into());
}

#[test]
fn of_two_changes_of_one_key_the_later_counts_and_is_told() {
    let dir = Dir::new();
    for (changes, key, value, replaced) in [
        ("sampler.steps=5 sampler.steps=6", "sampler.steps", "6", Some("sampler.steps=5")),
        ("sampler.grid=karras sampler.grid.name=leading", "sampler.grid.name", "\"leading\"", None),
        (
            "sampler.grid=karras sampler.grid=leading sampler.grid.offset=1",
            "sampler.grid.name",
            "\"leading\"",
            Some("sampler.grid=karras"),
        ),
        ("model.net={name=\"mlp\",width=8} model.net.width=9", "model.net.width", "9", Some("model.net={")),
        ("train.steps=1000 train.steps=1e3", "train.steps", "1000", None),
    ] {
        let ran = dir.run(&format!("train digits --dry-run {changes}"));
        assert_eq!(at(&ran.ok().parse().unwrap(), key).to_string(), value, "{changes}");
        let words = replaced.map_or("".into(), |text| format!("` comes after `{text}"));
        assert!(
            ran.stderr.contains(&words) && (replaced.is_some() || !ran.stderr.contains("train.steps")),
            "{}",
            ran.stderr
        );
    }
    dir.model("m.safetensors", &spec(&[2], None, Head::Energy), &[]);
    let ran = dir.run("sample m.safetensors -n 1 sampler.steps=3 sampler.steps=2");
    assert!(ran.ok() == "samples.png\n" && ran.stderr.contains("`sampler.steps=2` comes after"), "{}", ran.stderr);
}

#[test]
fn changes_that_contradict_each_other_are_an_error() {
    let dir = Dir::new();
    let train = |changes: &str| dir.run(&format!("train digits --dry-run {changes}"));
    for (changes, words) in [
        ("model.sigma_data=1 model.sigma_data.x=2", ["model.sigma_data=1", "model.sigma_data.x=2"]),
        ("model.sigma_data.x=2 model.sigma_data=1", ["model.sigma_data=1", "model.sigma_data.x=2"]),
        ("--seed 4 train.seed=5", ["--seed", "train.seed=5"]),
        ("--data digits:test data.spec=digits:train", ["--data", "data.spec=digits:train"]),
    ] {
        train(changes).fails(2, &words);
    }
    // a misspelt option says which there are, in every order
    for changes in ["loss.level.std=2 loss.level=log-normal", "loss.level=log-normal loss.level.std=2"] {
        train(changes).fails(2, &["loss.level", "std", "p_mean", "p_std"]);
    }
    train("sampler.name=ddim sampler.etaa=1").fails(2, &["etaa", "eta", "steps, grid, clip of every sampler"]);
}

#[test]
fn a_value_of_the_wrong_kind_says_what_to_write() {
    let dir = Dir::new();
    for (change, words) in [
        ("train.lr=.5", ["train.lr", "write 0.5 in place of .5"]),
        ("train.lr=1e400", ["train.lr", "1e400 is too large"]),
        ("train.steps=1.5", ["train.steps", "a whole number"]),
        ("train.steps=-3", ["train.steps", "at least 0, not -3"]),
        ("train.seed=9223372036854775808", ["train.seed", "at most 9223372036854775807"]),
        ("data.flip=yes", ["data.flip", "true or false, not \"yes\""]),
        ("data.spec=2024", ["data.spec", "put in quotes"]),
        ("optimiser={name=\"adamw\",weight_decay=\".1\"}", ["weight_decay", "write 0.1 in place of .1"]),
        ("model.net.channels=8", ["channels", "a list"]),
    ] {
        dir.run(&format!("train digits --dry-run {change}")).fails(2, &words);
    }
    dir.run("train digits --dry-run --seed 9223372036854775808").fails(2, &["train.seed", "too large"]);
    // numbers as people write them, and names that look like something else
    assert_eq!(at(&config(&dir, &["train.steps=2e3", "model.net.channels=[1.6e1,8]"]), "train.steps"), &2000.into());
    assert_eq!(at(&config(&dir, &["data.spec=2024-01-02"]), "data.spec"), &"2024-01-02".into());
    assert_eq!(at(&config(&dir, &["data.spec=3#4"]), "data.spec"), &"3#4".into());
}

#[test]
fn the_data_are_those_that_were_meant() {
    let dir = Dir::new();
    fs::create_dir_all(dir.path("digits")).unwrap();
    fs::write(dir.path("rows.csv"), "a,b\n1,2\n2,1\n3,5\n").unwrap();
    let pixels = image::GrayImage::from_fn(8, 8, |x, y| image::Luma([(31 * x + 7 * y) as u8]));
    (0..3).for_each(|i| pixels.save(dir.path(&format!("digits/{i}.png"))).unwrap());
    dir.model("m.safetensors", &spec(&[1, 28, 28], None, Head::Energy), &[]);
    let words = ["a data set and a folder here", "digits:train", "./digits"];
    for args in [
        "train digits --dry-run --data digits",
        "train digits --dry-run data.spec=digits",
        "eval bits m.safetensors --data digits",
        "eval ood m.safetensors --data digits --ood noise:uniform",
        "eval ood m.safetensors --data noise:uniform --fit noise:gaussian --ood rotate:90=digits",
        "eval ood m.safetensors --data noise:uniform --fit digits --ood noise:gaussian",
        "detect m.safetensors digits --fit noise:uniform",
        "look curl m.safetensors --data digits",
        "inpaint m.safetensors --data digits --mask half",
    ] {
        dir.run(args).fails(2, &words);
    }
    let spec =
        |args: &str| at(&dir.run(&format!("train digits --dry-run {args}")).ok().parse().unwrap(), "data.spec").clone();
    assert_eq!(spec(""), "digits".into(), "the preset's own data are no riddle");
    assert_eq!(spec("--data digits:train"), "digits:train".into());
    assert_eq!(spec("--data ./digits data.size=8"), "./digits".into());
    for (args, word) in
        [("digits", "digits"), ("toy", "toy:two-moons"), ("toy --data rows.csv", "rows.csv"), ("cifar10", "cifar10")]
    {
        dir.run(&format!("train {args} data.size=16 --dry-run")).fails(2, &["data.size = 16", word, "not a folder"]);
    }
    for (args, key) in [("--data rows.csv data.flip=true", "flip"), ("data.dequantise=true", "dequantise")] {
        dir.run(&format!("train toy --out run {args}")).fails(2, &[&format!("data.{key} = true"), "images"]);
        assert!(!dir.path("run").exists());
    }
}

#[test]
fn a_scheduler_does_what_is_typed_or_says_why_not() {
    let dir = Dir::new();
    dir.model("table.safetensors", &ddpm(&[1, 8, 8]), &[]);
    dir.run("export table.safetensors folder").ok();
    let weights = dir.path("folder/unet/diffusion_pytorch_model.safetensors");
    let tensors = read_tensors(&weights);
    write_tensors(&weights, &tensors.iter().map(|(name, t)| (name.as_str(), t.clone())).collect::<Vec<_>>());
    let drawn = |args: &str| {
        dir.run(&format!("sample {args} -n 2 noise=torch --images out --out a.png")).ok();
        [0, 1].map(|i| image::open(dir.path(&format!("out/{i}.png"))).unwrap().to_luma8().into_raw()).concat()
    };
    let near = |a: &[u8], b: &[u8]| a.iter().zip(b).all(|(a, b)| a.abs_diff(*b) <= 3); // its table is in single precision
    let ddim = "folder --scheduler DDIMScheduler sampler.steps=5";
    for (theirs, ours) in [
        ("folder sampler.steps=5", "name=ddpm"),
        ("folder sampler.clip=true sampler.steps=5", "name=ddpm sampler.clip=true"),
        (ddim, "name=ddim"),
        (&format!("{ddim} sampler.clip=true"), "name=ddim sampler.clip=true sampler.use_clipped_model_output=false"),
        (&format!("{ddim} sampler.eta=1"), "name=ddim sampler.eta=1"),
    ] {
        let by_ours = format!("table.safetensors sampler.{ours} sampler.grid=leading sampler.steps=5");
        assert!(near(&drawn(theirs), &drawn(&by_ours)), "{theirs}");
    }
    assert!(!near(&drawn(ddim), &drawn(&format!("{ddim} sampler.clip=true"))));
    // the class clips unless told otherwise, as its signature has it
    let clips = fs::read_to_string(dir.path("folder/scheduler/scheduler_config.json")).unwrap();
    fs::write(
        dir.path("folder/scheduler/scheduler_config.json"),
        clips.replace("\"clip_sample\": false", "\"clip_sample\": true"),
    )
    .unwrap();
    assert!(near(
        &drawn("folder sampler.clip=false sampler.steps=5"),
        &drawn("table.safetensors sampler.name=ddpm sampler.grid=leading sampler.steps=5")
    ));
    drawn("folder --scheduler DDIMScheduler sampler.clip=false sampler.steps=3");
    let png = String::from_utf8_lossy(&fs::read(dir.path("a.png")).unwrap()).into_owned();
    assert!(png.contains("DDIMScheduler of diffusers, 3 steps, sampler.clip=false"));
    for (args, words) in [
        ("--scheduler DDIMScheduler sampler.name=heun", ["--scheduler DDIMScheduler", "sampler.name=heun"]),
        ("--scheduler DDIMScheduler sampler=heun", ["--scheduler DDIMScheduler", "sampler=heun"]),
        ("--scheduler DDIMScheduler sampler={name=\"heun\"}", ["--scheduler DDIMScheduler", "sampler={"]),
        ("--scheduler DDIMScheduler sampler.grid=karras", ["sampler.grid=karras", "in place of --scheduler"]),
        ("sampler.grid.name=karras sampler.clip=true", ["sampler.grid.name=karras", "sampler.name=heun"]),
        ("--scheduler DDIMScheduler sampler.angle_above=7", ["angle_above", "eta"]),
    ] {
        dir.run(&format!("sample folder -n 1 {args}")).fails(2, &words);
    }
    assert!(near(
        &drawn("folder sampler.grid=karras sampler.name=heun sampler.steps=4"),
        &drawn("table.safetensors sampler.grid=karras sampler.name=heun sampler.steps=4")
    ));
}

/// Each command asks for something that cannot be honoured beside something else: the error names it.
#[test]
fn what_means_nothing_beside_the_rest_is_an_error() {
    let dir = Dir::new();
    dir.model("energy.safetensors", &spec(&[1, 28, 28], None, Head::Energy), &[]);
    dir.model("plain.safetensors", &spec(&[1, 28, 28], None, Head::Denoiser), &[]);
    dir.model("classes.safetensors", &spec(&[1, 28, 28], Some(10), Head::Energy), &[]);
    let null = ModelSpec { null_class: true, ..spec(&[1, 28, 28], Some(10), Head::Energy) };
    dir.model("null.safetensors", &null, &[]);
    dir.model("points.safetensors", &spec(&[2], None, Head::Energy), &[]);
    dir.model("table.safetensors", &ddpm(&[1, 28, 28]), &[]);
    let zero = Tensor::zeros((1, 1, 28, 28), DType::F32, &Device::Cpu).unwrap();
    let time = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
    write_tensors(&dir.path("x.safetensors"), &[("sample", zero), ("timestep", time)]);
    image::GrayImage::new(28, 28).save(dir.path("i.png")).unwrap();
    let mut wrong = vec![];
    let bits = "eval bits energy.safetensors --data digits:test -n 2";
    let points = "eval bits points.safetensors --data toy:two-moons:test -n 2 --method ode";
    let apply = "apply plain.safetensors --input x.safetensors --output y.safetensors";
    let compose = "sample --let a=exact:8-gaussians --compose a|a";
    for (command, words) in [
        ("--licences list", ["--licences", "cannot be used"]),
        ("train digits --dry-run model.head=denoiser model.form=residual", ["model.form=residual", "head = denoiser"]),
        (
            "train digits --dry-run train.second_order=exact model.head=denoiser",
            ["train.second_order=exact", "denoiser"],
        ),
        ("train digits --dry-run train.distil=5", ["train.distil=5", "model.from"]),
        ("train digits --dry-run process=table process.beta_start=.1", ["beta_start", "write 0.1"]),
        (
            "train digits --dry-run process.beta_start=0.1 process=table process.beta_schedule=cosine",
            ["process.beta_start=0.1", "no first and last beta"],
        ),
        (
            "train digits --dry-run sampler.name=pc sampler.corrector=mala sampler.snr=0.1",
            ["sampler.snr=0.1", "corrector"],
        ),
        ("sample energy.safetensors sampler.name=pc sampler.adapt=3", ["sampler.adapt=3", "test of acceptance"]),
        ("sample energy.safetensors --strength 0.5", ["--strength", "--from"]),
        ("sample energy.safetensors --encode", ["--encode", "--from"]),
        ("sample energy.safetensors --temperature 2", ["--temperature", "--compose"]),
        ("sample energy.safetensors --guide plain.safetensors", ["--guide", "--guidance"]),
        ("sample energy.safetensors --seeds 1 -n 2", ["--seeds", "-n"]),
        ("sample energy.safetensors --scheduler DDIMScheduler", ["--scheduler", "a model of ours"]),
        ("sample classes.safetensors --interpolate 1,2", ["--interpolate", "--class 0 to 9"]),
        ("sample null.safetensors --interpolate 1,2 -n 3", ["--interpolate", "--class 0 to 9, or none"]),
        (&format!("{compose} --class 3"), ["--class", "--compose"]),
        (&format!("{compose}&a --scheduler DDIMScheduler"), ["--scheduler", "--compose"]),
        ("sample --let a=exact:8-gaussians --compose 2*a --estimate-ratios", ["--estimate-ratios", "no mixture"]),
        (&format!("{compose} --estimate-ratios=9"), ["--estimate-ratios=9", "normalised"]),
        ("export table.safetensors a sampler.steps=3", ["sampler.KEY=value", "scheduler of diffusers"]),
        ("export energy.safetensors b noise=torch", ["noise=torch", "leave it out"]),
        (&format!("{bits} --method ais --rtol 1e-3"), ["--rtol", "--method ode"]),
        (&format!("{bits} --method ais --max-steps 10"), ["--max-steps", "--method ode"]),
        (&format!("{bits} --method ode --levels 200"), ["--levels", "--method ais"]),
        (&format!("{bits} --method ode --moves 0"), ["--moves", "--method ais"]),
        (&format!("{bits} --method ais --kernel hmc"), ["--kernel", "--moves 1"]),
        (&format!("{bits} --method ode --divergence exact --probe normal"), ["--probe", "--divergence exact"]),
        ("eval bits plain.safetensors --data digits:test -n 2 --particles 8", ["--particles", "--method ais"]),
        (&format!("{points} --probes 2 --divergence exact"), ["--probes", "--divergence exact"]),
        (
            "eval ood energy.safetensors --data digits:test --fit digits --ood noise:uniform --scores energy,energy",
            ["--scores energy", "twice"],
        ),
        (
            "detect energy.safetensors digits:test --fit digits energy.name=typicality",
            ["energy.name=typicality", "energy"],
        ),
        ("look landscape energy.safetensors --data digits", ["--data", "points"]),
        ("look landscape points.safetensors --through 1,2,3", ["--through", "points"]),
        ("inpaint plain.safetensors --data digits --table --out a.png", ["--out", "--table"]),
        ("inpaint plain.safetensors --input i.png --mask half --task colour", ["--mask", "--task"]),
        ("inpaint plain.safetensors --input i.png --mask half --measured", ["--measured", "leave it out"]),
        (
            "inpaint plain.safetensors --input i.png --mask half sampler.variance=fixed-large",
            ["sampler.variance", "--method"],
        ),
        ("inpaint plain.safetensors --input i.png --mask half sampler={steps=3}", ["sampler={steps=3}", "--method"]),
        (
            "inpaint plain.safetensors --input i.png --mask half --method dps repaint.jump=3",
            ["repaint.jump=3", "--method"],
        ),
        ("inpaint plain.safetensors --input i.png --mask half --method dps,dps", ["--method dps", "twice"]),
        ("inpaint plain.safetensors --input i.png --mask half --method dps dps=mcmc", ["dps=mcmc", "leave it out"]),
        (&format!("{apply} --what output --energy residual"), ["--energy", "--what"]),
        (&format!("{apply} --what x0 --energy residual"), ["--energy", "--what"]),
        ("bench --differences --case train", ["--differences", "energy-train"]),
        ("bench --recompute --case forward", ["--recompute", "forward"]),
        ("bench --recompute --net rbm --case cd1", ["--recompute", "cd1"]),
        ("bench --net rbm --case train", ["--net rbm", "--case cd1"]),
        ("bench --dtype tf32", ["--dtype tf32", "cuda"]),
    ] {
        let ran = dir.run(command);
        let said = ran.stderr.lines().filter(|line| !line.starts_with("warning:")).collect::<Vec<_>>().join("\n");
        let told = said.starts_with("error: ") && words.iter().all(|word| said.contains(word));
        if ran.code() != 2 || !told {
            wrong.push(format!("langevin {command}\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // what is typed as it would be anyway, or where it means something, is fine
    for command in [
        "train digits --dry-run model.head=energy model.form=residual train.distil=0",
        "train digits --dry-run --seed 0 train.steps=10",
        "sample null.safetensors --interpolate 1,2 -n 2 --class none sampler.steps=2",
        "sample energy.safetensors -n 1 sampler.name=pc sampler.corrector=mala sampler.adapt=3 sampler.steps=2",
        &format!(
            "{bits} --method ode --divergence hutchinson --probes 2 --probe normal --rtol 1e-1 --atol 1e-1 --max-steps 99"
        ),
        &format!("{bits} --method ais --levels 2 --particles 2 --runs 2 --moves 1 --kernel hmc"),
        &format!("{points} --probes 2 --rtol 1e-2 --atol 1e-2"),
        &format!("{apply} --what output,energy --energy residual"),
    ] {
        dir.run(command).ok();
    }
}
