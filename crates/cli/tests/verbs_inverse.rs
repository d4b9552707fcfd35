//! `langevin inpaint` and `impute` on tiny models: what they write, and what they refuse.

mod common;

use common::{Dir, spec};
use image::{GrayImage, Luma, RgbImage};
use langevin::models::{Head, ModelSpec};
use std::fs;

/// Bright on the left, dark on the right.
fn picture(dir: &Dir) {
    let picture = GrayImage::from_fn(16, 16, |x, _| Luma([if x < 8 { 220 } else { 20 }]));
    picture.save(dir.path("i.png")).unwrap();
}

/// Tile `column`, `row` of a grid of 16 x 16 images: its pixels.
fn tile(grid: &RgbImage, (column, row): (u32, u32)) -> Vec<u8> {
    let side = 96; // 16 pixels, each 6 x 6
    let at = |k: u32, i: u32| 4 + k * (side + 4) + 6 * i + 3;
    (0..256).map(|n| grid.get_pixel(at(column, n % 16), at(row, n / 16))[0]).collect()
}

#[test]
fn rows_of_samples_that_have_what_was_measured() {
    let dir = Dir::new();
    picture(&dir);
    dir.model("m.safetensors", &spec(&[1, 16, 16], None, Head::Energy), &[]);
    let ran = dir.run(
        "inpaint m.safetensors --input i.png --mask half -n 3 --method replace,repaint,dps,mcmc sampler.steps=6 \
         mcmc.steps_per_level=2 repaint.jump=2 repaint.resample=2 --batch 2",
    );
    let said = ran.ok();
    assert!(said.contains("row 2") && said.contains("repaint") && said.ends_with("inpaint.png\n"), "{said}");
    let grid = image::open(dir.path("inpaint.png")).unwrap().into_rgb8();
    assert_eq!(grid.dimensions(), (5 * 100 + 4, 4 * 100 + 4));
    for row in 0..4 {
        let (input, seen) = (tile(&grid, (0, row)), tile(&grid, (1, row)));
        assert!((input[0], input[15]) == (220, 20) && (seen[0], seen[7], seen[8], seen[15]) == (220, 220, 255, 255));
    }
    for column in 2..5 {
        for row in [0, 1] {
            let sample = tile(&grid, (column, row));
            assert!((0..16).all(|i| (0..8).all(|j| sample[16 * i + j].abs_diff(220) <= 1)), "what is known is kept");
        }
        assert_ne!(tile(&grid, (column, 0)), tile(&grid, (column, 1)));
    }
    // a mask from a file is white where the picture is to be filled in
    let mask = GrayImage::from_fn(16, 16, |x, _| Luma([if x < 8 { 0 } else { 255 }]));
    mask.save(dir.path("mask.png")).unwrap();
    let args = "-n 3 --method replace sampler.steps=6 --batch 2 --out again.png";
    dir.run(&format!("inpaint m.safetensors --input i.png --mask mask.png {args}")).ok();
    let again = image::open(dir.path("again.png")).unwrap().into_rgb8();
    assert_eq!(tile(&again, (3, 0)), tile(&grid, (3, 0)), "the same samples by the same mask");
    let png = String::from_utf8_lossy(&fs::read(dir.path("again.png")).unwrap()).into_owned();
    assert!(png.contains("mask.png") && png.contains("m.safetensors"));
}

