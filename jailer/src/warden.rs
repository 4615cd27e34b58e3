//! The warden: what stays of the jailer while the VM lives, and what it says.
//!
//! Each message is one packet of JSON on the `control` socket of the [`Plan`](crate::plan::Plan). End of file on that socket
//! means that the supervisor is gone: the warden kills the vmm, undoes what was built for the VM, and exits.
//!
//! Unless the plan says that the VM is [detached](crate::plan::Detached). Then it lives on, what the warden says is in the
//! [journal](crate::journal) too, and another supervisor may connect to the warden's socket to [take over](Event::TakenOver).

use serde::{Deserialize, Serialize};

pub use stockade_confinement::LayerReport;

use crate::plan::Layer;
use crate::violation::Violation;

/// Most bytes in one packet.
pub const MAX_PACKET_BYTES: usize = 64 * 1024;

/// From the supervisor to the warden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Kill the vmm. Answered by `Ended` and `Cleaned`.
    Kill,
}

/// From the warden to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The jail could not be built; whatever was built is undone.
    Refused {
        /// The layer that failed, if it was one.
        layer: Option<Layer>,
        /// What failed, and the remedy.
        message: String,
    },
    /// The jail is complete and the vmm was executed in it.
    Confined {
        /// Process id of the vmm in the supervisor's PID namespace.
        pid: i32,
        /// When the vmm was executed: microseconds of `CLOCK_MONOTONIC`.
        at_us: u64,
        /// What is in force.
        confinement: Vec<LayerReport>,
    },
    /// The vmm ended.
    Ended {
        /// How.
        end: ProcessEnd,
        /// The same in words; for a violated filter, what to do.
        message: String,
        /// What is known of the system call for which its filter killed it, if that was the end.
        #[serde(default)]
        violation: Option<Violation>,
    },
    /// Of a detached VM: the vmm wrote this line to its `events` descriptor.
    Vmm {
        /// The line, as it was written; nobody has looked at it.
        line: String,
    },
    /// Of a detached VM: the first thing that a supervisor hears that took over.
    TakenOver {
        /// How many bytes of the journal there are; what comes after those is said here, too.
        journal_bytes: u64,
    },
    /// Nothing of the VM is left but the warden, which exits now.
    Cleaned {
        /// What could not be removed, and why. Empty if all is well.
        left_behind: Vec<String>,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessEnd {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

impl ProcessEnd {
    /// Of a process that somebody else has waited for.
    pub const LOST: Self = Self::Exited(-1);
}
