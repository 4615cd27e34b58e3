//! What a jailer is started with: every descriptor that it and its vmm will ever need, and the plan that names them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, PipeReader, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::Serialize;
use stockade_jailer::plan::{self, Authority, Detached, Layer, Limits, Plan, Tracing};

use super::launch::LaunchError;
use super::run_directory::RunDirectory;
use super::state::{Claim, State};
use crate::config::descriptor;
use crate::request::VmName;

/// Console output that is kept.
pub const CONSOLE_RING_BYTES: u32 = 256 * 1024;

/// The machine's part of a start, as it grows.
pub(super) struct Handover {
    inheritance: Inheritance,
    authority: Authority,
    name: String,
    uid: u32,
    lease: RawFd,
    control: RawFd,
    console: RawFd,
    /// Becomes the standard error of jailer and vmm.
    diagnostics: OwnedFd,
    /// The part of the descriptors that the vmm inherits, and the arguments that name them.
    descriptors: Vec<RawFd>,
    arguments: Vec<String>,
}

/// The host's ends of what connects it to the machine.
pub(super) struct HostEnds {
    pub(super) control: OwnedFd,
    pub(super) events: PipeReader,
    pub(super) diagnostics: PipeReader,
    pub(super) run_directory: RunDirectory,
}

/// What is special about a jail.
pub(super) struct Terms {
    pub(super) limits: Limits,
    pub(super) without: Vec<Layer>,
    pub(super) detached: Option<Detached>,
}

impl Handover {
    /// Begins with what every machine has: its claim, a console, events, and sockets for its API and its vsock device.
    pub(super) fn new(state: &State, name: &VmName) -> Result<(Self, HostEnds), LaunchError> {
        let Claim { uid, lease, run_directory } = state.claim(name)?;
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (control, warden_end) = pair.map_err(|errno| prepare("control socket")(errno.into()))?;
        let (console, console_end) = io::pipe().map_err(prepare("console"))?;
        let (events, events_end) = io::pipe().map_err(prepare("events"))?;
        let (diagnostics, diagnostics_end) = io::pipe().map_err(prepare("standard error"))?;

        let mut inheritance = Inheritance::default();
        let mut handover = Self {
            authority: state.authority(),
            name: name.as_str().to_owned(),
            uid,
            lease: inheritance.add(lease),
            control: inheritance.add(warden_end),
            console: inheritance.add(console.into()),
            inheritance,
            diagnostics: diagnostics_end.into(),
            descriptors: Vec::new(),
            arguments: ["--id", name.as_str(), "--api-sock", "fd:api", "--config-file", "fd:config"]
                .map(String::from)
                .to_vec(),
        };
        handover.pass(descriptor::CONSOLE, console_end);
        handover.pass(descriptor::EVENTS, events_end);
        handover.pass(descriptor::API, listener(&run_directory, "api.sock")?);
        handover.pass(descriptor::VSOCK, listener(&run_directory, "vsock.sock")?);
        Ok((handover, HostEnds { control, events, diagnostics, run_directory }))
    }

    /// Passes something to the jailer alone, and returns the number that it has there.
    pub(super) fn add(&mut self, descriptor: impl Into<OwnedFd>) -> RawFd {
        self.inheritance.add(descriptor.into())
    }

    /// Passes something to the vmm, by name.
    pub(super) fn pass(&mut self, name: &str, descriptor: impl Into<OwnedFd>) {
        let number = self.add(descriptor);
        self.descriptors.push(number);
        self.arguments.extend(["--fd".to_owned(), format!("{name}={number}")]);
    }

    /// Passes what the vmm reads at its start.
    pub(super) fn pass_configuration(&mut self, configuration: &impl Serialize) -> Result<(), LaunchError> {
        let file = sealed_file("stockade-config", configuration).map_err(prepare("configuration"))?;
        self.pass(descriptor::CONFIG, file);
        Ok(())
    }

    /// Executes the jailer by its descriptor, so that it is the program that was checked, away from the caller's terminal.
    pub(super) fn execute(
        mut self,
        jailer: &File,
        vmm: File,
        run_directory: &RunDirectory,
        terms: Terms,
    ) -> Result<tokio::process::Child, LaunchError> {
        let plan = Plan {
            version: plan::VERSION,
            authority: self.authority,
            uid: self.uid,
            executable: self.add(vmm),
            id: self.name,
            arguments: self.arguments,
            descriptors: self.descriptors,
            lease: self.lease,
            control: self.control,
            console: self.console,
            run_directory: run_directory.path().to_owned(),
            console_ring_bytes: CONSOLE_RING_BYTES,
            limits: terms.limits,
            without: terms.without,
            shared_namespaces: Vec::new(),
            tracing: Tracing::Warden,
            detached: terms.detached,
        };
        let plan = self.inheritance.add(sealed_file("stockade-plan", &plan).map_err(prepare("plan"))?);

        // Not /proc/self: in the child, its number may be another descriptor's by then.
        let path = format!("/proc/{}/fd/{}", std::process::id(), jailer.as_raw_fd());
        let mut command = Command::new(path);
        std::os::unix::process::CommandExt::arg0(&mut command, OsStr::new("stockade-jailer"));
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.args(["sealed", "--plan-fd", &plan.to_string()]).env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.diagnostics);
        let mapped = command.fd_mappings(self.inheritance.mappings);
        mapped.map_err(|collision| prepare("descriptors")(io::Error::other(collision)))?;
        tokio::process::Command::from(command).spawn().map_err(LaunchError::Execute)
    }
}

/// Descriptors on their way to the jailer, and the numbers that they get there.
#[derive(Default)]
struct Inheritance {
    mappings: Vec<FdMapping>,
}

impl Inheritance {
    /// The first number after the standard streams.
    const FIRST: RawFd = 3;

    fn add(&mut self, parent_fd: OwnedFd) -> RawFd {
        let count = RawFd::try_from(self.mappings.len()).unwrap_or(RawFd::MAX);
        let child_fd = Self::FIRST.saturating_add(count);
        self.mappings.push(FdMapping { parent_fd, child_fd });
        child_fd
    }
}

fn listener(run_directory: &RunDirectory, name: &str) -> Result<OwnedFd, LaunchError> {
    let listener = UnixListener::bind(run_directory.path().join(name)).map_err(prepare("sockets"))?;
    Ok(listener.into())
}

/// A file in memory with this as JSON, which nobody can change any more.
fn sealed_file(name: &str, content: &impl Serialize) -> io::Result<OwnedFd> {
    let text = serde_json::to_vec(content)?;
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(&text)?;
    file.rewind()?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

pub(super) fn prepare(object: &'static str) -> impl Fn(io::Error) -> LaunchError {
    move |source| LaunchError::Prepare { object, source }
}
