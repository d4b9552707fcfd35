//! Long work is checked before it begins, and what is drawn is kept however the drawing ends.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{Dir, Ran, spec};
use langevin::models::{Head, Model, ModelSpec, checkpoint};
use langevin::ops::noise::Noise;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The arrays of an .npz.
fn arrays(path: &Path) -> HashMap<String, Tensor> {
    Tensor::read_npz(path).unwrap().into_iter().collect()
}

/// The program at work in the folder of `dir`.
fn start(dir: &Dir, args: &str) -> Child {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("langevin"));
    command.current_dir(dir.path(".")).args(args.split_whitespace()).args(["--threads", "1"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Asks it to stop as Ctrl-C does, once `ready`; what it said.
fn stopped(child: Child, ready: impl Fn() -> bool) -> Ran {
    let (pid, start) = (child.id().to_string(), Instant::now());
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(300), "it never came to the point");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    Ran::of("(stopped)", child.wait_with_output().unwrap())
}

/// The size of the file that is on its way to `name`.
fn on_its_way(dir: &Dir, name: &str) -> u64 {
    let entries = fs::read_dir(dir.path(".")).unwrap().flatten();
    let of = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!(".{name}.")));
    of.filter_map(|entry| Some(entry.metadata().ok()?.len())).max().unwrap_or(0)
}

/// Nothing half written is left in the folder.
fn tidy(dir: &Dir) {
    let left: Vec<_> = fs::read_dir(dir.path(".")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".partial")), "{left:?}");
}

/// A denoiser with random weights, those of its last layer 10^`power` times as large.
fn reckless(dir: &Dir, name: &str, of: &ModelSpec, extra: &[(&str, String)], power: f64) {
    let model = Model::new(of.clone(), 3, DType::F32, &Device::Cpu).unwrap();
    for (i, (name, var)) in model.vars().iter().enumerate() {
        let noise = Noise::seeds(&[i as u64]).normal((1, var.elem_count()), DType::F32, &Device::Cpu).unwrap();
        let stirred = (var.as_tensor() + (noise * 0.2).unwrap().reshape(var.shape()).unwrap()).unwrap();
        let last = name.ends_with("linear_out.weight") || name.ends_with("conv_out.weight");
        var.set(&if last { (stirred * 10f64.powf(power)).unwrap() } else { stirred }).unwrap();
    }
    let extra: BTreeMap<_, _> = extra.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    checkpoint::save(&dir.path(name), of, &checkpoint::weights(&model), &extra).unwrap();
}

/// A reckless model under which `args` lose some samples and keep others, which go to `written`; what the program said.
fn losing_some(dir: &Dir, of: &ModelSpec, extra: &[(&str, String)], args: &str, written: &str) -> Ran {
    let (mut low, mut high) = (0., 60.);
    for _ in 0..40 {
        let power = 0.5 * (low + high);
        reckless(dir, "wild.safetensors", of, extra, power);
        let _ = fs::remove_dir_all(dir.path("each")); // of the last weights
        let ran = dir.run(args);
        match (ran.code(), ran.stdout.contains(written)) {
            (0, _) => low = power,
            (_, false) => high = power,
            (_, true) => return ran,
        }
    }
    panic!("no scale of the weights loses some samples and not all");
}

#[test]
fn what_is_finite_is_written_and_the_seeds_of_the_rest_are_named() {
    let dir = Dir::new();
    let of = spec(&[1, 8, 8], Some(3), Head::Denoiser);
    let args =
        "sample wild.safetensors sampler.steps=1 -n 10 --batch 4 --npz a.npz --out g.png --images each --gif p.gif";
    let ran = losing_some(&dir, &of, &[], args, "a.npz");
    assert_eq!(ran.stdout, "g.png\neach\na.npz\np.gif\n");
    let said = ran.stderr.trim();
    assert!(said.starts_with("error: ") && said.contains("of 10 samples are not finite, those of the seeds"), "{said}");
    let found = arrays(&dir.path("a.npz"));
    let n = found["arr_0"].dim(0).unwrap();
    assert!(
        n > 0 && n < 10 && said.contains(&format!("{} of 10", 10 - n)) && said.contains(&format!("{n} are written"))
    );
    // the images are those of the seeds that are not named, the arrays have them in order, and the labels go along
    let kept: Vec<u64> = (0..10).filter(|seed| dir.path(&format!("each/{seed}.png")).exists()).collect();
    assert_eq!(kept.len(), n);
    let labels = found["arr_1"].to_vec1::<i64>().unwrap();
    assert_eq!(labels, kept.iter().map(|seed| (seed % 3) as i64).collect::<Vec<_>>());
    for (i, seed) in kept.iter().enumerate() {
        let one = image::open(dir.path(&format!("each/{seed}.png"))).unwrap().into_luma8().into_raw();
        assert_eq!(one, found["arr_0"].get(i).unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap());
    }
    let lost: Vec<String> = (0..10).filter(|seed| !kept.contains(seed)).map(|seed: u64| seed.to_string()).collect();
    let again = dir.run(&format!("sample wild.safetensors sampler.steps=1 --npz b.npz --seeds {}", lost.join(",")));
    again.fails(1, &["not finite"]);
    assert!(!dir.path("b.npz").exists(), "where nothing is good nothing is written");
    tidy(&dir);
}

