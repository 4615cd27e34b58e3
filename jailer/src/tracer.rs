//! The warden's view into the vmm: who of its threads violates a filter, and how the process ends.
//!
//! A filter kills a process at once, and the kernel tells its parent no more than that. A tracer (ptrace(2)) hears more: on its
//! way out each thread stops once more (`PTRACE_EVENT_EXIT`), and `/proc` says of one that a filter has killed that it is dead
//! to seccomp (mode 3), which the threads that die with it are not. Its registers are what they were at the call.
//!
//! The process is traced from before its program is executed, while this process may do so, and its threads come by
//! themselves (`PTRACE_O_TRACECLONE`). It stops for nothing but the start and the end of threads, and signals, all of which are
//! passed on. No memory is read, and the warden's filter has no request for that. Where the kernel does not let it trace, a
//! violation is still reported, without its particulars.
//!
//! A vmm that makes many stops waits, instead of keeping its warden busy: after a thousand stops at once, two in a millisecond.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, openat};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, read};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use stockade_confinement::{Seccomp, Status};

use crate::pace::Pace;
use crate::ptrace::{self, Call, Change, Changes};
use crate::violation::{Filters, ForbiddenCall, Phase, Violation};
use crate::warden::ProcessEnd;

/// Most bytes of a thread's status that are read. It is shorter than that, but for groups, which no vmm has.
const STATUS_BYTES: usize = 4096;

/// Who watches a process.
#[derive(Debug)]
pub struct Tracer {
    child: Pid,
    process: OwnedFd,
    /// Readable when something has changed (SIGCHLD).
    changes: SignalFd,
    traced: Traced,
    pace: Pace,
    /// Filters that the process has inherited, upon which are those of the jail and its own.
    inherited: u32,
    violation: Option<Box<ForbiddenCall>>,
    end: Option<ProcessEnd>,
}

/// Whether the threads are traced.
#[derive(Debug)]
enum Traced {
    /// They are, and their status is below this folder (`/proc/PID/task`).
    Yes(File),
    /// They are not to be, because there are no filters.
    Unneeded,
    /// They can't be.
    No(io::Error),
}

impl Tracer {
    /// Watches `child`, which has one thread and the rights of this process, as yet, and does not run its program yet.
    ///
    /// # Errors
    /// As signalfd(2) and pidfd_open(2). Not being allowed to trace is none: violations are reported without their particulars
    /// then.
    pub fn of_filtered(child: Pid) -> io::Result<Self> {
        let mut tracer = Self::of_unfiltered(child)?;
        tracer.traced = seize(child).map_or_else(Traced::No, Traced::Yes);
        if let Traced::Yes(folder) = &tracer.traced {
            tracer.inherited = status(folder, child)?.seccomp_filters.unwrap_or_default();
        }
        Ok(tracer)
    }

    /// Watches `child` from afar: another tracer is to have it.
    ///
    /// # Errors
    /// As signalfd(2) and pidfd_open(2).
    pub fn left_to_another(child: Pid) -> io::Result<Self> {
        let mut tracer = Self::of_unfiltered(child)?;
        tracer.traced = Traced::No(io::Error::other("the plan leaves that to another"));
        Ok(tracer)
    }

