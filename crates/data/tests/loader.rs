//! Batch n of a run is a function of (seed, n), and what flip, dequantisation and the toys promise.

use candle_core::{Device, Tensor};
use langevin_data::{Dataset, Images, Kind, Loader, LoaderOptions, Options, dequantise, open, std};
use langevin_ops::noise::Noise;
use proptest::prelude::*;
use std::sync::Arc;

/// `n` images of 4x4 whose first pixel says which it is, and whose last pixel is 255.
fn numbered(n: usize) -> Arc<dyn Dataset> {
    let image = |i: usize| [&[i as u8][..], &[0; 14], &[255]].concat();
    Arc::new(Images::new("test", [1, 4, 4], (0..n).flat_map(image).collect(), None).unwrap())
}

fn options(batch: usize, seed: u64) -> LoaderOptions {
    LoaderOptions { batch, seed, flip: false, dequantise: false }
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// The images of a batch by their numbers.
fn order(loader: &Loader, n: u64) -> Vec<usize> {
    values(&loader.batch(n).unwrap().x).chunks(16).map(|x| ((x[0] + 1.) * 127.5).round() as usize).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_epoch_has_every_sample_once(len in 1usize..40, batch in 1usize..50, seed: u64, epoch in 0u64..5) {
        let loader = Loader::new(numbered(len), options(batch, seed)).unwrap();
        let (len, batch) = (len as u64, batch as u64);
        let (first, end) = (epoch * len, (epoch + 1) * len);
        let positions: Vec<usize> = (first / batch..=(end - 1) / batch).flat_map(|n| order(&loader, n)).collect();
        let skip = (first % batch) as usize;
        let mut seen = positions[skip..][..len as usize].to_vec();
        seen.sort();
        prop_assert_eq!(seen, (0..len as usize).collect::<Vec<_>>());
    }

    #[test]
    fn a_batch_depends_on_seed_and_number_alone(n in 0u64..1000, others in prop::collection::vec(0u64..1000, 0..5), seed: u64) {
        let options = LoaderOptions { flip: true, dequantise: true, ..options(7, seed) };
        let loader = Loader::new(numbered(30), options).unwrap();
        for other in others {
            loader.batch(other).unwrap();
        }
        let fresh = Loader::new(numbered(30), options).unwrap();
        prop_assert_eq!(values(&loader.batch(n).unwrap().x), values(&fresh.batch(n).unwrap().x));
    }
}

#[test]
fn orders_differ_by_epoch_and_seed() {
    let of = |seed, epoch| order(&Loader::new(numbered(100), options(100, seed)).unwrap(), epoch);
    assert_ne!(of(0, 0), of(0, 1));
    assert_ne!(of(0, 0), of(1, 0));
    // Sattolo's and other wrong shuffles leave some places out: over many epochs each sample comes first about as often.
    let loader = Loader::new(numbered(5), options(5, 3)).unwrap();
    let mut first = [0; 5];
    (0..2000).for_each(|epoch| first[order(&loader, epoch)[0]] += 1);
    assert!(first.iter().all(|n| (330..470).contains(n)), "{first:?}");
}

#[test]
fn flip_mirrors_half_of_them() {
    let loader = Loader::new(numbered(200), LoaderOptions { flip: true, ..options(200, 5) }).unwrap();
    let x = values(&loader.batch(0).unwrap().x);
    let mirrored = x.chunks(16).filter(|x| x[12] == 1.).count();
    let straight = x.chunks(16).filter(|x| x[15] == 1.).count();
    assert_eq!(mirrored + straight, 200);
    assert!((70..130).contains(&mirrored), "{mirrored}");
}

#[test]
fn dequantised_values_fill_their_bin() {
    let loader = Loader::new(numbered(256), LoaderOptions { dequantise: true, ..options(256, 5) }).unwrap();
    let x = values(&loader.batch(0).unwrap().x);
    assert!(x.iter().all(|x| (-1. ..1.).contains(x)));
    let u: Vec<f32> = x.chunks(16).map(|x| ((x[15] + 1.) * 128.) - 255.).collect();
    assert!(u.iter().all(|u| (0. ..1.).contains(u)));
    let mean = u.iter().sum::<f32>() / 256.;
    let spread = (u.iter().map(|u| (u - mean).powi(2)).sum::<f32>() / 256.).sqrt();
    assert!((mean - 0.5).abs() < 0.06 && (spread - 12f32.powf(-0.5)).abs() < 0.03, "{mean} {spread}");
}

#[test]
fn images_are_dequantised_by_the_streams_of_their_own() {
    let all: Vec<usize> = (0..256).collect();
    let x = numbered(256).get(&all).unwrap().x;
    let seeds: Vec<u64> = (1000..1256).collect();
    let noisy = dequantise(&x, &mut Noise::seeds(&seeds)).unwrap();
    assert_eq!(noisy.dims(), x.dims());
    // every pixel stays in its bin, of all 256
    let value = |x: &f32| f64::from(*x + 1.) * 128.;
    let u: Vec<f64> =
        values(&noisy).iter().zip(values(&x)).map(|(y, x)| value(y) - f64::from((x + 1.) * 127.5).round()).collect();
    assert!(u.iter().all(|u| (0. ..1.).contains(u)));
    let n = u.len() as f64;
    let mean = u.iter().sum::<f64>() / n;
    let variance = u.iter().map(|u| (u - 0.5).powi(2)).sum::<f64>() / n;
    // the deviations of u and of (u - 1/2)^2 are sqrt(1/12) and sqrt(1/180)
    assert!((mean - 0.5).abs() < 5. * (12. * n).powf(-0.5), "{mean}");
    assert!((variance - 1. / 12.).abs() < 5. * (180. * n).powf(-0.5), "{variance}");
    let few = dequantise(&x.narrow(0, 7, 3).unwrap(), &mut Noise::seeds(&seeds[7..10])).unwrap();
    assert_eq!(values(&few), values(&noisy.narrow(0, 7, 3).unwrap()));
    assert!(dequantise(&x, &mut Noise::seeds(&seeds[1..])).is_err());
}

#[test]
fn prefetch_gives_the_same_batches() {
    let loader = Arc::new(Loader::new(numbered(30), options(8, 1)).unwrap());
    for (n, batch) in (5..).zip(loader.clone().prefetch(5).take(10)) {
        assert_eq!(values(&batch.unwrap().x), values(&loader.batch(n).unwrap().x));
    }
    drop(loader.clone().prefetch(0)); // ends its thread, or this test would not
    assert!(loader.prefetch(u64::MAX / 4).next().unwrap().is_err());
}

#[test]
fn what_a_loader_refuses() {
    let why = |data: Arc<dyn Dataset>, options| Loader::new(data, options).err().unwrap().to_string();
    assert!(why(numbered(3), options(0, 0)).contains("batch is 0"));
    let toy: Arc<dyn Dataset> = open("toy:rings", &Options::default()).unwrap().into();
    assert!(why(toy.clone(), LoaderOptions { flip: true, ..options(1, 0) }).contains("flip"));
    assert!(why(toy, LoaderOptions { dequantise: true, ..options(1, 0) }).contains("dequantise"));
    assert!(Images::new("test", [1, 4, 4], vec![], None).is_err());
    assert!(Images::new("test", [1, 4, 4], vec![0; 15], None).is_err());
}

#[test]
fn std_is_about_the_one_mean() {
    let pixels: Vec<u8> = [[0; 16], [255; 16], [0; 16], [255; 16]].concat();
    let data = Images::new("test", [1, 4, 4], pixels, None).unwrap();
    assert!((std(&data).unwrap() - 1.).abs() < 1e-12);
    let flat = Images::new("test", [1, 4, 4], vec![7; 64], None).unwrap();
    assert!(std(&flat).unwrap_err().to_string().contains("do not vary"));
}

#[test]
fn toys_are_centred_and_near_unit_scale() {
    let names = langevin_data::ALL.iter().filter(|(name, _)| name.starts_with("toy:"));
    let mut n = 0;
    for (name, _) in names {
        let data = open(name, &Options::default()).unwrap();
        assert_eq!((data.kind(), data.shape()), (Kind::Points, &[2][..]));
        let idx: Vec<usize> = (0..20_000).collect();
        let batch = data.get(&idx).unwrap();
        let x = batch.x.to_dtype(candle_core::DType::F64).unwrap();
        let mean: Vec<f64> = x.mean(0).unwrap().to_vec1().unwrap();
        let sq: Vec<f64> = x.sqr().unwrap().mean(0).unwrap().to_vec1().unwrap();
        for axis in 0..2 {
            let spread = (sq[axis] - mean[axis].powi(2)).sqrt();
            assert!(mean[axis].abs() < 0.04 && (0.6..1.3).contains(&spread), "{name}: mean {mean:?}, std {spread}");
        }
        assert!(values(&batch.x).iter().all(|x| x.abs() < 4.));
        let labels: Vec<u32> = batch.labels().unwrap().to_vec1().unwrap();
        let classes = data.classes().unwrap();
        let expected = 20_000 / classes;
        let count = |class| labels.iter().filter(|&&l| l == class).count();
        assert!((0..classes as u32).all(|class| count(class).abs_diff(expected) < expected / 10));
        // Point n is the same alone and in another order; the held-out points are others.
        assert_eq!(values(&data.get(&[777, 3]).unwrap().x)[..2], values(&batch.x)[2 * 777..][..2]);
        let held_out = open(&format!("{name}:test"), &Options::default()).unwrap();
        assert_ne!(values(&held_out.get(&[0]).unwrap().x), values(&data.get(&[0]).unwrap().x));
        n += 1;
    }
    assert_eq!(n, 5);
}

#[test]
fn toys_have_their_shapes() {
    let points = |name: &str| {
        let batch = open(name, &Options::default()).unwrap().get(&(0..5000).collect::<Vec<_>>()).unwrap();
        let x: Vec<Vec<f32>> = batch.x.to_vec2().unwrap();
        let labels: Vec<u32> = batch.labels().unwrap().to_vec1().unwrap();
        x.into_iter().zip(labels).collect::<Vec<_>>()
    };
    let radius = |x: &[f32]| x[0].hypot(x[1]);
    assert!(points("toy:rings").iter().all(|(x, k)| (radius(x) - 0.5 * (*k as f32 + 1.)).abs() < 0.25));
    let dark = |x: &[f32]| (x[0] + 2.).floor() as i32 % 2 == (x[1] + 2.).floor() as i32 % 2;
    assert!(points("toy:checkerboard").iter().all(|(x, _)| dark(x) && x.iter().all(|x| x.abs() <= 2.)));
    let mode = |k: u32| (std::f32::consts::TAU * k as f32 / 8.).sin_cos();
    let apart = |x: &[f32], k: u32| (x[0] - 1.4 * mode(k).1).hypot(x[1] - 1.4 * mode(k).0);
    assert!(points("toy:8-gaussians").iter().all(|(x, k)| apart(x, *k) < 0.75));
    // The two moons are apart, though their boxes overlap: each hugs its own half circle.
    let moon = |x: &[f32], k: u32| if k == 0 { [x[0] + 0.6, x[1] + 0.3] } else { [x[0] - 0.6, 0.3 - x[1]] };
    assert!(points("toy:two-moons").iter().all(|(x, k)| (radius(&moon(x, *k)) - 1.2).abs() < 0.4));
}

#[test]
fn batches_are_on_the_cpu() {
    let loader = Loader::new(numbered(4), options(2, 0)).unwrap();
    assert!(matches!(loader.batch(0).unwrap().x.device(), Device::Cpu));
    assert_eq!(loader.data().len(), 4);
}
