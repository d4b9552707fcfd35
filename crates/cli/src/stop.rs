//! SIGINT (Ctrl-C), SIGTERM and SIGHUP: they end the program with the exit status 128 + signal, and leave no half files.
//!
//! Work that has something to save holds the first signal off ([`hold`]) and looks for it ([`asked`]). The second one ends
//! the program at once, in any case.

use anyhow::{Context, Result};
use langevin::models::atomic;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// The signal that asked the program to stop; 0 before.
static ASKED: AtomicI32 = AtomicI32::new(0);
/// How many hold the first signal off.
static HOLDS: AtomicUsize = AtomicUsize::new(0);
/// Signals within this time are one: a terminal that is closed sends two.
const TOGETHER: Duration = Duration::from_millis(500);
/// How often it is looked whether a signal came.
const LOOK: Duration = Duration::from_millis(20);

/// Listens from now on. A SIGHUP or SIGTERM that was ignored when the program started, as by `nohup`, stays ignored; a
/// SIGINT does not, for shells ignore it for everything in the background of a script.
pub fn listen() -> Result<()> {
    let wanted = [SIGINT, SIGTERM, SIGHUP].into_iter();
    let wanted = wanted.filter(|&signal| signal == SIGINT || !langevin::ops::signals::ignored(signal));
    let mut signals = Signals::new(wanted).context("cannot listen for signals")?;
    let listener = move || {
        let mut first: Option<Instant> = None;
        for signal in signals.forever() {
            match first {
                Some(at) if at.elapsed() < TOGETHER => {}
                None if HOLDS.load(SeqCst) > 0 => {
                    first = Some(Instant::now());
                    ASKED.store(signal, SeqCst);
                    // on a thread of its own, which may wait: nobody may be reading stderr
                    std::thread::spawn(say_so);
                }
                _ => end(128 + signal),
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(listener).context("cannot listen for signals")?;
    Ok(())
}

/// Says that the program is about to stop, where it takes longer.
fn say_so() {
    std::thread::sleep(TOGETHER);
    let line = if std::io::stderr().is_terminal() { "\n" } else { "" }; // after a bar
    crate::talk!("{line}saving; a second signal stops at once and saves nothing");
}

/// The signal that asked to stop, if one did.
pub fn asked() -> Option<i32> {
    Some(ASKED.load(SeqCst)).filter(|&signal| signal != 0)
}

/// The exit status of a program that stopped because it was asked to.
pub fn status() -> u8 {
    (128 + asked().unwrap_or(SIGINT)) as u8
}

/// As long as this lives, the first signal does not end the program: whoever holds it looks at [`asked`].
pub struct Hold(());

/// Holds the first signal off.
pub fn hold() -> Hold {
    HOLDS.fetch_add(1, SeqCst);
    Hold(())
}

impl Drop for Hold {
    fn drop(&mut self) {
        HOLDS.fetch_sub(1, SeqCst);
    }
}

/// Does `work`. If a signal comes meanwhile, another thread calls `save` and ends the program with the status that it
/// gives, wherever `work` is: for work that takes long and can be done again.
pub fn during<R>(save: impl FnOnce() -> u8 + Send, work: impl FnOnce() -> R) -> R {
    struct Done<'a>(&'a AtomicBool, std::thread::Thread);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
            self.1.unpark();
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            loop {
                let finished = done.load(SeqCst); // first: work that ended because of the signal is not missed
                if asked().is_some() {
                    end(save().into());
                }
                if finished {
                    return;
                }
                std::thread::park_timeout(LOOK);
            }
        });
        let _done = Done(&done, watch.thread().clone());
        work()
    })
}

/// Ends the program without half files, whatever its threads do.
fn end(status: i32) -> ! {
    atomic::abandon();
    signal_hook::low_level::exit(status)
}
