//! `langevin sample` on tiny models: what it writes, that a sample belongs to its seed, and what it refuses.

mod common;

use candle_core::{DType, Tensor};
use common::{Dir, ddpm, read_tensors, spec, write_tensors};
use langevin::dynamics::predict::AnyParametrisation;
use langevin::dynamics::process::Edm;
use langevin::dynamics::sampler::AnySampler;
use langevin::models::mlp::MlpConfig;
use langevin::models::{Head, ModelSpec};

/// `arr_0` of an .npz.
fn array(dir: &Dir, name: &str) -> Tensor {
    Tensor::read_npz_by_name(dir.path(name), &["arr_0"]).unwrap().remove(0)
}

fn levels(t: &Tensor) -> Vec<u8> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn images_as_a_grid_files_arrays_and_an_animation() {
    let dir = Dir::new();
    dir.model("m.safetensors", &spec(&[1, 8, 8], None, Head::Energy), &[]);
    let ran = dir.run("sample m.safetensors sampler.steps=3 -n 5 --out g.png --images each --npz a.npz --gif p.gif");
    assert_eq!(ran.ok(), "g.png\neach\na.npz\np.gif\n");
    let grid = image::open(dir.path("g.png")).unwrap();
    assert_eq!((grid.width(), grid.height()), (3 * 96 + 4 * 4, 2 * 96 + 3 * 4));
    let all = array(&dir, "a.npz");
    assert_eq!(all.dims(), [5, 8, 8, 1]);
    for seed in 0..5 {
        let one = image::open(dir.path(&format!("each/{seed}.png"))).unwrap().into_luma8().into_raw();
        assert_eq!(one, levels(&all.get(seed).unwrap()));
    }
    assert_ne!(levels(&all.get(0).unwrap()), levels(&all.get(1).unwrap()));
    use image::AnimationDecoder;
    let gif =
        image::codecs::gif::GifDecoder::new(std::io::BufReader::new(std::fs::File::open(dir.path("p.gif")).unwrap()));
    let frames: Vec<_> = gif.unwrap().into_frames().map(|frame| frame.unwrap().into_buffer()).collect();
    assert_eq!(frames.len(), 3);
    let (last, grid) = (frames[2].clone(), image::open(dir.path("g.png")).unwrap().to_rgba8());
    assert_eq!(last, grid, "greys are kept as they are");
    let png = String::from_utf8_lossy(&std::fs::read(dir.path("g.png")).unwrap()).into_owned();
    assert!(png.contains("m.safetensors") && png.contains("steps = 3"));
}

#[test]
fn without_an_output_there_is_a_picture() {
    let dir = Dir::new();
    dir.model("run/model.safetensors", &spec(&[3, 8, 8], None, Head::Denoiser), &[]);
    assert_eq!(dir.run("sample run -n 2 sampler.steps=2").ok(), "samples.png\n");
    assert!(dir.path("samples.png").exists());
}

/// Points of a network wide enough for every kind of product.
fn points(classes: Option<usize>, head: Head) -> ModelSpec {
    ModelSpec { net: MlpConfig { width: 40, layers: 1, dropout: 0. }.into(), ..spec(&[2], classes, head) }
}

/// The bits of what `sample` draws of `seeds`, by `args`.
fn drawn(dir: &Dir, args: &str, seeds: &str, (batch, threads): (usize, usize)) -> Vec<u32> {
    let ran = dir.run_with(&format!("sample {args} --seeds {seeds} --batch {batch} --npz b.npz"), threads);
    ran.ok();
    let x = array(dir, "b.npz").flatten_all().unwrap();
    match x.dtype() {
        candle_core::DType::F32 => x.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect(),
        _ => levels(&x).into_iter().map(u32::from).collect(),
    }
}

