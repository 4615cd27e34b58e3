//! What ptrace(2) and wait(2) tell of threads, and letting those threads go on: the calls for which no crate has a safe form
//! that takes every signal.
#![allow(unsafe_code)]

use std::io;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;

use crate::violation::{Architecture, Word};
use crate::warden::ProcessEnd;

/// What happened to a thread. If it is traced, and has not ended, it waits to be let go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It ended.
    Ended(ProcessEnd),
    /// It is about to end.
    Ending,
    /// It is about to get this signal.
    Signal(i32),
    /// It stands still with its process until that gets SIGCONT.
    Stopped,
    /// It was just started, or has started another, or goes on after SIGCONT.
    Passing,
    /// It is not traced, and stopped by job control, which is no business of its parent's.
    Untraced,
}

/// Which changes are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changes {
    /// Those of threads that wait. What has ended stays to be asked about.
    Waiting,
    /// All.
    All,
}

/// A system call as it is in the registers of a thread that a filter has killed for it (`syscall_rollback` of the kernel).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) architecture: Architecture,
    pub(crate) number: u32,
    pub(crate) arguments: [Word; 6],
    pub(crate) instruction_pointer: Word,
}

/// Traces a process of one thread and all threads that come of it. The process ends with this one.
///
/// # Errors
/// As ptrace(2), PTRACE_SEIZE.
pub(crate) fn seize(pid: Pid) -> io::Result<()> {
    let stops = Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEEXIT;
    Ok(ptrace::seize(pid, stops | Options::PTRACE_O_EXITKILL)?)
}

/// The next change of any thread that is traced, or of a child; `None` if nothing has changed.
pub(crate) fn next_change(changes: Changes) -> io::Result<Option<(Pid, Change)>> {
    let ended = match changes {
        Changes::Waiting => 0,
        Changes::All => libc::WEXITED,
    };
    wait(ended | libc::WSTOPPED | libc::WNOHANG)
}

/// Waits for the next change.
///
/// # Errors
/// Nothing is left that could change, or as waitid(2).
pub(crate) fn await_change() -> io::Result<(Pid, Change)> {
    wait(libc::WEXITED | libc::WSTOPPED)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
}

fn wait(options: libc::c_int) -> io::Result<Option<(Pid, Change)>> {
    // SAFETY: all zero is a value of this structure of numbers.
    let mut information: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `information` is writable for the time of the call.
    let done = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut information, options | libc::__WALL) };
    Errno::result(done)?;
    // SAFETY: waitid(2) has filled in what it tells of a child, or left zeros.
    let tid = unsafe { information.si_pid() };
    // SAFETY: as above.
    let status = unsafe { information.si_status() };
    Ok((tid != 0).then(|| (Pid::from_raw(tid), change(information.si_code, status))))
}

fn change(code: i32, status: i32) -> Change {
    const EVENT_SHIFT: u32 = 8;
    match code {
        libc::CLD_EXITED => Change::Ended(ProcessEnd::Exited(status)),
        libc::CLD_KILLED | libc::CLD_DUMPED => Change::Ended(ProcessEnd::Signaled(status)),
        libc::CLD_TRAPPED => match (status >> EVENT_SHIFT, status & 0xff) {
            (0, signal) => Change::Signal(signal),
            (libc::PTRACE_EVENT_EXIT, _) => Change::Ending,
            (libc::PTRACE_EVENT_STOP, signal) if signal != libc::SIGTRAP => Change::Stopped,
            _ => Change::Passing,
        },
        _ => Change::Untraced,
    }
}

/// The system call of a thread that waits.
///
/// # Errors
/// As ptrace(2): it was killed meanwhile.
pub(crate) fn call(tid: Pid) -> io::Result<Call> {
    const AUDIT_ARCH_I386: u32 = 0x4000_0003;
    let is_i386 = ptrace::syscall_info(tid)?.arch == AUDIT_ARCH_I386;
    let registers = ptrace::getregs(tid)?;
    let libc::user_regs_struct { rdi, rsi, rdx, r10, r8, r9, rbx, rcx, rbp, .. } = registers;
    let (architecture, arguments) = match is_i386 {
        false => (Architecture::X86_64, [rdi, rsi, rdx, r10, r8, r9]),
        true => (Architecture::I386, [rbx, rcx, rdx, rsi, rdi, rbp]),
    };
    Ok(Call {
        architecture,
        // The kernel looks at the lower half alone, and so do filters.
        number: u32::try_from(registers.orig_rax & u64::from(u32::MAX)).unwrap_or_default(),
        arguments: arguments.map(Word),
        instruction_pointer: Word(registers.rip),
    })
}

/// Lets a thread that waits go on, with this signal or 0.
pub(crate) fn resume(tid: Pid, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, tid, signal)
}

/// Lets a thread stand still that [`Change::Stopped`] told of.
pub(crate) fn stay(tid: Pid) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_told_from_the_others() {
        let event = |event: i32, signal: i32| change(libc::CLD_TRAPPED, event << 8 | signal);
        assert_eq!(change(libc::CLD_EXITED, 7), Change::Ended(ProcessEnd::Exited(7)));
        assert_eq!(change(libc::CLD_KILLED, 9), Change::Ended(ProcessEnd::Signaled(9)));
        assert_eq!(change(libc::CLD_DUMPED, 31), Change::Ended(ProcessEnd::Signaled(31)));
        assert_eq!(change(libc::CLD_STOPPED, libc::SIGSTOP), Change::Untraced);
        assert_eq!(event(0, libc::SIGUSR1), Change::Signal(libc::SIGUSR1));
        assert_eq!(event(0, libc::SIGTRAP), Change::Signal(libc::SIGTRAP));
        assert_eq!(event(0, 34), Change::Signal(34));
        assert_eq!(event(libc::PTRACE_EVENT_EXIT, libc::SIGTRAP), Change::Ending);
        assert_eq!(event(libc::PTRACE_EVENT_STOP, libc::SIGTSTP), Change::Stopped);
        assert_eq!(event(libc::PTRACE_EVENT_STOP, libc::SIGTRAP), Change::Passing);
        assert_eq!(event(libc::PTRACE_EVENT_CLONE, libc::SIGTRAP), Change::Passing);
    }
}
