//! The mounts of a jail: its own folder and what is mounted below, and nothing of the host's.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::mount::{OpenTreeFlags, open_tree};

use super::tree::{Tree, open_path};
use crate::sys;

const VIEW: OpenTreeFlags =
    OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC).union(OpenTreeFlags::AT_EMPTY_PATH);

/// A view of the jail's folder, in which no program can be executed, and all that is mounted below. It is mounted nowhere yet.
pub(super) fn of_vmm(jail: &Tree) -> io::Result<OwnedFd> {
    let view = open_tree(jail, c"", VIEW | OpenTreeFlags::AT_RECURSIVE)?;
    // What the host mounts from now on in the jail appears there.
    sys::confine_mounts(view.as_fd())?;
    Ok(view)
}

/// The copy of the vmm's program, in a view of the jail's folder that stays mounted nowhere.
pub(super) fn of_copy(jail: &Tree, program: &OsStr) -> io::Result<OwnedFd> {
    Ok(open_path(open_tree(jail, c"", VIEW)?, program)?)
}
