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

/// Most bytes that [`reseed`] takes into account.
const SEED_WORDS: usize = 64;

/// `struct rand_pool_info` of linux/random.h.
#[repr(C)]
struct RandomPoolInfo {
    entropy_count: libc::c_int,
    buf_size: libc::c_int,
    buf: [u32; SEED_WORDS],
}

/// Adds `bytes` to the kernel's random numbers, credits them, and has every generator begin anew with them (random(4)).
pub(crate) fn reseed(bytes: &[u8]) -> io::Result<()> {
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    let mut info = RandomPoolInfo { entropy_count: 0, buf_size: 0, buf: [0; SEED_WORDS] };
    for (word, bytes) in info.buf.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = <[u8; 4]>::try_from(bytes).map_or(0, u32::from_ne_bytes);
        info.buf_size += 4;
    }
    info.entropy_count = info.buf_size * 8;
    let device = std::fs::File::options().read(true).write(true).open("/dev/urandom")?;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&device);
    // SAFETY: RNDADDENTROPY reads the two counts and `buf_size` bytes behind them, which are there.
    if unsafe { libc::ioctl(descriptor, RNDADDENTROPY, &raw const info) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: RNDRESEEDCRNG takes no argument.
    match unsafe { libc::ioctl(descriptor, RNDRESEEDCRNG) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
