//! What is seen of long work on stderr: a bar on a terminal, a line now and then elsewhere.

use crate::speak;
use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use langevin::watch::{self, Advance};
use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Silence before the first line of some work where there is no terminal; work that has just begun waits [`LEAST`].
const FIRST: Duration = Duration::from_secs(5);
const LEAST: Duration = Duration::from_secs(1);
/// Between two lines of the same work.
pub const PAUSE: Duration = Duration::from_secs(10);

/// So many a second in words, or how long each takes where that is the greater number.
pub fn rate(speed: f64) -> String {
    match speed {
        s if s >= 1. => format!("{s:.1} a second"),
        s if s > 0. => format!("{:.1} s each", 1. / s),
        _ => String::new(), // not one yet
    }
}

/// [`rate`] in a bar.
pub fn of_state(state: &ProgressState, to: &mut dyn std::fmt::Write) {
    let _ = to.write_str(&rate(state.per_sec()));
}

/// How fast work goes: over the later half of its time, so that a slow start or another kind of step is soon forgotten.
#[derive(Debug, Default)]
struct Pace {
    /// When how much was done, in seconds from the start; the first mark lies at half of the time or before it.
    marks: VecDeque<(f64, u64)>,
    last: (f64, u64),
}

impl Pace {
    /// Between two marks.
    const APART: f64 = 0.2;

    /// At `now` so much is done.
    fn at(&mut self, now: f64, done: u64) {
        if self.marks.back().is_none_or(|mark| now - mark.0 >= Self::APART) {
            self.marks.push_back(self.last);
        }
        self.last = (now, done);
        while self.marks.get(1).is_some_and(|mark| mark.0 <= now / 2.) {
            self.marks.pop_front();
        }
    }

    /// How much is done in a second; `None` before anything is.
    fn speed(&self) -> Option<f64> {
        let (from, (now, done)) = (self.marks.front()?, self.last);
        let speed = done.saturating_sub(from.1) as f64 / (now - from.0);
        (speed > 0. && speed.is_finite()).then_some(speed)
    }

    /// How long it takes from `now` until `all` is done.
    fn left(&self, now: f64, all: u64) -> Option<Duration> {
        let seconds = all.saturating_sub(self.last.1) as f64 / self.speed()? - (now - self.last.0);
        Duration::try_from_secs_f64(seconds.max(0.)).ok()
    }
}

/// Work as it stands.
struct Work {
    name: String,
    unit: &'static str,
    done: u64,
    /// 0 where that is not known.
    all: u64,
    start: Instant,
    pace: Pace,
    over: bool,
}

impl Work {
    fn at(&mut self, done: u64) {
        self.done = done;
        self.pace.at(self.start.elapsed().as_secs_f64(), done);
    }

    /// How far it is, in words.
    fn line(&self) -> String {
        let now = self.start.elapsed();
        let name = if self.name.is_empty() { String::new() } else { format!("{}: ", self.name) };
        let (bytes, mega) = (self.unit == "bytes", 1_000_000);
        let far = match (bytes, self.all) {
            (_, 0) if self.done == 0 => String::new(),
            (true, 0) => format!("{} MB, ", self.done / mega),
            (true, all) => format!("{} of {} MB, ", self.done / mega, all / mega),
            (false, 0) => format!("{} {}, ", self.done, self.unit),
            (false, all) => format!("{} of {all} {}, ", self.done, self.unit),
        };
        let rest = match (self.pace.speed(), self.pace.left(now.as_secs_f64(), self.all)) {
            (Some(speed), Some(left)) if self.all > 0 => {
                let rate = if bytes { format!("{:.1} MB a second", speed / mega as f64) } else { rate(speed) };
                format!("{rate}, {} left", HumanDuration(left))
            }
            _ => format!("{} so far", HumanDuration(now)),
        };
        format!("{name}{far}{rest}")
    }
}

/// Work that a thread tells of where there is no terminal.
struct Told {
    work: Mutex<Work>,
    over: Condvar,
}

impl Told {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how far the work is, until it is over.
    fn tell(&self) {
        let (mut pause, mut work) = (FIRST.saturating_sub(speak::silence()).max(LEAST), self.work());
        loop {
            let waited = self.over.wait_timeout_while(work, pause, |work| !work.over);
            work = waited.unwrap_or_else(PoisonError::into_inner).0;
            if work.over {
                return;
            }
            let line = work.line();
            drop(work);
            crate::talk!("{line}");
            (pause, work) = (PAUSE, self.work());
        }
    }
}

