//! The mounts of a jail: its own folder and what is mounted below, and nothing of the host's.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::mount::MntFlags;
use nix::unistd::{chdir, fchdir, pivot_root};
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree};

use super::tree::{Tree, open_path};
use crate::sys;

/// Views of the jail's folder that are mounted nowhere yet.
#[derive(Debug)]
pub(super) struct Views {
    /// That of the vmm: no program can be executed in it.
    root: OwnedFd,
    /// The vmm's program, in another one that stays mounted nowhere.
    program: OwnedFd,
}

impl Views {
    /// Takes the views of the folder of a jail, with its program of this name.
    pub(super) fn of(jail: &Tree, program: &OsStr) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let root = open_tree(jail, c"", flags | OpenTreeFlags::AT_RECURSIVE)?;
        sys::confine_mounts(root.as_fd())?;
        let folder = open_tree(jail, c"", flags)?;
        Ok(Self { root, program: open_path(&folder, program)? })
    }

    /// Makes the jail's folder the root of this process, which is in a mount namespace of its own.
    pub(super) fn enter(self) -> io::Result<OwnedFd> {
        // What the host mounts from now on in the jail appears there; nothing appears on the host.
        mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&self.root, c"", rustix::fs::CWD, c"/", flags)?;
        fchdir(&self.root)?;
        // pivot_root(2), "pivot_root(".", ".")": the old root lies on top of the new one, and is taken away.
        pivot_root(".", ".")?;
        nix::mount::umount2(".", MntFlags::MNT_DETACH)?;
        chdir("/")?;
        Ok(self.program)
    }

    /// The program, for a process that keeps its root.
    pub(super) fn into_program(self) -> OwnedFd {
        self.program
    }
}
