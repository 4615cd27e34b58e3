//! Starts a jailer with everything that it and its vmm will ever need, as descriptors.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use stockade_jailer::plan::{self, Layer, Limits, Plan, Tracing};
use stockade_vmm_api::vm_config::{ConfigFile, StartFile};
use tokio::net::UnixStream;

use super::diagnostics::Diagnostics;
use super::events::EventLines;
use super::lease::LeaseError;
use super::run_directory::{RunDirectory, RunDirectoryError};
use super::state::{Claim, State};
use super::warden::WardenLink;
use super::{Machine, Status};
use crate::config::{clone_configuration, descriptor};
use crate::request::{Cpus, MemorySize, VmName};
use crate::warm::WarmGuest;

/// Console output that is kept.
pub(super) const CONSOLE_RING_BYTES: u32 = 256 * 1024;
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
    let Claim { uid, lease, run_directory } = state.claim(&blueprint.name)?;

    let (control, warden_end) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| prepare("control socket")(errno.into()))?;
    let (agent, guest_end) = std::os::unix::net::UnixStream::pair().map_err(prepare("agent connection"))?;
    let (console, console_end) = io::pipe().map_err(prepare("console"))?;
    let (events, events_end) = io::pipe().map_err(prepare("events"))?;
    let (diagnostics, diagnostics_end) = io::pipe().map_err(prepare("standard error"))?;
    agent.set_nonblocking(true).map_err(prepare("agent connection"))?;

    let mut inheritance = Inheritance::default();
    let mut vmm = VmmDescriptors { inheritance: &mut inheritance, arguments: Vec::new(), numbers: Vec::new() };
    vmm.pass(descriptor::KVM, blueprint.kvm.into());
    let configuration = match blueprint.origin {
        Origin::Boot { kernel, initramfs, configuration } => {
            vmm.pass(descriptor::KERNEL, kernel.into());
            vmm.pass(descriptor::INITRAMFS, initramfs.into());
            StartFile::Boot(configuration)
        }
        Origin::Snapshot(WarmGuest { state, memory }) => {
            vmm.pass_pair(descriptor::SNAPSHOT, state, memory);
            StartFile::Snapshot(clone_configuration())
        }
    };
    if let Some((state, memory)) = blueprint.new_snapshot {
        vmm.pass_pair(descriptor::NEW_SNAPSHOT, state, memory);
    }
    if let Some(root) = blueprint.root {
        vmm.pass(descriptor::ROOT, root.into());
    }
    vmm.pass(descriptor::CONSOLE, console_end.into());
    vmm.pass(descriptor::EVENTS, events_end.into());
    vmm.pass(descriptor::CONFIG, configuration_file(&configuration)?);
    vmm.pass(descriptor::API, listener(&run_directory, "api.sock")?);
    vmm.pass(descriptor::VSOCK, listener(&run_directory, "vsock.sock")?);
    vmm.pass(descriptor::AGENT, guest_end.into());
    let VmmDescriptors { arguments: descriptor_arguments, numbers, .. } = vmm;

    let name = blueprint.name.as_str();
    let mut arguments: Vec<String> =
        ["--id", name, "--api-sock", "fd:api", "--config-file", "fd:config"].map(String::from).to_vec();
    arguments.extend(descriptor_arguments);
    let plan = Plan {
        version: plan::VERSION,
        id: name.to_owned(),
        authority: state.authority(),
        uid,
        executable: inheritance.add(blueprint.vmm.into()),
        arguments,
        descriptors: numbers,
        lease: inheritance.add(lease),
        control: inheritance.add(warden_end),
        console: inheritance.add(console.into()),
        run_directory: run_directory.path().to_owned(),
        console_ring_bytes: CONSOLE_RING_BYTES,
        limits: limits(blueprint.cpus.get(), blueprint.memory.bytes()),
        without: blueprint.without,
        shared_namespaces: Vec::new(),
        tracing: Tracing::Warden,
        detached: None,
    };
    let plan = inheritance.add(plan_file(&plan)?);
    let jailer = execute(&blueprint.jailer, plan, inheritance, diagnostics_end.into())?;
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

