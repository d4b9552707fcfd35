//! `langevin eval ood` and `langevin detect` on tiny models.

mod common;

use common::{Dir, Ran, ddpm, spec};
use image::{GrayImage, Luma};
use langevin::models::{Head, ModelSpec};

const FEW: &str = "--fit-samples 40 --batch 20 --levels 0.3,1";

/// It must have failed with `code` and all of `words`, whatever it said of the data before.
#[track_caller]
fn refused(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!((ran.code(), ran.stdout.as_str()), (code, ""), "{}", ran.stderr);
    let error = ran.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    for word in words {
        assert!(error.contains(word), "no {word:?} in {error}");
    }
}

#[test]
fn every_score_has_a_line_for_every_set() {
    let dir = Dir::new();
    dir.model("energy.safetensors", &spec(&[1, 8, 8], None, Head::Energy), &[]);
    let all = format!(
        "eval ood energy.safetensors --data digits:test --ood noise:uniform --ood rotate:90=digits:test --fit digits \
         --by-class -n 40 --plot h.png --json o.json {FEW}"
    );
    let ran = dir.run(&all);
    let lines: Vec<_> = ran.ok().lines().collect();
    assert!(lines[0].starts_with("score") && lines[0].contains("FPR95"));
    for score in ["energy", "score-norms", "typicality", "reconstruction"] {
        let of: Vec<_> = lines.iter().filter(|line| line.starts_with(score)).collect();
        // noise; turned digits, all and by class, of which 40 samples have each
        assert_eq!(of.len(), 12, "{score}\n{}", ran.stdout);
        for line in of {
            let numbers: Vec<f64> = line
                .split(['[', ']', ',', ' '])
                .filter_map(|w| w.parse().ok())
                .filter(|v: &f64| v.fract() != 0.)
                .collect();
            assert!(numbers.iter().all(|v| (0. ..=1.).contains(v)), "{line}");
        }
    }
    let line = lines.iter().find(|line| line.starts_with("reconstruction") && line.contains("noise:uniform")).unwrap();
    assert!(line.contains("40 + 40"), "{line}");
    assert!(ran.stderr.contains("scaled from 28x28 to 8x8") && ran.stderr.contains("turned clockwise by 90"));
    assert!(image::open(dir.path("h.png")).unwrap().height() == 1200);
    assert_eq!(dir.run(&all).stdout, ran.stdout);

    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path("o.json")).unwrap()).unwrap();
    let table = json["table"].as_array().unwrap();
    assert_eq!(table.len(), lines.iter().filter(|line| line.ends_with(" + 40")).count());
    for line in table {
        let words = lines.iter().find(|words| {
            words.starts_with(line["score"].as_str().unwrap())
                && words.contains(&format!("{}  ", line["against"].as_str().unwrap()))
        });
        for figure in ["auroc", "aupr", "fpr95"].map(|name| &line[name]) {
            let [value, low, high] = ["value", "low", "high"].map(|key| figure[key].as_f64().unwrap());
            let text = format!("{value:.4}  [{low:.4}, {high:.4}]");
            assert!(words.unwrap().contains(&text), "{line} {text}");
        }
    }
    // AUROC again, from the scores themselves
    let scores = |set: &serde_json::Value| -> Vec<f64> {
        assert_eq!(set["places"].as_array().unwrap().len(), 40);
        set["scores"]["energy"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let (data, odd) = (scores(&json["data"]), scores(&json["ood"][0]));
    let above =
        odd.iter().flat_map(|o| data.iter().map(move |d| f64::from(o > d) + 0.5 * f64::from(o == d))).sum::<f64>();
    assert!((above / 1600. - table[0]["auroc"]["value"].as_f64().unwrap()).abs() < 1e-12);
    dir.run(&all.replace("o.json", "no/o.json")).fails(1, &["no folder"]);
}

#[test]
fn a_plain_denoiser_has_the_scores_that_need_no_energy() {
    let dir = Dir::new();
    dir.model("plain.safetensors", &ddpm(&[1, 8, 8]), &[]);
    let ood = format!("eval ood plain.safetensors --data digits:test --ood noise:gaussian -n 30 {FEW}");
    dir.run(&ood).fails(2, &["--fit SPEC"]);
    let fitted = ood.replace("--levels 0.3,1", "--fit digits");
    refused(&dir.run(&format!("{fitted} --levels nan")), 2, &["--levels NaN", "above 0"]);
    refused(&dir.run(&format!("{fitted} score-norms.levels=[0.1,nan]")), 2, &["score-norms.levels", "finite"]);
    let ran = dir.run(&format!("{ood} --fit digits"));
    assert!(ran.ok().contains("score-norms") && !ran.stdout.contains("energy"));
    assert!(ran.stderr.contains("energy is left out"));
    dir.run(&format!("{ood} --fit digits --scores energy")).fails(2, &["gradient of a scalar", "score-norms"]);
    let ran = dir.run(&format!("{ood} --fit digits --scores typicality typicality.of=score-norms"));
    assert!(ran.ok().contains("typicality"));
    dir.run(&format!("{ood} --fit digits --scores nearest")).fails(2, &["nearest", "score-norms"]);
    dir.run(&format!("{ood} --fit digits --scores score-norms reconstruction.draws=3"))
        .fails(2, &["score-norms.levels"]);
    refused(&dir.run(&format!("{ood} --fit digits score-norms.rigde=3")), 2, &["rigde", "ridge"]);
    refused(&dir.run(&format!("{ood} --fit digits score-norms.levels=[1e9]")), 1, &["no noise level"]);
    refused(&dir.run(&format!("{ood} --fit toy:rings")), 2, &["toy:rings", "[2]"]);
    dir.model("classes.safetensors", &spec(&[1, 8, 8], Some(10), Head::Energy), &[]);
    let ood = "eval ood classes.safetensors --data digits:test --ood noise:gaussian --fit digits";
    dir.run(ood).fails(2, &["--class 0 to 9", "label_dropout"]);
    // of the 1000 held-out digits 100 are threes
    let three = dir.run(&format!("{ood} --class 3 -n 200 --scores score-norms --by-class {FEW}"));
    assert!(three.ok().lines().nth(1).unwrap().ends_with("200 + 100"), "{}", three.stdout);
    dir.model("null.safetensors", &ModelSpec { null_class: true, ..spec(&[1, 8, 8], Some(10), Head::Energy) }, &[]);
    dir.run(&format!("{} -n 20 {FEW}", ood.replace("classes", "null"))).ok();
}

#[test]
fn points_and_tables_are_scored_too() {
    let dir = Dir::new();
    dir.model("points.safetensors", &spec(&[2], None, Head::Energy), &[]);
    let ran = dir.run(&format!(
        "eval ood points.safetensors --data toy:rings:test --ood toy:two-moons --fit toy:rings -n 30 {FEW}"
    ));
    assert!(ran.ok().contains("toy:two-moons"));
    assert!(ran.stderr.contains("fitted to 40 samples"), "{}", ran.stderr);

    // a table is what its names say, in the units of the model
    let columns = r#"{"names":["a","b","c"],"mean":[10,0,1000],"std":[2,0.1,50]}"#.to_string();
    dir.model("table.safetensors", &spec(&[3], None, Head::Energy), &[("langevin.columns", columns)]);
    let rows: Vec<[f64; 3]> = (0..60)
        .map(|i| [1., 2.3, 3.7].map(|k| (k * f64::from(i)).sin()))
        .map(|[a, b, c]| [10. + 2. * a, 0.1 * b, 1000. + 50. * c])
        .collect();
    let write = |name: &str, order: [usize; 3], more: &str| {
        let names: Vec<&str> = order.iter().map(|&j| ["a", "b", "c"][j]).collect();
        let row = |row: &[f64; 3]| order.map(|j| row[j].to_string()).join(",") + "\n";
        std::fs::write(dir.path(name), names.join(",") + "\n" + &rows.iter().map(row).collect::<String>() + more)
            .unwrap();
    };
    write("rows.csv", [0, 1, 2], "");
    write("turned.csv", [2, 0, 1], "");
    write("far.csv", [0, 1, 2], "1e12,0,1000\n");
    std::fs::write(dir.path("one.csv"), "a,b,c\n10,0,1000\n").unwrap();
    std::fs::write(dir.path("other.csv"), "a,b,d\n10,0,1000\n").unwrap();
    std::fs::write(dir.path("holes.csv"), "a,b,c\n10,NaN,1000\n").unwrap();
    let detect = |data: &str| {
        dir.run(&format!(
            "detect table.safetensors {data} --fit rows.csv --fit-samples 20 --scores energy --levels 0.5 --alpha 0.05"
        ))
    };
    let flagged = |data: &str, words: &str| {
        let ran = detect(data);
        assert!(ran.ok().lines().count() > 1 && ran.stderr.contains(words), "{data}: {}", ran.stderr);
        ran.stdout.lines().take(61).map(String::from).collect::<Vec<_>>()
    };
    let plain = flagged("rows.csv", "of 60 flagged");
    assert_eq!(flagged("turned.csv", "of 60 flagged"), plain);
    let far = flagged("far.csv", "of 61 flagged");
    let words = |lines: &[String]| {
        lines.iter().map(|line| line.split_whitespace().map(String::from).collect()).collect::<Vec<Vec<_>>>()
    };
    assert_eq!(words(&far), words(&plain), "one cell changes no other row");
    flagged("one.csv", "of 1 flagged");
    // another value in a column that was constant is as far out as can be, and changes no other row
    let columns = r#"{"names":["a","b","c"],"mean":[10,7e-9,1000],"std":[2,0,50]}"#.to_string();
    dir.model("constant.safetensors", &spec(&[3], None, Head::Energy), &[("langevin.columns", columns)]);
    let constant: String = rows.iter().map(|[a, _, c]| format!("{a},7e-9,{c}\n")).collect();
    std::fs::write(dir.path("constant.csv"), format!("a,b,c\n{constant}")).unwrap();
    std::fs::write(dir.path("off.csv"), format!("a,b,c\n{constant}10,8e-9,1000\n")).unwrap();
    let of = |data: &str, fit: &str| {
        dir.run(&format!(
            "detect constant.safetensors {data} --fit {fit} --fit-samples 20 --scores energy,score-norms --levels 0.5 --alpha 0.1"
        ))
    };
    let (plain, off) = (of("constant.csv", "constant.csv"), of("off.csv", "constant.csv"));
    let (plain, lines) = (plain.ok(), off.ok());
    assert_eq!(
        words(&lines.lines().take(61).map(String::from).collect::<Vec<_>>()),
        words(&plain.lines().map(String::from).collect::<Vec<_>>())
    );
    let last: Vec<&str> = lines.lines().last().unwrap().split_whitespace().collect();
    assert_eq!((last[1], last[3], last[5]), ("inf", "inf", "1"), "{lines}");
    assert!(off.stderr.contains("0.000000008 in column b") && off.stderr.contains("of 61 flagged"), "{}", off.stderr);
    let two: String = ["10,8e-9,1000\n11,7e-9,1010\n"; 20].concat();
    std::fs::write(dir.path("two.csv"), format!("a,b,c\n{two}")).unwrap();
    refused(&of("constant.csv", "two.csv"), 2, &["--fit two.csv", "constant"]);
    refused(&detect("other.csv"), 2, &["a, b, d", "trained on a, b, c"]);
    let ran = detect("holes.csv");
    refused(&ran, 2, &["column b", "langevin impute"]);
    assert!(!ran.stderr.contains("train on"), "{}", ran.stderr);
    let ood = dir
        .run("eval ood table.safetensors --data rows.csv --ood turned.csv --fit rows.csv --scores energy --levels 0.5");
    // the same rows; and of 1000 samples that may be fitted to there are 60
    assert!(ood.ok().contains("0.5000") && ood.stderr.contains("fitted to 60 samples"), "{}{}", ood.stdout, ood.stderr);
}

#[test]
fn what_is_detected_is_in_the_table_and_on_the_maps() {
    let dir = Dir::new();
    dir.model("m.safetensors", &spec(&[1, 8, 8], None, Head::Energy), &[]);
    std::fs::create_dir(dir.path("photos")).unwrap();
    // one plain image, and one that is nothing but edges
    GrayImage::from_pixel(16, 12, Luma([0])).save(dir.path("photos/plain.png")).unwrap();
    GrayImage::from_fn(8, 8, |x, y| Luma([if (x + y) % 2 == 0 { 255 } else { 0 }]))
        .save(dir.path("photos/edges.png"))
        .unwrap();
    std::fs::write(dir.path("photos/broken.png"), b"no image").unwrap();
    let detect = format!("detect m.safetensors photos --fit digits {FEW} --held-out-samples 100 --alpha 0.05");
    let ran = dir.run(&format!("{detect} --scores reconstruction,score-norms --out t.csv --maps maps"));
    assert_eq!(ran.ok(), "t.csv\nmaps\n");
    assert!(ran.stderr.contains("broken.png") && ran.stderr.contains("of 2 flagged"), "{}", ran.stderr);
    let table = std::fs::read_to_string(dir.path("t.csv")).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["sample", "reconstruction", "reconstruction p", "score-norms", "score-norms p", "flag"]);
    assert!(rows.len() == 3 && rows[1][0].ends_with("edges.png") && rows[2][0].ends_with("plain.png"));
    let number = |row: usize, column: usize| rows[row][column].parse::<f64>().unwrap();
    // a model that has learnt nothing returns about c_skip x: what has more contrast loses more
    assert!(number(1, 1) > number(2, 1) && (1. ..=101.).contains(&(number(1, 2) * 101. + 0.01)));
    let least = number(1, 2).min(number(1, 4));
    assert_eq!(rows[1][5] == "1", least <= 0.025, "{table}");
    for name in ["edges", "plain"] {
        let picture = image::open(dir.path(&format!("maps/{name}.png"))).unwrap();
        assert!(picture.width() > 2 * picture.height());
    }
    assert!(dir.run(&format!("{detect} --scores energy")).ok().lines().count() == 3);
    let few = dir.run(&format!("detect m.safetensors photos --fit digits {FEW} --held-out-samples 50 --alpha 0.01"));
    refused(&few, 2, &["--alpha 0.01", "50 held-out", "--alpha to 0.0197", "--held-out-samples to 99"]);
    dir.run("detect m.safetensors nowhere/ --fit digits").fails(2, &["nowhere/"]);
}

