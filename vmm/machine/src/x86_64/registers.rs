//! The first vCPU's registers at its first instruction, and the few model specific ones that firmware would have set.

use kvm_bindings::{Msrs, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use stockade_boot::{
    CpuState,
    x86_64::{DescriptorTable, Segment},
};

use super::model::VcpuConfigError;

/// IA32_MISC_ENABLE, with fast strings on.
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// IA32_MTRR_DEF_TYPE: MTRRs on, memory is write-back.
const MTRR_DEFAULT_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);

/// Sets what firmware would have set on every vCPU.
pub(crate) fn set_firmware_msrs(vcpu: &VcpuFd) -> Result<(), VcpuConfigError> {
    for (index, value) in [MISC_ENABLE, MTRR_DEFAULT_TYPE] {
        write_msr(vcpu, index, value)?;
    }
    Ok(())
}

/// Writes one model specific register.
pub(crate) fn write_msr(vcpu: &VcpuFd, index: u32, value: u64) -> Result<(), VcpuConfigError> {
    let entry = kvm_msr_entry { index, data: value, ..Default::default() };
    let msrs = Msrs::from_entries(&[entry]).map_err(VcpuConfigError::Entries)?;
    match vcpu.set_msrs(&msrs) {
        Ok(1) => Ok(()),
        Ok(_) => Err(VcpuConfigError::WriteMsr { index, value }),
        Err(source) => Err(VcpuConfigError::request("KVM_SET_MSRS", source)),
    }
}

/// Reads one model specific register.
pub(crate) fn read_msr(vcpu: &VcpuFd, index: u32) -> Result<u64, VcpuConfigError> {
    let entry = kvm_msr_entry { index, ..Default::default() };
    let mut msrs = Msrs::from_entries(&[entry]).map_err(VcpuConfigError::Entries)?;
    let read = vcpu.get_msrs(&mut msrs).map_err(|source| VcpuConfigError::request("KVM_GET_MSRS", source))?;
    match msrs.as_slice() {
        [entry] if read == 1 => Ok(entry.data),
        _ => Err(VcpuConfigError::ReadMsr { index }),
    }
}

/// Has the vCPU begin in `state`.
pub(crate) fn set_entry(vcpu: &VcpuFd, state: &CpuState) -> Result<(), VcpuConfigError> {
    let mut system = vcpu.get_sregs().map_err(|source| VcpuConfigError::request("KVM_GET_SREGS", source))?;
    system.cs = segment(state.code);
    for data in [&mut system.ds, &mut system.es, &mut system.fs, &mut system.gs, &mut system.ss] {
        *data = segment(state.data);
    }
    system.tr = segment(state.task);
    system.gdt = table(state.gdt);
    system.idt = table(state.idt);
    system.cr0 = state.cr0;
    system.cr3 = state.cr3;
    system.cr4 = state.cr4;
    system.efer = state.efer;
    vcpu.set_sregs(&system).map_err(|source| VcpuConfigError::request("KVM_SET_SREGS", source))?;

    let general = kvm_regs {
        rip: state.rip,
        rsp: state.rsp,
        rbp: state.rbp,
        rbx: state.rbx,
        rsi: state.rsi,
        rflags: state.rflags,
        ..Default::default()
    };
    vcpu.set_regs(&general).map_err(|source| VcpuConfigError::request("KVM_SET_REGS", source))
}

fn segment(segment: Segment) -> kvm_segment {
    let bits = |shift: u16, mask: u16| ((segment.attributes >> shift) & mask) as u8;
    kvm_segment {
        base: 0,
        limit: segment.limit,
        selector: segment.selector,
        type_: bits(0, 0xf),
        s: bits(4, 1),
        dpl: bits(5, 3),
        present: bits(7, 1),
        avl: bits(12, 1),
        l: bits(13, 1),
        db: bits(14, 1),
        g: bits(15, 1),
        unusable: 0,
        padding: 0,
    }
}

fn table(table: DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, padding: [0; 3] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_become_the_fields_of_a_segment() {
        let code = segment(Segment { selector: 8, limit: 0xffff_ffff, attributes: 0xa09b });
        assert_eq!((code.selector, code.limit, code.base), (8, 0xffff_ffff, 0));
        assert_eq!((code.type_, code.s, code.dpl, code.present), (0xb, 1, 0, 1));
        assert_eq!((code.avl, code.l, code.db, code.g, code.unusable), (0, 1, 0, 1, 0));
    }
}
