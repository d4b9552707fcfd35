//! How well a score tells data from what does not belong to them: the sets that are compared, and figures with intervals.

use crate::scoring::{self, Scored};
use anyhow::Result;
use langevin_data::Dataset;
use langevin_eval::{Interval, Roc};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use serde::Serialize;

/// Resamples of each interval of AUPR and FPR95.
const RESAMPLES: usize = 1000;
/// Of the choice of samples.
const MEASURED: u64 = 2;

/// A data set with the samples that are taken of it.
pub struct Set {
    /// What it is called.
    pub name: String,
    /// The data.
    pub data: Box<dyn Dataset>,
    /// The places of the samples.
    pub idx: Vec<usize>,
}

impl Set {
    /// At most `n` samples of `spec`, those that `model` is asked about when it is told `label`; `option` names it.
    pub fn open(model: &dyn Scored, spec: &str, option: &str, (n, label): (usize, Option<u32>)) -> Result<Self> {
        let data = model.data(spec, option)?;
        let all = model.members(label, data.as_ref())?;
        Ok(Self { name: short(spec), idx: scoring::choose(&all, n, MEASURED), data })
    }

    /// What is compared with the data that belong: all samples, and those of each class.
    pub fn against(&self, by_class: bool) -> Result<Vec<(String, Vec<usize>)>> {
        let mut sets = vec![(self.name.clone(), (0..self.idx.len()).collect())];
        if by_class {
            sets.extend(self.classes()?);
        }
        Ok(sets)
    }

    /// The places of the samples of each class.
    fn classes(&self) -> Result<Vec<(String, Vec<usize>)>> {
        let Some(labels) = self.data.labels(&self.idx)? else { return Ok(vec![]) };
        let labels = to_host(&labels)?;
        let of = |class: usize| -> Vec<usize> {
            labels.iter().enumerate().filter(|(_, label)| **label == class as f64).map(|(i, _)| i).collect()
        };
        let names = self.data.class_names().unwrap_or_default();
        let name = |class: usize| names.get(class).cloned().unwrap_or(class.to_string());
        let classes = self.data.classes().filter(|&n| n > 1).unwrap_or(0);
        let all = (0..classes).map(|class| (format!("{}, class {}", self.name, name(class)), of(class)));
        Ok(all.filter(|(_, places)| !places.is_empty()).collect())
    }
}

/// A data set's name without the folder of its files.
fn short(spec: &str) -> String {
    match (spec.strip_prefix("rotate:").and_then(|rest| rest.split_once('=')), spec.split_once('=')) {
        (Some((degrees, of)), _) => format!("rotate:{degrees}={}", short(of)),
        (None, Some((name, _))) => name.into(),
        (None, None) => spec.into(),
    }
}

/// A figure with its interval of 95% confidence.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// The figure.
    pub value: f64,
    /// What holds it.
    #[serde(flatten)]
    pub interval: Interval,
}

/// A line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The score.
    pub score: String,
    /// What does not belong.
    pub against: String,
    /// Area under the ROC curve, by DeLong.
    pub auroc: Figure,
    /// Average precision of finding what does not belong.
    pub aupr: Figure,
    /// The part of the data that is taken for it where 95% of it is found.
    pub fpr95: Figure,
    /// Samples that do not belong, and that do.
    pub n: [usize; 2],
}

impl Line {
    /// Of the scores of samples that do not belong, and of those that do; resamples are drawn with `seed`.
    pub fn of(score: &str, against: &str, odd: &[f64], belonging: &[f64], seed: u64) -> Result<Self> {
        let roc = Roc::new(odd, belonging)?;
        let mut noise = Noise::seeds(&[seed]);
        Ok(Self {
            score: score.into(),
            against: against.into(),
            auroc: Figure { value: roc.auroc(), interval: roc.auroc_interval() },
            aupr: Figure {
                value: roc.average_precision(),
                interval: roc.average_precision_interval(RESAMPLES, &mut noise)?,
            },
            fpr95: Figure { value: roc.fpr_at(0.95), interval: roc.fpr_interval(0.95, RESAMPLES, &mut noise)? },
            n: [odd.len(), belonging.len()],
        })
    }

    /// Its words, column by column.
    pub fn words(&self) -> Vec<String> {
        let figures = [&self.auroc, &self.aupr, &self.fpr95];
        let words = |Figure { value, interval: Interval { low, high } }: &Figure| {
            [format!("{value:.4}"), format!("[{low:.4}, {high:.4}]")]
        };
        let n = format!("{} + {}", self.n[0], self.n[1]);
        [self.score.clone(), self.against.clone()]
            .into_iter()
            .chain(figures.into_iter().flat_map(words))
            .chain([n])
            .collect()
    }
}
