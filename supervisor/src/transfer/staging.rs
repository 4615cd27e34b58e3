//! Where a copy from the guest is put together before it appears under its name.
//!
//! A staging folder stands beside the destination, so that a rename makes the copy appear whole or not at all. Its
//! descriptor is locked; one without a lock was left by a process that was killed, and is removed by the next copy
//! that goes to the same folder.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rustix::fs::{self as sys, Access, CWD, FlockOperation, Mode, OFlags, RenameFlags};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::TransferError;
use crate::request::CopyOut;

/// Name of the copied thing in its staging folder.
pub(super) const CONTENT: &str = "content";
const PREFIX: &str = ".stockade-copy-";

/// Why something can't be put where it should go.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DestinationError {
    /// The folder can't be used.
    #[error("--copy-out {}: use folder {}", copy.guest.display(), folder.display())]
    Folder {
        /// The copy.
        copy: CopyOut,
        /// The folder that the copy goes to.
        folder: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// There is something already.
    #[error("--copy-out {}: {} is a folder that exists; remove it or choose another name", copy.guest.display(), path.display())]
    Exists {
        /// The copy.
        copy: CopyOut,
        /// What exists.
        path: PathBuf,
    },
}

/// Where a copy from the guest goes. Checked before the virtual machine starts.
#[derive(Debug)]
pub struct Destination {
    copy: CopyOut,
    folder: PathBuf,
    name: OsString,
}

impl Destination {
    /// Finds out what `copy` becomes. As with `cp`, an existing folder is copied into; a file is replaced.
    pub fn resolve(copy: &CopyOut) -> Result<Self, DestinationError> {
        let into = copy.host.is_dir() || copy.host.as_os_str().as_encoded_bytes().ends_with(b"/");
        let (folder, name) = if into {
            (copy.host.clone(), copy.guest.file_name().unwrap_or_default().to_owned())
        } else {
            let folder = copy.host.parent().filter(|folder| !folder.as_os_str().is_empty());
            (folder.unwrap_or(Path::new(".")).to_owned(), copy.host.file_name().unwrap_or_default().to_owned())
        };
        let destination = Self { copy: copy.clone(), folder, name };
        let usable = || -> io::Result<()> {
            if destination.name.is_empty() {
                return Err(io::Error::other("the path does not end in a name"));
            }
            if !std::fs::metadata(&destination.folder)?.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            Ok(sys::accessat(CWD, &destination.folder, Access::WRITE_OK | Access::EXEC_OK, sys::AtFlags::EACCESS)?)
        };
        usable().map_err(|source| destination.folder_error(source))?;
        let path = destination.path();
        if std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
            return Err(DestinationError::Exists { copy: copy.clone(), path });
        }
        Ok(destination)
    }

    /// The copy.
    pub fn copy(&self) -> &CopyOut {
        &self.copy
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Makes a staging folder, after removing those that nobody uses any more.
    pub(super) fn stage(&self) -> Result<Staging, DestinationError> {
        self.sweep();
        let stage = || -> io::Result<Staging> {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&self.folder)?;
            let lock = open_folder(folder.path())?;
            sys::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            Ok(Staging { folder, _lock: lock })
        };
        stage().map_err(|source| self.folder_error(source))
    }

    /// Gives the staged copy its name.
    pub(super) fn publish(&self, staging: Staging) -> Result<(), DestinationError> {
        let content = staging.folder.path().join(CONTENT);
        let path = self.path();
        let publish = || -> io::Result<()> {
            let is_folder = std::fs::symlink_metadata(&content)?.is_dir();
            let flags = if is_folder { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
            Ok(sys::renameat_with(CWD, &content, CWD, &path, flags)?)
        };
        publish().map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory => {
                DestinationError::Exists { copy: self.copy.clone(), path: path.clone() }
            }
            _ => self.folder_error(source),
        })
    }

    fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten().filter(|entry| is_staging(&entry.file_name())) {
            let abandoned = open_folder(&entry.path()).is_ok_and(|lock| {
                let ours = lock.metadata().is_ok_and(|metadata| metadata.uid() == rustix::process::geteuid().as_raw());
                ours && sys::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
            });
            if abandoned {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    fn folder_error(&self, source: io::Error) -> DestinationError {
        DestinationError::Folder { copy: self.copy.clone(), folder: self.folder.clone(), source }
    }
}

fn is_staging(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
}

fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(sys::openat(CWD, path, flags, Mode::empty())?.into())
}

/// A locked folder that is removed, with all that is in it, when it is dropped.
#[derive(Debug)]
pub(super) struct Staging {
    folder: TempDir,
    _lock: File,
}

impl Staging {
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A thread that does file work beside the event loop. Dropping it waits for its end, so that what it made is gone too.
pub(super) struct Worker<T> {
    thread: Option<JoinHandle<()>>,
    result: oneshot::Receiver<T>,
}

impl<T: Send + 'static> Worker<T> {
    pub(super) fn spawn(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (sender, result) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let _ = sender.send(work());
        });
        Self { thread: Some(thread), result }
    }

    /// Waits for the thread's result.
    pub(super) async fn finish(mut self) -> Result<T, TransferError> {
        (&mut self.result).await.map_err(|_| TransferError::Unfinished)
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
