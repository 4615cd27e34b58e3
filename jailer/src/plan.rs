//! What a sealed jail is to be: pure data, validated before the first privileged step.
//!
//! The supervisor writes one [`Plan`] as JSON to a descriptor that it hands to `stockade-jailer sealed --plan-fd N`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Version of [`Plan`] and of the messages in [`warden`](crate::warden).
pub const VERSION: u32 = 1;
/// Group of wardens, which may remove what is in the folders that belong to it: their machines' folders and control groups.
pub const WARDEN_GID: u32 = 0x7000_0000;
/// Most bytes of a plan.
const MAX_BYTES: u64 = 1 << 20;

/// A plan that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The descriptor can't be read.
    #[error("read the plan")]
    Read(#[source] io::Error),
    /// It is no plan.
    #[error("the plan is no plan")]
    Syntax(#[source] serde_json::Error),
    /// It is for another jailer.
    #[error("the plan has version {0}, not {VERSION}; use programs of one Stockade")]
    Version(u32),
    /// A field is not as it has to be.
    #[error("the plan's {0}")]
    Field(&'static str),
}

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

impl Plan {
    /// Reads and checks a plan.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(file: File) -> Result<Self, PlanError> {
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text).map_err(PlanError::Read)?;
        let plan: Self = serde_json::from_slice(&text).map_err(PlanError::Syntax)?;
        plan.validate()?;
        Ok(plan)
    }

    /// Whether `layer` is to be put on.
    pub fn wants(&self, layer: Layer) -> bool {
        !self.without.contains(&layer)
    }

    /// Whose the vmm, its warden, and what is made for them is: the leased user's, or root's if that layer was given up.
    pub fn owner(&self) -> u32 {
        if self.wants(Layer::Uid) { self.uid } else { 0 }
    }

    fn validate(&self) -> Result<(), PlanError> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if self.version != VERSION {
            return Err(PlanError::Version(self.version));
        }
        if !(1..=64).contains(&self.id.len()) || !self.id.bytes().all(is_name) {
            return Err(PlanError::Field("id is not 1 to 64 letters, digits and '-'"));
        }
        if self.uid <= WARDEN_GID {
            return Err(PlanError::Field("uid is not one that is leased"));
        }
        let mut numbers = self.descriptors.clone();
        numbers.extend([self.executable, self.lease, self.control, self.console]);
        numbers.sort_unstable();
        if numbers.windows(2).any(|pair| pair.first() == pair.last()) || numbers.iter().any(|number| *number <= 2) {
            return Err(PlanError::Field("descriptors are not distinct numbers from 3"));
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            version: VERSION,
            id: "vm-1".into(),
            uid: WARDEN_GID + 1,
            executable: 3,
            arguments: Vec::new(),
            descriptors: vec![4, 5],
            lease: 6,
            control: 7,
            console: 8,
            run_directory: "/run/stockade/vms/vm-1".into(),
            console_ring_bytes: 4096,
            limits: Limits { memory_bytes: 1 << 28, processes: 16, cpu_percent: 100 },
            without: Vec::new(),
        }
    }

    #[test]
    fn names_of_layers_are_those_of_plans() {
        for layer in Layer::ALL {
            assert_eq!(serde_json::to_value(layer).unwrap(), layer.name());
        }
    }

    #[test]
    fn plans_are_checked() {
        plan().validate().unwrap();
        let bad: [fn(&mut Plan); 7] = [
            |plan| plan.version = 2,
            |plan| plan.id = String::new(),
            |plan| plan.id = "../x".into(),
            |plan| plan.uid = 0,
            |plan| plan.uid = WARDEN_GID,
            |plan| plan.lease = 4,
            |plan| plan.descriptors = vec![2],
        ];
        for change in bad {
            let mut plan = plan();
            change(&mut plan);
            assert!(plan.validate().is_err(), "{plan:?}");
        }
    }
}
