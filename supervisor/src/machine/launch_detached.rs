//! Starts a jailer for a machine that outlives its supervisor.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use stockade_guest_protocol::{HostMessage, Setup, VERSION, encode};
use stockade_jailer::plan::{self, Limits};
use stockade_vmm_api::vm_config::StartFile;

use super::Status;
use super::detached::{Detached, WARDEN_SOCKET};
use super::handover::{Handover, HostEnds, Terms, prepare};
use super::launch::{LaunchError, limits};
use super::state::State;
use super::warden::WardenLink;
use crate::config::descriptor;
use crate::request::VmName;

/// Supervisors that may knock at a warden at once.
const BACKLOG: i32 = 4;

/// What a machine is made of that outlives its supervisor.
#[derive(Debug)]
pub struct DetachedBlueprint {
    /// Name of its jail.
    pub jail: VmName,
    /// Virtual processors.
    pub cpus: u8,
    /// Memory of the guest, bytes.
    pub guest_bytes: u64,
    /// What it may use of the host, where that is not what its size suggests.
    pub limits: LimitChanges,
    /// What the vmm reads, with descriptors in the place of paths.
    pub configuration: StartFile,
    /// The jailer's program.
    pub jailer: File,
    /// The vmm's program.
    pub vmm: File,
    /// `/dev/kvm`.
    pub kvm: File,
    /// The kernel, initial RAM disk and drives, under the names that the configuration has for them.
    pub images: Vec<(String, File)>,
    /// Where its warden writes down what it says: an empty file, which the warden's user may write through this descriptor.
    pub journal: File,
    /// Where its console is kept, across jails.
    pub console_ring: File,
    /// What is typed at its console.
    pub console_input: OwnedFd,
    /// Who the guest's agent finds at the host, if it runs one.
    pub agent: Agent,
}

/// Who the guest's agent finds at the host. An agent whose first connection breaks off powers its guest off.
#[derive(Debug)]
pub enum Agent {
    /// Nobody.
    Unknown,
    /// Somebody who names the guest, and says nothing after that.
    Named(String),
    /// Who has the other end of this connected socket.
    Given(OwnedFd),
}

/// Limits that are given.
#[derive(Debug, Clone, Copy, Default)]
pub struct LimitChanges {
    /// Processor time, percent of one processor.
    pub cpu_percent: Option<u32>,
    /// Memory besides the guest's, bytes.
    pub overhead_bytes: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u32>,
}

/// Starts a machine. To be called within a runtime.
///
/// # Errors
/// The host's part failed; nothing is left of it.
pub fn launch_detached(state: &State, blueprint: DetachedBlueprint) -> Result<Detached, LaunchError> {
    let (mut handover, HostEnds { control, events, diagnostics, run_directory }) =
        Handover::new(state, &blueprint.jail)?;
    handover.pass(descriptor::KVM, blueprint.kvm);
    for (name, image) in blueprint.images {
        handover.pass(&name, image);
    }
    handover.pass(descriptor::CONSOLE_INPUT, blueprint.console_input);
    handover.pass_configuration(&blueprint.configuration)?;
    let mut held = Vec::new();
    match blueprint.agent {
        Agent::Unknown => {}
        Agent::Named(name) => {
            let (host_end, guest_end) = greeting(&name).map_err(prepare("agent connection"))?;
            handover.pass(descriptor::AGENT, guest_end);
            held.push(handover.add(host_end));
        }
        Agent::Given(guest_end) => handover.pass(descriptor::AGENT, guest_end),
    }
    let journal = blueprint.journal.try_clone().map_err(prepare("journal"))?;
    let detached = plan::Detached {
        listener: handover.add(warden_listener(run_directory.path()).map_err(prepare("sockets"))?),
        journal: handover.add(journal),
        events: handover.add(events),
        diagnostics: handover.add(diagnostics),
        console_ring: handover.add(blueprint.console_ring),
        held,
    };
    let limits = blueprint.limits.applied_to(blueprint.cpus, blueprint.guest_bytes);
    let terms = Terms { limits, without: Vec::new(), detached: Some(detached) };
    let jailer = handover.execute(&blueprint.jailer, blueprint.vmm, &run_directory, terms)?;
    Ok(Detached {
        folder: run_directory.give_up(),
        journal: blueprint.journal,
        link: Some(WardenLink::new(control).map_err(prepare("control socket"))?),
        backlog: Default::default(),
        status: Status::default(),
        jailer: Some(jailer),
        vmm: None,
        known: None,
        reconnections: 0,
    })
}

impl LimitChanges {
    fn applied_to(self, cpus: u8, guest: u64) -> Limits {
        let usual = limits(cpus, guest);
        Limits {
            memory_bytes: self.overhead_bytes.map_or(usual.memory_bytes, |bytes| guest.saturating_add(bytes)),
            processes: self.processes.unwrap_or(usual.processes),
            cpu_percent: self.cpu_percent.unwrap_or(usual.cpu_percent),
        }
    }
}

/// A connection for the agent, on which the host has said all that it ever will, and the end that the warden holds.
fn greeting(name: &str) -> io::Result<(OwnedFd, OwnedFd)> {
    let (mut host, guest) = std::os::unix::net::UnixStream::pair()?;
    let setup = Setup { hostname: name, root: None };
    let mut words = Vec::new();
    for message in [HostMessage::Hello { version: VERSION }, HostMessage::Setup(setup)] {
        encode(&message, &mut words).map_err(io::Error::other)?;
    }
    host.write_all(&words)?;
    Ok((host.into(), guest.into()))
}

fn warden_listener(folder: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new(folder.join(WARDEN_SOCKET))?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}
