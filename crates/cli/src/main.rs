//! `langevin`: train, sample, score and evaluate energy-based and diffusion models.
//!
//! Results go to stdout, talk to stderr. Exit status: 0 done, 1 failed, 2 wrong usage; 130, 143 or 129: stopped
//! by Ctrl-C, SIGTERM or SIGHUP.

#![allow(rustdoc::broken_intra_doc_links)] // the texts of --help, not markdown

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
mod lab;
mod levels;
mod list;
mod look;
mod machine;
mod progress;
mod sample;
mod scores;
mod speak;
mod stop;
mod terminal;
mod train;
mod typed;

use clap::Parser;
use langevin::watch;
use std::process::ExitCode;
use std::rc::Rc;
use terminal::Terminal;

fn main() -> ExitCode {
    speak::said();
    let args = args::Args::parse(); // exits with 2 and a hint on wrong usage
    let program = || stop::listen().and_then(|()| watch::with(Rc::new(Terminal), || args.run()));
    match langevin::ops::threads::main(program).map_err(anyhow::Error::from).flatten() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => ExitCode::from(speak::report(&e).unwrap_or_else(stop::status)),
    }
}
