//! What a sealed jail is to be: pure data, validated before the first privileged step.
//!
//! The supervisor writes one [`Plan`] as JSON to a descriptor that it hands to `stockade-jailer sealed --plan-fd N`.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::RawFd;
use std::path::{Component, PathBuf};

use serde::{Deserialize, Serialize};

pub use stockade_confinement::{Layer, Limits, NamespaceKind};

/// Version of [`Plan`] and of the messages in [`warden`](crate::warden).
pub const VERSION: u32 = 1;
/// Group of wardens, which may remove what is in the folders that belong to it: their machines' folders and control groups.
pub const WARDEN_GID: u32 = 0x7000_0000;
/// Most bytes of a plan.
const MAX_BYTES: u64 = 1 << 20;
/// Most bytes of a console that are kept.
const MAX_RING_BYTES: u32 = 64 << 20;
/// Less memory than this starts no program.
const MIN_MEMORY_BYTES: u64 = 1 << 20;

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
    #[error("the plan's {field} is {value:?}: {remedy}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it has to be.
        remedy: &'static str,
    },
}

/// Whose rights the jail is built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authority {
    /// Root's.
    Root,
    /// Those of an ordinary user, who is root in a user namespace that the jail is built in.
    User,
}

impl Authority {
    /// Layers that are beyond it.
    pub fn lacks(self) -> &'static [Layer] {
        match self {
            Self::Root => &[],
            Self::User => &[Layer::Cgroup, Layer::Uid],
        }
    }
}

/// Who traces the vmm (ptrace(2)), which only one can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tracing {
    /// Its warden, so that a violated filter is reported with the system call.
    #[default]
    Warden,
    /// Nobody, so that a debugger can.
    Another,
}

/// Everything that the jailer needs to know. Nothing in it comes from a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`VERSION`].
    pub version: u32,
    /// Name of the VM: 1 to 64 letters, digits and `-`.
    pub id: String,
    /// Whose rights the jail is built with.
    pub authority: Authority,
    /// User and group id of the vmm and its warden; leased, so no other process has it. An ordinary user's jail has that user's.
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
    /// Namespaces of the host that the VM stays in, though it gets the others. For measuring what each of them stops; none otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_namespaces: Vec<NamespaceKind>,
    /// Who traces the vmm.
    #[serde(default)]
    pub tracing: Tracing,
    /// Has the VM outlive its supervisor; without it, the VM ends with that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detached: Option<Detached>,
}

/// What a warden needs to outlive its supervisor. All numbers are of descriptors that nobody else gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detached {
    /// A listening `SOCK_SEQPACKET` socket, at which another supervisor [takes over](crate::warden::Event::TakenOver).
    pub listener: RawFd,
    /// An empty file, which gets the [journal](crate::journal).
    pub journal: RawFd,
    /// Read end of the pipe that the vmm writes its events to.
    pub events: RawFd,
    /// Read end of the pipe that is the standard error of jailer and vmm.
    pub diagnostics: RawFd,
    /// The file with the console's [ring](crate::console), which may have been another jail's before; there is none in the run
    /// directory then.
    pub console_ring: RawFd,
    /// What is only held open for as long as the vmm lives.
    pub held: Vec<RawFd>,
}

