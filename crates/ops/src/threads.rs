//! How many threads the work is spread over.

use crate::{grad, memory};
use candle_core::{Result, bail};
use std::cell::Cell;

thread_local! {
    static MAIN: Cell<bool> = const { Cell::new(false) };
}

/// Runs a program, `f`, on a thread with a stack of 256 MiB, for backward passes recurse over the graph.
///
/// There [`set`] makes the thread itself one of those that compute, which spares handing work over, and memory is kept
/// ([`memory::reuse`]; the allocator must hear of it before the thread starts).
/// Errors if no thread can be started; panics where `f` does.
pub fn main<R: Send>(f: impl FnOnce() -> R + Send) -> Result<R> {
    let program = || {
        MAIN.set(true);
        f()
    };
    memory::reuse();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("main".into()).stack_size(grad::STACK);
        let thread =
            thread.spawn_scoped(scope, program).map_err(|e| candle_core::Error::Msg(format!("no thread: {e}")))?;
        thread.join().or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// More threads than this are of no use on any machine, and each takes memory.
pub const MOST: usize = 1024;

/// Uses `n` threads from now on, or all cores. For programs to call first, before any work: errors if it is too late, or
/// if they are none or more than [`MOST`].
///
/// candle's own elementwise operations are held to one thread: they wait for each other in spin loops on pinned threads,
/// which takes the cores from the kernels here and doubled the time of a training step. `CANDLE_NUM_THREADS` overrides.
pub fn set(n: Option<usize>) -> Result<()> {
    let set = || std::env::var("RAYON_NUM_THREADS").ok()?.parse().ok().filter(|&n| n > 0);
    let all = || std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST));
    let count = n.or_else(set).unwrap_or_else(all);
    if count == 0 || count > MOST {
        let from = if n.is_none() { " (RAYON_NUM_THREADS)" } else { "" };
        bail!("{count} threads{from}: give 1 to {MOST}, best as many as there are cores");
    }
    let mut pool = rayon::ThreadPoolBuilder::new().num_threads(count);
    if MAIN.get() && count > 1 {
        // as one of the pool; if it were all of it, it would wait for itself
        pool = pool.use_current_thread();
        grad::adopt_thread();
    }
    // SAFETY: called at a program's start, before other threads; candle reads these variables and has no setter.
    #[allow(unsafe_code)]
    unsafe {
        if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
            std::env::set_var("CANDLE_NUM_THREADS", "1");
        }
        if let Some(n) = n {
            std::env::set_var("RAYON_NUM_THREADS", n.to_string());
        }
    }
    match pool.build_global() {
        Ok(()) => Ok(()),
        Err(e) => bail!("cannot choose the number of threads: {e}; choose it before anything else is computed"),
    }
}
