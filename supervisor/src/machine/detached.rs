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
use rustix::process::{Signal, pidfd_send_signal};
use stockade_confinement::{Fingerprint, Process, Record};
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
    /// What its vmm is, if a supervisor before this one has seen it.
    pub(super) known: Option<(i32, Fingerprint)>,
    pub(super) reconnections: u32,
}

/// Something that is told of a machine, by itself or again after a takeover.
#[derive(Debug)]
pub enum Notice {
    /// The vmm runs in its jail.
    Confined {
        /// Its process id.
        pid: i32,
        /// What tells it from every other.
        identity: Fingerprint,
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
    /// Takes over the machine with this jail, or what is known of its end: `known` is its vmm's number and what that was, if
    /// anybody has seen it. To be called within a runtime.
    ///
    /// # Errors
    /// A socket can't be made.
    pub fn take_over(
        state: &State,
        jail: &VmName,
        journal: File,
        known: Option<(i32, Fingerprint)>,
    ) -> io::Result<Self> {
        let folder = state.machines().join(jail.as_str());
        let mut machine = Self {
            link: None,
            backlog: VecDeque::new(),
            status: Status::default(),
            jailer: None,
            vmm: None,
            known,
            reconnections: 0,
            folder,
            journal,
        };
        if !machine.connect()? {
            machine.backlog = without_outdated(journal::read(&machine.journal, None)?);
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
                    self.backlog.extend(without_outdated(known));
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
        let kind = kind_of(&event);
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

    /// Takes hold of the vmm's process, which the jailer wrote down as root; what the warden says could be anybody's. Whoever has
    /// got its number since is left alone.
    fn hold(&mut self) -> Option<Notice> {
        let record = Record::read(&self.folder).ok()?;
        let (identity, vmm) = Fingerprint::take(&Process::open(record.pid).ok()?).ok()?;
        let is_its = self.folder.file_name().is_some_and(|name| name == record.id.as_str());
        let is_same = self.known.is_none_or(|known| known == (record.pid, identity));
        if !is_its || !is_same || identity.number != record.identity {
            log::warn!("{}: process {} is another than its vmm", self.folder.display(), record.pid);
            return None;
        }
        self.vmm = Some(vmm);
        self.known = Some((record.pid, identity));
        Some(Notice::Confined { pid: record.pid, identity })
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
        self.backlog = without_outdated(known);
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

/// What the vmm says in it, if that makes sense.
fn kind_of(event: &Event) -> Option<EventKind> {
    match event {
        Event::Vmm { line } => serde_json::from_str::<VmmEvent>(line).ok().map(|event| event.kind),
        _ => None,
    }
}

/// Leaves out pauses that are over: nobody is to hear of them as if they were now.
fn without_outdated(events: Vec<Event>) -> VecDeque<Event> {
    let is_pause = |event: &Event| matches!(kind_of(event), Some(EventKind::Paused | EventKind::Resumed));
    let last = events.iter().rposition(is_pause);
    let events = events.into_iter().enumerate();
    events.filter(|(index, event)| Some(*index) == last || !is_pause(event)).map(|(_, event)| event).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;
    use std::process::{Child, Command as Program};

    use rustix::process::geteuid;
    use stockade_confinement::{JailKind, Limits};
    use stockade_jailer::journal::Journal;

    use super::*;

    /// A process that has a vmm's number.
    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            Self(Program::new("sleep").arg("1000").spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            self.0.id().try_into().unwrap()
        }

        fn fingerprint(&self) -> Fingerprint {
            loop {
                let take = |pid| Fingerprint::take(&Process::open(pid).unwrap()).unwrap().0;
                let (own, its) = (take(std::process::id().try_into().unwrap()), take(self.pid()));
                // Until it has executed its program.
                if own.program != its.program {
                    return its;
                }
            }
        }

        fn is_alive(&mut self) -> bool {
            self.0.try_wait().unwrap().is_none()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A machine whose warden is dead, taken over: what is known of its vmm, and what its jailer wrote down.
    fn machine(folder: &Path, known: Option<(i32, Fingerprint)>, record: &Record) -> Detached {
        let state = State::of_root(folder.to_owned());
        let jail: VmName = "jail-1-1".parse().unwrap();
        let jail_folder = state.machines().join(jail.as_str());
        let _ = std::fs::remove_dir_all(&jail_folder);
        std::fs::create_dir_all(&jail_folder).unwrap();
        let mut options = File::options();
        let file =
            options.write(true).create_new(true).mode(Record::MODE).open(jail_folder.join(Record::FILE)).unwrap();
        serde_json::to_writer(file, record).unwrap();
        let journal = tempfile::tempfile().unwrap();
        let confined = Event::Confined { pid: record.pid, at_us: 1, confinement: Vec::new() };
        Journal::new(journal.try_clone().unwrap()).append(&confined);
        Detached::take_over(&state, &jail, journal, known).unwrap()
    }

    #[test]
    fn who_takes_over_hears_of_the_last_pause_alone() {
        let event = |kind| Event::Vmm { line: serde_json::to_string(&VmmEvent { at_us: 1, kind }).unwrap() };
        let (started, paused, resumed) = (EventKind::Started, EventKind::Paused, EventKind::Resumed);
        let all = [&started, &paused, &resumed, &paused, &resumed].map(|kind| event(kind.clone()));
        assert_eq!(without_outdated(all.clone().into()), [event(started.clone()), event(resumed)]);
        assert_eq!(without_outdated(all[..4].into()), [event(started), event(paused)]);
    }

    #[tokio::test]
    async fn a_vmm_is_ended_with_its_warden_and_nobody_else_that_has_its_number() {
        if !geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut process = Sleeper::start();
        let (pid, fingerprint) = (process.pid(), process.fingerprint());
        let limits = Limits { memory_bytes: 1, processes: 1, cpu_percent: 1 };
        let (id, identity) = ("jail-1-1".to_owned(), fingerprint.number);
        let jail = JailKind::Sealed { warden: 1, limits, filters: 1 };
        let record = Record { id, pid, identity, uid: 1, gid: 1, jail, layers: Vec::new() };
        let successors = [
            (None, Record { identity: record.identity + 1, ..record.clone() }),
            (None, Record { id: "jail-1-2".into(), ..record.clone() }),
            (Some((pid, Fingerprint { number: 0, ..fingerprint })), record.clone()),
            (Some((pid, Fingerprint { started_ticks: 0, ..fingerprint })), record.clone()),
            (Some((pid, Fingerprint { program: (0, 0), ..fingerprint })), record.clone()),
            (Some((pid + 1, fingerprint)), record.clone()),
        ];
        for (known, record) in successors {
            let mut machine = machine(folder.path(), known, &record);
            machine.kill();
            assert!(matches!(machine.next().await, Notice::Gone { .. }), "{known:?} {record:?}");
            assert!(process.is_alive(), "{known:?} {record:?}");
        }
        let mut machine = machine(folder.path(), Some((pid, fingerprint)), &record);
        assert!(
            matches!(machine.next().await, Notice::Confined { pid: found, identity } if (found, identity) == (pid, fingerprint))
        );
        assert!(matches!(machine.next().await, Notice::Gone { .. }));
        assert!(!process.is_alive());
    }
}
