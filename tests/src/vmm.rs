//! A `stockade-vmm` process.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use serde_json::json;
use stockade_vmm_api::event::{Event, EventKind};

use crate::api::{Connection, Response};
use crate::guest::{Guest, Protocol};
use crate::memory::GuestMemory;
use crate::output::Output;
use crate::{Scratch, program, wait_for};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What is to be started, and how.
#[derive(Debug)]
pub struct Builder {
    program: PathBuf,
    arguments: Vec<OsString>,
    descriptors: Vec<(String, OwnedFd)>,
    socket: Option<PathBuf>,
    console: Option<Stdio>,
}

/// A running vmm; killed when dropped.
#[derive(Debug)]
pub struct Vmm {
    child: Child,
    socket: Option<PathBuf>,
    input: Option<ChildStdin>,
    console: Option<Output>,
    log: Output,
    events: Output,
}

impl Builder {
    /// A vmm with an API socket in the folder, its console and log collected.
    pub fn new(scratch: &Scratch) -> Self {
        let name = scratch.vm_name();
        let socket = scratch.join(&format!("{name}.api"));
        let builder = Self::bare().argument("--id").argument(name).argument("--api-sock").argument(&socket);
        Self { socket: Some(socket), ..builder }
    }

    /// A vmm with no argument but those that the test adds.
    pub fn bare() -> Self {
        Self {
            program: program("stockade-vmm"),
            arguments: Vec::new(),
            descriptors: Vec::new(),
            socket: None,
            console: None,
        }
    }

    /// A vmm that opens no path: `/dev/kvm`, this guest as `fd:kernel`, and the API's socket are handed over.
    pub fn sealed(scratch: &Scratch, guest: Guest, protocol: Protocol) -> Self {
        let name = scratch.vm_name();
        let socket = scratch.join(&format!("{name}.api"));
        let kernel = scratch.file("kernel", guest.image(protocol));
        let kvm = File::options().read(true).write(true).open("/dev/kvm").expect("open /dev/kvm");
        let builder = Self::bare()
            .argument("--id")
            .argument(name)
            .arguments(["--api-sock", "fd:api"])
            .descriptor("kvm", kvm)
            .descriptor("kernel", File::open(kernel).expect("open the kernel"))
            .descriptor("api", UnixListener::bind(&socket).expect("make a socket"));
        Self { socket: Some(socket), ..builder }
    }

    /// Adds an argument.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn arguments<const N: usize>(self, arguments: [&str; N]) -> Self {
        arguments.into_iter().fold(self, |builder, argument| builder.argument(argument))
    }

    /// Hands a descriptor over under a name.
    pub fn descriptor(mut self, name: &str, descriptor: impl Into<OwnedFd>) -> Self {
        self.descriptors.push((name.to_owned(), descriptor.into()));
        self
    }

    /// Sends standard output, and with it the console, elsewhere.
    pub fn standard_output(mut self, output: impl Into<Stdio>) -> Self {
        self.console = Some(output.into());
        self
    }

    /// Starts it, and configures this guest with 128 MiB and one vCPU.
    pub fn start_with(self, scratch: &Scratch, guest: Guest, protocol: Protocol) -> Vmm {
        let vmm = self.start();
        vmm.put("/boot-source", &boot_source(scratch, guest, protocol));
        vmm
    }

    /// Starts it.
    pub fn start(self) -> Vmm {
        const FIRST_DESCRIPTOR: i32 = 3;
        let (reader, writer) = std::io::pipe().expect("make a pipe");
        let mut command = Command::new(&self.program);
        command.env_clear().args(self.arguments);
        let mut mappings = Vec::new();
        let events = ("events".to_owned(), OwnedFd::from(writer));
        for (child_fd, (name, parent_fd)) in (FIRST_DESCRIPTOR..).zip(self.descriptors.into_iter().chain([events])) {
            command.arg("--fd").arg(format!("{name}={child_fd}"));
            mappings.push(FdMapping { parent_fd, child_fd });
        }
        command.fd_mappings(mappings).expect("the descriptors have numbers of their own");
        let collected = self.console.is_none();
        command.stdin(Stdio::piped()).stdout(self.console.unwrap_or_else(Stdio::piped)).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        let console = child.stdout.take().filter(|_| collected).map(Output::collect);
        let log = Output::collect(child.stderr.take().expect("standard error is a pipe"));
        let input = child.stdin.take();
        Vmm { child, socket: self.socket, input, console, log, events: Output::collect(reader) }
    }
}

