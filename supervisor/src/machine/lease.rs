//! User ids of machines, each leased by a lock that ends with the last process that holds it.
//!
//! A lease is an open-file-description lock (`F_OFD_SETLK`, fcntl(2)) on one byte of `/run/stockade/uids`: the byte of user
//! id [`FIRST_UID`]` + n` is `n`. The descriptor is inherited by the machine's warden, so the id is taken for as long as anything
//! of the machine is left, and free after any crash.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
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

/// Where the state of every machine of this host is.
#[derive(Debug, Clone)]
pub struct State {
    directory: PathBuf,
}

impl Default for State {
    fn default() -> Self {
        Self { directory: "/run/stockade".into() }
    }
}

impl State {
    /// The parent of the machines' folders.
    pub fn machines(&self) -> PathBuf {
        self.directory.join("vms")
    }

    /// Makes what outlives machines: the folders, if they are not there.
    pub fn prepare(&self) -> Result<(), LeaseError> {
        make_folder(&self.directory, 0o755, 0)?;
        // Wardens remove folders in it, each its own.
        make_folder(&self.machines(), 0o1770, WARDEN_GID)
    }

    /// Leases a user id that nobody has.
    pub fn lease(&self) -> Result<Lease, LeaseError> {
        let file = self.lock_file()?;
        for number in 0..UIDS {
            if self.try_lock(&file, number)? {
                return Ok(Lease { uid: FIRST_UID.saturating_add(number), file });
            }
        }
        Err(LeaseError::Exhausted)
    }

    /// Removes the folders and control groups of machines of which nothing is left, not even a warden.
    pub fn sweep(&self) -> Result<(), LeaseError> {
        let folder = self.machines();
        let failed = |source| LeaseError::State { path: folder.clone(), source };
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(number) = lease_number(&path) else { continue };
            let lock = self.lock_file()?;
            // Looked at again, because the folder may have got another owner until the lock was there.
            if self.try_lock(&lock, number)? && lease_number(&path) == Some(number) {
                if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
                    let _ = stockade_jailer::cgroup::sweep(name);
                }
                let _ = std::fs::remove_dir_all(&path);
            }
        }
        Ok(())
    }

    fn lock_file(&self) -> Result<File, LeaseError> {
        let path = self.directory.join("uids");
        let opened = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        opened.map_err(|source| LeaseError::State { path, source })
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
            Err(errno) => Err(LeaseError::State { path: self.directory.join("uids"), source: errno.into() }),
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

fn make_folder(path: &Path, mode: u32, group: u32) -> Result<(), LeaseError> {
    let failed = |source| LeaseError::State { path: path.to_owned(), source };
    match std::fs::DirBuilder::new().mode(mode & 0o777).create(path) {
        Ok(()) => {
            chown(path, Some(0), Some(group)).map_err(failed)?;
            // Whatever the umask is, and with the sticky bit.
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, State) {
        let folder = tempfile::tempdir().unwrap();
        let state = State { directory: folder.path().to_owned() };
        std::fs::create_dir(state.machines()).unwrap();
        (folder, state)
    }

    #[test]
    fn every_lease_is_another_id_until_it_ends() {
        let (_folder, state) = state();
        let (one, other) = (state.lease().unwrap(), state.lease().unwrap());
        assert_eq!((one.uid(), other.uid()), (FIRST_UID, FIRST_UID + 1));
        // A lease lasts for as long as any copy of its descriptor.
        let inherited = OwnedFd::from(one).try_clone().unwrap();
        assert_eq!(state.lease().unwrap().uid(), FIRST_UID + 2);
        drop(inherited);
        assert_eq!(state.lease().unwrap().uid(), FIRST_UID);
    }

    #[test]
    fn folders_without_a_lease_are_swept() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (_folder, state) = state();
        let lease = state.lease().unwrap();
        for (name, owner) in [("used", lease.uid()), ("abandoned", FIRST_UID + 7), ("other", 0)] {
            let path = state.machines().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("console"), "x").unwrap();
            chown(&path, Some(owner), None).unwrap();
        }
        state.sweep().unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(state.machines()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["other", "used"]);
    }
}
