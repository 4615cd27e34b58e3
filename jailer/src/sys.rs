//! The few calls for which no crate has a safe form.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::unistd::{ForkResult, Pid, fork};
use rustix::fs::{Mode, OFlags};
use rustix::stdio::{stderr, stdin, stdout};

/// clone3(2): `cgroup` is a descriptor of the folder that the new process is born in.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// What Rust's own start does for a program and this one needs: standard streams that are closed are `/dev/null`, so that nothing
/// else is taken for them, and who writes where nobody reads is told so and lives on.
///
/// # Errors
/// As open(2).
pub fn begin() -> io::Result<()> {
    for stream in [stdin(), stdout(), stderr()] {
        if rustix::io::fcntl_getfd(stream).is_err() {
            // The lowest number that is free, which is that of the stream. The vmm gets it, too.
            let _ = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?.into_raw_fd();
        }
    }
    // SAFETY: no handler is set that could be called.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    Ok(())
}

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

/// Splits this process in two. The new one is born in `cgroup` (version 2), if there is one: to move it there later takes the
/// kernel ten milliseconds, in which it waits for everybody who forks.
///
/// # Errors
/// As clone3(2).
pub fn split(cgroup: Option<BorrowedFd<'_>>) -> io::Result<ForkResult> {
    let Some(cgroup) = cgroup else {
        // SAFETY: this process has a single thread, so no lock is held in the copy.
        return Ok(unsafe { fork() }?);
    };
    let arguments = libc::clone_args {
        flags: CLONE_INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD.unsigned_abs().into(),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.as_raw_fd().unsigned_abs().into(),
    };
    // SAFETY: the arguments are complete and live through the call, and without CLONE_VM nothing is shared. This process has a
    // single thread, so no lock is held in the copy.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
    match i32::try_from(pid) {
        Ok(0) => Ok(ForkResult::Child),
        Ok(pid) if pid > 0 => Ok(ForkResult::Parent { child: Pid::from_raw(pid) }),
        _ => Err(io::Error::last_os_error()),
    }
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

/// Takes programs of other users and programs at all (`nosuid`, `noexec`) from a mount and all mounts below it, and has what is
/// mounted on the host from now on appear there, but nothing the other way round (`MS_SLAVE`).
///
/// # Errors
/// As mount_setattr(2); Linux 5.12 is needed.
pub fn confine_mounts(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = [libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC, 0, libc::MS_SLAVE, 0];
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let (number, attributes, size) = (libc::SYS_mount_setattr, &raw const attributes, size_of_val(&attributes));
    // SAFETY: the attributes are a struct mount_attr of four u64, which lives through the call, and the path is empty.
    let result = unsafe { libc::syscall(number, mount.as_raw_fd(), c"".as_ptr(), flags, attributes, size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has threads that are started from now on use the heap that there is, instead of one of their own, which takes the C library as
/// long to make as a thread.
pub fn share_heap() {
    // SAFETY: sets a number that the C library reads when a thread needs memory. If it can't, threads have heaps of their own.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Writes the first `bytes` of one file to another. Half as long as copy_file_range(2) takes, which goes through a pipe, some pages
/// at a time.
///
/// # Errors
/// As mmap(2) and write(2).
pub fn copy(source: &File, copy: &File, bytes: u64) -> io::Result<()> {
    let length = usize::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED | libc::MAP_POPULATE);
    // SAFETY: a new mapping, in a place that the kernel chooses.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, source.as_raw_fd(), 0) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mut done = 0;
    let copied = loop {
        let left = length.saturating_sub(done);
        if left == 0 {
            break Ok(());
        }
        // SAFETY: `done` is below the length of the mapping.
        let from = unsafe { mapped.byte_add(done) };
        // SAFETY: `from` has `left` bytes, and only the kernel reads them: it returns EFAULT for those that are not in the file any
        // more.
        let written = unsafe { libc::write(copy.as_raw_fd(), from, left) };
        match usize::try_from(written) {
            Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done = done.saturating_add(written),
            Err(_) => break Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the mapping of this length, which nothing points to any more.
    unsafe { libc::munmap(mapped, length) };
    copied
}

/// Empties the bounding set of capabilities, of those also that this program does not know (capabilities(7)).
///
/// # Errors
/// CAP_SETPCAP is missing.
pub fn empty_bounding_set() -> io::Result<()> {
    for capability in 0..libc::c_ulong::from(u64::BITS) {
        // SAFETY: PR_CAPBSET_DROP takes one number.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if result != 0 {
            let error = io::Error::last_os_error();
            // The first one that the kernel does not know.
            return if error.raw_os_error() == Some(libc::EINVAL) && capability > 0 { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
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

/// Has the kernel refuse memory that is writable and executable, and that becomes executable, for ever: to this process, what it
/// executes and what they start (PR_SET_MDWE(2const)). A kernel before Linux 6.3 can't.
///
/// # Errors
/// None is known but that the kernel can't.
pub fn refuse_executable_memory() -> io::Result<()> {
    const SET_MDWE: libc::c_int = 65;
    const REFUSE_EXEC_GAIN: libc::c_ulong = 1;
    const NONE: libc::c_ulong = 0;
    // SAFETY: takes no pointer, and all memory of this process that is executable is a program's.
    let result = unsafe { libc::prctl(SET_MDWE, REFUSE_EXEC_GAIN, NONE, NONE, NONE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::waitpid;
    use nix::unistd::pause;
    use stockade_tests::Need;

    use super::*;

    #[test]
    fn a_process_is_born_in_a_control_group() {
        stockade_tests::test(&[Need::Root, Need::Cgroup2], |_| {
            let name = format!("stockade-split-{}", std::process::id());
            let folder = stockade_tests::process::cgroup2().unwrap().join(&name);
            fs::create_dir(&folder).unwrap();
            let descriptor = fs::File::open(&folder).unwrap();
            let child = match split(Some(descriptor.as_fd())).unwrap() {
                // Does nothing that could need a lock of another thread's.
                ForkResult::Child => loop {
                    pause();
                },
                ForkResult::Parent { child } => child,
            };
            let groups = fs::read_to_string(format!("/proc/{child}/cgroup"));
            kill(child, Signal::SIGKILL).unwrap();
            waitpid(child, None).unwrap();
            fs::remove_dir(&folder).unwrap();
            assert!(groups.unwrap().lines().any(|line| line == format!("0::/{name}")));
        });
    }
}
