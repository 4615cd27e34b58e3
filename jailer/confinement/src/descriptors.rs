//! The open descriptors of a process, and what they are.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, getsockname, sockopt};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use serde::Serialize;

use crate::error::ReadError;
use crate::process::Process;

/// An open descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Descriptor {
    /// Its number.
    pub number: i32,
    /// What it is.
    pub kind: DescriptorKind,
    /// Which one: a path, or what the kernel calls it, such as `kvm-vm` or `eventfd`.
    pub target: String,
    /// What may be done with it.
    pub access: Access,
    /// Of a socket, more about it; none if the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<Socket>,
}

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DescriptorKind {
    /// A file.
    File,
    /// A file that is in memory alone (memfd_create(2)).
    MemoryFile,
    /// A folder, from which other files could be reached.
    Folder,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// An end of a pipe.
    Pipe,
    /// A socket.
    Socket,
    /// A thing of the kernel's that has no file: an event, a timer, a VM.
    Anonymous,
    /// A namespace.
    Namespace,
}

impl DescriptorKind {
    /// Its name in a table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::MemoryFile => "memory file",
            Self::Folder => "folder",
            Self::CharacterDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Pipe => "pipe",
            Self::Socket => "socket",
            Self::Anonymous => "kernel object",
            Self::Namespace => "namespace",
        }
    }
}

/// What may be done with a descriptor (open(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Both.
    ReadWrite,
    /// Neither: it stands for a place (`O_PATH`).
    Path,
}

impl Access {
    /// Its name in a table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadWrite => "read-write",
            Self::Path => "path",
        }
    }
}

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Socket {
    /// `unix`, `ipv4` and so on.
    pub domain: String,
    /// `stream`, `datagram` and so on.
    pub r#type: String,
    /// Whether it takes connections.
    pub listening: bool,
    /// Where it is bound to, if it is a unix socket with a name.
    pub address: Option<String>,
}