#[test]
fn rows_that_are_finite_are_written() {
    let dir = Dir::new();
    let columns = [("langevin.columns", r#"{"names":["a","b","c"],"mean":[0,0,0],"std":[1,1,1]}"#.to_string())];
    let args = "sample wild.safetensors sampler.steps=1 -n 40 --batch 7 --out t.csv";
    let of = spec(&[3], None, Head::Denoiser);
    let ran = losing_some(&dir, &of, &columns, args, "t.csv");
    let rows = fs::read_to_string(dir.path("t.csv")).unwrap().lines().count() - 1;
    assert!((1..40).contains(&rows) && ran.stderr.contains(&format!("{rows} are written")), "{}", ran.stderr);

    // cells that cannot be filled stay as they were, and all else is written
    fs::write(dir.path("holes.csv"), "c,a,b\n1,2,\n,0.5,NA\n3,,4\n7,8,9\n").unwrap();
    let args = "impute wild.safetensors --data holes.csv --out full.csv --method replace -n 2 sampler.steps=1";
    let ran = losing_some(&dir, &of, &columns, args, "full.csv");
    let text = fs::read_to_string(dir.path("full.csv")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 5 && lines[4] == "7,8,9" && lines[1].starts_with("1,2,"), "{text}");
    assert!(ran.stderr.contains("not all of their draws") && ran.stderr.contains("not finite"), "{}", ran.stderr);
}

#[test]
fn a_drawing_that_is_stopped_leaves_whole_files() {
    let dir = Dir::new();
    dir.model("m.safetensors", &spec(&[1, 8, 8], Some(3), Head::Denoiser), &[]);
    let args = "sample m.safetensors --batch 2 -n 60 sampler.steps=400 --npz a.npz --images each --out g.png";
    let images = || (0..60).filter(|seed| dir.path(&format!("each/{seed}.png")).exists()).count();
    let ran = stopped(start(&dir, args), || images() >= 4);
    assert_eq!(ran.code(), 130, "{}", ran.stderr);
    assert_eq!(ran.stdout, "g.png\neach\na.npz\n");
    let found = arrays(&dir.path("a.npz"));
    let n = found["arr_0"].dim(0).unwrap();
    assert!(n.is_multiple_of(2) && (4..60).contains(&n) && images() == n);
    let said = ran.stderr.lines().last().unwrap();
    let left = format!("left are the seeds {n}-59");
    assert!(
        said.contains(&format!("stopped after {n} of 60 samples; {n} are written")) && said.contains(&left),
        "{said}"
    );
    assert_eq!(found["arr_1"].to_vec1::<i64>().unwrap(), (0..n as i64).map(|seed| seed % 3).collect::<Vec<_>>());
    // a grid of 60 has 10 columns of 80 pixels and ends after the last row that has something in it
    let grid = image::open(dir.path("g.png")).unwrap();
    assert_eq!((grid.width(), grid.height()), (10 * 84 + 4, n.div_ceil(10) as u32 * 84 + 4));
    tidy(&dir);

    // the rest is drawn by its seeds, and is what the whole drawing would have had
    let ran = dir.run("sample m.safetensors --batch 2 --seeds 1-2 sampler.steps=400 --npz b.npz");
    ran.ok();
    let levels = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<u8>().unwrap();
    let (some, again) =
        (levels(&found["arr_0"].narrow(0, 1, 2).unwrap()), levels(&arrays(&dir.path("b.npz"))["arr_0"]));
    assert!(some.iter().zip(again).all(|(a, b)| a.abs_diff(b) <= 1));
}

#[test]
fn rows_of_a_drawing_that_is_stopped_are_whole() {
    let dir = Dir::new();
    dir.model("t.safetensors", &spec(&[3], None, Head::Denoiser), &[]);
    fs::write(dir.path("t.csv"), "old").unwrap();
    let args = "sample t.safetensors --batch 100 -n 1000000 sampler.steps=200 --out t.csv";
    let ran = stopped(start(&dir, args), || on_its_way(&dir, "t.csv") > 0);
    assert_eq!((ran.code(), ran.stdout.as_str()), (130, "t.csv\n"), "{}", ran.stderr);
    let text = fs::read_to_string(dir.path("t.csv")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0] == "x1,x2,x3" && lines.len() % 100 == 1 && lines.len() > 1, "{} lines", lines.len());
    assert!(text.ends_with('\n') && lines.iter().all(|line| line.split(',').count() == 3));
    tidy(&dir);

    // stopped before there is anything, it leaves what was there
    fs::write(dir.path("t.csv"), "old").unwrap();
    let args = "sample t.safetensors --batch 100000 -n 200000 sampler.steps=100000 --out t.csv";
    let begun = || {
        fs::read_dir(dir.path(".")).unwrap().flatten().any(|e| e.file_name().to_string_lossy().starts_with(".t.csv"))
    };
    let ran = stopped(start(&dir, args), begun);
    assert_eq!((ran.code(), ran.stdout.as_str()), (130, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("stopped after 0 of 200000 samples"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(dir.path("t.csv")).unwrap(), "old");
    tidy(&dir);
}

#[test]
fn pictures_of_measurements_keep_what_is_drawn() {
    let dir = Dir::new();
    image::GrayImage::from_pixel(16, 16, image::Luma([200])).save(dir.path("i.png")).unwrap();
    let of = spec(&[1, 16, 16], None, Head::Denoiser);
    let args = "inpaint wild.safetensors --input i.png --mask half -n 9 --batch 4 --method replace sampler.steps=1";
    let ran = losing_some(&dir, &of, &[], args, "inpaint.png");
    assert!(ran.stderr.contains("of 9 samples are not finite") && ran.stderr.contains("by replace"), "{}", ran.stderr);
    let grid = image::open(dir.path("inpaint.png")).unwrap();
    assert_eq!((grid.width(), grid.height()), (11 * 84 + 4, 88));
    // a grid of this size would be of no use: said before anything is drawn
    dir.model("large.safetensors", &spec(&[1, 64, 64], None, Head::Denoiser), &[]);
    let args = "inpaint large.safetensors --input i.png --mask half -n 10000 --method replace,repaint,dps,mcmc";
    dir.run(&format!("{args} sampler.steps=1000 --out large.png")).fails(2, &["a grid of 40008 samples", "pixels"]);
}

#[test]
fn what_cannot_be_written_is_an_error_before_anything_is_drawn() {
    let dir = Dir::new();
    dir.model("m.safetensors", &spec(&[1, 28, 28], None, Head::Denoiser), &[]);
    dir.model("p.safetensors", &spec(&[2], None, Head::Energy), &[]);
    // each would draw for hours
    let slow = "sampler.steps=100000";
    let fails = |args: &str, code: i32, words: &[&str]| dir.run(&format!("sample {args} {slow}")).fails(code, words);
    fails("m.safetensors -n 150000", 2, &["a grid of 150000 samples", "--npz", "--images"]);
    fails("m.safetensors -n 150000 --npz a.npz --out g.png", 2, &["a grid of 150000 samples"]);
    fails("m.safetensors -n 20000 --gif a.gif", 2, &["--frames"]);
    fails("m.safetensors -n 4 --gif a.gif --frames 0", 2, &["--frames 0"]);
    fails("m.safetensors -n 4 --size 100", 2, &["--size", "points"]);
    fails("p.safetensors -n 4 --size 100 --npz a.npz", 2, &["--size", "points"]);
    fails("p.safetensors -n 4 --size 3", 2, &["--size 3", "32 to 8192"]);
    fails("p.safetensors -n 2000000 --gif a.gif", 2, &["a.gif", "MB of memory"]);
    fails("m.safetensors -n 4 --interpolate 1,2 sampler.name=ddpm", 2, &["--interpolate", "ddpm"]);
    fs::create_dir(dir.path("samples.png")).unwrap();
    fails("m.safetensors -n 4", 1, &["samples.png", "folder"]);
    fs::write(dir.path("file"), "").unwrap();
    fails("m.safetensors -n 4 --images file", 1, &["file"]);
    fails("m.safetensors -n 4 --images file/in", 1, &["file/in"]);
    tidy(&dir);
}

#[test]
fn frames_and_pictures_of_points_have_the_size_that_is_asked() {
    let dir = Dir::new();
    dir.model("p.safetensors", &spec(&[2], None, Head::Energy), &[]);
    dir.run("sample p.safetensors -n 20 sampler.steps=9 --out p.png --gif p.gif --frames 3 --size 96").ok();
    let picture = image::open(dir.path("p.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (96, 96));
    use image::AnimationDecoder;
    let gif = std::io::BufReader::new(fs::File::open(dir.path("p.gif")).unwrap());
    let frames: Vec<_> = image::codecs::gif::GifDecoder::new(gif).unwrap().into_frames().map(|f| f.unwrap()).collect();
    assert_eq!(frames.len(), 3);
    assert!(frames.iter().all(|frame| frame.buffer().dimensions() == (96, 96)));
    dir.run("look landscape p.safetensors --data toy:two-moons --size 64 --out l.png").ok();
    assert_eq!(image::open(dir.path("l.png")).unwrap().width(), 64);
    dir.run("look landscape p.safetensors --data toy:two-moons --size 9000").fails(2, &["--size 9000"]);
    // the usual picture of coarse and of fine lattices is the same but for its size
    let mean = |name: &str| {
        let picture = image::open(dir.path(name)).unwrap().into_rgb8();
        picture.pixels().map(|p| f64::from(p[1])).sum::<f64>() / f64::from(picture.width()).powi(2)
    };
    dir.run("sample p.safetensors -n 20 sampler.steps=9 --out q.png").ok();
    assert_eq!(image::open(dir.path("q.png")).unwrap().width(), 720);
    assert!((mean("p.png") - mean("q.png")).abs() < 8., "{} {}", mean("p.png"), mean("q.png"));
}

/// The peak of the memory of the program, in MB.
#[cfg(target_os = "linux")]
fn peak(mut child: Child) -> f64 {
    let (path, mut peak) = (format!("/proc/{}/status", child.id()), 0.);
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kb = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        peak = kb.map_or(peak, |kb| kb / 1024.);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success());
    peak
}

#[cfg(target_os = "linux")]
#[test]
fn the_memory_of_a_drawing_does_not_grow_with_its_samples() {
    let dir = Dir::new();
    let net = langevin::models::mlp::MlpConfig { width: 8, layers: 1, dropout: 0. };
    dir.model("m.safetensors", &ModelSpec { net: net.into(), ..spec(&[2000], None, Head::Denoiser) }, &[]);
    let of =
        |n: usize| peak(start(&dir, &format!("sample m.safetensors -n {n} sampler.steps=1 --npz a.npz --batch 100")));
    let (few, many) = (of(500), of(20_000));
    assert_eq!(arrays(&dir.path("a.npz"))["arr_0"].dims(), [20_000, 2000]);
    // 39 million more numbers
    assert!(many - few < 40., "{few:.0} MB for 500, {many:.0} MB for 20000");
}

#[test]
fn ink_on_paper_is_told_and_turned_over() {
    let dir = Dir::new();
    let train = "train digits --out run train.steps=2 train.batch=4 model.net.channels=[4,8] model.net.groups=2";
    dir.run(&format!("{train} model.net.attention=[] train.sample_every=0 sampler.steps=1 model.head=denoiser")).ok();
    // a stroke that is dark on light paper, and the same turned over
    let draw = |name: &str, ink: u8, paper: u8| {
        let shade = |x: u32, y: u32| if (10..16).contains(&x) && (3..25).contains(&y) { ink } else { paper };
        image::GrayImage::from_fn(28, 28, |x, y| image::Luma([shade(x, y)])).save(dir.path(name)).unwrap();
    };
    draw("ink.png", 20, 240);
    draw("chalk.png", 235, 15);
    let go = |args: &str, name: &str| {
        let ran = dir.run(&format!("sample run -n 2 sampler.steps=3 {args} --npz {name}"));
        ran.ok();
        (ran.stderr.clone(), arrays(&dir.path(name))["arr_0"].flatten_all().unwrap().to_vec1::<u8>().unwrap())
    };
    let (said, _) = go("--from ink.png", "a.npz");
    assert!(said.contains("--from ink.png") && said.contains("light") && said.contains("give --invert"), "{said}");
    let (said, turned) = go("--from ink.png --invert", "b.npz");
    assert!(!said.contains("warning"), "{said}");
    let (said, plain) = go("--from chalk.png", "c.npz");
    assert!(!said.contains("warning") && plain == turned, "{said}");
    let (said, _) = go("--from chalk.png --invert", "d.npz");
    assert!(said.contains("dark") || said.contains("leave --invert out"), "{said}");
    let ran = dir.run("inpaint run --input ink.png --mask half -n 1 --method replace sampler.steps=2");
    assert!(ran.ok().ends_with("inpaint.png\n") && ran.stderr.contains("--input ink.png"), "{}", ran.stderr);
    let ran = dir.run("inpaint run --input ink.png --invert --mask half -n 1 --method replace sampler.steps=2");
    assert!(ran.ok().ends_with("inpaint.png\n") && !ran.stderr.contains("warning"), "{}", ran.stderr);
    let ran = dir.run("sample run --invert");
    assert!(ran.code() == 2 && ran.stderr.contains("--from <IMAGE>"), "{}", ran.stderr);
    // of a model that does not say what it learnt nothing is told
    dir.model("m.safetensors", &spec(&[1, 28, 28], None, Head::Denoiser), &[]);
    let ran = dir.run("sample m.safetensors -n 1 sampler.steps=2 --from ink.png --npz e.npz");
    assert!(ran.ok() == "e.npz\n" && !ran.stderr.contains("warning"), "{}", ran.stderr);
}
