//! What is kept of data to know them again: names of classes and columns, absolute paths, a fingerprint.

use image::{GrayImage, Luma};
use langevin_data::{Dataset, Facts, Options, Relabelled, Scaling, absolute, open, path};
use std::fs;
use std::path::Path;
use tempfile::tempdir;

fn images(dir: &Path, class: &str, values: &[u8]) {
    fs::create_dir_all(dir.join(class)).unwrap();
    for (i, &v) in values.iter().enumerate() {
        GrayImage::from_pixel(4, 4, Luma([v])).save(dir.join(class).join(format!("{i}.png"))).unwrap();
    }
}

fn data(at: &Path) -> Box<dyn Dataset> {
    open(at.to_str().unwrap(), &Options::default()).unwrap()
}

fn facts(at: &Path) -> Facts {
    Facts::of(data(at).as_ref()).unwrap()
}

#[test]
fn published_data_sets_and_folders_name_their_classes() {
    let digits = open("digits:test", &Options::default()).unwrap();
    assert_eq!(digits.class_names().unwrap().join(" "), "0 1 2 3 4 5 6 7 8 9");
    let turned = open("rotate:90=digits:test", &Options { shape: Some(vec![3, 9, 9]), ..Options::default() }).unwrap();
    assert_eq!(turned.class_names(), digits.class_names(), "turned and scaled they are the same classes");
    let dir = tempdir().unwrap();
    images(dir.path(), "pear", &[1, 2]);
    images(dir.path(), "apple", &[3]);
    assert_eq!(data(dir.path()).class_names().unwrap().join(" "), "apple pear");
    fs::remove_dir_all(dir.path().join("apple")).unwrap();
    let one = data(dir.path());
    assert_eq!((one.classes(), one.class_names().unwrap().join(" ")), (Some(1), "pear".into()));
    assert!(open("toy:rings", &Options::default()).unwrap().class_names().is_none());
}

#[test]
fn labels_follow_the_names_of_classes() {
    let dir = tempdir().unwrap();
    images(dir.path(), "pear", &[10]);
    images(dir.path(), "fig", &[20]);
    let names = ["apple", "pear", "cherry", "fig"].map(String::from);
    let data_of = || data(dir.path());
    let matched = Relabelled::by_name(data_of(), &names).unwrap();
    let batch = matched.get(&[0, 1]).unwrap();
    assert_eq!(batch.labels().unwrap().to_vec1::<u32>().unwrap(), [3, 1], "fig, then pear");
    assert_eq!((matched.classes(), matched.class_names()), (Some(4), Some(&names[..])));
    let why = Relabelled::by_name(data_of(), &names[..3]).err().unwrap().to_string();
    assert!(why.contains("\"fig\"") && why.contains("apple, pear, cherry"), "{why}");
    let numbered = Relabelled::by_number(data_of(), 5, None).unwrap();
    assert_eq!((numbered.classes(), numbered.class_names()), (Some(5), None));
    assert_eq!(numbered.get(&[1]).unwrap().labels().unwrap().to_vec1::<u32>().unwrap(), [1]);
    assert!(Relabelled::by_number(data_of(), 1, None).is_err());
}

#[test]
fn facts_tell_what_changed() {
    let dir = tempdir().unwrap();
    images(dir.path(), "a", &[10, 20]);
    images(dir.path(), "b", &[30]);
    let before = facts(dir.path());
    assert_eq!((before.samples, before.shape.as_slice()), (3, &[1, 4, 4][..]));
    assert_eq!(before.difference(&facts(dir.path())), None);
    let changed = |what: &str| {
        let difference = before.difference(&facts(dir.path())).expect(what);
        assert!(difference.contains(what), "{difference}");
    };
    images(dir.path(), "b", &[31]); // one grey level
    changed("other contents");
    images(dir.path(), "b", &[30]);
    fs::rename(dir.path().join("b"), dir.path().join("c")).unwrap();
    changed("the classes a, c, not the classes a, b");
    fs::rename(dir.path().join("c/0.png"), dir.path().join("a/2.png")).unwrap();
    fs::create_dir(dir.path().join("b")).unwrap();
    fs::copy(dir.path().join("a/0.png"), dir.path().join("b/0.png")).unwrap();
    changed("4 samples, not 3");
    // the same images under other labels
    let swapped = tempdir().unwrap();
    images(swapped.path(), "a", &[10]);
    images(swapped.path(), "b", &[20, 30]);
    assert!(before.difference(&facts(swapped.path())).unwrap().contains("labels"));
}

#[test]
fn a_table_is_known_again_with_its_columns_in_another_order() {
    let dir = tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    let of = |spec: &str, scaling: Scaling| {
        Facts::of(open(spec, &Options { scaling, ..Options::default() }).unwrap().as_ref()).unwrap()
    };
    let before = of(&file("a.csv", "u,v,w\n1,20,3\n2,10,4\n5,30,9\n"), Scaling::Own);
    let like = || Scaling::Like(before.columns.clone().unwrap());
    assert_eq!(before.difference(&of(&file("b.csv", "w,u,v\n3,1,20\n4,2,10\n9,5,30\n"), like())), None);
    let other = of(&file("c.csv", "u,v,w\n1,20,3\n2,10,4\n5,30,9.5\n"), like());
    assert!(before.difference(&other).unwrap().contains("other contents"));
}

#[test]
fn specs_are_made_absolute_where_they_have_a_path() {
    let here = std::env::current_dir().unwrap();
    let at = |rest: &str| format!("{}/{rest}", here.display());
    for (spec, whole) in [
        ("digits:test", "digits:test".to_string()),
        ("rotate:90=toy:rings", "rotate:90=toy:rings".to_string()),
        ("noise:uniform", "noise:uniform".to_string()),
        ("cifar10", "cifar10".to_string()),
        ("tests", at("tests")),
        ("./tests/", at("tests")),
        ("table.csv", at("table.csv")),
        ("mnist:test=tests", format!("mnist:test={}", at("tests"))),
        ("rotate:90=cifar10=tests", format!("rotate:90=cifar10={}", at("tests"))),
        ("/somewhere/else", "/somewhere/else".to_string()),
    ] {
        assert_eq!(absolute(spec).unwrap(), whole);
        assert_eq!(absolute(&whole).unwrap(), whole, "it stays");
    }
    assert_eq!(path("rotate:90=mnist=a/b"), Some("a/b"));
    assert_eq!(path("digits"), None);
}
