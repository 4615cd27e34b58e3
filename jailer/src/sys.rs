//! The few calls for which no crate has a safe form.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::unistd::{ForkResult, fork};

/// Takes over a descriptor that this process inherited.
///
/// # Errors
/// It is one of the standard streams, or not open.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: F_GETFD takes no pointer; a number that is not open is an error.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and named once in a plan, whose reader is the only one that takes descriptors over.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Splits this process in two.
///
/// # Errors
/// As fork(2).
pub fn split() -> io::Result<ForkResult> {
    // SAFETY: this process has a single thread, so no lock is held in the copy.
    Ok(unsafe { fork() }?)
}

/// Closes every descriptor from `first` up when this process executes another program (close_range(2)).
///
/// # Errors
/// As close_range(2); Linux 5.11 is needed.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    let flags = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).unwrap_or_default();
    // SAFETY: sets a flag on descriptors, and closes none.
    let result = unsafe { libc::close_range(first, u32::MAX, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes root an ordinary user id for this process and its children, for good (capabilities(7), securebits).
///
/// # Errors
/// CAP_SETPCAP is missing.
pub fn lock_securebits() -> io::Result<()> {
    const NOROOT: libc::c_ulong = 1 << 0;
    const NO_SETUID_FIXUP_LOCKED: libc::c_ulong = 1 << 3;
    const KEEP_CAPS_LOCKED: libc::c_ulong = 1 << 5;
    const NO_CAP_AMBIENT_RAISE: libc::c_ulong = 1 << 6;
    let bits = NOROOT | NOROOT << 1 | NO_SETUID_FIXUP_LOCKED | KEEP_CAPS_LOCKED;
    let bits = bits | NO_CAP_AMBIENT_RAISE | NO_CAP_AMBIENT_RAISE << 1;
    // SAFETY: PR_SET_SECUREBITS takes one number.
    let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
