//! What is seen of a training: a bar on a terminal, a line now and then elsewhere; and the time left.

use crate::progress::{PAUSE, rate};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use langevin::run::{Beside, Line, Show};
use langevin::train::{StepReport, TrainOptions};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// The speed is the mean over about so many of the last steps.
const RECENT: u64 = 50;
/// Between two changes of the bar.
const REFRESH: Duration = Duration::from_millis(200);

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

/// What is shown.
pub struct Shown {
    bar: ProgressBar,
    steps: u64,
    /// When something was shown last.
    last: Instant,
    /// Seconds of a step, and of how many steps that is the mean.
    pace: f64,
    paced: u64,
    pauses: [Pause; 3],
    /// The loss of the last line, for the bar.
    loss: String,
}

/// Of no steps as yet.
impl Default for Shown {
    fn default() -> Self {
        let pauses = [0; 3].map(|every| Pause { every, took: 0. });
        let (bar, last) = (ProgressBar::hidden(), Instant::now());
        Self { bar, steps: 0, last, pace: 0., paced: 0, pauses, loss: String::new() }
    }
}

impl Show for Shown {
    fn begin(&mut self, done: u64, options: &TrainOptions) {
        if std::io::stderr().is_terminal() {
            self.bar = ProgressBar::new(options.steps);
        }
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps  {msg}");
        self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.bar.set_position(done);
        self.steps = options.steps;
        self.pauses = [options.snapshot_every, options.sample_every, options.checkpoint_every]
            .map(|every| Pause { every, took: 0. });
    }

    fn step(&mut self, report: &StepReport, time: Duration, line: Option<&Line>) {
        self.bar.set_position(report.step);
        self.paced = (self.paced + 1).min(RECENT);
        self.pace += (time.as_secs_f64() - self.pace) / self.paced as f64;
        match line {
            Some(line) => self.show(line),
            None => self.between(report.step),
        }
    }

    fn beside(&mut self, what: Option<Beside>, work: &mut dyn FnMut()) {
        let begun = Instant::now();
        self.bar.suspend(work);
        if let Some(what) = what {
            self.pauses[what as usize].took = begun.elapsed().as_secs_f64();
        }
    }

    fn done(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Shown {
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
    fn between(&mut self, step: u64) {
        let wait = if self.bar.is_hidden() { PAUSE } else { REFRESH };
        if self.last.elapsed() < wait {
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn report(step: u64) -> StepReport {
        StepReport { step, loss: 1., series: vec![], grad_norm: 1., lr: 1e-3 }
    }

    #[test]
    fn a_picture_is_no_part_of_the_time_of_steps_and_its_like_are_waited_for() {
        let options = TrainOptions { steps: 1000, batch: 4, accumulate: 2, sample_every: 150, ..Default::default() };
        let mut shown = Shown::default();
        shown.begin(0, &options);
        let step = Duration::from_millis(10);
        for n in 1..=149 {
            shown.step(&report(n), step, None);
        }
        assert!((shown.seconds_left(149) - 8.51).abs() < 1e-9);
        shown.beside(Some(Beside::Picture), &mut || std::thread::sleep(Duration::from_millis(300)));
        let picture = shown.pauses[Beside::Picture as usize].took;
        assert!(picture >= 0.3);
        shown.step(&report(150), step, None);
        // pictures at 300, 450, 600, 750, 900 and at the end
        assert!((shown.seconds_left(150) - (8.5 + 6. * picture)).abs() < 1e-9);
        assert!((shown.seconds_left(899) - (1.01 + 2. * picture)).abs() < 1e-9);
        // speed follows what the machine does now
        (151..=500).for_each(|n| shown.step(&report(n), 3 * step, None));
        assert!((shown.pace - 0.03).abs() < 1e-3);
        assert!((shown.seconds_left(1000) - picture).abs() < 1e-9);
    }
}
