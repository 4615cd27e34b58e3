//! What the jailer wrote down when a jail was complete: the only word on what the kernel shows nobody, Landlock above all.
//!
//! It is [`Record::FILE`] in the folder of the VM, in compatible mode in that around its root directory. It belongs to whoever
//! started the jailer, and nobody may write it: neither the vmm nor its warden can reach it with their layers on. One that is
//! neither root's nor the reader's own is not believed.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::capabilities::CapabilitySet;
use crate::layer::{Layer, LayerReport, Limits};
use crate::limits::Ceilings;
use crate::namespaces::NamespaceKind;

/// What the jailer recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the VM.
    pub id: String,
    /// Process id of the vmm, for its warden.
    pub pid: i32,
    /// Number of the vmm in the kernel, which no later process has (see [`identity`]).
    pub identity: u64,
    /// User id of the vmm.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// Which kind of jail it is.
    pub jail: JailKind,
    /// What is in force.
    pub layers: Vec<LayerReport>,
}

/// A kind of jail, with what there is to know of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum JailKind {
    /// With an empty root directory, and a user id that was leased.
    Sealed {
        /// Process id of the warden.
        warden: i32,
        /// What the VM may use of the host.
        limits: Limits,
        /// System call filters of each thread: those that the jailer inherited, the launch filter, and the thread's own.
        filters: u32,
    },
    /// In the place of Firecracker's jailer.
    Compatible {
        /// The root directory: the device that it is on (`st_dev`), and its number there (`st_ino`).
        root: (u64, u64),
        /// What the process may use.
        ceilings: Ceilings,
    },
    /// Of one of the daemon's own processes, which need not have every layer.
    Daemon {
        /// What the process may use.
        ceilings: Ceilings,
        /// Namespaces of its own.
        namespaces: Vec<NamespaceKind>,
        /// Capabilities that it keeps.
        capabilities: CapabilitySet,
        /// System call filters of each of its threads, with those that it inherits.
        filters: u32,
    },
}

/// A record that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It can't be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// Somebody else than the jailer may have written it.
    #[error("it belongs to user {owner}, with mode {mode:o}, so that neither root nor you need have written it")]
    Untrusted {
        /// Whose it is.
        owner: u32,
        /// Who may do what with it.
        mode: u32,
    },
    /// It is no record.
    #[error("it is no record of this Stockade")]
    Syntax(#[source] serde_json::Error),
}

impl Record {
    /// Its name in a VM's folder.
    pub const FILE: &str = "confinement.json";
    /// Who may do what with it.
    pub const MODE: u32 = 0o400;
    /// Most bytes of a record.
    const MAX_BYTES: u64 = 1 << 20;