impl Descriptor {
    /// Reads all of `process`, in the order of their numbers.
    ///
    /// # Errors
    /// They can't be read.
    pub fn read_all(process: &Process) -> Result<Vec<Self>, ReadError> {
        let itself = process.descriptor()?;
        let mut descriptors = Vec::new();
        for number in process.numbers("fd")? {
            match Self::read(process, itself.as_fd(), number) {
                Ok(descriptor) => descriptors.push(descriptor),
                // Closed meanwhile.
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(descriptors)
    }

    fn read(process: &Process, itself: BorrowedFd<'_>, number: i32) -> Result<Self, ReadError> {
        let path = format!("fd/{number}");
        let link = process.link(&path)?;
        let file_type = FileType::from_raw_mode(process.metadata(&path)?.st_mode);
        let (kind, target) = describe(&link, file_type);
        let access = access(&process.text(&format!("fdinfo/{number}"))?);
        let socket = (kind == DescriptorKind::Socket).then(|| socket(itself, number)).flatten();
        Ok(Self { number, kind, target, access, socket })
    }
}

/// What a link in `/proc/PID/fd` and the type of the file say.
fn describe(link: &str, file_type: FileType) -> (DescriptorKind, String) {
    if let Some(name) = link.strip_prefix("anon_inode:") {
        let plain = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        return (DescriptorKind::Anonymous, plain.to_owned());
    }
    if let Some(name) = link.strip_prefix("/memfd:") {
        return (DescriptorKind::MemoryFile, name.strip_suffix(" (deleted)").unwrap_or(name).to_owned());
    }
    let kind = match file_type {
        FileType::Directory => DescriptorKind::Folder,
        FileType::CharacterDevice => DescriptorKind::CharacterDevice,
        FileType::BlockDevice => DescriptorKind::BlockDevice,
        FileType::Fifo => DescriptorKind::Pipe,
        FileType::Socket => DescriptorKind::Socket,
        // Only what is not in any folder has a name without one.
        _ if !link.starts_with('/') && link.contains(":[") => DescriptorKind::Namespace,
        _ => DescriptorKind::File,
    };
    (kind, link.to_owned())
}

/// The access mode in `/proc/PID/fdinfo/N`, `flags:\t0100002`.
fn access(text: &str) -> Access {
    const O_PATH: u32 = 0o10_000_000;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).unwrap_or_default();
    match flags & 3 {
        _ if flags & O_PATH != 0 => Access::Path,
        0 => Access::Read,
        1 => Access::Write,
        _ => Access::ReadWrite,
    }
}

/// Asks the socket itself, through a copy of the descriptor that is closed at once. Nothing is read from it.
fn socket(process: BorrowedFd<'_>, number: i32) -> Option<Socket> {
    let copy = pidfd_getfd(process, number, PidfdGetfdFlags::empty()).ok()?;
    let domain = match sockopt::socket_domain(&copy).ok()? {
        AddressFamily::UNIX => "unix".to_owned(),
        AddressFamily::INET => "ipv4".to_owned(),
        AddressFamily::INET6 => "ipv6".to_owned(),
        AddressFamily::NETLINK => "netlink".to_owned(),
        AddressFamily::PACKET => "packet".to_owned(),
        AddressFamily::VSOCK => "vsock".to_owned(),
        other => format!("domain {}", other.as_raw()),
    };
    let r#type = match sockopt::socket_type(&copy).ok()? {
        SocketType::STREAM => "stream".to_owned(),
        SocketType::DGRAM => "datagram".to_owned(),
        SocketType::SEQPACKET => "seqpacket".to_owned(),
        SocketType::RAW => "raw".to_owned(),
        other => format!("type {}", other.as_raw()),
    };
    let listening = sockopt::socket_acceptconn(&copy).unwrap_or(false);
    let name = getsockname(&copy).ok().and_then(|address| SocketAddrUnix::try_from(address).ok());
    let address = name.and_then(|address| {
        let path = address.path_bytes().map(|path| String::from_utf8_lossy(path).into_owned());
        // A socket that was never bound has an empty one.
        let name = || address.abstract_name().filter(|name| !name.is_empty());
        path.or_else(|| Some(format!("@{}", String::from_utf8_lossy(name()?))))
    });
    Some(Socket { domain, r#type, listening, address })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn links_say_what_they_are() {
        use DescriptorKind::*;
        for (link, file_type, kind, target) in [
            ("/dev/kvm", FileType::CharacterDevice, CharacterDevice, "/dev/kvm"),
            ("/etc", FileType::Directory, Folder, "/etc"),
            ("/a:[b]", FileType::RegularFile, File, "/a:[b]"),
            ("/memfd:stockade-config (deleted)", FileType::RegularFile, MemoryFile, "stockade-config"),
            ("anon_inode:kvm-vm", FileType::Unknown, Anonymous, "kvm-vm"),
            ("anon_inode:kvm-vcpu:0", FileType::Unknown, Anonymous, "kvm-vcpu:0"),
            ("anon_inode:[eventfd]", FileType::Unknown, Anonymous, "eventfd"),
            ("anon_inode:[eventpoll]", FileType::Unknown, Anonymous, "eventpoll"),
            ("anon_inode:[pidfd]", FileType::RegularFile, Anonymous, "pidfd"),
            ("pipe:[12]", FileType::Fifo, Pipe, "pipe:[12]"),
            ("/run/fifo", FileType::Fifo, Pipe, "/run/fifo"),
            ("socket:[12]", FileType::Socket, Socket, "socket:[12]"),
            ("net:[4026531840]", FileType::RegularFile, Namespace, "net:[4026531840]"),
            ("/dev/vda", FileType::BlockDevice, BlockDevice, "/dev/vda"),
        ] {
            assert_eq!(describe(link, file_type), (kind, target.to_owned()), "{link}");
        }
    }

    #[test]
    fn flags_say_what_may_be_done() {
        for (flags, expected) in [
            ("0100000", Access::Read),
            ("0100001", Access::Write),
            ("02", Access::ReadWrite),
            ("012000000", Access::Path),
        ] {
            assert_eq!(access(&format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t9\n")), expected);
        }
    }

    #[test]
    fn own_descriptors() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("socket");
        let listener = UnixListener::bind(&name).unwrap();
        let (datagrams, _other) = UnixDatagram::pair().unwrap();
        let (reader, _writer) = std::io::pipe().unwrap();
        let opened = std::fs::File::open(folder.path()).unwrap();
        let own = Process::open(std::process::id().try_into().unwrap()).unwrap();
        let all = Descriptor::read_all(&own).unwrap();
        let of = |number: i32| all.iter().find(|descriptor| descriptor.number == number).unwrap();
        assert_eq!(
            of(listener.as_raw_fd()).socket,
            Some(Socket {
                domain: "unix".into(),
                r#type: "stream".into(),
                listening: true,
                address: Some(name.display().to_string())
            })
        );
        let pair = of(datagrams.as_raw_fd()).socket.as_ref().unwrap();
        assert_eq!((pair.r#type.as_str(), pair.listening, &pair.address), ("datagram", false, &None));
        assert_eq!((of(reader.as_raw_fd()).kind, of(reader.as_raw_fd()).access), (DescriptorKind::Pipe, Access::Read));
        assert_eq!(of(opened.as_raw_fd()).kind, DescriptorKind::Folder);
    }
}
