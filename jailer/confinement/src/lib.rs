//! The confinement of a process: read back from the kernel, and judged.
//!
//! [`Confinement::read`] asks the kernel about any process, its own jail or somebody else's: what is in force, not what was meant.
//! [`Verdict::on`] says of each [`Layer`] of a jail whether it is there. The little that the kernel does not show comes from the
//! [`Record`] that the jailer leaves.
//!
//! | layer | read from |
//! |---|---|
//! | cgroup | `/proc/PID/cgroup`, and the group's own files |
//! | namespaces | `/proc/PID/ns`, against those of process 1 |
//! | root | `/proc/PID/root`, `/proc/PID/mountinfo`, and folders among `/proc/PID/fd` |
//! | resource-limits | `/proc/PID/limits` |
//! | capabilities, uid, seccomp | `/proc/PID/task/TID/status` of each thread |
//! | landlock | the record: the kernel shows it nobody |
//!
//! A process in a jail sees the same of itself with [`Expectation::confirm`], which needs no `/proc`.
//!
//! Securebits can't be read of another process either; the jailer locks them before it empties the sets of capabilities.

#![forbid(unsafe_code)]

mod capabilities;
mod cgroups;
mod confinement;
mod descriptors;
mod error;
mod expectation;
mod fingerprint;
mod layer;
mod limits;
mod mounts;
mod namespaces;
mod process;
mod record;
mod status;
mod threads;
mod verdict;

pub use capabilities::CapabilitySet;
pub use cgroups::{Cgroups, Membership, Usage};
pub use confinement::Confinement;
pub use descriptors::{Access, Descriptor, DescriptorKind, Socket};
pub use error::{ParseError, ReadError};
pub use expectation::{Expectation, ExpectationError, JailRoot, Mismatch};
pub use fingerprint::Fingerprint;
pub use layer::{Layer, LayerReport, Limits};
pub use limits::{Ceilings, Limit, MOST_DESCRIPTORS, ResourceLimit, ResourceLimits};
pub use mounts::{Mount, Root};
pub use namespaces::{Host, Namespace, NamespaceKind, Namespaces};
pub use process::Process;
pub use record::{JailKind, Record, RecordError, identity};
pub use status::{Capabilities, Ids, Seccomp, Status};
pub use threads::Thread;
pub use verdict::{LayerVerdict, State, Verdict};
