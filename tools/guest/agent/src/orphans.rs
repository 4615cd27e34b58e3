//! Processes whose parents are gone become children of PID 1, which has to bury them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;

/// Hears of the end of every child of this process, also of those that it did not start.
#[derive(Debug)]
pub struct Orphans {
    signals: SignalFd,
}

impl Orphans {
    /// Listens from now on. For PID 1 with one thread, because it blocks `SIGCHLD` for the thread that calls it.
    ///
    /// # Errors
    /// What signalfd(2) gives.
    pub fn adopt() -> io::Result<Self> {
        let mut children = SigSet::empty();
        children.add(Signal::SIGCHLD);
        children.thread_block()?;
        let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { signals })
    }

    /// Buries all that are dead, until it comes upon a command, which `is_command` knows. A command's end is for its channel
    /// to see, at once; after that this is to be called again.
    pub(crate) fn bury(&self, is_command: impl Fn(u32) -> bool) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        while let Some(dead) = peek() {
            if u32::try_from(dead.as_raw()).is_ok_and(&is_command) || waitpid(dead, None).is_err() {
                break;
            }
        }
    }
}

impl AsFd for Orphans {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

/// A child that is dead and not buried.
fn peek() -> Option<Pid> {
    waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT).ok()?.pid()
}
