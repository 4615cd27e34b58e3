//! What nix has no call for: waiting for threads whatever the signal, and letting them go on with it.

use std::io;

use nix::errno::Errno;
use nix::unistd::Pid;

/// What happened to a traced thread. Unless it ended, it waits to be let go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It ended.
    Ended,
    /// A system call begins or ends.
    SystemCall,
    /// It started another thread, which is traced as well.
    Started,
    /// It started another process, which is traced as well.
    Forked,
    /// It stands still: a thread that was just started, or was interrupted.
    Still,
    /// It stands still with its process, until that gets SIGCONT.
    Stopped,
    /// It is about to get this signal.
    Signal(i32),
    /// It does something else that is of no interest here.
    Other,
}

/// Waits for a change of any traced thread; `None` if there is none left.
pub fn wait() -> io::Result<Option<(Pid, Change)>> {
    let mut status = 0;
    // SAFETY: `status` is writable for the time of the call.
    let tid = Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) });
    match tid {
        Ok(tid) => Ok(Some((Pid::from_raw(tid), change(status)))),
        Err(Errno::ECHILD) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn change(status: i32) -> Change {
    const SYSTEM_CALL: i32 = libc::SIGTRAP | 0x80;
    if !libc::WIFSTOPPED(status) {
        return Change::Ended;
    }
    match (libc::WSTOPSIG(status), status >> 16) {
        (SYSTEM_CALL, _) => Change::SystemCall,
        (signal, 0) => Change::Signal(signal),
        (_, libc::PTRACE_EVENT_CLONE) => Change::Started,
        (_, libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK) => Change::Forked,
        (libc::SIGTRAP, libc::PTRACE_EVENT_STOP) => Change::Still,
        (_, libc::PTRACE_EVENT_STOP) => Change::Stopped,
        _ => Change::Other,
    }
}

/// Lets a thread that waits go on to where its next system call begins or ends, with this signal or 0.
pub fn resume(tid: Pid, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL, tid, signal)
}

/// Lets a thread stand still that [`Change::Stopped`] told of.
pub fn stay(tid: Pid) -> io::Result<()> {
    request(libc::PTRACE_LISTEN, tid, 0)
}

fn request(request: libc::c_uint, tid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: neither request reads or writes this process's memory; the kernel checks that the thread is traced and waits.
    let done = unsafe { libc::ptrace(request, tid.as_raw(), 0, libc::c_long::from(signal)) };
    match Errno::result(done) {
        // It was killed meanwhile, which its end will tell.
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
