//! Where files come from: a descriptor that the vmm inherited, or a path.
//!
//! A vmm that inherited `kvm` is *sealed*: it opens no path at all, and its filter has no system call that could. Any other
//! opens paths until the guest runs; after that, only one that was asked to makes the files of snapshots ([`SnapshotFiles`]).

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use seccomp_filters::Role;

use crate::sys;

/// Name of the inherited descriptor of `/dev/kvm`.
pub const KVM: &str = "kvm";
/// Name of the inherited descriptor that [events](crate::events) are written to.
pub const EVENTS: &str = "events";
/// What is typed at the console.
pub const CONSOLE_INPUT: &str = "console_input";

/// Names of the inherited descriptors of a snapshot that the VM comes from: its state, and its memory.
pub const SNAPSHOT: [&str; 2] = ["snapshot", "memory"];
/// Names of the inherited descriptors of files that a snapshot of the VM may be made in: its state, and its memory.
pub const NEW_SNAPSHOT: [&str; 2] = ["new_snapshot", "new_memory"];

const PREFIX: &str = "fd:";

/// Whether the files of a snapshot may be made by path, while the guest runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SnapshotFiles {
    /// Snapshots go to descriptors that were handed over for them.
    #[default]
    HandedOver,
    /// They may also be made.
    Made,
}

/// What is to be done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Read and write what is there.
    ReadWrite,
    /// Write it anew, and create it if it is missing.
    Create,
    /// Write at its end, and create it if it is missing. A named pipe without a reader is fine.
    Append,
}

/// A file that can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The number on the command line is not open.
    #[error("--fd {name}={number}: {source}; start the vmm with this descriptor open")]
    NotOpen {
        /// Its name.
        name: String,
        /// Its number.
        number: RawFd,
        /// What the kernel said.
        source: io::Error,
    },
    /// No descriptor has this name.
    #[error("fd:{0}: no descriptor of this name is inherited; start the vmm with --fd {0}=N")]
    NotInherited(String),
    /// A path, where only descriptors are taken.
    #[error(
        "{0:?} is a path, and a vmm that inherits kvm opens none: start it with --fd NAME=N for this file, and write \
         fd:NAME"
    )]
    Sealed(String),
    /// A file to be made while the guest runs.
    #[error(
        "{0:?} is a path, and none is opened once the guest runs: start the vmm with --snapshot-files, or with --fd {snapshot}=N \
         --fd {memory}=N for these files, and write fd:{snapshot} and fd:{memory}",
        snapshot = NEW_SNAPSHOT[0],
        memory = NEW_SNAPSHOT[1]
    )]
    NotMade(String),
    /// It can't be opened.
    #[error("open {path:?}: {source}")]
    Open {
        /// The path.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// No descriptor is left.
    #[error("duplicate fd:{name}: {source}")]
    Duplicate {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The inherited descriptors by name.
#[derive(Debug)]
pub struct Descriptors {
    inherited: BTreeMap<String, OwnedFd>,
    is_sealed: bool,
    snapshot_files: SnapshotFiles,
}

impl Descriptors {
    /// Takes the descriptors over, each of which is marked close-on-exec.
    ///
    /// # Errors
    /// If one is not open.
    pub fn inherit(named: Vec<(String, RawFd)>, snapshot_files: SnapshotFiles) -> Result<Self, OpenError> {
        let take = |(name, number): (String, RawFd)| match sys::inherited_descriptor(number) {
            Ok(descriptor) => Ok((name, descriptor)),
            Err(source) => Err(OpenError::NotOpen { name, number, source }),
        };
        let inherited: BTreeMap<_, _> = named.into_iter().map(take).collect::<Result<_, _>>()?;
        let is_sealed = inherited.contains_key(KVM);
        Ok(Self { inherited, is_sealed, snapshot_files })
    }

    /// Closes those that nobody took, but for files that a snapshot may be made in.
    pub fn close(&mut self) {
        self.inherited.retain(|name, _| NEW_SNAPSHOT.contains(&name.as_str()));
    }

    /// Whether a snapshot of the VM may be made.
    pub fn may_be_saved(&self) -> bool {
        self.snapshot_files == SnapshotFiles::Made || self.has_any(NEW_SNAPSHOT)
    }

    fn has_any(&self, names: [&str; 2]) -> bool {
        names.iter().any(|name| self.inherited.contains_key(*name))
    }

    /// What the main thread promises while the vmm is configured.
    pub fn role_to_configure(&self) -> Role {
        match self.is_sealed() {
            false => Role::VmmConfigure,
            true if self.has_any(SNAPSHOT) || self.has_any(NEW_SNAPSHOT) => Role::VmmConfigureSnapshot,
            true => Role::VmmConfigureSealed,
        }
    }

    /// What the main thread promises once the guest runs.
    pub fn role_to_run(&self) -> Role {
        match self.is_sealed() {
            false if self.snapshot_files == SnapshotFiles::Made => Role::VmmRunSnapshotFiles,
            false if self.has_any(NEW_SNAPSHOT) => Role::VmmRunSave,
            false => Role::VmmRun,
            true if self.has_any(NEW_SNAPSHOT) => Role::VmmRunSnapshot,
            true => Role::VmmRunSealed,
        }
    }

    /// Whether no path is opened.
    pub fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    /// Gives the descriptor of this name away.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.inherited.remove(name)
    }

    /// Another descriptor of the file that `name` stands for, if it is inherited.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn duplicate(&self, name: &str) -> Result<Option<OwnedFd>, OpenError> {
        let duplicate = |descriptor: &OwnedFd| {
            descriptor.try_clone().map_err(|source| OpenError::Duplicate { name: name.to_owned(), source })
        };
        self.inherited.get(name).map(duplicate).transpose()
    }

    /// Names of inherited descriptors of the form `prefix` and a number, with that number.
    pub fn numbered(&self, prefix: &str) -> Vec<(String, u32)> {
        let number = |name: &String| Some((name.clone(), name.strip_prefix(prefix)?.parse().ok()?));
        self.inherited.keys().filter_map(number).collect()
    }

    /// Makes a file of a snapshot at `path`, or gives the descriptor that `fd:NAME` stands for away.
    ///
    /// # Errors
    /// If that can't be done; the text names `path`.
    pub fn create(&mut self, path: &str) -> Result<File, OpenError> {
        match name_of(path) {
            Some(name) => match self.take(name) {
                Some(descriptor) => Ok(descriptor.into()),
                None => Err(OpenError::NotInherited(name.to_owned())),
            },
            None if !self.is_sealed && self.snapshot_files == SnapshotFiles::HandedOver => {
                Err(OpenError::NotMade(path.to_owned()))
            }
            None => self.open(path, Access::Create),
        }
    }

    /// Opens `path`, or duplicates the descriptor that `fd:NAME` stands for.
    ///
    /// # Errors
    /// If that can't be done; the text names `path`.
    pub fn open(&self, path: &str, access: Access) -> Result<File, OpenError> {
        if let Some(name) = name_of(path) {
            return match self.duplicate(name)? {
                Some(descriptor) => Ok(descriptor.into()),
                None => Err(OpenError::NotInherited(name.to_owned())),
            };
        }
        if self.is_sealed() {
            return Err(OpenError::Sealed(path.to_owned()));
        }
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        match access {
            Access::Read => {}
            Access::ReadWrite => drop(options.write(true)),
            Access::Create => drop(options.write(true).create(true).truncate(true).mode(0o600)),
            Access::Append => drop(options.append(true).create(true)),
        }
        options.open(path).map_err(|source| OpenError::Open { path: path.to_owned(), source })
    }
}

