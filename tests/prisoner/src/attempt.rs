//! What an attempt is, and how its outcome is told.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use stockade_prisoner::{Description, Group, MARKER, Report, Targets};

use crate::sys::call;

/// One attempt.
pub struct Attempt {
    /// Its name, which no other has.
    pub name: &'static str,
    /// What it tries.
    pub tries: &'static str,
    /// Which outcome is a success of the attack.
    pub wins: &'static str,
    /// Why an attacker would.
    pub why: &'static str,
    /// Makes it.
    pub run: fn(&Targets) -> Tried,
}

impl Attempt {
    pub fn describe(&self, group: Group) -> Description {
        let Self { name, tries, wins, why, .. } = *self;
        Description { name: name.into(), group, tries: tries.into(), wins: wins.into(), why: why.into() }
    }
}

/// What came of an attempt: by what its success shows, or why it was none.
pub type Tried = Result<String, Refusal>;

/// Why an attempt did not succeed.
#[derive(Debug)]
pub enum Refusal {
    /// The kernel said no.
    Errno(Errno),
    /// It said yes, but to no effect.
    Futile(String),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Refusal> for Report {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Errno(errno) if MISSING.contains(&errno) => Self::Absent(errno.to_string()),
            Refusal::Errno(errno) => Self::Refused(errno.to_string()),
            Refusal::Futile(text) => Self::Refused(text),
        }
    }
}

/// What the kernel says when it does not have something.
const MISSING: [Errno; 8] = [
    Errno::ENOENT,
    Errno::ENOSYS,
    Errno::ENODEV,
    Errno::ENXIO,
    Errno::EAFNOSUPPORT,
    Errno::EPROTONOSUPPORT,
    Errno::ESOCKTNOSUPPORT,
    Errno::EOPNOTSUPP,
];

pub fn futile<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Futile(text.into()))
}

/// The attack succeeded, as this shows.
pub fn won(text: impl Into<String>) -> Tried {
    Ok(text.into())
}

/// A call that was made with arguments that can have no effect: these errors are complaints about the arguments, which the kernel
/// looks at only after it has found the caller to have the right.
pub fn permitted(result: Result<u64, Errno>, complaints: &[Errno]) -> Tried {
    match result {
        Ok(_) => won("the call succeeded"),
        Err(errno) if complaints.contains(&errno) => won(format!("permitted, but for the arguments: {errno}")),
        Err(errno) => Err(errno.into()),
    }
}

/// A call that only has to get to the code behind it: every error is a success but those that say that there is no right to it, or
/// no such code in this kernel.
pub fn entered(result: Result<u64, Errno>) -> Tried {
    match result {
        Err(errno @ (Errno::EPERM | Errno::EACCES)) => Err(errno.into()),
        Err(errno) if MISSING.contains(&errno) => Err(errno.into()),
        Err(errno) => won(format!("the kernel went on to say {errno}")),
        Ok(_) => won("the call succeeded"),
    }
}

/// `path` for a system call.
pub fn text(path: impl AsRef<Path>) -> CString {
    // No path of a target has a null character in it; one that had would not be found.
    CString::new(path.as_ref().as_os_str().as_bytes()).unwrap_or_default()
}

/// Path of a target.
pub fn target(targets: &Targets, name: &str) -> CString {
    text(targets.folder.join(name))
}

/// Opens with exactly these flags.
pub fn open(path: &CStr, flags: i32) -> Result<u64, Errno> {
    call!(SYS_openat, libc::AT_FDCWD, path, flags | libc::O_CLOEXEC, 0o600)
}

/// struct sockaddr_un of a path, or of an abstract name that begins with a null character; and how much of it counts.
pub fn unix(name: &[u8]) -> ([u8; 110], usize) {
    let mut address = [0_u8; 110];
    let family = [libc::AF_UNIX as u8, 0];
    address.iter_mut().zip(family.iter().chain(name)).for_each(|(there, byte)| *there = *byte);
    (address, (name.len() + 3).min(110))
}

/// Connects a unix socket to a path.
pub fn connect(socket: u64, path: &[u8]) -> Result<u64, Errno> {
    let (address, length) = unix(path);
    call!(SYS_connect, socket, &address, length)
}

/// The first bytes of a file. The flags are those that the filter for a vmm's start lets through.
pub fn read_file(path: &CStr) -> Result<Vec<u8>, Errno> {
    let descriptor = open(path, libc::O_RDONLY)?;
    read(descriptor)
}

/// What a read returns.
pub fn read(descriptor: u64) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0_u8; 1 << 16];
    let length = call!(SYS_read, descriptor, bytes.as_mut_slice(), bytes.len())?;
    bytes.truncate(usize::try_from(length).unwrap_or(0));
    Ok(bytes)
}

/// Succeeds if the marker is in `bytes`.
pub fn marked(bytes: &[u8]) -> Tried {
    containing(bytes, MARKER)
}

/// Succeeds if this text is in `bytes`.
pub fn containing(bytes: &[u8], needle: &str) -> Tried {
    if bytes.windows(needle.len()).any(|window| window == needle.as_bytes()) {
        won(format!("read {needle:?}"))
    } else {
        futile("read, but something else")
    }
}

/// Names in a folder but `.` and `..`, run together.
pub fn list(path: &CStr) -> Result<Vec<u8>, Refusal> {
    // A dirent64 with a name of up to four characters has 24 bytes (getdents(2)).
    const EMPTY_BYTES: usize = 48;
    let folder = open(path, libc::O_RDONLY)?;
    let mut all = Vec::new();
    let mut bytes = vec![0_u8; 1 << 16];
    loop {
        let length = call!(SYS_getdents64, folder, bytes.as_mut_slice(), bytes.len())?;
        if length == 0 {
            break;
        }
        all.extend(bytes.iter().take(usize::try_from(length).unwrap_or(0)));
    }
    if all.len() > EMPTY_BYTES { Ok(all) } else { futile("an empty folder") }
}
