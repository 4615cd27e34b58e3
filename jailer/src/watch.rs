//! A warden at work: it watches the vmm, keeps the console, obeys the supervisor, and undoes everything at the end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal, waitid};

use crate::cgroup::Cgroup;
use crate::console::Ring;
use crate::control::Control;
use crate::folder::Folder;
use crate::warden::{Command, Event, ProcessEnd};

/// Console bytes that are read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// Everything that a warden holds.
#[derive(Debug)]
pub struct Watch {
    child: Pid,
    vmm: OwnedFd,
    console: File,
    console_open: bool,
    ring: Ring,
    run_directory: Folder,
    /// The user id is taken for as long as this is open.
    _lease: OwnedFd,
}

impl Watch {
    /// Takes charge of `child`.
    ///
    /// # Errors
    /// As pidfd_open(2).
    pub fn new(child: Pid, console: OwnedFd, ring: Ring, lease: OwnedFd, run_directory: Folder) -> io::Result<Self> {
        let pid = rustix::process::Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::InvalidInput)?;
        let vmm = pidfd_open(pid, PidfdFlags::empty())?;
        rustix::io::ioctl_fionbio(&console, true)?;
        let console = File::from(console);
        Ok(Self { child, vmm, console, console_open: true, ring, run_directory, _lease: lease })
    }

    /// Process id of the vmm.
    pub fn pid(&self) -> i32 {
        self.child.as_raw()
    }

    /// Watches until the vmm has ended, undoes what was made for it, and says both.
    pub fn until_the_end(mut self, control: &Control, cgroup: Option<&Cgroup>) {
        let mut supervised = true;
        loop {
            let Ready { ended, commanded, console } = self.wait(control, supervised);
            if console {
                self.read_console();
            }
            if commanded {
                match control.receive() {
                    Ok(Some(Command::Kill)) => self.kill(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // Nobody is there any more, or nobody who makes sense.
                    Ok(None) | Err(_) => {
                        supervised = false;
                        self.kill();
                    }
                }
            }
            if ended {
                break;
            }
        }
        let (end, message) = describe(waitid(WaitId::PidFd(self.vmm.as_fd()), WaitIdOptions::EXITED));
        while self.read_console() {}
        control.send(&Event::Ended { end, message });
        control.send(&Event::Cleaned { left_behind: self.clean_up(cgroup) });
    }

    fn wait(&self, control: &Control, supervised: bool) -> Ready {
        let readable = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
        let mut descriptors = vec![readable(self.vmm.as_fd())];
        let control_at = supervised.then_some(descriptors.len());
        descriptors.extend(supervised.then(|| readable(control.as_fd())));
        let console_at = self.console_open.then_some(descriptors.len());
        descriptors.extend(self.console_open.then(|| readable(self.console.as_fd())));
        // An interrupted call changes nothing: nothing is ready then.
        let polled = poll(&mut descriptors, PollTimeout::NONE);
        let is_ready = |index: Option<usize>| {
            let events = index.and_then(|index| descriptors.get(index)).and_then(PollFd::revents);
            polled.is_ok() && events.is_some_and(|events| !events.is_empty())
        };
        Ready { ended: is_ready(Some(0)), commanded: is_ready(control_at), console: is_ready(console_at) }
    }

    /// Reads once. Returns whether there may be more.
    fn read_console(&mut self) -> bool {
        let mut bytes = [0; CHUNK_BYTES];
        match self.console.read(&mut bytes) {
            Ok(0) => self.console_open = false,
            Ok(length) => {
                self.ring.append(bytes.get(..length).unwrap_or_default());
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.console_open = false,
        }
        false
    }

    fn kill(&self) {
        // One that has ended already needs no signal.
        let _ = pidfd_send_signal(&self.vmm, rustix::process::Signal::KILL);
    }

    /// Removes what was made for the machine. Returns what could not be removed, in words.
    fn clean_up(&self, cgroup: Option<&Cgroup>) -> Vec<String> {
        let mut left_behind = cgroup.map(Cgroup::remove).unwrap_or_default();
        left_behind.extend(self.run_directory.remove());
        left_behind
    }
}

/// The vmm's process (pidfd_open(2)).
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.vmm.as_fd()
    }
}

/// What happened.
struct Ready {
    ended: bool,
    commanded: bool,
    console: bool,
}

fn describe(status: Result<Option<WaitIdStatus>, Errno>) -> (ProcessEnd, String) {
    let Ok(Some(status)) = status else {
        return (ProcessEnd::Exited(-1), "lost: somebody else waited for it".to_owned());
    };
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (ProcessEnd::Exited(code), format!("exited with code {code}")),
        (None, Some(libc::SIGSYS)) => (
            ProcessEnd::Signaled(libc::SIGSYS),
            "killed for a system call that its filter forbids; where the kernel audits, its log names it (dmesg | grep \
             type=1326): report it, or go without that layer (--without seccomp) if the guest is trusted"
                .to_owned(),
        ),
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            let name = Signal::try_from(signal).map_or(String::new(), |signal| format!(" ({signal})"));
            (ProcessEnd::Signaled(signal), format!("killed by signal {signal}{name}"))
        }
    }
}
