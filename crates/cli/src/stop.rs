//! Ctrl-C, where work has something to save.

use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

static ASKED: AtomicI32 = AtomicI32::new(0);

/// As long as this lives, the first Ctrl-C does not end the program.
pub struct Hold(());

/// Holds the first Ctrl-C off.
pub fn hold() -> Hold {
    let handler = || {
        if ASKED.swap(2, SeqCst) != 0 {
            std::process::exit(130);
        }
    };
    let _ = ctrlc::set_handler(handler);
    Hold(())
}

/// The signal that asked to stop, if one did.
pub fn asked() -> Option<i32> {
    Some(ASKED.load(SeqCst)).filter(|&signal| signal != 0)
}