/// Executes the jailer by its descriptor, so that it is the program that was checked, away from the caller's terminal.
pub(super) fn execute(
    program: &File,
    plan: RawFd,
    inheritance: Inheritance,
    diagnostics: OwnedFd,
) -> Result<tokio::process::Child, LaunchError> {
    // Not /proc/self: in the child, its number may be another descriptor's by then.
    let path = format!("/proc/{}/fd/{}", std::process::id(), program.as_raw_fd());
    let mut command = Command::new(path);
    std::os::unix::process::CommandExt::arg0(&mut command, OsStr::new("stockade-jailer"));
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.args(["sealed", "--plan-fd", &plan.to_string()]).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(diagnostics);
    let mapped = command.fd_mappings(inheritance.mappings);
    mapped.map_err(|collision| prepare("descriptors")(io::Error::other(collision)))?;
    tokio::process::Command::from(command).spawn().map_err(LaunchError::Execute)
}

pub(super) fn limits(cpus: u8, guest: u64) -> Limits {
    let cpus = u32::from(cpus);
    Limits {
        memory_bytes: guest.saturating_add(guest / 8).saturating_add(BYTES_BESIDE_GUEST),
        processes: cpus.saturating_add(PROCESSES_BESIDE_VCPUS),
        cpu_percent: cpus.saturating_mul(100).saturating_add(PERCENT_BESIDE_VCPUS),
    }
}

/// Descriptors on their way to the jailer, and the numbers that they get there.
#[derive(Default)]
pub(super) struct Inheritance {
    mappings: Vec<FdMapping>,
}

impl Inheritance {
    /// The first number after the standard streams.
    const FIRST: RawFd = 3;

    pub(super) fn add(&mut self, parent_fd: OwnedFd) -> RawFd {
        let count = RawFd::try_from(self.mappings.len()).unwrap_or(RawFd::MAX);
        let child_fd = Self::FIRST.saturating_add(count);
        self.mappings.push(FdMapping { parent_fd, child_fd });
        child_fd
    }
}

/// The part of them that the vmm inherits, by name.
pub(super) struct VmmDescriptors<'a> {
    pub(super) inheritance: &'a mut Inheritance,
    pub(super) arguments: Vec<String>,
    pub(super) numbers: Vec<RawFd>,
}

impl VmmDescriptors<'_> {
    pub(super) fn pass(&mut self, name: &str, descriptor: OwnedFd) {
        let number = self.inheritance.add(descriptor);
        self.numbers.push(number);
        self.arguments.extend(["--fd".to_owned(), format!("{name}={number}")]);
    }

    fn pass_pair(&mut self, [state_name, memory_name]: [&str; 2], state: File, memory: File) {
        self.pass(state_name, state.into());
        self.pass(memory_name, memory.into());
    }
}

pub(super) fn listener(run_directory: &RunDirectory, name: &str) -> Result<OwnedFd, LaunchError> {
    let listener = UnixListener::bind(run_directory.path().join(name)).map_err(prepare("sockets"))?;
    Ok(listener.into())
}

pub(super) fn configuration_file(configuration: &impl serde::Serialize) -> Result<OwnedFd, LaunchError> {
    let text = serde_json::to_vec(configuration).map_err(|error| prepare("configuration")(error.into()))?;
    sealed_file("stockade-config", &text).map_err(prepare("configuration"))
}

pub(super) fn plan_file(plan: &Plan) -> Result<OwnedFd, LaunchError> {
    let text = serde_json::to_vec(plan).map_err(|error| prepare("plan")(error.into()))?;
    sealed_file("stockade-plan", &text).map_err(prepare("plan"))
}

/// A file in memory that nobody can change any more.
fn sealed_file(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(content)?;
    file.rewind()?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

pub(super) fn prepare(object: &'static str) -> impl Fn(io::Error) -> LaunchError {
    move |source| LaunchError::Prepare { object, source }
}
