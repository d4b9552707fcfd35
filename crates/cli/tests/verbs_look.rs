//! `langevin look` on tiny models.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{Dir, ddpm, numbers, read_tensors, spec, write_tensors};
use image::{GrayImage, Luma};
use langevin::models::{Head, ModelSpec};

/// The number after `word` in `text`.
fn after(text: &str, word: &str) -> f64 {
    let rest = text.split_once(word).unwrap_or_else(|| panic!("no {word:?} in\n{text}")).1;
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// The words of the line that starts with `first`.
fn line<'a>(text: &'a str, first: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.starts_with(first)).unwrap_or_else(|| panic!("no {first:?} in\n{text}"));
    line.split_whitespace().collect()
}

#[test]
fn an_energy_has_no_curl_and_a_plain_network_has() {
    let dir = Dir::new();
    dir.model("energy.safetensors", &spec(&[1, 8, 8], None, Head::Energy), &[]);
    dir.model("plain.safetensors", &spec(&[1, 8, 8], None, Head::Denoiser), &[]);
    dir.model("points.safetensors", &spec(&[2], None, Head::Denoiser), &[]);
    let share = |name: &str, data: &str| {
        let ran = dir.run(&format!("look curl {name} --data {data} --levels 0.2,1 -n 3 --probes 2"));
        let words = line(ran.ok(), "0.2 ");
        assert_eq!((words[3], words[6]), ("+-", "+-"));
        words[5].parse::<f64>().unwrap()
    };
    let (energy, plain) = (share("energy.safetensors", "digits"), share("plain.safetensors", "digits"));
    assert!(energy < 1e-9, "{energy}");
    assert!((0. ..=1.).contains(&plain) && plain > 1e3 * energy, "{plain}");
    share("points.safetensors", "toy:rings");
    dir.run("look curl energy.safetensors --data digits --probes 0").fails(2, &["--probes 0"]);
    dir.run("look curl energy.safetensors --data digits --levels 1000").fails(2, &["--levels", "1000"]);
    dir.run("look curl energy.safetensors").fails(2, &["--data SPEC"]);
}

#[test]
fn the_energy_along_a_path_starts_at_zero() {
    let dir = Dir::new();
    let config = dir.run("train toy:rings sampler.name=euler sampler.steps=3 --dry-run").ok().to_string();
    let run = [("langevin.run", config)];
    dir.model("energy.safetensors", &spec(&[1, 8, 8], None, Head::Energy), &run);
    dir.model("plain.safetensors", &ddpm(&[1, 8, 8]), &run);
    GrayImage::from_fn(9, 9, |x, _| Luma([x as u8 * 25])).save(dir.path("a.png")).unwrap();
    for (model, ends, more) in [
        ("energy", "--from 3 --to a.png", ""),
        ("energy", "--from 3 --to 4", "--latent"),
        ("plain", "--from a.png --to 5", ""),
    ] {
        let ran = dir.run(&format!("look path {model}.safetensors {ends} --points 5 {more} --out p.png"));
        let lines: Vec<_> = ran.ok().lines().collect();
        assert_eq!((lines.len(), lines[0], lines[6]), (7, "0.0000  0.0000", "p.png"), "{}", ran.stdout);
        let energies: Vec<f64> =
            lines[..5].iter().map(|l| l.split_whitespace().nth(1).unwrap().parse().unwrap()).collect();
        let top = energies.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert!((after(&ran.stdout, "barrier") - (top - energies[4].max(0.))).abs() < 2e-4, "{}", ran.stdout);
        assert_eq!(ran.stderr.contains("line integral"), model == "plain");
        // the chart, and pictures under it
        assert!(image::open(dir.path("p.png")).unwrap().height() > 600);
    }
    dir.run("look path energy.safetensors --from 3 --to a.png --latent").fails(2, &["--latent", "two seeds"]);
    dir.run("look path energy.safetensors --from 3 --to nothing.png").fails(2, &["nothing.png"]);
    dir.run("look path energy.safetensors --from 3 --to 4 --points 1").fails(2, &["--points 1"]);
}