    /// Watches `child`, which has no filter that it could violate.
    ///
    /// # Errors
    /// As signalfd(2) and pidfd_open(2).
    pub fn of_unfiltered(child: Pid) -> io::Result<Self> {
        let pid = rustix::process::Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::InvalidInput)?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let signals = SigSet::from(Signal::SIGCHLD);
        signals.thread_block()?;
        let changes = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let (traced, pace) = (Traced::Unneeded, Pace::new(Instant::now()));
        Ok(Self { child, process, changes, traced, pace, inherited: 0, violation: None, end: None })
    }

    /// Process id of the vmm.
    pub fn pid(&self) -> i32 {
        self.child.as_raw()
    }

    /// The folder that the status of its threads is read from, if it is.
    pub fn folder(&self) -> Option<BorrowedFd<'_>> {
        match &self.traced {
            Traced::Yes(folder) => Some(folder.as_fd()),
            Traced::Unneeded | Traced::No(_) => None,
        }
    }

    /// How the process ended, if it has.
    pub fn end(&self) -> Option<ProcessEnd> {
        self.end
    }

    /// What is known of a violated filter, if that was the end. Of several threads that were killed at the same time, it is one.
    pub fn violation(&self) -> Option<Violation> {
        match (&self.violation, &self.traced) {
            (Some(call), _) => Some(Violation::Call(call.clone())),
            (None, Traced::No(error)) if self.end == Some(ProcessEnd::Signaled(libc::SIGSYS)) => {
                Some(Violation::Unknown(format!("the warden may not trace the vmm: {error}")))
            }
            _ => None,
        }
    }

    /// Readable when something has changed.
    pub(crate) fn changes(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }

    /// How long to wait before [`catch_up`](Self::catch_up), whatever happens.
    pub(crate) fn pause(&self) -> Option<Duration> {
        self.pace.pause()
    }

    /// Lets threads go on that wait for it. A process that has ended is still there.
    pub fn pass(&mut self) {
        self.follow(Changes::Waiting);
    }

    /// Takes note of what has changed, and lets threads go on that wait for it.
    pub fn catch_up(&mut self) {
        self.follow(Changes::All);
    }

    /// Tells the process to end.
    pub fn kill(&self) {
        // One that has ended already needs no signal.
        let _ = pidfd_send_signal(&self.process, rustix::process::Signal::KILL);
    }

    /// Ends the process, and waits until nothing is left of it.
    pub fn end_now(mut self) {
        self.kill();
        while self.end.is_none() {
            let Ok((tid, change)) = ptrace::await_change() else { return };
            self.take(tid, change);
        }
    }

    fn follow(&mut self, changes: Changes) {
        // What was reported until now is looked for below, and what happens from now on is reported again.
        let _ = self.changes.read_signal();
        while self.end.is_none() && self.pace.step(Instant::now()) {
            match ptrace::next_change(changes) {
                Ok(Some((tid, change))) => self.take(tid, change),
                Ok(None) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Who has ended, and is not asked for, is nobody.
                Err(_) if changes == Changes::Waiting => return,
                Err(_) => self.end = Some(ProcessEnd::LOST),
            }
        }
    }

    fn take(&mut self, tid: Pid, change: Change) {
        let signal = match change {
            Change::Ended(end) => {
                // Another thread's end says nothing.
                self.end = self.end.or((tid == self.child).then_some(end));
                return;
            }
            Change::Untraced => return,
            Change::Stopped => {
                let _ = ptrace::stay(tid);
                return;
            }
            Change::Signal(signal) => signal,
            Change::Ending => {
                self.look_at(tid);
                0
            }
            Change::Passing => 0,
        };
        // One that can't go on was killed, and its end will tell.
        let _ = ptrace::resume(tid, signal);
    }

    /// Finds out whether a thread that is about to end violated a filter.
    fn look_at(&mut self, tid: Pid) {
        let (Traced::Yes(folder), None) = (&self.traced, &self.violation) else { return };
        match forbidden_call(folder, self.inherited, self.child, tid) {
            Ok(call) => self.violation = call.map(Box::new),
            Err(error) => self.traced = Traced::No(error),
        }
    }
}

/// The process (pidfd_open(2)).
impl AsFd for Tracer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

fn seize(child: Pid) -> io::Result<File> {
    let folder = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(format!("/proc/{child}/task"))?;
    ptrace::seize(child)?;
    Ok(folder)
}

/// The system call for which a filter has killed the thread `tid` of `process`, if one has.
fn forbidden_call(folder: &File, inherited: u32, process: Pid, tid: Pid) -> io::Result<Option<ForbiddenCall>> {
    let thread = status(folder, tid)?;
    if thread.seccomp != Seccomp::Violated {
        return Ok(None);
    }
    let main = if tid == process { None } else { Some(status(folder, process)?) };
    let Call { architecture, number, arguments, instruction_pointer } = ptrace::call(tid)?;
    let own = |thread: &Status| thread.seccomp_filters.map(|count| count.saturating_sub(inherited));
    let filters = Filters { is_main: tid == process, count: own(&thread).unwrap_or_default() };
    let role = filters.forbidding_role(architecture, number, &arguments);
    Ok(Some(ForbiddenCall {
        role: role.map(|role| role.name().to_owned()),
        phase: own(main.as_ref().unwrap_or(&thread)).map(Phase::of),
        thread: thread.name,
        thread_id: tid.as_raw(),
        architecture,
        name: architecture.call_name(number).map(String::from),
        number,
        arguments,
        instruction_pointer,
    }))
}

fn status(folder: &File, tid: Pid) -> io::Result<Status> {
    let file = openat(folder, format!("{tid}/status").as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut text = [0; STATUS_BYTES];
    let length = read(&file, &mut text)?;
    let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
    Status::parse(&text).map_err(io::Error::other)
}