/// Draws of `args` have the same bits in batches of `all`, 9, 8, 2 and 1, on any number of threads, and in any company.
#[track_caller]
fn belongs_to_its_seed(dir: &Dir, args: &str, all: usize) {
    let whole = drawn(dir, args, &format!("0-{}", all - 1), (all, 1));
    for (batch, threads) in [(9, 2), (8, 3), (2, 1), (1, 2)].into_iter().filter(|(batch, _)| *batch < all) {
        let parts = drawn(dir, args, &format!("0-{}", all - 1), (batch, threads));
        let off = whole.iter().zip(&parts).filter(|(a, b)| a != b).count();
        assert!(off == 0 && whole.len() == parts.len(), "{args}: {off} of {} in batches of {batch}", whole.len());
    }
    let size = whole.len() / all;
    let other = drawn(dir, args, &format!("{},1000,2", all - 1), (3, 2));
    assert_eq!(other[..size], whole[(all - 1) * size..], "{args}: the last seed in other company");
    assert_eq!(other[2 * size..], whole[2 * size..3 * size], "{args}: seed 2 in other company");
}

/// What is registered, each as it is and with its options that bring the samples of a batch together.
fn ways() -> Vec<String> {
    let names = AnySampler::defaults().into_iter().filter(|sampler| !sampler.get().needs().population);
    let mut ways: Vec<String> = names.map(|sampler| format!("sampler.name={}", sampler.name())).collect();
    assert!(ways.len() > 15);
    ways.extend(
        [
            "sampler.name=annealed-mcmc sampler.kernel=hmc",
            "sampler.name=annealed-mcmc sampler.kernel=langevin",
            "sampler.name=tempering sampler.kernel=mala sampler.adapt=2 sampler.rungs=3",
            "sampler.name=pc sampler.corrector=mala sampler.replicas=2",
            "sampler.name=pc sampler.corrector=hmc sampler.predictor=dpmpp-3m",
            "sampler.name=pc sampler.norms=sample",
            "sampler.name=edm-stochastic sampler.s_churn=10",
            "sampler.name=heun sampler.clip=true",
            "sampler.name=ddpm noise=torch",
        ]
        .map(String::from),
    );
    ways
}

#[test]
fn a_sample_belongs_to_its_seed_at_any_batch_and_number_of_threads() {
    let dir = Dir::new();
    dir.stirred("m.safetensors", &points(None, Head::Energy), &[]);
    let predict = AnyParametrisation::named("consistency").unwrap();
    dir.stirred("c.safetensors", &ModelSpec { predict, ..points(None, Head::Denoiser) }, &[]);
    for way in ways() {
        let model = if way.contains("consistency") { "c" } else { "m" };
        belongs_to_its_seed(&dir, &format!("{model}.safetensors {way} sampler.steps=3"), 11);
    }
    belongs_to_its_seed(&dir, "m.safetensors sampler.name=annealed-mcmc sampler.steps=3", 65);
}

/// With a score alone, with classes, with a guide, of images, and of a composition.
#[test]
fn so_does_one_of_every_kind_of_model() {
    let dir = Dir::new();
    let null = ModelSpec { null_class: true, ..points(Some(3), Head::Denoiser) };
    dir.stirred("d.safetensors", &null, &[]);
    dir.stirred("i.safetensors", &spec(&[1, 8, 8], Some(3), Head::Energy), &[]);
    for way in ["sampler.name=heun", "sampler.name=rk45", "sampler.name=annealed-mcmc"] {
        belongs_to_its_seed(&dir, &format!("d.safetensors {way} sampler.steps=3 --guidance 2"), 10);
        belongs_to_its_seed(&dir, &format!("i.safetensors {way} sampler.steps=2"), 10);
    }
    for expression in ["a&b", "1:a|2:b"] {
        let of = format!("--let a=exact:8-gaussians --let b=exact:gaussian-2d --compose {expression}");
        belongs_to_its_seed(&dir, &format!("{of} sampler.name=annealed-mcmc sampler.steps=3"), 10);
    }
}

/// An exported folder as another program writes it: without a word of ours in the weights.
fn as_of_others(dir: &Dir, folder: &str) {
    let weights = dir.path(&format!("{folder}/unet/diffusion_pytorch_model.safetensors"));
    let tensors = read_tensors(&weights);
    write_tensors(&weights, &tensors.iter().map(|(name, t)| (name.as_str(), t.clone())).collect::<Vec<_>>());
}

