//! x86-64: a PC's interrupt controllers, CPUID and model specific registers.

mod cpuid;
mod emulation;
mod exit;
mod host;
mod instruction;
mod model;
mod registers;
mod state;
mod template;
mod topology;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, VmFd};
use stockade_boot::layout::KVM_TSS;

pub(crate) use self::{
    exit::{Rest, halted, internal_error, place, rest},
    model::Features,
    registers::set_entry,
    state::SavedRegisters,
};
pub use self::{
    host::HostKind,
    model::VcpuConfigError,
    state::{Clock, PlatformState, StateError, VcpuState},
    template::TemplateError,
    topology::ThreadsPerCore,
};
use crate::hypervisor::HypervisorError;

/// What every machine needs of KVM.
pub(crate) const REQUIRED_CAPABILITIES: [(Cap, &str); 9] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Gives a machine its PICs, IOAPIC and interval timer, which has to happen before it gets a vCPU.
pub(crate) fn create_platform(vm: &VmFd) -> Result<(), HypervisorError> {
    // The page of the identity map, which Intel processors need to run real mode, is by default the one below.
    vm.set_tss_address(KVM_TSS as usize).map_err(HypervisorError::of("KVM_SET_TSS_ADDR"))?;
    vm.create_irq_chip().map_err(HypervisorError::of("KVM_CREATE_IRQCHIP"))?;
    // Without the speaker port, a write to it would exit.
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).map_err(HypervisorError::of("KVM_CREATE_PIT2"))
}
