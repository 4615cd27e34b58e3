//! What of the file system, the network and other processes a process of the jail may still reach.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use seccomp_filters::{Enforced, Policy, Rights, UnveilError, Veil};

/// Gives up the whole file system but one program, every port, and signals and abstract sockets out of the jail. Returns what is in
/// force.
///
/// # Errors
/// The kernel has no Landlock, or it is not turned on.
pub fn all_but_program(program: &impl AsFd) -> Result<Enforced, UnveilError> {
    Veil::new()?.unveil_descriptor(program, Rights::EXECUTE)?.lock(Policy::Required)
}

/// Gives up everything but removing `folders` and the files in them, all of which are open by now, and reading what is below
/// `threads`, the vmm's in `/proc`.
/// Signals stay allowed, because the warden has to end its vmm.
///
/// # Errors
/// As [`all_but_program`].
pub fn all_but_folders(folders: &[&Path], threads: Option<BorrowedFd<'_>>) -> Result<Enforced, UnveilError> {
    let mut veil = Veil::with_signals()?;
    for folder in folders {
        // Removing a folder takes a right to its parent. Whose folders there can be removed is up to its sticky bit.
        if let Some(parent) = folder.parent() {
            veil = veil.unveil(parent, Rights::REMOVE_FOLDERS)?;
        }
        veil = veil.unveil(folder, Rights::REMOVE_FILES)?;
    }
    if let Some(threads) = threads {
        veil = veil.unveil_descriptor(threads, Rights::READ_FILES)?;
    }
    veil.lock(Policy::Required)
}