/// The name in `fd:NAME`.
pub fn name_of(path: &str) -> Option<&str> {
    path.strip_prefix(PREFIX)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::IntoRawFd;

    use super::*;

    fn inherited(name: &str, content: &str) -> Descriptors {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, content).unwrap();
        let number = File::open(path).unwrap().into_raw_fd();
        Descriptors::inherit(vec![(name.to_owned(), number)], SnapshotFiles::HandedOver).unwrap()
    }

    #[test]
    fn a_descriptor_stands_for_a_path() {
        let descriptors = inherited("kernel", "vmlinux");
        let mut text = String::new();
        descriptors.open("fd:kernel", Access::Read).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "vmlinux");
        let missing = descriptors.open("fd:initramfs", Access::Read).unwrap_err().to_string();
        assert!(missing.contains("--fd initramfs=N"), "{missing}");
    }

    #[test]
    fn sealed_means_no_path() {
        let descriptors = inherited(KVM, "");
        assert!(matches!(descriptors.open("/dev/null", Access::Read), Err(OpenError::Sealed(_))));
        assert_eq!(descriptors.role_to_run(), Role::VmmRunSealed);
        let descriptors = inherited("other", "");
        assert!(descriptors.open("/dev/null", Access::Read).is_ok());
        assert_eq!(descriptors.role_to_configure(), Role::VmmConfigure);
    }

    #[test]
    fn snapshots_decide_on_the_role() {
        let role = |name: &str, files| {
            let mut descriptors = inherited(name, "");
            descriptors.snapshot_files = files;
            (descriptors.role_to_run(), descriptors.may_be_saved())
        };
        assert_eq!(role("other", SnapshotFiles::HandedOver), (Role::VmmRun, false));
        assert_eq!(role("new_memory", SnapshotFiles::HandedOver), (Role::VmmRunSave, true));
        assert_eq!(role("other", SnapshotFiles::Made), (Role::VmmRunSnapshotFiles, true));
    }

    #[test]
    fn no_file_is_made_unasked() {
        let refused = inherited("other", "").create("/no/such").unwrap_err();
        assert!(matches!(&refused, OpenError::NotMade(path) if path == "/no/such"), "{refused}");
        assert!(
            refused.to_string().contains("start the vmm with --snapshot-files, or with --fd new_snapshot=N"),
            "{refused}"
        );
        let refused = inherited(KVM, "").create("/no/such").unwrap_err();
        assert!(matches!(refused, OpenError::Sealed(_)), "{refused}");
    }

    #[test]
    fn numbers_are_found_behind_a_prefix() {
        let descriptors = inherited("vsock_1024", "");
        assert_eq!(descriptors.numbered("vsock_"), [("vsock_1024".to_owned(), 1024)]);
        assert!(descriptors.numbered("v").is_empty());
    }

    #[test]
    fn what_is_not_open_is_named() {
        let error = Descriptors::inherit(vec![("kernel".to_owned(), 1_000_000)], SnapshotFiles::HandedOver)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("--fd kernel=1000000: "), "{error}");
    }
}
