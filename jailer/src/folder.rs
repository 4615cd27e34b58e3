//! Folders that a warden removes. Everything that this takes is opened while the jailer still may open something; removing is then
//! unlinkat(2) below descriptors, and nothing else.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, openat, unlinkat};
use rustix::io::Errno;

/// How often a control group is tried that still counts a process as its own, a millisecond apart.
const ATTEMPTS: u32 = 1000;
/// Room for names of files, read at once.
const NAMES_BYTES: usize = 4096;

/// Whether a folder has files that are to be removed with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Those go first.
    Removed,
    /// They are the kernel's, as in a control group, and go with the folder.
    Kernel,
}

/// A folder that can be removed.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    name: OsString,
    parent: OwnedFd,
    contents: Option<OwnedFd>,
}

impl Folder {
    /// Opens what it takes to remove the folder at `path`.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: &Path, contents: Contents) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |path: &Path, flags| openat(CWD, path, flags, Mode::empty());
        let contents = (contents == Contents::Removed).then(|| open(path, flags | OFlags::RDONLY)).transpose()?;
        Ok(Self { parent: open(parent, flags | OFlags::PATH)?, name: name.to_owned(), path: path.to_owned(), contents })
    }

    /// Where it is, or was.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it; one that is not there any more is as good. Returns what could not be removed, in words.
    pub fn remove(&self) -> Option<String> {
        let emptied = self.contents.as_ref().map_or(Ok(()), remove_files);
        let error = emptied.and_then(|()| self.remove_itself()).err()?;
        (error != Errno::NOENT).then(|| format!("{}: {}", self.path.display(), io::Error::from(error)))
    }

    fn remove_itself(&self) -> Result<(), Errno> {
        let mut removed = unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR);
        for _ in 0..ATTEMPTS {
            if removed != Err(Errno::BUSY) {
                break;
            }
            // The kernel ends a process before its control group hears of it.
            thread::sleep(Duration::from_millis(1));
            removed = unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR);
        }
        removed
    }
}

fn remove_files(folder: &OwnedFd) -> Result<(), Errno> {
    let mut names = [MaybeUninit::uninit(); NAMES_BYTES];
    let mut entries = RawDir::new(folder, &mut names);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            unlinkat(folder, entry.file_name(), AtFlags::empty())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_go_with_their_files() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("vm");
        std::fs::create_dir(&path).unwrap();
        let folder = Folder::open(&path, Contents::Removed).unwrap();
        for number in 0..300 {
            std::fs::write(path.join(format!("a-file-of-a-name-that-is-not-short-{number}")), "x").unwrap();
        }
        assert_eq!(folder.remove(), None);
        assert!(!path.exists());
        assert_eq!(folder.remove(), None);
    }

    #[test]
    fn what_stays_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("vm");
        std::fs::create_dir_all(path.join("folder")).unwrap();
        let left = Folder::open(&path, Contents::Removed).unwrap().remove().unwrap();
        assert!(left.contains("vm: "), "{left}");
        let left = Folder::open(&path, Contents::Kernel).unwrap().remove().unwrap();
        assert!(left.contains("not empty"), "{left}");
    }
}