impl Vmm {
    /// Starts a vmm with an API socket, and configures this guest with 128 MiB and one vCPU.
    pub fn with_guest(scratch: &Scratch, guest: Guest, protocol: Protocol) -> Self {
        Builder::new(scratch).start_with(scratch, guest, protocol)
    }

    /// Process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id is positive")
    }

    /// Path of the API socket.
    pub fn socket(&self) -> &Path {
        self.socket.as_deref().expect("this vmm has an API socket")
    }

    /// Opens a connection to the API, as soon as the socket is there.
    pub fn connect(&self) -> Connection {
        wait_for("the API socket", || Connection::open(self.socket()).ok())
    }

    /// One request on a connection of its own.
    pub fn request(&self, method: &str, target: &str, body: &str) -> Response {
        self.connect().request(method, target, body)
    }

    /// A `PUT` that must succeed.
    pub fn put(&self, target: &str, body: &serde_json::Value) {
        let response = self.request("PUT", target, &body.to_string());
        assert_eq!(response.status, 204, "PUT {target} {body}: {}", response.body);
    }

    /// Lets the guest go.
    pub fn start_guest(&self) {
        self.put("/actions", &json!({ "action_type": "InstanceStart" }));
    }

    /// Pauses or resumes: `Paused` or `Resumed`.
    pub fn set_state(&self, state: &str) {
        let response = self.request("PATCH", "/vm", &json!({ "state": state }).to_string());
        assert_eq!(response.status, 204, "{state}: {}", response.body);
    }

    /// Standard output: what the guest writes to its console.
    pub fn console(&self) -> &Output {
        self.console.as_ref().expect("the console is collected")
    }

    /// Standard error.
    pub fn log(&self) -> &Output {
        &self.log
    }

    /// Standard input, which feeds the console; can be taken once.
    pub fn take_input(&mut self) -> ChildStdin {
        self.input.take().expect("standard input is taken once")
    }

    /// The events so far.
    pub fn events(&self) -> Vec<EventKind> {
        let bytes = self.events.bytes();
        let complete = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        BufReader::new(&bytes[..complete])
            .lines()
            .map(|line| line.expect("events are text"))
            .map(|line| serde_json::from_str::<Event>(&line).unwrap_or_else(|error| panic!("{error}: {line}")).kind)
            .collect()
    }

    /// The guest's memory, once a guest with a shared page is loaded.
    pub fn memory(&self) -> GuestMemory {
        wait_for("the guest's shared page", || GuestMemory::find(self.pid()))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait for the vmm").is_none()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Exit {
        let status = wait_for("the vmm to end", || self.child.try_wait().expect("wait for the vmm"));
        match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => panic!("neither exited nor signaled: {status:?}"),
        }
    }

    /// Kills it, and waits for its end.
    pub fn kill(&mut self) -> Exit {
        self.child.kill().expect("kill the vmm");
        self.wait()
    }

    /// Waits for its end, and returns that with what it wrote: console, log, and the last event.
    pub fn finish(mut self) -> (Exit, String, String, Option<EventKind>) {
        let exit = self.wait();
        let text = |output: Output| String::from_utf8_lossy(&output.finish()).into_owned();
        let console = self.console.take().map(text).unwrap_or_default();
        // Swapped for an empty one, because a value with a destructor can't be taken apart.
        let log = text(std::mem::replace(&mut self.log, Output::collect(std::io::empty())));
        self.events.wait_for_end();
        (exit, console, log, self.events().pop())
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the vmm's log:\n{}", self.log.text());
        }
    }
}

/// Body of `PUT /boot-source` for a flat guest, whose image is written to the folder.
pub fn boot_source(scratch: &Scratch, guest: Guest, protocol: Protocol) -> serde_json::Value {
    let image = scratch.file("kernel", guest.image(protocol));
    json!({ "kernel_image_path": image, "boot_args": "" })
}
