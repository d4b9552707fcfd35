//! `langevin`: train, sample, score and evaluate energy-based and diffusion models.
//!
//! Results go to stdout, talk to stderr. Exit status: 0 done, 1 failed, 2 wrong usage; 130, 143 or 129: stopped
//! by Ctrl-C, SIGTERM or SIGHUP.

#![allow(rustdoc::broken_intra_doc_links)] // the texts of --help, not markdown

/// A line of results on stdout; a reader that has seen enough (`| head`) is no error.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::say(format_args!($($text)*)) };
}

/// A line of talk on stderr; nothing depends on whether anybody reads it.
#[macro_export]
macro_rules! talk {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
        $crate::progress::said();
    }};
}

mod apply;
mod args;
mod background;
mod bench;
mod changes;
mod check;
mod classes;
mod compose;
mod density;
mod detect;
mod draw;
mod ema;
mod eval;
mod explain;
mod export;
mod facts;
mod folder;
mod guide;
mod hub;
mod idle;
mod info;
mod inverse;
mod levels;
mod list;
mod look;
mod open;
mod output;
mod progress;
mod run;
mod sample;
mod scoring;
mod start;
mod stop;
mod tensorboard;
mod train;
mod typed;
mod way;

use anyhow::Context;
use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

fn say(text: std::fmt::Arguments) -> anyhow::Result<()> {
    progress::said();
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

fn main() -> ExitCode {
    progress::said();
    let args = args::Args::parse(); // exits with 2 and a hint on wrong usage
    let program = || stop::listen().and_then(|()| args.run());
    match langevin_ops::threads::main(program).map_err(anyhow::Error::from).flatten() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => ExitCode::from(report(&e)),
    }
}

/// Says why the program ends, and with which exit status.
fn report(e: &anyhow::Error) -> u8 {
    if e.is::<run::Stopped>() {
        crate::talk!("{e}");
        return stop::status();
    }
    crate::talk!("error: {}", without_backtrace(&format!("{e:#}")));
    if e.is::<run::Usage>() { 2 } else { 1 }
}

/// candle puts a backtrace into the text of an error where RUST_BACKTRACE is set; a sentence needs none.
fn without_backtrace(text: &str) -> String {
    let frame = |line: &&str| {
        let inner = line.trim_start();
        let number =
            inner.split_once(": ").is_some_and(|(n, _)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        line.starts_with("  ") && (number || inner.starts_with("at "))
    };
    text.lines().filter(|line| !frame(line)).collect::<Vec<_>>().join("\n").trim_end().to_string()
}
