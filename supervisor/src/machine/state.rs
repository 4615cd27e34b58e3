//! Where the state of machines is, and what tells a machine's folder from one that was left behind.
//!
//! | | root | an ordinary user |
//! |---|---|---|
//! | where | `/run/stockade` | `$XDG_RUNTIME_DIR/stockade`, or `/tmp/stockade-UID` |
//! | a machine's user id | leased | the user's |
//! | its folder is in use while | the [lease](super::lease) on its owner's id lasts | it is locked (flock(2)) |
//!
//! Either is a lock on an open file that the warden inherits, and ends with the last process of the machine.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::libc;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::geteuid;
use stockade_jailer::plan::{Authority, WARDEN_GID};

use super::launch::LaunchError;
use super::lease::{LeaseError, UserIds};
use super::run_directory::RunDirectory;
use crate::request::VmName;

/// The folder of root's machines.
const ROOTS: &str = "/run/stockade";
/// How often a folder is made that others sweep before it is locked.
const ATTEMPTS: u32 = 16;

/// Where the state of the caller's machines is.
#[derive(Debug, Clone)]
pub struct State {
    directory: PathBuf,
    /// The file whose bytes are locked for user ids: one for the host, whatever else is apart.
    user_ids: PathBuf,
    authority: Authority,
}

/// What a machine has to itself.
#[derive(Debug)]
pub struct Claim {
    /// Its user and group id.
    pub uid: u32,
    /// What is open for as long as anything of it is left.
    pub lease: OwnedFd,
    /// Its folder.
    pub run_directory: RunDirectory,
}

impl State {
    /// That of the user who runs this process.
    pub fn of_caller() -> Self {
        let user = geteuid();
        if user.is_root() {
            return Self::of_root(ROOTS.into());
        }
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        let directory = runtime
            .map_or_else(|| format!("/tmp/stockade-{}", user.as_raw()).into(), |runtime| runtime.join("stockade"));
        Self { user_ids: directory.join("uids"), directory, authority: Authority::User }
    }

    /// Root's, with its machines in this folder.
    pub fn of_root(directory: PathBuf) -> Self {
        Self { user_ids: Path::new(ROOTS).join("uids"), directory, authority: Authority::Root }
    }

    /// Whose rights jails are built with.
    pub fn authority(&self) -> Authority {
        self.authority
    }

    /// Makes what outlives machines, and removes what was left behind of any.
    ///
    /// # Errors
    /// The folder that can't be used.
    pub fn prepare(&self) -> Result<(), LeaseError> {
        match self.authority {
            Authority::Root => {
                make_folder(Path::new(ROOTS), 0o755, Some(0))?;
                make_folder(&self.directory, 0o755, Some(0))?;
                // Wardens remove folders in it, each its own.
                make_folder(&self.machines(), 0o1770, Some(WARDEN_GID))?;
            }
            Authority::User => {
                make_folder(&self.directory, 0o700, None)?;
                expect_private(&self.directory)?;
                make_folder(&self.machines(), 0o700, None)?;
            }
        }
        self.sweep()
    }

    /// Takes what a machine of this name needs for itself.
    ///
    /// # Errors
    /// There is no user id or no folder for it.
    pub fn claim(&self, name: &VmName) -> Result<Claim, LaunchError> {
        match self.authority {
            Authority::Root => {
                let lease = self.user_ids().lease()?;
                let run_directory = RunDirectory::create(&self.machines(), name, Some(lease.uid()))?;
                Ok(Claim { uid: lease.uid(), lease: lease.into(), run_directory })
            }
            Authority::User => self.claim_folder(name),
        }
    }

    fn claim_folder(&self, name: &VmName) -> Result<Claim, LaunchError> {
        for _ in 0..ATTEMPTS {
            let run_directory = RunDirectory::create(&self.machines(), name, None)?;
            let failed = |source| LeaseError::State { path: run_directory.path().to_owned(), source };
            let folder = run_directory.folder().try_clone().map_err(failed)?;
            // Somebody who sweeps may have been faster.
            if lock(&folder).map_err(failed)? && is_at(&folder, run_directory.path()) {
                return Ok(Claim { uid: geteuid().as_raw(), lease: folder.into(), run_directory });
            }
        }
        let source = io::ErrorKind::ResourceBusy.into();
        Err(LeaseError::State { path: self.machines(), source }.into())
    }