#[test]
fn small_blurred_and_grey() {
    let dir = Dir::new();
    picture(&dir);
    dir.model("m.safetensors", &spec(&[1, 16, 16], None, Head::Denoiser), &[]);
    dir.model("rgb.safetensors", &spec(&[3, 16, 16], None, Head::Denoiser), &[]);
    let go = |args: &str| dir.run(&format!("inpaint {args} -n 1 sampler.steps=4")).ok().to_string();
    let said = go("m.safetensors --input i.png --task superres=4 repaint.jump=2");
    assert!(said.contains("repaint"), "{said}");
    let grid = image::open(dir.path("inpaint.png")).unwrap().into_rgb8();
    let (seen, sample) = (tile(&grid, (1, 0)), tile(&grid, (2, 0)));
    assert_eq!((seen[0], seen[15]), (220, 20));
    let mean = (0..16).map(|n| f64::from(sample[16 * (n / 4) + n % 4])).sum::<f64>() / 16.;
    assert!((mean - 220.).abs() < 25., "{mean}: the mean of a block is what was measured, but for clipping");
    assert!(go("m.safetensors --input i.png --task deblur=1.5 --noise 0.1").contains("mcmc"));
    let grid = image::open(dir.path("inpaint.png")).unwrap().into_rgb8();
    assert!((60..200).contains(&tile(&grid, (1, 0))[7]), "an edge that is blurred");
    go("rgb.safetensors --input i.png --task colour --method dps");
    // what is there already is not measured again
    GrayImage::from_pixel(8, 8, Luma([90])).save(dir.path("small.png")).unwrap();
    go("m.safetensors --input small.png --measured --task superres=2 --method replace");
    let grid = image::open(dir.path("inpaint.png")).unwrap().into_rgb8();
    assert_eq!(grid.width(), 2 * 100 + 4);
    assert_eq!(tile(&grid, (0, 0)), [90; 256]);
}

#[test]
fn a_data_set_as_a_picture_and_as_a_table() {
    let dir = Dir::new();
    let plain = spec(&[1, 28, 28], Some(10), Head::Denoiser);
    dir.model("m.safetensors", &ModelSpec { null_class: true, ..plain }, &[]);
    let go = |args: &str| dir.run(&format!("inpaint m.safetensors --data digits:test sampler.steps=3 {args}"));
    let ran = go("-n 2 --mask lines --method replace,mcmc mcmc.steps_per_level=1");
    assert!(ran.ok().contains("columns: the image, what was measured, replace, mcmc"));
    let grid = image::open(dir.path("inpaint.png")).unwrap();
    assert_eq!((grid.width(), grid.height()), (4 * 88 + 4, 2 * 88 + 4));
    let ran = go("-n 3 --table --batch 2 --method replace,dps");
    let lines: Vec<&str> = ran.ok().lines().collect();
    assert_eq!(lines.len(), 2 + 6 * 2, "{}", ran.stdout);
    for mask in ["wide", "narrow", "super-resolve", "lines", "half", "expand"] {
        let line = lines.iter().find(|line| line.starts_with(mask) && line.contains("replace")).unwrap();
        let psnr: f64 = line.split_whitespace().nth(2).unwrap().parse().unwrap();
        assert!(psnr > 1. && psnr < 40. && line.matches("+-").count() == 2, "{line}");
    }
    let one = go("-n 2 --table --task superres=2 --method replace --class none");
    assert_eq!(one.ok().lines().count(), 3);
}

#[test]
fn each_mistake_is_one_sentence() {
    let dir = Dir::new();
    picture(&dir);
    dir.model("m.safetensors", &spec(&[1, 16, 16], None, Head::Denoiser), &[]);
    dir.model("c.safetensors", &spec(&[1, 16, 16], Some(3), Head::Denoiser), &[]);
    dir.model("p.safetensors", &spec(&[2], None, Head::Energy), &[]);
    let fails = |args: &str, words: &[&str]| dir.run(&format!("inpaint {args}")).fails(2, words);
    fails("p.safetensors --input i.png --mask half", &["langevin impute"]);
    fails("m.safetensors --input i.png", &["--mask half", "--task"]);
    fails("m.safetensors --input i.png --mask none.png", &["none.png", "super-resolve"]);
    fails("m.safetensors --input i.png --task superres=3", &["superres=3", "divide"]);
    fails("m.safetensors --input i.png --task superres=x", &["superres=x"]);
    fails("m.safetensors --input i.png --task sharpen", &["sharpen", "deblur"]);
    fails("m.safetensors --input i.png --task colour", &["in colour"]);
    fails("m.safetensors --input i.png --task colour=2", &["takes no value"]);
    fails("m.safetensors --input i.png --mask half --method magic", &["magic", "repaint"]);
    fails("m.safetensors --input i.png --task deblur --method repaint", &["repaint", "dps or mcmc"]);
    fails("m.safetensors --input i.png --mask half --noise=-1", &["--noise", "-1"]);
    fails("m.safetensors --input i.png --mask half repaint.jump=0", &["jump is 0"]);
    let steps = "--mask half --method mcmc,repaint sampler.steps=6";
    fails(&format!("m.safetensors --input i.png {steps} repaint.jump=7"), &["7 levels", "6 steps"]);
    fails(&format!("m.safetensors --input i.png {steps} repaint.resample=1000000000"), &["resample 1000000000"]);
    fails("m.safetensors --input i.png --mask half repaint.jumps=2", &["jumps", "resample"]);
    fails("m.safetensors --input i.png --mask half dps.scale=2", &["dps", "--method"]);
    fails("m.safetensors --input i.png --mask half sampler.name=heun", &["sampler.name", "--method"]);
    fails("m.safetensors --input i.png --task inpaint=half --measured", &["--measured"]);
    fails("m.safetensors --data toy:rings --mask half", &["toy:rings", "[2]", "[1, 16, 16]"]);
    fails("c.safetensors --input i.png --mask half", &["--class 0 to 2"]);
    dir.run("inpaint m.safetensors --input nothing.png --mask half").fails(1, &["nothing.png"]);
    dir.run("inpaint m.safetensors --input i.png --mask half --out no/where.png").fails(1, &["no/where.png"]);
}

