//! Starts a machine that ends with its supervisor.

use std::fs::File;
use std::io;

use stockade_jailer::plan::{Layer, Limits};
use stockade_vmm_api::vm_config::{ConfigFile, StartFile};
use tokio::net::UnixStream;

use super::diagnostics::Diagnostics;
use super::events::EventLines;
use super::handover::{Handover, HostEnds, Terms, prepare};
use super::lease::LeaseError;
use super::run_directory::RunDirectoryError;
use super::state::State;
use super::warden::WardenLink;
use super::{Machine, Status};
use crate::config::{clone_configuration, descriptor};
use crate::request::{Cpus, MemorySize, VmName};
use crate::warm::WarmGuest;

/// Threads of a vmm beside its vCPUs, its warden, and some that the kernel makes in its name.
const PROCESSES_BESIDE_VCPUS: u32 = 16;
/// Processor time of a vmm beside its vCPUs, in hundredths of a processor.
const PERCENT_BESIDE_VCPUS: u32 = 50;
/// Memory of a vmm beside its guest's: its own, and what the kernel keeps for it. An eighth of the guest's is for page
/// tables, of which an emulated guest needs many.
const BYTES_BESIDE_GUEST: u64 = 96 << 20;

/// What a virtual machine is made of.
#[derive(Debug)]
pub struct Blueprint {
    /// Its name.
    pub name: VmName,
    /// Virtual processors.
    pub cpus: Cpus,
    /// Memory of the guest.
    pub memory: MemorySize,
    /// The jailer's program.
    pub jailer: File,
    /// The vmm's program.
    pub vmm: File,
    /// `/dev/kvm`.
    pub kvm: File,
    /// Where its guest comes from.
    pub origin: Origin,
    /// Files that it may be saved to: state and memory.
    pub new_snapshot: Option<(File, File)>,
    /// The image with the command's root.
    pub root: Option<File>,
    /// Layers of the jail that are given up.
    pub without: Vec<Layer>,
}

/// Where a guest comes from.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one")]
pub enum Origin {
    /// It boots.
    Boot {
        /// The kernel.
        kernel: File,
        /// The initial RAM disk.
        initramfs: File,
        /// What the vmm reads, with descriptors in the place of paths.
        configuration: ConfigFile,
    },
    /// It has booted, and was saved.
    Snapshot(WarmGuest),
}

/// The host's part of a start failed; nothing is left of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// There is no user id for it.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// There is no folder for it.
    #[error(transparent)]
    RunDirectory(#[from] RunDirectoryError),
    /// A pipe, socket or descriptor.
    #[error("make the virtual machine's {object}")]
    Prepare {
        /// Which.
        object: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The jailer's program.
    #[error("execute stockade-jailer")]
    Execute(#[source] io::Error),
}

/// Starts a machine. Returns it with the host's end of the agent's connection. To be called within a runtime.
pub fn launch(blueprint: Blueprint) -> Result<(Machine, UnixStream), LaunchError> {
    let state = State::of_caller();
    state.prepare()?;
    let (agent, guest_end) = std::os::unix::net::UnixStream::pair().map_err(prepare("agent connection"))?;
    agent.set_nonblocking(true).map_err(prepare("agent connection"))?;

    let (mut handover, HostEnds { control, events, diagnostics, run_directory }) =
        Handover::new(&state, &blueprint.name)?;
    handover.pass(descriptor::KVM, blueprint.kvm);
    let configuration = match blueprint.origin {
        Origin::Boot { kernel, initramfs, configuration } => {
            handover.pass(descriptor::KERNEL, kernel);
            handover.pass(descriptor::INITRAMFS, initramfs);
            StartFile::Boot(configuration)
        }
        Origin::Snapshot(WarmGuest { state, memory }) => {
            pass_pair(&mut handover, descriptor::SNAPSHOT, state, memory);
            StartFile::Snapshot(clone_configuration())
        }
    };
    if let Some((state, memory)) = blueprint.new_snapshot {
        pass_pair(&mut handover, descriptor::NEW_SNAPSHOT, state, memory);
    }
    if let Some(root) = blueprint.root {
        handover.pass(descriptor::ROOT, root);
    }
    handover.pass_configuration(&configuration)?;
    handover.pass(descriptor::AGENT, guest_end);
    let limits = limits(blueprint.cpus.get(), blueprint.memory.bytes());
    let terms = Terms { limits, without: blueprint.without, detached: None };
    let jailer = handover.execute(&blueprint.jailer, blueprint.vmm, &run_directory, terms)?;
    let machine = Machine {
        warden: WardenLink::new(control).map_err(prepare("control socket"))?,
        events: EventLines::new(events.into()).map_err(prepare("events"))?,
        diagnostics: Diagnostics::new(diagnostics.into()).map_err(prepare("standard error"))?,
        jailer,
        run_directory,
        console: None,
        vmm: None,
        status: Status::default(),
    };
    let agent = UnixStream::from_std(agent).map_err(prepare("agent connection"))?;
    Ok((machine, agent))
}

fn pass_pair(handover: &mut Handover, [state_name, memory_name]: [&str; 2], state: File, memory: File) {
    handover.pass(state_name, state);
    handover.pass(memory_name, memory);
}

pub(super) fn limits(cpus: u8, guest: u64) -> Limits {
    let cpus = u32::from(cpus);
    Limits {
        memory_bytes: guest.saturating_add(guest / 8).saturating_add(BYTES_BESIDE_GUEST),
        processes: cpus.saturating_add(PROCESSES_BESIDE_VCPUS),
        cpu_percent: cpus.saturating_mul(100).saturating_add(PERCENT_BESIDE_VCPUS),
    }
}
