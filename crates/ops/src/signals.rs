//! Which signals this process ignores.

/// Whether `signal` is ignored now: a program starts so where its parent ignored it, as `nohup` does with SIGHUP.
#[cfg(unix)]
pub fn ignored(signal: i32) -> bool {
    // SAFETY: zeros are a value of this plain struct; `sigaction` without a new action only writes the present one to it.
    #[allow(unsafe_code)]
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut now) == 0 && now.sa_sigaction == libc::SIG_IGN
    }
}

/// Other systems have no such signals.
#[cfg(not(unix))]
pub fn ignored(_: i32) -> bool {
    false
}
