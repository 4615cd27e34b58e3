//! System calls that no safe interface covers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Has all threads allocate from one arena: each further one would cost private memory.
pub fn use_one_malloc_arena() {
    // SAFETY: mallopt(3) may be called at any time; it takes two integers, and one arena is always possible.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Marks every descriptor from 3 up close-on-exec: this process executes nothing, and whatever it inherited unasked should
/// not go further. Older kernels than 5.11 can't.
pub fn close_descriptors_on_exec() {
    // SAFETY: close_range(2) with this flag closes nothing and touches no memory.
    unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
}

/// Takes over a descriptor that this process inherited, and marks it close-on-exec. The caller asks once for each number.
///
/// # Errors
/// If it is not open.
pub fn inherited_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD takes an int and touches no memory; a number that is not open gives EBADF.
    let result = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and was made by whoever started this process, for this process: nothing here owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