/// Without options it works from 50 samples on, of which half are fitted to: with the scores and the alpha that the others
/// allow, which a line tells; and what does not belong can be flagged.
#[test]
fn few_samples_are_enough_to_detect_with() {
    let dir = Dir::new();
    let columns = r#"{"names":["a","b"],"mean":[0,0],"std":[1,1]}"#.to_string();
    dir.model("m.safetensors", &spec(&[2], None, Head::Energy), &[("langevin.columns", columns)]);
    let write = |name: &str, n: usize, last: &str| {
        let rows: String = (0..n).map(|i| format!("{},{}\n", (1.3 * i as f64).sin(), (2.9 * i as f64).cos())).collect();
        std::fs::write(dir.path(name), format!("a,b\n{rows}{last}")).unwrap();
    };
    write("odd.csv", 3, "50,-50\n");
    let detect = |n: usize, options: &str| {
        write("rows.csv", n, "");
        dir.run(&format!("detect m.safetensors odd.csv --fit rows.csv {options}"))
    };
    for (n, fitted, held_out, scores, alpha) in [
        (50, 25, 25, 1, 0.0385),
        (51, 25, 26, 1, 0.0371),
        (90, 45, 45, 2, 0.0435),
        (150, 75, 75, 3, 0.0395),
        (240, 120, 120, 4, 0.0331),
        (900, 450, 450, 4, 0.01),
        (2500, 1000, 1000, 4, 0.01),
    ] {
        let ran = detect(n, "");
        let (head, said) = (ran.ok().lines().next().unwrap().to_string(), &ran.stderr);
        assert_eq!(head.matches(" p ").count(), scores, "{n}: {head}");
        assert!(said.contains(&format!("fitted to {fitted} samples")), "{n}: {said}");
        assert!(said.contains(&format!("among {held_out} held-out samples")), "{n}: {said}");
        let told: f64 = said.split("flagged at alpha = ").last().unwrap().split(':').next().unwrap().parse().unwrap();
        assert!((told / alpha - 1.).abs() < 1e-9, "{n}: {said}");
        assert_eq!(said.contains("held-out samples allow"), scores < 4 || alpha > 0.01, "{n}: {said}");
        assert!(
            ran.stdout.lines().last().unwrap().ends_with('1'),
            "{n}: what is far out is not flagged\n{}",
            ran.stdout
        );
    }
    // what is typed is done, or refused with what would do
    assert!(detect(60, "--scores energy,typicality").ok().contains("typicality p"));
    assert!(detect(60, "--alpha 0.3").ok().contains("reconstruction p"));
    assert!(detect(60, "energy.levels=[0.3]").ok().contains("typicality p"));
    refused(&detect(60, "--alpha 0.01"), 2, &["--alpha 0.01", "30 held-out", "--alpha to 0.0323", "-samples to 99"]);
    refused(
        &detect(60, "--alpha 0.05 --scores energy,typicality"),
        2,
        &["--alpha to 0.0646", "-samples to 39", "fewer"],
    );
    refused(&detect(60, "--fit-samples 60"), 2, &["of its 60 samples", "--fit-samples"]);
    refused(&detect(60, "--held-out-samples 59"), 2, &["1 would be fitted to and 59 held out"]);
    assert!(detect(60, "--held-out-samples 40").stderr.contains("fitted to 20 samples"));
    let more = detect(60, "--fit-samples 20 --held-out-samples 100");
    more.ok();
    assert!(more.stderr.contains("--held-out-samples 100: there are 40 such samples"), "{}", more.stderr);
    // samples of their own are all held out
    write("more.csv", 120, "");
    let own = detect(60, "--held-out more.csv");
    own.ok();
    assert!(own.stderr.contains("fitted to 60 samples") && own.stderr.contains("among 120 held-out"), "{}", own.stderr);
}