/// diffusers has one step size for all of a batch, which its own random numbers keep; else a sample has its own.
#[test]
fn steps_of_one_size_for_a_batch_are_told() {
    let dir = Dir::new();
    dir.model("table.safetensors", &ddpm(&[1, 8, 8]), &[]);
    dir.run("export table.safetensors folder").ok();
    as_of_others(&dir, "folder");
    std::fs::write(dir.path("ve.json"), r#"{"_class_name": "ScoreSdeVeScheduler", "sigma_max": 1.0}"#).unwrap();
    let of = "folder --scheduler ve.json sampler.steps=5";
    belongs_to_its_seed(&dir, of, 10);
    dir.model("m.safetensors", &spec(&[2], None, Head::Energy), &[]);
    for args in [&format!("{of} noise=torch"), "m.safetensors sampler.name=pc sampler.norms=batch sampler.steps=5"] {
        let draw = |batch: &str| {
            let ran = dir.run(&format!("sample {args} --seeds 0-3 --npz a.npz {batch}"));
            assert_eq!(ran.ok(), "a.npz\n");
            (array(&dir, "a.npz"), ran.stderr)
        };
        let ((all, quiet), (parts, told)) = (draw(""), draw("--batch 2"));
        assert_eq!(quiet, "", "{args}");
        assert!(told.contains("each 2 samples share the sizes of their steps; --batch 4 makes one"), "{told}");
        let [all, parts] = [all, parts].map(|t| t.to_dtype(candle_core::DType::F64).unwrap());
        assert!(common::off(&all, &parts) > 0., "{args}");
    }
}

#[test]
fn classes_are_told_to_the_model() {
    let dir = Dir::new();
    dir.model("c.safetensors", &spec(&[1, 8, 8], Some(3), Head::Denoiser), &[]);
    dir.model("m.safetensors", &spec(&[1, 8, 8], None, Head::Denoiser), &[]);
    let args = "sample c.safetensors sampler.steps=4 -n 4 --npz";
    dir.run(&format!("{args} a.npz")).ok();
    dir.run(&format!("{args} b.npz --class 2")).ok();
    let labels = |name: &str| {
        let labels = Tensor::read_npz_by_name(dir.path(name), &["arr_1"]).unwrap().remove(0);
        labels.to_vec1::<i64>().unwrap()
    };
    assert_eq!((labels("a.npz"), labels("b.npz")), (vec![0, 1, 2, 0], vec![2; 4]));
    let (a, b) = (array(&dir, "a.npz"), array(&dir, "b.npz"));
    assert_eq!(levels(&a.get(2).unwrap()), levels(&b.get(2).unwrap()));
    assert_ne!(levels(&a.get(1).unwrap()), levels(&b.get(1).unwrap()));
    dir.run("sample c.safetensors --class 3").fails(2, &["--class 3", "0 to 2"]);
    dir.run("sample m.safetensors --class 0").fails(2, &["without classes"]);
}

#[test]
fn guidance_goes_away_from_no_class_or_from_another_model() {
    let dir = Dir::new();
    let plain = spec(&[1, 8, 8], Some(3), Head::Energy);
    let null = ModelSpec { null_class: true, ..plain.clone() };
    dir.model("m.safetensors", &null, &[]);
    dir.model("classes.safetensors", &plain, &[]);
    dir.model("bare.safetensors", &spec(&[1, 8, 8], None, Head::Denoiser), &[]);
    let drawn = |args: &str| {
        dir.run(&format!("sample m.safetensors sampler.steps=3 -n 2 --npz a.npz {args}")).ok();
        levels(&array(&dir, "a.npz"))
    };
    let near = |a: &[u8], b: &[u8]| a.iter().zip(b).all(|(a, b)| a.abs_diff(*b) <= 1);
    let (one, none) = (drawn("--class 1"), drawn("--class none"));
    assert!(!near(&one, &none));
    // a weight of 1 is the model, of 0 its guide; between them in score, not in samples
    assert_eq!(drawn("--class 1 --guidance 1"), one);
    assert!(near(&drawn("--class 1 --guidance 0"), &none));
    let guided = drawn("--class 1 --guidance 4");
    assert!(!near(&guided, &one) && !near(&guided, &none));
    assert_eq!(drawn("--class 1 --guidance 4 --guidance-interval 1e6,1e7"), one);
    assert_eq!(drawn("--class 1 --guidance 4 --guidance-interval 0,1e7"), guided);
    // a second model, told the same class: the model itself guides nowhere
    assert_eq!(drawn("--class 1 --guidance 4 --guide m.safetensors"), one);
    let away = drawn("--class 1 --guidance 4 --guide bare.safetensors");
    assert!(!near(&away, &one) && !near(&away, &guided));
    drawn("--class none --guidance 2 --guide m.safetensors");
    drawn("--class 2 --guidance 2 --guide classes.safetensors");

    // a snapshot of a run, by RUN@STEP
    dir.model("run/model.safetensors", &null, &[]);
    dir.model("run/snapshots/step-500.safetensors", &spec(&[1, 8, 8], None, Head::Denoiser), &[]);
    assert_eq!(drawn("--class 1 --guidance 4 --guide run"), one);
    assert_eq!(drawn("--class 1 --guidance 4 --guide run@500"), away);
    let fails = |args: &str, words: &[&str]| dir.run(&format!("sample {args}")).fails(2, words);
    fails("m.safetensors --class 3", &["--class 3", "0 to 2, or none"]);
    fails("m.safetensors --class none --guidance 2", &["--class none", "--guide"]);
    fails("m.safetensors --class 1 --guidance nan", &["scale", "NaN"]);
    fails("m.safetensors --class 1 --guidance 2 --guidance-interval 5,1", &["interval", "rise"]);
    fails("m.safetensors --class 1 --guidance 2 --guidance-interval 5", &["--guidance-interval 5", "two noise levels"]);
    fails("classes.safetensors --class none", &["--class none", "train.label_dropout=0.1"]);
    fails("classes.safetensors --guidance 2", &["train.label_dropout=0.1", "--guide"]);
    fails("bare.safetensors --guidance 2", &["model.conditional=true", "--guide"]);
    fails("bare.safetensors --guidance 2 --guide classes.safetensors", &["--guide", "3 classes"]);
    fails("m.safetensors --class none --guidance 2 --guide classes.safetensors", &["--class none", "label_dropout"]);
    dir.model("four.safetensors", &spec(&[1, 8, 8], Some(4), Head::Denoiser), &[]);
    dir.model("small.safetensors", &spec(&[1, 4, 4], Some(3), Head::Denoiser), &[]);
    dir.model("vp.safetensors", &ddpm(&[1, 8, 8]), &[]);
    fails("m.safetensors --guidance 2 --guide four.safetensors", &["4 classes", "the model 3"]);
    fails("m.safetensors --guidance 2 --guide small.safetensors", &["[1, 4, 4]", "[1, 8, 8]"]);
    // a guide of another process guides at the noise levels that both know
    let table = "sample m.safetensors --class 1 sampler.steps=3 -n 2 --npz a.npz --guidance 4 --guide vp.safetensors";
    let ran = dir.run(table);
    assert!(ran.ok() == "a.npz\n" && !near(&levels(&array(&dir, "a.npz")), &one));
    let words =
        "the guide denoises table, and is taken as of edm by equal sigma/alpha, which both know from 0.0100 to 80";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    fails(
        &format!("{} --guidance-interval 0,0.005", &table[7..]),
        &["--guidance-interval 0,0.005", "from 0.0100 to 80"],
    );
    let far =
        ModelSpec { process: Edm { sigma_min: 1e3, sigma_max: 1e4 }.into(), ..spec(&[1, 8, 8], None, Head::Denoiser) };
    dir.model("far.safetensors", &far, &[]);
    fails("m.safetensors --guidance 2 --guide far.safetensors", &["--guide", "none in common"]);
}

#[test]
fn from_an_image() {
    let dir = Dir::new();
    dir.model("m.safetensors", &spec(&[1, 8, 8], None, Head::Denoiser), &[]);
    let picture = image::GrayImage::from_fn(16, 12, |x, _| image::Luma([if x < 8 { 20 } else { 220 }]));
    picture.save(dir.path("i.png")).unwrap();
    let args = "sample m.safetensors sampler.steps=40 --from i.png -n 2 --npz a.npz";
    dir.run(&format!("{args} --strength 0.1")).ok();
    let near = levels(&array(&dir, "a.npz"));
    // a tenth of the way is little noise: the two halves are seen
    assert!(near[0] < 110 && near[7] > 130, "{near:?}");
    dir.run(&format!("{args} --encode --strength 1")).ok();
    let both = levels(&array(&dir, "a.npz"));
    assert_eq!(both[..64], both[64..], "the way there and back has no noise");
    assert!(both[0] < 60 && both[7] > 180, "{both:?}");
    dir.run(&format!("{args} --strength 0")).fails(2, &["--strength 0"]);
    dir.run(&format!("{args} --encode sampler.name=ddpm")).fails(1, &["ddpm", "heun"]);
    // particles are weighed as draws of pure noise
    dir.model("e.safetensors", &spec(&[1, 8, 8], None, Head::Energy), &[]);
    let smc = "sample e.safetensors sampler.name=smc sampler.steps=3 -n 4 --npz a.npz";
    dir.run(&format!("{smc} --from i.png")).fails(2, &["--from", "smc", "pure noise"]);
    dir.run(&format!("{smc} --interpolate 1,2")).fails(2, &["--interpolate", "smc"]);
    let ran = dir.run(&format!("{smc} --batch 2"));
    assert!(ran.ok() == "a.npz\n" && ran.stderr.contains("each 2 samples are a population"), "{}", ran.stderr);
    dir.run("sample m.safetensors --from none.png").fails(1, &["none.png"]);
    std::fs::write(dir.path("bad.png"), "no picture").unwrap();
    dir.run("sample m.safetensors --from bad.png").fails(1, &["bad.png", "image"]);
}

#[test]
fn between_two_seeds() {
    let dir = Dir::new();
    dir.model("m.safetensors", &spec(&[1, 8, 8], None, Head::Denoiser), &[]);
    let args = "sample m.safetensors sampler.steps=4 --npz";
    dir.run(&format!("{args} a.npz --interpolate 3,8 -n 5 --batch 2")).ok();
    dir.run(&format!("{args} b.npz --seeds 3,8")).ok();
    let (between, ends) = (array(&dir, "a.npz"), array(&dir, "b.npz"));
    let near = |a: &Tensor, b: &Tensor| levels(a).iter().zip(levels(b)).all(|(a, b)| a.abs_diff(b) <= 1);
    assert!(near(&between.get(0).unwrap(), &ends.get(0).unwrap()));
    assert!(near(&between.get(4).unwrap(), &ends.get(1).unwrap()));
    dir.run("sample m.safetensors --interpolate 3").fails(2, &["--interpolate 3"]);
    dir.run("sample m.safetensors --interpolate 3,8 -n 1").fails(2, &["-n 2"]);
    dir.run("sample m.safetensors --interpolate 3,8 sampler.name=ddpm").fails(2, &["ddpm", "heun"]);
}

#[test]
fn points_are_drawn_over_the_energy_and_tables_are_text() {
    let dir = Dir::new();
    dir.model("p.safetensors", &spec(&[2], None, Head::Energy), &[]);
    dir.run("sample p.safetensors -n 20 sampler.steps=3 --out p.png --gif p.gif --npz p.npz").ok();
    let picture = image::open(dir.path("p.png")).unwrap().into_rgb8();
    let colours: std::collections::HashSet<_> = picture.pixels().collect();
    assert!(colours.len() > 100, "an energy has many colours, not {}", colours.len());
    assert_eq!(array(&dir, "p.npz").dims(), [20, 2]);

    let columns = r#"{"names":["age","kg"," h"],"mean":[50,70,1000],"std":[10,5,0]}"#.to_string();
    dir.model("t.safetensors", &spec(&[3], None, Head::Energy), &[("langevin.columns", columns)]);
    assert_eq!(dir.run("sample t.safetensors -n 4 sampler.steps=3").ok(), "samples.csv\n");
    let text = std::fs::read_to_string(dir.path("samples.csv")).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (5, "age,kg, h"));
    assert!(lines[1..].iter().all(|line| line.ends_with(",1000")), "{text}");
    dir.run("sample t.safetensors --out t.png").fails(2, &["--out FILE.png", ".csv"]);
    dir.run("sample t.safetensors --gif t.gif").fails(2, &["--gif"]);
    dir.run("sample p.safetensors --images each").fails(2, &["--images"]);
    dir.run("sample p.safetensors --out p.csv sampler.steps=2").ok();
}

