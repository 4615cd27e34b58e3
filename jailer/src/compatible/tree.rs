//! The folders of the jail, of which some may be there already, and belong to somebody hostile who is at work in them.
//!
//! Two rules make that harmless. No path is ever looked up, only single names below descriptors, and never through a link
//! (openat2(2)). And a folder is *held* before anything in it is looked at: it belongs to root alone until it is given to the vmm's
//! user, so nothing in it changes between a look and an act.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, StatVfsMountFlags, Uid, fchmod, fchown, fstat, fstatvfs,
    mkdirat, openat2, statat, unlinkat,
};
use rustix::io::Errno;

use super::undo::{Made, Undo};

/// A folder on the way to the jail, which may be anybody's.
const ON_THE_WAY: Mode = Mode::from_raw_mode(0o755);
/// A folder of the jail.
const OF_THE_JAIL: Mode = Mode::RWXU;

/// A folder or file of the jail that can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}", path = path.display())]
pub struct TreeError {
    path: PathBuf,
    reason: Reason,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("is a link, or no folder; remove it")]
    NoFolder,
    #[error("is a folder where a file has to be; remove it")]
    Folder,
    #[error(
        "is on a file system that is mounted {0}, where no vmm can {1}; remount it, or choose another --chroot-base-dir"
    )]
    Mount(&'static str, &'static str),
    #[error("{0}")]
    System(io::Error),
}

impl From<TreeError> for io::Error {
    fn from(error: TreeError) -> Self {
        let kind = match &error.reason {
            Reason::System(source) => source.kind(),
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// A folder that is open.
#[derive(Debug)]
pub struct Tree {
    descriptor: Arc<OwnedFd>,
    path: PathBuf,
}

impl Tree {
    /// Opens the folder of all jails, which is the operator's: links on the way to it are followed.
    pub(super) fn base(path: &Path) -> Result<Self, TreeError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
        let fail = |errno: Errno| TreeError { path: path.to_owned(), reason: Reason::System(errno.into()) };
        Ok(Self { descriptor: Arc::new(opened.map_err(fail)?), path: path.to_owned() })
    }

    /// Makes sure that a vmm can open a device in it.
    pub(super) fn expect_devices(&self) -> Result<(), TreeError> {
        self.expect_mounted_without(StatVfsMountFlags::NODEV, Reason::Mount("nodev", "open a device"))
    }

    /// Makes sure that a vmm's program can be executed in it.
    pub(super) fn expect_executable(&self) -> Result<(), TreeError> {
        self.expect_mounted_without(StatVfsMountFlags::NOEXEC, Reason::Mount("noexec", "be executed from a copy"))
    }

    fn expect_mounted_without(&self, flag: StatVfsMountFlags, reason: Reason) -> Result<(), TreeError> {
        let mounted = self.done(fstatvfs(&*self.descriptor))?.f_flag;
        if mounted.contains(flag) { Err(TreeError { path: self.path.clone(), reason }) } else { Ok(()) }
    }

    /// Where it is, or was.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the folder `name` in it, which is made if it is missing.
    pub(super) fn descend(&self, name: &OsStr, undo: &mut Undo) -> Result<Self, TreeError> {
        self.open_or_make(name, ON_THE_WAY, undo)
    }

    /// The same for a folder of the jail, which is held from now on.
    pub(super) fn hold(&self, name: &OsStr, undo: &mut Undo) -> Result<Self, TreeError> {
        let tree = self.open_or_make(name, OF_THE_JAIL, undo)?;
        let before = tree.done(fstat(&*tree.descriptor))?;
        let (owner, group) = (Uid::from_raw(before.st_uid), Gid::from_raw(before.st_gid));
        let mode = Mode::from_raw_mode(before.st_mode & 0o7777);
        undo.add(Made::Owner(tree.descriptor.clone(), owner, group, mode));
        if (owner, group, mode) != (Uid::ROOT, Gid::ROOT, OF_THE_JAIL) {
            // The owner first: who loses a folder must not set its mode any more.
            tree.release(0, 0)?;
            tree.done(fchmod(&*tree.descriptor, OF_THE_JAIL))?;
        }
        Ok(tree)
    }

    /// Gives a folder that is held to a user, who alone has rights to it from now on.
    pub(super) fn release(&self, uid: u32, gid: u32) -> Result<(), TreeError> {
        self.done(fchown(&*self.descriptor, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
    }

    /// Makes the file `name` in a folder that is held. What had this name goes, wherever it leads to.
    pub(super) fn create(&self, name: &OsStr, mode: Mode, undo: &mut Undo) -> Result<File, TreeError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || openat2(&*self.descriptor, name, flags, Mode::RUSR | Mode::WUSR, beneath());
        let file = self.make(name, create, undo)?;
        self.named(name, fchmod(&file, mode))?;
        Ok(file.into())
    }

    /// Has `make` make the file `name` in a folder that is held. What had this name goes, wherever it leads to.
    pub(super) fn make<T>(
        &self,
        name: &OsStr,
        make: impl Fn() -> Result<T, Errno>,
        undo: &mut Undo,
    ) -> Result<T, TreeError> {
        let made = match make() {
            Err(Errno::EXIST) => {
                self.clear(name)?;
                self.named(name, make())?
            }
            made => self.named(name, made)?,
        };
        undo.add(Made::File(self.descriptor.clone(), name.to_owned()));
        Ok(made)
    }

    /// Takes the name `name` from whatever has it, in a folder that is held.
    fn clear(&self, name: &OsStr) -> Result<(), TreeError> {
        let status = match statat(&*self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            status => self.named(name, status)?,
        };
        if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
            return Err(TreeError { path: self.path.join(name), reason: Reason::Folder });
        }
        self.named(name, unlinkat(&*self.descriptor, name, AtFlags::empty()))
    }

    /// Opens `name` in it, as something to speak of.
    pub(super) fn open_path(&self, name: &OsStr) -> Result<OwnedFd, TreeError> {
        self.named(name, open_path(&self.descriptor, name))
    }

    fn open_or_make(&self, name: &OsStr, mode: Mode, undo: &mut Undo) -> Result<Self, TreeError> {
        match mkdirat(&*self.descriptor, name, mode) {
            Ok(()) => undo.add(Made::Folder(self.descriptor.clone(), name.to_owned())),
            Err(Errno::EXIST) => {}
            Err(errno) => self.named(name, Err(errno))?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat2(&*self.descriptor, name, flags, Mode::empty(), beneath());
        let path = self.path.join(name);
        match opened {
            Ok(descriptor) => Ok(Self { descriptor: Arc::new(descriptor), path }),
            Err(Errno::LOOP | Errno::NOTDIR) => Err(TreeError { path, reason: Reason::NoFolder }),
            Err(errno) => Err(TreeError { path, reason: Reason::System(errno.into()) }),
        }
    }

    fn done<T>(&self, result: Result<T, Errno>) -> Result<T, TreeError> {
        result.map_err(|errno| TreeError { path: self.path.clone(), reason: Reason::System(errno.into()) })
    }

    /// Adds to an error which file of the folder it is about.
    pub(super) fn named<T>(&self, name: &OsStr, result: Result<T, Errno>) -> Result<T, TreeError> {
        result.map_err(|errno| TreeError { path: self.path.join(name), reason: Reason::System(errno.into()) })
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Opens `name` below `folder`, as something to speak of; neither is followed if it is a link.
pub(super) fn open_path(folder: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat2(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), beneath())
}

fn beneath() -> ResolveFlags {
    ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::BENEATH
}
