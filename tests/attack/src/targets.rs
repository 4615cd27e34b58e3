//! What there is to attack, all of it made for that, and what became of it.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use stockade_jailer::plan::Tracing;
use stockade_prisoner::{DISK_BYTES, FORGET, MARKER, NEIGHBOUR, Neighbour, VICTIM, descriptor};

use crate::cell::{Blueprint, Cell, LIMITS_OF_OTHERS};
use crate::error::{AttackError, Step};

/// How long a victim and a neighbour may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// The variable in the victim's environment.
const SECRET: &str = "SECRET";

/// Everything that there is to attack.
pub(crate) struct Targets {
    folder: tempfile::TempDir,
    before: BTreeMap<PathBuf, Seen>,
    victim: Victim,
    tcp: TcpListener,
    udp: UdpSocket,
    listeners: Vec<UnixListener>,
    datagram: UnixDatagram,
    neighbour: Next,
    said: stockade_prisoner::Targets,
}

impl Targets {
    /// Makes all of it, with names that begin with `name`.
    pub(crate) fn make(name: &str, jailer: &Path, prisoner: &Path) -> Result<Self, AttackError> {
        let folder = fill_folder(name, prisoner)?;
        let victim = Victim::start(prisoner)?;
        let tcp = TcpListener::bind("127.0.0.1:0").step("listen with TCP")?;
        let udp = UdpSocket::bind("127.0.0.1:0").step("listen with UDP")?;
        let path = folder.path();
        let by_path = UnixListener::bind(path.join("socket")).step("listen at a path")?;
        let datagram = UnixDatagram::bind(path.join("datagram")).step("listen at a path")?;
        for socket in ["socket", "datagram"] {
            set_mode(&path.join(socket), 0o777)?;
        }
        let abstract_name = format!("{name}-abstract");
        let address = SocketAddr::from_abstract_name(&abstract_name).step("name a socket")?;
        let by_name = UnixListener::bind_addr(&address).step("listen at a name")?;
        let neighbour = Next::start(&format!("{name}-next"), jailer, prisoner)?;
        let said = stockade_prisoner::Targets {
            folder: path.to_owned(),
            victim: victim.pid()?,
            victim_address: victim.address,
            ipc_key: victim.key,
            tcp_port: tcp.local_addr().step("listen with TCP")?.port(),
            udp_port: udp.local_addr().step("listen with UDP")?.port(),
            abstract_name,
            neighbour: Neighbour {
                pid: neighbour.cell.pid(),
                uid: neighbour.cell.uid(),
                run_directory: neighbour.cell.run_directory().to_owned(),
                cgroups: neighbour.cell.cgroups(),
            },
        };
        let listeners = vec![by_path, by_name];
        for listener in listeners.iter().chain([&neighbour.listener]) {
            listener.set_nonblocking(true).step("listen")?;
        }
        tcp.set_nonblocking(true).step("listen with TCP")?;
        udp.set_nonblocking(true).step("listen with UDP")?;
        datagram.set_nonblocking(true).step("listen at a path")?;
        let before = look_around(folder.path()).step("look at files")?;
        Ok(Self { folder, before, victim, tcp, udp, listeners, datagram, neighbour, said })
    }