/// 60 images in a folder, some as dark as digits.
fn photos(dir: &Dir) {
    std::fs::create_dir(dir.path("photos")).unwrap();
    for i in 0..60 {
        let photo = GrayImage::from_fn(8, 8, |x, y| Luma([((x * i + y * y) % (8 + i)) as u8]));
        photo.save(dir.path(&format!("photos/{i}.png"))).unwrap();
    }
}

#[test]
fn samples_are_held_out_from_what_the_model_has_learnt() {
    let dir = Dir::new();
    let run = |of: &str| [("langevin.run", dir.run(&format!("train {of} --dry-run")).ok().to_string())];
    dir.model("unknown.safetensors", &spec(&[1, 8, 8], None, Head::Energy), &[]);
    dir.model("digits.safetensors", &spec(&[1, 8, 8], None, Head::Energy), &run("digits"));
    photos(&dir);
    let detect = |args: &str| {
        let ran = dir.run(&format!("detect {args} --scores energy --alpha 0.1 {FEW} --held-out-samples 60"));
        (ran.ok().to_string(), ran.stderr)
    };
    // digits have a test part
    let (table, said) = detect("digits.safetensors photos");
    assert!(!said.contains("warning: the model"), "{said}");
    assert_eq!(table, detect("digits.safetensors photos --held-out digits:test").0);
    let (other, said) = detect("digits.safetensors photos --held-out digits");
    assert!(said.contains("has learnt digits") && said.contains("--held-out SPEC") && other != table, "{said}");
    // a folder has none
    let (_, said) = detect("unknown.safetensors photos --fit photos");
    assert!(said.contains("may have learnt photos"), "{said}");
    let (_, said) = detect("digits.safetensors photos --fit photos");
    assert!(!said.contains("warning: the model"), "{said}");
    // and figures are of data that are held out
    let ood = |data: &str| {
        dir.run(&format!("eval ood digits.safetensors --data {data} --ood noise:uniform --scores energy -n 20 {FEW}"))
    };
    assert!(ood("digits").stderr.contains("has learnt digits") && !ood("digits:test").stderr.contains("has learnt"));
}

