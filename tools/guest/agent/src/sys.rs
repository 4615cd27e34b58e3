//! What has no safe interface elsewhere.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the command the leader of a session whose terminal is the command's standard input.
pub(crate) fn own_terminal(command: &mut Command) {
    let enter = || {
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        Ok(())
    };
    // SAFETY: between fork and exec `enter` makes two system calls, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(enter) };
}

/// Brings the loopback interface up, which gives it 127.0.0.1.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all zeroes are a valid `ifreq`: integers, and a union of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = LOOPBACK_FLAGS;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, whose name ends in a zero and whose flags are set, and keeps no pointer to it.
    let result = unsafe { libc::ioctl(descriptor, libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `IFF_UP | IFF_RUNNING`, as netdevice(7) numbers them.
const LOOPBACK_FLAGS: libc::c_short = 0x1 | 0x40;
