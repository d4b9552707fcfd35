//! What the library says of its work, on the terminal; and signals, as the wish to stop.

use crate::{progress, speak, stop};
use anyhow::Result;
use langevin::watch::{Advance, Watch, Work};
use std::any::Any;

/// Notes and progress go to stderr, lines of a training to stdout.
pub struct Terminal;

impl Watch for Terminal {
    fn note(&self, text: &str) {
        crate::talk!("{text}");
    }

    fn line(&self, text: &str) -> Result<()> {
        crate::say!("{text}")
    }

    fn begin(&self, work: &Work) -> Box<dyn Advance> {
        progress::show(work)
    }

    fn stops(&self) -> bool {
        stop::asked().is_some()
    }

    fn hold(&self) -> Box<dyn Any> {
        Box::new(stop::hold())
    }

    fn interruptible(&self, save: &(dyn Fn() -> anyhow::Error + Sync), work: &mut dyn FnMut()) {
        stop::during(|| speak::report(&save()).unwrap_or_else(stop::status), work);
    }
}
