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
mod bench;
mod check;
mod detect;
mod ema;
mod eval;
mod export;
mod guiding;
mod hub;
mod info;
mod inverse;
mod levels;
mod list;
mod look;
mod machine;
mod progress;
mod sample;
mod scores;
mod stop;
mod terminal;
mod train;
mod typed;

use anyhow::Context;
use clap::Parser;
use langevin::error::{Stopped, Usage, without_backtrace};
use langevin::watch;
use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;
use terminal::Terminal;

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
    let program = || stop::listen().and_then(|()| watch::with(Rc::new(Terminal), || args.run()));
    match langevin::ops::threads::main(program).map_err(anyhow::Error::from).flatten() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => ExitCode::from(report(&e)),
    }
}

/// Says why the program ends, and with which exit status.
fn report(e: &anyhow::Error) -> u8 {
    if e.is::<Stopped>() {
        crate::talk!("{e}");
        return stop::status();
    }
    let reasons: Vec<String> = e.chain().map(reason).collect();
    crate::talk!("error: {}", without_backtrace(&reasons.join(": ")));
    if e.is::<Usage>() { 2 } else { 1 }
}

/// The options whose value can be left out, and is typed behind a =.
const WITH_EQUALS: [&str; 2] = ["estimate-ratios", "report"];

/// One reason of an error, its option as it is typed.
fn reason(e: &(dyn std::error::Error + 'static)) -> String {
    let typed = |option: &str, value: Option<&str>| {
        let key = option.contains('.');
        let dashes = if key || option.starts_with(char::is_uppercase) { "" } else { "--" };
        let is = if key {
            " = "
        } else if WITH_EQUALS.contains(&option) {
            "="
        } else {
            " "
        };
        let value = value.map(|value| format!("{is}{value}")).unwrap_or_default();
        format!("{dashes}{option}{value}")
    };
    e.downcast_ref::<Usage>().map_or_else(|| e.to_string(), |usage| usage.text(typed))
}
