//! The state of a machine's processors and interrupt controllers, as KVM gives it and takes it back.
//!
//! The order of the requests matters (KVM's documentation, `virt/kvm/api.rst`): KVM_GET_MP_STATE first, as it settles what
//! the local APIC was about to do; KVM_GET_VCPU_EVENTS last, as others may change pending events. On the way back, registers
//! come before events, which setting them would clear; special registers with the local APIC's address before the local APIC;
//! that before the model specific registers, whose timer deadline needs it and the time stamp counter.
//!
//! A saved state is input like any other. What KVM does not check itself is checked here: how many entries there are, and how
//! large the extended registers' area is.

use std::io;

use kvm_bindings::{
    CpuId, KVM_CLOCK_REALTIME, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_CPUID_ENTRIES, Msrs, kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip, kvm_lapic_state,
    kvm_mp_state, kvm_msr_entry, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use stockade_vmm_api::cpu_template::CpuTemplate;

use crate::sys::{self, XsaveSize};

/// IA32_TIME_STAMP_COUNTER
const TSC: u32 = 0x10;
/// IA32_TSC_DEADLINE
const TSC_DEADLINE: u32 = 0x6e0;
/// Memory types (MTRRs and PAT), which KVM's own list leaves out: variable ranges, fixed ranges, PAT, default type.
const MEMORY_TYPES: [std::ops::RangeInclusive<u32>; 6] =
    [0x200..=0x20f, 0x250..=0x250, 0x258..=0x259, 0x268..=0x26f, 0x277..=0x277, 0x2ff..=0x2ff];
/// Most model specific registers in one request (`KVM_MAX_MSR_ENTRIES`).
const MSRS_AT_ONCE: usize = 256;
/// Most of them in a state.
const MSRS_MAX: usize = 4096;
/// By how much the frequency of two time stamp counters may differ and still be the same, in millionths: what KVM tolerates.
const TSC_TOLERANCE_PPM: u64 = 250;

/// A state that can't be saved or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// KVM refused a request.
    #[error("{request}: {source}")]
    Request {
        /// What was asked of KVM.
        request: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The kernel is too old.
    #[error(
        "KVM lacks KVM_CAP_XSAVE2, without which a vCPU's registers can't be saved: use Linux 5.17 or newer on this host"
    )]
    NoXsave2,
    /// The host's processor has other extended registers.
    #[error(
        "the vCPU's extended registers have {found} bytes, and on this host they have {expected}: the state was saved on \
         another kind of processor, or is damaged"
    )]
    Xsave {
        /// In the state.
        found: usize,
        /// On this host.
        expected: usize,
    },
    /// The host's clock runs at another speed.
    #[error(
        "the guest's time stamp counter runs at {saved} kHz, and this host's at {host} kHz: restore it on a host like the \
         one that it was saved on"
    )]
    TscFrequency {
        /// In the state.
        saved: u32,
        /// On this host.
        host: u32,
    },
    /// A register that this host does not have, or a value that it does not take.
    #[error(
        "write {value:#x} to model specific register {index:#x}: KVM refuses; the state was saved on another kind of host, \
         or is damaged"
    )]
    Msr {
        /// The register.
        index: u32,
        /// Its value.
        value: u64,
    },
    /// A list that is longer than there can be.
    #[error("{count} {what}: there are at most {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// A machine of another size.
    #[error("the state has {found} vCPUs, and the machine {expected}")]
    VcpuCount {
        /// In the state.
        found: usize,
        /// In the machine.
        expected: usize,
    },
    /// The clock can't be moved on.
    #[error("clock_realtime: the state does not say at what time it was saved; leave clock_realtime out")]
    NoRealtime,
    /// This machine was built without what saving it takes.
    #[error("this machine's state can't be saved: it was started without a place for it")]
    GivenUp,
}

fn failed(request: &'static str) -> impl Fn(kvm_ioctls::Error) -> StateError {
    move |source| StateError::Request { request, source: source.into() }
}

fn list_failed(_: vmm_sys_util::fam::Error) -> StateError {
    StateError::TooMany { what: "entries", count: usize::MAX, most: MSRS_AT_ONCE }
}

/// What happens to the guest's clock while it was saved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Clock {
    /// It goes on where it was.
    #[default]
    Continues,
    /// It has gone on by the time since then.
    Advances,
}

/// A processor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VcpuState {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Vec<u32>,
    xcrs: kvm_xcrs,
    debug_regs: kvm_debugregs,
    lapic: kvm_lapic_state,
    tsc_khz: u32,
    cpuid: Vec<kvm_cpuid_entry2>,
    msrs: Vec<(u32, u64)>,
    events: kvm_vcpu_events,
}

/// What all processors share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlatformState {
    pit: kvm_pit_state2,
    clock: kvm_clock_data,
    pic_master: kvm_irqchip,
    pic_slave: kvm_irqchip,
    ioapic: kvm_irqchip,
}

