//! Images become grey levels counted from 0, and tables of integers are checked.

use langevin_data::{Columns, Dataset, Images, Loader, LoaderOptions, Options, Scaling, check_integers, open};
use std::sync::Arc;

/// Images of 4x4 of one grey level each.
fn grey(levels: &[u8]) -> Arc<dyn Dataset> {
    let pixels = levels.iter().flat_map(|&level| [level; 16]).collect();
    Arc::new(Images::new("test", [1, 4, 4], pixels, None).unwrap())
}

fn loader(data: Arc<dyn Dataset>, batch: usize, q: usize) -> Result<Loader, String> {
    let options = LoaderOptions { batch, seed: 3, flip: false, dequantise: false };
    Loader::new(data, options).unwrap().of_integers(q).map_err(|e| e.to_string())
}

#[test]
fn greys_become_the_nearest_level() {
    // of 5 levels 0, 63.75, 127.5, 191.25 and 255 are each one
    let (greys, levels) = ([0, 31, 32, 95, 96, 159, 160, 223, 224, 255], [0., 0., 1., 1., 2., 2., 3., 3., 4., 4.]);
    let loader = loader(grey(&greys), 10, 5).unwrap();
    let x: Vec<f32> = loader.batch(2).unwrap().x.flatten_all().unwrap().to_vec1().unwrap();
    for (place, image) in loader.places(2).unwrap().iter().zip(x.chunks(16)) {
        assert!(image.iter().all(|&level| level == levels[*place]), "{}: {image:?}", greys[*place]);
    }
}

#[test]
fn tables_of_integers_are_read_as_they_are_and_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    let read = |text: &str, scaling: Scaling| {
        std::fs::write(&path, text).unwrap();
        open(&path.display().to_string(), &Options { scaling, ..Options::default() }).map_err(|e| e.to_string())
    };
    let good = read("rain,wind\n0,3\n2,1\n1,0\n", Scaling::Integers(4)).unwrap();
    let columns = good.columns().unwrap();
    assert_eq!(*columns, Columns { names: vec!["rain".into(), "wind".into()], mean: vec![0.; 2], std: vec![1.; 2] });
    let batch = loader(good.into(), 3, 4).unwrap();
    let mut rows: Vec<Vec<f32>> = batch.batch(0).unwrap().x.to_vec2().unwrap();
    rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert_eq!(rows, [[0., 3.], [1., 0.], [2., 1.]]);
    for cell in ["4", "-1", "2.5"] {
        let text = format!("rain,wind\n0,3\n1,{cell}\n1,0\n");
        let why = read(&text, Scaling::Integers(4)).err().unwrap();
        let words = [format!("row 2, column wind is {cell}"), "a.csv".into(), "integers 0 to 3".into()];
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
        // however they were opened
        let other = read(&text, Scaling::No).unwrap();
        let why = check_integers(other.as_ref(), 4).unwrap_err().to_string();
        assert!(why.contains(&format!("row 2, column 2 is {cell}")), "{why}");
        assert!(loader(other.into(), 2, 4).err().unwrap().contains("row 2"));
    }
}

#[test]
fn dequantised_greys_are_refused() {
    let options = LoaderOptions { batch: 2, seed: 3, flip: true, dequantise: true };
    let why = Loader::new(grey(&[3, 4]), options).unwrap().of_integers(4).err().unwrap().to_string();
    assert!(why.contains("dequantise"), "{why}");
}