/// What is shown of some work.
enum Shown {
    Bar(ProgressBar),
    Lines(Arc<Told>, Option<JoinHandle<()>>),
}

/// Shows `work` from now on, until what is returned is dropped.
pub fn show(work: &watch::Work) -> Box<dyn Advance> {
    let watch::Work { name, all, unit } = *work;
    if std::io::stderr().is_terminal() {
        let style = match (unit, all) {
            ("bytes", _) => "{msg}  {bar:30} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left".into(),
            ("", 0) => "{msg}  {elapsed} so far".into(),
            _ => format!("{{bar:30}} {{pos}}/{{len}} {unit}  {{rate}}  {{eta}} left"),
        };
        let style = ProgressStyle::with_template(&style).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(all).with_style(style.with_key("rate", of_state)).with_message(name.to_string());
        bar.enable_steady_tick(Duration::from_secs(1)); // the time goes on, however long a step takes
        return Box::new(Shown::Bar(bar));
    }
    let (start, pace) = (Instant::now(), Pace::default());
    let work = Work { name: name.into(), unit, done: 0, all, start, pace, over: false };
    let told = Arc::new(Told { work: Mutex::new(work), over: Condvar::new() });
    let teller = told.clone();
    let thread = std::thread::Builder::new().name("progress".into()).spawn(move || teller.tell());
    Box::new(Shown::Lines(told, thread.ok()))
}

impl Advance for Shown {
    fn at(&mut self, done: u64) {
        match self {
            Self::Bar(bar) => bar.set_position(done),
            Self::Lines(told, _) => told.work().at(done),
        }
    }

    fn aside(&self, work: &mut dyn FnMut()) {
        match self {
            Self::Bar(bar) => bar.suspend(work),
            Self::Lines(..) => work(),
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        match self {
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Lines(told, thread) => {
                told.work().over = true;
                told.over.notify_all();
                thread.take().into_iter().for_each(|thread| drop(thread.join()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_rate_is_told_as_time() {
        assert_eq!(
            ["12.3 a second", "40.0 s each", ""],
            [rate(12.345), rate(0.025), rate(0.)].each_ref().map(|s| s.as_str())
        );
    }

    /// How long is left at `now` after steps of so many seconds each, of `all`.
    fn left(seconds: &[f64], now: f64, all: u64) -> Option<f64> {
        let (mut pace, mut at) = (Pace::default(), 0.);
        for (i, s) in seconds.iter().enumerate() {
            at += s;
            pace.at(at, i as u64 + 1);
        }
        Some(pace.left(now, all)?.as_secs_f64())
    }

    #[test]
    fn the_time_left_follows_the_work() {
        let near = |found: Option<f64>, truth: f64| (found.unwrap() / truth - 1.).abs() < 0.1;
        assert_eq!(left(&[], 7., 10), None);
        // even steps, long and short; what has passed of the step under way is not left
        assert!(near(left(&[2.; 4], 8., 10), 12.) && near(left(&[2.; 4], 9., 10), 11.));
        assert!(near(left(&[1e-3; 5000], 5., 20_000), 15.));
        assert_eq!(left(&[2.; 4], 60., 10), Some(0.));
        // a step that takes longer for once, and then steps of another kind, eight times as long
        let first = [&[9.][..], &[1.; 20]].concat();
        assert!(near(left(&first, 29., 60), 39.), "{:?}", left(&first, 29., 60));
        let slower = [&[0.5; 40][..], &[4.; 10]].concat();
        assert!(near(left(&slower, 60., 60), 40.), "{:?}", left(&slower, 60., 60));
    }

    #[test]
    fn a_line_says_what_is_known() {
        let ago = |seconds| Instant::now() - Duration::from_secs(seconds);
        let work = |all, unit, seconds| {
            let name = if all == 0 { "opening a.csv".to_string() } else { String::new() };
            Work { name, unit, done: 0, all, start: ago(seconds), pace: Pace::default(), over: false }
        };
        assert_eq!(work(0, "", 7).line(), "opening a.csv: 7 seconds so far");
        let mut levels = work(40, "levels", 5);
        assert_eq!(levels.line(), "0 of 40 levels, 5 seconds so far");
        levels.at(10);
        assert_eq!(levels.line(), "10 of 40 levels, 2.0 a second, 15 seconds left");
        let mut bytes = work(40_000_000, "bytes", 5);
        bytes.at(10_000_000);
        assert_eq!(bytes.line(), "10 of 40 MB, 2.0 MB a second, 15 seconds left");
    }
}
