//! Follows a process and all that comes of it, to the end of the last thread.
//!
//! A thread has the filters of the one that started it, in the order of their installation, and those that it adds. A system
//! call has to pass all of them, so it uses a rule of each.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;
use seccomp_filters::Role;

use crate::filters;
use crate::record::Record;
use crate::sys::{self, Change};

/// How far a program is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// To all that comes of it.
    All,
    /// To the processes that it starts, but not to those that these start, which others may trace.
    Children,
}

/// What is known of a thread.
#[derive(Debug, Clone, Default)]
struct Thread {
    roles: Vec<Role>,
    is_child: bool,
}

/// What is known of the threads.
pub struct Tracer {
    record: Record,
    extent: Extent,
    threads: BTreeMap<Pid, Thread>,
    /// Threads that are there before the one that started them has told.
    early: BTreeSet<Pid>,
}

impl Tracer {
    /// Begins with a process of one thread, which has no filter.
    ///
    /// # Errors
    /// If it can't be traced.
    pub fn attach(pid: Pid, record: Record, extent: Extent) -> io::Result<Self> {
        ptrace::seize(pid, marks() | Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK)?;
        ptrace::interrupt(pid)?;
        let threads = BTreeMap::from([(pid, Thread::default())]);
        let mut tracer = Self { record, extent, threads, early: BTreeSet::new() };
        // From here on it stops at system calls.
        tracer.turn()?;
        Ok(tracer)
    }

    /// Follows until there is nobody left. What can't be followed any more is let go, and the record says so.
    pub fn follow(mut self) {
        loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    // There is nobody else to tell.
                    let _ = self.record.incomplete(&error.to_string());
                    return;
                }
            }
        }
    }

    /// Whether there is somebody left.
    fn turn(&mut self) -> io::Result<bool> {
        let Some((tid, change)) = sys::wait()? else { return Ok(false) };
        match change {
            Change::Ended => {
                self.threads.remove(&tid);
                return Ok(true);
            }
            Change::SystemCall => unless_killed(self.system_call(tid))?,
            Change::Started => unless_killed(self.started(tid, self.is_child(tid)))?,
            Change::Forked => unless_killed(self.started(tid, true))?,
            Change::Still if !self.threads.contains_key(&tid) => {
                self.early.insert(tid);
                return Ok(true);
            }
            Change::Stopped => {
                sys::stay(tid)?;
                return Ok(true);
            }
            Change::Signal(signal) => {
                sys::resume(tid, signal)?;
                return Ok(true);
            }
            Change::Still => unless_killed(self.narrow(tid))?,
            Change::Other => {}
        }
        sys::resume(tid, 0)?;
        Ok(true)
    }

    fn started(&mut self, parent: Pid, is_child: bool) -> io::Result<()> {
        let child = i32::try_from(ptrace::getevent(parent)?).map_err(io::Error::other)?;
        let child = Pid::from_raw(child);
        let roles = self.threads.get(&parent).map(|thread| thread.roles.clone()).unwrap_or_default();
        self.threads.insert(child, Thread { roles, is_child });
        if self.early.remove(&child) {
            self.narrow(child)?;
            sys::resume(child, 0)?;
        }
        Ok(())
    }

    fn is_child(&self, tid: Pid) -> bool {
        self.threads.get(&tid).is_some_and(|thread| thread.is_child)
    }

    /// Has a thread that waits, and was just started, not bring those that are not to be followed.
    fn narrow(&self, tid: Pid) -> io::Result<()> {
        if self.extent == Extent::Children && self.is_child(tid) {
            ptrace::setoptions(tid, marks())?;
        }
        Ok(())
    }

    fn system_call(&mut self, tid: Pid) -> io::Result<()> {
        let registers = ptrace::getregs(tid)?;
        let result = registers.rax.cast_signed();
        let Ok(number) = u32::try_from(registers.orig_rax) else { return Ok(()) };
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
        let Thread { roles, .. } = self.threads.entry(tid).or_default();
        // What the kernel has in rax when a call begins. A call that ends so does nothing, and may as well count twice.
        if result == -i64::from(libc::ENOSYS) {
            return self.record.call(roles, number, &arguments);
        }
        let [operation, _, program, ..] = arguments;
        let installed = i64::from(number) == libc::SYS_seccomp
            && operation == u64::from(libc::SECCOMP_SET_MODE_FILTER)
            && result == 0;
        if installed {
            let filter = filters::read(tid, program)?;
            match filters::role(&filter) {
                Some(role) => roles.push(role),
                None if filters::is_refusal(&filter) => {}
                None => self.record.incomplete("a filter is of no role; the program is of another build")?,
            }
        }
        Ok(())
    }
}

/// What is followed of every thread: its own threads, its system calls, and without PTRACE_O_TRACEEXEC execve(2) would raise
/// SIGTRAP.
fn marks() -> Options {
    Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC
}

/// A thread may be killed whenever it waits, which its end will tell.
fn unless_killed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(()),
        result => result,
    }
}
