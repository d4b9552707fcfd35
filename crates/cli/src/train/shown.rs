//! What is seen of a training: a bar on a terminal, a line now and then elsewhere; the means between two lines of the log,
//! and the time left.

use crate::progress::{PAUSE, rate};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use langevin_train::{Report, Series, TrainOptions, Values};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// The speed is the mean over about so many of the last steps.
const RECENT: u64 = 50;
/// Between two changes of the bar.
const REFRESH: Duration = Duration::from_millis(200);

/// What one line of the log says of the steps since the last.
pub struct Line {
    pub step: u64,
    pub loss: f64,
    pub grad_norm: f64,
    pub lr: f64,
    pub rate: f64,
    pub series: Vec<Series>,
}

impl Line {
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
    fn beside(&self) -> String {
        let words = |series: &Series| match (&series.values, series.name.strip_suffix("_loss")) {
            (Values::By(..), _) => String::new(),
            (Values::Mean(value), Some(whose)) => format!("  of {whose} {value:.4}"),
            (Values::Mean(value), None) => format!("  {} {value:.4}", series.name.replace('_', " ")),
        };
        self.series.iter().map(words).collect()
    }
}

/// What is done beside the steps.
#[derive(Clone, Copy)]
pub enum Beside {
    Snapshot,
    Picture,
    Checkpoint,
}

/// How often something is done beside the steps, and how many seconds the last one took.
struct Pause {
    every: u64,
    took: f64,
}

impl Pause {
    /// Seconds that those after `step` take, the one after the last step included.
    fn left(&self, step: u64, steps: u64) -> f64 {
        if self.every == 0 { 0. } else { (steps.div_ceil(self.every) - step / self.every) as f64 * self.took }
    }
}

/// What is shown, and the reports since the last line of the log.
pub struct Shown {
    bar: ProgressBar,
    steps: u64,
    /// Samples in a step.
    per_step: usize,
    /// When something was shown last.
    last: Instant,
    reports: Vec<Report>,
    /// Seconds of the steps in `reports`.
    seconds: f64,
    /// Seconds of a step, and of how many steps that is the mean.
    pace: f64,
    paced: u64,
    pauses: [Pause; 3],
    /// The loss of the last line, for the bar.
    loss: String,
}

