//! A machine whose warden and vmm are played by a test.

use std::io::{PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use stockade_jailer::plan::Layer;
use stockade_jailer::violation::{Architecture, ForbiddenCall, Phase, Violation, Word};
use stockade_jailer::warden::{Command, Event as WardenEvent, LayerReport, ProcessEnd};
use stockade_vmm_api::event::{Event, EventKind};
use stockade_vmm_api::exit::ExitReason;
use tempfile::TempDir;

use super::diagnostics::Diagnostics;
use super::events::EventLines;
use super::run_directory::RunDirectory;
use super::warden::WardenLink;
use super::{Machine, Status};

/// The other side of a [`Machine`].
pub(crate) struct Fake {
    control: OwnedFd,
    pub(crate) events: PipeWriter,
    pub(crate) diagnostics: PipeWriter,
    /// Where the machine's folder is.
    pub(crate) parent: TempDir,
}

/// A machine that has said nothing yet, and who speaks for it.
pub(crate) fn machine() -> (Machine, Fake) {
    let (control, warden_end) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let (events, events_end) = std::io::pipe().unwrap();
    let (diagnostics, diagnostics_end) = std::io::pipe().unwrap();
    let parent = tempfile::tempdir().unwrap();
    let machine = Machine {
        warden: WardenLink::new(control).unwrap(),
        events: EventLines::new(events.into()).unwrap(),
        diagnostics: Diagnostics::new(diagnostics.into()).unwrap(),
        jailer: tokio::process::Command::new("true").stdin(Stdio::null()).spawn().unwrap(),
        run_directory: RunDirectory::create(parent.path(), &"fake".parse().unwrap(), None).unwrap(),
        console: None,
        vmm: None,
        status: Status::default(),
    };
    (machine, Fake { control: warden_end, events: events_end, diagnostics: diagnostics_end, parent })
}

/// What a vCPU thread must not do.
pub(crate) fn violation() -> Violation {
    Violation::Call(Box::new(ForbiddenCall {
        role: Some("vcpu".into()),
        phase: Some(Phase::Run),
        thread: "fc_vcpu 0".into(),
        thread_id: 7,
        architecture: Architecture::X86_64,
        name: Some("mount".into()),
        number: 165,
        arguments: [Word(1); 6],
        instruction_pointer: Word(2),
    }))
}

impl Fake {
    pub(crate) fn warden_says(&self, event: &WardenEvent) {
        send(&self.control, &serde_json::to_vec(event).unwrap(), SendFlags::NOSIGNAL).unwrap();
    }

    pub(crate) fn vmm_says(&mut self, kind: EventKind) {
        let mut line = serde_json::to_vec(&Event { at_us: crate::phases::monotonic_us(), kind }).unwrap();
        line.push(b'\n');
        self.events.write_all(&line).unwrap();
    }

    /// Everything up to a guest that runs.
    pub(crate) fn starts(&mut self) {
        let confinement = vec![LayerReport { layer: Layer::Uid, enforced: true, detail: "1".into() }];
        // No process has this number: it is above the kernel's limit.
        self.warden_says(&WardenEvent::Confined { pid: 1 << 23, at_us: crate::phases::monotonic_us(), confinement });
        for kind in [EventKind::Launched, EventKind::KvmReady, EventKind::Loaded, EventKind::Started] {
            self.vmm_says(kind);
        }
    }

    /// The guest ends, and so does everything.
    pub(crate) fn guest_ends(mut self, reason: ExitReason, message: &str) -> TempDir {
        self.vmm_says(EventKind::Ended { reason, message: message.to_owned() });
        self.vmm_ends(ProcessEnd::Exited(reason.code().into()), "exit")
    }

    /// The vmm ends, and the warden cleans up.
    pub(crate) fn vmm_ends(self, end: ProcessEnd, message: &str) -> TempDir {
        self.process_ends(&WardenEvent::Ended { end, message: message.to_owned(), violation: None })
    }

    /// A filter kills the vmm, and the warden cleans up.
    pub(crate) fn vmm_violates(self, violation: &Violation) -> TempDir {
        let violation = Some(violation.clone());
        self.process_ends(&WardenEvent::Ended {
            end: ProcessEnd::Signaled(31),
            message: "killed".to_owned(),
            violation,
        })
    }

    fn process_ends(self, ended: &WardenEvent) -> TempDir {
        self.warden_says(ended);
        std::fs::remove_dir_all(self.parent.path().join("fake")).unwrap();
        self.warden_says(&WardenEvent::Cleaned { left_behind: Vec::new() });
        self.parent
    }

    /// Waits until the supervisor asks for the vmm's end, and obeys.
    pub(crate) fn obeys_kill(self) -> TempDir {
        let mut packet = [0; 256];
        let (length, _) = recv(&self.control, &mut packet, RecvFlags::empty()).unwrap();
        assert_eq!(serde_json::from_slice::<Command>(&packet[..length]).unwrap(), Command::Kill);
        self.vmm_ends(ProcessEnd::Signaled(9), "killed by signal 9 (SIGKILL)")
    }
}
