//! The folder of one virtual machine under `/run/stockade/vms`: its sockets, and its console.
//!
//! It belongs to the machine's own user id, so that the warden can remove it. Whoever made it removes it too, if the
//! warden could not; a folder of the same name that somebody else made meanwhile is left alone.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use crate::request::VmName;

/// There can't be a folder for the machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunDirectoryError {
    /// Another machine has the name.
    #[error("--name {0}: there is a virtual machine of this name; choose another")]
    Exists(VmName),
    /// The folder can't be made.
    #[error("make {}", path.display())]
    Create {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A machine's folder, removed at the latest when this is dropped.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    folder: File,
    /// Somebody else removes it.
    given_up: bool,
}

impl RunDirectory {
    /// Makes the folder of `name` in `parent`, for the user id `owner` or else for the caller.
    pub(super) fn create(parent: &Path, name: &VmName, owner: Option<u32>) -> Result<Self, RunDirectoryError> {
        let path = parent.join(name.as_str());
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => RunDirectoryError::Exists(name.clone()),
            _ => RunDirectoryError::Create { path: path.clone(), source },
        })?;
        let own =
            || owner.map_or(Ok(()), |owner| chown(&path, Some(owner), Some(owner))).and_then(|()| File::open(&path));
        match own() {
            Ok(folder) => Ok(Self { path, folder, given_up: false }),
            Err(source) => {
                let _ = std::fs::remove_dir(&path);
                Err(RunDirectoryError::Create { path, source })
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder itself, open.
    pub(super) fn folder(&self) -> &File {
        &self.folder
    }

    /// Leaves it to the machine's warden.
    pub(super) fn give_up(mut self) -> PathBuf {
        self.given_up = true;
        self.path.clone()
    }

    /// Removes the machine's control groups, which its warden could not. Returns what could not be removed, in words.
    pub(super) fn sweep_control_groups(&self) -> Vec<String> {
        let name = self.path.file_name().and_then(|name| name.to_str());
        name.map(stockade_jailer::cgroup::sweep).unwrap_or_default()
    }

    /// Removes the folder, if nobody did yet. Returns what could not be removed, in words.
    pub(super) fn remove_if_there(&self) -> Option<String> {
        let is_there = self.folder.metadata().map_or(true, |metadata| metadata.nlink() > 0);
        if !is_there {
            return None;
        }
        let error = std::fs::remove_dir_all(&self.path).err()?;
        (error.kind() != io::ErrorKind::NotFound).then(|| format!("{}: {error}", self.path.display()))
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        if !self.given_up {
            let _ = self.remove_if_there();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_once_and_removed_by_its_maker() {
        let parent = tempfile::tempdir().unwrap();
        let name: VmName = "one".parse().unwrap();
        let first = RunDirectory::create(parent.path(), &name, None).unwrap();
        assert_eq!(first.folder.metadata().unwrap().mode() & 0o777, 0o700);
        std::fs::write(first.path().join("console"), "x").unwrap();
        let second = RunDirectory::create(parent.path(), &name, None);
        assert!(matches!(second, Err(RunDirectoryError::Exists(_))));
        drop(first);
        assert!(!parent.path().join("one").exists());
    }

    #[test]
    fn a_successor_of_the_same_name_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let name: VmName = "one".parse().unwrap();
        let first = RunDirectory::create(parent.path(), &name, None).unwrap();
        std::fs::remove_dir(first.path()).unwrap();
        let second = RunDirectory::create(parent.path(), &name, None).unwrap();
        assert_eq!(first.remove_if_there(), None);
        drop(first);
        assert!(second.path().exists());
    }
}
