//! What is asked of a compatible jail.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::plan::{Layer, NamespaceKind};

/// Where jails are, if the command line doesn't say.
pub const DEFAULT_BASE: &str = "/srv/jailer";
/// Most descriptors of a vmm, if the command line doesn't say.
pub const DEFAULT_DESCRIPTORS: u64 = 2048;
/// Most processes and threads of the vmm's user, if the command line doesn't say. Many, because several vmms may share a user.
pub const DEFAULT_PROCESSES: u64 = 4096;

/// What the command line says of a jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// Name of the VM: 1 to 64 letters, digits and `-`.
    pub id: String,
    /// The vmm's program.
    pub exec_file: PathBuf,
    /// Which file of it is executed.
    pub image: Image,
    /// The user that the vmm becomes.
    pub uid: u32,
    /// The group that the vmm becomes.
    pub gid: u32,
    /// The folder of all jails.
    pub base: PathBuf,
    /// The network namespace to join.
    pub network: Option<PathBuf>,
    /// Whether the vmm is cut off from the terminal and from whoever starts it.
    pub session: Session,
    /// Whether the vmm is process 1 of a PID namespace.
    pub processes: Processes,
    /// Values of control group files.
    pub cgroup: Vec<CgroupValue>,
    /// Version of control groups.
    pub cgroup_version: CgroupVersion,
    /// The control group, below the root of its hierarchy, that the VM's is made in. By default it has the program's name.
    pub parent_cgroup: Option<PathBuf>,
    /// Limits on what the vmm may use.
    pub limits: ResourceLimits,
    /// Layers that are given up.
    pub without: Vec<Layer>,
    /// Namespaces of the host that the vmm stays in, though it gets the others.
    pub shared_namespaces: Vec<NamespaceKind>,
    /// What the vmm gets beside its id.
    pub vmm: Vec<OsString>,
}

impl Arguments {
    /// Whether `layer` is to be put on.
    pub fn wants(&self, layer: Layer) -> bool {
        !self.without.contains(&layer)
    }

    /// Whether a namespace of this kind is to be made. Those for processes and network are matters of their own options.
    pub fn wants_namespace(&self, kind: NamespaceKind) -> bool {
        self.wants(Layer::Namespaces) && !self.shared_namespaces.contains(&kind)
    }
}

/// Which file of its program a vmm is executed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Image {
    /// The one that was checked, of which all vmms share the pages.
    #[default]
    Original,
    /// A copy in the jail, of which no other vmm has a page.
    PrivateCopy,
}

/// Whose session the vmm is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Session {
    /// That of whoever starts it, with the standard streams.
    #[default]
    Inherited,
    /// One of its own, with `/dev/null` as standard streams.
    Own,
}

/// Which processes the vmm can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Processes {
    /// Those of the host.
    #[default]
    Host,
    /// Itself.
    Own,
}

/// Version of control groups (cgroups(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupVersion {
    /// A hierarchy for each controller, or a few.
    #[default]
    V1,
    /// One hierarchy.
    V2,
}

impl CgroupVersion {
    /// Its number, as on the command line.
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

/// A value of a file of a control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupValue {
    /// The file: `CONTROLLER.PROPERTY`.
    pub file: String,
    /// What is written to it.
    pub value: String,
}

impl CgroupValue {
    /// The controller that the file is of.
    pub fn controller(&self) -> &str {
        self.file.split('.').next().unwrap_or_default()
    }

    /// The option that gives it.
    pub fn flag(&self) -> String {
        format!("--cgroup {}={}", self.file, self.value)
    }
}

/// Limits on resources (setrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Size of a file that the vmm writes, bytes.
    pub file_bytes: Option<u64>,
    /// Open descriptors.
    pub descriptors: u64,
    /// Processes and threads of the vmm's user.
    pub processes: u64,
}

impl Default for ResourceLimits {
    fn default() -> Self {
        Self { file_bytes: None, descriptors: DEFAULT_DESCRIPTORS, processes: DEFAULT_PROCESSES }
    }
}
