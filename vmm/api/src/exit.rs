//! How a virtual machine can end, and the exit code by which its vmm says so.

use serde::{Deserialize, Serialize};

/// Why a guest ended. Each reason has its own exit code, except that the two orderly ends share 0, which is what clients
/// of Firecracker expect of a guest that reset itself; the `ended` [event](crate::event) tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// The guest asked for a reset, through the i8042 controller or the ACPI reset register.
    Reset,
    /// The guest entered ACPI sleep state S5.
    PowerOff,
    /// Every vCPU executed HLT with interrupts masked: nothing can wake the guest again.
    Halted,
    /// A vCPU shut down on a triple fault (`KVM_EXIT_SHUTDOWN`).
    TripleFault,
    /// The guest's kernel reported a panic through the pvpanic port.
    Panicked,
    /// KVM gave up (`KVM_EXIT_INTERNAL_ERROR`), for instance on an instruction that it can't emulate.
    InternalError,
    /// The processor refused the guest state (`KVM_EXIT_FAIL_ENTRY`).
    EntryFailure,
}

impl ExitReason {
    /// Every reason, in the order of the exit codes.
    pub const ALL: [Self; 7] = [
        Self::Reset,
        Self::PowerOff,
        Self::Halted,
        Self::TripleFault,
        Self::Panicked,
        Self::InternalError,
        Self::EntryFailure,
    ];

    /// The exit code of the vmm. 148 to 157 are left to Firecracker's meanings.
    pub const fn code(self) -> u8 {
        match self {
            Self::Reset | Self::PowerOff => 0,
            Self::Halted => 160,
            Self::TripleFault => 161,
            Self::Panicked => 162,
            Self::InternalError => 163,
            Self::EntryFailure => 164,
        }
    }
}
