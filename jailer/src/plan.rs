//! What a sealed jail is to be: pure data, validated before the first privileged step.
//!
//! The supervisor writes one [`Plan`] as JSON to a descriptor that it hands to `stockade-jailer sealed --plan-fd N`.

use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Version of [`Plan`] and of the messages in [`warden`](crate::warden).
pub const VERSION: u32 = 1;

/// Everything that the jailer needs to know. Nothing in it comes from a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`VERSION`].
    pub version: u32,
    /// Name of the VM: 1 to 64 letters, digits and `-`.
    pub id: String,
    /// User and group id of the vmm and its warden; leased, so no other process has it.
    pub uid: u32,
    /// Descriptor of the static vmm binary.
    pub executable: RawFd,
    /// Arguments of the vmm, without its name.
    pub arguments: Vec<String>,
    /// Descriptors that the vmm inherits under the same numbers, besides 0, 1 and 2. Everything else is closed.
    pub descriptors: Vec<RawFd>,
    /// Descriptor of the lease on `uid`, kept open by the warden for as long as anything of the VM is left.
    pub lease: RawFd,
    /// `SOCK_SEQPACKET` socket on which the warden reports and takes commands (see [`warden`](crate::warden)).
    pub control: RawFd,
    /// Read end of the pipe that the vmm writes the guest's console to.
    pub console: RawFd,
    /// Folder of the VM under `/run/stockade/vms`, owned by `uid`; the warden keeps the ring `console` in it, and removes it.
    pub run_directory: PathBuf,
    /// Size of the console ring, bytes.
    pub console_ring_bytes: u32,
    /// What the VM may use of the host.
    pub limits: Limits,
    /// Layers that the operator gave up by name. A layer that is not named here and can't be had stops the jail.
    pub without: Vec<Layer>,
}

/// Limits of the VM's cgroup and processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory of the whole vmm, guest memory included, bytes. Swap is not allowed on top.
    pub memory_bytes: u64,
    /// Threads and processes.
    pub processes: u32,
    /// Processor time in hundredths of one processor: 150 is one and a half.
    pub cpu_percent: u32,
}

/// A layer of the jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// Limits on memory, processor time and processes.
    Cgroup,
    /// Mount, PID, network, IPC, UTS and cgroup namespaces.
    Namespaces,
    /// An empty, read-only root directory.
    Root,
    /// No file system right, no TCP port, no signal or abstract socket out of the jail.
    Landlock,
    /// A user id of its own.
    Uid,
    /// No capability in any set, and none to be had.
    Capabilities,
    /// Resource limits: no core dump, few descriptors, no locked memory.
    ResourceLimits,
    /// System call filters, from the launch filter to each thread's own.
    Seccomp,
}

impl Layer {
    /// Every layer, in the order in which the jailer puts them on.
    pub const ALL: [Self; 8] = [
        Self::Cgroup,
        Self::Namespaces,
        Self::Root,
        Self::ResourceLimits,
        Self::Capabilities,
        Self::Uid,
        Self::Landlock,
        Self::Seccomp,
    ];
}
