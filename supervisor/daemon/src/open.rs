//! Files of virtual machines, opened with the rights of whoever named them, so that the kernel's own check decides; then
//! looked at and locked on the descriptor.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::thread::set_thread_groups;
use stockade_api::{Error, ErrorCode};

use crate::table::Caller;

/// What is done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is read once, at the start: a kernel, an initial RAM disk.
    Load,
    /// It is a disk, and others may read it too.
    ReadOnlyDisk,
    /// It is a disk that nobody else may have.
    WritableDisk,
}

/// Opens a file for one of these uses with the rights of `who`.
///
/// # Errors
/// It can't be had, or somebody else has it.
pub fn open(who: &Caller, path: &Path, usage: Use) -> Result<File, Error> {
    let not_usable = |problem: String, remedy: &str| {
        Error::new(ErrorCode::FileNotUsable, format!("{}: {problem}", path.display()), remedy)
    };
    let writable = usage == Use::WritableDisk;
    let file = open_as(who, path, writable)
        .map_err(|error| not_usable(error.to_string(), &format!("user {} has to be able to open it", who.uid)))?;
    let kind = file.metadata().map_err(|error| not_usable(error.to_string(), ""))?.file_type();
    let is_image = kind.is_file() || (kind.is_block_device() && usage != Use::Load);
    if !is_image {
        return Err(not_usable("not a regular file".to_owned(), "name an image"));
    }
    let operation = match usage {
        Use::Load => return Ok(file),
        Use::ReadOnlyDisk => FlockOperation::NonBlockingLockShared,
        Use::WritableDisk => FlockOperation::NonBlockingLockExclusive,
    };
    flock(&file, operation).map_err(|errno| match errno {
        Errno::WOULDBLOCK => Error::new(
            ErrorCode::FileInUse,
            format!("{}: in use by another virtual machine", path.display()),
            "only read-only use is shared; stop the other one, or use a copy",
        ),
        errno => not_usable(io::Error::from(errno).to_string(), ""),
    })?;
    Ok(file)
}

fn open_as(who: &Caller, path: &Path, writable: bool) -> io::Result<File> {
    if who.uid == 0 {
        return open_here(path, writable);
    }
    let (who, path) = (who.clone(), path.to_owned());
    // A thread of its own, which ends with these rights. Only those for files are changed: with all, the tenant could
    // signal it, and so the daemon.
    let opened = std::thread::spawn(move || {
        take_file_rights(&who)?;
        open_here(&path, writable)
    });
    opened.join().unwrap_or_else(|_| Err(io::Error::other("the thread that opens files died")))
}

/// Takes the rights of `who` to files for this thread, and with them gives up root's (capabilities(7), "Effect of user ID changes").
fn take_file_rights(who: &Caller) -> io::Result<()> {
    let groups: Vec<_> = who.groups.iter().map(|group| rustix::thread::Gid::from_raw(*group)).collect();
    set_thread_groups(&groups)?;
    let (uid, gid) = (Uid::from_raw(who.uid), Gid::from_raw(who.gid));
    setfsgid(gid);
    setfsuid(uid);
    // They return what was before, and nothing else tells of a failure.
    if setfsgid(gid) != gid || setfsuid(uid) != uid {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

fn open_here(path: &Path, writable: bool) -> io::Result<File> {
    let mut options = File::options();
    // Without O_NONBLOCK, opening a fifo would wait for its other end.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    options.read(true).write(writable).custom_flags(flags.bits().cast_signed()).open(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    const TENANT: u32 = 60_001;

    fn tenant(groups: &[u32]) -> Caller {
        Caller { uid: TENANT, gid: TENANT, groups: groups.to_vec() }
    }

    fn code(result: Result<File, Error>) -> Option<ErrorCode> {
        result.err().map(|error| error.code)
    }

    #[test]
    fn the_kernel_decides_for_the_tenant() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, "x").unwrap();
        let set = |owner: u32, group: u32, mode: u32| {
            chown(&path, Some(owner), Some(group)).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        };
        let denied = Some(ErrorCode::FileNotUsable);
        set(0, 0, 0o600);
        assert_eq!(code(open(&tenant(&[]), &path, Use::Load)), denied);
        assert_eq!(code(open(&tenant(&[0]), &path, Use::Load)), denied);
        assert_eq!(code(open(&Caller::root(), &path, Use::Load)), None);
        set(TENANT, 0, 0o600);
        assert_eq!(code(open(&tenant(&[]), &path, Use::WritableDisk)), None);
        set(0, 77, 0o640);
        assert_eq!(code(open(&tenant(&[77]), &path, Use::ReadOnlyDisk)), None);
        assert_eq!(code(open(&tenant(&[77]), &path, Use::WritableDisk)), denied);
        // A file of one's own in a folder that one may not enter.
        set(TENANT, TENANT, 0o666);
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        assert_eq!(code(open(&tenant(&[]), &path, Use::Load)), denied);
        // This thread still has root's rights.
        assert!(File::open(&path).is_ok());
    }

    #[test]
    fn a_writable_disk_is_one_virtual_machines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, "x").unwrap();
        let open = |usage| open(&Caller::root(), &path, usage);
        let shared = (open(Use::ReadOnlyDisk).unwrap(), open(Use::ReadOnlyDisk).unwrap());
        assert_eq!(code(open(Use::WritableDisk)), Some(ErrorCode::FileInUse));
        drop(shared);
        let _writer = open(Use::WritableDisk).unwrap();
        assert_eq!(code(open(Use::ReadOnlyDisk)), Some(ErrorCode::FileInUse));
        assert_eq!(code(super::open(&Caller::root(), folder.path(), Use::Load)), Some(ErrorCode::FileNotUsable));
    }
}