/// What is written of a table is in its units, whatever the file; a constant column is in every sample.
#[test]
fn arrays_of_a_table_have_the_numbers_of_its_text() {
    let dir = Dir::new();
    let columns = |last: &str| {
        let text = format!(r#"{{"names":["a","tare","b"],"mean":[500,3e-9,{last}],"std":[20,0,4]}}"#);
        [("langevin.columns", text)]
    };
    for (last, dtype) in [("-7", DType::F32), ("1700000000", DType::F64)] {
        dir.model("t.safetensors", &spec(&[3], None, Head::Energy), &columns(last));
        dir.run("sample t.safetensors -n 5 sampler.steps=3 --out t.csv --npz t.npz").ok();
        dir.run("sample --let a=t.safetensors --compose a -n 5 sampler.steps=3 --out c.csv --npz c.npz").ok();
        for name in ["t", "c"] {
            let array = array(&dir, &format!("{name}.npz"));
            assert_eq!((array.dims(), array.dtype()), (&[5, 3][..], dtype));
            let array: Vec<Vec<f64>> = array.to_dtype(DType::F64).unwrap().to_vec2().unwrap();
            let text = std::fs::read_to_string(dir.path(&format!("{name}.csv"))).unwrap();
            for (row, line) in array.iter().zip(text.lines().skip(1)) {
                let cells: Vec<f64> = line.split(',').map(|v| v.parse().unwrap()).collect();
                assert_eq!(cells[1], 3e-9);
                for ((a, b), std) in row.iter().zip(&cells).zip([20., 1e-9, 4.]) {
                    assert!((a - b).abs() <= 1e-5 * std, "{a} {b}");
                }
            }
        }
    }
    let about = dir.run("info t.safetensors");
    assert!(about.ok().contains("a (500 +- 20), tare = 0.000000003, b"), "{}", about.stdout);
}

/// A consistency model wants its sampler, whatever the configuration that was saved with it says.
#[test]
fn a_consistency_model_is_drawn_by_its_sampler() {
    let dir = Dir::new();
    let of = ModelSpec {
        predict: AnyParametrisation::named("consistency").unwrap(),
        ..spec(&[1, 8, 8], None, Head::Denoiser)
    };
    dir.model("c.safetensors", &of, &[]);
    let small = "train.batch=8 model.net.width=8 model.net.layers=1 train.steps=2";
    dir.run(&format!("train toy:two-moons --out run model.head=denoiser model.predict=consistency {small}")).ok();
    for model in ["c.safetensors", "run"] {
        dir.run(&format!("sample {model}")).fails(2, &["sampler.name = heun", "give sampler.name=consistency"]);
        dir.run(&format!("sample {model} -n 1 sampler.name=consistency sampler.steps=2")).ok();
    }
}

#[test]
fn changes_are_limited_to_the_sampler() {
    let dir = Dir::new();
    dir.model("m.safetensors", &spec(&[1, 8, 8], None, Head::Denoiser), &[]);
    let fails = |args: &str, words: &[&str]| dir.run(&format!("sample m.safetensors {args}")).fails(2, words);
    fails("train.steps=3", &["train.steps=3", "sampler"]);
    fails("sampler.stepz=3", &["stepz"]);
    fails("sampler.steps=many", &["many"]);
    fails("sampler.steps=-3", &["-3"]);
    fails("sampler.steps=0", &["sampler.steps = 0"]);
    fails("sampler.name=huen", &["huen", "heun", "ddim"]);
    fails("sampler.name=consistency", &["consistency models", "heun"]);
    fails("sampler.name=pc sampler.replicas=2", &["replicas is 2", "corrector=mala"]);
    fails("sampler.grid=karas", &["karas", "karras"]);
    fails("noise=dice", &["dice", "counter"]);
    fails("sampler", &["sampler"]);
    fails("-n 0", &["-n 0"]);
    fails("--batch 0", &["--batch 0"]);
    fails("--seeds 3-", &["--seeds"]);
    fails("--seeds 9-3", &["backwards"]);
    fails("--seeds 0-99999999999", &["more than"]);
}

#[test]
fn names_of_models_that_are_none() {
    let dir = Dir::new();
    let weights = dir.model("run/model.safetensors", &spec(&[1, 8, 8], None, Head::Denoiser), &[]);
    dir.run("sample google/ddpm-cifar10-32").fails(1, &["google/ddpm-cifar10-32", "HF_HUB_OFFLINE"]);
    dir.run("sample nothing").fails(2, &["nothing"]);
    dir.run("sample run@7").fails(2, &["run", "snapshot_every"]);
    dir.model("run/snapshots/step-500.safetensors", &spec(&[1, 8, 8], None, Head::Denoiser), &[]);
    dir.model("run/snapshots/step-1000.safetensors", &spec(&[1, 8, 8], None, Head::Denoiser), &[]);
    dir.run("sample run@7").fails(2, &["step 7", "500, 1000"]);
    dir.run("sample run@last").fails(2, &["last"]);
    dir.run("sample run@500 -n 1 sampler.steps=2").ok();
    // a run that is not there is not asked of the Hub
    std::fs::create_dir(dir.path("runs")).unwrap();
    dir.run("sample runs/digist").fails(2, &["no run runs/digist", "runs holds none"]);
    dir.model("runs/digits/model.safetensors", &spec(&[1, 8, 8], None, Head::Denoiser), &[]);
    for verb in ["sample", "info"] {
        dir.run(&format!("{verb} runs/digist")).fails(2, &["no run runs/digist", "runs holds digits"]);
    }
    std::fs::create_dir(dir.path("empty")).unwrap();
    dir.run("sample empty").fails(2, &["empty", "not a run folder"]);
    std::fs::write(dir.path("empty/config.toml"), "").unwrap();
    dir.run("sample empty").fails(1, &["empty", "checkpoint"]);

    let whole = std::fs::read(&weights).unwrap();
    for (name, bytes) in [("half", &whole[..whole.len() / 2]), ("head", &whole[..100]), ("none", &[][..])] {
        std::fs::write(dir.path(&format!("{name}.safetensors")), bytes).unwrap();
        dir.run(&format!("sample {name}.safetensors")).fails(1, &[name]);
    }
    common::write_tensors(
        &dir.path("other.safetensors"),
        &[("a", Tensor::new(&[1f32], &candle_core::Device::Cpu).unwrap())],
    );
    dir.run("sample other.safetensors").fails(1, &["other.safetensors"]);
    std::fs::write(dir.path("notes.txt"), "not weights").unwrap();
    dir.run("sample notes.txt").fails(1, &["notes.txt"]);
}

#[test]
fn what_cannot_be_written_is_said_and_loses_nothing() {
    let dir = Dir::new();
    dir.model("m.safetensors", &spec(&[1, 8, 8], None, Head::Denoiser), &[]);
    for (option, ending) in [("--out s.npz", ".png or .csv"), ("--npz s.png", ".npz"), ("--gif s.png", ".gif")] {
        dir.run(&format!("sample m.safetensors -n 1 {option}")).fails(2, &[&option[6..], ending]);
    }
    dir.run("sample m.safetensors -n 1 --out no/where.png").fails(1, &["no/where.png", "no folder"]);
    std::fs::create_dir(dir.path("folder.png")).unwrap();
    dir.run("sample m.safetensors -n 1 --out folder.png").fails(1, &["folder.png", "folder"]);
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::FileTypeExt;
        dir.run("sample m.safetensors -n 1 sampler.steps=2 --out /dev/full").fails(1, &["/dev/full", "space"]);
        assert!(std::fs::metadata("/dev/full").unwrap().file_type().is_char_device());
    }
}

