//! What can be said about a vCPU that does not run.

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED,
};
use kvm_ioctls::VcpuFd;
use stockade_vmm_api::exit::ExitReason;

use super::{emulation, host::HostKind};
use crate::control::GuestEnd;

/// Whether a vCPU that does nothing can do something again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It is in HLT with interrupts masked.
    Halted {
        /// Where.
        rip: u64,
    },
    /// It waits to be started by another vCPU.
    WaitsForAnother,
    /// It may go on.
    Awake,
}

/// Looks at a vCPU on its own thread. A non-maskable interrupt is not reckoned with: no device here makes one.
pub(crate) fn rest(vcpu: &VcpuFd) -> Rest {
    const INTERRUPT_FLAG: u64 = 1 << 9;
    match vcpu.get_mp_state().map(|state| state.mp_state) {
        Ok(KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED) => Rest::WaitsForAnother,
        Ok(KVM_MP_STATE_HALTED) => match vcpu.get_regs() {
            Ok(registers) if registers.rflags & INTERRUPT_FLAG == 0 => Rest::Halted { rip: registers.rip },
            _ => Rest::Awake,
        },
        _ => Rest::Awake,
    }
}

/// The end of a guest whose vCPUs can't wake, one of which halted at `rip`.
pub(crate) fn halted(rip: u64) -> GuestEnd {
    let message =
        format!("every vCPU is halted with interrupts masked, one of them by the instruction before rip {rip:#x}");
    GuestEnd { reason: ExitReason::Halted, message }
}

/// Where the vCPU is, in words.
pub(crate) fn place(vcpu: &VcpuFd) -> String {
    /// KVM resets a vCPU on a triple fault where that is what the processor needs (AMD-V).
    const RESET_RIP: u64 = 0xfff0;
    match vcpu.get_regs() {
        Ok(registers) if registers.rip == RESET_RIP => "at a place that KVM did not keep".to_owned(),
        Ok(registers) => format!("at rip {:#x}", registers.rip),
        Err(error) => format!("at an unknown place (KVM_GET_REGS: {error})"),
    }
}

/// Explains KVM_EXIT_INTERNAL_ERROR.
pub(crate) fn internal_error(host: HostKind, suberror: u32, data: &[u64]) -> String {
    let what = match suberror {
        KVM_INTERNAL_ERROR_EMULATION => return emulation::explain(host, data),
        KVM_INTERNAL_ERROR_SIMUL_EX => "exceptions at the same time",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit while an interrupt or exception was being delivered",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an exit of the processor that KVM does not know",
        _ => "an error that this program does not know",
    };
    format!("KVM gave up: {what} (suberror {suberror}, data {data:x?})")
}
