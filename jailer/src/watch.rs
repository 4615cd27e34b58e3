//! A warden at work: it watches the vmm, keeps the console, obeys the supervisor, and undoes everything at the end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::cgroup::Cgroup;
use crate::console::Ring;
use crate::folder::Folder;
use crate::reports::Reports;
use crate::supervisor::{Order, Supervisor};
use crate::tracer::Tracer;
use crate::violation::Violation;
use crate::warden::{Event, ProcessEnd};

/// Console bytes that are read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// Everything that a warden holds.
#[derive(Debug)]
pub struct Watch {
    tracer: Tracer,
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
    /// Takes charge of the process that `tracer` watches, and holds `held` open, the lease among them. `console` does not block.
    pub fn new(tracer: Tracer, console: File, ring: Ring, held: Vec<OwnedFd>, run_directory: Folder) -> Self {
        Self { tracer, console, console_open: true, ring, run_directory, reports: None, _held: held }
    }

    /// Passes on what the vmm says in `reports`, too.
    pub fn with_reports(mut self, reports: Option<Reports>) -> Self {
        self.reports = reports;
        self
    }

    /// Process id of the vmm.
    pub fn pid(&self) -> i32 {
        self.tracer.pid()
    }

    /// What is known of the vmm's threads.
    pub fn tracer(&mut self) -> &mut Tracer {
        &mut self.tracer
    }

    /// Ends the vmm, which is not to be, and waits for that.
    pub fn give_up(self) {
        self.tracer.end_now();
    }

    /// Watches until the vmm has ended, undoes what was made for it, and says both.
    pub fn until_the_end(mut self, supervisor: &mut Supervisor, cgroup: Option<&Cgroup>) {
        loop {
            self.tracer.catch_up();
            if self.tracer.end().is_some() {
                break;
            }
            let Ready { commanded, knocked, console, reported } = self.wait(supervisor);
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
                self.tracer.kill();
            }
        }
        let end = self.tracer.end().unwrap_or(ProcessEnd::LOST);
        let violation = self.tracer.violation();
        while self.read_console() {}
        self.pass_on_reports(supervisor);
        let message = describe(end, violation.as_ref());
        let last_words = self.reports.as_ref().map(Reports::last_words).filter(|words| !words.is_empty());
        let message = last_words.map_or_else(|| message.clone(), |words| format!("{message} ({words})"));
        supervisor.tell(&Event::Ended { end, message, violation });
        supervisor.tell(&Event::Cleaned { left_behind: self.clean_up(cgroup) });
    }

    fn wait(&self, supervisor: &Supervisor) -> Ready {
        let pause = self.tracer.pause();
        let changes = pause.is_none().then(|| self.tracer.changes());
        let console = self.console_open.then_some(self.console.as_fd());
        let reports = self.reports.iter().flat_map(Reports::descriptors);
        let sources: Vec<_> = [changes, supervisor.control(), supervisor.listener(), console]
            .into_iter()
            .chain(reports.map(Some))
            .collect();
        let present = sources.iter().copied().flatten();
        let mut descriptors: Vec<_> = present.map(|source| PollFd::new(source, PollFlags::POLLIN)).collect();
        let timeout = pause.and_then(|pause| pause.try_into().ok()).unwrap_or(PollTimeout::NONE);
        // An interrupted call changes nothing: nothing is ready then.
        let polled = poll(&mut descriptors, timeout).is_ok();
        let mut events = descriptors.iter().map(|descriptor| descriptor.revents().is_some_and(|e| !e.is_empty()));
        let mut is_ready = sources.iter().map(|source| source.is_some() && events.next() == Some(true) && polled);
        let mut next = || is_ready.next() == Some(true);
        let (_, commanded, knocked, console) = (next(), next(), next(), next());
        Ready { commanded, knocked, console, reported: is_ready.any(|ready| ready) }
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
        self.tracer.as_fd()
    }
}

/// What happened.
struct Ready {
    /// The supervisor said something, or is gone.
    commanded: bool,
    /// A supervisor wants to take over.
    knocked: bool,
    console: bool,
    reported: bool,
}

fn describe(end: ProcessEnd, violation: Option<&Violation>) -> String {
    match (end, violation) {
        (_, Some(violation)) => format!("killed for a system call that its filter forbids: {violation}"),
        (ProcessEnd::LOST, _) => "lost: somebody else waited for it".to_owned(),
        (ProcessEnd::Exited(code), _) => format!("exited with code {code}"),
        (ProcessEnd::Signaled(signal), _) => {
            let name = Signal::try_from(signal).map_or(String::new(), |signal| format!(" ({signal})"));
            format!("killed by signal {signal}{name}")
        }
    }
}