/// What has to be asked of KVM before its device is closed.
#[derive(Debug, Clone)]
pub(crate) struct SavedRegisters(Vec<u32>);

impl SavedRegisters {
    /// Those that KVM lists, memory types, and what a template changes.
    pub(crate) fn of(kvm: &Kvm, template: Option<&CpuTemplate>) -> Result<Self, StateError> {
        let list = kvm.get_msr_index_list().map_err(failed("KVM_GET_MSR_INDEX_LIST"))?;
        let mut indices = list.as_slice().to_vec();
        indices.extend(MEMORY_TYPES.into_iter().flatten());
        indices.extend(template.iter().flat_map(|template| &template.msr_modifiers).map(|modifier| modifier.addr));
        indices.sort_unstable();
        indices.dedup();
        Ok(Self(indices))
    }
}

impl VcpuState {
    /// Reads a vCPU that does not run.
    pub(crate) fn save(vm: &VmFd, vcpu: &VcpuFd, registers: &SavedRegisters) -> Result<Self, StateError> {
        let mp_state = vcpu.get_mp_state().map_err(failed("KVM_GET_MP_STATE"))?;
        let regs = vcpu.get_regs().map_err(failed("KVM_GET_REGS"))?;
        let sregs = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        let xsave = sys::xsave(vcpu, xsave_size(vm)?).map_err(failed("KVM_GET_XSAVE2"))?;
        let xcrs = vcpu.get_xcrs().map_err(failed("KVM_GET_XCRS"))?;
        let debug_regs = vcpu.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?;
        let lapic = vcpu.get_lapic().map_err(failed("KVM_GET_LAPIC"))?;
        let tsc_khz = vcpu.get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ"))?;
        let cpuid = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(failed("KVM_GET_CPUID2"))?.as_slice().to_vec();
        let msrs = read_msrs(vcpu, &registers.0)?;
        let events = vcpu.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?;
        Ok(Self { mp_state, regs, sregs, xsave, xcrs, debug_regs, lapic, tsc_khz, cpuid, msrs, events })
    }

    /// Makes a new vCPU this one.
    pub(crate) fn restore(&self, vm: &VmFd, vcpu: &VcpuFd) -> Result<(), StateError> {
        let size = xsave_size(vm)?;
        let (found, expected) = (self.xsave.len().saturating_mul(size_of::<u32>()), size.bytes());
        if found != expected {
            return Err(StateError::Xsave { found, expected });
        }
        let host = vcpu.get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ"))?;
        if !is_same_frequency(self.tsc_khz, host) {
            return Err(StateError::TscFrequency { saved: self.tsc_khz, host });
        }
        bounded("CPUID entries", self.cpuid.len(), KVM_MAX_CPUID_ENTRIES)?;
        bounded("model specific registers", self.msrs.len(), MSRS_MAX)?;
        let cpuid = CpuId::from_entries(&self.cpuid).map_err(list_failed)?;
        vcpu.set_cpuid2(&cpuid).map_err(failed("KVM_SET_CPUID2"))?;
        vcpu.set_mp_state(self.mp_state).map_err(failed("KVM_SET_MP_STATE"))?;
        vcpu.set_regs(&self.regs).map_err(failed("KVM_SET_REGS"))?;
        vcpu.set_sregs(&self.sregs).map_err(failed("KVM_SET_SREGS"))?;
        sys::set_xsave(vcpu, &self.xsave, size).map_err(failed("KVM_SET_XSAVE"))?;
        vcpu.set_xcrs(&self.xcrs).map_err(failed("KVM_SET_XCRS"))?;
        vcpu.set_debug_regs(&self.debug_regs).map_err(failed("KVM_SET_DEBUGREGS"))?;
        vcpu.set_lapic(&self.lapic).map_err(failed("KVM_SET_LAPIC"))?;
        write_msrs(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events).map_err(failed("KVM_SET_VCPU_EVENTS"))
    }
}