#[test]
fn images_are_scored_as_they_were_trained_on() {
    let dir = Dir::new();
    let model = |name: &str, dequantise: bool| {
        let run = dir.run(&format!("train digits data.dequantise={dequantise} --dry-run")).ok().to_string();
        dir.stirred(name, &spec(&[1, 8, 8], None, Head::Energy), &[("langevin.run", run)]);
    };
    model("noisy.safetensors", true);
    model("plain.safetensors", false);
    photos(&dir);
    for verb in [
        "eval ood MODEL --data digits:test --ood noise:uniform -n 30",
        "detect MODEL photos --held-out-samples 20 --alpha 0.5",
    ] {
        let of = |model: &str| {
            let ran = dir.run(&format!("{} --scores score-norms {FEW}", verb.replace("MODEL", model)));
            (ran.ok().to_string(), ran.stderr)
        };
        let ((noisy, said), (plain, silent)) = (of("noisy.safetensors"), of("plain.safetensors"));
        assert!(said.contains("within each of 256 levels") && !silent.contains("256 levels"), "{said}\n{silent}");
        assert!(said.contains("fitted to 40 samples"), "{said}");
        // the noise within the levels has a seed, too
        assert_eq!(noisy, of("noisy.safetensors").0);
        assert!(verb.starts_with("eval") || noisy != plain);
    }
}