    /// What a prisoner has to know of it.
    pub(crate) fn said(&self) -> &stockade_prisoner::Targets {
        &self.said
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What was done to the disk up to now is what a vmm does with a disk.
    pub(crate) fn allow_use_of_disk(&mut self) -> Result<(), AttackError> {
        let seen = look_around(self.folder.path()).step("look at files")?;
        let path = self.folder.path().join("disk");
        if let Some(disk) = seen.get(&path) {
            self.before.insert(path, *disk);
        }
        Ok(())
    }

    /// Sends a descriptor of the folder with its files.
    pub(crate) fn betray(&self, socket: &UnixStream) -> Result<(), AttackError> {
        let folder = File::open(self.folder.path()).step("open a folder")?;
        send_descriptor(socket, &folder).step("send a descriptor")
    }

    /// What a prisoner inherits of it, and the other end of its socket.
    pub(crate) fn descriptors(&self) -> Result<(Vec<(i32, OwnedFd)>, UnixStream), AttackError> {
        let (theirs, ours) = UnixStream::pair().step("make a socket")?;
        self.betray(&ours)?;
        let disk = File::options().read(true).write(true).open(self.folder.path().join("disk")).step("open a file")?;
        let mut descriptors = vec![
            (descriptor::IMAGE, File::open(self.folder.path().join("image")).step("open a file")?.into()),
            (descriptor::DISK, disk.into()),
            (descriptor::STREAM, theirs.into()),
        ];
        if let Ok(kvm) = File::options().read(true).write(true).open("/dev/kvm") {
            descriptors.push((descriptor::KVM, kvm.into()));
        }
        Ok((descriptors, ours))
    }

    /// What is not any more as it was, in words; all of it then has to be made anew.
    pub(crate) fn harm(&mut self) -> Result<Option<String>, AttackError> {
        let mut harm = changes(&self.before, &look_around(self.folder.path()).step("look at files")?);
        harm.extend(self.victim.harm());
        let by_tcp = self.tcp.accept().is_ok().then_some("somebody connected by TCP");
        let by_udp = self.udp.recv(&mut [0; 1]).is_ok().then_some("somebody sent by UDP");
        let by_datagram = self.datagram.recv(&mut [0; 1]).is_ok().then_some("somebody sent a datagram");
        let connected = self.listeners.iter().any(|listener| listener.accept().is_ok());
        let by_socket = connected.then_some("somebody connected to a unix socket");
        harm.extend([by_tcp, by_udp, by_datagram, by_socket].into_iter().flatten().map(String::from));
        harm.extend(self.neighbour.harm());
        Ok((!harm.is_empty()).then(|| harm.join("; ")))
    }
}

/// Makes the folder with files.
fn fill_folder(name: &str, prisoner: &Path) -> Result<tempfile::TempDir, AttackError> {
    let folder = tempfile::Builder::new().prefix(&format!("attack-{name}-")).tempdir().step("make a folder")?;
    let file = |name: &str, content: &[u8], mode| -> Result<(), AttackError> {
        let path = folder.path().join(name);
        let mut file = File::create_new(&path).step("make a file")?;
        file.write_all(content).and_then(|()| file.sync_all()).step("make a file")?;
        set_mode(&path, mode)
    };
    set_mode(folder.path(), 0o755)?;
    file("world", MARKER.as_bytes(), 0o644)?;
    file("private", MARKER.as_bytes(), 0o600)?;
    file("writable", MARKER.as_bytes(), 0o666)?;
    file("disk", &vec![1; usize::try_from(DISK_BYTES).unwrap_or(0)], 0o600)?;
    let open = folder.path().join("open");
    std::fs::create_dir(&open).step("make a folder")?;
    set_mode(&open, 0o777)?;
    file("open/victim", MARKER.as_bytes(), 0o644)?;
    std::os::unix::fs::symlink(MARKER, folder.path().join("link")).step("make a link")?;
    for (name, mode) in [("program", 0o755), ("image", 0o755), ("setuid", 0o4755)] {
        let path = folder.path().join(name);
        std::fs::copy(prisoner, &path).step("copy stockade-prisoner")?;
        set_mode(&path, mode)?;
        // On the disk, so that its blocks are counted, and its pages can leave memory.
        File::open(&path).and_then(|file| file.sync_all()).step("copy stockade-prisoner")?;
    }
    Ok(folder)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), AttackError> {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).step("set a mode")
}

/// What can be seen of a file: mode, owner, names, size, blocks, time of the last change.
type Seen = (u32, u32, u64, u64, u64, i64, i64);

fn look_around(folder: &Path) -> io::Result<BTreeMap<PathBuf, Seen>> {
    let mut seen = BTreeMap::new();
    for folder in [folder, &folder.join("open")] {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let m = entry.metadata()?;
            let fields = (m.mode(), m.uid(), m.nlink(), m.size(), m.blocks(), m.ctime(), m.ctime_nsec());
            seen.insert(entry.path(), fields);
        }
    }
    Ok(seen)
}

fn changes(before: &BTreeMap<PathBuf, Seen>, after: &BTreeMap<PathBuf, Seen>) -> Vec<String> {
    let paths = before.keys().chain(after.keys().filter(|path| !before.contains_key(*path)));
    let changed = paths.filter(|path| before.get(*path) != after.get(*path));
    changed.map(|path| format!("{} was changed", path.display())).collect()
}

