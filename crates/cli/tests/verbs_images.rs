//! Image files and arrays that the verbs read: one reader for all of them, and what it changes is told.

mod common;

use common::{Dir, spec};
use image::{GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use langevin::models::Head;
use std::fs;

/// A folder of photographs that are wider than high, `count` of them and a caption.
fn photographs(dir: &Dir, name: &str, (width, height): (u32, u32), count: u8) {
    fs::create_dir_all(dir.path(name)).unwrap();
    for i in 0..count {
        let pixel = |x: u32, y: u32| Rgb([(x * 5) as u8, (y * 7) as u8, 20 * i]);
        RgbImage::from_fn(width, height, pixel).save(dir.path(&format!("{name}/{i}.png"))).unwrap();
    }
    fs::write(dir.path(&format!("{name}/caption.txt")), "text").unwrap();
}

#[test]
fn data_of_every_verb_are_read_alike_and_have_their_notes() {
    let dir = Dir::new();
    photographs(&dir, "own", (24, 12), 6);
    photographs(&dir, "large", (61, 32), 6);
    dir.model("m.safetensors", &spec(&[3, 12, 24], None, Head::Energy), &[]);
    for data in ["own", "large"] {
        let verbs = [
            format!("inpaint m.safetensors --data {data} -n 2 --mask half --method replace sampler.steps=3"),
            format!("eval bits m.safetensors --data {data} -n 2 --method ode --rtol 0.1 --atol 0.1"),
            format!("eval ood m.safetensors --data {data} --ood own --fit {data} -n 3 --fit-samples 3 --scores energy"),
            format!("detect m.safetensors {data} --fit own --fit-samples 3 --scores energy --alpha 0.5"),
            format!("look histogram m.safetensors --data {data} -n 3 --out h.png"),
        ];
        for verb in verbs {
            let ran = dir.run(&verb);
            ran.ok();
            assert!(ran.stderr.contains("caption.txt: not an image"), "{verb}\n{}", ran.stderr);
            assert_eq!(
                ran.stderr.contains("large: images scaled and cropped to 12x24"),
                data == "large",
                "{verb}\n{}",
                ran.stderr
            );
        }
    }
    // what no picture can be made of is refused by all alike
    for verb in [
        "inpaint m.safetensors --mask half --data",
        "eval bits m.safetensors --method ode --data",
        "detect m.safetensors --fit own",
    ] {
        dir.run(&format!("{verb} toy:rings")).fails(2, &["toy:rings", "[2]", "[3, 12, 24]"]);
    }
}

#[test]
fn a_damaged_image_is_left_out_and_makes_no_class() {
    let dir = Dir::new();
    photographs(&dir, "some", (16, 16), 4);
    let whole = fs::read(dir.path("some/3.png")).unwrap();
    let half = &whole[..whole.len() / 2];
    fs::write(dir.path("some/3.png"), half).unwrap();
    dir.model("m.safetensors", &spec(&[3, 16, 16], None, Head::Denoiser), &[]);
    let inpaint = |model: &str, data: &str| {
        dir.run(&format!("inpaint {model} --data {data} --mask half --method replace sampler.steps=3 -n 4"))
    };
    let ran = inpaint("m.safetensors", "some");
    ran.ok();
    assert!(ran.stderr.contains("skipped") && ran.stderr.contains("3.png"), "{}", ran.stderr);
    // one that is the only one of its folder, beside two classes that the model knows
    for class in ["left", "right", "top"] {
        photographs(&dir, &format!("classes/{class}"), (16, 16), 2);
    }
    fs::remove_file(dir.path("classes/top/0.png")).unwrap();
    fs::write(dir.path("classes/top/1.png"), half).unwrap();
    dir.run(
        "train digits --data classes --out run model.conditional=true train.steps=1 train.batch=4 sampler.steps=2 \
         model.net.channels=[4,8] model.net.groups=2 model.net.layers=1 model.head=denoiser",
    )
    .ok();
    fs::rename(dir.path("classes"), dir.path("others")).unwrap();
    inpaint("run", "others").ok();
    dir.run("eval bits run --data others --method ode --rtol 0.1 --atol 0.1").ok();
    photographs(&dir, "others/top", (16, 16), 1);
    let ran = inpaint("run", "others");
    assert!(ran.code() == 2 && ran.stderr.contains("\"top\""), "{}", ran.stderr);
}

#[test]
fn a_damaged_image_is_left_out_of_tables() {
    let dir = Dir::new();
    photographs(&dir, "some", (16, 16), 4);
    let whole = fs::read(dir.path("some/3.png")).unwrap();
    fs::write(dir.path("some/3.png"), &whole[..whole.len() / 2]).unwrap();
    dir.model("m.safetensors", &spec(&[3, 16, 16], None, Head::Denoiser), &[]);
    let ran =
        dir.run("detect m.safetensors some --fit digits --fit-samples 20 --held-out digits:test --scores score-norms");
    assert!(ran.ok().contains("2.png") && !ran.stdout.contains("3.png"), "{}", ran.stdout);
    assert!(ran.stderr.contains("3.png"), "{}", ran.stderr);
}

/// Tile `column` of the first row of a grid of 16 x 16 pictures: its red pixels.
fn tile(dir: &Dir, name: &str, column: u32) -> Vec<u8> {
    let grid = image::open(dir.path(name)).unwrap().into_rgb8();
    let at = |k: u32, i: u32| 4 + k * 100 + 6 * i + 3;
    (0..256).map(|n| grid.get_pixel(at(column, n % 16), at(0, n / 16))[0]).collect()
}

#[test]
fn transparency_is_white_and_hides_nothing() {
    let dir = Dir::new();
    dir.model("m.safetensors", &spec(&[1, 16, 16], None, Head::Denoiser), &[]);
    let upper = |y: u32| if y < 8 { 0 } else { 255 };
    RgbaImage::from_fn(16, 16, |_, y| Rgba([40, 40, 40, upper(y)])).save(dir.path("i.png")).unwrap();
    let inpaint = |mask: &str| {
        let ran = dir
            .run(&format!("inpaint m.safetensors --input i.png --mask {mask} -n 1 --method replace sampler.steps=3"));
        ran.ok();
        (tile(&dir, "inpaint.png", 0), tile(&dir, "inpaint.png", 1), ran.stderr)
    };
    // a layer of white, opaque on the right, of twice the size
    RgbaImage::from_fn(32, 32, |x, _| Rgba([255, 255, 255, upper(x / 2)])).save(dir.path("layer.png")).unwrap();
    let (input, seen, said) = inpaint("layer.png");
    assert_eq!((input[0], input[255]), (255, 40), "transparent is white, as in a folder");
    let hidden: Vec<bool> = seen.iter().zip(&input).map(|(seen, input)| seen != input).collect();
    assert!(said.contains("layer.png") && said.contains("opaque is hidden"), "{said}");
    assert!((128..256).all(|i| hidden[i] == (i % 16 >= 8)), "known on the left: {seen:?}");
    // the same by a mask in black and white
    GrayImage::from_fn(16, 16, |x, _| Luma([upper(x)])).save(dir.path("grey.png")).unwrap();
    assert_eq!(inpaint("grey.png").1, seen);
    // numbers of classes are no mask
    GrayImage::from_fn(16, 16, |x, _| Luma([u8::from(x > 7)])).save(dir.path("ones.png")).unwrap();
    dir.run("inpaint m.safetensors --input i.png --mask ones.png")
        .fails(2, &["--mask", "ones.png", "hides nothing", "1 of 255"]);

    let from = "sample m.safetensors --from i.png --strength 0.02 -n 1 sampler.name=euler sampler.steps=60 --images o";
    dir.run(from).ok();
    let sample = image::open(dir.path("o/0.png")).unwrap().into_luma8();
    assert!(sample.get_pixel(8, 2)[0] > 200 && sample.get_pixel(8, 13)[0] < 100);
}

/// What `sample --npz` writes is data for every verb.
#[test]
fn arrays_of_samples_are_data() {
    let dir = Dir::new();
    dir.model("i.safetensors", &spec(&[3, 8, 12], Some(3), Head::Denoiser), &[]);
    dir.run("sample i.safetensors --class 2 -n 6 sampler.steps=2 --npz i.npz").ok();
    let train = "train.steps=2 train.batch=4 train.sample_every=0 sampler.steps=2";
    let net = "model.net.channels=[4,8] model.net.groups=2 model.net.layers=1 model.net.attention=[]";
    let ran = dir.run(&format!("train digits --data i.npz --out r {train} {net} model.conditional=true"));
    assert!(ran.ok().contains("model:") && ran.stderr.contains("6 samples [3, 8, 12]"), "{}", ran.stderr);
    dir.run("inpaint r --data i.npz -n 2 --mask half --method replace sampler.steps=2").ok();

    dir.model("p.safetensors", &spec(&[2], None, Head::Energy), &[]);
    dir.run("sample p.safetensors -n 60 sampler.steps=2 --npz p.npz").ok();
    let ran = dir.run("eval bits p.safetensors --data p.npz -n 5 --method ode --rtol 0.1 --atol 0.1");
    assert!(ran.ok().contains("nats"), "{}", ran.stdout);
    dir.run("detect p.safetensors p.npz --fit p.npz --fit-samples 30 --alpha 0.5 --scores energy").ok();
    let ran = dir.run(&format!("train toy --data p.npz --out t {train} model.net.width=8 model.net.layers=1"));
    ran.ok();
    assert!(ran.stderr.contains("60 samples [2]"), "{}", ran.stderr);
}
