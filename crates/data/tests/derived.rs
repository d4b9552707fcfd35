//! Data that are made or made over: noise, turned images, images brought to another shape.

use candle_core::Result;
use image::{Rgb, RgbImage};
use langevin_data::{Dataset, Kind, Options, open, spread};

fn data(spec: &str) -> Box<dyn Dataset> {
    open(spec, &Options::default()).unwrap()
}

fn shaped(spec: &str, shape: &[usize]) -> Result<Box<dyn Dataset>> {
    open(spec, &Options { shape: Some(shape.to_vec()), ..Options::default() })
}

fn numbers(data: &dyn Dataset, idx: &[usize]) -> Vec<f32> {
    data.get(idx).unwrap().x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Mean and variance.
fn moments(x: &[f32]) -> (f64, f64) {
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
    (mean, x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / x.len() as f64)
}

#[test]
fn noise_has_the_moments_that_it_claims() {
    let idx: Vec<usize> = (0..200).collect();
    let n = (200. * 784f64).sqrt();
    // uniform on 256 levels: variance 1/3 (1 - 2^-16) of [-1, 1] widened by half a level
    let (mean, variance) = moments(&numbers(&*data("noise:uniform"), &idx));
    let level = 2. / 255f64;
    assert!(
        mean.abs() < 5. * 0.58 / n && (variance - (256f64.powi(2) - 1.) / 12. * level * level).abs() < 5. * 0.3 / n
    );
    // N(0, 1/2) clipped at two standard deviations: variance 1/4 (1 - 2 (2 phi(2) + Q(2)) + 8 Q(2)), Q(2) = 0.0227501
    let (mean, variance) = moments(&numbers(&*data("noise:gaussian"), &idx));
    let clipped = 0.25 * (1. - 2. * (2. * 0.053_990_97 + 0.022_750_13) + 8. * 0.022_750_13);
    assert!(mean.abs() < 5. * 0.48 / n, "{mean}");
    assert!((variance - clipped).abs() < 5. * 0.3 / n, "{variance} {clipped}");
    // an image is the same in any batch, and the held-out ones are others
    let set = data("noise:uniform");
    assert_eq!(numbers(&*set, &[7]), numbers(&*set, &[3, 7])[784..]);
    assert_ne!(numbers(&*set, &[7]), numbers(&*data("noise:uniform:test"), &[7]));
    assert_eq!(shaped("noise:gaussian", &[3, 8, 6]).unwrap().get(&[0, 1]).unwrap().x.dims(), [2, 3, 8, 6]);
    assert!(shaped("noise:gaussian", &[2]).err().unwrap().to_string().contains("[2]"));
    assert!(set.get(&[10_000]).is_err());
}

#[test]
fn a_quarter_turn_is_clockwise() {
    let (upright, turned) = (data("digits"), data("rotate:90=digits"));
    let (a, b) = (numbers(&*upright, &[5]), numbers(&*turned, &[5]));
    // the pixel at row r, column c goes to row c, column 27 - r
    assert!((0..784).all(|i| b[(i % 28) * 28 + 27 - i / 28] == a[i]) && a != b);
    let twice = numbers(&*data("rotate:90=rotate:90=digits:test"), &[5]);
    assert_eq!(twice, numbers(&*data("rotate:180=digits:test"), &[5]));
    let back = numbers(&*data("rotate:270=rotate:90=digits"), &[5]);
    assert_eq!(back, a);
    let labels = |set: &dyn Dataset| set.get(&[5]).unwrap().labels().unwrap().to_vec1::<u32>().unwrap();
    assert_eq!(labels(&*upright), labels(&*turned));
    assert_eq!((turned.classes(), turned.len()), (Some(10), 9_000));
    let wrong = |spec: &str| open(spec, &Options::default()).err().unwrap().to_string();
    assert!(wrong("rotate:45=digits").contains("90, 180 or 270"));
    assert!(wrong("rotate:90=toy:rings").contains("[2]"));
    assert!(wrong("rotate:90=nothing").contains("nothing"));
}

#[test]
fn images_come_in_the_shape_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    RgbImage::from_pixel(20, 12, Rgb([255, 0, 0])).save(path("red.png")).unwrap();
    RgbImage::from_pixel(12, 12, Rgb([0, 0, 255])).save(path("blue.png")).unwrap();
    std::fs::write(path("broken.png"), b"no image").unwrap();
    let folder = dir.path().to_str().unwrap();
    let set = shaped(folder, &[1, 8, 8]).unwrap();
    assert_eq!((set.kind(), set.shape(), set.len()), (Kind::Image, &[1, 8, 8][..], 2));
    // luma of Rec. 601: 0.299 of red, 0.114 of blue
    let x = numbers(&*set, &[0, 1]);
    assert!((x[0] - (2. * 0.114 - 1.)).abs() < 0.01 && (x[64] - (2. * 0.299 - 1.)).abs() < 0.01, "{} {}", x[0], x[64]);
    let files: Vec<_> = set.files().unwrap().iter().map(|file| file.rsplit('/').next().unwrap()).collect();
    assert_eq!(files, ["blue.png", "red.png"]);
    let notes = set.notes().join("; ");
    assert!(notes.contains("colours made grey") && notes.contains("broken.png"), "{notes}");

    let larger = shaped("digits", &[3, 32, 32]).unwrap();
    let x = numbers(&*larger, &[4]);
    assert!(x.len() == 3 * 32 * 32 && x[..1024] == x[1024..2048]);
    assert!((moments(&x).0 - moments(&numbers(&*data("digits"), &[4])).0).abs() < 0.02);
    assert!(larger.notes().join("; ").contains("scaled from 28x28 to 32x32"));
    assert!(shaped("digits", &[2]).err().unwrap().to_string().contains("[1, 28, 28]"));
    assert_eq!(shaped("toy:rings", &[2]).unwrap().shape(), [2]);
}

#[test]
fn samples_are_taken_from_everywhere() {
    let some = spread(1000, 10, 1);
    assert!(some.iter().enumerate().all(|(i, &at)| at / 100 == i), "{some:?}");
    assert_ne!(some, spread(1000, 10, 2));
    assert_eq!(spread(3, 10, 0), [0, 1, 2]);
}