/// Sends a descriptor with one byte.
fn send_descriptor(socket: &UnixStream, descriptor: &impl AsFd) -> io::Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    rights.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(b"x")], &mut rights, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The process to attack.
struct Victim {
    process: Child,
    program: PathBuf,
    address: u64,
    key: i32,
}

impl Victim {
    fn start(prisoner: &Path) -> Result<Self, AttackError> {
        let mut command = Command::new(prisoner);
        let key = free_key();
        command.args([VICTIM, &key.to_string()]).env_clear().env(SECRET, MARKER).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let process = command.spawn().step("start a process to attack")?;
        let mut victim = Self { process, program: prisoner.to_owned(), address: 0, key };
        let mut line = String::new();
        if let Some(output) = victim.process.stdout.take() {
            BufReader::new(output).read_line(&mut line).step("hear from the process to attack")?;
        }
        let address = line.trim().parse().map_err(io::Error::other);
        victim.address = address.step("hear from the process to attack")?;
        Ok(victim)
    }

    fn pid(&self) -> Result<i32, AttackError> {
        i32::try_from(self.process.id()).map_err(io::Error::other).step("start a process to attack")
    }

    fn harm(&mut self) -> Option<String> {
        if let Ok(Some(status)) = self.process.try_wait() {
            return Some(format!("the process to attack ended: {status}"));
        }
        let mut memory = vec![0; MARKER.len()];
        let file = File::open(format!("/proc/{}/mem", self.process.id()));
        let read = file.and_then(|file| file.read_exact_at(&mut memory, self.address));
        (read.is_ok() && memory != MARKER.as_bytes()).then(|| "the memory of the process to attack was changed".into())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Its input ends, so that it removes its shared memory, and itself.
        drop(self.process.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.process.kill();
        let ended = self.process.wait();
        if !ended.is_ok_and(|status| status.success()) {
            // An attempt ended it, so that its shared memory is still there.
            let mut command = Command::new(&self.program);
            let _ = command.args([FORGET, &self.key.to_string()]).env_clear().stderr(Stdio::null()).status();
        }
    }
}

/// A key for shared memory that no other worker and, most likely, no other process has; and neither the one after it.
fn free_key() -> i32 {
    static COUNT: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);
    let number = COUNT.fetch_add(2, std::sync::atomic::Ordering::Relaxed);
    let process = i32::try_from(std::process::id()).unwrap_or(0);
    0x5700_0000 | ((process & 0xffff) << 8) | (number & 0xff)
}

/// The jail next door.
struct Next {
    cell: Cell,
    listener: UnixListener,
    /// It lives for as long as this.
    _stream: UnixStream,
}

impl Next {
    fn start(name: &str, jailer: &Path, prisoner: &Path) -> Result<Self, AttackError> {
        let (theirs, stream) = UnixStream::pair().step("make a socket")?;
        let cell = Cell::build(Blueprint {
            name,
            jailer,
            program: prisoner,
            arguments: vec![NEIGHBOUR.to_owned()],
            limits: LIMITS_OF_OTHERS,
            without: Vec::new(),
            shared_namespaces: Vec::new(),
            // Or nobody else could trace it, whatever the jail, and an attempt that fails would show nothing.
            tracing: Tracing::Another,
            descriptors: vec![(descriptor::STREAM, theirs.into())],
        })?;
        let path = cell.run_directory().join("api.sock");
        let listener = UnixListener::bind(&path).step("listen for the jail next door")?;
        chown(&path, Some(cell.uid()), Some(cell.uid())).step("listen for the jail next door")?;
        let deadline = Instant::now() + PATIENCE;
        while !cell.console().ends_with(MARKER.as_bytes()) {
            if Instant::now() > deadline {
                return Err(AttackError::Warden("the jail next door says nothing".into()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Self { cell, listener, _stream: stream })
    }

    fn harm(&self) -> Option<String> {
        let socket = self.cell.run_directory().join("api.sock");
        if !self.cell.is_alive() {
            Some("the machine next door ended".into())
        } else if self.listener.accept().is_ok() {
            Some("somebody connected to the machine next door".into())
        } else if !socket.exists() {
            Some("the socket of the machine next door is gone".into())
        } else if !self.cell.console().ends_with(MARKER.as_bytes()) {
            Some("the console of the machine next door was changed".into())
        } else {
            None
        }
    }
}
