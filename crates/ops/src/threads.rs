//! How many threads the work is spread over.

use candle_core::{Result, bail};

/// Uses `n` threads from now on, in candle, gemm and here. Once, before any work: errors if a pool is already running.
pub fn set(n: usize) -> Result<()> {
    // SAFETY: called by programs at their start, before other threads; candle reads this variable, and has no setter.
    #[allow(unsafe_code)]
    unsafe {
        std::env::set_var("RAYON_NUM_THREADS", n.to_string());
    }
    match rayon::ThreadPoolBuilder::new().num_threads(n).build_global() {
        Ok(()) => Ok(()),
        Err(e) => bail!("cannot use {n} threads: {e}; set the number of threads before anything else is computed"),
    }
}
