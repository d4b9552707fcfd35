//! What a training tells while it goes on: each step, the lines of its log, and what is done beside the steps.

use langevin_train::{Series, StepReport, TrainOptions, Values};
use std::time::Duration;

/// What a line of the log says of the steps since the last.
pub struct Line {
    /// The last of them.
    pub step: u64,
    /// Their mean loss.
    pub loss: f64,
    /// Mean norm of the gradient.
    pub grad_norm: f64,
    /// Learning rate of the last.
    pub lr: f64,
    /// Samples a second.
    pub rate: f64,
    /// What the loss tells beside it.
    pub series: Vec<Series>,
}

impl Line {
    /// As a line of `log.jsonl`.
    pub fn json(&self) -> serde_json::Value {
        let mut json = serde_json::json!({
            "step": self.step, "loss": self.loss, "grad_norm": self.grad_norm, "lr": self.lr, "images_per_s": self.rate,
        });
        for Series { name, values } in &self.series {
            match values {
                Values::Mean(value) => json[name] = (*value).into(),
                Values::By(what, points) => {
                    let points = points.iter().map(|p| serde_json::json!([p.at, p.mean, p.samples]));
                    json[format!("{name}_by_{what}")] = points.collect();
                }
            }
        }
        json
    }

    /// The means beside the loss, in words: a loss of its own is that of its samples.
    pub fn beside(&self) -> String {
        let words = |series: &Series| match (&series.values, series.name.strip_suffix("_loss")) {
            (Values::By(..), _) => String::new(),
            (Values::Mean(value), Some(whose)) => format!("  of {whose} {value:.4}"),
            (Values::Mean(value), None) => format!("  {} {value:.4}", series.name.replace('_', " ")),
        };
        self.series.iter().map(words).collect()
    }
}

/// What is done beside the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// The averaged weights of this step are kept.
    Snapshot,
    /// Samples are drawn.
    Picture,
    /// The state is saved.
    Checkpoint,
}

/// Someone who is shown a training, beside what every [`Watch`](crate::watch::Watch) is told. Everything has a default that does
/// nothing.
pub trait Show {
    /// Steps begin, or go on after `done` of them.
    fn begin(&mut self, _done: u64, _options: &TrainOptions) {}

    /// A step was made, in so much time; `line` if there is one of the log.
    fn step(&mut self, _report: &StepReport, _time: Duration, _line: Option<&Line>) {}

    /// Work is done beside the steps, which does not count as their time; `None` if it is none of those that come again.
    fn beside(&mut self, _what: Option<Beside>, work: &mut dyn FnMut()) {
        work();
    }

    /// All steps are made, or as many as will be.
    fn done(&mut self) {}
}

/// Shows nothing.
impl Show for () {}

/// The reports since the last line of the log.
#[derive(Default)]
pub(super) struct Since {
    reports: Vec<StepReport>,
    /// Their time.
    time: Duration,
}

impl Since {
    /// Takes the report of a step that took `time`; with `full`, gives the means since the last line.
    pub fn add(&mut self, report: StepReport, time: Duration, full: bool, per_step: usize) -> Option<Line> {
        self.time += time;
        self.reports.push(report);
        if !full {
            return None;
        }
        let Self { reports, time } = std::mem::take(self);
        let last = reports.last()?;
        let mean = |of: fn(&StepReport) -> f64| reports.iter().map(of).sum::<f64>() / reports.len() as f64;
        Some(Line {
            step: last.step,
            loss: mean(|r| r.loss),
            grad_norm: mean(|r| r.grad_norm),
            lr: last.lr,
            rate: (reports.len() * per_step) as f64 / time.as_secs_f64(),
            series: means(&reports),
        })
    }
}

/// The series of several reports in one.
fn means(reports: &[StepReport]) -> Vec<Series> {
    let mut all = vec![];
    reports.iter().for_each(|report| Series::add(&mut all, report.series.clone(), 1.));
    let mean = |series: Series| match series.values {
        Values::Mean(sum) => Series::mean(series.name, sum / reports.len() as f64),
        Values::By(..) => series.binned(),
    };
    all.into_iter().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_means_since_the_last_and_the_speed_of_the_steps_alone() {
        let report = |step, loss| StepReport { step, loss, series: vec![], grad_norm: 1., lr: 1e-3 };
        let (mut since, time) = (Since::default(), Duration::from_millis(10));
        for (first, line) in [(0, 2.), (4, 6.)] {
            (1..4).for_each(|n| assert!(since.add(report(first + n, (first + n) as f64), time, false, 8).is_none()));
            let found = since.add(report(first + 4, (first + 4) as f64), time, true, 8).unwrap();
            assert_eq!((found.step, found.loss), (first + 4, line + 0.5));
            assert!((found.rate - 800.).abs() < 1e-6, "{} samples a second", found.rate);
        }
    }
}
