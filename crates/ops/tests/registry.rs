//! `registry!`: written and read as a table with a name; what does not exist is named beside what does.

#![allow(missing_docs)]

use langevin_ops::registry;
use langevin_ops::registry::Named;
use serde::{Deserialize, Serialize};

pub trait Shape {
    fn area(&self) -> f64;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Square {
    side: f64,
}

impl Default for Square {
    fn default() -> Self {
        Self { side: 1. }
    }
}

impl Named for Square {
    const NAME: &'static str = "square";
    const ABOUT: &'static str = "four equal sides";
}

impl Shape for Square {
    fn area(&self) -> f64 {
        self.side * self.side
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Point {
    label: Option<String>,
}

impl Named for Point {
    const NAME: &'static str = "point";
    const ABOUT: &'static str = "no size at all";
}

impl Shape for Point {
    fn area(&self) -> f64 {
        0.
    }
}

registry! {
    /// Some shapes.
    pub enum AnyShape: Shape = "shape" { Square, Point }
}

fn read(json: &str) -> Result<AnyShape, String> {
    serde_json::from_str(json).map_err(|e| e.to_string())
}

#[test]
fn a_name_or_a_table_is_read_and_the_table_written() {
    assert_eq!(read(r#""square""#).unwrap().get().area(), 1.);
    let square = read(r#"{"name": "square", "side": 3.0}"#).unwrap();
    assert_eq!(square.get().area(), 9.);
    assert_eq!(serde_json::to_string(&square).unwrap(), r#"{"name":"square","side":3.0}"#);
    assert_eq!(serde_json::to_string(&read(r#""point""#).unwrap()).unwrap(), r#"{"name":"point"}"#);
}

#[test]
fn what_does_not_exist_is_named_beside_what_does() {
    for unknown in [read(r#""circle""#), read(r#"{"name": "circle"}"#), AnyShape::named("circle")] {
        let e = unknown.unwrap_err();
        assert!(e.contains("unknown shape `circle`") && e.contains("square, point"), "{e}");
    }
    let e = read(r#"{"name": "square", "sides": 3.0}"#).unwrap_err();
    assert!(e.contains("shape `square`") && e.contains("`sides`") && e.contains("`side`"), "{e}");
    assert!(read(r#"{"side": 3.0}"#).unwrap_err().contains("needs a `name`"));
    assert!(read("7").unwrap_err().contains("not 7"));
    assert!(read(r#"{"name": "square", "side": "long"}"#).unwrap_err().contains("shape `square`"));
}

#[test]
fn every_member_is_listed_and_can_be_changed() {
    assert_eq!(AnyShape::ALL, [("square", "four equal sides"), ("point", "no size at all")]);
    let names: Vec<_> = AnyShape::defaults().iter().map(AnyShape::name).collect();
    assert_eq!(names, ["square", "point"]);
    let mut any = AnyShape::from(Square { side: 2. });
    assert_eq!(any.get_mut().area(), 4.);
}
