//! A virtual machine that outlives whoever started it: launched, taken over by the next supervisor, heard, asked and ended.
//!
//! What is known of it comes from its warden: live over a socket, and from the journal for the time when nobody listened.
//! Nothing is ever removed because this is dropped. What is left when a warden dies before it is done is removed here.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use stockade_confinement::{Record, identity};
use stockade_jailer::journal;
use stockade_jailer::warden::{Command, Event};
use stockade_vmm_api::event::{Event as VmmEvent, EventKind};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::state::State;
use super::warden::WardenLink;
use super::{MachineEnd, Status};
use crate::request::VmName;

/// Name of the warden's socket in a machine's folder.
pub const WARDEN_SOCKET: &str = "warden.sock";
/// How long a vmm that was told to die may take.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How often a warden is looked for that broke off, and how long that takes each time.
const RECONNECTIONS: u32 = 20;
const RECONNECTION_PAUSE: Duration = Duration::from_millis(50);

/// A machine, as its supervisor of the moment sees it.
#[derive(Debug)]
pub struct Detached {
    pub(super) folder: PathBuf,
    pub(super) journal: File,
    pub(super) link: Option<WardenLink>,
    /// What the journal has that was not told yet.
    pub(super) backlog: VecDeque<Event>,
    pub(super) status: Status,
    /// The process that this process started, if it did.
    pub(super) jailer: Option<tokio::process::Child>,
    pub(super) vmm: Option<OwnedFd>,
    pub(super) reconnections: u32,
}

/// Something that is told of a machine, by itself or again after a takeover.
#[derive(Debug)]
pub enum Notice {
    /// The vmm runs in its jail.
    Confined {
        /// Its process id.
        pid: i32,
        /// Its number in the kernel (see [`identity`]).
        identity: u64,
    },
    /// The guest runs.
    Started,
    /// The guest's processors stand still.
    Paused,
    /// They go on.
    Resumed,
    /// Nothing is left of it but what is listed. The last notice.
    Gone {
        /// Why; nothing if there never was a jail, nor an attempt to make one.
        end: Option<MachineEnd>,
        /// What could not be removed.
        left_behind: Vec<String>,
    },
}

impl Detached {
    /// Takes over the machine with this jail, or what is known of its end. To be called within a runtime.
    ///
    /// # Errors
    /// A socket can't be made.
    pub fn take_over(state: &State, jail: &VmName, journal: File) -> io::Result<Self> {
        let folder = state.machines().join(jail.as_str());
        let mut machine = Self {
            link: None,
            backlog: VecDeque::new(),
            status: Status::default(),
            jailer: None,
            vmm: None,
            reconnections: 0,
            folder,
            journal,
        };
        if !machine.connect()? {
            machine.backlog = journal::read(&machine.journal, None)?.into();
        }
        Ok(machine)
    }

    /// The machine's folder, with its sockets.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The next thing to know. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Notice {
        loop {
            if let Some(event) = self.backlog.pop_front() {
                if let Some(notice) = self.note(event) {
                    return notice;
                }
                continue;
            }
            if let Some(left_behind) = self.status.left_behind.clone() {
                self.reap().await;
                return Notice::Gone { end: Some(self.status.end("")), left_behind };
            }
            let Some(link) = &mut self.link else { return self.without_warden().await };
            match link.next().await {
                Ok(Some(Event::TakenOver { journal_bytes })) => {
                    let known = journal::read(&self.journal, Some(journal_bytes)).unwrap_or_default();
                    self.backlog.extend(known);
                }
                Ok(Some(event)) => self.backlog.push_back(event),
                // It has ended, or has given up on a supervisor that did not listen.
                Ok(None) | Err(_) => self.find_again().await,
            }
        }
    }

    /// Ends the vmm.
    pub fn kill(&self) {
        if let Some(link) = &self.link {
            link.send(&Command::Kill);
        }
        if let Some(vmm) = &self.vmm {
            // One that has ended already needs no signal.
            let _ = pidfd_send_signal(vmm, Signal::KILL);
        }
    }

    fn note(&mut self, event: Event) -> Option<Notice> {
        let kind = match &event {
            Event::Vmm { line } => serde_json::from_str::<VmmEvent>(line).ok().map(|event| event.kind),
            _ => None,
        };
        let confined = matches!(event, Event::Confined { .. });
        let nonsense = matches!(event, Event::Vmm { .. }) && kind.is_none();
        self.status.note_warden(event);
        if nonsense {
            self.kill();
        }
        if confined {
            return self.hold();
        }
        match kind? {
            EventKind::Started => Some(Notice::Started),
            EventKind::Paused => Some(Notice::Paused),
            EventKind::Resumed => Some(Notice::Resumed),
            _ => None,
        }
    }

    /// Takes hold of the vmm's process, which the jailer wrote down as root; what the warden says could be anybody's.
    fn hold(&mut self) -> Option<Notice> {
        let record = Record::read(&self.folder).ok()?;
        let vmm = pidfd_open(Pid::from_raw(record.pid)?, PidfdFlags::empty()).ok()?;
        if identity(&vmm).ok()? != record.identity {
            return None;
        }
        self.vmm = Some(vmm);
        Some(Notice::Confined { pid: record.pid, identity: record.identity })
    }

    /// Connects to the warden. Returns whether there is one.
    fn connect(&mut self) -> io::Result<bool> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let address = SocketAddrUnix::new(self.folder.join(WARDEN_SOCKET))?;
        if connect(&socket, &address).is_err() {
            return Ok(false);
        }
        self.link = Some(WardenLink::new(socket)?);
        Ok(true)
    }

    /// The link broke off: the warden is done, or it dropped this supervisor, or it died.
    async fn find_again(&mut self) {
        self.link = None;
        let known = journal::read(&self.journal, None).unwrap_or_default();
        let done = known.iter().any(|event| matches!(event, Event::Cleaned { .. } | Event::Refused { .. }));
        self.backlog = known.into();
        if done || self.reconnections >= RECONNECTIONS {
            return;
        }
        self.reconnections = self.reconnections.saturating_add(1);
        if self.connect().unwrap_or(false) {
            self.backlog.clear();
        } else {
            sleep(RECONNECTION_PAUSE).await;
        }
    }

    /// There is nobody to hear from any more.
    async fn without_warden(&mut self) -> Notice {
        self.status.warden_over = true;
        self.reap().await;
        let attempted = self.status.process_was_there() || self.folder.exists();
        let mut left_behind = Vec::new();
        if let Some(vmm) = self.vmm.take() {
            let _ = pidfd_send_signal(&vmm, Signal::KILL);
            let limit = Timespec::try_from(KILL_LIMIT).ok();
            let gone = spawn_blocking(move || poll(&mut [PollFd::new(&vmm, PollFlags::IN)], limit.as_ref()));
            if !matches!(gone.await, Ok(Ok(1))) {
                left_behind.push("the vmm's process, which does not die".to_owned());
            }
        }
        if let Some(name) = self.folder.file_name().and_then(|name| name.to_str()) {
            left_behind.extend(stockade_jailer::cgroup::sweep(name));
        }
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                left_behind.push(format!("{}: {error}", self.folder.display()));
            }
            _ => {}
        }
        Notice::Gone { end: attempted.then(|| self.status.end("")), left_behind }
    }

    async fn reap(&mut self) {
        if let Some(mut jailer) = self.jailer.take() {
            let _ = tokio::time::timeout(KILL_LIMIT, jailer.wait()).await;
        }
    }
}