#[test]
fn curvature_histogram_and_landscape() {
    let dir = Dir::new();
    let config = dir.run("train toy:rings sampler.name=euler sampler.steps=3 --dry-run").ok().to_string();
    let run = [("langevin.run", config)];
    dir.model("points.safetensors", &spec(&[2], None, Head::Energy), &run);
    dir.model("images.safetensors", &spec(&[1, 8, 8], None, Head::Energy), &run);
    dir.model("plain.safetensors", &spec(&[2], None, Head::Denoiser), &run);

    let ran = dir.run("look spectrum points.safetensors --data toy:rings -n 3 --out s.png");
    let words = line(ran.ok(), "2 ");
    let (least, largest) = (words[1].parse::<f64>().unwrap(), words[4].parse::<f64>().unwrap());
    assert!(least <= largest && words[9] == "2", "{words:?}");
    dir.run("look spectrum images.safetensors --data digits -n 2 --steps 5 --out i.png").ok();

    let ran = dir.run("look histogram points.safetensors -n 50 --out h.png");
    let d = after(ran.ok(), "D =");
    assert!((0. ..=1.).contains(&d) && ran.stdout.contains("samples  mean"));

    assert_eq!(dir.run("look landscape points.safetensors --out l.png").ok(), "l.png\n");
    // an exact density shows the data that it is of
    assert_eq!(dir.run("look landscape exact:8-gaussians:vp --out e.png").ok(), "e.png\n");
    dir.run("look spectrum exact:gaussian-12d").fails(2, &["does not say", "--data"]);
    let plane = "look landscape images.safetensors --batch 4096 --out m.png";
    assert_eq!(dir.run(plane).ok(), "m.png\n");
    for name in ["s", "i", "h", "l", "m", "e"] {
        assert!(image::open(dir.path(&format!("{name}.png"))).unwrap().width() >= 700, "{name}");
    }
    dir.run(&format!("{plane} --through 0,1")).fails(2, &["--through", "three"]);
    dir.run(&format!("{plane} --through 0,0,1")).fails(2, &["--through", "line"]);
    dir.run("look landscape points.safetensors --out l.jpg").fails(2, &["l.jpg", ".png"]);
    dir.run("look landscape points.safetensors --through 0,1,2").fails(2, &["--through"]);
    for what in ["spectrum", "histogram", "landscape"] {
        dir.run(&format!("look {what} plain.safetensors")).fails(2, &["no energy", "look curl"]);
    }
}

/// Pictures of two classes: stripes across, and down.
fn two_classes(dir: &Dir) {
    for (class, name) in ["across", "down"].iter().enumerate() {
        std::fs::create_dir_all(dir.path(&format!("pictures/{name}"))).unwrap();
        for i in 0..3 + class as u32 {
            let grey = |x: u32, y: u32| Luma([((if class == 0 { y } else { x }) * (20 + 5 * i)) as u8]);
            GrayImage::from_fn(8, 8, grey).save(dir.path(&format!("pictures/{name}/{i}.png"))).unwrap();
        }
    }
}

/// The energies that `langevin apply` gives of these images at noise level 0.2, told their `labels`.
fn applied(dir: &Dir, model: &str, images: &[String], labels: &[f64]) -> Vec<f64> {
    let pixels = images.iter().flat_map(|name| {
        let image = image::open(dir.path(name)).unwrap().into_luma8();
        image.into_raw().into_iter().map(|v| f32::from(v) / 127.5 - 1.).collect::<Vec<_>>()
    });
    let x = Tensor::from_iter(pixels, &Device::Cpu).unwrap().reshape((images.len(), 1, 8, 8)).unwrap();
    let labels = Tensor::new(labels, &Device::Cpu).unwrap();
    let t = Tensor::full(0.2, images.len(), &Device::Cpu).unwrap();
    write_tensors(&dir.path("x.safetensors"), &[("sample", x), ("timestep", t), ("class_labels", labels)]);
    dir.run(&format!("apply {model} --input x.safetensors --output y.safetensors --what energy")).ok();
    numbers(&read_tensors(&dir.path("y.safetensors"))["energy"].to_dtype(DType::F64).unwrap())
}

