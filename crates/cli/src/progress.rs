//! What is seen of long work on stderr: a bar on a terminal, a line now and then elsewhere.

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Between two lines where there is no terminal.
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

/// How far work is.
pub struct Progress {
    bar: Option<ProgressBar>,
    unit: &'static str,
    name: String,
    done: u64,
    all: u64,
    start: Instant,
    told: Instant,
}

impl Progress {
    /// Work of `all` steps, which `unit` names.
    pub fn new(all: u64, unit: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(all);
            let style =
                ProgressStyle::with_template(&format!("{{bar:30}} {{pos}}/{{len}} {unit}  {{rate}}  {{eta}} left"));
            let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("rate", of_state));
            bar.tick(); // at once: the first step may take long
            bar
        });
        Self { bar, unit, name: String::new(), done: 0, all, start: Instant::now(), told: Instant::now() }
    }

    /// One more is done.
    pub fn step(&mut self) {
        self.done += 1;
        match &self.bar {
            Some(bar) => bar.inc(1),
            None if self.told.elapsed() >= PAUSE => {
                self.told = Instant::now();
                let speed = self.done as f64 / self.start.elapsed().as_secs_f64();
                let left = HumanDuration(Duration::from_secs_f64(self.all.saturating_sub(self.done) as f64 / speed));
                crate::talk!("{} of {} {}, {}, {left} left", self.done, self.all, self.unit, rate(speed));
            }
            None => {}
        }
    }

    /// A download of `size` bytes, 0 where that is not known; [`at`](Self::at) says how far it is.
    pub fn bytes(name: &str, size: u64) -> Self {
        let this = Self::new(size, "bytes");
        if let Some(bar) = &this.bar {
            let style =
                ProgressStyle::with_template("{msg}  {bar:30} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(name.to_string());
        }
        Self { name: name.into(), ..this }
    }

    /// So much is done.
    pub fn at(&mut self, done: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if self.told.elapsed() >= PAUSE => {
                self.told = Instant::now();
                let of = if self.all > 0 { format!(" of {}", self.all / 1_000_000) } else { String::new() };
                crate::talk!("{}: {}{of} MB", self.name, done / 1_000_000);
            }
            None => {}
        }
    }

    /// All is done; the bar goes away.
    pub fn done(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn a_slow_rate_is_told_as_time() {
        assert_eq!(
            ["12.3 a second", "40.0 s each", ""],
            [rate(12.345), rate(0.025), rate(0.)].each_ref().map(|s| s.as_str())
        );
    }
}
