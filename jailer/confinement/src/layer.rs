//! The layers of a jail, as jailer, supervisor and whoever looks at them name them.

use serde::{Deserialize, Serialize};

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

    /// Its name, as in a plan and on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Namespaces => "namespaces",
            Self::Root => "root",
            Self::Landlock => "landlock",
            Self::Uid => "uid",
            Self::Capabilities => "capabilities",
            Self::ResourceLimits => "resource-limits",
            Self::Seccomp => "seccomp",
        }
    }
}

/// What became of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerReport {
    /// The layer.
    pub layer: Layer,
    /// Whether it is in force; otherwise it was given up by name.
    pub enforced: bool,
    /// What exactly is in force, in words: the Landlock ABI, the cgroup's path and version, the user id.
    pub detail: String,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layers_are_those_of_plans() {
        for layer in Layer::ALL {
            assert_eq!(serde_json::to_value(layer).unwrap(), layer.name());
        }
    }
}
