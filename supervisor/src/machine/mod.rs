//! A virtual machine as its supervisor sees it: what its warden and its vmm have said so far.
//!
//! Nothing happens in the background: a [`Machine`] learns what was said while one of its futures is polled, and dropping such a
//! future loses nothing. The order of things is the warden's: `Confined` (or `Refused`), the vmm's own events, `Ended`,
//! `Cleaned`. Whatever goes missing on the way (a vmm that says nothing before it dies, a warden that dies itself) still
//! ends in a reason and in a machine that is gone.

pub mod detached;
mod diagnostics;
mod events;
#[cfg(test)]
pub(crate) mod fake;
mod handover;
pub mod launch;
pub mod launch_detached;
pub mod lease;
pub mod request;
pub mod run_directory;
pub mod state;
mod status;
#[cfg(test)]
mod tests;
mod warden;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use stockade_jailer::console;
use stockade_jailer::warden::Command;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};

use diagnostics::Diagnostics;
use events::EventLines;
use run_directory::RunDirectory;
use warden::WardenLink;

use crate::text::printable;

pub use handover::CONSOLE_RING_BYTES;
pub use status::{MachineEnd, Status};

/// How long a dead vmm's last words may be on their way.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long a vmm that was told to die may take.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Most of the console that is shown when a guest fails.
const CONSOLE_TAIL_BYTES: usize = 4096;
const CONSOLE_TAIL_LINES: usize = 12;
/// How long the warden may take to undo what was built.
const CLEANUP_LIMIT: Duration = Duration::from_secs(10);

/// A virtual machine that was launched.
#[derive(Debug)]
pub struct Machine {
    warden: WardenLink,
    events: EventLines,
    diagnostics: Diagnostics,
    jailer: tokio::process::Child,
    run_directory: RunDirectory,
    /// The ring that the warden keeps, opened while it is there.
    console: Option<File>,
    /// The vmm's process, in case its warden dies.
    vmm: Option<OwnedFd>,
    status: Status,
}

impl Machine {
    /// What is known so far.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Waits until the vmm runs in its jail.
    pub async fn confined(&mut self) -> Result<(), MachineEnd> {
        self.until(|status| status.confined_at_us.is_some()).await
    }

    /// Waits until the machine exists in KVM.
    pub async fn kvm_ready(&mut self) -> Result<(), MachineEnd> {
        self.until(|status| status.kvm_ready_at_us.is_some()).await
    }

    /// Waits until the guest runs.
    pub async fn started(&mut self) -> Result<(), MachineEnd> {
        self.until(|status| status.started_at_us.is_some()).await
    }

    /// Waits until the guest does not run any more, and says why.
    pub async fn ended(&mut self) -> MachineEnd {
        match self.until(|_| false).await {
            Ok(()) => self.status.end(""),
            Err(end) => end,
        }
    }

    async fn until(&mut self, reached: impl Fn(&Status) -> bool) -> Result<(), MachineEnd> {
        while !reached(&self.status) {
            if self.status.process_is_over() {
                return Err(self.last_words().await);
            }
            self.advance().await;
        }
        Ok(())
    }

    /// Waits for one message and takes note of it. Pending forever when none can come any more.
    async fn advance(&mut self) {
        tokio::select! {
            biased;
            event = self.events.next(), if !self.status.events_over => match event {
                Ok(Some(event)) => self.status.note_event(event),
                Ok(None) => self.status.events_over = true,
                Err(error) => {
                    self.status.note_fault(&error);
                    self.kill();
                },
            },
            event = self.warden.next(), if !self.status.warden_over => match event {
                Ok(Some(event)) => {
                    self.status.note_warden(event);
                    self.hold();
                },
                Ok(None) => self.warden_is_gone(),
                Err(error) => {
                    self.status.note_fault(&error);
                    self.warden_is_gone();
                },
            },
            () = self.diagnostics.advance() => {},
        }
    }

    /// After the vmm's end: what it said before that, but only for a moment, because something else may hold its pipe open.
    async fn last_words(&mut self) -> MachineEnd {
        let deadline = Instant::now() + LAST_WORDS;
        while !(self.status.events_over && self.diagnostics.is_over()) {
            if timeout_at(deadline, self.advance()).await.is_err() {
                break;
            }
        }
        self.status.end(&self.diagnostics.text())
    }

    /// The socket of its API.
    pub fn api_socket(&self) -> std::path::PathBuf {
        self.run_directory.path().join("api.sock")
    }

    /// Tells the warden to kill the vmm.
    pub fn kill(&self) {
        self.warden.send(&Command::Kill);
    }

    /// Ends what still runs, and waits until nothing is left. Returns what is, in words. Then its status is the last.
    pub async fn remove(&mut self) -> Vec<String> {
        self.kill();
        let orderly = async {
            while !self.status.warden_over && self.status.left_behind.is_none() {
                self.advance().await;
            }
        };
        if timeout(CLEANUP_LIMIT, orderly).await.is_err() {
            let _ = self.jailer.start_kill();
            self.warden_is_gone();
        }
        if timeout(KILL_LIMIT, self.jailer.wait()).await.is_err() {
            let _ = self.jailer.start_kill();
        }
        let mut left_behind = match self.status.left_behind.take() {
            Some(left_behind) => left_behind,
            None => self.clean_up_without_warden().await,
        };
        left_behind.extend(self.run_directory.remove_if_there());
        left_behind
    }

    /// The warden died before it was done. Removes what it would have, once the vmm has ended.
    async fn clean_up_without_warden(&mut self) -> Vec<String> {
        if let Some(vmm) = self.vmm.take() {
            let _ = pidfd_send_signal(&vmm, Signal::KILL);
            let limit = Timespec::try_from(KILL_LIMIT).ok();
            let gone = spawn_blocking(move || poll(&mut [PollFd::new(&vmm, PollFlags::IN)], limit.as_ref()));
            if !matches!(gone.await, Ok(Ok(1))) {
                return vec!["the vmm's process, which does not die".to_owned()];
            }
        }
        self.run_directory.sweep_control_groups()
    }

    /// The last lines of the guest's console, fit for a terminal.
    pub fn console_tail(&self) -> Vec<String> {
        let tail = self.console.as_ref().map(|file| console::read_tail(file, CONSOLE_TAIL_BYTES));
        let text = tail.and_then(Result::ok).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<_> = text.lines().map(printable).filter(|line| !line.is_empty()).collect();
        lines.drain(..lines.len().saturating_sub(CONSOLE_TAIL_LINES));
        lines
    }

    /// Keeps handles of the vmm's process and console as soon as they are there.
    fn hold(&mut self) {
        if self.vmm.is_none()
            && let Some(pid) = self.status.vmm_pid.and_then(Pid::from_raw)
        {
            self.vmm = pidfd_open(pid, PidfdFlags::empty()).ok();
            self.console = File::open(self.run_directory.path().join("console")).ok();
        }
    }

    fn warden_is_gone(&mut self) {
        self.status.warden_over = true;
        if let Some(vmm) = &self.vmm
            && self.status.left_behind.is_none()
        {
            let _ = pidfd_send_signal(vmm, Signal::KILL);
        }
    }
}