#[test]
fn a_folder_of_diffusers_is_sampled_by_its_scheduler_or_by_ours() {
    let dir = Dir::new();
    dir.model("table.safetensors", &ddpm(&[1, 8, 8]), &[]);
    dir.run("export table.safetensors folder").ok();
    as_of_others(&dir, "folder");
    let drawn = |args: &str| {
        dir.run(&format!("sample {args} -n 2 noise=torch --images out")).ok();
        [0, 1].map(|i| image::open(dir.path(&format!("out/{i}.png"))).unwrap().to_luma8().into_raw())
    };
    let off = |a: &[Vec<u8>; 2], b: &[Vec<u8>; 2]| {
        a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    };
    // DDPMScheduler: its steps are those of ddpm on the leading grid
    let theirs = drawn("folder sampler.steps=5");
    let ours = drawn("table.safetensors sampler.name=ddpm sampler.grid=leading sampler.steps=5");
    assert!(off(&theirs, &ours) <= 3, "{}", off(&theirs, &ours)); // its table is in single precision
    let other = drawn("folder sampler.name=heun sampler.steps=5");
    assert!(off(&other, &drawn("table.safetensors sampler.name=heun sampler.steps=5")) <= 1);
    assert!(off(&other, &theirs) > 20);
    dir.run("export folder again").fails(2, &["diffusers already"]);
    dir.run("sample folder sampler.steps=5000").fails(2, &["DDPMScheduler", "1000"]);
    // another scheduler with the keys of this one; the weights file alone; another's file
    let ddim = drawn("folder --scheduler DDIMScheduler sampler.steps=5");
    let ours = drawn("table.safetensors sampler.name=ddim sampler.grid=leading sampler.steps=5");
    assert!(off(&ddim, &ours) <= 3 && off(&ddim, &theirs) > 20, "{}", off(&ddim, &ours));
    let file = "folder/unet/diffusion_pytorch_model.safetensors";
    assert_eq!(off(&drawn(&format!("{file} sampler.steps=5")), &theirs), 0);
    let mine = |class: &str| {
        let text = format!(r#"{{"_class_name": "{class}", "clip_sample": false}}"#);
        std::fs::write(dir.path("mine.json"), text).unwrap();
    };
    mine("DDIMScheduler");
    assert_eq!(off(&drawn(&format!("{file} --scheduler mine.json sampler.steps=5")), &ddim), 0);
    dir.run("sample folder --scheduler none.json").fails(1, &["none.json"]);
    dir.run("sample folder --scheduler LMS").fails(1, &["LMS", "DDIMScheduler"]);
    dir.run("sample table.safetensors --scheduler DDIMScheduler").fails(2, &["--scheduler", "sampler.name"]);
    std::fs::remove_dir_all(dir.path("folder/scheduler")).unwrap();
    mine("DDPMScheduler");
    assert_eq!(off(&drawn("folder --scheduler mine.json sampler.steps=5"), &theirs), 0);
    let clipped = drawn("folder --scheduler DDPMScheduler sampler.steps=5"); // as its signature has it
    assert!(off(&clipped, &theirs) > 0);
    dir.run("sample folder").fails(1, &["scheduler_config.json", "langevin apply"]);
    let index = |text: &str| std::fs::write(dir.path("folder/model_index.json"), text).unwrap();
    let run = || dir.run("sample folder --scheduler mine.json sampler.steps=5 -n 1");
    index(r#"{"vae": [null, null], "vqvae": ["diffusers", "VQModel"]}"#);
    run().fails(1, &["model_index.json", "a vqvae", "langevin apply"]);
    index(r#"{"vae": [null, null], "mel": ["diffusers", "Mel"]}"#);
    run().ok();
    index("{");
    run().fails(1, &["model_index.json", "not JSON"]);
    index("{}");
    let config = std::fs::read_to_string(dir.path("folder/unet/config.json")).unwrap();
    std::fs::write(dir.path("folder/unet/config.json"), config.replace("\"sample_size\": 8", "\"sample_size\": 9"))
        .unwrap();
    run().fails(1, &["`folder`: `sample_size`", "9x9 does not work, 10x10 does"]);
}
