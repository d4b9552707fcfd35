//! What a run keeps of its data: classes and columns go by their names, and a run goes on with its own data alone.

mod common;

use common::*;
use image::{GrayImage, Luma};
use langevin::data::{Columns, Facts};
use langevin::models::Head;
use serde_json::Value;
use std::fs;
use std::path::Path;

const TINY: &str = "train.steps=2 train.batch=4 train.checkpoint_every=1000 train.snapshot_every=0 train.sample_every=0 \
     sampler.steps=2 model.net.channels=[4,8] model.net.groups=2 model.net.layers=1 model.head=denoiser";
const TABLE: &str = "train.steps=2 train.batch=8 train.checkpoint_every=1000 train.snapshot_every=0 train.sample_every=0 \
     sampler.steps=2 model.net.width=8 model.net.layers=1";

/// Grey images of 8x8 about these values, as FOLDER/CLASS/0.png and on.
fn images(folder: &Path, class: &str, values: &[u8]) {
    fs::create_dir_all(folder.join(class)).unwrap();
    for (i, &v) in values.iter().enumerate() {
        let image = GrayImage::from_fn(8, 8, |x, y| Luma([v.saturating_add((x * 3 + y) as u8)]));
        image.save(folder.join(class).join(format!("{i}.png"))).unwrap();
    }
}

fn named(names: &[&str]) -> Facts {
    Facts {
        samples: 9,
        shape: vec![1, 8, 8],
        classes: Some(names.len()),
        class_names: Some(names.iter().map(|name| name.to_string()).collect()),
        columns: None,
        sigma_data: None,
        fingerprint: "0".repeat(64),
    }
}