impl Shown {
    /// Of a run that has made `done` steps.
    pub fn new(done: u64, options: &TrainOptions) -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(options.steps) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(done);
        Self {
            bar,
            steps: options.steps,
            per_step: options.batch * options.accumulate,
            last: Instant::now(),
            reports: vec![],
            seconds: 0.,
            pace: 0.,
            paced: 0,
            pauses: [options.snapshot_every, options.sample_every, options.checkpoint_every]
                .map(|every| Pause { every, took: 0. }),
            loss: String::new(),
        }
    }

    /// Takes the report of a step that took `time`; with `full`, gives the means since the last line.
    pub fn add(&mut self, report: Report, time: Duration, full: bool) -> Option<Line> {
        self.bar.set_position(report.step);
        self.seconds += time.as_secs_f64();
        self.paced = (self.paced + 1).min(RECENT);
        self.pace += (time.as_secs_f64() - self.pace) / self.paced as f64;
        self.reports.push(report);
        if !full {
            self.between();
            return None;
        }
        let line = self.line()?;
        self.show(&line);
        Some(line)
    }

    /// Does work beside the steps, which does not count as their time.
    pub fn pause<R>(&mut self, beside: Beside, work: impl FnOnce() -> R) -> R {
        let begun = Instant::now();
        let result = self.bar.suspend(work);
        self.pauses[beside as usize].took = begun.elapsed().as_secs_f64();
        result
    }

    /// Does what prints, beside the bar.
    pub fn suspend<R>(&self, work: impl FnOnce() -> R) -> R {
        self.bar.suspend(work)
    }

    /// Takes the bar away.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }

    /// The means over the reports since the last line.
    fn line(&mut self) -> Option<Line> {
        let reports = std::mem::take(&mut self.reports);
        let seconds = std::mem::take(&mut self.seconds);
        let last = reports.last()?;
        let mean = |of: fn(&Report) -> f64| reports.iter().map(of).sum::<f64>() / reports.len() as f64;
        Some(Line {
            step: last.step,
            loss: mean(|r| r.loss),
            grad_norm: mean(|r| r.grad_norm),
            lr: last.lr,
            rate: (reports.len() * self.per_step) as f64 / seconds,
            series: means(&reports),
        })
    }

    fn show(&mut self, line: &Line) {
        if !self.bar.is_hidden() {
            self.loss = format!("loss {:.4}", line.loss);
            return self.message(line.step);
        }
        self.last = Instant::now();
        crate::talk!(
            "step {}  loss {:.4}{}  grad norm {:.3}  lr {:.2e}  {:.0} samples/s  {} left",
            line.step,
            line.loss,
            line.beside(),
            line.grad_norm,
            line.lr,
            line.rate,
            self.left(line.step),
        );
    }

    /// That something goes on, where a line of the log is long in coming.
    fn between(&mut self) {
        let wait = if self.bar.is_hidden() { PAUSE } else { REFRESH };
        let Some(step) = self.reports.last().filter(|_| self.last.elapsed() >= wait).map(|r| r.step) else { return };
        if !self.bar.is_hidden() {
            return self.message(step);
        }
        self.last = Instant::now();
        crate::talk!("step {step} of {}, {}, {} left", self.steps, rate(1. / self.pace), self.left(step));
    }

    fn message(&mut self, step: u64) {
        self.last = Instant::now();
        self.bar.set_message(format!("{}  {:#} left  {}", rate(1. / self.pace), self.left(step), self.loss));
    }

    /// How long all takes that comes after `step`.
    fn left(&self, step: u64) -> HumanDuration {
        HumanDuration(Duration::try_from_secs_f64(self.seconds_left(step)).unwrap_or_default())
    }

    fn seconds_left(&self, step: u64) -> f64 {
        let pauses: f64 = self.pauses.iter().map(|pause| pause.left(step, self.steps)).sum();
        self.steps.saturating_sub(step) as f64 * self.pace + pauses
    }
}

/// The series of several reports in one.
fn means(reports: &[Report]) -> Vec<Series> {
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

    fn report(step: u64) -> Report {
        Report { step, loss: 1., series: vec![], grad_norm: 1., lr: 1e-3 }
    }

    #[test]
    fn a_picture_is_no_part_of_the_time_of_steps_and_its_like_are_waited_for() {
        let options = TrainOptions { steps: 1000, batch: 4, accumulate: 2, sample_every: 150, ..Default::default() };
        let mut shown = Shown::new(0, &options);
        let step = Duration::from_millis(10);
        for n in 1..=149 {
            shown.add(report(n), step, n % 50 == 0);
        }
        assert!((shown.seconds_left(149) - 8.51).abs() < 1e-9);
        shown.pause(Beside::Picture, || std::thread::sleep(Duration::from_millis(300)));
        let picture = shown.pauses[Beside::Picture as usize].took;
        assert!(picture >= 0.3);
        let line = shown.add(report(150), step, true).unwrap();
        assert!((line.rate - 800.).abs() < 1e-6, "{} samples a second", line.rate);
        // pictures at 300, 450, 600, 750, 900 and at the end
        assert!((shown.seconds_left(150) - (8.5 + 6. * picture)).abs() < 1e-9);
        assert!((shown.seconds_left(899) - (1.01 + 2. * picture)).abs() < 1e-9);
        // speed follows what the machine does now
        (151..=500).for_each(|n| drop(shown.add(report(n), 3 * step, false)));
        assert!((shown.pace - 0.03).abs() < 1e-3);
        assert!((shown.seconds_left(1000) - picture).abs() < 1e-9);
    }
}
