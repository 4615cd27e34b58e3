//! User ids of machines, each leased by a lock that ends with the last process that holds it.
//!
//! A lease is an open-file-description lock (`F_OFD_SETLK`, fcntl(2)) on one byte of `/run/stockade/uids`: the byte of user
//! id [`FIRST_UID`]` + n` is `n`. The descriptor is inherited by the machine's warden, so the id is taken for as long as anything
//! of the machine is left, and free after any crash.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use stockade_jailer::plan::WARDEN_GID;

/// The first user id that is leased.
pub const FIRST_UID: u32 = WARDEN_GID + 1;
/// How many there are.
pub const UIDS: u32 = 0xffff;

/// There is no user id for a machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// A file or folder can't be used.
    #[error("use {}", path.display())]
    State {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Every id is taken.
    #[error("all {UIDS} user ids are taken: there are that many virtual machines")]
    Exhausted,
}

/// The user ids of this host.
#[derive(Debug, Clone)]
pub(super) struct UserIds {
    /// The file with a byte for each.
    pub(super) locks: PathBuf,
}

impl UserIds {
    /// Leases a user id that nobody has.
    pub(super) fn lease(&self) -> Result<Lease, LeaseError> {
        let file = self.lock_file()?;
        for number in 0..UIDS {
            if self.try_lock(&file, number)? {
                return Ok(Lease { uid: FIRST_UID.saturating_add(number), file });
            }
        }
        Err(LeaseError::Exhausted)
    }

    /// Removes the machine's folder at `path`, and its control groups, if nothing of the machine is left, not even a warden.
    pub(super) fn sweep(&self, path: &Path) -> Result<(), LeaseError> {
        let Some(number) = lease_number(path) else { return Ok(()) };
        let lock = self.lock_file()?;
        // Looked at again, because the folder may have got another owner until the lock was there.
        if self.try_lock(&lock, number)? && lease_number(path) == Some(number) {
            if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
                let _ = stockade_jailer::cgroup::sweep(name);
            }
            let _ = std::fs::remove_dir_all(path);
        }
        Ok(())
    }

    fn lock_file(&self) -> Result<File, LeaseError> {
        let path = &self.locks;
        let opened = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        opened.map_err(|source| LeaseError::State { path: path.clone(), source })
    }

    fn try_lock(&self, file: &File, number: u32) -> Result<bool, LeaseError> {
        let lock = libc::flock {
            l_type: libc::c_short::try_from(libc::F_WRLCK).unwrap_or_default(),
            l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default(),
            l_start: number.into(),
            l_len: 1,
            l_pid: 0,
        };
        match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(errno) => Err(LeaseError::State { path: self.locks.clone(), source: errno.into() }),
        }
    }
}

/// A user id, for as long as the descriptor in it is open anywhere.
#[derive(Debug)]
pub struct Lease {
    uid: u32,
    file: File,
}

impl Lease {
    /// The user id, which is the group id too.
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

impl From<Lease> for OwnedFd {
    fn from(lease: Lease) -> Self {
        lease.file.into()
    }
}

/// Which lease the owner of a folder has, if it is one of a machine.
fn lease_number(path: &Path) -> Option<u32> {
    let owner = std::fs::symlink_metadata(path).ok()?.uid();
    owner.checked_sub(FIRST_UID).filter(|number| *number < UIDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lease_is_another_id_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let ids = UserIds { locks: folder.path().join("uids") };
        let (one, other) = (ids.lease().unwrap(), ids.lease().unwrap());
        assert_eq!((one.uid(), other.uid()), (FIRST_UID, FIRST_UID + 1));
        // A lease lasts for as long as any copy of its descriptor.
        let inherited = OwnedFd::from(one).try_clone().unwrap();
        assert_eq!(ids.lease().unwrap().uid(), FIRST_UID + 2);
        drop(inherited);
        assert_eq!(ids.lease().unwrap().uid(), FIRST_UID);
    }
}
