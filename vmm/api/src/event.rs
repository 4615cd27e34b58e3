//! What a vmm reports to the process that started it: one JSON object a line, on the descriptor named `events`.

use serde::{Deserialize, Serialize};

use crate::exit::ExitReason;

/// One line on the `events` descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it happened: microseconds of `CLOCK_MONOTONIC`.
    pub at_us: u64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened to the virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The vmm runs under its filter and is about to parse its configuration.
    Launched,
    /// The virtual machine exists in KVM: memory slots, interrupt controller, vCPUs.
    KvmReady,
    /// Kernel, initramfs and tables are in guest memory.
    Loaded,
    /// The vCPUs were let go.
    Started,
    /// The vCPUs and devices stopped on request.
    Paused,
    /// The vCPUs and devices went on.
    Resumed,
    /// The guest ended; the vmm exits with [`ExitReason::code`].
    Ended {
        /// Why.
        reason: ExitReason,
        /// The same in words, with what the guest did.
        message: String,
    },
    /// The vmm failed before or beside the guest; it exits with a code below 160.
    Failed {
        /// What failed, and the remedy.
        message: String,
    },
}