    /// Reads that of the VM whose folder this is. Those of root are believed, and the reader's own.
    ///
    /// # Errors
    /// There is none, or it is not to be believed.
    pub fn read(folder: &Path) -> Result<Self, RecordError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(CWD, folder.join(Self::FILE), flags, Mode::empty()).map_err(io::Error::from)?;
        let file = File::from(file);
        let metadata = file.metadata()?;
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        let is_jailers = owner == 0 || owner == geteuid().as_raw();
        if !is_jailers || mode & 0o222 != 0 || !metadata.is_file() {
            return Err(RecordError::Untrusted { owner, mode });
        }
        let mut text = Vec::new();
        file.take(Self::MAX_BYTES).read_to_end(&mut text)?;
        if text.is_empty() {
            // The jailer is about to write it.
            return Err(RecordError::Read(io::ErrorKind::NotFound.into()));
        }
        serde_json::from_slice(&text).map_err(RecordError::Syntax)
    }

    /// What the VM may use of the host, if that is limited as a whole.
    pub fn limits(&self) -> Option<&Limits> {
        match &self.jail {
            JailKind::Sealed { limits, .. } => Some(limits),
            JailKind::Compatible { .. } | JailKind::Daemon { .. } => None,
        }
    }

    /// Process id of the warden, if there is one.
    pub fn warden(&self) -> Option<i32> {
        match &self.jail {
            JailKind::Sealed { warden, .. } => Some(*warden),
            JailKind::Compatible { .. } | JailKind::Daemon { .. } => None,
        }
    }

    /// Resource limits of the process.
    pub fn ceilings(&self) -> Ceilings {
        match &self.jail {
            // The warden is one of its user's, too.
            JailKind::Sealed { limits, .. } => Ceilings::sealed(limits.processes.saturating_add(1).into()),
            JailKind::Compatible { ceilings, .. } | JailKind::Daemon { ceilings, .. } => *ceilings,
        }
    }

    /// Capabilities that the process is to keep.
    pub fn capabilities(&self) -> CapabilitySet {
        match &self.jail {
            JailKind::Sealed { .. } | JailKind::Compatible { .. } => CapabilitySet::default(),
            JailKind::Daemon { capabilities, .. } => *capabilities,
        }
    }

    /// System call filters that each thread is to have, at least.
    pub fn filters(&self) -> u32 {
        /// The launch filter, and the thread's own. The jailer does not take the time to count what it has inherited.
        const COMPATIBLE: u32 = 2;
        match &self.jail {
            JailKind::Sealed { filters, .. } | JailKind::Daemon { filters, .. } => *filters,
            JailKind::Compatible { .. } => COMPATIBLE,
        }
    }

    /// What became of `layer`.
    pub fn layer(&self, layer: Layer) -> Option<&LayerReport> {
        self.layers.iter().find(|report| report.layer == layer)
    }
}

/// The number that the kernel has for the process of this descriptor (pidfd_open(2)): from Linux 6.9 on another for each process
/// until the host boots again, before that the same for all.
///
/// # Errors
/// As fstat(2).
pub fn identity(process: impl AsFd) -> io::Result<u64> {
    Ok(fstat(process)?.st_ino)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    /// Of a vmm with every layer.
    pub(crate) fn record() -> Record {
        Record {
            id: "x".into(),
            pid: 3171,
            identity: 1,
            uid: 0x7000_0001,
            gid: 0x7000_0001,
            jail: JailKind::Sealed {
                warden: 3170,
                limits: Limits { memory_bytes: 1 << 28, processes: 17, cpu_percent: 150 },
                filters: 2,
            },
            layers: Layer::ALL
                .map(|layer| LayerReport { layer, enforced: true, detail: "as the jailer says".into() })
                .into(),
        }
    }

    #[test]
    fn only_the_jailer_is_believed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(Record::FILE);
        let text = serde_json::to_vec(&record()).unwrap();
        assert!(
            matches!(Record::read(folder.path()), Err(RecordError::Read(error)) if error.kind() == io::ErrorKind::NotFound)
        );
        let write = |text: &[u8], mode: u32, owner: u32| {
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            chown(&path, Some(owner), None).unwrap();
        };
        write(&text, Record::MODE, 0);
        assert_eq!(Record::read(folder.path()).unwrap(), record());
        write(&text, 0o400, 1000);
        assert!(matches!(Record::read(folder.path()), Err(RecordError::Untrusted { owner: 1000, .. })));
        write(&text, 0o602, 0);
        assert!(matches!(Record::read(folder.path()), Err(RecordError::Untrusted { mode: 0o602, .. })));
        write(b"", 0o400, 0);
        assert!(matches!(Record::read(folder.path()), Err(RecordError::Read(_))));
        write(b"{}", 0o400, 0);
        assert!(matches!(Record::read(folder.path()), Err(RecordError::Syntax(_))));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(matches!(Record::read(folder.path()), Err(RecordError::Read(_))));
    }

    #[test]
    fn processes_have_numbers_of_their_own() {
        let own = rustix::process::getpid();
        let open = |pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        assert_eq!(identity(open(own)).unwrap(), identity(open(own)).unwrap());
    }
}
