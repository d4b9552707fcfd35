//! `langevin look` on tiny models.

mod common;

use common::{Dir, ddpm, spec};
use image::{GrayImage, Luma};
use langevin_models::Head;

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
    let plane = "look landscape images.safetensors --batch 4096 --out m.png";
    assert_eq!(dir.run(plane).ok(), "m.png\n");
    for name in ["s", "i", "h", "l", "m"] {
        assert!(image::open(dir.path(&format!("{name}.png"))).unwrap().width() >= 700, "{name}");
    }
    dir.run(&format!("{plane} --through 0,1")).fails(2, &["--through", "three"]);
    dir.run(&format!("{plane} --through 0,0,1")).fails(2, &["--through", "line"]);
    dir.run("look landscape points.safetensors --through 0,1,2").fails(2, &["--through"]);
    for what in ["spectrum", "histogram", "landscape"] {
        dir.run(&format!("look {what} plain.safetensors")).fails(2, &["no energy", "look curl"]);
    }
}
