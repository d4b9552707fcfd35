//! No figure and no file depends on how many samples are taken at a time, to the last digit.

mod common;

use common::{Dir, spec};
use image::{GrayImage, Luma};
use langevin::models::{Form, Head, ModelSpec};
use std::fs;

const QUICK: &str = "sampler.name=heun sampler.steps=3";

/// Models of points, images and a table; some images, and a table with missing cells.
fn folder() -> Dir {
    let dir = Dir::new();
    let config = dir.run(&format!("train toy:rings {QUICK} --dry-run")).ok().to_string();
    let run = [("langevin.run", config)];
    let normalised = ModelSpec { form: Form::NoiseNorm, normalised: true, ..spec(&[2], None, Head::Energy) };
    dir.stirred("p.safetensors", &normalised, &run);
    dir.stirred("s.safetensors", &spec(&[2], None, Head::Denoiser), &run);
    dir.stirred("i.safetensors", &spec(&[1, 8, 8], None, Head::Energy), &run);
    fs::create_dir(dir.path("images")).unwrap();
    for k in 0..5u32 {
        let picture = GrayImage::from_fn(8, 8, |x, y| Luma([((x * 37 + y * 11 + k * 50) % 256) as u8]));
        picture.save(dir.path(&format!("images/{k}.png"))).unwrap();
    }
    let rows: String = (0..40).map(|i| format!("{},{}\n", i % 7, (i * i) % 11)).collect();
    fs::write(dir.path("rows.csv"), format!("a,b\n{rows}")).unwrap();
    fs::write(dir.path("holes.csv"), "a,b\n1,\n,2\n3,4\n,\n5,\n").unwrap();
    let small = "train.steps=2 train.batch=8 model.net.width=8 model.net.layers=1";
    dir.run(&format!("train toy --data rows.csv --out table {small} {QUICK}")).ok();
    dir
}

/// What `args` print, and the files that they write.
fn made(dir: &Dir, args: &str, files: &[&str], batch: usize) -> Vec<Vec<u8>> {
    let ran = dir.run(&format!("{args} --batch {batch}"));
    let said = ran.ok().as_bytes().to_vec();
    files.iter().map(|file| fs::read(dir.path(file)).unwrap()).chain([said]).collect()
}

#[track_caller]
fn the_same_at_any_batch(dir: &Dir, args: &str, files: &[&str]) {
    let whole = made(dir, args, files, 64);
    for batch in [1, 3] {
        for (i, (whole, parts)) in whole.iter().zip(made(dir, args, files, batch)).enumerate() {
            let what = files.get(i).unwrap_or(&"what is printed");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(2000).collect::<String>();
            assert!(*whole == parts, "{args}: {what}, {batch} at a time\n{}\n{}", text(whole), text(&parts));
        }
    }
}

#[test]
fn likelihoods() {
    let dir = folder();
    let annealed = "--levels 5 --particles 4 --runs 2";
    for rest in [
        &format!("p.safetensors {annealed}"),
        &format!("p.safetensors --divergence hutchinson --probes 2 {annealed}"),
        "s.safetensors",
    ] {
        let args = format!("eval bits {rest} --data toy:8-gaussians:test -n 7 --rtol 1e-2 --atol 1e-2 --json x.json");
        the_same_at_any_batch(&dir, &args, &["x.json"]);
    }
    let args = "eval bits i.safetensors --data images -n 5 --method ode --t-min 1 --noised --rtol 1e-2 --atol 1e-2 --json x.json";
    the_same_at_any_batch(&dir, args, &["x.json"]);
}

/// Likelihoods at two levels, of which the second draws its probes after those of the first.
#[test]
fn scores_of_what_does_not_belong() {
    let dir = folder();
    let scores = "--scores energy,score-norms,typicality,reconstruction,likelihood likelihood.levels=[0.5,2] \
                  likelihood.tolerance=0.1 score-norms.levels=[0.3,1] energy.draws=2 --fit digits --fit-samples 9";
    let args = format!("eval ood i.safetensors --data digits:test --ood noise:uniform -n 8 --json x.json {scores}");
    the_same_at_any_batch(&dir, &args, &["x.json"]);
    let args = format!(
        "detect i.safetensors images --held-out digits:test --held-out-samples 6 --alpha 0.9 --out x.csv --maps maps {scores}"
    );
    the_same_at_any_batch(&dir, &args, &["x.csv", "maps/0.png", "maps/4.png"]);
}

#[test]
fn what_is_filled_in() {
    let dir = folder();
    let methods = "--method replace,repaint,dps,mcmc sampler.steps=3 repaint.jump=2";
    for task in ["--mask half", "--task superres=2"] {
        let args = format!("inpaint i.safetensors --input images/1.png -n 5 {task} {methods} --noise 0.1 --out x.png");
        the_same_at_any_batch(&dir, &args, &["x.png"]);
    }
    for method in ["repaint repaint.jump=2", "mcmc"] {
        let args = format!("impute table --data holes.csv --out x.csv -n 3 --method {method} sampler.steps=3");
        the_same_at_any_batch(&dir, &format!("{args} --draws"), &["x.csv"]);
    }
}

#[test]
fn what_is_looked_at() {
    let dir = folder();
    for args in [
        "look curl i.safetensors --data digits -n 4 --levels 0.3,1 --probes 2",
        "look path i.safetensors --from 1 --to 2 --points 6 --out x.png",
        "look path s.safetensors --from 1 --to 2 --points 6 --out x.png",
        "look spectrum i.safetensors --data digits -n 4 --steps 4 --out x.png",
        "look histogram i.safetensors --data digits -n 6 --out x.png",
    ] {
        the_same_at_any_batch(&dir, args, if args.contains("x.png") { &["x.png"] } else { &[] });
    }
}

#[test]
fn reports_of_chains() {
    let dir = folder();
    for sampler in ["annealed-mcmc sampler.kernel=hmc", "tempering", "pc sampler.corrector=mala sampler.replicas=2"] {
        let args =
            format!("sample p.safetensors sampler.name={sampler} sampler.steps=3 -n 7 --npz x.npz --report=x.json");
        the_same_at_any_batch(&dir, &args, &["x.json"]);
    }
}
