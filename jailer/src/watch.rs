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
use crate::folder::Folder;
use crate::reports::Reports;
use crate::supervisor::{Order, Supervisor};
use crate::warden::{Event, ProcessEnd};

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
    /// What the vmm says, if it outlives its supervisor.
    reports: Option<Reports>,
    /// The user id is taken for as long as the lease among these is open.
    _held: Vec<OwnedFd>,
}

impl Watch {
    /// Takes charge of `child`, and holds `held` open, the lease among them.
    ///
    /// # Errors
    /// As pidfd_open(2).
    pub fn new(
        child: Pid,
        console: OwnedFd,
        ring: Ring,
        held: Vec<OwnedFd>,
        run_directory: Folder,
    ) -> io::Result<Self> {
        let pid = rustix::process::Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::InvalidInput)?;
        let vmm = pidfd_open(pid, PidfdFlags::empty())?;
        rustix::io::ioctl_fionbio(&console, true)?;
        let console = File::from(console);
        Ok(Self { child, vmm, console, console_open: true, ring, run_directory, reports: None, _held: held })
    }

    /// Passes on what the vmm says in `reports`, too.
    pub fn with_reports(mut self, reports: Option<Reports>) -> Self {
        self.reports = reports;
        self
    }

    /// Process id of the vmm.
    pub fn pid(&self) -> i32 {
        self.child.as_raw()
    }

    /// Watches until the vmm has ended, undoes what was made for it, and says both.
    pub fn until_the_end(mut self, supervisor: &mut Supervisor, cgroup: Option<&Cgroup>) {
        loop {
            let Ready { ended, commanded, knocked, console, reported } = self.wait(supervisor);
            if console {
                self.read_console();
            }
            if reported {
                self.pass_on_reports(supervisor);
            }
            if knocked {
                supervisor.let_in();
            }
            if commanded && supervisor.obey() == Order::Kill {
                self.kill();
            }
            if ended {
                break;
            }
        }
        let (end, message) = describe(waitid(WaitId::PidFd(self.vmm.as_fd()), WaitIdOptions::EXITED));
        while self.read_console() {}
        self.pass_on_reports(supervisor);
        let last_words = self.reports.as_ref().map(Reports::last_words).filter(|words| !words.is_empty());
        let message = last_words.map_or_else(|| message.clone(), |words| format!("{message} ({words})"));
        supervisor.tell(&Event::Ended { end, message });
        supervisor.tell(&Event::Cleaned { left_behind: self.clean_up(cgroup) });
    }

    fn wait(&self, supervisor: &Supervisor) -> Ready {
        let console = self.console_open.then_some(self.console.as_fd());
        let reports = self.reports.iter().flat_map(Reports::descriptors);
        let sources: Vec<_> = [Some(self.vmm.as_fd()), supervisor.control(), supervisor.listener(), console]
            .into_iter()
            .chain(reports.map(Some))
            .collect();
        let present = sources.iter().copied().flatten();
        let mut descriptors: Vec<_> = present.map(|source| PollFd::new(source, PollFlags::POLLIN)).collect();
        // An interrupted call changes nothing: nothing is ready then.
        let polled = poll(&mut descriptors, PollTimeout::NONE).is_ok();
        let mut events = descriptors.iter().map(|descriptor| descriptor.revents().is_some_and(|e| !e.is_empty()));
        let mut is_ready = sources.iter().map(|source| source.is_some() && events.next() == Some(true) && polled);
        let mut next = || is_ready.next() == Some(true);
        let (ended, commanded, knocked, console) = (next(), next(), next(), next());
        Ready { ended, commanded, knocked, console, reported: is_ready.any(|ready| ready) }
    }

    fn pass_on_reports(&mut self, supervisor: &mut Supervisor) {
        for line in self.reports.as_mut().map(Reports::read).unwrap_or_default() {
            supervisor.tell(&Event::Vmm { line });
        }
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
    /// The vmm has ended.
    ended: bool,
    /// The supervisor said something, or is gone.
    commanded: bool,
    /// A supervisor wants to take over.
    knocked: bool,
    console: bool,
    reported: bool,
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
