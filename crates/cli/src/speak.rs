//! What the program says: results on stdout, talk and errors on stderr.

use anyhow::Context;
use langevin::error::{Stopped, Usage, without_backtrace};
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A line of results on stdout; a reader that has seen enough (`| head`) is no error.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::speak::say(format_args!($($text)*)) };
}

/// A line of talk on stderr; nothing depends on whether anybody reads it.
#[macro_export]
macro_rules! talk {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
        $crate::speak::said();
    }};
}

/// When the program last said anything.
static SAID: Mutex<Option<Instant>> = Mutex::new(None);

/// Something is said now, or the program begins: what is silent is silent from here on.
pub fn said() {
    *SAID.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
}

/// How long nothing was said.
pub fn silence() -> Duration {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).map_or(Duration::ZERO, |at| at.elapsed())
}

/// What `say!` says.
pub fn say(text: std::fmt::Arguments) -> anyhow::Result<()> {
    said();
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

/// Says why the program ends. The exit status, but of work that a signal stopped.
pub fn report(e: &anyhow::Error) -> Option<u8> {
    if e.is::<Stopped>() {
        crate::talk!("{e}");
        return None;
    }
    let reasons: Vec<String> = e.chain().map(reason).collect();
    crate::talk!("error: {}", without_backtrace(&reasons.join(": ")));
    Some(if e.is::<Usage>() { 2 } else { 1 })
}

/// The options whose value can be left out, and is typed behind a =.
const WITH_EQUALS: [&str; 2] = ["estimate-ratios", "report"];

/// One reason of an error, its option as it is typed.
fn reason(e: &(dyn std::error::Error + 'static)) -> String {
    let typed = |option: &str, value: Option<&str>| {
        let key = option.contains('.');
        let dashes = match option.len() {
            _ if key || option.starts_with(char::is_uppercase) => "",
            1 => "-",
            _ => "--",
        };
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