/// A table of three numbers, b near 2a and c on its own: a trained model gives the conditional mean of b.
#[test]
fn cells_are_filled_with_their_conditional_mean() {
    let dir = Dir::new();
    let (mut whole, mut state) = ("a,b,c\n".to_string(), 1u64);
    let mut normal = || {
        let uniform = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((*state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        (-2. * uniform(&mut state).ln()).sqrt() * (2. * std::f64::consts::PI * uniform(&mut state)).cos()
    };
    for _ in 0..2000 {
        let a = 10. + 3. * normal();
        whole += &format!("{a},{},{}\n", 2. * a + 2. * normal(), 100. + 5. * normal());
    }
    fs::write(dir.path("whole.csv"), whole).unwrap();
    let small = "model.net.width=48 model.net.layers=2 train.steps=400 train.batch=256 train.lr=3e-3";
    dir.run(&format!("train toy --data whole.csv --out run {small}")).ok();
    // b given a is N(2a, 4); a given b is N(10 + 18 (b - 20) / 40, 9 - 18^2 / 40)
    fs::write(dir.path("holes.csv"), "a,b,c\n13,,100\n7,NaN,103\n,26,NA\n10,20,1e2\n").unwrap();
    let ran = dir.run(
        "impute run --data holes.csv --out filled.csv -n 100 sampler.steps=30 mcmc.kernel=hmc mcmc.steps_per_level=4",
    );
    assert_eq!(ran.ok(), "filled.csv\n");
    let text = fs::read_to_string(dir.path("filled.csv")).unwrap();
    assert_eq!(text.lines().nth(4), Some("10,20,1e2"));
    assert!(ran.stderr.contains("4 cells of 3 rows"), "{}", ran.stderr);
    let read = |name: &str| {
        let text = fs::read_to_string(dir.path(name)).unwrap();
        let mut lines = text.lines();
        let names = lines.next().unwrap().to_string();
        let row = |line: &str| line.split(',').map(|v| v.parse::<f64>().unwrap()).collect::<Vec<_>>();
        (names, lines.map(row).collect::<Vec<_>>())
    };
    let (names, rows) = read("filled.csv");
    assert_eq!(names, "a,b,c");
    assert_eq!((rows[3].clone(), rows[0][0], rows[0][2], rows[2][1]), (vec![10., 20., 100.], 13., 100., 26.));
    let near = |value: f64, mean: f64, deviation: f64| {
        assert!((value - mean).abs() < 0.4 * deviation, "{value}, should be {mean} of deviation {deviation}");
    };
    near(rows[0][1], 26., 2.);
    near(rows[1][1], 14., 2.);
    near(rows[2][0], 12.7, 0.95);
    near(rows[2][2], 100., 5.);
    dir.run("impute run --data holes.csv --out draws.csv -n 2 --draws sampler.steps=5").ok();
    let (names, rows) = read("draws.csv");
    assert_eq!((names.as_str(), rows.len(), rows[0][0], rows[4][0]), ("draw,a,b,c", 8, 1., 2.));
    assert_ne!(rows[0][2], rows[4][2]);

    // known cells stay as they are written, wherever they are; and the order of columns is no matter to a draw
    let known = ["5.123456789012345", "1e308", "007.50"];
    fs::write(dir.path("odd.csv"), format!("c,b,a\n{},{},{}\n100,,13\n103,NaN,7\n", known[0], known[1], known[2]))
        .unwrap();
    dir.run("impute run --data odd.csv --out kept.csv -n 3 sampler.steps=5").ok();
    let kept = fs::read_to_string(dir.path("kept.csv")).unwrap();
    assert_eq!(kept.lines().nth(1), Some(known.join(",").as_str()), "{kept}");
    fs::write(dir.path("same.csv"), "a,b,c\n1,2,3\n13,,100\n7,NaN,103\n").unwrap();
    dir.run("impute run --data same.csv --out filled.csv -n 3 sampler.steps=5").ok();
    let (_, same) = read("filled.csv");
    let turned: Vec<f64> = kept.lines().skip(2).map(|line| line.split(',').nth(1).unwrap().parse().unwrap()).collect();
    assert_eq!(turned, [same[1][1], same[2][1]]);
    // with --draws every draw is there, and the mean is theirs
    dir.run("impute run --data same.csv --out draws.csv -n 3 --draws sampler.steps=5").ok();
    let (_, draws) = read("draws.csv");
    let mean = (0..3).map(|k| draws[3 * k + 2][2]).sum::<f64>() / 3.;
    assert!((mean - same[2][1]).abs() < 1e-4 * mean.abs(), "{mean} {}", same[2][1]);

    fs::write(dir.path("other.csv"), "a,b,d\n1,,2\n").unwrap();
    dir.run("impute run --data other.csv --out x.csv").fails(1, &["a, b, d", "a, b, c"]);
    dir.run("impute run --data holes.csv --out x.csv -n 0").fails(2, &["-n"]);
    dir.run("impute run --data holes.csv --out x.csv --method gibbs").fails(2, &["gibbs", "mcmc"]);
    dir.run("impute run --data none.csv --out x.csv").fails(1, &["none.csv"]);
    dir.run("train toy --data holes.csv --out no").fails(1, &["line 2", "langevin impute"]);
    dir.model("m.safetensors", &spec(&[3], None, Head::Energy), &[]);
    dir.run("impute m.safetensors --data holes.csv --out x.csv").fails(2, &["model of a table"]);
}

/// The missing cells of a constant column have its very value; a cell that says another is kept, and is no condition.
#[test]
fn constant_columns_are_filled_exactly() {
    let dir = Dir::new();
    let rows: String = (0..40).map(|i| format!("{},7e-6,{}\n", i % 7, (i * i) % 11)).collect();
    fs::write(dir.path("whole.csv"), format!("a,tare,b\n{rows}")).unwrap();
    let small = "model.net.width=16 model.net.layers=1 train.steps=30 train.batch=16";
    let ran = dir.run(&format!("train toy --data whole.csv --out run {small}"));
    ran.ok();
    assert!(ran.stderr.contains("constant columns, the same in every sample: tare = 0.000007"), "{}", ran.stderr);
    fs::write(dir.path("holes.csv"), "tare,b,a\n,3,\n7e-6,,4\n9e-6,,4\n").unwrap();
    for how in
        ["-n 7", "-n 3 --draws", "-n 2 --method dps", "-n 2 --method replace", "-n 2 --method repaint repaint.jump=1"]
    {
        dir.run(&format!("impute run --data holes.csv --out filled.csv sampler.steps=4 {how}")).ok();
        let text = fs::read_to_string(dir.path("filled.csv")).unwrap();
        let rows = text.lines().skip(1).map(|line| line.split(',').rev().nth(2).unwrap());
        for (i, cell) in rows.enumerate() {
            assert_eq!(cell, ["0.000007", "7e-6", "9e-6"][i % 3], "{text}");
        }
    }
    for name in ["heun", "ddpm", "annealed-langevin", "pc"] {
        dir.run(&format!("sample run -n 9 --out s.csv sampler.steps=4 sampler.name={name}")).ok();
        let text = fs::read_to_string(dir.path("s.csv")).unwrap();
        assert!(text.lines().skip(1).all(|line| line.split(',').nth(1) == Some("0.000007")), "{name}: {text}");
    }
}

/// Rows are kept and written back with their labels, whatever wrote the table.
#[test]
fn tables_of_other_programs_are_filled() {
    let dir = Dir::new();
    let of = |names: &str| {
        let d = names.split(',').count();
        let names = names.split(',').map(|name| format!("{name:?}")).collect::<Vec<_>>().join(",");
        let [mean, std] = ["0", "1"].map(|v| vec![v; d].join(","));
        let columns = format!(r#"{{"names":[{names}],"mean":[{mean}],"std":[{std}]}}"#);
        dir.model("m.safetensors", &spec(&[d], None, Head::Energy), &[("langevin.columns", columns)]);
    };
    let filled = |table: &str, how: &str| {
        fs::write(dir.path("holes.csv"), table).unwrap();
        let ran =
            dir.run(&format!("impute m.safetensors --data holes.csv --out filled.csv -n 2 sampler.steps=3 {how}"));
        ran.ok();
        let text = fs::read_to_string(dir.path("filled.csv")).unwrap();
        let rows: Vec<Vec<String>> = text.lines().map(|line| line.split(',').map(String::from).collect()).collect();
        (rows, ran.stderr)
    };
    let number = |cell: &String| cell.parse::<f64>().is_ok_and(f64::is_finite);
    of("a");
    let (rows, told) = filled("a\n1.5\n\n0.3\n\n-2\n", "");
    assert!(
        rows.len() == 6 && rows[1..].iter().all(|row| number(&row[0])) && told.contains("2 cells of 2 rows"),
        "{rows:?}"
    );
    assert_eq!([&rows[1][0], &rows[3][0], &rows[5][0]], ["1.5", "0.3", "-2"]);
    let (rows, _) = filled("a\n1.5\n\n0.3\n", "--draws");
    assert_eq!(rows.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["draw", "1", "1", "1", "2", "2", "2"]);
    of("a,b");
    let (rows, told) = filled(",b,a\nnorth,,1.50\nsouth,2,\n", "");
    assert_eq!(
        (&rows[0][..], &rows[1][0], &rows[1][2], &rows[2][..2]),
        (
            &["", "b", "a"].map(String::from)[..],
            &"north".to_string(),
            &"1.50".to_string(),
            &["south", "2"].map(String::from)[..]
        )
    );
    assert!(number(&rows[1][1]) && number(&rows[2][2]) && told.contains("labels of the rows"), "{rows:?} {told}");
    let (rows, told) = filled("sep=;\nb;a\n;-1,50\n2e-1;\n", "");
    assert_eq!((rows[1][1].as_str(), rows[2][0].as_str()), ("-1.50", "2e-1"));
    assert!(told.contains("decimal comma"), "{told}");
    fs::write(dir.path("holes.csv"), "id,a,b\nx1,,2\n").unwrap();
    dir.run("impute m.safetensors --data holes.csv --out filled.csv").fails(1, &["id, a, b", "trained on a, b"]);
}

#[test]
fn cells_are_filled_by_the_class_that_is_told() {
    let dir = Dir::new();
    fs::write(dir.path("holes.csv"), "a,b,c\n1,,3\n,2,\n").unwrap();
    let columns = r#"{"names": ["a", "b", "c"], "mean": [0, 0, 0], "std": [1, 1, 1]}"#;
    let note = [("langevin.columns", columns.to_string())];
    let table = spec(&[3], Some(2), Head::Energy);
    dir.stirred("told.safetensors", &table, &note);
    dir.stirred("null.safetensors", &ModelSpec { null_class: true, ..table }, &note);
    let filled = |args: &str| {
        dir.run(&format!("impute {args} --data holes.csv --out filled.csv -n 3 --batch 4 sampler.steps=6")).ok();
        fs::read_to_string(dir.path("filled.csv")).unwrap()
    };
    let none = filled("null.safetensors");
    assert_eq!(none, filled("null.safetensors --class none"));
    let of = [0, 1].map(|class| filled(&format!("told.safetensors --class {class}")));
    assert!(of[0] != of[1] && filled("null.safetensors --class 1") != none);
    assert!(of[0].lines().nth(1).unwrap().starts_with("1,") && of[0].lines().nth(1).unwrap().ends_with(",3"));
    let refused = "impute told.safetensors --data holes.csv --out filled.csv";
    dir.run(refused).fails(2, &["--class 0 to 1"]);
    dir.run(&format!("{refused} --class 2")).fails(2, &["--class 2", "0 to 1"]);
}
