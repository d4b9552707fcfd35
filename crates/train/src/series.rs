//! Numbers that an objective reports of a step beside its mean loss, each series under a name of its own.

use std::collections::BTreeMap;

/// Numbers under a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What they are, in snake case, as logs call it.
    pub name: &'static str,
    /// The numbers.
    pub values: Values,
}

/// What a series holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// A mean over the samples.
    Mean(f64),
    /// Means over the samples by something else, such as the noise level, which is named first; in the order of the places.
    By(&'static str, Vec<Point>),
}

/// A mean over some samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Where they are, to a thousandth: the centre of a bin.
    pub at: f64,
    /// The mean.
    pub mean: f64,
    /// How many there are.
    pub samples: usize,
}

impl Series {
    /// A mean over the samples.
    pub fn mean(name: &'static str, value: f64) -> Self {
        Self { name, values: Values::Mean(value) }
    }

    /// Means by `what`; points at the same place become one.
    pub fn by(name: &'static str, what: &'static str, points: impl IntoIterator<Item = Point>) -> Self {
        Self { name, values: Values::By(what, points.into_iter().collect()) }
    }

    /// The points of a series by something; none of a mean.
    pub fn points(&self) -> &[Point] {
        match &self.values {
            Values::By(_, points) => points,
            Values::Mean(_) => &[],
        }
    }

    /// Takes `more` into `all`: means are added, each multiplied with `share`; points are put beside those that are there.
    pub fn add(all: &mut Vec<Self>, more: Vec<Self>, share: f64) {
        for series in more {
            match (all.iter_mut().find(|known| known.name == series.name).map(|known| &mut known.values), series) {
                (Some(Values::Mean(sum)), Self { values: Values::Mean(value), .. }) => *sum += value * share,
                (Some(Values::By(_, points)), Self { values: Values::By(_, more), .. }) => points.extend(more),
                (_, Self { name, values: Values::Mean(value) }) => all.push(Self::mean(name, value * share)),
                (_, series) => all.push(series),
            }
        }
    }

    /// One point for each place.
    pub fn binned(self) -> Self {
        let Values::By(what, points) = self.values else { return self };
        let mut bins: BTreeMap<i64, Point> = BTreeMap::new();
        for Point { at, mean, samples } in points {
            let bin = bins.entry((at * 1e3).round() as i64).or_insert(Point { at, mean: 0., samples: 0 });
            bin.mean += mean * samples as f64; // their sum, for now
            bin.samples += samples;
        }
        Self::by(self.name, what, bins.into_values().map(|p| Point { mean: p.mean / p.samples as f64, ..p }))
    }
}