/// Files of one name from different folders keep their maps apart, whatever else is called so.
#[test]
fn every_image_has_its_map() {
    let dir = Dir::new();
    dir.model("m.safetensors", &spec(&[1, 8, 8], None, Head::Energy), &[]);
    for folder in ["photos", "photos/x", "photos/y"] {
        std::fs::create_dir(dir.path(folder)).unwrap();
    }
    for (i, name) in ["a-1.png", "x/a.png", "x/b.png", "y/a.png"].iter().enumerate() {
        let photo = GrayImage::from_fn(8, 8, |x, _| Luma([(x * 20 + i as u32) as u8]));
        photo.save(dir.path(&format!("photos/{name}"))).unwrap();
    }
    let ran = dir.run(&format!(
        "detect m.safetensors photos --fit digits --scores energy --alpha 0.5 --maps maps {FEW} --held-out-samples 20"
    ));
    assert_eq!(ran.ok().lines().filter(|line| line.contains(".png")).count(), 4, "{}", ran.stdout);
    assert_eq!(std::fs::read_dir(dir.path("maps")).unwrap().count(), 4);
}

#[test]
fn a_slow_score_says_what_it_costs() {
    let dir = Dir::new();
    dir.model("points.safetensors", &spec(&[2], None, Head::Energy), &[]);
    let ood = "eval ood points.safetensors --data toy:rings:test --ood toy:two-moons --fit toy:rings -n 20";
    let wrong = dir.run(&format!("{ood} --scores likelihood likelihood.tolerance=-1"));
    refused(&wrong, 2, &["tolerance is -1"]);
    let ran = dir.run(&format!("{ood} --scores likelihood --fit-samples 20 likelihood.tolerance=0.1"));
    assert!(ran.ok().contains("likelihood") && ran.stderr.contains("some hundred times"), "{}", ran.stderr);
}
