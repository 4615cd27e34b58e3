//! `PUT /snapshot/create` and `PUT /snapshot/load`: a paused VM, kept in two files.

use serde::{Deserialize, Serialize};

/// Body of `PUT /snapshot/create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotCreate {
    /// What is kept.
    #[serde(default)]
    pub snapshot_type: SnapshotType,
    /// File for the state of the VM, made or overwritten; or `fd:NAME`.
    pub snapshot_path: String,
    /// File for the guest's memory, made or overwritten; or `fd:NAME`.
    pub mem_file_path: String,
}

/// What a snapshot has of the guest's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotType {
    /// What the guest wrote since the last one.
    Diff,
    /// All of it.
    #[default]
    Full,
}

/// Body of `PUT /snapshot/load`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotLoad {
    /// File with the state of the VM; or `fd:NAME`.
    pub snapshot_path: String,
    /// Deprecated in favour of `mem_backend`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_file_path: Option<String>,
    /// Where the guest's memory comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_backend: Option<MemoryBackend>,
    /// Deprecated in favour of `track_dirty_pages`.
    #[serde(default)]
    pub enable_diff_snapshots: bool,
    /// Whether writes of the guest are tracked.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// Whether the guest goes on at once.
    #[serde(default)]
    pub resume_vm: bool,
    /// Other network devices of the host.
    #[serde(default)]
    pub network_overrides: Vec<NetworkOverride>,
    /// Another socket of the host for the vsock device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock_override: Option<VsockOverride>,
    /// Whether the guest's kvm-clock has gone on meanwhile.
    #[serde(default)]
    pub clock_realtime: bool,
    /// Pages that back the guest memory.
    #[serde(default)]
    pub huge_pages: LoadedPages,
}

/// Where guest memory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryBackend {
    /// A file, or the socket of whoever handles page faults.
    pub backend_path: String,
    /// Which of the two.
    pub backend_type: MemoryBackendType,
}

/// What guest memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryBackendType {
    /// A file, which is mapped.
    File,
    /// Another process, by userfaultfd(2).
    Uffd,
}

/// Another network device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkOverride {
    /// The guest's device.
    pub iface_id: String,
    /// The host's.
    pub host_dev_name: String,
}

/// Another socket of the host for the vsock device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockOverride {
    /// As in [`Vsock`](crate::vsock::Vsock).
    pub uds_path: String,
}

/// Pages that back restored memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadedPages {
    /// Those that it had.
    #[default]
    Snapshot,
    /// Pages of the host's usual size.
    None,
    /// Transparent huge pages.
    Transparent,
    /// Pages of 2 MiB from the host's hugetlbfs pool.
    #[serde(rename = "2M")]
    Hugetlbfs2M,
}

/// Something that this vmm can't do with snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Differences.
    #[error("snapshot_type Diff is not available; use Full")]
    Diff,
    /// Page faults handled elsewhere.
    #[error("mem_backend: backend_type Uffd is not available; use File")]
    Uffd,
    /// Tracking, which differences need.
    #[error("track_dirty_pages and enable_diff_snapshots are not available for a loaded snapshot; leave them out")]
    DirtyPages,
    /// Network devices.
    #[error("network_overrides is not available: a guest has no network device; leave it out")]
    Network,
    /// Huge pages.
    #[error("huge_pages {0:?} is not available for a loaded snapshot, whose memory is its file's; use None")]
    HugePages(LoadedPages),
    /// None or two memory files. Clients match the beginning of this text.
    #[error("too many fields: either `mem_backend` or `mem_file_path` exclusively is required; send one of them")]
    Memory,
}

impl SnapshotCreate {
    /// Checks what can be told without opening anything.
    ///
    /// # Errors
    /// If it asks for what is not available.
    pub fn validate(&self) -> Result<(), SnapshotError> {
        match self.snapshot_type {
            SnapshotType::Full => Ok(()),
            SnapshotType::Diff => Err(SnapshotError::Diff),
        }
    }
}

impl SnapshotLoad {
    /// Checks what can be told without opening anything, and returns the memory file.
    ///
    /// # Errors
    /// If it asks for what is not available.
    pub fn validate(&self) -> Result<&str, SnapshotError> {
        if self.track_dirty_pages || self.enable_diff_snapshots {
            return Err(SnapshotError::DirtyPages);
        }
        if !self.network_overrides.is_empty() {
            return Err(SnapshotError::Network);
        }
        if matches!(self.huge_pages, LoadedPages::Transparent | LoadedPages::Hugetlbfs2M) {
            return Err(SnapshotError::HugePages(self.huge_pages));
        }
        match (&self.mem_backend, &self.mem_file_path) {
            (Some(MemoryBackend { backend_type: MemoryBackendType::Uffd, .. }), None) => Err(SnapshotError::Uffd),
            (Some(backend), None) => Ok(&backend.backend_path),
            (None, Some(path)) => Ok(path),
            _ => Err(SnapshotError::Memory),
        }
    }

    /// Whether it uses what clients should not use any more.
    pub fn is_deprecated(&self) -> bool {
        self.mem_file_path.is_some() || self.enable_diff_snapshots
    }
}
