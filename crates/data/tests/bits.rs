//! Images become bits by thresholds or by draws that belong to (seed, batch), and tables of bits are checked.

use langevin_data::{Binarise, Columns, Dataset, Images, Loader, LoaderOptions, Options, Scaling, open};
use langevin_ops::noise::Noise;
use std::sync::Arc;

/// Images of 4x4 of one grey level each.
fn grey(levels: &[u8]) -> Arc<dyn Dataset> {
    let pixels = levels.iter().flat_map(|&level| [level; 16]).collect();
    Arc::new(Images::new("test", [1, 4, 4], pixels, None).unwrap())
}

fn loader(data: Arc<dyn Dataset>, batch: usize, how: Binarise) -> Result<Loader, String> {
    let options = LoaderOptions { batch, seed: 3, flip: false, dequantise: false };
    Loader::new(data, options).unwrap().binarised(how).map_err(|e| e.to_string())
}

fn values(x: &candle_core::Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_threshold_is_at_middle_grey() {
    let data = grey(&[0, 127, 128, 255]);
    let loader = loader(data, 4, Binarise::Threshold).unwrap();
    let places = loader.places(0).unwrap();
    let x = values(&loader.batch(0).unwrap().x);
    for (place, image) in places.iter().zip(x.chunks(16)) {
        assert!(image.iter().all(|&bit| bit == if *place > 1 { 1. } else { 0. }), "{place}: {image:?}");
    }
}

#[test]
fn draws_have_the_grey_level_as_their_mean_and_belong_to_seed_and_batch() {
    let (n, level) = (2000, 64u8);
    let loader = |batch| loader(grey(&[level; 10]), batch, Binarise::Sample).unwrap();
    let x = values(&loader(n).batch(7).unwrap().x);
    assert!(x.iter().all(|&bit| bit == 0. || bit == 1.));
    let (p, count) = (f64::from(level) / 255., x.len() as f64);
    let mean = x.iter().map(|&bit| f64::from(bit)).sum::<f64>() / count;
    assert!((mean - p).abs() < 5. * (p * (1. - p) / count).sqrt(), "{mean} for {p}");
    // anew in each batch, and the same again
    let again = loader(n);
    again.batch(3).unwrap();
    assert_eq!(values(&again.batch(7).unwrap().x), x);
    assert_ne!(values(&again.batch(8).unwrap().x), x);
    // black and white are certain
    let certain = self::loader(grey(&[0, 255]), 2, Binarise::Sample).unwrap();
    for step in 0..50 {
        let batch = certain.batch(step).unwrap();
        for (place, image) in certain.places(step).unwrap().iter().zip(values(&batch.x).chunks(16)) {
            assert_eq!(image, [*place as f32; 16]);
        }
    }
}

#[test]
fn a_sample_has_the_bits_of_its_own_stream() {
    let x = grey(&[90; 6]).get(&[0, 1, 2, 3, 4, 5]).unwrap().x;
    let all = Binarise::Sample.bits(&x, &mut Noise::seeds(&[1, 2, 3, 4, 5, 6])).unwrap();
    let some = Binarise::Sample.bits(&x.narrow(0, 2, 2).unwrap(), &mut Noise::seeds(&[3, 4])).unwrap();
    assert_eq!(values(&some), values(&all.narrow(0, 2, 2).unwrap()));
}

#[test]
fn every_way_has_its_name() {
    for (how, (name, _)) in [Binarise::Threshold, Binarise::Sample].iter().zip(Binarise::ALL) {
        assert_eq!(serde_json::to_value(how).unwrap(), *name);
    }
}

#[test]
fn tables_of_bits_are_read_as_they_are_and_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    let read = |text: &str, scaling: Scaling| {
        std::fs::write(&path, text).unwrap();
        open(&path.display().to_string(), &Options { scaling, ..Options::default() }).map_err(|e| e.to_string())
    };
    let good = read("rain,wind\n0,1\n1,1\n0,0\n", Scaling::Bits).unwrap();
    let columns = good.columns().unwrap();
    assert_eq!(*columns, Columns { names: vec!["rain".into(), "wind".into()], mean: vec![0.; 2], std: vec![1.; 2] });
    let batch = loader(good.into(), 3, Binarise::Sample).unwrap();
    let mut rows: Vec<Vec<f32>> = batch.batch(0).unwrap().x.to_vec2().unwrap();
    rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert_eq!(rows, [[0., 0.], [0., 1.], [1., 1.]]);
    let why = read("rain,wind\n0,1\n1,2.5\n0,0\n", Scaling::Bits).err().unwrap();
    assert!(why.contains("a.csv") && why.contains("row 2, column wind is 2.5"), "{why}");
    // however they were opened
    for scaling in [Scaling::No, Scaling::Own] {
        let other = read("rain,wind\n0,1\n1,0.5\n0,0\n", scaling).unwrap();
        let why = loader(other.into(), 2, Binarise::Threshold).err().unwrap();
        assert!(why.contains("row ") && why.contains("column "), "{why}");
    }
}

#[test]
fn what_has_no_bits_is_refused() {
    let toy: Arc<dyn Dataset> = open("toy:rings", &Options::default()).unwrap().into();
    assert!(loader(toy, 2, Binarise::Threshold).err().unwrap().contains("row 1, column 1"));
    let options = LoaderOptions { batch: 2, seed: 3, flip: true, dequantise: true };
    let why = Loader::new(grey(&[3, 4]), options).unwrap().binarised(Binarise::Sample).err().unwrap().to_string();
    assert!(why.contains("dequantise"), "{why}");
}
