//! What the next daemon has to know, in files that are there whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, fcntl_lock, mknodat};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stockade_api::{ConsoleAccess, VmId};

use crate::paths::Paths;
use crate::table::{Ids, Record};

/// Something could not be kept, or read.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct StoreError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The daemon's files, which no other daemon has while this one lives.
#[derive(Debug)]
pub struct Store {
    paths: Paths,
    _lock: File,
}

/// A console as a client has it.
#[derive(Debug)]
pub struct ClientConsole {
    /// The ring, to be read.
    pub ring: File,
    /// What is typed, if the client may: a fifo that never makes its writer wait.
    pub input: Option<File>,
}

impl Store {
    /// Makes the folders, and sees to it that there is no other daemon.
    ///
    /// # Errors
    /// There is one, or the folders can't be used.
    pub fn open(paths: Paths) -> Result<Self, StoreError> {
        let path = paths.daemon().join("lock");
        let failed = |source| StoreError { action: "use", path: path.clone(), source };
        paths.prepare().map_err(failed)?;
        let lock = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
        // One of the process's own (F_SETLK): flock(2) would outlive a daemon that is killed while a child of its is about to
        // execute a jailer, and keep the next one from starting.
        fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            Errno::WOULDBLOCK | Errno::ACCESS => {
                failed(io::Error::other("another stockaded runs; there can be one for these folders"))
            }
            errno => failed(errno.into()),
        })?;
        Ok(Self { paths, _lock: lock })
    }

    /// Where everything is.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Keeps a record.
    ///
    /// # Errors
    /// As writing a file.
    pub fn save(&self, record: &Record) -> Result<(), StoreError> {
        write(&self.paths.record(record.id), record)
    }

    /// Forgets a virtual machine, and its console.
    pub fn forget(&self, id: VmId) {
        for path in [self.paths.record(id), self.paths.console(id), self.paths.console_input(id)] {
            remove(&path);
        }
    }

    /// Keeps the numbers.
    ///
    /// # Errors
    /// As writing a file.
    pub fn save_ids(&self, ids: &Ids) -> Result<(), StoreError> {
        write(&self.paths.ids(), ids)
    }

    /// The numbers.
    ///
    /// # Errors
    /// There is a file that makes no sense.
    pub fn ids(&self) -> Result<Ids, StoreError> {
        let path = self.paths.ids();
        if path.exists() { read(&path) } else { Ok(Ids::default()) }
    }

    /// Every record. Files that were being written are removed.
    ///
    /// # Errors
    /// There is one that makes no sense.
    pub fn records(&self) -> Result<Vec<Record>, StoreError> {
        let folder = self.paths.records();
        let mut records = Vec::new();
        for path in entries(&folder)? {
            if path.extension().is_some_and(|extension| extension == "json") {
                records.push(read(&path)?);
            } else {
                remove(&path);
            }
        }
        Ok(records)
    }

    /// Makes the journal of a jail.
    ///
    /// # Errors
    /// As making a file.
    pub fn make_journal(&self, jail: &str) -> Result<File, StoreError> {
        let path = self.paths.journal(jail);
        let made = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        made.map_err(|source| StoreError { action: "make", path, source })
    }

    /// The journal of a jail; an empty one if there is none.
    ///
    /// # Errors
    /// As opening a file.
    pub fn journal(&self, jail: &str) -> Result<File, StoreError> {
        let path = self.paths.journal(jail);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_journal(jail),
            opened => opened.map_err(|source| StoreError { action: "open", path, source }),
        }
    }

    /// Forgets what a warden said.
    pub fn forget_journal(&self, jail: &str) {
        remove(&self.paths.journal(jail));
    }

    /// Forgets what every warden said but those of these jails.
    pub fn sweep_journals(&self, known: &[String]) {
        for path in entries(&self.paths.journals()).unwrap_or_default() {
            if path.file_name().and_then(|name| name.to_str()).is_none_or(|name| !known.iter().any(|jail| jail == name))
            {
                remove(&path);
            }
        }
    }

    /// The ring of a console, and the end of its fifo that a vmm reads.
    ///
    /// # Errors
    /// As making files.
    pub fn console(&self, id: VmId) -> Result<(File, File), StoreError> {
        let path = self.paths.console(id);
        let ring = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let ring = ring.map_err(|source| StoreError { action: "open", path, source })?;
        let path = self.paths.console_input(id);
        let failed = |source| StoreError { action: "open", path: path.clone(), source };
        match mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        // Open for writing too, so that it does not end when nobody types.
        let input = File::options().read(true).write(true).open(&path).map_err(failed)?;
        Ok((ring, input))
    }

    /// A console for a client, made if the virtual machine was never started.
    ///
    /// # Errors
    /// As opening files.
    pub fn console_for_client(&self, id: VmId, access: ConsoleAccess) -> Result<ClientConsole, StoreError> {
        drop(self.console(id)?);
        let path = self.paths.console(id);
        let ring = File::open(&path).map_err(|source| StoreError { action: "open", path, source })?;
        let path = self.paths.console_input(id);
        // Open for reading too, so that what is typed waits for a guest that starts again.
        let mut options = File::options();
        options.read(true).write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let input = match access {
            ConsoleAccess::Read => None,
            ConsoleAccess::Write => {
                let opened = options.open(&path);
                Some(opened.map_err(|source| StoreError { action: "open", path, source })?)
            }
        };
        Ok(ClientConsole { ring, input })
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |source| StoreError { action: "read", path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("remove {}: {error}", path.display());
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let failed = |source| StoreError { action: "read", path: path.to_owned(), source };
    let text = std::fs::read(path).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| failed(error.into()))
}

/// Writes a file beside, has it reach the disk, and puts it in the place of the old one.
fn write(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let failed = |source| StoreError { action: "write", path: path.to_owned(), source };
    let text = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    let new = path.with_extension("new");
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.set_permissions(PermissionsExt::from_mode(0o600))?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().map_err(failed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::table::Caller;
    use stockade_api::VmState;
    use stockade_config::model::{Definition, StartPolicy, Vm};

    fn store(folder: &Path) -> Store {
        Store::open(Paths { run: folder.join("run"), state: folder.join("state") }).unwrap()
    }

    #[test]
    fn what_was_kept_is_there_for_the_next_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let first = store(folder.path());
        let paths = first.paths().clone();
        let name = "vm".parse().unwrap();
        let vm = Vm { name, start: StartPolicy::Enabled, template: None, definition: Definition::default() };
        let record = Record::new(VmId(1), vm, true, Caller::root(), VmState::Waiting);
        first.save(&record).unwrap();
        let mut ids = first.ids().unwrap();
        ids.claim("vm", 0);
        first.save_ids(&ids).unwrap();
        std::fs::write(paths.records().join("2.new"), "half").unwrap();
        drop(first);
        let second = store(folder.path());
        assert_eq!(second.records().unwrap(), [record]);
        assert_eq!(second.ids().unwrap(), ids);
        assert!(!paths.records().join("2.new").exists());
        second.console(VmId(1)).unwrap();
        second.make_journal("vm-1-1").unwrap();
        second.sweep_journals(&["vm-1-1".to_owned()]);
        assert!(paths.journal("vm-1-1").exists());
        second.sweep_journals(&[]);
        second.forget(VmId(1));
        let left: Vec<_> =
            ["vms", "journals", "consoles"].map(|name| entries(&paths.daemon().join(name)).unwrap().len()).into();
        assert_eq!(left, [0, 0, 0]);
    }
}
