//! The vmm's program: checked on the descriptor that it is executed or copied from, and so is every folder on the way to it.
//!
//! Nobody but root can put another program in its place, neither now nor before the next start, and it needs nothing from the jail
//! to run.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    CWD, FallocateFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatVfsMountFlags, fallocate, fstat, fstatvfs,
    ioctl_ficlone, openat2,
};

use crate::sys;

/// Bits of a mode by which the group or others write.
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;
const EXECUTE: u32 = 0o111;
const GROUP_EXECUTES: u32 = 0o010;
const OTHERS_EXECUTE: u32 = 0o001;

/// A program that is not executed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutableError {
    /// It can't be opened.
    #[error("{0}; give the path of a vmm")]
    Open(#[from] io::Error),
    /// It is a folder, a device, ...
    #[error("is no regular file; give the path of a vmm")]
    NotAFile,
    /// It can be changed under another name.
    #[error("has {0} hard links, and so names that nobody checks; give a copy of its own: cp {path} NEW", path = .1.display())]
    HardLinks(u64, PathBuf),
    /// The owner of the file, or of a folder on the way to it, can replace the program.
    #[error("{path} belongs to user {0}, who can replace the vmm; install it where only root writes", path = .1.display())]
    Owner(u32, PathBuf),
    /// Others can.
    #[error(
        "{path} can be written to by its group or by others, who can replace the vmm; chmod go-w it, or install the vmm \
         where only root writes", path = .0.display()
    )]
    Writable(PathBuf),
    /// It is not for execution.
    #[error("is not executable; chmod +x it")]
    NotExecutable,
    /// It is no program for this machine.
    #[error("is no ELF program for this machine; give the path of a vmm")]
    NotAProgram,
    /// It needs a dynamic linker and libraries.
    #[error("is not static, and a jail has no dynamic linker and no libraries; give a vmm that is built static")]
    Dynamic,
}

/// A program that may be executed.
#[derive(Debug)]
pub struct Executable {
    file: File,
    name: OsString,
    mode: u32,
    group: u32,
}

impl Executable {
    /// Opens and checks the program at `path`. Links are followed, and it is named as the file that they lead to.
    ///
    /// # Errors
    /// It may not be executed.
    pub fn open(path: &Path) -> Result<Self, ExecutableError> {
        match Self::open_without_links(path) {
            Err(ExecutableError::Open(_)) => Self::open_without_links(&fs::canonicalize(path)?),
            opened => opened,
        }
    }

    fn open_without_links(path: &Path) -> Result<Self, ExecutableError> {
        if !path.is_absolute() || path.components().any(|component| component == Component::ParentDir) {
            return Err(ExecutableError::Open(io::ErrorKind::InvalidInput.into()));
        }
        let name = path.file_name().ok_or(ExecutableError::NotAFile)?.to_owned();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder = openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::empty()).map_err(io::Error::from)?;
        let mut seen = PathBuf::from("/");
        check_folder(&folder, &seen)?;
        for component in path.parent().into_iter().flat_map(Path::components) {
            if let Component::Normal(part) = component {
                folder = open_below(&folder, part, flags)?;
                seen.push(part);
                check_folder(&folder, &seen)?;
            }
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(open_below(&folder, &name, flags)?);
        let status = fstat(&file).map_err(io::Error::from)?;
        check_file(&status, path)?;
        check_program(&file)?;
        Ok(Self { file, name, mode: status.st_mode, group: status.st_gid })
    }

    /// Its name, without a folder.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Whether a user who is not in other groups can execute it where it is.
    pub fn runs_for(&self, uid: u32, gid: u32) -> bool {
        let bits = match (uid, gid) {
            (0, _) => EXECUTE,
            (_, gid) if gid == self.group => GROUP_EXECUTES,
            _ => OTHERS_EXECUTE,
        };
        let is_forbidden = |mount: rustix::fs::StatVfs| mount.f_flag.contains(StatVfsMountFlags::NOEXEC);
        self.mode & bits != 0 && !fstatvfs(&self.file).is_ok_and(is_forbidden)
    }

    /// Copies it to `copy`. A copy, and no link, so that vmms share no page of it.
    ///
    /// # Errors
    /// As reading and writing.
    pub fn copy_to(&self, copy: &File) -> io::Result<()> {
        // The file system's own copy has the same blocks, yet no page in common.
        if ioctl_ficlone(copy, &self.file).is_ok() {
            return Ok(());
        }
        let bytes = self.file.metadata()?.len();
        // Room for all of it is had more easily at once; a file system that can't is told by write(2) what it takes.
        let _ = fallocate(copy, FallocateFlags::empty(), 0, bytes);
        sys::copy(&self.file, copy, bytes)
    }
}

impl From<Executable> for OwnedFd {
    fn from(executable: Executable) -> Self {
        executable.file.into()
    }
}

fn open_below(folder: &OwnedFd, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    Ok(openat2(folder, name, flags, Mode::empty(), resolve)?)
}

/// What is in a sticky folder only its owner can replace, which is root then.
fn check_folder(folder: &OwnedFd, path: &Path) -> Result<(), ExecutableError> {
    let status = fstat(folder).map_err(io::Error::from)?;
    if status.st_uid != 0 {
        return Err(ExecutableError::Owner(status.st_uid, path.to_owned()));
    }
    let writable = is_writable(&status) && status.st_mode & STICKY == 0;
    if writable { Err(ExecutableError::Writable(path.to_owned())) } else { Ok(()) }
}

fn check_file(status: &Stat, path: &Path) -> Result<(), ExecutableError> {
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(ExecutableError::NotAFile);
    }
    if status.st_uid != 0 {
        return Err(ExecutableError::Owner(status.st_uid, path.to_owned()));
    }
    if is_writable(status) {
        return Err(ExecutableError::Writable(path.to_owned()));
    }
    if status.st_nlink > 1 {
        return Err(ExecutableError::HardLinks(status.st_nlink, path.to_owned()));
    }
    if status.st_mode & EXECUTE == 0 {
        return Err(ExecutableError::NotExecutable);
    }
    Ok(())
}

/// Whether others than root write. A group of users with an access control list shows as the group's bits.
fn is_writable(status: &Stat) -> bool {
    let by_group = status.st_mode & GROUP_WRITES != 0 && status.st_gid != 0;
    by_group || status.st_mode & OTHERS_WRITE != 0
}

/// Whether it is a static program for this machine (elf(5)): 64 bits, little-endian, without a program interpreter.
fn check_program(file: &File) -> Result<(), ExecutableError> {
    const INTERPRETER: u32 = 3;
    const PROGRAM_HEADER_BYTES: u16 = 56;
    const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).map_err(|_| ExecutableError::NotAProgram)?;
    let half = |at: usize| header.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u16::from_le_bytes);
    let is_program = header.starts_with(b"\x7fELF\x02\x01") && [2, 3].contains(&half(16)) && half(18) == MACHINE;
    if !is_program || half(54) != PROGRAM_HEADER_BYTES {
        return Err(ExecutableError::NotAProgram);
    }
    let mut at = header.get(32..).and_then(<[u8]>::first_chunk).copied().map_or(0, u64::from_le_bytes);
    for _ in 0..half(56) {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, at).map_err(|_| ExecutableError::NotAProgram)?;
        if u32::from_le_bytes(kind) == INTERPRETER {
            return Err(ExecutableError::Dynamic);
        }
        at = at.saturating_add(PROGRAM_HEADER_BYTES.into());
    }
    Ok(())
}