impl Detached {
    fn numbers(&self) -> impl Iterator<Item = (&'static str, RawFd)> {
        let single = [
            ("detached.listener", self.listener),
            ("detached.journal", self.journal),
            ("detached.events", self.events),
            ("detached.diagnostics", self.diagnostics),
            ("detached.console_ring", self.console_ring),
        ];
        single.into_iter().chain(self.held.iter().map(|number| ("detached.held", *number)))
    }
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
        !self.without.contains(&layer) && !self.authority.lacks().contains(&layer)
    }

    /// Whether the VM gets a namespace of this kind.
    pub fn wants_namespace(&self, kind: NamespaceKind) -> bool {
        self.wants(Layer::Namespaces) && !self.shared_namespaces.contains(&kind)
    }

    /// Why `layer` is not put on.
    pub fn why_without(&self, layer: Layer) -> &'static str {
        if self.without.contains(&layer) { "given up" } else { "beyond an ordinary user; root can have it" }
    }

    /// Whose the vmm, its warden, and what is made for them is: the leased user's, or root's (of the user namespace, if there is one)
    /// without that layer.
    pub fn owner(&self) -> u32 {
        if self.wants(Layer::Uid) { self.uid } else { 0 }
    }

    fn validate(&self) -> Result<(), PlanError> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if self.version != VERSION {
            return Err(PlanError::Version(self.version));
        }
        if !(1..=64).contains(&self.id.len()) || !self.id.bytes().all(is_name) {
            return bad("id", &self.id, "give 1 to 64 letters, digits and '-'");
        }
        if self.authority == Authority::Root && (self.uid <= WARDEN_GID || self.uid == u32::MAX) {
            return bad("uid", self.uid, "lease one above the group of wardens");
        }
        if let Some(argument) = self.arguments.iter().find(|argument| argument.contains('\0')) {
            return bad("arguments", argument, "leave out the null character");
        }
        if self.shared_namespaces.contains(&NamespaceKind::Mount) && self.wants(Layer::Root) {
            return bad("shared_namespaces", "mount", "give up the root directory too, which is a mount");
        }
        self.validate_descriptors()?;
        let directory = &self.run_directory;
        let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        if !directory.is_absolute() || !directory.components().all(is_plain) || directory.parent().is_none() {
            return bad("run_directory", directory.display(), "give an absolute path without '..'");
        }
        if !(1..=MAX_RING_BYTES).contains(&self.console_ring_bytes) {
            return bad("console_ring_bytes", self.console_ring_bytes, "give 1 to 64 MiB");
        }
        let Limits { memory_bytes, processes, cpu_percent } = self.limits;
        if memory_bytes < MIN_MEMORY_BYTES {
            return bad("limits.memory_bytes", memory_bytes, "give at least 1 MiB");
        }
        if processes == 0 {
            return bad("limits.processes", processes, "give at least 1");
        }
        if cpu_percent == 0 {
            return bad("limits.cpu_percent", cpu_percent, "give at least 1");
        }
        Ok(())
    }

    fn validate_descriptors(&self) -> Result<(), PlanError> {
        let single = [
            ("executable", self.executable),
            ("lease", self.lease),
            ("control", self.control),
            ("console", self.console),
        ];
        let all = single.into_iter().chain(self.descriptors.iter().map(|number| ("descriptors", *number)));
        let mut seen = HashSet::new();
        for (field, number) in all.chain(self.detached.iter().flat_map(Detached::numbers)) {
            if number <= 2 {
                return bad(field, number, "give a number above the standard streams'");
            }
            if !seen.insert(number) {
                return bad(field, number, "give each descriptor once");
            }
        }
        Ok(())
    }
}

fn bad(field: &'static str, value: impl Display, remedy: &'static str) -> Result<(), PlanError> {
    Err(PlanError::Field { field, value: value.to_string(), remedy })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{Seek, Write};

    use super::*;

    /// A plan with every layer.
    pub(crate) fn plan() -> Plan {
        Plan {
            version: VERSION,
            id: "vm-1".into(),
            authority: Authority::Root,
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
            shared_namespaces: Vec::new(),
            tracing: Tracing::Warden,
            detached: None,
        }
    }

    #[test]
    fn plans_are_checked() {
        plan().validate().unwrap();
        type Change = fn(&mut Plan);
        let bad: [(&str, Change); 19] = [
            ("version", |plan| plan.version = 2),
            ("id", |plan| plan.id = String::new()),
            ("id", |plan| plan.id = "../x".into()),
            ("id", |plan| plan.id = "x".repeat(65)),
            ("uid", |plan| plan.uid = 0),
            ("uid", |plan| plan.uid = WARDEN_GID),
            ("uid", |plan| plan.uid = u32::MAX),
            ("arguments", |plan| plan.arguments = vec!["a\0b".into()]),
            ("descriptors", |plan| plan.lease = 4),
            ("lease", |plan| plan.lease = plan.executable),
            ("descriptors", |plan| plan.descriptors = vec![2]),
            ("control", |plan| plan.control = -1),
            ("run_directory", |plan| plan.run_directory = "vms/vm-1".into()),
            ("run_directory", |plan| plan.run_directory = "/run/../etc".into()),
            ("detached.held", |plan| {
                let held = vec![7];
                plan.detached =
                    Some(Detached { listener: 10, journal: 11, events: 12, diagnostics: 13, console_ring: 14, held });
            }),
            ("console_ring_bytes", |plan| plan.console_ring_bytes = 0),
            ("limits.memory_bytes", |plan| plan.limits.memory_bytes = 0),
            ("limits.processes", |plan| plan.limits.processes = 0),
            ("shared_namespaces", |plan| plan.shared_namespaces = vec![NamespaceKind::Mount]),
        ];
        for (field, change) in bad {
            let mut plan = plan();
            change(&mut plan);
            let error = plan.validate().unwrap_err().to_string();
            assert!(error.contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn plans_of_strangers_are_none() {
        let read = |text: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text).unwrap();
            file.rewind().unwrap();
            Plan::read(file)
        };
        let mut value = serde_json::to_value(plan()).unwrap();
        assert_eq!(read(value.to_string().as_bytes()).unwrap(), plan());
        value["more"] = 1.into();
        for text in [value.to_string().as_bytes(), b"", b"{}", b"[", &[b' '; (MAX_BYTES + 2) as usize]] {
            assert!(matches!(read(text), Err(PlanError::Syntax(_))));
        }
    }
}
