//! The mounts of a jail: its own folder and what is mounted below, and nothing of the host's.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::mount::{OpenTreeFlags, open_tree};

use super::tree::{Tree, open_path};
use crate::sys;

/// Views of the jail's folder that are mounted nowhere yet.
#[derive(Debug)]
pub(super) struct Views {
    /// That of the vmm: no program can be executed in it.
    pub(super) root: OwnedFd,
    /// The vmm's program, in another one that stays mounted nowhere.
    pub(super) program: OwnedFd,
}

impl Views {
    /// Takes the views of the folder of a jail, with its program of this name.
    pub(super) fn of(jail: &Tree, program: &OsStr) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let root = open_tree(jail, c"", flags | OpenTreeFlags::AT_RECURSIVE)?;
        // What the host mounts from now on in the jail appears there.
        sys::confine_mounts(root.as_fd())?;
        let folder = open_tree(jail, c"", flags)?;
        Ok(Self { root, program: open_path(&folder, program)? })
    }
}