#[test]
fn a_model_with_classes_is_told_one() {
    let dir = Dir::new();
    two_classes(&dir);
    let config = "train toy:rings sampler.name=euler sampler.steps=3 --dry-run";
    let run = [("langevin.run", dir.run(config).ok().to_string())];
    let null = ModelSpec { null_class: true, ..spec(&[1, 8, 8], Some(2), Head::Energy) };
    dir.stirred("null.safetensors", &null, &run);
    dir.stirred("told.safetensors", &spec(&[1, 8, 8], Some(2), Head::Energy), &run);
    dir.stirred("points.safetensors", &spec(&[2], Some(3), Head::Energy), &run);
    let ends = ["pictures/across/0.png", "pictures/down/1.png"].map(String::from);

    // along a path, in batches of which the last is short, the energy is that of the class
    let path = |model: &str, class: &str| {
        let ends = format!("--from {} --to {} --points 5 --batch 3", ends[0], ends[1]);
        let ran = dir.run(&format!("look path {model}.safetensors {ends} {class}"));
        ran.ok().lines().nth(4).unwrap().split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
    };
    let mut seen = vec![];
    for (model, class, label) in
        [("told", "--class 0", 0.), ("told", "--class 1", 1.), ("null", "--class 1", 1.), ("null", "", 2.)]
    {
        let energy = applied(&dir, &format!("{model}.safetensors"), &ends, &[label; 2]);
        let rise = path(model, class);
        assert!(
            (rise - (energy[1] - energy[0])).abs() < 1e-3 * rise.abs() + 1e-3,
            "{model} {class}: {rise} {energy:?}"
        );
        seen.push(rise);
    }
    assert!((seen[0] - seen[1]).abs() > 0.02 && (seen[2] - seen[3]).abs() > 0.02, "{seen:?}");
    assert_eq!(path("null", "--class none"), seen[3]);
    assert!(
        dir.run("look path told.safetensors --from 3 --to 4 --latent --points 3 --class 1").ok().contains("barrier")
    );

    // the histogram knows the classes of the data, and of one class alone there are fewer
    let histogram = |class: &str| {
        let ran = dir.run(&format!("look histogram told.safetensors --data pictures --batch 3 {class}"));
        (after(ran.ok(), "mean"), after(&ran.stdout, " n "))
    };
    let names = |class: &str, n: usize| (0..n).map(|i| format!("pictures/{class}/{i}.png")).collect::<Vec<_>>();
    let (across, down) = (names("across", 3), names("down", 4));
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let labels = [0., 0., 0., 1., 1., 1., 1.];
    let all = applied(&dir, "told.safetensors", &[across, down.clone()].concat(), &labels);
    let (found, n) = histogram("");
    assert!((found - mean(&all)).abs() < 1e-3 * found.abs() && n == 7., "{found} {all:?}");
    let (found, n) = histogram("--class 1");
    assert!((found - mean(&all[3..])).abs() < 1e-3 * found.abs() && n == 4., "{found} {all:?}");

    // curls are of the energy of a class too, and curvatures differ with it
    let curl = "look curl told.safetensors --data pictures --levels 0.2 --probes 2 -n 3 --batch 2 --class 1";
    assert!(line(dir.run(curl).ok(), "0.2 ")[5].parse::<f64>().unwrap() < 1e-9);
    let spectrum = |class: &str| dir.run(&format!("look spectrum null.safetensors --data digits -n 1 {class}"));
    let least = |class: &str| line(spectrum(class).ok(), "0 ")[1].parse::<f64>().unwrap();
    assert_eq!(least(""), least("--class none"));
    assert_ne!(least("--class 0"), least("--class none"));

    dir.run("look landscape points.safetensors --class 1").ok();
    let plane = "look landscape told.safetensors --batch 4096 --class 1 --through";
    dir.run(&format!("{plane} 0,{},1", ends[0])).ok();

    for what in ["curl", "spectrum", "path --from 0 --to 1", "landscape"] {
        let (what, more) = what.split_once(' ').unwrap_or((what, ""));
        dir.run(&format!("look {what} told.safetensors {more}")).fails(2, &["--class 0 to 1"]);
    }
    dir.run("look histogram told.safetensors --data noise:uniform").fails(2, &["--class 0 to 1"]);
    dir.run("look curl told.safetensors --data pictures --class 2").fails(2, &["--class 2", "0 to 1"]);
    dir.run("look curl told.safetensors --data pictures --class none").fails(2, &["label_dropout"]);
}
