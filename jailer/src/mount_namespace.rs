//! A mount namespace of one's own that is not a copy of the host's.
//!
//! unshare(2) copies every mount of the host, and what was copied has to be taken away again: with 300 mounts that is most of
//! the time of a jailer. So the first jail of compatible mode since the host started makes that copy once, takes everything away
//! from it but an empty, read-only root, and leaves it to the next ones as [`FILE`]: whoever enters that namespace before
//! unshare(2) copies one mount. Sealed jails use what is there, and leave nothing.
//!
//! The file is a mount, in a folder that only root can enter; `umount -l` on the folder gives it up, and the next jailer makes
//! another. Whatever stands in the way of one makes a jailer slower, never its jail weaker: it copies the host's mounts then, and
//! takes them away.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::{chdir, chroot, fchdir, pivot_root};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
};

const FOLDER: &str = "/run/stockade/mounts";
/// The namespace.
pub const FILE: &str = "/run/stockade/mounts/empty";
/// `NSFS_MAGIC` (`linux/magic.h`).
const NAMESPACE: FsType = FsType(0x6e73_6673);
const CONFINED: MsFlags = MsFlags::MS_NODEV.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NOEXEC);

/// Who makes the empty namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    /// This jailer, if there is none. Where there can't be one, jails take longer.
    Own,
    /// Another one, or nobody.
    Another,
}

/// What a mount namespace of one's own has at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mounts {
    /// An empty, read-only root.
    Empty,
    /// Whatever the host has.
    OfHost,
}

/// Leaves the namespaces of `others`, and the mount namespace for one of one's own. No path is worth anything then, and descriptors
/// are as before.
///
/// # Errors
/// As unshare(2).
pub(crate) fn leave(others: CloneFlags, maker: Maker) -> io::Result<Mounts> {
    let empty = open().or_else(|error| match maker {
        Maker::Own => make().and_then(|()| open()),
        Maker::Another => Err(error),
    });
    // One that can't be entered is as good as none.
    let entered = empty.and_then(|empty| Ok(setns(&empty, CloneFlags::CLONE_NEWNS)?));
    unshare(others | CloneFlags::CLONE_NEWNS)?;
    Ok(if entered.is_ok() { Mounts::Empty } else { Mounts::OfHost })
}

/// Makes an empty root that is mounted nowhere yet: read-only, and without devices and programs.
///
/// # Errors
/// As fsopen(2) and fsmount(2).
pub(crate) fn empty_root() -> io::Result<OwnedFd> {
    let file_system = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&file_system, c"source", c"stockade")?;
    for (option, value) in [(c"size", c"4k"), (c"nr_inodes", c"2"), (c"mode", c"555")] {
        fsconfig_set_string(&file_system, option, value)?;
    }
    fsconfig_set_flag(&file_system, c"ro")?;
    fsconfig_create(&file_system)?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    let flags = flags | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&file_system, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// Makes what `root` has, which is mounted nowhere yet, the root of this process, which is in a mount namespace of its own with
/// these `mounts`. Of the host's nothing remains.
///
/// An empty root stays below it. To take that away, the kernel waits until no processor can be looking at it any more, and visits
/// each process of the host; and whoever came to it would find nothing. No process in a jail comes to it: that takes a capability,
/// or a descriptor of a folder outside.
///
/// # Errors
/// As move_mount(2), chroot(2) and pivot_root(2).
pub(crate) fn enter(root: &OwnedFd, mounts: Mounts) -> io::Result<()> {
    // Nothing appears on the host.
    mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    move_mount(root, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(root)?;
    if mounts == Mounts::Empty {
        return Ok(chroot(".")?);
    }
    // pivot_root(2), "pivot_root(".", ".")": the old root lies on top of the new one, and is taken away.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}

/// Opens what is nobody's but root's.
fn open() -> io::Result<File> {
    let file = File::open(FILE)?;
    let folder = fs::symlink_metadata(FOLDER)?;
    let is_roots = folder.is_dir() && folder.uid() == 0 && folder.mode() & 0o077 == 0;
    if !is_roots || fstatfs(&file)?.filesystem_type() != NAMESPACE {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(file)
}

/// Makes the namespace, unless somebody else does at the same time.
fn make() -> io::Result<()> {
    let parent = Path::new(FOLDER).parent().unwrap_or(Path::new("/"));
    make_folder(parent, 0o755)?;
    let lock = Flock::lock(File::open(parent)?, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    if open().is_ok() {
        return Ok(());
    }
    make_folder(Path::new(FOLDER), 0o700)?;
    let none = None::<&str>;
    // What a jailer has left that was killed in here.
    while umount2(FOLDER, MntFlags::MNT_DETACH).is_ok() {}
    // The kernel binds a mount namespace to no file of a mount that others share.
    mount(Some("stockade"), FOLDER, Some("tmpfs"), CONFINED, Some("size=4k,nr_inodes=3,mode=700"))?;
    let bound = mount(none, FOLDER, none, MsFlags::MS_PRIVATE, none).map_err(io::Error::from).and_then(|()| {
        File::create(FILE)?;
        let made = empty()?;
        let source = format!("/proc/self/fd/{}", made.as_raw_fd());
        Ok(mount(Some(source.as_str()), FILE, none, MsFlags::MS_BIND, none)?)
    });
    if bound.is_err() {
        let _ = umount2(FOLDER, MntFlags::MNT_DETACH);
    }
    drop(lock);
    bound
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Makes a namespace with an empty root, and comes back from it.
fn empty() -> io::Result<File> {
    let (before, root, current) = (File::open("/proc/self/ns/mnt")?, File::open("/")?, File::open(".")?);
    unshare(CloneFlags::CLONE_NEWNS)?;
    let made = enter_empty_root();
    // Without a way back there is no way on: the paths of this process would be those of another namespace.
    setns(before, CloneFlags::CLONE_NEWNS)?;
    fchdir(&root)?;
    chroot(".")?;
    fchdir(&current)?;
    made
}

fn enter_empty_root() -> io::Result<File> {
    let namespace = File::open("/proc/self/ns/mnt")?;
    enter(&empty_root()?, Mounts::OfHost)?;
    Ok(namespace)
}
