//! System calls that no safe interface covers: clocks, file status flags.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// `CLOCK_MONOTONIC`.
pub(crate) fn monotonic_time() -> Duration {
    clock(libc::CLOCK_MONOTONIC)
}

/// `CLOCK_PROCESS_CPUTIME_ID`.
pub(crate) fn process_cpu_time() -> Duration {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that lives through the call.
    let result = unsafe { libc::clock_gettime(id, &raw mut time) };
    debug_assert_eq!(result, 0, "both clocks exist on every Linux");
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// File status flags (fcntl(2), `F_GETFL`).
pub(crate) fn status_flags(fd: BorrowedFd) -> io::Result<libc::c_int> {
    // SAFETY: F_GETFL takes no argument and changes no memory; the descriptor is open.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 { Err(io::Error::last_os_error()) } else { Ok(flags) }
}

/// Sets file status flags (fcntl(2), `F_SETFL`).
pub(crate) fn set_status_flags(fd: BorrowedFd, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: F_SETFL takes an int and changes no memory; the descriptor is open.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