    fn sweep(&self) -> Result<(), LeaseError> {
        let folder = self.machines();
        let failed = |source| LeaseError::State { path: folder.clone(), source };
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match self.authority {
                Authority::Root => self.user_ids().sweep(&path)?,
                Authority::User => sweep_unlocked(&path),
            }
        }
        Ok(())
    }

    /// The parent of the machines' folders.
    pub fn machines(&self) -> PathBuf {
        self.directory.join("vms")
    }

    /// The console's ring of a machine of that name, if there is one.
    pub fn console(&self, name: &VmName) -> PathBuf {
        self.machines().join(name.as_str()).join("console")
    }

    fn user_ids(&self) -> UserIds {
        UserIds { locks: self.user_ids.clone() }
    }
}

/// Removes a folder that nobody has locked; who can't be asked keeps it.
fn sweep_unlocked(path: &Path) {
    let opened = File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path);
    let Ok(folder) = opened else { return };
    if matches!(lock(&folder), Ok(true)) && is_at(&folder, path) {
        let _ = std::fs::remove_dir_all(path);
    }
}

fn lock(folder: &File) -> io::Result<bool> {
    match flock(folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether the open `folder` is still the one at `path`.
fn is_at(folder: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (folder.metadata(), std::fs::symlink_metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

/// In a folder that belongs to somebody else, or that others may write to, nothing is safe.
fn expect_private(path: &Path) -> Result<(), LeaseError> {
    let failed = |source| LeaseError::State { path: path.to_owned(), source };
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    if metadata.is_dir() && metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(failed(io::Error::other(
        "it has to be a folder of your own that nobody else may enter; set XDG_RUNTIME_DIR to one",
    )))
}

fn make_folder(path: &Path, mode: u32, root_and_group: Option<u32>) -> Result<(), LeaseError> {
    let failed = |source| LeaseError::State { path: path.to_owned(), source };
    match DirBuilder::new().mode(mode & 0o777).create(path) {
        Ok(()) => {
            if let Some(group) = root_and_group {
                chown(path, Some(0), Some(group)).map_err(failed)?;
            }
            // Whatever the umask is, and with the sticky bit.
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::lease::FIRST_UID;

    fn state(authority: Authority) -> (tempfile::TempDir, State) {
        let folder = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o700)).tempdir().unwrap();
        let state = State { directory: folder.path().to_owned(), user_ids: folder.path().join("uids"), authority };
        std::fs::create_dir(state.machines()).unwrap();
        (folder, state)
    }

    fn names(state: &State) -> Vec<std::ffi::OsString> {
        let entries = std::fs::read_dir(state.machines()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn folders_without_a_lease_are_swept() {
        if !geteuid().is_root() {
            return;
        }
        let (_folder, state) = state(Authority::Root);
        let lease = state.user_ids().lease().unwrap();
        for (name, owner) in [("used", lease.uid()), ("abandoned", FIRST_UID + 7), ("other", 0)] {
            let path = state.machines().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("console"), "x").unwrap();
            chown(&path, Some(owner), None).unwrap();
        }
        state.sweep().unwrap();
        assert_eq!(names(&state), ["other", "used"]);
    }

    #[test]
    fn a_folder_is_the_machines_for_as_long_as_it_is_locked() {
        let (_folder, state) = state(Authority::User);
        let name: VmName = "one".parse().unwrap();
        let claim = state.claim(&name).unwrap();
        std::fs::create_dir(state.machines().join("abandoned")).unwrap();
        state.sweep().unwrap();
        assert_eq!(names(&state), ["one"]);
        assert!(matches!(state.claim(&name), Err(LaunchError::RunDirectory(_))));
        drop(claim);
        assert_eq!(names(&state), [] as [&str; 0]);
        assert_eq!(state.claim(&name).unwrap().uid, geteuid().as_raw());
    }

    #[test]
    fn folders_of_others_are_not_trusted() {
        let (folder, state) = state(Authority::User);
        state.prepare().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let error = state.prepare().unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("XDG_RUNTIME_DIR"));
    }
}