impl PlatformState {
    /// Reads what the vCPUs of a machine share while none of them runs.
    pub(crate) fn save(vm: &VmFd) -> Result<Self, StateError> {
        let controller = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..kvm_irqchip::default() };
            vm.get_irqchip(&mut chip).map_err(failed("KVM_GET_IRQCHIP"))?;
            Ok(chip)
        };
        Ok(Self {
            pit: vm.get_pit2().map_err(failed("KVM_GET_PIT2"))?,
            clock: vm.get_clock().map_err(failed("KVM_GET_CLOCK"))?,
            pic_master: controller(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: controller(KVM_IRQCHIP_PIC_SLAVE)?,
            ioapic: controller(KVM_IRQCHIP_IOAPIC)?,
        })
    }

    /// Gives it to a machine whose vCPUs have their state.
    pub(crate) fn restore(&self, vm: &VmFd, clock: Clock) -> Result<(), StateError> {
        vm.set_pit2(&self.pit).map_err(failed("KVM_SET_PIT2"))?;
        let flags = match clock {
            Clock::Continues => 0,
            Clock::Advances if self.clock.flags & KVM_CLOCK_REALTIME == 0 => return Err(StateError::NoRealtime),
            Clock::Advances => KVM_CLOCK_REALTIME,
        };
        vm.set_clock(&kvm_clock_data { flags, ..self.clock }).map_err(failed("KVM_SET_CLOCK"))?;
        let controllers = [
            (KVM_IRQCHIP_PIC_MASTER, &self.pic_master),
            (KVM_IRQCHIP_PIC_SLAVE, &self.pic_slave),
            (KVM_IRQCHIP_IOAPIC, &self.ioapic),
        ];
        for (chip_id, state) in controllers {
            let chip = kvm_irqchip { chip_id, ..*state };
            vm.set_irqchip(&chip).map_err(failed("KVM_SET_IRQCHIP"))?;
        }
        Ok(())
    }
}

fn bounded(what: &'static str, count: usize, most: usize) -> Result<(), StateError> {
    if count <= most { Ok(()) } else { Err(StateError::TooMany { what, count, most }) }
}

fn xsave_size(vm: &VmFd) -> Result<XsaveSize, StateError> {
    XsaveSize::of(vm).ok_or(StateError::NoXsave2)
}

fn is_same_frequency(saved: u32, host: u32) -> bool {
    let tolerance = u64::from(host).saturating_mul(TSC_TOLERANCE_PPM) / 1_000_000;
    u64::from(saved.abs_diff(host)) <= tolerance
}

/// Reads those of the registers that there are.
fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, StateError> {
    let mut values = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let (chunk, _) = rest.split_at(rest.len().min(MSRS_AT_ONCE));
        let entry = |&index: &u32| kvm_msr_entry { index, ..kvm_msr_entry::default() };
        let mut msrs = Msrs::from_entries(&chunk.iter().map(entry).collect::<Vec<_>>()).map_err(list_failed)?;
        let count = vcpu.get_msrs(&mut msrs).map_err(failed("KVM_GET_MSRS"))?;
        values.extend(msrs.as_slice().iter().take(count).map(|entry| (entry.index, entry.data)));
        // KVM stops at the first that it has not.
        let done = if count < chunk.len() { count.saturating_add(1) } else { count };
        rest = rest.get(done..).unwrap_or_default();
    }
    rearm_timer(&mut values);
    Ok(values)
}

/// A deadline that is just over reads as none. It is set again to what is past, so that the interrupt comes in any case.
fn rearm_timer(values: &mut [(u32, u64)]) {
    let now = values.iter().find(|(index, _)| *index == TSC).map(|&(_, value)| value);
    if let Some(now) = now
        && let Some((_, deadline)) = values.iter_mut().find(|(index, value)| (*index, *value) == (TSC_DEADLINE, 0))
    {
        *deadline = now;
    }
}

fn write_msrs(vcpu: &VcpuFd, values: &[(u32, u64)]) -> Result<(), StateError> {
    let mut entries: Vec<_> =
        values.iter().map(|&(index, data)| kvm_msr_entry { index, data, ..kvm_msr_entry::default() }).collect();
    entries.sort_by_key(|entry| match entry.index {
        TSC => 1,
        TSC_DEADLINE => 2,
        _ => 0,
    });
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let (chunk, _) = rest.split_at(rest.len().min(MSRS_AT_ONCE));
        let msrs = Msrs::from_entries(chunk).map_err(list_failed)?;
        let count = vcpu.set_msrs(&msrs).map_err(failed("KVM_SET_MSRS"))?;
        let mut done = count;
        if let Some(refused) = chunk.get(count) {
            // One that can't be written is fine if there is nothing to write.
            if read_msrs(vcpu, &[refused.index])? != [(refused.index, refused.data)] {
                return Err(StateError::Msr { index: refused.index, value: refused.data });
            }
            done = done.saturating_add(1);
        }
        rest = rest.get(done..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_that_has_just_expired_is_set_again() {
        let mut values = [(TSC, 7), (TSC_DEADLINE, 0)];
        rearm_timer(&mut values);
        assert_eq!(values, [(TSC, 7), (TSC_DEADLINE, 7)]);
        let mut values = [(TSC, 7), (TSC_DEADLINE, 9)];
        rearm_timer(&mut values);
        assert_eq!(values, [(TSC, 7), (TSC_DEADLINE, 9)]);
    }

    #[test]
    fn clocks_are_the_same_within_what_kvm_tolerates() {
        assert!(is_same_frequency(2_000_000, 2_000_500) && is_same_frequency(2_000_500, 2_000_000));
        assert!(!is_same_frequency(2_000_000, 2_001_000) && !is_same_frequency(0, 2_000_000));
    }
}
