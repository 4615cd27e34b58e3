//! A vmm in the sealed jail: everything is handed over as descriptors, as `stockade run` does it.

use std::fs::{DirBuilder, File};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use stockade_jailer::plan::{self, Authority, Limits, Plan, Tracing};
use stockade_jailer::warden::{self, Event};

use crate::error::{Error, at};
use crate::round::GUEST_MIB;

/// User and group: beyond those that the supervisor leases.
const UID: u32 = 0x7001_0000;
/// Where the folders of VMs are; the supervisor makes it.
const MACHINES: &str = "/run/stockade/vms";
/// Memory of the vmm itself, and of what KVM keeps for the guest.
const BYTES_BESIDE_GUEST: u64 = 96 << 20;

/// The supervisor's end of a jail.
#[derive(Debug)]
pub struct Warden {
    control: OwnedFd,
    run_directory: PathBuf,
}

/// What the clock does not see: the command that builds the jail, and the warden's other side.
pub fn prepare(jailer: &Path, vmm: &Path, arguments: &[String], folder: &Path) -> Result<(Command, Warden), Error> {
    let id = format!("bench-{}", std::process::id());
    let mut inherited = Inherited::default();
    let listener = folder.join("api");
    let listener: OwnedFd = UnixListener::bind(&listener).map_err(at("listen on", &listener))?.into();
    let mut descriptors = Vec::new();
    let mut vmm_arguments = ["--id", &id, "--api-sock", "fd:api"].map(str::to_owned).to_vec();
    let kvm = File::options().read(true).write(true).open("/dev/kvm");
    let kvm = kvm.map_err(at("open", Path::new("/dev/kvm")))?;
    let kernel = open(&folder.join("kernel"))?;
    for (name, descriptor) in [("kvm", kvm.into()), ("kernel", kernel), ("api", listener)] {
        let number = inherited.add(descriptor);
        descriptors.push(number);
        vmm_arguments.extend(["--fd".to_owned(), format!("{name}={number}")]);
    }
    vmm_arguments.extend_from_slice(arguments);
    Site { jailer, program: vmm, folder, id, uid: UID }.prepare(inherited, descriptors, vmm_arguments)
}

/// The same for a program that needs nothing, one of several at once.
pub fn prepare_alone(jailer: &Path, program: &Path, folder: &Path, number: usize) -> Result<(Command, Warden), Error> {
    let id = format!("bench-{}-{number}", std::process::id());
    let uid = UID.saturating_add(u32::try_from(number).unwrap_or(0));
    Site { jailer, program, folder, id, uid }.prepare(Inherited::default(), Vec::new(), Vec::new())
}

/// What is to be jailed, and where.
struct Site<'a> {
    jailer: &'a Path,
    program: &'a Path,
    folder: &'a Path,
    id: String,
    uid: u32,
}

impl Site<'_> {
    fn prepare(
        self,
        mut inherited: Inherited,
        descriptors: Vec<RawFd>,
        arguments: Vec<String>,
    ) -> Result<(Command, Warden), Error> {
        let Self { jailer, program, folder, id, uid } = self;
        let run_directory = Path::new(MACHINES).join(&id);
        let made = DirBuilder::new().mode(0o700).create(&run_directory);
        made.and_then(|()| chown(&run_directory, Some(uid), Some(uid))).map_err(at("create", &run_directory))?;
        let (control, warden_end) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|errno| at("make a socket for", jailer)(errno.into()))?;
        let warden = Warden { control, run_directory: run_directory.clone() };
        // The guest's console is standard output here, so that the warden has none to keep.
        let (console, _) = std::io::pipe().map_err(at("make a pipe for", jailer))?;
        let plan = Plan {
            version: plan::VERSION,
            authority: Authority::Root,
            id,
            uid,
            executable: inherited.add(open(program)?),
            arguments,
            descriptors,
            lease: inherited.add(open(folder)?),
            control: inherited.add(warden_end),
            console: inherited.add(console.into()),
            run_directory,
            console_ring_bytes: 4096,
            limits: Limits { memory_bytes: (GUEST_MIB << 20) + BYTES_BESIDE_GUEST, processes: 16, cpu_percent: 200 },
            without: Vec::new(),
            shared_namespaces: Vec::new(),
            tracing: Tracing::Warden,
            detached: None,
        };
        let path = folder.join("plan");
        let text = serde_json::to_vec(&plan).map_err(|error| at("write", &path)(error.into()))?;
        std::fs::write(&path, text).map_err(at("write", &path))?;
        let number = inherited.add(open(&path)?);
        let mut command = Command::new(jailer);
        command.args(["sealed", "--plan-fd", &number.to_string()]);
        let mapped = command.fd_mappings(inherited.0);
        mapped.map_err(|collision| at("hand descriptors to", jailer)(std::io::Error::other(collision)))?;
        Ok((command, warden))
    }
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    Ok(File::open(path).map_err(at("open", path))?.into())
}

/// Descriptors that the jailer gets, numbered from 3 up.
#[derive(Default)]
struct Inherited(Vec<FdMapping>);

impl Inherited {
    fn add(&mut self, parent_fd: OwnedFd) -> RawFd {
        let child_fd = RawFd::try_from(self.0.len()).unwrap_or(RawFd::MAX).saturating_add(3);
        self.0.push(FdMapping { parent_fd, child_fd });
        child_fd
    }
}

impl Warden {
    /// Waits until the jail is complete, and returns the process id of the vmm.
    pub fn confined(&self) -> Result<u32, Error> {
        match self.next()? {
            Event::Confined { pid, .. } => u32::try_from(pid).map_err(|error| self.failed(error)),
            other => Err(self.failed(format!("{other:?}"))),
        }
    }

    /// Waits until the vmm has ended by itself, and everything is removed.
    pub fn finish(&self) -> Result<(), Error> {
        self.await_cleaning()
    }

    /// Has the vmm killed, and everything removed.
    pub fn end(&self) -> Result<(), Error> {
        let kill = serde_json::to_vec(&warden::Command::Kill).map_err(|error| self.failed(error))?;
        send(self.control.as_raw_fd(), &kill, MsgFlags::MSG_NOSIGNAL).map_err(|errno| self.failed(errno))?;
        self.await_cleaning()
    }

    fn await_cleaning(&self) -> Result<(), Error> {
        loop {
            if let Event::Cleaned { left_behind } = self.next()? {
                return if left_behind.is_empty() { Ok(()) } else { Err(self.failed(left_behind.join(", "))) };
            }
        }
    }

    fn next(&self) -> Result<Event, Error> {
        let mut packet = vec![0; warden::MAX_PACKET_BYTES];
        let length =
            recv(self.control.as_raw_fd(), &mut packet, MsgFlags::empty()).map_err(|errno| self.failed(errno))?;
        serde_json::from_slice(packet.get(..length).unwrap_or_default()).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        at("hear of the jail of", &self.run_directory)(std::io::Error::other(error))
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        // Gone already, if the warden did its work.
        let _ = std::fs::remove_dir_all(&self.run_directory);
    }
}