fn facts(names: &[&str]) -> [(&'static str, String); 1] {
    [("langevin.data", serde_json::to_string(&named(names)).unwrap())]
}

/// A model that is told these classes.
fn model_of(dir: &Dir, file: &str, names: &[&str]) {
    dir.stirred(file, &spec(&[1, 8, 8], Some(names.len()), Head::Denoiser), &facts(names));
}

fn config(dir: &Dir, run: &str) -> String {
    fs::read_to_string(dir.path(run).join("config.toml")).unwrap()
}

fn kept(dir: &Dir, run: &str) -> Facts {
    serde_json::from_str(&fs::read_to_string(dir.path(run).join("data.json")).unwrap()).unwrap()
}

/// It must have failed with `code`, with an error that has all of `words`; notes on the data may come before.
#[track_caller]
fn refused(ran: &Ran, code: i32, words: &[&str]) {
    let error = ran.stderr.lines().last().unwrap_or_default();
    assert!(ran.code() == code && error.starts_with("error: "), "{} {}", ran.code(), ran.stderr);
    for word in words {
        assert!(error.contains(word), "no {word:?} in {error}");
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn likelihood_matches_classes_by_name() {
    let dir = Dir::new();
    model_of(&dir, "m.safetensors", &["cat", "dog", "owl"]);
    images(&dir.path("two"), "dog", &[40, 60, 80]);
    images(&dir.path("two"), "owl", &[140, 160, 180]);
    let bits = |class: &str| {
        let args = "eval bits m.safetensors --data two --method ode --rtol 0.1 --atol 0.1 --json b.json";
        dir.run(&format!("{args} {class}")).ok();
        let all = json(&dir.path("b.json"));
        let numbers = |value: &Value| value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
        (numbers(&all["places"]), numbers(&all["methods"]["ode"]["log_p"]))
    };
    let ((places, by_name), (_, dog), (_, owl)) = (bits(""), bits("--class dog"), bits("--class owl"));
    for (i, place) in places.iter().enumerate() {
        assert_eq!(by_name[i], if *place < 3. { dog[i] } else { owl[i] }, "sample {place}");
    }
    assert_ne!(dog, owl);
    assert_eq!(bits("--class 1").1, dog, "numbers stay");
    images(&dir.path("two"), "emu", &[90]);
    let ran = dir.run("eval bits m.safetensors --data two --method ode");
    refused(&ran, 2, &["\"emu\"", "cat, dog, owl", "--class"]);
}

#[test]
fn a_folder_of_one_class_is_matched_by_its_name() {
    let dir = Dir::new();
    model_of(&dir, "m.safetensors", &["cat", "dog", "owl"]);
    images(&dir.path("one"), "owl", &[40, 90]);
    let inpaint = |class: &str| {
        dir.run(&format!("inpaint m.safetensors --data one -n 2 --mask half --method replace sampler.steps=2 {class}"))
            .ok();
        fs::read(dir.path("inpaint.png")).unwrap()
    };
    let by_name = inpaint("");
    assert!(by_name == inpaint("--class 2") && by_name != inpaint("--class 0"));
    let scores = "score-norms --levels 0.5 --fit-samples 2";
    images(&dir.path("both"), "owl", &[10, 20, 30]);
    images(&dir.path("both"), "dog", &[110, 120]);
    let ood = |class: &str| {
        let args = format!("eval ood m.safetensors --data both --fit both --ood one --class {class} --scores {scores}");
        dir.run(&args)
    };
    assert!(ood("owl").ok().contains("2 + 3"), "the owls alone belong");
    assert!(ood("dog").ok().contains("2 + 2"));
    refused(&ood("cat"), 2, &["--class cat", "dog, owl"]);
    ood("cow").fails(2, &["--class cow", "cat, dog, owl", "0 to 2"]);
}

#[test]
fn a_class_is_asked_for_by_name() {
    let dir = Dir::new();
    model_of(&dir, "m.safetensors", &["seven", "3", "1"]);
    let sample = |class: &str| {
        let ran = dir.run(&format!("sample m.safetensors -n 2 sampler.steps=2 --npz s.npz --class {class}"));
        ran.ok();
        (fs::read(dir.path("s.npz")).unwrap(), ran.stderr)
    };
    assert_eq!(sample("seven").0, sample("0").0);
    assert_eq!(sample("1").0, sample("2").0, "the class that is called 1, not number 1");
    assert!(sample("2").1.contains("class number 2 is 1"), "a number among names that are numbers is told");
    assert_ne!(sample("3").0, sample("1").0);
    let compose = |class: &str| {
        dir.run(&format!("sample --let a=m.safetensors,class={class} --compose a -n 2 sampler.steps=2 --npz c.npz"))
            .ok();
        fs::read(dir.path("c.npz")).unwrap()
    };
    assert_eq!(compose("seven"), compose("0"));
    dir.run("sample m.safetensors --class eight").fails(2, &["--class eight", "seven, 3, 1", "0 to 2"]);
    assert!(dir.run("info m.safetensors").ok().contains("3: seven, 3, 1"));
}

/// A guide that numbers the classes in another way is told the class of the same name.
#[test]
fn a_guide_is_told_classes_by_name() {
    let dir = Dir::new();
    let of = spec(&[1, 8, 8], Some(2), Head::Denoiser);
    let file = dir.stirred("ab.safetensors", &of, &facts(&["a", "b"]));
    let (model, _) =
        langevin::models::checkpoint::load(&file, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    let mut weights = langevin::models::checkpoint::weights(&model);
    for (name, table) in &mut weights {
        if name.ends_with("class_embedding.weight") {
            *table = table.flip(&[0]).unwrap();
        }
    }
    let notes = |names: &[&str]| facts(names).into_iter().map(|(key, text)| (key.to_string(), text)).collect();
    langevin::models::checkpoint::save(&dir.path("ba.safetensors"), &of, &weights, &notes(&["b", "a"])).unwrap();
    langevin::models::checkpoint::save(&dir.path("bc.safetensors"), &of, &weights, &notes(&["b", "c"])).unwrap();
    let sample = |guide: &str| {
        dir.run(&format!("sample ab.safetensors -n 4 sampler.steps=2 --guidance 2 --guide {guide} --npz s.npz"))
    };
    let drawn = |guide: &str| {
        sample(guide).ok();
        fs::read(dir.path("s.npz")).unwrap()
    };
    assert_eq!(drawn("ab.safetensors"), drawn("ba.safetensors"));
    sample("bc.safetensors").fails(2, &["--guide bc.safetensors", "b, c", "a, b"]);
}

#[test]
fn a_configuration_holds_no_facts_of_its_data() {
    let dir = Dir::new();
    images(&dir.path("dark"), "", &[0, 10, 20]);
    images(&dir.path("wide"), "", &[0, 255, 0, 255, 100]);
    dir.run(&format!("train digits --data dark --out a {TINY}")).ok();
    let text = config(&dir, "a");
    assert!(!text.contains("sigma_data") && !text.contains("samples"), "{text}");
    let dark = kept(&dir, "a").sigma_data.unwrap();
    dir.run("train a/config.toml --data wide --out b").ok();
    let wide = kept(&dir, "b");
    assert_eq!(wide.samples, 5);
    assert!(wide.sigma_data.unwrap() > 3. * dark, "{:?} {dark}", wide.sigma_data);
    // what is typed is kept
    dir.run("train a/config.toml --data wide --out c model.sigma_data=0.7").ok();
    assert!(config(&dir, "c").contains("sigma_data = 0.7") && kept(&dir, "c").sigma_data.is_none());
    dir.run("train c/config.toml --data dark --out d").ok();
    assert!(dir.run("info d").ok().contains("sigma_data   0.7"));
    // a configuration of an earlier version says so
    fs::write(
        dir.path("old.toml"),
        text.replace("[data]", "[data]\nsamples = 3").replace("[model]", "[model]\nsigma_data = 0.05"),
    )
    .unwrap();
    let ran = dir.run("train old.toml --data wide --out e");
    ran.ok();
    assert!(ran.stderr.contains("data.samples = 3") && ran.stderr.contains("sigma_data = 0.05"), "{}", ran.stderr);
    assert_eq!(kept(&dir, "e"), wide);
}

#[test]
fn the_data_are_found_from_every_folder_and_where_they_moved() {
    let dir = Dir::new();
    images(&dir.path("x/imgs"), "a", &[0, 50, 100]);
    images(&dir.path("x/imgs"), "b", &[150]);
    images(&dir.path("y/imgs"), "a", &[9, 9]);
    let at = |folder: &str, args: &str| dir.run_at(folder, args);
    at("x", &format!("train digits --data imgs --out ../run model.conditional=true {TINY}")).ok();
    assert!(config(&dir, "run").contains("/x/imgs\""), "{}", config(&dir, "run"));
    at("y", "train --resume ../run train.steps=3").ok();
    // another way to write the path is the same data
    let ood =
        "eval ood ../run --data ../y/../x/imgs --ood imgs --class a --scores score-norms --levels 0.5 --fit-samples 2";
    assert!(at("y", ood).stderr.contains("the model has learnt"), "{}", at("y", ood).stderr);
    // what lies there is no longer the same
    images(&dir.path("x/imgs"), "a", &[1]);
    let fit = "detect ../run imgs --scores score-norms --levels 0.5 --fit-samples 2 --alpha 0.6 --class a";
    let ran = at("y", fit);
    assert!(ran.stderr.contains("warning:") && ran.stderr.contains("other contents"), "{}", ran.stderr);
    refused(&at("y", "train --resume ../run train.steps=4"), 1, &["other contents", "--data SPEC", "--new-data"]);
    images(&dir.path("x/imgs"), "a", &[0]);
    fs::rename(dir.path("x/imgs"), dir.path("x/moved")).unwrap();
    at("y", "train --resume ../run train.steps=4").fails(1, &["x/imgs", "--data SPEC"]);
    refused(&at("y", "train --resume ../run train.steps=4 --data imgs"), 1, &["2 samples, not 4"]);
    at("x", "train --resume ../run train.steps=4 --data moved").ok();
    assert!(config(&dir, "run").contains("x/moved"));
    at("y", "train --resume ../run train.steps=5").ok();
}

#[test]
fn a_run_goes_on_with_new_data_by_the_names_of_their_classes() {
    let dir = Dir::new();
    images(&dir.path("old"), "a", &[0, 50]);
    images(&dir.path("old"), "b", &[150, 200]);
    images(&dir.path("new"), "b", &[120, 130, 140]);
    dir.run(&format!("train digits --data old --out run model.conditional=true {TINY}")).ok();
    let resume = "train --resume run train.steps=3 --data new";
    refused(&dir.run(resume), 1, &["3 samples, not 4"]);
    let before = kept(&dir, "run");
    let ran = dir.run(&format!("{resume} --new-data"));
    ran.ok();
    assert!(ran.stderr.contains("new data"), "{}", ran.stderr);
    let after = kept(&dir, "run");
    assert_eq!((after.samples, &after.class_names, after.sigma_data), (3, &before.class_names, before.sigma_data));
    dir.run("train --resume run train.steps=4").ok();
    images(&dir.path("new"), "c", &[1]);
    refused(&dir.run("train --resume run train.steps=5 --new-data"), 1, &["\"c\"", "a, b"]);
    dir.run(&format!("train digits --out fresh --new-data {TINY}")).fails(2, &["--resume"]);
}

#[test]
fn new_data_without_names_of_classes_leave_those_of_the_run() {
    let dir = Dir::new();
    images(&dir.path("old"), "a", &[0, 50]);
    images(&dir.path("old"), "b", &[150, 200]);
    dir.run(&format!("train digits --data old --out run model.conditional=true {TINY}")).ok();
    dir.run("sample run --seeds 0-3 --npz new.npz").ok(); // images with the labels 0 and 1
    dir.run("train --resume run train.steps=3 --data new.npz --new-data").ok();
    assert_eq!(kept(&dir, "run").class_names.unwrap(), ["a", "b"]);
    dir.run("sample run --class b -n 1").ok();
}

#[test]
fn numbers_of_many_digits_are_kept_to_the_last_one() {
    let dir = Dir::new();
    // means far from 0 beside their deviations, and deviations of 17 digits
    let rows: String =
        (0..40).map(|i| format!("{},{}\n", 1.7e9 + f64::from(i * i % 7), 0.1 * f64::from(i % 9))).collect();
    fs::write(dir.path("t.csv"), format!("time,dose\n{rows}")).unwrap();
    for (i, data) in ["t.csv", "toy:pinwheel", "toy:rings", "toy:two-moons", "toy:checkerboard", "toy:8-gaussians"]
        .into_iter()
        .enumerate()
    {
        dir.run(&format!("train toy --data {data} --out run{i} {TABLE}")).ok();
        for steps in 3..5 {
            let again = dir.run(&format!("train --resume run{i} train.steps={steps}"));
            assert!(again.ok().contains(&format!("resumed at step {}", steps - 1)), "{data}");
        }
    }
}

#[test]
fn a_finished_run_takes_nothing_that_it_would_not_use() {
    let dir = Dir::new();
    dir.run(&format!("train toy:rings --out run {TABLE}")).ok();
    let before = (config(&dir, "run"), fs::read(dir.path("run/data.json")).unwrap());
    dir.run("train --resume run sampler.steps=9").fails(2, &["finished", "train.steps"]);
    let ran = dir.run("train --resume run --data toy:two-moons --new-data");
    refused(&ran, 2, &["--new-data", "finished", "train.steps"]);
    assert!(before == (config(&dir, "run"), fs::read(dir.path("run/data.json")).unwrap()));
    assert!(dir.run("train --resume run").ok().contains("this run is finished"));
    dir.run("train --resume run train.steps=3 sampler=ddim").ok();
    assert!(config(&dir, "run").contains("ddim"));
}

#[test]
fn a_size_of_a_file_is_left_out_where_data_have_their_own() {
    let dir = Dir::new();
    images(&dir.path("photos"), "", &[0, 50, 100]);
    dir.run(&format!("train digits --data photos --out run data.size=16 {TINY}")).ok();
    let ran = dir.run(&format!("train run/config.toml --data digits --out next {TINY}"));
    ran.ok();
    assert!(ran.stderr.contains("data.size = 16 of the configuration is left out"), "{}", ran.stderr);
    dir.run(&format!("train run/config.toml --data digits data.size=16 --out last {TINY}"))
        .fails(2, &["data.size = 16"]);
}

#[test]
fn a_table_keeps_its_columns_and_their_scale_when_a_run_goes_on() {
    let dir = Dir::new();
    let write = |name: &str, text: &str| fs::write(dir.path(name), text).unwrap();
    let rows = "20,1000,3\n25,1010,5\n30,990,4\n22,1005,9\n";
    write("d.csv", &format!("temp,press,wind\n{rows}"));
    dir.run(&format!("train toy --data d.csv --out run {TABLE}")).ok();
    let columns = || kept(&dir, "run").columns.unwrap();
    let before: Columns = columns();
    // the columns in another order are the same table
    write("d.csv", "wind,temp,press\n3,20,1000\n5,25,1010\n4,30,990\n9,22,1005\n");
    dir.run("train --resume run train.steps=3").ok();
    assert_eq!(columns(), before);
    // another unit is another table
    write("d.csv", &format!("temp,press,wind\n{}", rows.replace("20,", "68,").replace("25,", "77,")));
    dir.run("train --resume run train.steps=4").fails(1, &["other contents"]);
    // new rows are scaled as those before
    write("d.csv", "wind,temp,press\n3,20,1000\n5,25,1010\n");
    dir.run("train --resume run train.steps=4 --new-data").ok();
    assert_eq!((columns(), kept(&dir, "run").samples), (before, 2));
    write("d.csv", "wind,temp,hum\n3,20,1000\n5,25,1010\n");
    dir.run("train --resume run train.steps=5 --new-data").fails(1, &["wind, temp, hum", "temp, press, wind"]);
}

#[test]
fn a_run_that_starts_from_a_model_keeps_its_classes_and_columns() {
    let dir = Dir::new();
    images(&dir.path("old"), "a", &[0, 50]);
    images(&dir.path("old"), "b", &[150, 200]);
    dir.run(&format!("train digits --data old --out run model.conditional=true {TINY} train.lr=0.05")).ok();
    images(&dir.path("new"), "B", &[1, 2]);
    images(&dir.path("new"), "a", &[3, 4]);
    images(&dir.path("new"), "b", &[120, 130]);
    let ran = dir.run(&format!("train digits --data new --out next model.from=run {TINY} train.lr=1e-9"));
    ran.ok();
    assert!(ran.stderr.contains("its output is not learnt first"), "{}", ran.stderr);
    assert!(ran.stderr.contains("does not know the classes B"), "{}", ran.stderr);
    assert_eq!(kept(&dir, "next").class_names.unwrap(), ["a", "b", "B"]);
    let table = |run: &str| {
        let tensors = read_tensors(&dir.path(run).join("model.safetensors"));
        let name = tensors.keys().find(|name| name.ends_with("class_embedding.weight")).unwrap();
        tensors[name].clone()
    };
    let (old, new) = (table("run"), table("next"));
    assert_eq!(new.dims()[0], 3);
    assert!(off(&old, &new.narrow(0, 0, 2).unwrap()) < 1e-6, "a and b are what they were");
    assert!(config(&dir, "next").contains(&format!("{}\"", dir.path("run").display())), "{}", config(&dir, "next"));

    fs::write(dir.path("t.csv"), "u,v,w\n1,20,3\n2,10,4\n5,30,9\n").unwrap();
    fs::write(dir.path("s.csv"), "w,u,v\n30,10,200\n40,20,100\n90,50,310\n").unwrap();
    dir.run(&format!("train toy --data t.csv --out t {TABLE}")).ok();
    let ran = dir.run(&format!("train toy --data s.csv --out s model.from=t {TABLE}"));
    ran.ok();
    assert!(ran.stderr.contains("columns are scaled as"), "{}", ran.stderr);
    assert_eq!(kept(&dir, "s").columns, kept(&dir, "t").columns);
}

#[test]
fn exported_and_averaged_weights_keep_the_names_of_classes() {
    let dir = Dir::new();
    images(&dir.path("data"), "left", &[0, 50]);
    images(&dir.path("data"), "right", &[150, 200]);
    let more = "model.conditional=true ema.name=power train.snapshot_every=1";
    dir.run(&format!("train digits --data data --out run {TINY} {more}")).ok();
    dir.run("export run out sampler.name=heun").ok();
    dir.run("ema run --std 0.1 --out e.safetensors").ok();
    for model in ["run@1", "out", "e.safetensors"] {
        assert!(dir.run(&format!("info {model}")).ok().contains("2: left, right"), "{model}");
    }
    let card = fs::read_to_string(dir.path("out/README.md")).unwrap();
    assert!(card.contains("`data`") && !card.contains(&dir.path("data").display().to_string()), "{card}");
}

#[test]
fn runs_of_an_earlier_version_open_and_draw() {
    let dir = Dir::of_old_runs();
    let rows = |text: &str| -> Vec<f64> {
        text.lines().skip(1).flat_map(|line| line.split(',')).map(|cell| cell.parse().unwrap()).collect()
    };
    dir.run("sample table -n 4 --out now.csv").ok();
    let (now, then) = ["now.csv", "drawn.csv"].map(|file| fs::read_to_string(dir.path(file)).unwrap()).into();
    assert_eq!(now.lines().next(), then.lines().next());
    for (now, then) in rows(&now).iter().zip(rows(&then)) {
        assert!((now - then).abs() < 1e-4 * then.abs(), "{now} {then}");
    }
    dir.run("sample images -n 4 --class 1 --npz s.npz").ok();
    assert!(dir.run("info images").ok().contains("classes      2\n"));
    // it does not know the names of its classes: by number, which is told, or not at all
    let bits = "eval bits images --data imgs --method ode --rtol 0.1 --atol 0.1";
    let ran = dir.run(bits);
    ran.ok();
    assert!(ran.stderr.contains("0 = left, 1 = right"), "{}", ran.stderr);
    images(&dir.path("imgs"), "top", &[3]);
    refused(&dir.run(bits), 2, &["left, right, top", "2", "--class"]);
}

#[test]
fn runs_of_an_earlier_version_go_on_and_keep_facts_then() {
    let dir = Dir::of_old_runs();
    for run in ["images", "table"] {
        assert!(dir.run(&format!("train --resume {run} train.steps=3")).ok().contains("resumed at step 2"));
        let text = config(&dir, run);
        assert!(!text.contains("samples = ") && !text.contains("sigma_data"), "{text}");
        let kept = kept(&dir, run);
        assert_eq!(kept.samples, 4);
        assert!(kept.sigma_data.is_some());
        dir.run_at(run, "train --resume . train.steps=4").ok();
    }
    assert!(dir.run("info images").ok().contains("2: left, right"));
    // its columns are known from its weights, before it went on
    let dir = Dir::of_old_runs();
    fs::write(dir.path("rows.csv"), "wind,temp,press\n3,20,1000\n5,25,1010\n4,30,990\n9,22,1005\n").unwrap();
    dir.run("train --resume table train.steps=3").ok();
    assert_eq!(kept(&dir, "table").columns.unwrap().names, ["temp", "press", "wind"]);
    fs::write(dir.path("rows.csv"), "temp,press,wind\n3,20,1000\n5,25,1010\n").unwrap();
    let dir = Dir::of_old_runs();
    fs::write(dir.path("rows.csv"), "temp,press,wind\n3,20,1000\n5,25,1010\n").unwrap();
    dir.run("train --resume table train.steps=3").fails(1, &["2 samples, not 4", "--new-data"]);
}
