//! How many threads the work is spread over.

use crate::grad;
use candle_core::{Result, bail};

/// Uses `n` threads from now on, or all cores. For programs to call first, before any work: errors if it is too late.
///
/// candle's own elementwise operations are held to one thread: they wait for each other in spin loops on pinned threads,
/// which takes the cores from the kernels here and doubled the time of a training step. `CANDLE_NUM_THREADS` overrides.
pub fn set(n: Option<usize>) -> Result<()> {
    // this thread is one of the pool: what runs on it does not wait to be handed over. Alone it would wait for itself.
    let mut pool = rayon::ThreadPoolBuilder::new();
    let count = n.or_else(|| std::env::var("RAYON_NUM_THREADS").ok()?.parse().ok().filter(|&n| n > 0));
    if count.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get())) > 1 {
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
            pool = pool.num_threads(n);
        }
    }
    match pool.build_global() {
        Ok(()) => Ok(()),
        Err(e) => bail!("cannot choose the number of threads: {e}; choose it before anything else is computed"),
    }
}
